//! What administrators and users do beside asking for actions: cancelling, setting flags, writing to files.

use super::brain::Brain;
use super::job::Purpose;
use super::{FlagChange, Selection, removal_of_attempts};
use crate::copies;
use crate::prepare::{ESTALE, is_archived_as_it_is};
use crate::record::is_record;
use crate::state::{FileState, write_hsm};
use model::{ActionId, Command, Failure, FileHandle, HsmFlags, HsmState};
use queue::{Change, NewAction};
use std::time::{Duration, Instant};

const EBUSY: i32 = 16;
/// How often a cancel is said again.
const CANCEL_AGAIN: Duration = Duration::from_secs(1);

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
                self.due(Instant::now() + CANCEL_AGAIN);
            }
            return true;
        }
        if self.finished.contains(&id) {
            return false;
        }
        let Ok(Some(entry)) = self.shared.queue.get(id) else { return false };
        if self.lanes.knows(id) && !self.cancelled.insert(id) {
            return false;
        }
        let finished_ms = self.shared.now_ms();
        let mut changes = vec![Change::Finish { id, result: Err(Failure::cancelled()), bytes: 0, finished_ms }];
        if entry.attempts > 0 || entry.action.created_ms < self.started_ms {
            changes.extend(self.removal_of_attempts(id, &entry.action));
        }
        self.record(changes, vec![id]);
        true
    }

    /// The removal of what earlier attempts of an archive, which is given up, may have stored. `None` when there can be nothing, and when the file
    /// names it: then one did succeed, before a crash.
    pub(super) fn removal_of_attempts(&self, id: ActionId, action: &NewAction) -> Option<Change> {
        // A record's id is that of the one before, which may still be good.
        if action.command != Command::Archive || is_record(action) || id <= self.shared.doubted {
            return None;
        }
        if let Some(file) = &action.file {
            let named = match self.shared.fs.open(file, sys::OFlags::PATH) {
                Ok(fd) => copies::names_attempt(&fd, &action.identity.uuid).map_err(|e| e.to_string()),
                Err(error) if error.raw_os_error() == Some(ESTALE) => Ok(false),
                Err(error) => Err(error.to_string()),
            };
            match named {
                Ok(false) => {}
                Ok(true) => return None,
                Err(why) => {
                    let path = &action.path;
                    tracing::warn!(
                        path,
                        why,
                        "cannot tell whether the file names what was stored for it: that is kept"
                    );
                    return None;
                }
            }
        }
        Some(removal_of_attempts(action, self.shared.now_ms()))
    }

    /// A work on its way to its mover is where no cancel finds it: said again until there is a result.
    pub(super) fn cancels_tick(&mut self) {
        let mut waiting = false;
        for (key, _) in self.jobs.iter().filter(|(_, job)| job.cancelled) {
            waiting = true;
            self.shared.outbox.cancel(*key);
        }
        if waiting {
            self.due(Instant::now() + CANCEL_AGAIN);
        }
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
