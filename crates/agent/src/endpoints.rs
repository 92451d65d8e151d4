//! All registered movers, and what is asked of and reported by them.

mod departure;
mod names;
mod placement;

pub(crate) use departure::Reporting;

use crate::action::{Action, Addressed, Stop};
use crate::endpoint::{ActionStream, Endpoint, EndpointStatus, OpenError, Registration, Remains, Reported};
use crate::results::Results;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use proto::{Capabilities, pdm};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Who knows the processes that movers run in.
pub trait MoverProcesses: Send + Sync {
    /// A mover in this process asked for actions.
    fn registered(&self, pid: i32);

    /// A mover in this process lost its stream while it had actions. What it returned completes when the process can touch
    /// no file any more; until then nobody else gets its actions. `None` when that is not known or not needed.
    fn fence(&self, pid: i32) -> Option<BoxFuture<'static, ()>>;
}

/// Nobody knows any process: the movers were not started here.
impl MoverProcesses for () {
    fn registered(&self, _: i32) {}

    fn fence(&self, _: i32) -> Option<BoxFuture<'static, ()>> {
        None
    }
}

/// The registered movers of one agent.
///
/// Every action given to [`Endpoints::send`] gets exactly one result, through the [`Results`] passed in at the start: it is in
/// one place at a time (an endpoint's, or a list of those that wait for credit), and whoever takes it out ends it or moves it on.
pub struct Endpoints {
    results: Results,
    processes: Arc<dyn MoverProcesses>,
    inner: Mutex<Inner>,
    /// Actions that wait for credit; looked at without the lock.
    waiting: AtomicUsize,
    /// Held while the source is told, so that it hears of changes in their order.
    announced: Mutex<Vec<(u32, usize)>>,
}

#[derive(Default)]
struct Inner {
    last_handle: u64,
    closed: bool,
    by_handle: BTreeMap<u64, Arc<Endpoint>>,
    /// Those whose streams are open.
    serving: BTreeMap<u32, Vec<Arc<Endpoint>>>,
    waiting: BTreeMap<u32, VecDeque<Action>>,
    /// Streams of reports that are open, by connection.
    reporting: BTreeMap<u64, usize>,
    /// Of movers whose processes are being waited for.
    departing: BTreeMap<u64, Remains>,
}

impl Endpoints {
    /// No movers yet.
    #[must_use]
    pub fn new(results: Results, processes: Arc<dyn MoverProcesses>) -> Arc<Self> {
        Arc::new(Self {
            results,
            processes,
            inner: Mutex::default(),
            waiting: AtomicUsize::new(0),
            announced: Mutex::default(),
        })
    }

    /// Registers a mover. It gets no actions before it opens its stream. `None` when the agent is stopping.
    pub fn add(&self, registration: Registration) -> Option<Arc<Endpoint>> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return None;
        }
        let endpoint = Arc::new(Endpoint::new(inner.new_handle(), registration));
        inner.by_handle.insert(endpoint.handle(), Arc::clone(&endpoint));
        drop(inner);
        tracing::info!(mover = %endpoint, "registered");
        Some(endpoint)
    }

    /// A handle that was never given before.
    pub fn new_handle(&self) -> u64 {
        self.inner.lock().new_handle()
    }

    /// The mover of this archive with the most free credits.
    #[must_use]
    pub fn get(&self, archive_id: u32) -> Option<Arc<Endpoint>> {
        let inner = self.inner.lock();
        inner.serving.get(&archive_id)?.iter().max_by_key(|endpoint| endpoint.free()).cloned()
    }

    /// The mover with this handle.
    #[must_use]
    pub fn get_with_handle(&self, handle: u64) -> Option<Arc<Endpoint>> {
        self.inner.lock().by_handle.get(&handle).cloned()
    }

    /// What every mover of an archive can do beyond Lemur's protocol. Nothing when it has none.
    #[must_use]
    pub fn capabilities(&self, archive_id: u32) -> Capabilities {
        let inner = self.inner.lock();
        let bits = inner.serving.get(&archive_id).into_iter().flatten().map(|mover| mover.capabilities().bits());
        Capabilities::from_bits(bits.reduce(|all, one| all & one).unwrap_or(0))
    }

    /// Every mover's account of itself, by handle.
    #[must_use]
    pub fn status(&self) -> Vec<EndpointStatus> {
        let all: Vec<_> = self.inner.lock().by_handle.values().cloned().collect();
        all.iter().map(|endpoint| endpoint.status()).collect()
    }

    /// Opens the stream of a registered mover, which gets actions from now on.
    pub fn open(self: &Arc<Self>, handle: u64, connection: u64) -> Result<ActionStream, OpenError> {
        let mut inner = self.inner.lock();
        let endpoint = inner.by_handle.get(&handle).filter(|e| e.registration().connection == connection);
        let endpoint = Arc::clone(endpoint.ok_or(OpenError::Unknown(handle))?);
        endpoint.open()?;
        let Registration { archive_id, pid, .. } = *endpoint.registration();
        inner.serving.entry(archive_id).or_default().push(Arc::clone(&endpoint));
        let mut ended = Vec::new();
        self.refill(&mut inner, archive_id, &mut ended);
        drop(inner);
        self.results.complete(ended);
        if let Some(pid) = pid {
            self.processes.registered(pid);
        }
        self.announce();
        Ok(ActionStream::new(Arc::clone(self), endpoint))
    }

    /// Gives actions to movers. Those that no mover can take end at once, as temporary failures where that may change.
    pub fn send(&self, actions: Vec<Action>) {
        let mut ended = Vec::new();
        self.place(&mut self.inner.lock(), actions, &mut ended, None);
        self.results.complete(ended);
    }

    /// Takes in what the movers behind one connection reported.
    pub fn report(self: &Arc<Self>, reports: Vec<pdm::ActionStatus>, connection: u64) {
        let mut reports = reports.into_iter().map(Addressed::from).peekable();
        let mut done = Reported::default();
        while let Some(first) = reports.next() {
            let Some(endpoint) = self.owner(&first, connection) else {
                done.ignored.push(first.id);
                continue;
            };
            let handle = first.handle;
            let rest = std::iter::from_fn(|| reports.next_if(|next| next.handle == handle && handle.is_some()));
            endpoint.report(std::iter::once(first).chain(rest), &mut done);
            if std::mem::take(&mut done.credits_changed) {
                self.credits_changed(&endpoint);
            }
            self.finish(&endpoint, &mut done);
        }
        if let Some(first) = done.ignored.first() {
            tracing::warn!(connection, count = done.ignored.len(), %first, "ignored reports about actions the mover does not have");
        }
    }

    fn finish(&self, endpoint: &Endpoint, done: &mut Reported) {
        for (id, key, moved) in done.progress.drain(..) {
            self.results.progress(id, key, moved);
        }
        if done.finished.is_empty() {
            return;
        }
        self.results.complete(std::mem::take(&mut done.finished));
        if self.waiting.load(Ordering::Acquire) > 0 {
            let mut ended = Vec::new();
            self.refill(&mut self.inner.lock(), endpoint.registration().archive_id, &mut ended);
            self.results.complete(ended);
        }
    }

    /// A mover takes more or fewer actions than before.
    fn credits_changed(&self, endpoint: &Endpoint) {
        let mut ended = Vec::new();
        self.refill(&mut self.inner.lock(), endpoint.registration().archive_id, &mut ended);
        self.results.complete(ended);
        self.announce();
    }

    /// The endpoint a report is about: by its handle, or else the one of the connection that has the action.
    fn owner(&self, report: &Addressed, connection: u64) -> Option<Arc<Endpoint>> {
        let inner = self.inner.lock();
        let ours = |endpoint: &&Arc<Endpoint>| endpoint.registration().connection == connection;
        match report.handle {
            Some(handle) => inner.by_handle.get(&handle).filter(ours).cloned(),
            None => inner.by_handle.values().filter(ours).find(|endpoint| endpoint.owns(report.id)).cloned(),
        }
    }

    /// Whether this connection has registered anything that is still there.
    #[must_use]
    pub fn knows(&self, connection: u64) -> bool {
        self.inner.lock().by_handle.values().any(|endpoint| endpoint.registration().connection == connection)
    }

    /// Stops the actions with these keys of the source.
    pub fn cancel(&self, keys: &[u64]) {
        let keys: HashSet<u64> = keys.iter().copied().collect();
        self.stop(Stop::Cancelled, |action: &Action| keys.contains(&action.key()));
    }

    /// Stops every action, because the agent goes down.
    pub fn interrupt(&self) {
        self.stop(Stop::Interrupted, |_| true);
    }

    fn stop(&self, stop: Stop, which: impl Fn(&Action) -> bool) {
        let mut ended = Vec::new();
        let mut inner = self.inner.lock();
        for waiting in inner.waiting.values_mut() {
            let (stopped, kept): (VecDeque<_>, VecDeque<_>) = waiting.drain(..).partition(&which);
            *waiting = kept;
            ended.extend(stopped.into_iter().map(|action| action.end_stopped(stop)));
        }
        self.count_waiting(&inner);
        for remains in inner.departing.values_mut() {
            remains.sent.iter_mut().filter(|action| which(action)).for_each(|action| action.mark_stop(stop));
            let (stopped, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut remains.queued).into_iter().partition(&which);
            remains.queued = kept;
            ended.extend(stopped.into_iter().map(|action| action.end_stopped(stop)));
        }
        for endpoint in inner.by_handle.values() {
            endpoint.stop(stop, &which, &mut ended);
        }
        drop(inner);
        self.results.complete(ended);
    }

    /// Removes every mover of an archive.
    pub fn remove(self: &Arc<Self>, archive_id: u32) {
        let endpoints = self.inner.lock().by_handle.values().cloned().collect::<Vec<_>>();
        for endpoint in endpoints.iter().filter(|e| e.registration().archive_id == archive_id) {
            self.remove_handle(endpoint.handle());
        }
    }
}

impl Inner {
    fn new_handle(&mut self) -> u64 {
        self.last_handle += 1;
        self.last_handle
    }
}
