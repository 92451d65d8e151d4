//! Releasing. Lustre does it at once, file by file, and stops a request at the first that it refuses.

use super::Batch;
use super::ask::{Ask, send};
use crate::exit::CliError;
use agent::admin::api::Refused;
use model::{HsmFlags, HsmState};
use nix::libc::EPERM;
use std::os::unix::fs::MetadataExt;
use sys::lustre::{UserAction, state};

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Releases {
    pub(crate) released: u64,
    /// Freed.
    pub(crate) bytes: u64,
    pub(crate) already: u64,
    pub(crate) refused: Vec<Refused>,
}

/// Bytes in a block of `st_blocks`.
const BLOCK: u64 = 512;

/// Releases what is archived as it is.
pub(crate) fn release(batch: Batch) -> Result<Releases, CliError> {
    let Batch { filesystem, files } = batch;
    let mut done = Releases::default();
    let mut wanted = Vec::new();
    let mut held = Vec::new();
    for file in files {
        let found = match state(&filesystem.library, &file.path) {
            Ok(found) => found,
            Err(why) => {
                done.refused.push(file.failed(&why));
                continue;
            }
        };
        let hsm = HsmState { flags: found.flags, ..HsmState::default() };
        if found.flags.contains(HsmFlags::RELEASED) {
            done.already += 1;
        } else if let Some(why) = hsm.release_refusal() {
            done.refused.push(file.refused(EPERM, why));
        } else {
            held.push(file.path.symlink_metadata().map_or(0, |found| found.blocks() * BLOCK));
            wanted.push(file);
        }
    }
    let ask = Ask { action: UserAction::Release, archive_id: None, force: false, data: Vec::new() };
    let mut refused = send(&filesystem, &ask, &wanted)?.into_iter().peekable();
    for (index, (file, bytes)) in wanted.iter().zip(held).enumerate() {
        if let Some((_, why)) = refused.next_if(|(refused, _)| *refused == index) {
            done.refused.push(file.failed(&why));
        } else {
            done.released += 1;
            done.bytes += bytes;
        }
    }
    Ok(done)
}
