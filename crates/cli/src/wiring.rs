//! Where the agent's parts are put together.

mod lustre_wiring;
mod mover_host;

pub(crate) use mover_host::run_mover_host;

use crate::exit::{CliError, Exit, Outcome};
use crate::reload::{Reloader, SetLogLevel};
use agent::admin::{AdminSocket, Control};
use agent::local::{LocalControl, LocalSource};
use agent::{HsmAgent, Services, SpawnHooks, configure_mounts};
use config::{AgentConfig, ClientDevice, RestoreMode};
use coordinator::guard::{GuardLink, GuardSetup};
use coordinator::{Engine, EngineConfig, RangeConfig};
use model::Backoff;
use queue::{Queue, QueueError, SqliteQueue};
use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// Exit code of an agent whose queue turned out to be damaged: the guard starts the next one, which begins a new queue.
const QUEUE_DAMAGED: i32 = 70;

fn failed(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> CliError {
    move |error| CliError::new(Exit::NotHere, format!("{what}: {error}"))
}

fn not_here(error: impl std::fmt::Display) -> CliError {
    CliError::new(Exit::NotHere, error.to_string())
}

/// The error with all that is behind it.
fn with_causes(error: &dyn std::error::Error) -> CliError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    not_here(text)
}

/// How the engine manages the filesystem at `root`.
pub(crate) fn engine_config(config: &AgentConfig, root: &Path) -> EngineConfig {
    EngineConfig {
        root: root.to_path_buf(),
        default_archive: config.default_archive,
        copies: config.copies.clone(),
        restore_timeout: config.restore.timeout,
        backoff: backoff(config),
        remove_grace: config.remove_grace,
        keep_versions: config.keep_versions,
        snapshots: config.snapshots.enabled,
        ranges: (config.restore.mode == RestoreMode::Range).then(|| RangeConfig {
            threshold: config.restore.threshold,
            readahead: config.restore.readahead,
            whole_for: config.restore.whole_for.clone(),
        }),
    }
}

/// How what failed for now is tried again.
fn backoff(config: &AgentConfig) -> Backoff {
    Backoff {
        max_delay_ms: u64::try_from(config.retry.max_delay.as_millis()).unwrap_or(u64::MAX),
        max_attempts: config.retry.max_attempts.map_or(0, Into::into),
    }
}

/// Runs an agent until it is asked to end. `config_file` is where `config` came from: its directory holds the movers' files.
pub(crate) fn run_agent(config: AgentConfig, config_file: &Path, set_log_level: SetLogLevel) -> Outcome {
    sys::process::raise_nofile_limit();
    let config_file = std::path::absolute(config_file).map_err(failed("finding the configuration file"))?;
    let _lock = lock_state(&config.state_dir)?;
    make_private(&config.transport.socket_dir)?;
    match &config.client_device {
        ClientDevice::Local(path) if lustre_wiring::at(path)?.is_none() => {
            if config.nats().is_some() {
                return Err(CliError::new(Exit::Config, on_one_host_alone(path)));
            }
            let mount_point = path.clone();
            run_local(config, mount_point, config_file, set_log_level)
        }
        _ => lustre_wiring::run(config, config_file, set_log_level),
    }
}

/// Whether a filesystem is one of this host's alone, as far as that can be seen.
pub(crate) fn is_local(device: &ClientDevice) -> bool {
    matches!(device, ClientDevice::Local(path) if path.is_dir() && matches!(lustre_wiring::at(path), Ok(None)))
}

/// Why the movers of other hosts are of no use to it.
pub(crate) fn on_one_host_alone(path: &Path) -> String {
    format!(
        "transport \"nats\": {} is a filesystem of this host alone, whose files movers on other hosts cannot reach; use \"grpc\"",
        path.display()
    )
}

fn run_local(config: AgentConfig, mount_point: PathBuf, config_file: PathBuf, set_log_level: SetLogLevel) -> Outcome {
    let queue = open_queue(&config.state_dir.join("queue.db"))?;
    let mounts = configure_mounts(&config).map_err(|e| with_causes(&e))?;
    let guard = guard_setup(&config, &mount_point, &config_file)?;
    let guard = can_guard(&mount_point).then_some(guard);
    let engine = Engine::start(engine_config(&config, mounts.agent()), queue, guard, |error| {
        tracing::error!(error, "the agent ends, to begin a new queue");
        std::process::exit(QUEUE_DAMAGED);
    });
    let engine = engine.map_err(|e| with_causes(&e))?;
    let mut services = Services::new(config_file.parent().unwrap_or(Path::new("/")).to_path_buf());
    if let Some(guard) = engine.guard() {
        services.hooks = Arc::new(TrustMovers(Arc::clone(guard)));
        // One more holder each: see ARCHITECTURE.md.
        services.inherited = vec![Arc::new(guard.group().map_err(failed("sharing the guard's group"))?)];
    }
    let source = Arc::new(LocalSource::new(Arc::clone(&engine)));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed("starting the runtime"))?;
    let admin = (config.admin.socket.clone(), config.admin.group.clone());
    let mount_root = config.mount_root.clone();
    let ended = runtime.block_on(async {
        let agent = Arc::new(HsmAgent::new(config.clone(), mounts, services, source).map_err(not_here)?);
        let status = {
            let agent = Arc::clone(&agent);
            move || serde_json::to_value(agent.status()).unwrap_or_default()
        };
        let reloader = Reloader {
            file: config_file.clone(),
            latest: config.clone().into(),
            started: config,
            apply: {
                let (engine, root) = (Arc::clone(&engine), agent.root().to_owned());
                Box::new(move |new| engine.reconfigure(engine_config(new, &root)))
            },
            agent: Arc::clone(&agent),
            set_log_level,
        };
        let control = LocalControl::new(Arc::clone(&engine), mount_point, mount_root, status);
        let control = Arc::new(control.naming_movers(Arc::clone(agent.endpoints())).on_reload(move || reloader.run()));
        let ended = serve(&agent, control as _, &admin.0, admin.1.as_deref()).await;
        agent.stop().await;
        ended
    });
    engine.stop();
    ended
}

/// From start to the request to end.
async fn serve(agent: &HsmAgent, control: Arc<dyn Control>, socket: &Path, group: Option<&str>) -> Outcome {
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("listening to signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("listening to signals"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed("listening to signals"))?;
    agent.start().await.map_err(|e| with_causes(&e))?;
    let socket = AdminSocket::bind(socket, group).map_err(|e| with_causes(&e))?;
    tracing::info!(pid = std::process::id(), "the agent runs");
    let asked = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to end");
    };
    let reloading = async {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: reading the configuration again");
            if let Err(error) = control.reload().await {
                tracing::error!("nothing was changed: {error}");
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        () = agent::admin::serve(socket, Arc::clone(&control), asked) => {}
        () = reloading => {}
    }
    Ok(Exit::Ok)
}

/// What this host is called.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "unnamed".into() } else { name.to_owned() }
}

/// One agent a state directory: a second one would unmount the first one's mounts and share its queue.
fn lock_state(directory: &Path) -> Result<File, CliError> {
    make_private(directory)?;
    let path = directory.join("agent.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed(path.display()))?;
    // The guard may have started this agent before the kernel closed the last one's files.
    for _ in 0..50 {
        if sys::file::try_lock_exclusive(&file).map_err(failed(path.display()))? {
            return Ok(file);
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Err(not_here(format!("another agent uses {}: stop it first", directory.display())))
}

/// Keeps agents from starting, for whoever changes what is theirs. `None` when one runs.
pub(crate) fn lock_unless_running(directory: &Path) -> Result<Option<File>, CliError> {
    make_private(directory)?;
    let path = directory.join("agent.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed(path.display()))?;
    let free = sys::file::try_lock_exclusive(&file).map_err(failed(path.display()))?;
    Ok(free.then_some(file))
}

fn make_private(directory: &Path) -> Result<(), CliError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(failed(format!("making the directory {}", directory.display())))
}

/// A damaged queue is put aside: what is done to files stands in their attributes, and what was asked for can be asked again.
fn open_queue(path: &Path) -> Result<Arc<dyn Queue>, CliError> {
    match SqliteQueue::open(path) {
        Ok(queue) => Ok(Arc::new(queue)),
        Err(error @ QueueError::Corrupt { .. }) => {
            let aside = SqliteQueue::set_aside(path).map_err(failed(&error))?;
            tracing::error!(%error, moved_to = %aside.display(), "began a new queue");
            Ok(Arc::new(SqliteQueue::open(path).map_err(not_here)?))
        }
        Err(error) => Err(not_here(error)),
    }
}

fn guard_setup(config: &AgentConfig, mount_point: &Path, config_file: &Path) -> Result<GuardSetup, CliError> {
    let program: PathBuf = std::env::current_exe().map_err(failed("finding this program"))?;
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let mut guard_command = vec![program.clone().into_os_string()];
    guard_command.extend(words(&["guard", "run"]));
    let mut agent_command = vec![program.into_os_string(), "--config".into(), config_file.into(), "agent".into()];
    if config.log.level >= config::agent::LogLevel::Debug {
        agent_command.push("--debug".into());
    }
    let socket_dir = config.transport.socket_dir.clone();
    Ok(GuardSetup { mount_point: mount_point.to_path_buf(), socket_dir, guard_command, agent_command })
}

/// Whether this kernel and filesystem let anybody stand between readers and files.
fn can_guard(mount_point: &Path) -> bool {
    let tried = File::open(mount_point).and_then(|root| {
        let group = sys::fanotify::PreContentGroup::new()?;
        // On the directory alone, and gone at once: asks without guarding.
        group.ignore_inode(&root, true)
    });
    if let Err(error) = &tried {
        tracing::error!(%error, "nothing can be released on this system, and files released elsewhere are NOT protected; see `sifaka doctor`");
    }
    tried.is_ok()
}

/// The guard lets movers through, as long as their pids are theirs.
struct TrustMovers(Arc<GuardLink>);

impl SpawnHooks for TrustMovers {
    fn on_spawn(&self, pid: i32) -> io::Result<()> {
        self.0.trust(pid);
        Ok(())
    }

    fn before_reap(&self, pid: i32) {
        self.0.distrust(pid);
    }
}
