//! Opens that truncate a released file: let through without a restore, since nothing has to come back.
//!
//! The kernel truncates after it has our answer, and says nothing when it is done but by the size. A restore that began in between
//! would write what was archived into the file that its user has just emptied. So after such an answer nothing is restored, until the
//! file is empty, or its opener is seen to be about something else (its open failed after all), or too long has passed.

use super::brain::Brain;
use super::job::Inode;
use crate::guard::PendingEvent;
use model::FileHandle;
use std::time::{Duration, Instant};
use sys::caller::Caller;

/// How often who waits for a truncation looks.
const LOOK: Duration = Duration::from_millis(5);
/// How long a truncation is waited for. It takes microseconds on a processor, but may have to wait for one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Threads of the opener that are looked at.
const THREADS: usize = 64;

/// Somebody was allowed to truncate the file, and may not have done so.
#[derive(Debug)]
pub(crate) struct Truncation {
    openers: Vec<Caller>,
    until: Instant,
}

impl Truncation {
    /// Whether it may still come, as far as its openers show.
    fn may_come(&mut self) -> bool {
        // Unclear means that a thread runs, perhaps the one.
        let may = |opener: &mut Caller| opener.exists() && opener.look(THREADS).is_none_or(|calls| calls.may_truncate);
        self.openers.retain_mut(may);
        !self.openers.is_empty() && self.until > Instant::now()
    }
}

impl Brain {
    /// An open with `O_TRUNC` is about to be allowed.
    pub(super) fn truncation_begins(&mut self, event: &PendingEvent, file: &FileHandle) {
        let until = Instant::now() + PATIENCE;
        let inode = self.inodes.entry(file.clone()).or_default();
        let truncation = inode.truncation.get_or_insert_with(|| Truncation { openers: Vec::new(), until });
        truncation.openers.push(Caller::new(event.pid));
        truncation.until = until;
        self.due(Instant::now() + LOOK);
    }

    /// Whether nothing may be restored into the file just now: a truncation may come. Looks at the file.
    pub(super) fn awaits_truncation(&mut self, file: &FileHandle) -> bool {
        let Some(truncation) = self.inodes.get_mut(file).and_then(|inode| inode.truncation.as_mut()) else {
            return false;
        };
        let fd = self.shared.fs.open(file, sys::OFlags::PATH);
        let size = fd.and_then(|fd| sys::file::stamp(&fd)).map_or(0, |stamp| stamp.size);
        size > 0 && truncation.may_come()
    }

    /// Whoever waits for a truncation goes on when it is done, or will not come.
    pub(super) fn truncations_tick(&mut self) {
        let waits = |(file, inode): (&FileHandle, &Inode)| inode.truncation.is_some().then(|| file.clone());
        let files: Vec<FileHandle> = self.inodes.iter().filter_map(waits).collect();
        for file in files {
            if self.awaits_truncation(&file) {
                self.due(Instant::now() + LOOK);
                continue;
            }
            if let Some(inode) = self.inodes.get_mut(&file) {
                inode.truncation = None;
            }
            self.unpark(&file);
            self.reconsider_blocked(&file);
            self.forget_idle(&file);
        }
    }
}
