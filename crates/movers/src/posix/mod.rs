//! A mover whose archives are directory trees on mounted filesystems, laid out as Lemur's.
//!
//! This module starts it: configuration, stores, threads. `mover` does the actions; bytes are `transfer`'s.

mod attempts;
mod mover;
mod rate;
mod reload;

use config::posix::{PosixArchive, PosixConfig};
use config::{ConfigError, Warning};
use mover::PosixMover;
use plugin::{Archive, Capabilities, Environment, Plugin, PluginError, Workers};
use reload::{Reload, ServedArchive};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use transfer::{KernelDurability, PosixStore, TransferError};

/// How often what other, crashed movers left in the archives is looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);
/// How fast packs with removed members are written anew.
const REPACK_BYTES_PER_S: u64 = 32 << 20;

/// Why the posix mover ended.
#[derive(Debug, thiserror::Error)]
pub enum PosixError {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An archive cannot be served. None is served then: an archive that silently is not there is worse.
    #[error("archive \"{name}\" cannot be served: {source}")]
    Archive {
        /// As in the configuration.
        name: String,
        /// What is wrong with it.
        source: TransferError,
    },
    /// The service ended.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The sweeper's thread could not be started.
    #[error("cannot start the thread that removes what crashes left: {0}")]
    Sweeper(std::io::Error),
}

/// Serves until the process is asked to end (SIGTERM).
///
/// # Errors
/// The configuration is wrong; an archive's root is no directory; the agent cannot be reached, refuses, or is gone
/// (then end the process at once).
pub fn run(environment: Environment, file: &Path) -> Result<(), PosixError> {
    let (config, warnings) = PosixConfig::load(file)?;
    warnings.iter().for_each(|warning: &Warning| tracing::warn!("{warning}"));
    sys::process::raise_nofile_limit();
    let threads = usize::try_from(config.num_threads).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);

    let mut archives = Vec::with_capacity(config.archives.len());
    let mut stores = Vec::with_capacity(config.archives.len());
    let mut served = Vec::with_capacity(config.archives.len());
    for archive in config.archives.clone() {
        let store = open(&archive)?;
        let (id, credits) = (archive.id, reload::credits(&archive));
        let capabilities = Capabilities {
            cancel: true,
            verify: true,
            proposed_uuid: true,
            range: mover::restores_ranges(&archive),
            namespace: mover::keeps_manifests(&archive),
            ..Capabilities::default()
        };
        let archive = Arc::new(ServedArchive::new(archive));
        served.push(Arc::clone(&archive));
        let mover = PosixMover::new(archive, store.clone(), environment.clone());
        let workers = Workers::start(&format!("posix-{id}"), threads, mover)?;
        stores.push(store);
        archives.push(Archive { id, capabilities, credits, handler: Arc::new(workers) });
    }
    // Dropping the sender ends the sweeper.
    let (_serving, ended) = channel::<()>();
    std::thread::Builder::new()
        .name("posix-sweep".to_owned())
        .spawn(move || {
            while ended.recv_timeout(SWEEP_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                stores.iter().for_each(|store| sweep(store));
                stores.iter().for_each(|store| repack(store));
            }
        })
        .map_err(PosixError::Sweeper)?;
    let name = concat!("sifaka posix ", env!("CARGO_PKG_VERSION"));
    let reload = Reload::new(file.to_owned(), config, served);
    Ok(Plugin::new(environment, name).on_reload(move || reload.run()).run(archives)?)
}

fn open(archive: &PosixArchive) -> Result<Arc<PosixStore>, PosixError> {
    let store = PosixStore::open(&archive.root, Arc::new(KernelDurability))
        .map_err(|source| PosixError::Archive { name: archive.name.clone(), source })?;
    Ok(Arc::new(store))
}

fn sweep(store: &PosixStore) {
    match store.sweep() {
        Ok(swept) if swept.sessions > 0 => tracing::info!(
            root = %store.root().display(), sessions = swept.sessions, files = swept.files,
            "removed what a crashed mover left"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(root = %store.root().display(), %error, "cannot look for what crashes left"),
    }
}

/// Slowly: what an archive's disks have to do for people comes first.
fn repack(store: &PosixStore) {
    let mut pause = |bytes: u64| std::thread::sleep(Duration::from_millis(bytes * 1000 / REPACK_BYTES_PER_S));
    match store.repack(&mut pause) {
        Ok(done) if done.rewritten + done.removed > 0 => tracing::info!(
            root = %store.root().display(), rewritten = done.rewritten, removed = done.removed, freed_bytes = done.freed_bytes,
            "took removed members out of packs"
        ),
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(root = %store.root().display(), %error, "cannot look for packs with removed members")
        }
    }
}
