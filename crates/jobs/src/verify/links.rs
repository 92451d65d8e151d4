//! Which names are those of one file, compared between two trees with bounded memory.

use parking_lot::Mutex;
use std::collections::HashMap;
use sys::file::FileStamp;

/// Files with several names that are remembered, in each tree.
const MAX_FILES: usize = 1 << 19;

/// How the names of one file compare with those that were met before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Linked {
    /// As far as was seen, alike.
    Alike,
    /// Two names of one file in the first tree are not those of one file in the second.
    InFirst,
    /// The other way round.
    InSecond,
    /// There was no room to remember it.
    Unclear,
}

type Inode = (u64, u64);

/// With the names that are still to come.
type Partners = HashMap<Inode, (Inode, u64)>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Links {
    first: Mutex<Partners>,
    second: Mutex<Partners>,
}

impl Links {
    /// A name of both. To be asked once for each name.
    pub(super) fn meet(&self, a: &FileStamp, b: &FileStamp) -> Linked {
        let inode = |stamp: &FileStamp| (stamp.dev, stamp.ino);
        match (same_partner(&self.first, a, inode(b)), same_partner(&self.second, b, inode(a))) {
            (Some(false), _) => Linked::InFirst,
            (_, Some(false)) => Linked::InSecond,
            (None, _) | (_, None) => Linked::Unclear,
            (Some(true), Some(true)) => Linked::Alike,
        }
    }
}

/// Whether the file has the partner that it had by its other names. `None`: nobody knows.
fn same_partner(known: &Mutex<Partners>, file: &FileStamp, partner: Inode) -> Option<bool> {
    if file.nlink < 2 {
        return Some(true);
    }
    let (mut known, inode) = (known.lock(), (file.dev, file.ino));
    if let Some((before, due)) = known.get_mut(&inode) {
        let same = *before == partner;
        *due -= 1;
        if *due == 0 {
            known.remove(&inode);
        }
        return Some(same);
    }
    if known.len() >= MAX_FILES {
        return None;
    }
    known.insert(inode, (partner, file.nlink - 1));
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp(ino: u64, nlink: u64) -> FileStamp {
        let time = (0, 0);
        FileStamp {
            size: 0,
            mtime: time,
            ctime: time,
            atime: time,
            ino,
            dev: 1,
            nlink,
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            blocks: 0,
            is_regular: true,
        }
    }

    proptest! {
        /// Names are told to differ if and only if they are not grouped alike, in whatever order they come; and nothing is remembered of files all
        /// of whose names were met.
        #[test]
        fn names_grouped_otherwise_are_told(names in prop::collection::vec((0..6u64, 0..6u64), 0..20)) {
            let count = |which: fn(&(u64, u64)) -> u64, of: u64| names.iter().filter(|name| which(name) == of).count() as u64;
            let links = Links::default();
            let mut alike = true;
            for (a, b) in &names {
                let met = links.meet(&stamp(*a, count(|name| name.0, *a)), &stamp(100 + b, count(|name| name.1, *b)));
                alike &= met == Linked::Alike;
            }
            let grouped = |one: &(u64, u64), other: &(u64, u64)| (one.0 == other.0) == (one.1 == other.1);
            let expected = names.iter().all(|one| names.iter().all(|other| grouped(one, other)));
            prop_assert_eq!(alike, expected);
            prop_assert!(links.first.lock().is_empty() && links.second.lock().is_empty());
        }
    }
}
