//! Two trees compared: by what is known of each file, or by content as well.
//!
//! For: `sifaka verify`, after a migration above all. Nothing is changed in either tree. Without contents, only directories are opened, so that no
//! released file is restored. **Blocks.**
//!
//! The first tree is walked, each directory of the second one opened beside that of the first; `compare` has what is compared of one thing, `links` which
//! names are those of one file, `times` when two times are the same.

mod compare;
mod finding;
mod links;
pub(crate) mod times;
mod visit;

pub use finding::{Aspect, Difference, Finding, Found, Tally, Totals};

use crate::failure::{Failure, JobError, Side};
use crate::filter::Filter;
use crate::pacing;
use crate::report::Kind;
use crate::walk::{Pace, Walker, mount_of};
use links::Links;
use rustix::io::Errno;
use std::num::NonZeroU64;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use sys::{Mode, OFlags};
use transfer::Limiter;

/// A file costs about as much time as reading so many bytes.
const FILE_BYTES: u64 = 64 << 10;
/// `f_type` of FAT, which keeps every second second.
const FAT: i64 = 0x4d44;

/// What is not compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ignore {
    /// Times of change.
    pub times: bool,
    /// Users and groups.
    pub owner: bool,
    /// Permissions.
    pub mode: bool,
    /// Extended attributes, ACLs among them.
    pub attributes: bool,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Contents are read on both sides, past the page cache.
    pub content: bool,
    /// What is not compared.
    pub ignore: Ignore,
    /// Other filesystems below the roots are entered.
    pub cross: bool,
    /// What is compared, by what it is in the first tree.
    pub filter: Filter,
    /// Bytes of content a second in each tree, all threads together.
    pub limit: Option<NonZeroU64>,
    /// So many threads; without a number they are adapted to what is fastest.
    pub threads: Option<usize>,
}

/// Who is told, from whichever thread.
pub trait Watcher: Sync {
    /// Whether it wants to know of everything, and not only of what somebody has to look at.
    fn wants_all(&self) -> bool;
    /// See the trait.
    fn tell(&self, finding: &Finding);
}

/// One run.
struct Verification<'a> {
    options: &'a Options,
    tally: &'a Tally,
    watcher: &'a dyn Watcher,
    stop: &'a AtomicBool,
    limiter: Limiter,
    links: Links,
    /// The root of the second tree.
    second: OwnedFd,
    second_mount: Option<u64>,
    two_seconds: bool,
}

/// Compares the directories `a` and `b` with all below them. Gives whether it came to the end; it does not when it is asked to stop.
///
/// # Errors
/// One of them cannot be opened, or what was written into them not be made durable before it is read. What goes wrong below them is told, and counted.
pub fn verify(
    a: &Path,
    b: &Path,
    options: &Options,
    tally: &Tally,
    watcher: &dyn Watcher,
    stop: &AtomicBool,
) -> Result<bool, JobError> {
    let (first, second) = (open_root(a)?, open_root(b)?);
    if options.content {
        // What is still to be written stays in the page cache, and would be read from there.
        for (root, path) in [(&first, a), (&second, b)] {
            sys::file::sync_fs(root).map_err(JobError::io("make durable what was written into", path))?;
        }
    }
    let second_mount = mount_of(second.as_fd()).map_err(JobError::io("read attributes of", b))?;
    let is_fat = |root: &OwnedFd| rustix::fs::fstatfs(root).is_ok_and(|found| found.f_type == FAT);
    let verification = Verification {
        options,
        tally,
        watcher,
        stop,
        limiter: Limiter::new(options.limit),
        links: Links::default(),
        two_seconds: is_fat(&first) || is_fat(&second),
        second,
        second_mount,
    };
    let pace = Pace::usual(options.threads);
    let walker = Walker::new(&verification, &pace, stop, options.cross);
    let cost = || {
        let totals = tally.totals();
        totals.bytes + totals.seen() * FILE_BYTES
    };
    pacing::walk(&walker, first, &pace, options.threads.is_none().then_some(&cost)).map_err(JobError::io("read", a))?;
    Ok(!stop.load(Ordering::Relaxed))
}

impl Verification<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn told(&self, kind: Kind, found: Found, path: impl FnOnce() -> PathBuf) {
        self.tally.count(&found);
        if found.is_problem() || self.watcher.wants_all() {
            self.watcher.tell(&Finding { path: path(), kind, found });
        }
    }

    fn failed(&self, kind: Kind, failure: &Failure, path: impl FnOnce() -> PathBuf) {
        let tree = match failure.side {
            Side::Source => "the first tree",
            Side::Destination => "the second tree",
        };
        let why = format!("cannot {} it in {tree}: {}", failure.doing, failure.error);
        self.told(kind, Found::Failed(why), path);
    }
}

fn open_root(path: &Path) -> Result<OwnedFd, JobError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOTDIR) => {
            let why = format!("{} is no directory; what is compared is what is in two directories", path.display());
            Err(JobError::Senseless(why))
        }
        other => other.map_err(JobError::io("open", path)),
    }
}
