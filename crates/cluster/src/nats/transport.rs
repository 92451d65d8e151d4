//! The agent's side: stands by until it leads, and serves while it does.

use super::NatsError;
use super::bucket::Bucket;
use super::connection::connect;
use super::lead::Lead;
use super::names::Names;
use super::serving::Office;
use super::works::WorkStream;
use crate::board::Board;
use crate::{Terms, Time};
use agent::admin::hosts::{HostControl, HostState, HostsReport, Role};
use agent::{Endpoints, Transport, TransportError};
use config::agent::Nats;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// What people may be waiting for at once.
const COMMANDS: usize = 64;
/// How long giving the lead away may take.
const GRACE: Duration = Duration::from_secs(3);

/// What people ask of an agent that leads.
pub(crate) enum Command {
    /// Hosts that are waited for, and all hosts.
    List(oneshot::Sender<(Vec<String>, Vec<HostState>)>),
    /// Drain the hosts of this name; how many there are.
    Drain(String, oneshot::Sender<usize>),
}

/// The hosts of an agent, for people: see them, drain them. Cheap to clone; what it shows is the agent's whose transport was made with it.
#[derive(Clone, Default)]
pub struct Hosts(Arc<Mutex<Shown>>);

#[derive(Default)]
struct Shown {
    role: Role,
    epoch: u64,
    leader: Option<String>,
    commands: Option<mpsc::Sender<Command>>,
}

impl Hosts {
    fn leading(&self) -> Option<mpsc::Sender<Command>> {
        let shown = self.0.lock();
        shown.commands.clone().filter(|_| shown.role == Role::Leading)
    }

    async fn tell(&self) -> HostsReport {
        let (waits_for, hosts) = match self.leading() {
            Some(commands) => {
                let (reply, told) = oneshot::channel();
                // An error: it does not lead any more.
                let _ = commands.send(Command::List(reply)).await;
                told.await.unwrap_or_default()
            }
            None => Default::default(),
        };
        let shown = self.0.lock();
        HostsReport { role: shown.role, epoch: shown.epoch, leader: shown.leader.clone(), waits_for, hosts }
    }

    async fn ask_to_drain(&self, name: String) -> Option<usize> {
        let commands = self.leading()?;
        let (reply, told) = oneshot::channel();
        commands.send(Command::Drain(name, reply)).await.ok()?;
        told.await.ok()
    }

    fn show(&self, role: Role, epoch: u64, leader: Option<String>) {
        let mut shown = self.0.lock();
        (shown.role, shown.epoch, shown.leader) = (role, epoch, leader);
    }
}

impl HostControl for Hosts {
    fn report(&self) -> BoxFuture<'_, HostsReport> {
        Box::pin(self.tell())
    }

    fn drain(&self, name: String) -> BoxFuture<'_, Option<usize>> {
        Box::pin(self.ask_to_drain(name))
    }
}

/// The hosts of a board, as people see them.
pub(crate) fn host_states(board: &Board, now: Time) -> Vec<HostState> {
    let state = |host: crate::board::HostView<'_>| HostState {
        name: host.announce.name.clone(),
        id: host.id.to_string(),
        software: host.announce.software.clone(),
        groups: host.announce.groups.iter().map(|group| group.as_str().to_owned()).collect(),
        labels: host.announce.labels.clone(),
        archives: host.announce.served.iter().map(|served| (served.archive, served.credits)).collect(),
        heard_ms: u64::try_from(now.since(host.heard).as_millis()).unwrap_or(u64::MAX),
        actions: host.holds,
        draining: host.draining,
        ending: host.announce.ending,
        finished: host.announce.finished,
        moved_bytes: host.announce.moved_bytes,
    };
    board.hosts().map(state).collect()
}

/// `transport { type = "nats" }`. Beside the socket, which the agent's own movers have.
pub struct NatsTransport {
    nats: Nats,
    host: String,
    hosts: Hosts,
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl NatsTransport {
    /// For an agent on this host.
    #[must_use]
    pub fn new(nats: Nats, host: String, hosts: Hosts) -> Self {
        Self { nats, host, hosts, running: None }
    }

    async fn start(&mut self, endpoints: Arc<Endpoints>) -> Result<String, NatsError> {
        let client = connect(&self.nats, &format!("sifaka agent on {}", self.host)).await?;
        let terms = Terms::new(self.nats.lease);
        let bucket = Bucket::new(&client, &self.nats);
        let instance = uuid::Uuid::new_v4().as_u128();
        let lead = Lead::new(bucket.clone(), instance, self.host.clone(), terms.lease());
        let works = WorkStream::new(&client, &self.nats);
        let names = Names::new(&self.nats.filesystem);
        let office = Office { client, names, works, bucket, endpoints, terms };
        let (stop, stopped) = watch::channel(false);
        let hosts = self.hosts.clone();
        self.running = Some((stop, tokio::spawn(run(office, lead, hosts, stopped))));
        Ok(self.nats.filesystem.clone())
    }
}

async fn run(office: Office, mut lead: Lead, hosts: Hosts, mut stopped: watch::Receiver<bool>) {
    let (sender, mut commands) = mpsc::channel(COMMANDS);
    hosts.0.lock().commands = Some(sender);
    while !*stopped.borrow() {
        let standby = |leader: Option<String>| {
            let role = if leader.is_some() { Role::Standby } else { Role::Unreachable };
            hosts.show(role, 0, leader);
        };
        let led = tokio::select! {
            led = lead.take(standby) => led,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        hosts.show(Role::Leading, led.epoch, None);
        let (until, valid) = watch::channel(led.until);
        let keeping = async {
            lead.keep(led.clone(), &until).await;
            drop(until);
            std::future::pending::<()>().await;
        };
        let deposed = tokio::select! {
            deposed = office.serve(&led, valid, &mut commands, stopped.clone()) => deposed,
            () = keeping => None,
        };
        hosts.show(Role::Standby, 0, None);
        // Whoever asked meanwhile is told that it does not lead.
        while commands.try_recv().is_ok() {}
        lead.above(deposed.unwrap_or(0));
        lead.resign(led.epoch).await;
    }
}

impl Transport for NatsTransport {
    fn init(&mut self, endpoints: Arc<Endpoints>) -> BoxFuture<'_, Result<String, TransportError>> {
        Box::pin(
            async move { self.start(endpoints).await.map_err(|error| TransportError::Other("nats", Box::new(error))) },
        )
    }

    fn shutdown(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Some((stop, mut running)) = self.running.take() else { return };
            let _ = stop.send(true);
            if tokio::time::timeout(GRACE, &mut running).await.is_err() {
                running.abort();
                let _ = running.await;
            }
        })
    }
}

impl Drop for NatsTransport {
    fn drop(&mut self) {
        if let Some((_, running)) = self.running.take() {
            running.abort();
        }
    }
}
