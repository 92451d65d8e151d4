//! Removing a member: a tombstone beside its pack, or the pack itself where there is no room for one.
//!
//! A full archive is emptied by removals, and a tombstone is a file, sometimes with a directory. So the last member of a pack that is not
//! marked yet takes the pack with it when it cannot be marked. The others' removals fail for a while then.

use super::{Packs, place};
use crate::TransferError;
use crate::pack::MemberId;
use std::io;

const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

impl Packs {
    /// Marks a member as removed. `done` is called once that is durable; one that is not there counts as removed.
    pub(in crate::store) fn remove(&self, id: &MemberId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        match self.root.check_objects().and_then(|()| self.mark_removed(id)) {
            // Also when there was none: an earlier removal may have been cut short before its sync.
            Ok(()) => self.sealer.settle(id.pack, done),
            Err(e) => done(Err(e)),
        }
    }

    fn mark_removed(&self, id: &MemberId) -> Result<(), TransferError> {
        let there = match place::open(&self.root, id.pack)? {
            // One that cannot be read well enough to tell may have it.
            Some(pack) => !matches!(pack.describe(id.name), Ok(None)),
            None => false,
        };
        match if there { place::mark_removed(&self.root, id) } else { Ok(()) } {
            Err(e) if matches!(e.raw_os_error(), Some(ENOSPC | EDQUOT)) && self.remove_last(id).unwrap_or(false) => {
                Ok(())
            }
            marked => marked.map_err(TransferError::io(
                "note with an empty file beside its pack the removal of",
                place::member_path(&self.root, id),
            )),
        }
    }

    /// Removes the pack of a member if all others in it are marked as removed; says whether it did. Not durable yet.
    fn remove_last(&self, id: &MemberId) -> Result<bool, TransferError> {
        let failed = |e: io::Error| self.failed(e.into(), id.pack);
        // Nobody writes the pack anew meanwhile, which would bring the member back. Whoever does it on another host looks, right before that,
        // whether the pack is still there.
        let tombstones = place::open_tombstones(&self.root, id.pack).map_err(failed)?;
        if let Some(dir) = &tombstones
            && !sys::file::try_lock_exclusive(dir).map_err(failed)?
        {
            return Ok(false);
        }
        let Some(pack) = place::open(&self.root, id.pack)? else { return Ok(true) };
        // By the index alone: of a pack without one, what can be found may not be all.
        let index = pack.index().map_err(|e| self.failed(e, id.pack))?;
        let removed = self.removed(id.pack, &index)?;
        let others = index.entries().iter().filter(|entry| entry.name != id.name);
        let is_last = others.into_iter().all(|entry| removed.contains(&entry.name));
        if is_last && place::is_current(&self.root, id.pack, pack.source()).map_err(failed)? {
            place::unlink_pack(&self.root, id.pack).map_err(failed)?;
            return Ok(true);
        }
        Ok(false)
    }
}
