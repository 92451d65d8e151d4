//! The time that an agent leads: a board, and NATS on one side of it, the agent on the other.

use super::bucket::Bucket;
use super::lead::Led;
use super::names::Names;
use super::outbox::Outbox;
use super::pools::{PoolEvent, Pools};
use super::transport::{Command, host_states};
use super::works::WorkStream;
use super::{now, sleep_until};
use crate::board::{Board, Output};
use crate::{HostId, Pool, Terms, Time};
use agent::Endpoints;
use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use model::{ActionId, Failure};
use proto::cluster::Member;
use proto::{Instruction, Report, ReportBody, pdm};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

const EPROTO: i32 = 71;
/// What is taken in before what follows from it is done.
const BATCH: usize = 512;
/// After a refusal of the servers.
const PAUSE: Duration = Duration::from_millis(500);
/// How often the registry of hosts is asked before a whole lease is waited instead.
const REGISTRY_TRIES: u32 = 5;

/// What came in.
enum Event {
    Asked(async_nats::Message),
    Pool(PoolEvent),
    Published {
        id: u64,
        serial: u32,
        at: Option<u64>,
    },
    Command(Command),
    Lead(Time),
    Time,
    /// The agent leads no more, or ends.
    Over,
}

/// A work, which publication of it, and its place in the stream if that is known.
type Published = (u64, u32, Option<u64>);

/// What serving needs.
pub(crate) struct Office {
    pub(crate) client: Client,
    pub(crate) names: Names,
    pub(crate) works: WorkStream,
    pub(crate) bucket: Bucket,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) terms: Terms,
}

/// An agent that leads.
struct Serving<'a> {
    office: &'a Office,
    outbox: Outbox,
    board: Board,
    pools: Pools,
    asks: Subscriber,
    events: mpsc::Receiver<PoolEvent>,
    publishing: mpsc::UnboundedSender<Published>,
    published: mpsc::UnboundedReceiver<Published>,
    /// Requests to the servers that are under way.
    requests: JoinSet<()>,
    deposed: Option<u64>,
}

impl Office {
    /// Serves until the lead is over (`until` has lost its sender), `stop` is true, or hosts know of a later agent: then that one's epoch.
    pub(crate) async fn serve(
        &self,
        led: &Led,
        mut until: watch::Receiver<Time>,
        commands: &mut mpsc::Receiver<Command>,
        mut stop: watch::Receiver<bool>,
    ) -> Option<u64> {
        let prepare = self.prepare(led);
        let (asks, members) = tokio::select! {
            prepared = prepare => prepared,
            () = over(&mut until, &mut stop) => return None,
        };
        let (sender, events) = mpsc::channel(BATCH);
        let (publishing, published) = mpsc::unbounded_channel();
        let valid_until = *until.borrow_and_update();
        let mut serving = Serving {
            office: self,
            outbox: Outbox::new(self.client.clone()),
            board: Board::new(led.epoch, self.terms, members, valid_until, now()),
            pools: Pools::new(Arc::clone(&self.endpoints), self.works.clone(), sender),
            asks,
            events,
            publishing,
            published,
            requests: JoinSet::new(),
            deposed: None,
        };
        serving.run(&mut until, commands, &mut stop).await;
        serving.deposed
    }

    /// Hears hosts from now on, empties the stream, and finds out which hosts there may be.
    async fn prepare(&self, led: &Led) -> (Subscriber, Option<Vec<Member>>) {
        let asks = loop {
            match self.client.subscribe(self.names.ask()).await {
                Ok(asks) => break asks,
                Err(error) => tracing::warn!(%error, "hearing hosts"),
            }
            tokio::time::sleep(PAUSE).await;
        };
        while let Err(error) = self.works.clear().await {
            tracing::warn!(%error, "emptying the stream of works: trying again");
            tokio::time::sleep(PAUSE).await;
        }
        for _ in 0..REGISTRY_TRIES {
            match self.bucket.members(led.revision).await {
                Ok(members) => return (asks, Some(members)),
                Err(error) => tracing::warn!(%error, "finding out which hosts there are"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        (asks, None)
    }
}

/// Waits until the agent is to serve no longer.
async fn over(until: &mut watch::Receiver<Time>, stop: &mut watch::Receiver<bool>) {
    let lost = async { while until.changed().await.is_ok() {} };
    tokio::select! {
        () = lost => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

impl Serving<'_> {
    async fn run(
        &mut self,
        until: &mut watch::Receiver<Time>,
        commands: &mut mpsc::Receiver<Command>,
        stop: &mut watch::Receiver<bool>,
    ) {
        loop {
            self.put_out();
            if self.deposed.is_some() {
                break;
            }
            while self.requests.try_join_next().is_some() {}
            let wake_at = self.board.wake_at(now());
            let event = tokio::select! {
                biased;
                changed = until.changed() => match changed {
                    Ok(()) => Event::Lead(*until.borrow_and_update()),
                    Err(_) => Event::Over,
                },
                _ = stop.wait_for(|stop| *stop) => Event::Over,
                Some(asked) = self.asks.next() => Event::Asked(asked),
                Some((id, serial, at)) = self.published.recv() => Event::Published { id, serial, at },
                Some(command) = commands.recv() => Event::Command(command),
                Some(event) = self.events.recv() => Event::Pool(event),
                () = sleep_until(wake_at) => Event::Time,
            };
            if matches!(event, Event::Over) {
                break;
            }
            self.take(event);
            self.take_more();
        }
        self.board.depose();
        self.put_out();
    }

    /// What has come in besides, so that it is dealt with together.
    fn take_more(&mut self) {
        use futures_util::FutureExt;
        for _ in 0..BATCH {
            let next = if let Some(Some(asked)) = self.asks.next().now_or_never() {
                Event::Asked(asked)
            } else if let Ok((id, serial, at)) = self.published.try_recv() {
                Event::Published { id, serial, at }
            } else if let Ok(event) = self.events.try_recv() {
                Event::Pool(event)
            } else {
                return;
            };
            self.take(next);
        }
    }

    fn take(&mut self, event: Event) {
        let now = now();
        match event {
            Event::Asked(message) => {
                // Answers go to inboxes, and nowhere else.
                if let Some(reply) = message.reply.filter(|reply| reply.starts_with("_INBOX.")) {
                    self.board.hear(now, reply.to_string(), &message.payload);
                }
            }
            Event::Pool(PoolEvent::Opened(pool)) => self.pools.opened(&pool),
            Event::Pool(PoolEvent::Item(pool, item)) => self.item(now, pool, *item),
            Event::Published { id, serial, at } => self.board.published(now, id, serial, at),
            Event::Command(command) => self.command(now, command),
            Event::Lead(until) => self.board.lead_until(until),
            Event::Time => {}
            Event::Over => {}
        }
        self.board.tick(now);
    }

    fn item(&mut self, now: Time, pool: Pool, item: pdm::ActionItem) {
        let id = item.id;
        if let Ok(Instruction::Cancel(id)) = Instruction::try_from(item.clone()) {
            return self.board.cancel(now, id.0);
        }
        let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let wall_ms = u64::try_from(wall_ms).unwrap_or(u64::MAX);
        if let Err(error) = self.board.offer(now, wall_ms, pool.clone(), item) {
            let failure = Failure::permanent(EPROTO, format!("it cannot be sent to other hosts: {error}"));
            let report = Report { id: ActionId(id), handle: None, body: ReportBody::Failed(failure) };
            self.pools.report(vec![(pool, report.into())]);
        }
    }

    fn command(&mut self, now: Time, command: Command) {
        match command {
            Command::List(reply) => {
                let _ = reply.send((self.board.waits_for(), host_states(&self.board, now)));
            }
            Command::Drain(name, reply) => {
                let _ = reply.send(self.board.drain(now, &name));
            }
        }
    }

    fn put_out(&mut self) {
        let mut statuses = Vec::new();
        while let Some(output) = self.board.next_output() {
            match output {
                Output::Status { pool, status } => statuses.push((pool, status)),
                other => {
                    // In the order in which they came: an end of a pool comes after its works' results.
                    if !statuses.is_empty() {
                        self.pools.report(std::mem::take(&mut statuses));
                    }
                    self.do_one(other);
                }
            }
        }
        if !statuses.is_empty() {
            self.pools.report(statuses);
        }
    }

    fn do_one(&mut self, output: Output) {
        let works = self.office.works.clone();
        match output {
            Output::Publish { lane, msg_id, id, serial, payload } => {
                let published = self.publishing.clone();
                let connected = self.outbox.connected();
                self.requests.spawn(async move {
                    let at = if connected { works.publish(&lane, &msg_id, payload).await } else { None };
                    let _ = published.send((id, serial, at));
                });
            }
            Output::Delete { at } => {
                self.requests.spawn(async move { works.delete(at).await });
            }
            Output::Answer { reply_to, payload } => {
                self.outbox.send(reply_to, payload);
            }
            Output::Tell { to, payload } => {
                let names = &self.office.names;
                self.outbox.send(to.map_or_else(|| names.tell_all(), |instance| names.tell(instance)), payload);
            }
            Output::Status { .. } => {}
            Output::Serve { pool, credits, capabilities } => self.pools.serve(pool, credits, capabilities),
            Output::Unregister(id) => {
                let bucket = self.office.bucket.clone();
                self.requests.spawn(unregister(bucket, id));
            }
            Output::Deposed { epoch } => {
                tracing::warn!(epoch, "hosts work for a later agent: this one does not lead any more");
                self.deposed = Some(epoch);
            }
        }
    }
}

async fn unregister(bucket: Bucket, id: HostId) {
    if let Err(error) = bucket.unregister(id).await {
        tracing::debug!(%error, host = %id, "removing a host from the registry");
    }
}
