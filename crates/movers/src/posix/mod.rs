//! A mover whose archives are directory trees on mounted filesystems, laid out as Lemur's.
//!
//! This module starts it: configuration, stores, threads. The actions are those of `archive`; bytes are `transfer`'s.

use crate::archive::{Kind, MoverError};
use config::archive::Archive;
use config::posix::Roots;
use plugin::Environment;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use transfer::{Durability, KernelDurability, TierStore};

/// How often what other, crashed movers left in the archives is looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);
/// How fast packs with removed members are written anew.
const REPACK_BYTES_PER_S: u64 = 32 << 20;

/// Serves until the process is asked to end (SIGTERM).
///
/// # Errors
/// The configuration is wrong; none of an archive's roots is a directory; the agent cannot be reached, refuses, or is gone
/// (then end the process at once).
pub fn run(environment: Environment, file: &Path) -> Result<(), MoverError> {
    let open = |archive: &Archive<Roots>| {
        let durability: Arc<dyn Durability> = Arc::new(KernelDurability);
        let store = TierStore::open(&archive.place.0, &durability)?;
        if let Err(error) = store.enrol() {
            tracing::warn!(archive = archive.settings.name, %error, "a new root of the archive cannot be used yet");
        }
        Ok(store)
    };
    Kind { name: "posix", open, sweep: now_and_then }.run(environment, file)
}

fn now_and_then(stores: &[Arc<TierStore>], ended: &Receiver<()>) {
    while ended.recv_timeout(SWEEP_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        stores.iter().for_each(|store| sweep(store));
        stores.iter().for_each(|store| repack(store));
    }
}

fn sweep(store: &TierStore) {
    for (root, swept) in store.sweep() {
        match swept {
            Ok(swept) if swept.sessions > 0 => tracing::info!(
                root = %root.display(), sessions = swept.sessions, files = swept.files,
                "removed what a crashed mover left"
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!(root = %root.display(), %error, "cannot look for what crashes left"),
        }
    }
}

/// Slowly: what an archive's disks have to do for people comes first.
fn repack(store: &TierStore) {
    let mut pause = |bytes: u64| std::thread::sleep(Duration::from_millis(bytes * 1000 / REPACK_BYTES_PER_S));
    for (root, done) in store.repack(&mut pause) {
        match done {
            Ok(done) if done.rewritten + done.removed > 0 => tracing::info!(
                root = %root.display(), rewritten = done.rewritten, removed = done.removed, freed_bytes = done.freed_bytes,
                "took removed members out of packs"
            ),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(root = %root.display(), %error, "cannot look for packs with removed members")
            }
        }
    }
}
