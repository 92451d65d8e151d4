//! The agent as one value: starts everything in order, and stops it in the reverse one.

use crate::action::ActionIds;
use crate::dispatch::Dispatcher;
use crate::endpoint::EndpointStatus;
use crate::endpoints::Endpoints;
use crate::monitor::{Patience, PluginConfig, PluginMonitor, PluginState, PluginStatus, SpawnHooks};
use crate::mounts::{ClientMounts, cleanup_mounts};
use crate::results::Results;
use crate::slots::Slots;
use crate::source::ActionSource;
use crate::stats::{ActionStats, ArchiveStatus};
use crate::transport::{Transport, TransportError, TransportRegistry};
use config::AgentConfig;
use model::limits::AUDIT_INTERVAL_S;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// How often rates move on and hung movers are looked for, at most.
const TICK: Duration = Duration::from_secs(5);
/// The programs this one is by name, when the plugin directory has none of that name.
const BUILTIN: [&str; 6] = ["posix", "object", "s3", "az", "command", "noop"];

/// What the agent gets from the program it runs in. Nothing here is global: two agents can run in one process.
pub struct Services {
    /// The ways movers can reach the agent.
    pub transports: TransportRegistry,
    /// Who must know the movers' pids.
    pub hooks: Arc<dyn SpawnHooks>,
    /// Descriptors that every mover inherits.
    pub inherited: Vec<Arc<OwnedFd>>,
    /// Where the agent's configuration is, and its plugins'.
    pub config_dir: PathBuf,
    /// How patient the plugin monitor is.
    pub patience: Patience,
    /// How long running actions may take to end when the agent stops, before they are cancelled.
    pub drain: Duration,
    /// How long cancelled ones may.
    pub drain_cancelled: Duration,
}

impl Services {
    /// gRPC, nobody to tell pids to, nothing inherited, the usual patience.
    #[must_use]
    pub fn new(config_dir: PathBuf) -> Self {
        Self {
            transports: TransportRegistry::with_grpc(),
            hooks: Arc::new(()),
            inherited: Vec::new(),
            config_dir,
            patience: Patience::default(),
            drain: Duration::from_secs(20),
            drain_cancelled: Duration::from_secs(2),
        }
    }
}

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Movers could not reach it.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The plugin monitor cannot start.
    #[error("cannot start the plugin monitor")]
    Monitor(#[source] io::Error),
    /// It runs, or ran, already.
    #[error("the agent was started before")]
    Started,
    /// Not every plugin asked for actions in time.
    #[error("not ready after {waited:?}: {waiting_for}")]
    NotReady {
        /// How long was waited.
        waited: Duration,
        /// The plugins, with what each is doing.
        waiting_for: String,
    },
}

/// How the agent is doing.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct AgentStatus {
    /// Since it was started.
    pub uptime_s: u64,
    /// Actions between source and result.
    pub in_flight: usize,
    /// How many there may be.
    pub in_flight_limit: usize,
    /// The processes of the enabled plugins.
    pub plugins: Vec<PluginStatus>,
    /// The registrations of all movers, whoever started them.
    pub movers: Vec<EndpointStatus>,
    /// Counts and times of each archive.
    pub archives: Vec<ArchiveStatus>,
}

/// A plugin when the agent's configuration was read again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReloadedMover {
    /// The plugin's name.
    pub name: String,
    /// Its process, if there is one.
    pub pid: Option<i32>,
    /// Whether it was told to read its own configuration again. If not, it does not understand that, or does not run: it
    /// reads it when it is started the next time.
    pub told: bool,
}

/// An agent. See the crate's documentation for what it does.
pub struct HsmAgent {
    config: AgentConfig,
    root: PathBuf,
    endpoints: Arc<Endpoints>,
    monitor: Arc<PluginMonitor>,
    dispatcher: Arc<Dispatcher>,
    services: Services,
    started: Instant,
    running: tokio::sync::Mutex<Running>,
    hang_timeout: watch::Sender<Duration>,
    mounts: Mutex<Option<ClientMounts>>,
}

#[derive(Default)]
struct Running {
    started: bool,
    /// The socket of our own movers first.
    transports: Vec<Box<dyn Transport>>,
    /// Takes actions from the source.
    dispatching: JoinSet<()>,
    /// Passes cancels on, looks after things.
    attending: JoinSet<()>,
}

impl HsmAgent {
    /// An agent that will take actions from `source`. `mounts` are those made for `config`, or a shared directory.
    ///
    /// # Errors
    /// The plugin monitor's thread cannot be started.
    pub fn new(
        config: AgentConfig,
        mounts: ClientMounts,
        services: Services,
        source: Arc<dyn ActionSource>,
    ) -> Result<Self, AgentError> {
        let stats = Arc::new(ActionStats::default());
        let results = Results::new(Arc::clone(&source), Arc::clone(&stats));
        let monitor = PluginMonitor::start(Arc::clone(&services.hooks), services.patience.clone());
        let monitor = Arc::new(monitor.map_err(AgentError::Monitor)?);
        let endpoints = Endpoints::new(results.clone(), monitor.clone());
        let slots = Slots::new(config.in_flight_limit());
        source.in_flight_limit_changed(slots.total());
        let dispatcher = Dispatcher {
            source,
            endpoints: Arc::clone(&endpoints),
            results,
            stats,
            slots,
            ids: ActionIds::default(),
            reserved: AtomicUsize::new(0),
            resized: Notify::new(),
        };
        let hang_timeout = watch::Sender::new(config.mover_hang_timeout);
        Ok(Self {
            root: mounts.agent().to_owned(),
            mounts: Mutex::new(Some(mounts)),
            config,
            endpoints,
            monitor,
            dispatcher: Arc::new(dispatcher),
            services,
            started: Instant::now(),
            running: tokio::sync::Mutex::default(),
            hang_timeout,
        })
    }

    /// Opens the sockets, starts the plugins, begins to take actions.
    ///
    /// # Errors
    /// Nothing is left running.
    pub async fn start(&self) -> Result<(), AgentError> {
        let mut running = self.running.lock().await;
        if running.started {
            return Err(AgentError::Started);
        }
        let mut socket = self.services.transports.make("grpc", &self.config)?;
        let address = socket.init(Arc::clone(&self.endpoints)).await?;
        if self.config.nats().is_some()
            && let Err(error) = self.add_transport("nats", &mut running.transports).await
        {
            socket.shutdown().await;
            return Err(error.into());
        }
        running.transports.insert(0, socket);
        running.started = true;
        for plugin in self.plugins(&address) {
            self.monitor.start_plugin(plugin);
        }
        let dispatcher = Arc::clone(&self.dispatcher);
        running.dispatching.spawn(async move { dispatcher.run().await });
        let dispatcher = Arc::clone(&self.dispatcher);
        running.attending.spawn(async move { dispatcher.run_cancels().await });
        let (monitor, source) = (Arc::clone(&self.monitor), Arc::clone(&self.dispatcher.source));
        running.attending.spawn(async move {
            monitor.all_tried().await;
            source.movers_started();
        });
        let watch = Watch {
            stats: Arc::clone(&self.dispatcher.stats),
            endpoints: Arc::clone(&self.endpoints),
            monitor: Arc::clone(&self.monitor),
            hang_timeout: self.hang_timeout.subscribe(),
        };
        running.attending.spawn(watch.run());
        Ok(())
    }

    /// For movers that this agent does not start.
    async fn add_transport(&self, name: &str, to: &mut Vec<Box<dyn Transport>>) -> Result<(), TransportError> {
        let mut transport = self.services.transports.make(name, &self.config)?;
        transport.init(Arc::clone(&self.endpoints)).await?;
        to.push(transport);
        Ok(())
    }

    /// Waits until every enabled plugin has asked for actions.
    ///
    /// # Errors
    /// One has not within `timeout`. The agent goes on trying.
    pub async fn wait_started(&self, timeout: Duration) -> Result<(), AgentError> {
        let mut changes = self.monitor.changes();
        let ready = async {
            while !self.waiting_for().is_empty() {
                if changes.changed().await.is_err() {
                    break;
                }
            }
        };
        if tokio::time::timeout(timeout, ready).await.is_ok() {
            return Ok(());
        }
        Err(AgentError::NotReady { waited: timeout, waiting_for: self.waiting_for().join(", ") })
    }

    fn waiting_for(&self) -> Vec<String> {
        let plugins = self.monitor.status().into_iter().filter(|plugin| plugin.state != PluginState::Running);
        plugins.map(|p| format!("{} is {:?}, last exit: {:?}", p.name, p.state, p.last_exit)).collect()
    }

    /// Takes no more actions; waits for running ones, then cancels them; ends the plugins; closes the sockets; unmounts.
    /// Every action has its result when this returns. Idempotent.
    pub async fn stop(&self) {
        let mut running = self.running.lock().await;
        running.dispatching.shutdown().await;
        self.dispatcher.source.stopping();
        self.dispatcher.reserved.store(0, Ordering::Relaxed);
        let slots = &self.dispatcher.slots;
        if tokio::time::timeout(self.services.drain, slots.all_free()).await.is_err() {
            tracing::warn!(in_flight = slots.in_use(), "stopping: cancelling what still runs");
            self.endpoints.interrupt();
            let _ = tokio::time::timeout(self.services.drain_cancelled, slots.all_free()).await;
        }
        self.monitor.stop().await;
        self.endpoints.close();
        slots.all_free().await;
        running.attending.shutdown().await;
        for mut transport in running.transports.drain(..).rev() {
            transport.shutdown().await;
        }
        let mounts = self.mounts.lock().take();
        let source = Arc::clone(&self.dispatcher.source);
        let _ = tokio::task::spawn_blocking(move || {
            source.stopped();
            mounts.map(cleanup_mounts)
        })
        .await;
        self.dispatcher.stats.audit();
    }

    /// The agent's own mount of the filesystem.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its movers.
    #[must_use]
    pub fn endpoints(&self) -> &Arc<Endpoints> {
        &self.endpoints
    }

    /// Its statistics.
    #[must_use]
    pub fn stats(&self) -> &Arc<ActionStats> {
        &self.dispatcher.stats
    }

    /// Its plugins.
    #[must_use]
    pub fn monitor(&self) -> &PluginMonitor {
        &self.monitor
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> AgentStatus {
        AgentStatus {
            uptime_s: self.started.elapsed().as_secs(),
            in_flight: self.dispatcher.in_flight(),
            in_flight_limit: self.dispatcher.slots.total(),
            plugins: self.monitor.status(),
            movers: self.endpoints.status(),
            archives: self.dispatcher.stats.status(),
        }
    }

    /// Takes over what can change while the agent runs: the number of actions in flight, and when a mover counts as hung. Has
    /// those movers read their configuration again that were started here and said that they understand it: the others
    /// (Lemur's) would end at the signal. What else differs in `config` needs another agent.
    pub fn reload(&self, config: &AgentConfig) -> Vec<ReloadedMover> {
        if config.in_flight_limit() != self.dispatcher.slots.total() {
            self.dispatcher.resize(config.in_flight_limit());
        }
        self.hang_timeout.send_replace(config.mover_hang_timeout);
        let understand: HashSet<i32> =
            self.endpoints.status().iter().filter(|mover| mover.reload).filter_map(|mover| mover.pid).collect();
        let ask = |plugin: PluginStatus| {
            let told = plugin.pid.is_some_and(|pid| understand.contains(&pid) && self.monitor.ask_to_reload(pid));
            ReloadedMover { name: plugin.name, pid: plugin.pid, told }
        };
        self.monitor.status().into_iter().map(ask).collect()
    }

    fn plugins(&self, address: &str) -> Vec<PluginConfig> {
        let mounts = self.mounts.lock();
        let names = self.config.plugin_names();
        let plugin = |(enabled, name): (&String, String)| {
            let (bin_path, arg0) = program(&self.config, enabled);
            PluginConfig {
                client_mount: mounts.as_ref().map_or_else(|| self.root.clone(), |mounts| mounts.mover(&name)),
                name,
                bin_path,
                arg0,
                args: Vec::new(),
                agent_connection: address.to_owned(),
                config_dir: self.services.config_dir.clone(),
                restart_on_failure: true,
                inherited: self.services.inherited.clone(),
            }
        };
        self.config.enabled_plugins.iter().zip(names).map(plugin).collect()
    }
}

/// An enabled plugin's program. Builtins are this very program under another name (by its link in `/proc`, which works also when an
/// upgrade has replaced the file).
fn program(config: &AgentConfig, enabled: &str) -> (PathBuf, Option<String>) {
    let path = config.plugin_path(enabled);
    let short = enabled.strip_prefix("lhsm-plugin-").unwrap_or(enabled);
    if BUILTIN.contains(&short) && !path.exists() {
        return ("/proc/self/exe".into(), Some(format!("lhsm-plugin-{short}")));
    }
    (path, None)
}

/// What has to be looked at from time to time.
struct Watch {
    stats: Arc<ActionStats>,
    endpoints: Arc<Endpoints>,
    monitor: Arc<PluginMonitor>,
    hang_timeout: watch::Receiver<Duration>,
}

impl Watch {
    async fn run(mut self) {
        let (mut rated, mut audited) = (Instant::now(), Instant::now());
        loop {
            let tick = TICK.min(*self.hang_timeout.borrow_and_update() / 4).max(Duration::from_millis(10));
            tokio::select! {
                () = tokio::time::sleep(tick) => {}
                Ok(()) = self.hang_timeout.changed() => continue,
            }
            self.end_hung_movers();
            if rated.elapsed() >= TICK {
                self.stats.tick(rated.elapsed());
                rated = Instant::now();
            }
            if audited.elapsed() >= Duration::from_secs(AUDIT_INTERVAL_S) {
                self.stats.audit();
                audited = Instant::now();
            }
        }
    }

    /// One of ours is killed, and its actions move when its connection ends with it. Another's is sent away.
    fn end_hung_movers(&self) {
        let limit = *self.hang_timeout.borrow();
        for endpoint in self.endpoints.hung(limit) {
            let killed = endpoint.registration().pid.is_some_and(|pid| self.monitor.kill_hung(pid));
            tracing::error!(
                mover = %endpoint, killed, timeout_s = limit.as_secs(),
                "hung: it has actions and reported nothing for too long"
            );
            if !killed {
                self.endpoints.remove_handle(endpoint.handle());
            }
        }
    }
}
