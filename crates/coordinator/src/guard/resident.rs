//! What the guard knows of released files that are there in parts, so that it can let reads of these parts through by itself.
//!
//! Only the agent can know it, so it is forgotten with the agent; and when a file is held, before it is released anew. A
//! file that says it is not released needs none of this.

use super::message::Inode;
use crate::ranges::Runs;
use std::collections::HashMap;
use std::ops::Range;

/// Files known at most; the one that was asked about longest ago goes first.
const MAX_FILES: usize = 128;
/// Separate ranges of one file at most; the shortest go first.
const MAX_RANGES: usize = 2048;

struct Known {
    size: u64,
    /// In bytes.
    there: Runs,
    used: u64,
}

/// Files that are there in parts.
#[derive(Default)]
pub(super) struct Resident {
    files: HashMap<Inode, Known>,
    clock: u64,
}

impl Resident {
    /// These bytes of the file are there, if it has this size.
    pub(super) fn learn(&mut self, inode: Inode, size: u64, there: Range<u64>) {
        self.clock += 1;
        if !self.files.contains_key(&inode)
            && self.files.len() >= MAX_FILES
            && let Some(oldest) = self.files.iter().min_by_key(|(_, known)| known.used).map(|(inode, _)| *inode)
        {
            self.files.remove(&oldest);
        }
        let known = self.files.entry(inode).or_insert_with(|| Known { size, there: Runs::default(), used: 0 });
        if known.size != size {
            *known = Known { size, there: Runs::default(), used: 0 };
        }
        known.used = self.clock;
        if there.start < there.end {
            known.there.insert_bounded(there.start..there.end.min(size).max(there.start), MAX_RANGES);
        }
    }

    pub(super) fn forget(&mut self, inode: Inode) {
        self.files.remove(&inode);
    }

    /// Forgets every file of this number, whatever its device.
    pub(super) fn forget_number(&mut self, ino: u64) {
        self.files.retain(|inode, _| inode.ino != ino);
    }

    pub(super) fn forget_all(&mut self) {
        self.files.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether a read of `count` bytes at `offset` finds only bytes that are there. A count of 0, which may mean anything, does not.
    pub(super) fn covers(&mut self, inode: Inode, size: u64, offset: u64, count: u64) -> bool {
        self.clock += 1;
        let Some(known) = self.files.get_mut(&inode).filter(|known| known.size == size && count > 0) else {
            return false;
        };
        known.used = self.clock;
        // Past the end there is nothing to be had.
        offset >= size || known.there.contains(&(offset..offset.saturating_add(count).min(size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Inode = Inode { dev: 1, ino: 7 };
    const B: Inode = Inode { dev: 2, ino: 7 };

    #[test]
    fn only_what_was_told_of_this_file_and_size_is_covered() {
        let mut r = Resident::default();
        assert!(!r.covers(A, 100, 0, 1));
        r.learn(A, 10_000, 0..4096);
        assert!(r.covers(A, 10_000, 0, 4096));
        assert!(!r.covers(A, 10_000, 0, 4097));
        assert!(!r.covers(A, 10_000, 0, 0));
        assert!(!r.covers(A, 9_999, 0, 1), "another size");
        assert!(!r.covers(B, 10_000, 0, 1), "another device");
        assert!(r.covers(A, 10_000, 12_288, 4096), "past the end");
        r.learn(A, 10_000, 8192..12_288);
        assert!(r.covers(A, 10_000, 8192, 4096), "to the end of its last page");
        r.learn(A, 20_000, 0..0);
        assert!(!r.covers(A, 20_000, 0, 1), "a new size begins anew");
    }

    #[test]
    fn it_is_forgotten_by_name_by_number_and_at_once() {
        let mut r = Resident::default();
        let fill = |r: &mut Resident| [A, B].into_iter().for_each(|i| r.learn(i, 10, 0..10));
        fill(&mut r);
        r.forget(A);
        assert!(!r.covers(A, 10, 0, 1) && r.covers(B, 10, 0, 1));
        fill(&mut r);
        r.forget_number(7);
        assert!(r.is_empty());
        fill(&mut r);
        r.forget_all();
        assert!(r.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_last_is_kept() {
        let mut r = Resident::default();
        for ino in 0..10_000 {
            r.learn(Inode { dev: 1, ino }, 10, 0..10);
            assert!(r.covers(Inode { dev: 1, ino }, 10, 0, 10));
        }
        assert!(r.files.len() <= MAX_FILES);
        for at in 0..10_000u64 {
            r.learn(A, 1 << 40, at * 10..at * 10 + 5);
            assert!(r.covers(A, 1 << 40, at * 10, 5));
        }
        assert!(r.files.get(&A).unwrap().there.iter().count() <= MAX_RANGES);
    }
}
