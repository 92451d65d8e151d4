//! A plugin's process, from before its first instruction to after its last.

use super::{PluginConfig, SpawnHooks};
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use sys::process::PidFd;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// The one thread that plugins are spawned from. They are killed when it ends (`PR_SET_PDEATHSIG` goes by thread), which is
/// when this is dropped or the agent dies.
#[derive(Clone)]
pub(super) struct Spawner {
    jobs: Arc<Mutex<std::sync::mpsc::Sender<Job>>>,
}

impl Spawner {
    pub(super) fn new() -> io::Result<Self> {
        let (jobs, queue) = std::sync::mpsc::channel::<Job>();
        std::thread::Builder::new().name("spawner".into()).spawn(move || queue.into_iter().for_each(|job| job()))?;
        Ok(Self { jobs: Arc::new(Mutex::new(jobs)) })
    }

    pub(super) async fn spawn(&self, command: Command, hooks: Arc<dyn SpawnHooks>) -> io::Result<Running> {
        let (answer, spawned) = oneshot::channel();
        let job = Box::new(move || {
            let mut told = None;
            let child = sys::process::spawn_held(command, |pid| {
                hooks.on_spawn(pid)?;
                told = Some(pid);
                Ok(())
            });
            if let (Err(_), Some(pid)) = (&child, told) {
                // The program could not be started. Its process was reaped already: numbers do not come again so soon.
                hooks.before_reap(pid);
            }
            // Nobody listens any more: then nobody wants the child.
            if let Err(Ok(mut child)) = answer.send(child.map(|child| (child, hooks))) {
                let _ = child.0.kill();
                let _ = child.0.wait();
            }
        });
        let ended = || io::Error::other("the spawning thread ended");
        self.jobs.lock().send(job).map_err(|_| ended())?;
        let (child, hooks) = spawned.await.map_err(|_| ended())??;
        Running::new(child, hooks)
    }
}

/// The command that starts a plugin.
pub(super) fn command(config: &PluginConfig) -> io::Result<Command> {
    let mut command = Command::new(&config.bin_path);
    if let Some(name) = &config.arg0 {
        command.arg0(name);
    }
    command
        .args(&config.args)
        .current_dir(&config.client_mount)
        .env("LHSMD_AGENT_CONNECTION", &config.agent_connection)
        .env("LHSMD_CLIENT_MOUNTPOINT", &config.client_mount)
        .env("LHSMD_CONFIG_DIR", &config.config_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Interrupting the agent at a terminal is for the agent to see: it ends its plugins in order.
        .process_group(0);
    sys::process::die_with_parent(&mut command);
    sys::signals::unblock_in_child(&mut command);
    for descriptor in &config.inherited {
        sys::process::inherit_fd(&mut command, descriptor.try_clone()?);
    }
    Ok(command)
}

/// A process that was started and not yet reaped.
pub(super) struct Running {
    child: Child,
    hooks: Arc<dyn SpawnHooks>,
    pidfd: Arc<PidFd>,
    reaped: bool,
}

struct Waitable(Arc<PidFd>);

impl AsRawFd for Waitable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Running {
    fn new(mut child: Child, hooks: Arc<dyn SpawnHooks>) -> io::Result<Self> {
        match PidFd::open(child.id().cast_signed()) {
            Ok(pidfd) => Ok(Self { child, hooks, pidfd: Arc::new(pidfd), reaped: false }),
            Err(error) => {
                child.kill()?;
                hooks.before_reap(child.id().cast_signed());
                child.wait()?;
                Err(error)
            }
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Stays valid, and names this process alone, whatever becomes of it.
    pub(super) fn pidfd(&self) -> Arc<PidFd> {
        Arc::clone(&self.pidfd)
    }

    pub(super) fn outputs(&mut self) -> [Option<OwnedFd>; 2] {
        [self.child.stdout.take().map(OwnedFd::from), self.child.stderr.take().map(OwnedFd::from)]
    }

    /// Waits for its end and reaps it. May be dropped and called again.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        ended(Arc::clone(&self.pidfd)).await?;
        self.hooks.before_reap(self.pid());
        let status = self.child.wait()?;
        self.reaped = true;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.child.kill();
            self.hooks.before_reap(self.pid());
            let _ = self.child.wait();
        }
    }
}

/// Waits until all threads of the process have ended: from then on it touches nothing.
pub(super) async fn ended(pidfd: Arc<PidFd>) -> io::Result<()> {
    #[allow(
        deprecated,
        reason = "its successor is unsafe; a `Waitable` owns its one descriptor for as long as it lives"
    )]
    let pidfd = AsyncFd::with_interest(Waitable(pidfd), tokio::io::Interest::READABLE)?;
    pidfd.readable().await.map(drop)
}
