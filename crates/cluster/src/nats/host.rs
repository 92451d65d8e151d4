//! A host's side: an agent's source of actions, fed by the desk.

use super::bucket::Bucket;
use super::connection::connect;
use super::inbox::{Inbox, Reply, read_pulled};
use super::names::Names;
use super::outbox::Outbox;
use super::watchdog::Watchdog;
use super::{NatsError, now, sleep_until};
use crate::desk::{Desk, Identity, Output, PullId};
use crate::{HostId, Served, Terms};
use agent::{ActionSource, Endpoints, HsmAgent, SourceError, Work};
use async_nats::Client;
use config::agent::Nats;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use model::{Extent, Outcome};
use parking_lot::Mutex;
use proto::Task;
use proto::cluster::Member;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

/// What is taken in before what follows from it is done.
const BATCH: usize = 512;
/// After a refusal of the servers.
const PAUSE: Duration = Duration::from_millis(500);
/// How long striking out may take: the agent does it, too.
const LEAVING: Duration = Duration::from_secs(2);

/// Gives the movers of this host what an agent elsewhere wants done.
pub struct HostSource {
    given: Mutex<VecDeque<Work>>,
    given_changed: Notify,
    cancels: Mutex<Vec<u64>>,
    cancels_changed: Notify,
    events: mpsc::UnboundedSender<Event>,
    agent: OnceLock<Weak<HsmAgent>>,
    /// How many works all movers together are given at once.
    limit: AtomicUsize,
    left: watch::Sender<bool>,
}

#[derive(Debug)]
enum Event {
    Served(Vec<(u32, usize)>),
    Progress(u64, Extent),
    Ended(Vec<(u64, Outcome)>),
    Registered(HostId),
    PullEnded(PullId),
    Pulled(Reply),
    Drain,
}

/// Runs a desk until the host has left.
pub struct HostLoop {
    source: Arc<HostSource>,
    client: Client,
    names: Names,
    bucket: Bucket,
    identity: Identity,
    terms: Terms,
    events: mpsc::UnboundedReceiver<Event>,
    watchdog: Option<Watchdog>,
}

impl HostSource {
    /// A source, and what feeds it: to be run beside the agent that takes from it. Without a watchdog, a process that hangs keeps its movers
    /// beyond its lease.
    ///
    /// # Errors
    /// A file that the configuration names cannot be used.
    pub async fn new(
        nats: &Nats,
        identity: Identity,
        watchdog: Option<Watchdog>,
    ) -> Result<(Arc<Self>, HostLoop), NatsError> {
        let client = connect(nats, &format!("sifaka mover-host {}", identity.name)).await?;
        let (sender, events) = mpsc::unbounded_channel();
        let source = Arc::new(Self {
            given: Mutex::default(),
            given_changed: Notify::new(),
            cancels: Mutex::default(),
            cancels_changed: Notify::new(),
            events: sender,
            agent: OnceLock::new(),
            limit: AtomicUsize::new(usize::MAX),
            left: watch::Sender::new(false),
        });
        let bucket = Bucket::new(&client, nats);
        let (names, terms) = (Names::new(&nats.filesystem), Terms::new(nats.lease));
        let desk = HostLoop { source: Arc::clone(&source), client, names, bucket, identity, terms, events, watchdog };
        Ok((source, desk))
    }

    /// Names the agent that takes from this: its movers' abilities are told, and they are killed when they may not go on.
    pub fn attach(&self, agent: &Arc<HsmAgent>) {
        let _ = self.agent.set(Arc::downgrade(agent));
    }

    /// Takes nothing more from now on.
    pub fn drain(&self) {
        self.tell(Event::Drain);
    }

    /// Waits until everything that was taken is done, the agent knows, and the host is not in its list any more.
    pub async fn left(&self) {
        let _ = self.left.subscribe().wait_for(|left| *left).await;
    }

    fn tell(&self, event: Event) {
        // An error: the loop has ended, and nobody is there who would want to know.
        let _ = self.events.send(event);
    }

    fn agent(&self) -> Option<Arc<HsmAgent>> {
        self.agent.get()?.upgrade()
    }

    fn give(&self, key: u64, archive: u32, task: Task) {
        self.given.lock().push_back(work(key, archive, task));
        self.given_changed.notify_one();
    }

    fn cancel(&self, keys: Vec<u64>) {
        // What no mover has been given yet ends here.
        let mut taken_back = Vec::new();
        self.given.lock().retain(|work| {
            let cancelled = keys.contains(&work.key);
            if cancelled {
                taken_back.push((work.key, Outcome::Failed(model::Failure::cancelled())));
            }
            !cancelled
        });
        if !taken_back.is_empty() {
            self.tell(Event::Ended(taken_back));
        }
        self.cancels.lock().extend(keys);
        self.cancels_changed.notify_one();
    }

    fn served(&self, endpoints: &Endpoints, archives: &[(u32, usize)]) -> Vec<Served> {
        let served = |&(archive, room): &(u32, usize)| Served {
            archive,
            capabilities: endpoints.capabilities(archive),
            credits: u32::try_from(room.min(self.limit.load(Ordering::Relaxed)))
                .unwrap_or(u32::MAX)
                .min(model::limits::MAX_CREDITS),
        };
        archives.iter().map(served).collect()
    }
}

fn work(key: u64, archive_id: u32, task: Task) -> Work {
    Work {
        key,
        archive_id,
        command: task.command,
        primary_path: task.primary_path,
        write_path: task.write_path,
        extent: task.extent,
        data: task.data,
        identity: task.identity,
        file_path: task.file_path,
        size: task.expected_size.unwrap_or(0),
        expected_size: task.expected_size,
        tree_path: task.tree_path,
        attempted_since_ms: task.attempted_since_ms,
        metadata_only: task.metadata_only,
        owner: task.owner,
        reader_waits: task.reader_waits,
        sync_target: task.sync_target,
        keepalive: None,
    }
}

impl ActionSource for HostSource {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Work>, SourceError>> {
        async move {
            loop {
                let works: Vec<Work> = {
                    let mut given = self.given.lock();
                    let count = given.len().min(max);
                    given.drain(..count).collect()
                };
                if !works.is_empty() {
                    return Ok(works);
                }
                self.given_changed.notified().await;
            }
        }
        .boxed()
    }

    fn progress(&self, key: u64, moved: Extent) {
        self.tell(Event::Progress(key, moved));
    }

    fn complete(&self, results: Vec<(u64, Outcome)>) {
        self.tell(Event::Ended(results));
    }

    fn next_cancels(&self) -> BoxFuture<'_, Vec<u64>> {
        async move {
            loop {
                let cancels = std::mem::take(&mut *self.cancels.lock());
                if !cancels.is_empty() {
                    return cancels;
                }
                self.cancels_changed.notified().await;
            }
        }
        .boxed()
    }

    fn archives_changed(&self, served: &[(u32, usize)]) {
        self.tell(Event::Served(served.to_vec()));
    }

    fn in_flight_limit_changed(&self, limit: usize) {
        // Told with the next change of what is served.
        self.limit.store(limit, Ordering::Relaxed);
    }
}

/// A desk at work.
struct AtWork {
    host: HostLoop,
    desk: Desk,
    outbox: Outbox,
    inbox: Inbox,
    requests: JoinSet<()>,
    left: Option<HostId>,
}

impl HostLoop {
    /// Runs until the host has left.
    ///
    /// # Errors
    /// The client cannot subscribe.
    pub async fn run(self) -> Result<(), NatsError> {
        let subscribe = async |subject: String| {
            self.client.subscribe(subject).await.map_err(|error| NatsError::Refused(error.to_string()))
        };
        let (inbox, mut replies) = Inbox::open(&self.client).await?;
        let mut told_all = subscribe(self.names.tell_all()).await?;
        let mut told = subscribe(self.names.tell(self.identity.instance)).await?;
        let desk = Desk::new(self.identity.clone(), self.terms, now());
        let outbox = Outbox::new(self.client.clone());
        let mut at_work = AtWork { host: self, desk, outbox, inbox, requests: JoinSet::new(), left: None };
        loop {
            at_work.put_out();
            if let Some(id) = at_work.left {
                let struck = at_work.host.bucket.unregister(id);
                let _ = tokio::time::timeout(LEAVING, struck).await;
                at_work.host.source.left.send_replace(true);
                return Ok(());
            }
            while at_work.requests.try_join_next().is_some() {}
            let wake_at = at_work.desk.wake_at(now());
            tokio::select! {
                biased;
                Some(event) = at_work.host.events.recv() => at_work.take(event),
                Some(reply) = replies.next() => at_work.hear(reply),
                Some(message) = told.next() => at_work.desk.told(now(), &message.payload),
                Some(message) = told_all.next() => at_work.desk.told(now(), &message.payload),
                () = sleep_until(wake_at) => at_work.desk.tick(now()),
            }
            for _ in 0..BATCH {
                if let Ok(event) = at_work.host.events.try_recv() {
                    at_work.take(event);
                } else if let Some(Some(reply)) = replies.next().now_or_never() {
                    at_work.hear(reply);
                } else {
                    break;
                }
            }
        }
    }
}

impl AtWork {
    fn take(&mut self, event: Event) {
        let now = now();
        match event {
            Event::Served(archives) => {
                if let Some(agent) = self.host.source.agent() {
                    self.desk.serve(now, self.host.source.served(agent.endpoints(), &archives));
                }
            }
            Event::Progress(key, moved) => self.desk.progress(now, key, moved),
            Event::Ended(results) => results.into_iter().for_each(|(key, outcome)| self.desk.ended(now, key, outcome)),
            Event::Registered(id) => self.desk.registered(now, id),
            Event::PullEnded(pull) => self.desk.pull_ended(now, pull),
            Event::Pulled(reply) => self.take_reply(reply),
            Event::Drain => self.desk.drain(now),
        }
    }

    fn hear(&mut self, message: async_nats::Message) {
        if let Some(reply) = self.inbox.read(message) {
            self.take_reply(reply);
        }
    }

    fn take_reply(&mut self, reply: Reply) {
        let now = now();
        match reply {
            Reply::Answer { seq, payload } => self.desk.answered(now, seq, &payload),
            Reply::Nobody { seq } => self.desk.unanswered(now, seq),
            Reply::Delivery { pull, ack_to, payload } => self.desk.delivered(now, pull, ack_to, &payload),
            Reply::PullEnded { pull } => self.desk.pull_ended(now, pull),
            Reply::PullRefused { pull } => self.refused(pull),
        }
    }

    /// It would be asked for again at once.
    fn refused(&mut self, pull: PullId) {
        let (pause, source) = (self.host.terms.retry().max(PAUSE), Arc::clone(&self.host.source));
        self.requests.spawn(async move {
            tokio::time::sleep(pause).await;
            source.tell(Event::PullEnded(pull));
        });
    }

    fn put_out(&mut self) {
        while let Some(output) = self.desk.next_output() {
            self.do_one(output);
        }
        // Later than the desk's own time for it: a process that does what it should kills its movers, and lives.
        let margin = (self.host.terms.lease() - self.host.terms.kill_after()) / 2;
        if let Some(watchdog) = &mut self.host.watchdog {
            watchdog.bite_at(self.desk.fence_at().map(|at| at + margin));
        }
    }

    fn do_one(&mut self, output: Output) {
        match output {
            Output::Register(id) => self.register(id),
            Output::Ask { seq, payload } => {
                if !self.outbox.ask(self.host.names.ask(), self.inbox.for_answer(seq), payload) {
                    self.desk.unanswered(now(), seq);
                }
            }
            Output::Pull { id, lane, batch, expires } => {
                if self.outbox.connected() {
                    let asked = (self.host.names.pull(&lane), self.inbox.for_pull(id));
                    let (client, source) = (self.host.client.clone(), Arc::clone(&self.host.source));
                    let until = expires + self.host.terms.retry();
                    self.requests.spawn(async move {
                        let pulling = pull(&client, asked, id, batch, expires, &source);
                        // The desk itself gives the request up then.
                        let _ = tokio::time::timeout(until, pulling).await;
                    });
                } else {
                    self.refused(id);
                }
            }
            Output::Ack { ack_to } => {
                self.outbox.send(ack_to, b"+ACK".to_vec());
            }
            Output::GiveBack { ack_to, delay } => {
                let nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
                let text = if nanos == 0 { "-NAK".to_owned() } else { format!("-NAK {{\"delay\": {nanos}}}") };
                self.outbox.send(ack_to, text.into_bytes());
            }
            Output::Run { key, archive, task } => self.host.source.give(key, archive, *task),
            Output::Cancel(keys) => self.host.source.cancel(keys),
            Output::KillMovers => {
                tracing::warn!("killing the movers: they may not go on");
                if let Some(agent) = self.host.source.agent() {
                    agent.monitor().kill_running();
                }
            }
            Output::Left(id) => self.left = Some(id),
        }
    }

    fn register(&mut self, id: HostId) {
        let (bucket, source) = (self.host.bucket.clone(), Arc::clone(&self.host.source));
        let name = self.host.identity.name.clone();
        self.requests.spawn(async move {
            let mut told = false;
            while let Err(error) = bucket.register(Member { id, name: name.clone() }).await {
                if told {
                    tracing::debug!(%error, "entering this host into the registry");
                } else {
                    tracing::warn!(%error, "cannot enter this host into the registry: trying again");
                }
                told = true;
                tokio::time::sleep(PAUSE).await;
            }
            source.tell(Event::Registered(id));
        });
    }
}

/// Asks a consumer for works, and passes on what comes until there will be no more.
async fn pull(
    client: &Client,
    (subject, inbox): (String, String),
    id: PullId,
    batch: u32,
    expires: Duration,
    source: &HostSource,
) {
    let nanos = u64::try_from(expires.as_nanos()).unwrap_or(u64::MAX);
    let request = serde_json::json!({ "batch": batch, "expires": nanos }).to_string();
    let Ok(mut works) = client.subscribe(inbox.clone()).await else {
        return source.tell(Event::Pulled(Reply::PullRefused { pull: id }));
    };
    if client.publish_with_reply(subject, inbox, request.into()).await.is_err() {
        return source.tell(Event::Pulled(Reply::PullRefused { pull: id }));
    }
    let mut left = batch;
    while left > 0
        && let Some(message) = works.next().await
    {
        let Some(reply) = read_pulled(id, message) else { continue };
        let over = !matches!(reply, Reply::Delivery { .. });
        left -= 1;
        source.tell(Event::Pulled(reply));
        if over {
            return;
        }
    }
}
