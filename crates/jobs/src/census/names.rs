//! Files with several names, each counted once, with bounded memory.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use sys::file::FileStamp;

/// Parts, so that threads seldom wait for one another.
const PARTS: usize = 16;
/// Files of which further names may still come, in each part.
const MAX_OF_PART: usize = 64 << 10;

/// What is known of one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Name {
    /// Its file was not counted before.
    First,
    /// It was.
    Further,
    /// There was no room to note it.
    Unclear,
}

/// Names that are still to come, by device and inode.
type Due = HashMap<(u64, u64), u64>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Names([Mutex<Due>; PARTS]);

impl Names {
    /// One name of a file. Only files whose names were not all found are kept.
    pub(super) fn meet(&self, stamp: &FileStamp) -> Name {
        if stamp.nlink < 2 {
            return Name::First;
        }
        let Some(part) = self.0.get((stamp.ino % PARTS as u64) as usize) else { return Name::Unclear };
        let mut part = part.lock();
        let is_full = part.len() >= MAX_OF_PART;
        match part.entry((stamp.dev, stamp.ino)) {
            Entry::Occupied(mut due) if *due.get() > 1 => {
                *due.get_mut() -= 1;
                Name::Further
            }
            Entry::Occupied(due) => {
                due.remove();
                Name::Further
            }
            Entry::Vacant(_) if is_full => Name::Unclear,
            Entry::Vacant(vacant) => {
                vacant.insert(stamp.nlink - 1);
                Name::First
            }
        }
    }
}
