//! Readers that were killed while they waited: the kernel says nothing of their end. Nobody misses an answer, but each holds a descriptor here
//! and a place in the guard, which has room for so many only.

use super::brain::Brain;
use super::job::{Blocked, Parked};
use crate::prepare::EIO;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// While fewer wait, it does not matter how many of them are gone.
const FROM: u64 = 1024;
/// How often is looked.
const PAUSE: Duration = Duration::from_secs(1);

impl Brain {
    /// Forgets readers that are gone, when many wait.
    pub(super) fn gone_tick(&mut self) {
        let now = Instant::now();
        if self.blocked_readers() < FROM {
            return;
        }
        let next = self.looked_for_gone + PAUSE;
        if next > now {
            return self.due(next);
        }
        self.looked_for_gone = now;
        self.due(now + PAUSE);
        let mut known = HashMap::new();
        let mut is_gone = |pid: i32| *known.entry(pid).or_insert_with(|| sys::process::has_ended(pid));
        let mut gone: Vec<Blocked> = Vec::new();
        for inode in self.inodes.values_mut() {
            gone.extend(inode.blocked.extract_if(.., |waiting| is_gone(waiting.event.pid)));
            inode.parked.retain(|parked| !matches!(parked, Parked::Event(event) if is_gone(event.pid)));
            if let Some(parts) = inode.parts.as_mut() {
                gone.extend(parts.readers.extract_if(.., |r| is_gone(r.waiting.event.pid)).map(|r| r.waiting));
                gone.extend(parts.whole.extract_if(.., |waiting| is_gone(waiting.event.pid)));
            }
        }
        self.count_blocked(-i64::try_from(gone.len()).unwrap_or(0));
        gone.into_iter().for_each(|waiting| waiting.event.deny(EIO));
    }
}
