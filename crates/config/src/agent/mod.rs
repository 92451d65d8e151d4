//! The agent's configuration: `/etc/lhsmd/agent`, with Lemur's keys and ours.
//!
//! [`AgentConfig::parse`] is pure, [`AgentConfig::load`] reads the file. Every field's documentation names its key,
//! its default and its range; `docs/configuration.md` is the same for administrators.

mod changes;
mod host;
mod nats;
mod read;
mod show;

pub use changes::KeyChange;
pub use host::Host;
pub use nats::{Nats, NatsAddress, NatsLogin, NatsTls};

use crate::device::ClientDevice;
use crate::error::{ConfigError, Warning};
use crate::secret::Secret;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name under `mount_root` that is the agent's own mount; no plugin may have it.
const AGENT_MOUNT: &str = "agent";

/// How an agent runs. Obtained from a file, or from [`AgentConfig::for_device`] and changed field by field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// `client_device` (required): the filesystem to serve.
    pub client_device: ClientDevice,
    /// `mount_root` (`/mnt/lhsmd`): the agent mounts at `<mount_root>/agent`, each plugin at `<mount_root>/<plugin>`.
    pub mount_root: PathBuf,
    /// `client_mount_options` (`["user_xattr"]`): options of those mounts, after the default one, without duplicates.
    pub client_mount_options: Vec<String>,
    /// `handler_count` (number of CPUs; 1 to 4096): concurrent handlers in the agent.
    pub handler_count: usize,
    /// `enabled_plugins` (required, not empty): names under [`Self::plugin_dir`], builtins, or absolute paths.
    pub enabled_plugins: Vec<String>,
    /// `plugin_dir` (`/usr/libexec/lhsmd`): where plugins named without a path are.
    pub plugin_dir: PathBuf,
    /// `snapshots { … }`.
    pub snapshots: Snapshots,
    /// `transport { … }`.
    pub transport: Transport,
    /// `influxdb { … }`: where to push metrics; `None` pushes nowhere.
    pub influxdb: Option<InfluxDb>,
    /// `state_dir` (`/var/lib/sifaka`): the queue and what else must outlive the agent.
    pub state_dir: PathBuf,
    /// `admin { … }`.
    pub admin: Admin,
    /// `restore { … }`.
    pub restore: Restore,
    /// `retry { … }`.
    pub retry: Retry,
    /// `mover_hang_timeout_s` (300; 1 to 86400): a mover that owns actions and reports nothing for so long is killed
    /// and restarted.
    pub mover_hang_timeout: Duration,
    /// `remove_grace_s` (604800, a week; up to ten years): how long the archive copy of an unlinked file is kept.
    pub remove_grace: Duration,
    /// `keep_versions_s` (0; up to ten years): how long the archive copy of an older version is kept after the file was
    /// archived again.
    pub keep_versions: Duration,
    /// `default_archive` (the first of `copies`, else 1): the archive of a request that names none. One of `copies`, if there are.
    pub default_archive: u32,
    /// `copies` (none; up to 8): the archives that each archived file gets a copy in, each once.
    pub copies: Vec<u32>,
    /// `log { … }`.
    pub log: Log,
    /// `host { … }`: of a host of movers.
    pub host: Host,
    /// The keys that stood in the file, as `section.key`. What [`AgentConfig::merge`] goes by.
    given: BTreeSet<String>,
}

/// `snapshots { … }`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshots {
    /// `enabled` (false): leave a released file for each archived version in `.hsmsnapshot`.
    pub enabled: bool,
}

/// `transport { … }`: how actions reach movers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    /// `type` (`grpc`).
    pub kind: TransportKind,
    /// `socket_dir` (`/var/run/lhsmd`): the directory of the agent's sockets.
    pub socket_dir: PathBuf,
}

/// How actions reach movers that this agent has not started itself. Its own always come by the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportKind {
    /// pdm over gRPC on a unix socket.
    Grpc,
    /// And by NATS to movers on other hosts.
    Nats(Nats),
}

/// `influxdb { … }`: metrics are pushed there every 10 s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfluxDb {
    /// `url` (required).
    pub url: String,
    /// `db` (required): the database.
    pub db: String,
    /// `user` (none).
    pub user: Option<String>,
    /// `password` (none). A file that holds one must be readable by its owner only.
    pub password: Option<Secret>,
}

/// `admin { … }`: the socket the command line and the dashboard talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// `socket` (`<socket_dir>/admin.sock`).
    pub socket: PathBuf,
    /// `group` (none): a group whose members may use the socket besides root.
    pub group: Option<String>,
}

/// `restore { … }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// `timeout_s` (3600; up to 30 days; 0 is `None`, for ever): after so long a blocked reader gets EIO.
    pub timeout: Option<Duration>,
    /// `mode` (`whole`): what is restored when a released file is used.
    pub mode: RestoreMode,
    /// `threshold` (16 MiB): in mode `range`, smaller files are restored whole.
    pub threshold: u64,
    /// `readahead` (32 MiB; 0 to 1 GiB): in mode `range`, how far a file is fetched ahead of a reader who reads it in order.
    pub readahead: u64,
    /// `whole_for` (programs that look for holes): in mode `range`, names of programs, as `/proc/PID/comm` has them, for which
    /// a file is restored whole when they open it.
    pub whole_for: Vec<String>,
}

impl Default for Restore {
    fn default() -> Self {
        Self {
            timeout: Some(Duration::from_secs(3600)),
            mode: RestoreMode::Whole,
            threshold: 16 << 20,
            readahead: 32 << 20,
            whole_for: WHOLE_FOR.map(str::to_owned).into(),
        }
    }
}

/// `restore.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreMode {
    /// All of the file, when it is opened.
    Whole,
    /// Of large files those parts that are read, when they are read.
    Range,
}

impl RestoreMode {
    /// The mode's name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Range => "range",
        }
    }
}

/// Programs that find out where a file has data and where holes, or serve others who do.
const WHOLE_FOR: [&str; 22] = [
    "cp",
    "mv",
    "install",
    "tar",
    "bsdtar",
    "bsdcpio",
    "star",
    "qemu-img",
    "qemu-nbd",
    "qemu-kvm",
    "qemu-system-x86_64",
    "virtiofsd",
    "borg",
    "restic",
    "nfsd",
    "ganesha.nfsd",
    "smbd",
    "xfsdump",
    "xfs_copy",
    "filefrag",
    "ddrescue",
    "bmaptool",
];

/// `retry { … }`: what is done about temporary errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// `max_attempts` (0, which is `None`, without end): attempts before an action fails for good.
    pub max_attempts: Option<NonZeroU32>,
    /// `max_delay_s` (600; 1 to 86400): the longest pause between two attempts.
    pub max_delay: Duration,
}

/// `log { … }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `level` (`info`).
    pub level: LogLevel,
}

/// How much is logged; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Only what failed.
    Error,
    /// And what looks wrong.
    Warn,
    /// And what an administrator would want in a log.
    Info,
    /// And every action's steps.
    Debug,
    /// And every message.
    Trace,
}

impl LogLevel {
    /// The level's name in the file, which is also what `tracing` calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl AgentConfig {
    /// Every default, for `client_device`. No plugins are enabled.
    pub fn for_device(client_device: ClientDevice) -> Self {
        let socket_dir = PathBuf::from("/var/run/lhsmd");
        Self {
            client_device,
            mount_root: "/mnt/lhsmd".into(),
            client_mount_options: vec!["user_xattr".into()],
            handler_count: std::thread::available_parallelism().map_or(1, usize::from).min(read::HANDLER_LIMIT),
            enabled_plugins: Vec::new(),
            plugin_dir: "/usr/libexec/lhsmd".into(),
            snapshots: Snapshots::default(),
            influxdb: None,
            state_dir: "/var/lib/sifaka".into(),
            admin: Admin { socket: default_admin_socket(&socket_dir), group: None },
            transport: Transport { kind: TransportKind::Grpc, socket_dir },
            restore: Restore::default(),
            retry: Retry { max_attempts: None, max_delay: Duration::from_secs(600) },
            mover_hang_timeout: Duration::from_secs(300),
            remove_grace: Duration::from_secs(7 * read::DAY_S),
            keep_versions: Duration::ZERO,
            default_archive: 1,
            copies: Vec::new(),
            log: Log { level: LogLevel::Info },
            host: Host::default(),
            given: BTreeSet::new(),
        }
    }

    /// Reads a configuration, calling it `file_name` in messages.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(text: &str, file_name: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        read::parse(text, file_name)
    }

    /// Reads the configuration file at `path`.
    ///
    /// # Errors
    /// As [`AgentConfig::parse`]; also when the file cannot be read, and when it holds a password and its mode lets
    /// group or others at it.
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), ConfigError> {
        let loaded = crate::file::load(path, "agent configuration", "create it, or name another with --config")?;
        let (config, warnings) = Self::parse(&loaded.text, &loaded.name)?;
        if config.influxdb.as_ref().is_some_and(|influxdb| influxdb.password.is_some()) {
            loaded.refuse_if_shared("holds a password (influxdb.password)")?;
        }
        Ok((config, warnings))
    }

    /// Actions that movers may have at one time, all together: ten for each handler where the file says how many handlers
    /// there are (Lemur's rule), else so many that small files can share their syncs. A place costs a descriptor and no thread.
    #[must_use]
    pub fn in_flight_limit(&self) -> usize {
        const PER_HANDLER: usize = 10;
        const USUAL: usize = 2048;
        if self.given.contains("handler_count") { self.handler_count.saturating_mul(PER_HANDLER) } else { USUAL }
    }

    /// This configuration with what `other`'s file set explicitly laid over it. Mount options add up; every other
    /// key, the `influxdb` block as a whole, and the transport with all that its type needs, is replaced.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        // Destructured, so that a new field cannot be forgotten here.
        let Self {
            client_device,
            mount_root,
            client_mount_options,
            handler_count,
            enabled_plugins,
            plugin_dir,
            snapshots,
            transport,
            influxdb,
            state_dir,
            admin,
            restore,
            retry,
            mover_hang_timeout,
            remove_grace,
            keep_versions,
            default_archive,
            copies,
            log,
            host,
            given,
        } = other;
        let given_keys = given.clone();
        let set = |key: &str| given_keys.contains(key);
        replace(&mut self.client_device, client_device, set("client_device"));
        replace(&mut self.mount_root, mount_root, set("mount_root"));
        for option in client_mount_options {
            push_unique(&mut self.client_mount_options, option);
        }
        replace(&mut self.handler_count, handler_count, set("handler_count"));
        replace(&mut self.enabled_plugins, enabled_plugins, set("enabled_plugins"));
        replace(&mut self.plugin_dir, plugin_dir, set("plugin_dir"));
        replace(&mut self.snapshots.enabled, snapshots.enabled, set("snapshots.enabled"));
        replace(&mut self.transport.kind, transport.kind, set("transport.type"));
        replace(&mut self.transport.socket_dir, transport.socket_dir, set("transport.socket_dir"));
        replace(&mut self.influxdb, influxdb, set("influxdb"));
        replace(&mut self.state_dir, state_dir, set("state_dir"));
        replace(&mut self.admin.socket, admin.socket, set("admin.socket"));
        replace(&mut self.admin.group, admin.group, set("admin.group"));
        replace(&mut self.restore.timeout, restore.timeout, set("restore.timeout_s"));
        replace(&mut self.restore.mode, restore.mode, set("restore.mode"));
        replace(&mut self.restore.threshold, restore.threshold, set("restore.threshold"));
        replace(&mut self.restore.readahead, restore.readahead, set("restore.readahead"));
        replace(&mut self.restore.whole_for, restore.whole_for, set("restore.whole_for"));
        replace(&mut self.retry.max_attempts, retry.max_attempts, set("retry.max_attempts"));
        replace(&mut self.retry.max_delay, retry.max_delay, set("retry.max_delay_s"));
        replace(&mut self.mover_hang_timeout, mover_hang_timeout, set("mover_hang_timeout_s"));
        replace(&mut self.remove_grace, remove_grace, set("remove_grace_s"));
        replace(&mut self.keep_versions, keep_versions, set("keep_versions_s"));
        replace(&mut self.default_archive, default_archive, set("default_archive"));
        replace(&mut self.copies, copies, set("copies"));
        if let Some(first) = self.copies.first()
            && !self.copies.contains(&self.default_archive)
        {
            self.default_archive = *first;
        }
        replace(&mut self.log.level, log.level, set("log.level"));
        replace(&mut self.host.name, host.name, set("host.name"));
        replace(&mut self.host.groups, host.groups, set("host.groups"));
        replace(&mut self.host.labels, host.labels, set("host.labels"));
        if set("transport.socket_dir") && !set("admin.socket") && !self.given.contains("admin.socket") {
            self.admin.socket = default_admin_socket(&self.transport.socket_dir);
        }
        self.given.extend(given);
        self
    }

    /// The name of each enabled plugin, in order: the last part of its path. Names its mount and its own
    /// configuration file.
    pub fn plugin_names(&self) -> Vec<String> {
        self.enabled_plugins.iter().map(|plugin| plugin_name(plugin).to_owned()).collect()
    }

    /// Where the program of an enabled plugin is expected: `plugin` itself when absolute, else under
    /// [`Self::plugin_dir`].
    pub fn plugin_path(&self, plugin: &str) -> PathBuf {
        self.plugin_dir.join(plugin)
    }

    /// Where the agent's own client is mounted.
    pub fn agent_mountpoint(&self) -> PathBuf {
        self.mount_root.join(AGENT_MOUNT)
    }

    /// Where the client of the plugin called `name` is mounted; an absolute path counts as its last part.
    pub fn plugin_mountpoint(&self, name: &str) -> PathBuf {
        self.mount_root.join(plugin_name(name))
    }

    /// How to reach movers on other hosts, when the transport is NATS.
    #[must_use]
    pub fn nats(&self) -> Option<&Nats> {
        match &self.transport.kind {
            TransportKind::Grpc => None,
            TransportKind::Nats(nats) => Some(nats),
        }
    }

    /// Every key an agent's file may hold, as `key` or `section.key`.
    pub fn known_keys() -> BTreeSet<String> {
        read::known_keys()
    }
}

fn default_admin_socket(socket_dir: &Path) -> PathBuf {
    socket_dir.join("admin.sock")
}

fn plugin_name(plugin: &str) -> &str {
    plugin.rsplit('/').next().unwrap_or(plugin)
}

fn push_unique(options: &mut Vec<String>, option: String) {
    if !options.contains(&option) {
        options.push(option);
    }
}

fn replace<T>(slot: &mut T, value: T, given: bool) {
    if given {
        *slot = value;
    }
}

#[cfg(test)]
mod tests;
