//! Counts and bytes, by kind, size, age and owner: values that are added up.

use rustix::fs::FileType;
use serde::Serialize;
use std::collections::HashMap;
use sys::file::{FileStamp, Moment};

/// Owners that are told apart by one thread. What further ones have is counted together.
const MAX_OWNERS: usize = 8192;
/// One for nothing, and one for each power of two below which sizes may lie.
const SIZES: usize = 65;
const DAY: i64 = 86_400;
/// Where ages are divided, in days.
const AGES: [i64; 9] = [1, 7, 30, 91, 182, 365, 730, 1825, 3650];

/// So many, with so much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Of them.
    pub count: u64,
    /// Content, with holes. Only of regular files.
    pub size_bytes: u64,
    /// What they take on the filesystem.
    pub allocated_bytes: u64,
}

impl Sum {
    fn of(stamp: &FileStamp) -> Self {
        let size_bytes = if stamp.is_regular { stamp.size } else { 0 };
        Self { count: 1, size_bytes, allocated_bytes: stamp.blocks.saturating_mul(512) }
    }

    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.count += other.count;
        // Sizes are what a filesystem says: of some petabytes of holes, a sum may be more than there are numbers.
        self.size_bytes = self.size_bytes.saturating_add(other.size_bytes);
        self.allocated_bytes = self.allocated_bytes.saturating_add(other.allocated_bytes);
    }
}

/// By kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kinds {
    /// Regular files.
    pub files: Sum,
    /// The roots, too.
    pub directories: Sum,
    /// Symbolic links.
    pub symlinks: Sum,
    /// Named pipes.
    pub pipes: Sum,
    /// Sockets.
    pub sockets: Sum,
    /// Character and block devices.
    pub devices: Sum,
}

impl Kinds {
    fn of(&mut self, stamp: &FileStamp) -> &mut Sum {
        match FileType::from_raw_mode(stamp.mode) {
            FileType::Directory => &mut self.directories,
            FileType::Symlink => &mut self.symlinks,
            FileType::Fifo => &mut self.pipes,
            FileType::Socket => &mut self.sockets,
            FileType::CharacterDevice | FileType::BlockDevice => &mut self.devices,
            FileType::RegularFile | FileType::Unknown => &mut self.files,
        }
    }

    /// All of them.
    pub fn total(&self) -> Sum {
        let mut total = Sum::default();
        for sum in [self.files, self.directories, self.symlinks, self.pipes, self.sockets, self.devices] {
            total.add(sum);
        }
        total
    }

    fn add(&mut self, other: &Self) {
        self.files.add(other.files);
        self.directories.add(other.directories);
        self.symlinks.add(other.symlinks);
        self.pipes.add(other.pipes);
        self.sockets.add(other.sockets);
        self.devices.add(other.devices);
    }
}

/// Regular files of some sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SizeClass {
    /// This size or more.
    pub from_bytes: u64,
    /// And less than this, if there are any larger ones.
    pub below_bytes: Option<u64>,
    /// Of them.
    #[serde(flatten)]
    pub sum: Sum,
}

/// Regular files of some ages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AgeClass {
    /// So old or older. Without it: of the future.
    pub from_days: Option<i64>,
    /// And younger than this, if anything is older.
    pub below_days: Option<i64>,
    /// Of them.
    #[serde(flatten)]
    pub sum: Sum,
}

/// What one thread has counted, or all of them.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    pub(super) kinds: Kinds,
    sizes: [Sum; SIZES],
    modified: [Sum; AGES.len() + 2],
    accessed: [Sum; AGES.len() + 2],
    pub(super) owners: HashMap<u32, Sum>,
    /// See [`MAX_OWNERS`].
    pub(super) others: Sum,
}

impl Default for Sums {
    fn default() -> Self {
        let ages = [Sum::default(); AGES.len() + 2];
        Self {
            kinds: Kinds::default(),
            sizes: [Sum::default(); SIZES],
            modified: ages,
            accessed: ages,
            owners: HashMap::new(),
            others: Sum::default(),
        }
    }
}

impl Sums {
    /// One thing more. `now` in seconds since 1970.
    pub(super) fn count(&mut self, stamp: &FileStamp, now: i64) {
        let one = Sum::of(stamp);
        self.kinds.of(stamp).add(one);
        self.own(stamp.uid, one);
        if !stamp.is_regular {
            return;
        }
        let classes = [
            self.sizes.get_mut(size_class(stamp.size)),
            self.modified.get_mut(age_class(stamp.mtime, now)),
            self.accessed.get_mut(age_class(stamp.atime, now)),
        ];
        for class in classes.into_iter().flatten() {
            class.add(one);
        }
    }

    fn own(&mut self, uid: u32, sum: Sum) {
        if let Some(owned) = self.owners.get_mut(&uid) {
            owned.add(sum);
        } else if self.owners.len() < MAX_OWNERS {
            self.owners.insert(uid, sum);
        } else {
            self.others.add(sum);
        }
    }

    /// What another thread has counted, too.
    pub(super) fn merge(&mut self, other: &Self) {
        self.kinds.add(&other.kinds);
        let classes = |sums: &mut [Sum], others: &[Sum]| {
            for (sum, other) in sums.iter_mut().zip(others) {
                sum.add(*other);
            }
        };
        classes(&mut self.sizes, &other.sizes);
        classes(&mut self.modified, &other.modified);
        classes(&mut self.accessed, &other.accessed);
        for (uid, sum) in &other.owners {
            self.own(*uid, *sum);
        }
        self.others.add(other.others);
    }

    /// Classes of sizes of which there are any, the smallest first.
    pub(super) fn sizes(&self) -> Vec<SizeClass> {
        let class = |(bits, sum): (usize, &Sum)| SizeClass {
            from_bytes: bits.checked_sub(1).map_or(0, |bits| 1 << bits),
            below_bytes: 1u64.checked_shl(u32::try_from(bits).unwrap_or(u32::MAX)),
            sum: *sum,
        };
        self.sizes.iter().enumerate().filter(|(_, sum)| sum.count > 0).map(class).collect()
    }

    /// By time of change.
    pub(super) fn modified(&self) -> Vec<AgeClass> {
        ages(&self.modified)
    }

    /// By time of access.
    pub(super) fn accessed(&self) -> Vec<AgeClass> {
        ages(&self.accessed)
    }
}

/// Classes of which there are any, the youngest first.
fn ages(sums: &[Sum]) -> Vec<AgeClass> {
    let from = [None, Some(0)].into_iter().chain(AGES.map(Some));
    let below = std::iter::once(Some(0)).chain(AGES.map(Some)).chain([None]);
    let classes = from.zip(below).zip(sums).filter(|(_, sum)| sum.count > 0);
    classes.map(|((from_days, below_days), sum)| AgeClass { from_days, below_days, sum: *sum }).collect()
}

fn size_class(size: u64) -> usize {
    (u64::BITS - size.leading_zeros()) as usize
}

fn age_class((seconds, _): Moment, now: i64) -> usize {
    let age = now.saturating_sub(seconds);
    if age < 0 { 0 } else { 1 + AGES.iter().take_while(|days| age >= **days * DAY).count() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_700_000_000;

    fn stamp() -> impl Strategy<Value = FileStamp> {
        let kind = prop::sample::select(vec![0o100_000, 0o040_000, 0o120_000, 0o010_000, 0o140_000, 0o060_000]);
        let size = prop_oneof![Just(0), 1..10_000u64, any::<u64>()];
        (kind, size, any::<i64>(), NOW - 400_000_000..NOW + 1000, 0..20u32, 0..1000u64).prop_map(
            |(mode, size, changed, accessed, uid, blocks)| FileStamp {
                size,
                mtime: (changed, 0),
                ctime: (0, 0),
                atime: (accessed, 999_999_999),
                ino: 0,
                dev: 0,
                nlink: 1,
                mode,
                uid,
                gid: 0,
                blocks,
                is_regular: mode == 0o100_000,
            },
        )
    }

    proptest! {
        /// However the things are divided between threads, the sums are those of one that counted all; every regular file is in one class of
        /// each kind, whose bounds hold it.
        #[test]
        fn sums_of_parts_are_those_of_the_whole(stamps in prop::collection::vec((stamp(), any::<bool>()), 0..100)) {
            let (mut whole, mut parts) = (Sums::default(), [Sums::default(), Sums::default()]);
            for (stamp, first) in &stamps {
                whole.count(stamp, NOW);
                parts[usize::from(*first)].count(stamp, NOW);
                if stamp.is_regular {
                    let mut alone = Sums::default();
                    alone.count(stamp, NOW);
                    let (sizes, ages) = (alone.sizes(), [alone.modified(), alone.accessed()]);
                    prop_assert_eq!(sizes.len(), 1);
                    prop_assert!(sizes[0].from_bytes <= stamp.size && sizes[0].below_bytes.is_none_or(|b| stamp.size < b));
                    for (classes, time) in ages.iter().zip([stamp.mtime.0, stamp.atime.0]) {
                        prop_assert_eq!(classes.len(), 1);
                        let days = (NOW - time.clamp(NOW - 100_000 * DAY, NOW + DAY)).div_euclid(DAY);
                        prop_assert_eq!(days < 0, classes[0].from_days.is_none());
                        prop_assert!(days < 0 || classes[0].from_days.is_some_and(|from| days >= from));
                        prop_assert!(classes[0].below_days.is_none_or(|below| days < below));
                    }
                }
            }
            let mut merged = Sums::default();
            for part in &parts {
                merged.merge(part);
            }
            prop_assert_eq!(merged.kinds, whole.kinds);
            prop_assert_eq!((merged.sizes(), merged.modified(), merged.accessed()), (whole.sizes(), whole.modified(), whole.accessed()));
            prop_assert_eq!(merged.owners, whole.owners);
            prop_assert_eq!(whole.kinds.total().count, stamps.len() as u64);
        }
    }

    #[test]
    fn owners_beyond_what_is_kept_are_counted_together() {
        let mut sums = Sums::default();
        for uid in 0..10_000 {
            sums.own(uid, Sum { count: 1, size_bytes: 2, allocated_bytes: 3 });
        }
        assert_eq!(sums.owners.len(), MAX_OWNERS);
        assert_eq!(sums.others, Sum { count: 1808, size_bytes: 3616, allocated_bytes: 5424 });
    }
}
