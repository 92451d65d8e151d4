//! A mover whose archives are directory trees on mounted filesystems, laid out as Lemur's.
//!
//! This module starts it: configuration, stores, threads. The actions are those of `archive`; bytes are `transfer`'s.

use crate::archive::{Kind, MoverError};
use config::archive::Archive;
use config::posix::Root;
use plugin::Environment;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use transfer::{KernelDurability, PosixStore};

/// How often what other, crashed movers left in the archives is looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);
/// How fast packs with removed members are written anew.
const REPACK_BYTES_PER_S: u64 = 32 << 20;

/// Serves until the process is asked to end (SIGTERM).
///
/// # Errors
/// The configuration is wrong; an archive's root is no directory; the agent cannot be reached, refuses, or is gone
/// (then end the process at once).
pub fn run(environment: Environment, file: &Path) -> Result<(), MoverError> {
    let open = |archive: &Archive<Root>| Ok(PosixStore::open(&archive.place.0, Arc::new(KernelDurability))?);
    Kind { name: "posix", open, sweep: now_and_then }.run(environment, file)
}

fn now_and_then(stores: &[Arc<PosixStore>], ended: &Receiver<()>) {
    while ended.recv_timeout(SWEEP_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        stores.iter().for_each(|store| sweep(store));
        stores.iter().for_each(|store| repack(store));
    }
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
