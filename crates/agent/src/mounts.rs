//! The agent's and the movers' own mounts of the filesystem: private copies that nobody else unmounts or covers.

use crate::within;
use config::{AgentConfig, ClientDevice};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long unmounting is tried, once a second, before the mount is only taken from sight.
pub const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take that is unmounted by force: Lustre's waits ten seconds for its users.
const FORCE_TIMEOUT: Duration = Duration::from_secs(15);

const ENODEV: i32 = 19;
const EINVAL: i32 = 22;

/// Why the filesystem cannot be mounted for the agent.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A step failed.
    #[error("{what} {}", path.display())]
    Step {
        /// What was done.
        what: &'static str,
        /// To which path.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// The kernel knows no Lustre.
    #[error(
        "cannot mount {0}: this kernel has no Lustre client. Install the client's kernel modules (package lustre-client-modules, or \
         lustre-client-dkms) and try `modprobe lustre`"
    )]
    NoLustre(String),
}

fn step(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MountError {
    move |cause| MountError::Step { what, path: path.to_owned(), cause }
}

/// The mounts of one agent. Dropping unmounts without waiting; [`cleanup_mounts`] waits for users to leave first.
#[derive(Debug)]
pub struct ClientMounts {
    agent: PathBuf,
    movers: PathBuf,
    /// In the order in which they were mounted: the agent's first.
    mounted: Vec<PathBuf>,
    /// Agent and movers share `agent` as it is.
    shared: bool,
    /// Whatever still uses them is not waited for: on Lustre, the client library keeps the root open as long as this process lives.
    lazily: bool,
    /// Each is a client of its own, of servers that may not answer.
    clients: bool,
}

impl ClientMounts {
    /// No mounts: the agent and all movers work in `directory` itself. For movers that touch no files.
    #[must_use]
    pub fn shared_directory(directory: PathBuf) -> Self {
        Self {
            agent: directory,
            movers: PathBuf::new(),
            mounted: Vec::new(),
            shared: true,
            lazily: false,
            clients: false,
        }
    }

    /// Takes them from sight at the end, without waiting until nobody uses them.
    #[must_use]
    pub fn detached_at_the_end(mut self) -> Self {
        self.lazily = true;
        self
    }

    /// The agent's own.
    #[must_use]
    pub fn agent(&self) -> &Path {
        &self.agent
    }

    /// A mover's.
    #[must_use]
    pub fn mover(&self, plugin: &str) -> PathBuf {
        if self.shared { self.agent.clone() } else { self.movers.join(plugin) }
    }
}

impl Drop for ClientMounts {
    fn drop(&mut self) {
        if self.clients {
            return unmount_clients(std::mem::take(&mut self.mounted));
        }
        while let Some(path) = self.mounted.pop() {
            let unmounted = sys::mounts::unmount(&path, false).or_else(|_| sys::mounts::unmount(&path, true));
            if let Err(error) = unmounted {
                tracing::warn!(path = %path.display(), %error, "cannot unmount");
            }
        }
    }
}

/// Mounts the filesystem of `client_device` for the agent and for each enabled plugin, below `mount_root`: copies of a local mount, or
/// Lustre clients. What a killed agent left there is unmounted first. Blocks.
///
/// # Errors
/// What was mounted so far is unmounted again.
pub fn configure_mounts(config: &AgentConfig) -> Result<ClientMounts, MountError> {
    let agent = config.agent_mountpoint();
    let movers: Vec<PathBuf> = config.plugin_names().iter().map(|name| config.plugin_mountpoint(name)).collect();
    // First of all: the root may be looked at through a mount that is about to go.
    for path in movers.iter().rev().chain([&agent]) {
        remove_leftovers(path)?;
    }
    let source = Source::open(config)?;
    let mut mounts = ClientMounts {
        agent: agent.clone(),
        movers: config.mount_root.clone(),
        mounted: Vec::new(),
        shared: false,
        lazily: matches!(source, Source::Lustre { .. }),
        clients: matches!(source, Source::Lustre { .. }),
    };
    for path in [&agent].into_iter().chain(&movers) {
        if mounts.mounted.contains(path) {
            continue;
        }
        create_directory(path).map_err(step("creating the mount point", path))?;
        source.mount(path)?;
        mounts.mounted.push(path.clone());
    }
    Ok(mounts)
}

/// What is mounted.
enum Source<'a> {
    Local { device: &'a Path, root: OwnedFd },
    Lustre { device: String, options: &'a [String] },
}

impl<'a> Source<'a> {
    fn open(config: &'a AgentConfig) -> Result<Self, MountError> {
        match &config.client_device {
            ClientDevice::Local(device) => {
                let root = sys::mounts::open_mount(device).map_err(step("opening the filesystem at", device))?;
                Ok(Self::Local { device, root })
            }
            lustre @ ClientDevice::Lustre { .. } => {
                Ok(Self::Lustre { device: lustre.to_string(), options: &config.client_mount_options })
            }
        }
    }

    fn mount(&self, path: &Path) -> Result<(), MountError> {
        match self {
            Self::Local { device, root } => {
                let copy = sys::mounts::clone_private(root).map_err(step("copying the mount of", device))?;
                sys::mounts::attach(&copy, path).map_err(step("mounting at", path))
            }
            Self::Lustre { device, options } => {
                sys::mounts::mount_lustre(device, path, options).map_err(|cause| match cause.raw_os_error() {
                    Some(ENODEV) => MountError::NoLustre(device.clone()),
                    _ => step("mounting the Lustre client at", path)(cause),
                })
            }
        }
    }
}

/// Unmounts, the movers' first and the agent's last; what is busy is tried again once a second for [`UNMOUNT_TIMEOUT`], and
/// then taken from sight. Lustre clients whose servers do not answer for as long are unmounted by force. Blocks.
pub fn cleanup_mounts(mut mounts: ClientMounts) {
    if mounts.clients {
        return unmount_clients(std::mem::take(&mut mounts.mounted));
    }
    let end = Instant::now() + UNMOUNT_TIMEOUT;
    while let Some(path) = mounts.mounted.pop() {
        loop {
            match sys::mounts::unmount(&path, false) {
                Ok(()) => break,
                Err(error) if mounts.lazily => {
                    tracing::debug!(path = %path.display(), %error, "taken from sight");
                    if let Err(error) = sys::mounts::unmount(&path, true) {
                        tracing::warn!(path = %path.display(), %error, "cannot unmount");
                    }
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                    tracing::info!(path = %path.display(), "busy; trying again");
                    std::thread::sleep(Duration::from_secs(1));
                }
                Err(error) => {
                    let detached = sys::mounts::unmount(&path, true).is_ok();
                    tracing::warn!(path = %path.display(), %error, detached, "cannot unmount");
                    break;
                }
            }
        }
    }
}

/// All at once, so that servers that do not answer are waited for once.
fn unmount_clients(paths: Vec<PathBuf>) {
    std::thread::scope(|scope| {
        for path in &paths {
            let unmount = || unmount_client(path, UNMOUNT_TIMEOUT);
            if std::thread::Builder::new().spawn_scoped(scope, unmount).is_err() {
                unmount();
            }
        }
    });
}

/// An unmounted client says goodbye to its servers, and waits for their answer where nobody can reach it any more, by force or otherwise. So they are
/// asked something before; if that takes too long, they get no goodbye. (The process is waited for by the kernel with whatever it
/// does there, until the client gives up its calls.)
fn unmount_client(path: &Path, patience: Duration) {
    let given_up = Arc::new(AtomicBool::new(false));
    let politely = {
        let (path, given_up) = (path.to_owned(), Arc::clone(&given_up));
        move || {
            if let Err(error) = sys::mounts::write_out_and_ask(&path) {
                tracing::warn!(path = %path.display(), %error, "its servers were asked before it is unmounted");
            }
            // By now somebody else's mount may be there.
            if given_up.load(Ordering::SeqCst) {
                return Ok(());
            }
            // The library keeps it busy.
            sys::mounts::unmount(&path, false).or_else(|_| sys::mounts::unmount(&path, true))
        }
    };
    let shown = path.display();
    match within(patience, politely) {
        Some(Ok(())) => return,
        Some(Err(error)) => return tracing::warn!(path = %shown, %error, "cannot unmount"),
        None => given_up.store(true, Ordering::SeqCst),
    }
    let forced = path.to_owned();
    match within(FORCE_TIMEOUT, move || sys::mounts::unmount_by_force(forced)) {
        Some(Ok(())) => tracing::error!(path = %shown, "unmounted by force: its servers do not answer"),
        // It is on its way out, and out of sight.
        Some(Err(error)) if error.raw_os_error() == Some(EINVAL) => {
            tracing::error!(path = %shown, "its servers do not answer its goodbye");
        }
        Some(Err(error)) => {
            tracing::error!(path = %shown, %error, "its servers do not answer, and it cannot be unmounted by force")
        }
        None => tracing::error!(path = %shown, "its servers do not answer, and it is not unmounted by force either"),
    }
}

/// Whatever is mounted at the path and below. Processes of the dead agent may still sit there: taken from sight.
fn remove_leftovers(path: &Path) -> Result<(), MountError> {
    for leftover in sys::mounts::mounts_under(path).map_err(step("looking for mounts at", path))? {
        tracing::info!(path = %leftover.display(), "unmounting what an agent left");
        sys::mounts::unmount(&leftover, true).map_err(step("unmounting what an agent left at", &leftover))?;
    }
    Ok(())
}

fn create_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    /// A filesystem whose server has been started and never answers.
    struct Silent {
        server: Child,
        path: PathBuf,
    }

    impl Silent {
        fn mount(path: &Path) -> Self {
            let script = "exec 3<>/dev/fuse; mount -i -t fuse -o fd=3,rootmode=040000,user_id=0,group_id=0 silent \"$1\" && echo mounted; read _";
            let mut server = Command::new("sh")
                .args(["-c", script, "sh"])
                .arg(path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = String::new();
            BufReader::new(server.stdout.take().unwrap()).read_line(&mut said).unwrap();
            assert_eq!(said, "mounted\n");
            Self { server, path: path.to_owned() }
        }
    }

    impl Drop for Silent {
        fn drop(&mut self) {
            drop(self.server.stdin.take());
            let _ = self.server.wait();
            let _ = sys::mounts::unmount_by_force(&self.path);
        }
    }

    #[test]
    fn a_client_whose_server_does_not_answer_is_unmounted_by_force() {
        let directory = tempfile::tempdir().unwrap();
        let silent = Silent::mount(directory.path());
        let (told, asked) = std::sync::mpsc::channel();
        let path = directory.path().to_owned();
        std::thread::spawn(move || told.send(sys::mounts::write_out_and_ask(path)));
        assert!(asked.recv_timeout(Duration::from_millis(200)).is_err(), "it does not answer");
        unmount_client(directory.path(), Duration::from_millis(100));
        assert!(!sys::mounts::is_mount_point(directory.path()).unwrap());
        // Whoever waits for it has an answer now.
        assert!(asked.recv_timeout(Duration::from_secs(20)).unwrap().is_err());
        drop(silent);
    }

    #[test]
    fn a_client_whose_server_answers_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(directory.path()).status().unwrap();
        assert!(mounted.success());
        unmount_client(directory.path(), Duration::from_secs(20));
        assert!(!sys::mounts::is_mount_point(directory.path()).unwrap());
    }
}
