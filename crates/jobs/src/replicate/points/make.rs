//! How a point in time comes about.

use super::{Method, open};
use crate::failure::JobError;
use crate::migrate::{Leaf, Options, migrate_into_new, remove_tree};
use crate::replicate::control::{self, Control};
use crate::report::{Event, Tally, Watcher};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use sys::{Mode, OFlags, btrfs};

/// Between two looks at whether it is to end.
const TICK: Duration = Duration::from_millis(100);

/// How a point of the replica `target` is made, of what its filesystem can do. `points` is a directory in it.
pub(super) fn method(target: &Path, points: BorrowedFd<'_>) -> Result<Method, String> {
    let found = (|| {
        let root = open_root(target)?;
        if rustix::process::geteuid().is_root() && btrfs::is_subvolume(&root)? && is_all_in_one(&root, points)? {
            return Ok(Method::Snapshot);
        }
        Ok(if shares_blocks(points)? { Method::Reflinks } else { Method::Links })
    })();
    found.map_err(|error: io::Error| format!("cannot find out how points in time can be made: {error}"))
}

fn open_root(target: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(target, flags, Mode::empty())?)
}

/// Other subvolumes are not in a snapshot: but for the points themselves there must be none.
fn is_all_in_one(root: &OwnedFd, points: BorrowedFd<'_>) -> io::Result<bool> {
    let own = sys::file::stamp(points)?.ino;
    match btrfs::places_of_subvolumes(root) {
        Ok(places) => Ok(places.iter().all(|place| *place == own)),
        // Older than Linux 4.18: nobody knows.
        Err(error) if error.raw_os_error() == Some(Errno::NOTTY.raw_os_error()) => Ok(false),
        Err(error) => Err(error),
    }
}

/// By trying it.
fn shares_blocks(directory: BorrowedFd<'_>) -> io::Result<bool> {
    let unnamed = || -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match rustix::fs::openat(directory, c".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(file.into()),
            // It cannot make files without names (NFS).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                let (name, flags) = (format!("{}sample", super::NEW), OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC);
                let file = rustix::fs::openat(directory, &name, flags | OFlags::NOFOLLOW, Mode::RUSR | Mode::WUSR)?;
                rustix::fs::unlinkat(directory, &name, AtFlags::empty())?;
                Ok(file.into())
            }
            Err(error) => Err(error.into()),
        }
    };
    let (mut full, empty) = (unnamed()?, unnamed()?);
    full.write_all(&[1; 64 << 10])?;
    match sys::file::reflink(&full, &empty) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::NOSPC.raw_os_error()) => Err(error),
        Err(_) => Ok(false),
    }
}

/// Makes it as `new` in the directory of points, whole and on stable storage.
pub(super) fn make(
    method: Method,
    target: &Path,
    points: &Control,
    new: &str,
    state: &Path,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(), String> {
    match method {
        Method::Snapshot => {
            snapshot(target, points, new, stop).map_err(|error| format!("cannot make a snapshot: {error}"))
        }
        Method::Reflinks => tree(Leaf::Reflink, target, &points.path().join(new), state, stop),
        Method::Links => tree(Leaf::Link, target, &points.path().join(new), state, stop),
    }
}

/// Without the control directory: what was removed is not to stay for longer than its grace period.
fn snapshot(target: &Path, points: &Control, new: &str, stop: &dyn Fn() -> bool) -> io::Result<()> {
    let root = open_root(target)?;
    btrfs::snapshot(&root, points.fd(), new.as_bytes())?;
    let made = open(points.fd(), new.as_bytes())?;
    remove_tree(made.as_fd(), control::NAME.as_bytes(), stop)?;
    let seen = sys::file::stamp(&root)?;
    let spec = |(seconds, nanos): sys::file::Moment| Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    let times = Timestamps { last_access: spec(seen.atime), last_modification: spec(seen.mtime) };
    rustix::fs::futimens(&made, &times)?;
    btrfs::make_read_only(&made)?;
    sys::file::sync_fs(&made)
}

/// Ends the job at the first thing that it cannot do.
#[derive(Default)]
struct First {
    why: Mutex<Option<String>>,
    halt: AtomicBool,
}

impl Watcher for First {
    fn wants_all(&self) -> bool {
        false
    }

    fn tell(&self, event: &Event) {
        let Event { path, did, why, .. } = event;
        let text = || format!("{}: {}", path.display(), why.clone().unwrap_or_else(|| format!("{did:?}")));
        self.why.lock().get_or_insert_with(text);
        self.halt.store(true, Ordering::Relaxed);
    }
}

/// A tree like the replica's, with content that is the replica's own.
fn tree(leaf: Leaf, target: &Path, new: &Path, state: &Path, stop: &(dyn Fn() -> bool + Sync)) -> Result<(), String> {
    let options = Options {
        reserved: Some(control::NAME),
        // Names of one file are to be names of one file.
        state: Some(state.to_owned()),
        restart: true,
        leaf,
        ..Options::default()
    };
    let (tally, first, over) = (Tally::default(), First::default(), AtomicBool::new(false));
    let end = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if stop() {
                    first.halt.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(TICK);
            }
        });
        let end = migrate_into_new(target, new, &options, &tally, &first, &first.halt);
        over.store(true, Ordering::Relaxed);
        end
    });
    if let Some(why) = first.why.into_inner() {
        return Err(why);
    }
    let end = end.map_err(|error: JobError| error.to_string())?;
    let totals = tally.totals();
    if end.interrupted {
        return Err("it was interrupted".to_owned());
    }
    match totals.vanished {
        0 if totals.is_complete() => Ok(()),
        0 => Err("not all of the replica could be looked at".to_owned()),
        _ => Err("somebody removes things from the replica".to_owned()),
    }
}
