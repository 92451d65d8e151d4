//! Removing a member: a tombstone beside its pack. With the last one the pack goes, and all its tombstones.
//!
//! So what is removed as it was archived leaves nothing behind, however much of it comes between two repacks. Other packs keep their tombstones
//! until half of them is dead and somebody repacks: names in a directory, which share an inode.
//!
//! A full archive is emptied by removals, and a tombstone takes room, sometimes with a directory. So the last member of a pack that is not
//! marked yet takes the pack with it when it cannot be marked. The others' removals fail for a while then.

use super::repack::Seen;
use super::{Packs, place};
use crate::TransferError;
use crate::pack::{MemberId, PackError, PackReader};
use std::fs::File;
use std::io;

const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

impl Packs {
    /// Marks a member as removed. `done` is called once that is durable; one that is not there counts as removed. Waits for a sync
    /// if it was the last one of its pack.
    pub(in crate::store) fn remove(&self, id: &MemberId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        match self.root.check_objects().and_then(|()| self.mark_removed(id)) {
            // Also when there was none: an earlier removal may have been cut short before its sync.
            Ok(()) => self.sealer.settle(id.pack, done),
            Err(e) => done(Err(e)),
        }
    }

    fn mark_removed(&self, id: &MemberId) -> Result<(), TransferError> {
        let Some(pack) = place::open(&self.root, id.pack)? else { return Ok(()) };
        // One that cannot be read well enough to tell may have it.
        if let Ok(None) = pack.describe(id.name) {
            return Ok(());
        }
        let like = self.living.before_mark(id.pack, || self.count_living(id, &pack));
        match place::mark_removed(&self.root, id, like) {
            Ok(is_new) => {
                if is_new && self.living.after_mark(id) {
                    self.remove_dead(id);
                }
                Ok(())
            }
            Err(e) if is_full(&e) && self.remove_last(id).unwrap_or(false) => Ok(()),
            Err(e) => Err(TransferError::io(
                "note with an empty file beside its pack the removal of",
                place::member_path(&self.root, id),
            )(e)),
        }
    }

    /// `None` where that cannot be told.
    fn count_living(&self, id: &MemberId, pack: &PackReader<File>) -> Option<usize> {
        let marked = match place::open_tombstones(&self.root, id.pack).ok()? {
            Some(dir) => place::removed(&dir).ok()?.count(),
            None => 0,
        };
        pack.members().ok()?.checked_sub(marked)
    }

    /// Removes the pack of a member that was marked as its last. Where that fails, the next repack does it.
    fn remove_dead(&self, id: &MemberId) {
        let error = match self.repack_one(id.pack, Seen::is_dead) {
            Ok(_) => return,
            // It locks with a file. That of the pack makes room for the next one's.
            Err(PackError::Io(e)) if is_full(&e) && self.remove_last(id).unwrap_or(false) => return,
            Err(error) => self.failed(error, id.pack),
        };
        tracing::warn!(%error, "a pack whose members were all removed cannot be removed yet");
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

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ENOSPC | EDQUOT))
}
