//! The source of actions, and what its threads share.

use crate::config::LustreConfig;
use crate::entry::Entry;
use crate::lanes::{LANE, Load};
use crate::receiver::Receiver;
use crate::snapshots::Snapshots;
use crate::state::{Active, Phase, State};
use crate::workers;
use agent::{ActionSource, SourceError, Work};
use futures_util::future::BoxFuture;
use model::{Backoff, Extent, Outcome};
use parking_lot::{Condvar, Mutex};
use queue::{ItemJournal, NewItem, QueueError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use sys::lustre::Library;
use tokio::sync::Notify;

/// So long a thread may be in a call when nothing else keeps the agent from stopping. Most take milliseconds.
pub(crate) const HANGING: Duration = Duration::from_secs(5);

/// Why there is no agent on this filesystem.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] QueueError),
    /// Something else was refused.
    #[error("cannot {what}")]
    System {
        /// What was done.
        what: String,
        /// Why not.
        #[source]
        cause: io::Error,
    },
}

/// What can change while the agent runs.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) backoff: Backoff,
    pub(crate) reader_timeout: Option<Duration>,
    pub(crate) snapshots: bool,
}

/// What the threads share.
pub(crate) struct Shared {
    pub(crate) config: LustreConfig,
    pub(crate) settings: Mutex<Settings>,
    pub(crate) library: Library,
    pub(crate) journal: ItemJournal,
    /// The filesystem's root.
    pub(crate) root: OwnedFd,
    pub(crate) snapshots: Snapshots,
    pub(crate) state: Mutex<State>,
    /// Held while items are written down and entered.
    entering: Mutex<()>,
    /// Held while a file's identity is written: the coordinator may have two actions for one file, and halves of two identities would name nothing.
    pub(crate) naming: Mutex<()>,
    /// There are jobs, or it is over.
    pub(crate) work: Condvar,
    /// There is something for the timer to look after.
    pub(crate) timer: Condvar,
    /// The timer's pause between two looks; only its end ends it early.
    pub(crate) timer_pause: Condvar,
    /// Nothing is under way any more.
    idle: Condvar,
    ready: Notify,
    cancels: Notify,
    wake: UnixStream,
}

/// The coordinator of a Lustre filesystem, as the agent's source of actions.
///
/// Begins to work when it is [started](Self::start), and unregisters when the agent has stopped, or when it is dropped.
pub struct LustreSource {
    pub(crate) shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl LustreSource {
    /// Opens the journal, and begins to register as soon as there are movers.
    ///
    /// # Errors
    /// See [`StartError`]. A damaged journal can be set aside ([`ItemJournal::set_aside`]).
    pub fn start(library: Library, config: LustreConfig) -> Result<Self, StartError> {
        let failed = |what: String| move |cause: io::Error| StartError::System { what, cause };
        let journal = ItemJournal::open(&config.journal)?;
        let open = format!("open {}", config.mount.display());
        let root: OwnedFd = std::fs::File::open(&config.mount).map_err(failed(open))?.into();
        let fids = config.mount.join(".lustre/fid");
        let what =
            format!("open {}: movers need it, and it is there where the whole filesystem is mounted", fids.display());
        std::fs::File::open(&fids).map_err(failed(what))?;
        let mut state = State::default();
        state.limit = usize::MAX;
        for count in journal.counts()? {
            tracing::info!(archive = count.archive_id, command = %count.command, count = count.count, "left by the last agent");
            state.lanes.note(count.archive_id, count.class);
        }
        state.last_orphan = journal.last_id()?;
        let threads = "start threads";
        let (wake, woken) = UnixStream::pair().map_err(failed(threads.into()))?;
        for socket in [&wake, &woken] {
            socket.set_nonblocking(true).map_err(failed(threads.into()))?;
        }
        let settings =
            Settings { backoff: config.backoff, reader_timeout: config.reader_timeout, snapshots: config.snapshots };
        let snapshots = Snapshots::start(&library, &config.mount, &root).map_err(failed(threads.into()))?;
        let shared = Arc::new(Shared {
            config,
            settings: Mutex::new(settings),
            library,
            journal,
            root,
            snapshots,
            state: Mutex::new(state),
            entering: Mutex::new(()),
            naming: Mutex::new(()),
            work: Condvar::new(),
            timer: Condvar::new(),
            timer_pause: Condvar::new(),
            idle: Condvar::new(),
            ready: Notify::new(),
            cancels: Notify::new(),
            wake,
        });
        let source = Self { shared: Arc::clone(&shared), threads: Mutex::new(Vec::new()) };
        let mut running = workers::start(&shared).map_err(failed(threads.into()))?;
        let timer = Arc::clone(&shared);
        let spawn = std::thread::Builder::new().name("lustre-timer".into()).spawn(move || timer.keep_time());
        running.push(spawn.map_err(failed(threads.into()))?);
        let receiver = Receiver::new(shared, woken);
        let spawn = std::thread::Builder::new().name("lustre-receiver".into()).spawn(move || receiver.run());
        running.push(spawn.map_err(failed(threads.into()))?);
        *source.threads.lock() = running;
        Ok(source)
    }

    /// Takes over what can change while it runs.
    pub fn reconfigure(&self, backoff: Backoff, reader_timeout: Option<Duration>, snapshots: bool) {
        *self.shared.settings.lock() = Settings { backoff, reader_timeout, snapshots };
    }

    /// Begins nothing more, and leaves what waits to the next process. What movers have goes on.
    fn drain(&self) {
        let mut state = self.shared.state.lock();
        state.stopping = true;
        let waiting = |active: &Active| matches!(active.phase, Phase::Queued | Phase::Waiting(_)) && !active.reporting;
        let ids: Vec<u64> = state.active.iter().filter(|(_, active)| waiting(active)).map(|(id, _)| *id).collect();
        for id in ids {
            self.shared.abandon(&mut state, id);
        }
    }

    /// Waits for the ends of what ran, and unregisters. Blocks; not for ever, when Lustre does not answer.
    fn stop(&self) {
        self.drain();
        let deadline = Instant::now() + self.shared.config.patience.stop;
        {
            let mut state = self.shared.state.lock();
            while !state.active.is_empty() && !self.shared.idle.wait_until(&mut state, deadline).timed_out() {}
            for id in state.active.keys().copied().collect::<Vec<_>>() {
                self.shared.abandon(&mut state, id);
            }
            state.closed = true;
        }
        self.shared.wake();
        for condition in [&self.shared.work, &self.shared.timer, &self.shared.timer_pause] {
            condition.notify_all();
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        if !join_within(HANGING, threads) {
            tracing::error!(
                "Lustre does not answer: what it was told last may not have arrived, and is settled by the agent that is started next"
            );
        }
        self.shared.record_ends();
        self.shared.snapshots.stop(self.shared.config.patience.stop);
    }
}

/// Whether they all have ended by then. One that is in a call which does not return is left there.
pub(crate) fn join_within(limit: Duration, threads: Vec<JoinHandle<()>>) -> bool {
    // A thread that panicked has said so.
    let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
    agent::within(limit, join).is_some()
}

impl Drop for LustreSource {
    fn drop(&mut self) {
        if !self.threads.lock().is_empty() {
            self.stop();
        }
    }
}

impl Shared {
    /// Tells whoever waits for what the state has now.
    pub(crate) fn announce(&self) {
        let state = self.state.lock();
        if !state.jobs.is_empty() || !state.urgent.is_empty() {
            self.work.notify_all();
        }
        if state.has_ready() {
            self.ready.notify_one();
        }
        if !state.cancels.is_empty() {
            self.cancels.notify_one();
        }
        if state.active.is_empty() {
            self.idle.notify_all();
            if state.suspect || state.old {
                self.wake();
            }
        }
        if !state.active.is_empty() || !state.ended.is_empty() || !state.lanes.is_empty() {
            self.timer.notify_one();
        }
    }

    /// Has the receiver look around.
    pub(crate) fn wake(&self) {
        use std::io::Write;
        // A full socket wakes, too.
        let _ = (&self.wake).write(&[1]);
    }

    /// Writes items down, and has them done when it is their turn.
    pub(crate) fn enter_items(&self, items: Vec<NewItem>) -> Result<(), QueueError> {
        // Lanes take them in the order of their ids.
        let _alone = self.entering.lock();
        let ids = self.journal.accept(&items)?;
        let mut state = self.state.lock();
        for (id, item) in ids.into_iter().zip(items) {
            let from = queue::JournalItem { id, progressed: false, item };
            if let Some(entry) = Entry::from_journal(from, false) {
                state.lanes.push(Arc::new(entry));
            }
        }
        state.last_activity = Some(Instant::now());
        state.schedule();
        drop(state);
        self.announce();
        Ok(())
    }

    /// Loads a lane: [`Job::Load`](crate::workers::Job).
    pub(crate) fn load(&self, load: Load) {
        let found = self.journal.lane(load.archive_id, load.class, load.after, LANE);
        let mut state = self.state.lock();
        match found {
            Ok(page) => {
                for (id, why) in page.damaged {
                    tracing::error!(id, why, "an item in the journal is damaged: it is left there");
                }
                let last = page.last.unwrap_or(load.after);
                let last_orphan = state.last_orphan;
                let entries = page.items.into_iter().filter_map(|item| {
                    let id = item.id;
                    let entry = Entry::from_journal(item, id <= last_orphan);
                    if entry.is_none() {
                        tracing::error!(id, "an item in the journal makes no sense: it is left there");
                    }
                    entry.map(Arc::new)
                });
                let entries = entries.filter(|e| !state.active.contains_key(&e.id) && !state.recording.contains(&e.id));
                let entries = entries.collect();
                state.lanes.loaded(load, entries, last, page.more);
            }
            Err(error) => {
                tracing::error!(%error, "cannot read what is to be done");
                state.lanes.loaded(load, Vec::new(), load.after, true);
                drop(state);
                // Not at once again.
                std::thread::sleep(Duration::from_secs(1));
                state = self.state.lock();
            }
        }
        state.schedule();
    }
}

impl ActionSource for LustreSource {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Work>, SourceError>> {
        Box::pin(async move {
            loop {
                let works = self.shared.state.lock().take_ready(max);
                if !works.is_empty() {
                    return Ok(works);
                }
                self.shared.ready.notified().await;
            }
        })
    }

    fn progress(&self, key: u64, moved: Extent) {
        if let Some(active) = self.shared.state.lock().active.get_mut(&key) {
            active.moved(moved);
        }
    }

    fn complete(&self, results: Vec<(u64, Outcome)>) {
        let mut state = self.shared.state.lock();
        for (id, outcome) in results {
            state.outcome(id, outcome);
        }
        drop(state);
        self.shared.announce();
    }

    fn next_cancels(&self) -> BoxFuture<'_, Vec<u64>> {
        Box::pin(async move {
            loop {
                let cancels = std::mem::take(&mut self.shared.state.lock().cancels);
                if !cancels.is_empty() {
                    return cancels;
                }
                self.shared.cancels.notified().await;
            }
        })
    }

    fn archives_changed(&self, served: &[(u32, usize)]) {
        self.shared.state.lock().serve(served);
        self.shared.announce();
        self.shared.wake();
    }

    fn movers_started(&self) {
        self.shared.state.lock().movers_started = true;
        self.shared.wake();
    }

    fn stopping(&self) {
        self.drain();
    }

    fn stopped(&self) {
        self.stop();
    }

    fn in_flight_limit_changed(&self, limit: usize) {
        let mut state = self.shared.state.lock();
        state.limit = limit;
        state.schedule();
        drop(state);
        self.shared.announce();
    }
}
