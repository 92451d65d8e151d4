//! What is in trees: how many of each kind, how large, how old, whose.
//!
//! For: `sifaka walk`, before a migration is planned. Nothing is opened but directories, and nothing is changed: no file's content is asked for, so
//! none is restored by it. **Blocks.**
//!
//! Memory is bounded: each thread adds up for itself (`sums`); of files with several names, those are kept whose names were not all met yet (`names`);
//! of what is listed by path, only the largest (`top`).

mod names;
mod sums;
mod top;
mod visit;

pub use sums::{AgeClass, Kinds, SizeClass, Sum};

use crate::failure::JobError;
use crate::filter::Filter;
use crate::pacing;
use crate::report::{Did, Event, Kind, Watcher};
use crate::walk::{Pace, Walker};
use names::{Name, Names};
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::FileType;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use sums::Sums;
use sys::file::{FileStamp, stamp};
use sys::{Mode, OFlags};
use top::Top;
use visit::Tree;

/// What is to be counted, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Other filesystems below the roots are entered.
    pub cross: bool,
    /// What is counted.
    pub filter: Filter,
    /// So many threads; without a number they are adapted to what is fastest.
    pub threads: Option<usize>,
    /// So many owners, files and directories are listed one by one.
    pub top: usize,
}

/// What was not counted, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Filters left it out.
    pub filtered: u64,
    /// Directories on other filesystems, which were not entered.
    pub elsewhere: u64,
    /// It was removed before it could be looked at.
    pub vanished: u64,
    /// It could not be looked at.
    pub failed: u64,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Census {
    /// By kind. A file with several names counts once.
    pub kinds: Kinds,
    /// Names of files that were counted by another name.
    pub further_names: u64,
    /// Names of files with several, of which it is not known whether they were counted by another one; they were counted.
    pub unclear_names: u64,
    /// Regular files by size.
    pub sizes: Vec<SizeClass>,
    /// Regular files by time of change.
    pub modified: Vec<AgeClass>,
    /// Regular files by time of access, as far as their filesystem keeps it.
    pub accessed: Vec<AgeClass>,
    /// By user id, whoever has most first. Of all kinds.
    pub owners: Vec<(u32, Sum)>,
    /// All others together.
    pub other_owners: Sum,
    /// By size.
    pub largest_files: Vec<(u64, PathBuf)>,
    /// By number of entries.
    pub largest_directories: Vec<(u64, PathBuf)>,
    /// What lies most levels below its root.
    pub deepest: Option<(u64, PathBuf)>,
    /// What was not counted.
    pub left_out: LeftOut,
    /// It was asked to stop before all was counted.
    pub interrupted: bool,
}

/// One run.
struct Counting<'a> {
    options: &'a Options,
    watcher: &'a dyn Watcher,
    stop: &'a AtomicBool,
    /// Everything that was looked at.
    seen: &'a AtomicU64,
    /// Of directories that are counted for themselves.
    roots: HashSet<(u64, u64)>,
    /// Seconds since 1970.
    now: i64,
    sums: Vec<Mutex<Sums>>,
    names: Names,
    further: AtomicU64,
    unclear: AtomicU64,
    largest_files: Top,
    largest_directories: Top,
    deepest: Top,
    filtered: AtomicU64,
    elsewhere: AtomicU64,
    vanished: AtomicU64,
    failed: AtomicU64,
}

/// Counts what is in and below the directories `roots`; one that lies in another is counted once. A root may be something else, which is counted then.
///
/// `seen` grows with what was looked at. What cannot be looked at is told to the watcher, and counted; so is a root that is not there.
///
/// # Errors
/// There is no root.
pub fn census(
    roots: &[PathBuf],
    options: &Options,
    seen: &AtomicU64,
    watcher: &dyn Watcher,
    stop: &AtomicBool,
) -> Result<Census, JobError> {
    if roots.is_empty() {
        return Err(JobError::Senseless("there is nothing to count".to_owned()));
    }
    let pace = Pace::usual(options.threads);
    let mut counting = Counting::new(options, seen, watcher, stop, pace.most());
    let mut trees = Vec::new();
    for root in roots {
        match find(root) {
            Ok(stamp) if !is_directory(&stamp) => counting.single(root, &stamp),
            // Unless it is named twice.
            Ok(stamp) if counting.roots.insert((stamp.dev, stamp.ino)) => trees.push(root),
            Ok(_) => {}
            Err(error) => counting.trouble(Kind::Directory, root.clone(), "find it", &error),
        }
    }
    for root in trees {
        if let Err(error) = counting.tree(root, &pace) {
            counting.trouble(Kind::Directory, root.clone(), "open it", &error);
        }
    }
    Ok(counting.ended())
}

impl<'a> Counting<'a> {
    fn new(
        options: &'a Options,
        seen: &'a AtomicU64,
        watcher: &'a dyn Watcher,
        stop: &'a AtomicBool,
        threads: usize,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self {
            options,
            watcher,
            stop,
            seen,
            roots: HashSet::new(),
            now: i64::try_from(now).unwrap_or(i64::MAX),
            sums: (0..threads).map(|_| Mutex::default()).collect(),
            names: Names::default(),
            further: AtomicU64::new(0),
            unclear: AtomicU64::new(0),
            largest_files: Top::new(options.top),
            largest_directories: Top::new(options.top),
            deepest: Top::new(1),
            filtered: AtomicU64::new(0),
            elsewhere: AtomicU64::new(0),
            vanished: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }
    fn tree(&self, root: &Path, pace: &Pace) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty())?;
        let visitor = Tree { counting: self, root };
        let walker = Walker::new(&visitor, pace, self.stop, self.options.cross);
        let seen = || self.seen.load(Ordering::Relaxed);
        pacing::walk(&walker, fd, pace, self.options.threads.is_none().then_some(&seen))
    }

    /// A root that is no directory.
    fn single(&self, root: &Path, stamp: &FileStamp) {
        if stamp.is_regular && !self.options.filter.wants_file(stamp) {
            self.filtered.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.seen.fetch_add(1, Ordering::Relaxed);
        if self.count(&mut self.sums(), stamp) {
            self.largest_files.offer(content(stamp), || root.to_owned());
        }
    }

    /// Those of this thread, unless there are more threads than sums.
    fn sums(&self) -> MutexGuard<'_, Sums> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        NUMBER.with(|number| self.sums[number % self.sums.len()].lock())
    }

    /// Whether it was not counted before.
    fn count(&self, sums: &mut Sums, stamp: &FileStamp) -> bool {
        match self.names.meet(stamp) {
            Name::Further => {
                self.further.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            Name::Unclear => {
                self.unclear.fetch_add(1, Ordering::Relaxed);
            }
            Name::First => {}
        }
        sums.count(stamp, self.now);
        true
    }

    fn trouble(&self, kind: Kind, path: PathBuf, doing: &str, error: &io::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let why = Some(format!("cannot {doing}: {error}"));
        self.watcher.tell(&Event { path, kind, did: Did::Failed, bytes: 0, why });
    }

    fn ended(self) -> Census {
        let mut all = Sums::default();
        for sums in &self.sums {
            all.merge(&sums.lock());
        }
        let mut owners: Vec<(u32, Sum)> = std::mem::take(&mut all.owners).into_iter().collect();
        owners.sort_by_key(|(uid, sum)| (Reverse((sum.size_bytes, sum.count)), *uid));
        let mut other_owners = all.others;
        for (_, sum) in owners.split_off(owners.len().min(self.options.top)) {
            other_owners.add(sum);
        }
        let left_out = LeftOut {
            filtered: self.filtered.into_inner(),
            elsewhere: self.elsewhere.into_inner(),
            vanished: self.vanished.into_inner(),
            failed: self.failed.into_inner(),
        };
        Census {
            kinds: all.kinds,
            further_names: self.further.into_inner(),
            unclear_names: self.unclear.into_inner(),
            sizes: all.sizes(),
            modified: all.modified(),
            accessed: all.accessed(),
            owners,
            other_owners,
            largest_files: self.largest_files.into_sorted(),
            largest_directories: self.largest_directories.into_sorted(),
            deepest: self.deepest.into_sorted().pop(),
            left_out,
            interrupted: self.stop.load(Ordering::Relaxed),
        }
    }
}

/// By a path that somebody has named: a symbolic link is followed.
fn find(path: &Path) -> io::Result<FileStamp> {
    stamp(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

fn is_directory(stamp: &FileStamp) -> bool {
    FileType::from_raw_mode(stamp.mode) == FileType::Directory
}

/// Bytes of content: only regular files have any.
fn content(stamp: &FileStamp) -> u64 {
    if stamp.is_regular { stamp.size } else { 0 }
}
