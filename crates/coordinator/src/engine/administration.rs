//! What administrators and users do beside asking for actions: cancelling, setting flags, writing to files.

use super::brain::Brain;
use super::job::Purpose;
use super::{FlagChange, Selection, removal_of_attempts};
use crate::prepare::is_archived_as_it_is;
use crate::record::is_record;
use crate::state::{FileState, write_hsm};
use model::{ActionId, Command, Failure, FileHandle, HsmFlags, HsmState};
use queue::Change;

const EBUSY: i32 = 16;

impl Brain {
    pub(super) fn cancel(&mut self, selection: Selection) -> (u64, u64) {
        let ids = match selection {
            Selection::Actions(ids) => ids,
            Selection::Files(files) => {
                let of = |file| self.shared.queue.of_file(file).unwrap_or_default();
                files.iter().flat_map(of).map(|entry| entry.id).collect()
            }
        };
        let (mut cancelled, mut missing) = (0, 0);
        for id in ids {
            if self.cancel_one(id) { cancelled += 1 } else { missing += 1 }
        }
        (cancelled, missing)
    }

    fn cancel_one(&mut self, id: ActionId) -> bool {
        if let Some(job) = self.jobs.get_mut(&id.0) {
            if job.purpose != Purpose::Queued {
                return false;
            }
            job.cancelled = true;
            if self.shared.outbox.withdraw(id.0).is_some() {
                self.failed(id.0, Failure::cancelled());
            } else {
                self.shared.outbox.cancel(id.0);
            }
            return true;
        }
        let Ok(Some(entry)) = self.shared.queue.get(id) else { return false };
        if self.lanes.knows(id) && !self.cancelled.insert(id) {
            return false;
        }
        let finished_ms = self.shared.now_ms();
        let mut changes = vec![Change::Finish { id, result: Err(Failure::cancelled()), bytes: 0, finished_ms }];
        let doubted = id <= self.shared.doubted;
        if entry.action.command == Command::Archive && entry.attempts > 0 && !is_record(&entry.action) && !doubted {
            changes.push(removal_of_attempts(&entry.action, finished_ms));
        }
        self.record(changes, vec![id]);
        true
    }

    pub(super) fn set_flags(&mut self, change: &FlagChange) -> Result<bool, Failure> {
        if self.inodes.get(&change.file).is_some_and(|inode| inode.holder.is_some()) {
            return Err(Failure::temporary(EBUSY, "an action on it is running"));
        }
        let fd = self.shared.fs.open(&change.file, sys::OFlags::PATH);
        let fd = fd.map_err(|e| crate::prepare::system("opening it by its handle", &e))?;
        let hsm = crate::state::read_hsm(&fd).map_err(|e| crate::prepare::attribute(&e))?;
        let flags = hsm.flags.with(change.set).without(change.clear);
        let archive_id = change.archive_id.map_or(hsm.archive_id, u64::from);
        let new = HsmState { flags, archive_id, ..hsm };
        if new == hsm {
            return Ok(false);
        }
        if hsm.is_released()
            && (archive_id != hsm.archive_id || !flags.contains(HsmFlags::EXISTS.with(HsmFlags::ARCHIVED)))
        {
            return Err(Failure::permanent(
                1,
                "it is released: its archive copy is the only one, and this would make it be forgotten",
            ));
        }
        write_hsm(&fd, &new).map_err(|e| crate::prepare::attribute(&e))?;
        Ok(true)
    }

    /// Somebody wrote to the file: an archived one is dirty then.
    pub(super) fn changed(&mut self, file: &FileHandle) {
        if self.inodes.get(file).is_some_and(|inode| inode.holder.is_some()) {
            // Whoever holds it looks at its stamp in the end.
            return;
        }
        // Its attributes are enough: an open would be an event, and somebody else's broken lease.
        let Ok(fd) = self.shared.fs.open(file, sys::OFlags::PATH) else { return };
        let Ok(hsm) = crate::state::read_hsm(&fd) else { return };
        if !hsm.is_clean_copy() || hsm.is_released() {
            return;
        }
        let (Ok(state), Ok(stamp)) = (FileState::read(&fd), sys::file::stamp(&fd)) else { return };
        if !is_archived_as_it_is(&state, &crate::filesystem::stamp_of(&stamp)) && state.belongs_to(file) {
            let dirty = HsmState { flags: hsm.flags.with(HsmFlags::DIRTY), ..hsm };
            if let Err(error) = write_hsm(&fd, &dirty) {
                tracing::warn!(%error, %file, "cannot mark a changed file dirty");
            }
        }
    }
}
