//! The agent on Lustre: no guard and no coordinator of our own, since Lustre's servers are both.

use super::{backoff, failed, not_here, serve, with_causes};
use crate::exit::{CliError, Outcome};
use crate::reload::{Reloader, SetLogLevel};
use ::lustre::{Filesystem, LustreConfig, LustreControl, LustreSource, Patience, StartError};
use agent::admin::hosts::HostControl;
use agent::{HsmAgent, Services, configure_mounts};
use cluster::nats::{Hosts, NatsTransport};
use config::agent::Nats;
use config::{AgentConfig, ClientDevice};
use queue::{ItemJournal, QueueError};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use sys::lustre::Library;

/// Where agents lock what only one of a host may have.
const LOCKS: &str = "/run/sifaka";

/// The Lustre filesystem at a path, if it is on one.
pub(super) fn at(path: &Path) -> Result<Option<Filesystem>, CliError> {
    match ::lustre::filesystem_at(path) {
        Ok(found) => Ok(found),
        // Whoever mounts it says what is wrong.
        Err(error) if error.raw_os_error().is_some() => Ok(None),
        Err(error) => Err(not_here(format!("{} is on Lustre: {error}", path.display()))),
    }
}

/// Runs an agent until it is asked to end.
pub(super) fn run(config: AgentConfig, config_file: PathBuf, set_log_level: SetLogLevel) -> Outcome {
    let library = Library::load().map_err(not_here)?;
    let filesystem = config.client_device.to_string();
    let known = match &config.client_device {
        ClientDevice::Local(path) => at(path)?.map(|found| (found.key, found.fsname)),
        ClientDevice::Lustre { fsname, .. } => Some((fsname.clone(), Some(fsname.clone()))),
    };
    let (key, fsname) = known.ok_or_else(|| not_here(format!("{filesystem} is not on Lustre any more")))?;
    let _only = HostLock::take(&key)?;
    for what in crate::commands::config_check::without_effect_on_lustre(&config) {
        tracing::warn!("{what}");
    }
    not_below_lustre(&config.agent_mountpoint())?;
    let mounts = configure_mounts(&config).map_err(|e| with_causes(&e))?.detached_at_the_end();
    let source = start_source(library, &config, mounts.agent(), fsname)?;
    let mut services = Services::new(config_file.parent().unwrap_or(Path::new("/")).to_path_buf());
    let hosts = config.nats().cloned().map(|nats| other_hosts(nats, &mut services));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed("starting the runtime"))?;
    let admin = (config.admin.socket.clone(), config.admin.group.clone());
    let mount_root = config.mount_root.clone();
    let ended = runtime.block_on(async {
        let agent = HsmAgent::new(config.clone(), mounts, services, Arc::clone(&source) as _).map_err(not_here)?;
        let agent = Arc::new(agent);
        let status = {
            let agent = Arc::clone(&agent);
            move || serde_json::to_value(agent.status()).unwrap_or_default()
        };
        let reloader = Reloader {
            file: config_file,
            latest: config.clone().into(),
            started: config,
            apply: {
                let source = Arc::clone(&source);
                Box::new(move |new| source.reconfigure(backoff(new), new.restore.timeout, new.snapshots.enabled))
            },
            agent: Arc::clone(&agent),
            set_log_level,
        };
        let control = LustreControl::new(Arc::clone(&source), filesystem, mount_root, status);
        let control = control.naming_movers(Arc::clone(agent.endpoints())).with_hosts(hosts);
        let control = Arc::new(control.on_reload(move || reloader.run()));
        let ended = serve(&agent, control, &admin.0, admin.1.as_deref()).await;
        agent.stop().await;
        ended
    });
    // A call to Lustre that does not return keeps nothing.
    runtime.shutdown_background();
    ended
}

/// Has the agent reach movers on other hosts.
fn other_hosts(nats: Nats, services: &mut Services) -> Arc<dyn HostControl> {
    let hosts = Hosts::default();
    let theirs = hosts.clone();
    services
        .transports
        .register("nats", move |_| Box::new(NatsTransport::new(nats.clone(), super::host_name(), theirs.clone())));
    Arc::new(hosts)
}

/// The client library would register, and ask, through the mount that is above.
fn not_below_lustre(mount: &Path) -> Result<(), CliError> {
    let above = sys::mounts::mounts_above(mount, "lustre").map_err(failed("looking for mounts"))?;
    let refused = |(other, _): &(PathBuf, _)| {
        not_here(format!("mount_root is on Lustre, below {}: take a directory of a local filesystem", other.display()))
    };
    above.first().map_or(Ok(()), |other| Err(refused(other)))
}

/// A damaged journal is put aside. What its actions hold is given up by the coordinator in time.
fn start_source(
    library: Library,
    config: &AgentConfig,
    mount: &Path,
    fsname: Option<String>,
) -> Result<Arc<LustreSource>, CliError> {
    let shown = match &config.client_device {
        ClientDevice::Local(path) => path.clone(),
        ClientDevice::Lustre { fsname, .. } => Path::new("/").join(fsname),
    };
    let settings = LustreConfig {
        mount: mount.to_owned(),
        shown,
        fsname,
        journal: config.state_dir.join("lustre.db"),
        backoff: backoff(config),
        reader_timeout: config.restore.timeout,
        snapshots: config.snapshots.enabled,
        patience: Patience::default(),
    };
    let started = match LustreSource::start(library.clone(), settings.clone()) {
        Err(StartError::Journal(error @ QueueError::Corrupt { .. })) => {
            let aside = ItemJournal::set_aside(&settings.journal).map_err(failed(&error))?;
            tracing::error!(
                %error, moved_to = %aside.display(),
                "began a new journal: what the last agent had at work holds its slots until the coordinator gives it up \
                 (active_request_timeout)"
            );
            LustreSource::start(library, settings)
        }
        started => started,
    };
    started.map(Arc::new).map_err(|error| with_causes(&error))
}

/// One agent a filesystem and host: two that share a client would both get every action. The file goes with the lock.
struct HostLock {
    path: PathBuf,
    _file: File,
}

impl HostLock {
    fn take(key: &str) -> Result<Self, CliError> {
        super::make_private(Path::new(LOCKS))?;
        let path = Path::new(LOCKS).join(format!("lustre-{key}.lock"));
        // The agent of before may be about to go.
        for _ in 0..50 {
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(failed(path.display()))?;
            if sys::file::try_lock_exclusive(&file).map_err(failed(path.display()))? {
                let number = |found: std::io::Result<std::fs::Metadata>| found.map(|found| found.ino()).ok();
                if number(file.metadata()) == number(std::fs::metadata(&path)) {
                    return Ok(Self { path, _file: file });
                }
            } else {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
        Err(not_here(format!("another agent of this host serves the Lustre filesystem {key}: stop it first")))
    }
}

impl Drop for HostLock {
    fn drop(&mut self) {
        // While it is locked: whoever waits for it sees that it is another file.
        let _ = std::fs::remove_file(&self.path);
    }
}
