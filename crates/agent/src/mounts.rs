//! The agent's and the movers' own mounts of the filesystem: private copies that nobody else unmounts or covers.

use config::{AgentConfig, ClientDevice};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long unmounting is tried, once a second, before the mount is only taken from sight.
pub const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(10);

const ENODEV: i32 = 19;

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
}

impl ClientMounts {
    /// No mounts: the agent and all movers work in `directory` itself. For movers that touch no files.
    #[must_use]
    pub fn shared_directory(directory: PathBuf) -> Self {
        Self { agent: directory, movers: PathBuf::new(), mounted: Vec::new(), shared: true, lazily: false }
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
/// then taken from sight. Blocks.
pub fn cleanup_mounts(mut mounts: ClientMounts) {
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
