//! Starts plugins, logs what they print, notices when they end, and starts them again.
//!
//! Knows processes, not actions. What ties the two together: a plugin counts as running once a mover with its pid asked for actions, and a
//! mover that lost its stream is killed before anybody else gets its actions (both through [`MoverProcesses`]).

mod delays;
mod output;
mod process;

pub use delays::RestartDelays;

use crate::endpoints::MoverProcesses;
use delays::Restarts;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use process::{Running, Spawner};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use sys::process::PidFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const SIGHUP: i32 = 1;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// How one plugin is started.
#[derive(Clone, Debug)]
pub struct PluginConfig {
    /// Its name: in the log, in the status, of its mount.
    pub name: String,
    /// Its program.
    pub bin_path: PathBuf,
    /// What it is told that its program is called, when that is not `bin_path`: a program that is several by its name.
    pub arg0: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where it finds the agent (`LHSMD_AGENT_CONNECTION`).
    pub agent_connection: String,
    /// Its own mount, and working directory (`LHSMD_CLIENT_MOUNTPOINT`).
    pub client_mount: PathBuf,
    /// Where its configuration is (`LHSMD_CONFIG_DIR`).
    pub config_dir: PathBuf,
    /// Whether it is started again when it ends.
    pub restart_on_failure: bool,
    /// Descriptors it gets, under the numbers that their duplicates happen to have.
    pub inherited: Vec<Arc<OwnedFd>>,
}

impl PluginConfig {
    /// It is not started again when it ends.
    #[must_use]
    pub fn no_restart(mut self) -> Self {
        self.restart_on_failure = false;
        self
    }
}

/// Somebody who has to know the pids of plugins as long as these can do anything.
pub trait SpawnHooks: Send + Sync {
    /// Called before the program's first instruction; an error prevents it.
    fn on_spawn(&self, pid: i32) -> io::Result<()>;

    /// Called when the process has ended and its number is about to become free, once for each `on_spawn` that succeeded.
    /// (When the program could not be started, just after.)
    fn before_reap(&self, pid: i32);
}

/// Nobody has to know.
impl SpawnHooks for () {
    fn on_spawn(&self, _: i32) -> io::Result<()> {
        Ok(())
    }

    fn before_reap(&self, _: i32) {}
}

/// How patient the monitor is.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Before restarts.
    pub restart: RestartDelays,
    /// From start to the first call for actions, before it is called slow.
    pub slow_start: Duration,
    /// From SIGTERM to SIGKILL.
    pub terminate: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            restart: RestartDelays::default(),
            slow_start: Duration::from_secs(30),
            terminate: Duration::from_secs(10),
        }
    }
}

/// What a plugin is doing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum PluginState {
    /// Started, and not heard of yet.
    Starting {
        /// For longer than usual.
        slow: bool,
    },
    /// It asked for actions.
    Running,
    /// It ended, and is started again then.
    Backoff {
        /// When.
        until: SystemTime,
    },
    /// It did nothing for too long, and is being killed.
    Hung,
    /// It ended for good.
    Stopped,
}

/// A plugin's account.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PluginStatus {
    /// Its name.
    pub name: String,
    /// What it is doing.
    #[serde(flatten)]
    pub state: PluginState,
    /// Its process, if there is one.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u64,
    /// How it ended last, or why it could not be started.
    pub last_exit: Option<String>,
}

struct Live {
    status: PluginStatus,
    pidfd: Option<Arc<PidFd>>,
}

/// One plugin, as its supervisor and the monitor share it.
struct Plugin {
    live: Mutex<Live>,
    changed: watch::Sender<()>,
}

/// The plugins of one agent.
pub struct PluginMonitor {
    shared: Arc<Shared>,
    supervisors: Mutex<Vec<JoinHandle<()>>>,
    stop: watch::Sender<bool>,
}

struct Shared {
    spawner: Spawner,
    hooks: Arc<dyn SpawnHooks>,
    patience: Patience,
    plugins: Mutex<BTreeMap<String, Arc<Plugin>>>,
    changed: watch::Sender<()>,
}

impl PluginMonitor {
    /// A monitor without plugins.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub fn start(hooks: Arc<dyn SpawnHooks>, patience: Patience) -> io::Result<Self> {
        let shared = Shared {
            spawner: Spawner::new()?,
            hooks,
            patience,
            plugins: Mutex::default(),
            changed: watch::Sender::new(()),
        };
        Ok(Self { shared: Arc::new(shared), supervisors: Mutex::default(), stop: watch::Sender::new(false) })
    }

    /// Starts a plugin, and from now on sees to it. Needs a tokio runtime. A plugin that cannot be started is tried again like one that ended.
    pub fn start_plugin(&self, config: PluginConfig) {
        let status = PluginStatus {
            name: config.name.clone(),
            state: PluginState::Starting { slow: false },
            pid: None,
            restarts: 0,
            last_exit: None,
        };
        let live = Mutex::new(Live { status, pidfd: None });
        let plugin = Arc::new(Plugin { live, changed: self.shared.changed.clone() });
        self.shared.plugins.lock().insert(config.name.clone(), Arc::clone(&plugin));
        let supervisor = supervise(Arc::clone(&self.shared), plugin, config, self.stop.subscribe());
        self.supervisors.lock().push(tokio::spawn(supervisor));
    }

    /// Every plugin's account, by name.
    #[must_use]
    pub fn status(&self) -> Vec<PluginStatus> {
        self.shared.plugins.lock().values().map(|plugin| plugin.live.lock().status.clone()).collect()
    }

    /// Notified when an account changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// Waits until every plugin has asked for actions or ended since it was started, or is slow.
    pub async fn all_tried(&self) {
        let mut changes = self.changes();
        let is_expected = |plugin: &PluginStatus| {
            plugin.restarts == 0 && matches!(plugin.state, PluginState::Starting { slow: false })
        };
        while self.status().iter().any(is_expected) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Kills the plugin with this pid because it does nothing. False when there is none.
    #[must_use]
    pub fn kill_hung(&self, pid: i32) -> bool {
        let Some(plugin) = self.shared.find(pid) else { return false };
        plugin.update(|live| live.status.state = PluginState::Hung);
        let pidfd = plugin.live.lock().pidfd.clone();
        pidfd.is_some_and(|pidfd| pidfd.kill(SIGKILL).is_ok())
    }

    /// Kills every plugin that runs. They are started again, like others that end.
    pub fn kill_running(&self) {
        let plugins: Vec<_> = self.shared.plugins.lock().values().cloned().collect();
        for plugin in plugins {
            if let Some(pidfd) = plugin.live.lock().pidfd.clone() {
                // Fails when it has ended.
                let _ = pidfd.kill(SIGKILL);
            }
        }
    }

    /// Sends the plugin with this pid the signal to read its configuration again (SIGHUP), which ends a program that does not
    /// know it. False when there is none.
    #[must_use]
    pub fn ask_to_reload(&self, pid: i32) -> bool {
        let pidfd = self.shared.find(pid).and_then(|plugin| plugin.live.lock().pidfd.clone());
        pidfd.is_some_and(|pidfd| pidfd.kill(SIGHUP).is_ok())
    }

    /// Asks every plugin to end, kills those that do not, and waits for all. Idempotent.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let supervisors = std::mem::take(&mut *self.supervisors.lock());
        for supervisor in supervisors {
            let _ = supervisor.await;
        }
    }
}

impl MoverProcesses for PluginMonitor {
    fn registered(&self, pid: i32) {
        if let Some(plugin) = self.shared.find(pid) {
            plugin.update(|live| live.status.state = PluginState::Running);
        }
    }

    fn fence(&self, pid: i32) -> Option<BoxFuture<'static, ()>> {
        let plugin = self.shared.find(pid)?;
        let known = plugin.live.lock().pidfd.clone();
        let pidfd = known.or_else(|| PidFd::open(pid).ok().map(Arc::new))?;
        let name = plugin.live.lock().status.name.clone();
        Some(Box::pin(async move {
            if pidfd.kill(SIGKILL).is_ok() {
                tracing::warn!(plugin = name, pid, "killed: it left actions unfinished and must not go on with them");
            }
            if let Err(error) = process::ended(pidfd).await {
                tracing::error!(plugin = name, pid, %error, "cannot wait for the end of a plugin");
            }
        }))
    }
}

impl Shared {
    fn find(&self, pid: i32) -> Option<Arc<Plugin>> {
        self.plugins.lock().values().find(|plugin| plugin.live.lock().status.pid == Some(pid)).cloned()
    }
}

impl Plugin {
    fn update(&self, change: impl FnOnce(&mut Live)) {
        change(&mut self.live.lock());
        self.changed.send_replace(());
    }
}

/// The plugin is known by its pid before its program can call.
struct Named {
    plugin: Arc<Plugin>,
    hooks: Arc<dyn SpawnHooks>,
}

impl SpawnHooks for Named {
    fn on_spawn(&self, pid: i32) -> io::Result<()> {
        self.hooks.on_spawn(pid)?;
        self.plugin.update(|live| live.status.pid = Some(pid));
        Ok(())
    }

    fn before_reap(&self, pid: i32) {
        self.plugin.update(|live| {
            live.status.pid = None;
            live.pidfd = None;
        });
        self.hooks.before_reap(pid);
    }
}

/// How waiting for a process ended.
enum End {
    Itself(io::Result<ExitStatus>),
    Stopped,
}

/// Starts the plugin, waits for its end, and so on until it is to stop.
async fn supervise(shared: Arc<Shared>, plugin: Arc<Plugin>, config: PluginConfig, mut stop: watch::Receiver<bool>) {
    let mut restarts = Restarts::default();
    loop {
        let how = match run_once(&shared, &plugin, &config, &mut stop).await {
            Ok(End::Stopped) => break,
            Ok(End::Itself(Ok(status))) => status.to_string(),
            Ok(End::Itself(Err(error))) => format!("unknown: {error}"),
            Err(error) => format!("cannot be started: {}: {error}", config.bin_path.display()),
        };
        plugin.update(|live| live.status.last_exit = Some(how.clone()));
        if !config.restart_on_failure {
            tracing::warn!(plugin = config.name, exit = how, "ended, and is not started again");
            break;
        }
        let delay = restarts.next(&shared.patience.restart, Instant::now());
        tracing::warn!(
            plugin = config.name,
            exit = how,
            delay_s = delay.as_secs_f64(),
            "ended, and is started again after a delay"
        );
        plugin.update(|live| live.status.state = PluginState::Backoff { until: SystemTime::now() + delay });
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep(delay) => {}
        }
        plugin.update(|live| live.status.restarts += 1);
    }
    plugin.update(|live| live.status.state = PluginState::Stopped);
}

async fn run_once(
    shared: &Shared,
    plugin: &Arc<Plugin>,
    config: &PluginConfig,
    stop: &mut watch::Receiver<bool>,
) -> io::Result<End> {
    if *stop.borrow() {
        return Ok(End::Stopped);
    }
    plugin.update(|live| live.status.state = PluginState::Starting { slow: false });
    // Not dropped half-way by a stop: the spawner's answer is short, and a process nobody knows of is worse.
    let hooks = Named { plugin: Arc::clone(plugin), hooks: Arc::clone(&shared.hooks) };
    let mut running = shared.spawner.spawn(process::command(config)?, Arc::new(hooks)).await?;
    let pid = running.pid();
    plugin.update(|live| live.pidfd = Some(running.pidfd()));
    tracing::info!(plugin = config.name, pid, program = %config.bin_path.display(), "started");
    let [out, err] = running.outputs();
    let logs = [(out, "stdout"), (err, "stderr")].map(|(pipe, stream)| {
        let name = config.name.clone();
        tokio::spawn(async move {
            if let Some(pipe) = pipe {
                output::log_lines(pipe, name, stream).await;
            }
        })
    });
    let end = wait(shared, plugin, &mut running, config, stop).await;
    for mut log in logs {
        // A grandchild may hold the pipe open; what the plugin itself printed is in it already.
        if tokio::time::timeout(Duration::from_secs(1), &mut log).await.is_err() {
            log.abort();
        }
    }
    Ok(end)
}

async fn wait(
    shared: &Shared,
    plugin: &Plugin,
    running: &mut Running,
    config: &PluginConfig,
    stop: &mut watch::Receiver<bool>,
) -> End {
    let slow_at = tokio::time::sleep(shared.patience.slow_start);
    tokio::pin!(slow_at);
    loop {
        tokio::select! {
            status = running.wait() => return End::Itself(status),
            _ = stop.wait_for(|stop| *stop) => break,
            () = &mut slow_at, if !slow_at.is_elapsed() => plugin.update(|live| {
                if let PluginState::Starting { slow } = &mut live.status.state {
                    tracing::warn!(plugin = config.name, "starting (slow): it has not asked for actions yet");
                    *slow = true;
                }
            }),
        }
    }
    let pidfd = running.pidfd();
    if let Err(error) = pidfd.kill(SIGTERM) {
        tracing::debug!(plugin = config.name, %error, "SIGTERM");
    }
    let status = match tokio::time::timeout(shared.patience.terminate, running.wait()).await {
        Ok(status) => status,
        Err(_) => {
            tracing::warn!(plugin = config.name, "killed: it did not end when asked to");
            let _ = pidfd.kill(SIGKILL);
            running.wait().await
        }
    };
    plugin.update(|live| live.status.last_exit = status.ok().map(|status| status.to_string()));
    End::Stopped
}
