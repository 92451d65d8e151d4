//! A tree of files copied into another filesystem, with all that belongs to it, by several threads.
//!
//! For: `sifaka migrate`, and as the first and every later pass of replication. **Blocks.**
//!
//! What stands behind it:
//! - [`visit`](self): what happens in each directory; `file`: content; `node`: links, pipes, devices; `links`: several names of one file;
//!   `attributes`: owner, mode, times and the rest; `extraneous`: removal; `crate::state`: what an interrupted run had done.
//! - Whoever owns a part of either tree may move things about in it meanwhile, and gets nothing written or read outside of it: every name is taken in
//!   an open directory, and nothing is followed.
//! - Nothing is removed or replaced at the destination unless the options say so.
//! - What has the source's size and time of change counts as copied: a copy gets its times last, after its content. Only when the machine went
//!   down in between may content be missing all the same; then what was not yet on stable storage is read and compared.

mod attic;
pub(crate) mod attributes;
mod batch;
pub(crate) mod extraneous;
mod file;
pub(crate) mod granularity;
mod leftover;
mod links;
mod node;
mod options;
mod spot;
mod visit;

pub use attic::Attic;
pub(crate) use attic::names as names_in;
pub(crate) use batch::{Part, refresh};
pub(crate) use extraneous::remove_tree;
pub(crate) use links::open_directory;

pub use options::{Existing, Leaf, Options};

use crate::climber::Climber;
use crate::failure::{Failure, JobError};
use crate::report::{Did, Event, Kind, Tally, Watcher};
use crate::state::{Earlier, Job, State};
use crate::walk::{Directory, Pace, Walker};
use attributes::Myself;
use granularity::{Granularity, unnamed};
use rustix::io::Errno;
use spot::Place;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use sys::file::{FileStamp, Moment, stamp};
use sys::{Mode, OFlags};
use transfer::Limiter;

/// Between two checkpoints, each with a sync of the destination.
const CHECKPOINT: Duration = Duration::from_secs(10);
/// So many things, and the device has something to do while more is copied: otherwise all of them would be left for the end. Large files are handed to it while they are written.
const CHECKPOINT_THINGS: u64 = 4096;
/// Between two looks at whether a checkpoint is due.
const TICK: Duration = Duration::from_millis(100);
/// A filesystem's clock goes on every ten milliseconds at the latest.
const TICK_LOOKS: u32 = 50;
/// Between two looks at the rate.
const ADAPT: Duration = Duration::from_secs(1);
/// A file costs about as much time as moving so many bytes.
const FILE_BYTES: u64 = 64 << 10;
/// Begins the names of what is being made.
const PREFIX: &str = ".sifaka-";

/// How a job came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// It was asked to stop, and can go on later.
    pub interrupted: bool,
    /// It went on from where an earlier run was interrupted.
    pub resumed: bool,
    /// Only some directories were looked at, and a file that has names in others, too, was changed: those were not looked for.
    pub(crate) several: bool,
}

/// The last checkpoint.
struct Synced {
    at: Instant,
    took: Duration,
    /// Done by then.
    things: u64,
}

impl Synced {
    /// Whoever makes files waits for the journal meanwhile: no more than a fifth of the time is spent so.
    fn is_due(&self, things: u64) -> bool {
        let since = self.at.elapsed();
        since >= CHECKPOINT || things - self.things >= CHECKPOINT_THINGS && since >= (self.took * 4).max(ADAPT)
    }
}

/// One run.
pub(crate) struct Migration<'a> {
    options: &'a Options,
    tally: &'a Tally,
    watcher: &'a dyn Watcher,
    stop: &'a AtomicBool,
    limiter: Limiter,
    myself: Myself,
    granularity: Granularity,
    /// The root of the destination.
    target: OwnedFd,
    target_inode: (u64, u64),
    source_inode: (u64, u64),
    /// This run made it.
    is_fresh: bool,
    /// It is not there, and `target` is its parent: a dry run.
    is_missing: bool,
    state: Option<State>,
    earlier: Option<Earlier>,
    /// Only some directories are looked at: of what several names are of, some may be missed.
    partial: bool,
    several: AtomicBool,
    /// Begins the names of this job's unfinished files.
    prefix: String,
    /// Not that of the run which left some.
    run: u64,
    made: AtomicU64,
    noatime: AtomicBool,
    reflinks: AtomicBool,
}

/// Copies what is in the directory `source` into the directory `target`, which is made if it is not there.
///
/// Sets the process's umask to nothing: modes are the source's.
///
/// # Errors
/// The job cannot begin, or cannot keep what it notes. What goes wrong with single files is told to the watcher, and counted.
pub fn migrate(
    source: &Path,
    target: &Path,
    options: &Options,
    tally: &Tally,
    watcher: &dyn Watcher,
    stop: &AtomicBool,
) -> Result<End, JobError> {
    rustix::process::umask(Mode::empty());
    let root = open_root(source)?;
    let made = open_target(target, options.dry_run)?;
    let target_fd = match &made {
        Target::There(fd) | Target::Made(fd) => fd.try_clone().map_err(JobError::io("open", target))?,
        Target::Missing => open_root(parent_of(target))?,
    };
    separate(&root, source, &target_fd, target, matches!(made, Target::Missing))?;
    if let Some(state) = options.state.as_ref().filter(|_| options.delete && matches!(made, Target::There(_))) {
        keep_clear(state, target)?;
    }
    let mut migration = Migration::new(options, tally, watcher, stop, target_fd, &made)?;
    migration.remember(source, &root, target)?;
    migration.run(root, target)
}

/// As [`migrate`], into a directory that is made here, and may lie in the source where that is [reserved](Options::reserved).
///
/// # Errors
/// As [`migrate`]; the directory is there.
pub(crate) fn migrate_into_new(
    source: &Path,
    target: &Path,
    options: &Options,
    tally: &Tally,
    watcher: &dyn Watcher,
    stop: &AtomicBool,
) -> Result<End, JobError> {
    rustix::process::umask(Mode::empty());
    let root = open_root(source)?;
    rustix::fs::mkdir(target, Mode::RWXU).map_err(JobError::io("make the directory", target))?;
    let made = open_root(target)?;
    let target_fd = made.try_clone().map_err(JobError::io("open", target))?;
    let mut migration = Migration::new(options, tally, watcher, stop, target_fd, &Target::Made(made))?;
    migration.remember(source, &root, target)?;
    migration.run(root, target)
}

/// The directory into which all is to go.
enum Target {
    There(OwnedFd),
    /// By this run.
    Made(OwnedFd),
    /// In a dry run. Its parent stands in for it.
    Missing,
}

impl<'a> Migration<'a> {
    fn new(
        options: &'a Options,
        tally: &'a Tally,
        watcher: &'a dyn Watcher,
        stop: &'a AtomicBool,
        target: OwnedFd,
        made: &Target,
    ) -> Result<Self, JobError> {
        let found = stamp(&target).map_err(JobError::io("read attributes of", Path::new("the destination")))?;
        let granularity = if options.dry_run { Ok(Granularity::FINEST) } else { Granularity::of(&target) };
        let granularity = granularity.unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot find out how finely the destination keeps times: as finely as there is");
            Granularity::FINEST
        });
        Ok(Self {
            options,
            tally,
            watcher,
            stop,
            limiter: Limiter::new(options.limit),
            myself: Myself::now(),
            granularity,
            target_inode: (found.dev, found.ino),
            source_inode: (0, 0),
            target,
            is_fresh: !matches!(made, Target::There(_)),
            is_missing: matches!(made, Target::Missing),
            state: None,
            earlier: None,
            partial: false,
            several: AtomicBool::new(false),
            prefix: String::new(),
            run: RandomState::new().hash_one(std::process::id()),
            made: AtomicU64::new(0),
            noatime: AtomicBool::new(true),
            reflinks: AtomicBool::new(true),
        })
    }

    /// Opens what the job keeps, and finds out what an earlier run has done.
    fn remember(&mut self, source: &Path, root: &OwnedFd, target: &Path) -> Result<(), JobError> {
        let found = stamp(root).map_err(JobError::io("read attributes of", source))?;
        self.source_inode = (found.dev, found.ino);
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let key = format!("migrate {:?} {:?}", absolute(source), absolute(target));
        self.prefix = format!("{PREFIX}{:016x}-", short_hash(key.as_bytes()));
        let Some(path) = self.options.state.as_ref().filter(|_| !self.options.dry_run) else { return Ok(()) };
        // What was finished under other terms is not finished, nor is it if other directories have these paths now.
        let terms =
            format!("{} {} {:?} {:?}", self.options.terms(), self.partial, self.source_inode, self.target_inode);
        let job = Job { key, terms, made_root: self.is_fresh };
        let (state, earlier) = State::open(path, &job, self.next_tick(), self.options.restart)?;
        (self.state, self.earlier) = (Some(state), earlier);
        Ok(())
    }

    fn run(self, root: OwnedFd, target: &Path) -> Result<End, JobError> {
        let again = root.try_clone().map_err(JobError::io("open", Path::new("the source")))?;
        self.run_by(again, target, |walker| walker.run(root))
    }

    fn run_by(
        mut self,
        again: OwnedFd,
        target: &Path,
        walk: impl FnOnce(&Walker<'_, Self>) -> io::Result<()>,
    ) -> Result<End, JobError> {
        let pace = Pace::usual(self.options.threads);
        let walker = Walker::new(&self, &pace, self.stop, self.options.cross);
        let (ended, end) = channel::<()>();
        let (walked, kept) = std::thread::scope(|scope| {
            let ticks = scope.spawn(|| self.tick(&walker, &pace, end));
            let walked = walk(&walker).map_err(JobError::io("read", Path::new("the source")));
            drop(ended);
            (walked, ticks.join().unwrap_or(Ok(())))
        });
        walked?;
        kept?;
        if !self.is_stopped() && self.state.is_some() {
            let seen = stamp(&again).map_err(JobError::io("read attributes of", Path::new("the source")))?;
            let target = self.target.try_clone().map_err(JobError::io("open", target))?;
            let root = Directory::new(None, Box::default(), again, seen, Place::new(Some(target), false));
            self.late_names(&Arc::new(root))?;
        }
        drop(walker);
        let several = self.several.load(Ordering::Relaxed);
        let end = End { interrupted: self.is_stopped(), resumed: self.earlier.is_some(), several };
        if !self.options.dry_run {
            self.checkpoint(target)?;
            if let Some(state) = self.state.take().filter(|_| !end.interrupted) {
                state.remove()?;
            }
        }
        Ok(end)
    }

    /// Adapts the number of threads, and makes checkpoints, until the walk is over.
    fn tick(&self, walker: &Walker<'_, Self>, pace: &Pace, end: Receiver<()>) -> Result<(), JobError> {
        let mut climber = Climber::new(pace.limit(), pace.most());
        let (mut adapted, mut before) = (Instant::now(), self.cost());
        let mut synced = Synced { at: Instant::now(), took: Duration::ZERO, things: self.things() };
        while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(TICK) {
            let cost = self.cost();
            if self.options.threads.is_none() && adapted.elapsed() >= ADAPT {
                pace.set(climber.step(cost - before));
                (adapted, before) = (Instant::now(), cost);
                walker.wake();
            }
            let things = self.things();
            if !self.options.dry_run && (synced.is_due(things) || self.state.as_ref().is_some_and(State::is_full)) {
                let began = Instant::now();
                if let Err(error) = self.checkpoint(Path::new("the destination")) {
                    // Whatever is copied now could be lost as well.
                    self.stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                synced = Synced { at: Instant::now(), took: began.elapsed(), things };
            }
        }
        Ok(())
    }

    fn cost(&self) -> u64 {
        self.tally.totals().bytes + self.things() * FILE_BYTES
    }

    fn things(&self) -> u64 {
        let totals = self.tally.totals();
        totals.seen() + totals.directories
    }

    /// What was written so far is on stable storage, and is known to be done.
    fn checkpoint(&self, target: &Path) -> Result<(), JobError> {
        let (noted, now) = (self.state.as_ref().map(State::take_noted), self.clock());
        if let Err(error) = sys::file::sync_fs(&self.target) {
            if let Some(state) = &self.state {
                state.doubt()?;
            }
            return Err(JobError::io("make durable what was written into", target)(error));
        }
        match (&self.state, noted) {
            (Some(state), Some(noted)) => state.checkpoint(&noted, now),
            _ => Ok(()),
        }
    }

    /// The moment to which the destination's clock goes on next: what was there before is older, and what comes now is not.
    fn next_tick(&self) -> Moment {
        let before = self.clock();
        // Where times are kept by the second, what came within this one is taken for ours.
        for _ in 0..TICK_LOOKS {
            let now = self.clock();
            if now > before {
                return now;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        before
    }

    /// By the destination, whose clock may be another machine's; earlier rather than later.
    fn clock(&self) -> Moment {
        const EARLIER: Duration = Duration::from_secs(2);
        let there = unnamed(&self.target).and_then(|file| stamp(&file));
        there.map(|stamp| stamp.ctime).unwrap_or_else(|_| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(EARLIER);
            (i64::try_from(now.as_secs()).unwrap_or(i64::MAX), now.subsec_nanos())
        })
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether its content may have been lost, whatever its size and times.
    fn is_doubtful(&self, existing: &FileStamp) -> bool {
        let earlier = self.earlier.as_ref();
        earlier.is_some_and(|earlier| earlier.restarted && existing.ctime >= earlier.synced)
    }

    /// A name for something unfinished.
    fn temporary(&self) -> PathBuf {
        format!("{}{:x}-{:x}", self.prefix, self.run, self.made.fetch_add(1, Ordering::Relaxed)).into()
    }

    fn is_temporary(&self, name: &[u8]) -> bool {
        !self.prefix.is_empty() && name.starts_with(self.prefix.as_bytes())
    }

    /// Whether the job is for a name at all.
    fn is_reserved(&self, directory: &Directory<Place>, name: &[u8]) -> bool {
        directory.depth() == 0 && self.options.reserved.is_some_and(|reserved| reserved.as_bytes() == name)
    }

    fn attic(&self) -> Option<&Attic> {
        self.options.attic.as_deref()
    }

    fn told(&self, kind: Kind, did: Did, bytes: u64, why: Option<String>, path: impl FnOnce() -> PathBuf) {
        self.tally.count(kind, did);
        if did.is_problem() || why.is_some() || self.watcher.wants_all() {
            self.watcher.tell(&Event { path: path(), kind, did, bytes, why });
        }
    }

    fn trouble_at(&self, kind: Kind, path: PathBuf, failure: &Failure) {
        self.told(kind, Did::Failed, 0, Some(failure.to_string()), || path);
    }
}

fn open_root(path: &Path) -> Result<OwnedFd, JobError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOTDIR) => {
            let why = format!("{} is no directory; what is migrated is what is in a directory", path.display());
            Err(JobError::Senseless(why))
        }
        other => other.map_err(JobError::io("open", path)),
    }
}

/// Nothing is made in a dry run.
fn open_target(path: &Path, dry: bool) -> Result<Target, JobError> {
    match rustix::fs::stat(path) {
        Err(Errno::NOENT) if dry => Ok(Target::Missing),
        Err(Errno::NOENT) => {
            rustix::fs::mkdir(path, Mode::RWXU).map_err(JobError::io("make the directory", path))?;
            Ok(Target::Made(open_root(path)?))
        }
        Err(error) => Err(JobError::io("find", path)(error)),
        Ok(_) => Ok(Target::There(open_root(path)?)),
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Neither tree may lie in the other one. `missing`: `target_fd` is the parent of what would be made.
pub(crate) fn separate(
    root: &OwnedFd,
    source: &Path,
    target_fd: &OwnedFd,
    target: &Path,
    missing: bool,
) -> Result<(), JobError> {
    let inode = |fd: &OwnedFd| stamp(fd).map(|stamp| (stamp.dev, stamp.ino));
    let (from, to) = (inode(root), inode(target_fd));
    let (from, to) = (from.map_err(JobError::io("find", source))?, to.map_err(JobError::io("find", target))?);
    let nested = |inner: &Path, outer: &Path| {
        let (inner, outer) = (inner.display(), outer.display());
        Err(JobError::Senseless(format!("{inner} lies in {outer}: a tree cannot be copied into or out of itself")))
    };
    if from == to && !missing {
        return Err(JobError::Senseless(format!("{} and {} are one directory", source.display(), target.display())));
    }
    if from == to || lies_in(target_fd, from).map_err(JobError::io("find what is above", target))? {
        return nested(target, source);
    }
    if !missing && lies_in(root, to).map_err(JobError::io("find what is above", source))? {
        return nested(source, target);
    }
    Ok(())
}

/// Refuses a file of the job's own that lies below a destination from which is removed what the source does not have: it would be removed, or be copied over.
///
/// # Errors
/// It lies there, or that cannot be found out.
pub fn keep_clear(file: &Path, target: &Path) -> Result<(), JobError> {
    let absolute = std::path::absolute(file).map_err(JobError::io("find", file))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let outer = match rustix::fs::stat(target) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(JobError::io("find", target))?,
    };
    // What is not there yet will be made below what is.
    for above in absolute.ancestors().skip(1) {
        let opened = match rustix::fs::open(above, flags, Mode::empty()) {
            Err(Errno::NOENT) => continue,
            other => other.map_err(JobError::io("open", above))?,
        };
        let found = stamp(&opened).map_err(JobError::io("find", above))?;
        let outer = (outer.st_dev, outer.st_ino);
        let is_inside = (found.dev, found.ino) == outer
            || lies_in(&opened, outer).map_err(JobError::io("find what is above", above))?;
        if !is_inside {
            return Ok(());
        }
        let why = format!(
            "{} lies in {}, from which --delete removes what the source does not have: put it elsewhere",
            file.display(),
            target.display()
        );
        return Err(JobError::Senseless(why));
    }
    Ok(())
}

fn lies_in(inner: &OwnedFd, outer: (u64, u64)) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(inner, c".", flags, Mode::empty())?;
    loop {
        let here = stamp(at.as_fd())?;
        let above = rustix::fs::openat(&at, c"..", flags, Mode::empty())?;
        let found = stamp(&above)?;
        if (found.dev, found.ino) == (here.dev, here.ino) {
            return Ok(false);
        }
        if (found.dev, found.ino) == outer {
            return Ok(true);
        }
        at = above;
    }
}

/// The key is not secret, and a clash means only that two jobs remove each other's leftovers when both were killed.
fn short_hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
