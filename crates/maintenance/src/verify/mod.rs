//! A tree of files compared with what an archive holds for it.
//!
//! For: `sifaka verify --archive`. Nothing is changed, neither in the tree nor in the archive, and nothing is asked of the agent: files are looked at
//! through `O_PATH` descriptors, a released one is never opened, its object is read instead. (A file that is released in the very moment in which it
//! is opened for `content` is restored, as for any reader.) **Blocks.**
//!
//! Which object is a file's, its attributes say; what the archive knows of it, the object's manifest. Objects without one (Lemur's layout)
//! are compared by size and content alone. What no file names is looked for only when the tree is the whole filesystem, by
//! what [`crate::fsck`] has for that: it needs to know of all files.

mod compare;
mod finding;

pub use finding::{Aspect, Difference, Finding, Found, Tally, Totals};

use crate::fsck::comparison::Comparison;
use crate::fsck::files::{MOVED, Onlooker};
use crate::fsck::judge::Judge;
use crate::fsck::{Report, Scope, Verdict, list, now_ms, read_claims, walk};
use crate::report::{self, Problem};
use crate::walk::Seen;
use crate::{Holdings, MaintenanceError, fsck};
use coordinator::{Filesystem, handle_of};
use finding::add;
use model::{Extent, FileHandle};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use sys::file::FileStamp;
use transfer::{Limiter, Monitor};

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
    /// Where files are.
    pub path: bool,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of the archive.
    pub archive_id: u32,
    /// The agent's queue database, which knows of objects on their way; `None`: there is none.
    pub queue: Option<PathBuf>,
    /// Contents are read, past the page cache: of resident files and compared with the manifest, of released ones in the archive.
    pub content: bool,
    /// What is not compared.
    pub ignore: Ignore,
    /// Bytes of content a second, all threads together.
    pub limit: Option<NonZeroU64>,
    /// Threads that walk and compare; at least 1.
    pub threads: usize,
}

/// Which files are compared.
pub trait Wanted: Sync {
    /// Whether there is anything that may not be.
    fn is_all(&self) -> bool;
    /// By the path below the tree.
    fn path(&self, path: &[u8]) -> bool;
    /// By all else.
    fn file(&self, stamp: &FileStamp) -> bool;
}

/// Who is told, from whichever thread.
pub trait Watcher: Sync {
    /// Whether it wants to know of everything, and not only of what somebody has to look at.
    fn wants_all(&self) -> bool;
    /// See the trait.
    fn tell(&self, finding: &Finding);
}

/// One run.
struct Run<'a> {
    fs: &'a Filesystem,
    holdings: &'a dyn Holdings,
    options: &'a Options,
    wanted: &'a dyn Wanted,
    /// The tree's own path in the filesystem, with a slash at its end; empty for the root.
    prefix: Vec<u8>,
    tally: &'a Tally,
    watcher: &'a dyn Watcher,
    stop: &'a AtomicBool,
    limiter: Limiter,
    /// The archive ceased to answer.
    ended: Mutex<Option<MaintenanceError>>,
}

/// Compares the files of `tree`, a directory of the filesystem, with the archive. Gives whether it came to the end; it does not when it is asked to stop.
///
/// # Errors
/// The tree cannot be opened, the archive not be listed, or it ceases to answer; the queue or the temporary database fail. What goes wrong with
/// single files is told, and counted.
pub fn verify(
    (fs, tree): (&Filesystem, &Path),
    holdings: &dyn Holdings,
    options: &Options,
    wanted: &dyn Wanted,
    (tally, watcher): (&Tally, &dyn Watcher),
    stop: &AtomicBool,
) -> Result<bool, MaintenanceError> {
    let started_ms = now_ms();
    let (directory, prefix) = place(fs, tree)?;
    let is_root = prefix.is_empty();
    if options.content {
        // What is still to be written would be read from the page cache.
        fs.sync().map_err(MaintenanceError::io("make durable what was written into", tree))?;
    }
    let (limiter, ended) = (Limiter::new(options.limit), Mutex::default());
    let run = Run { fs, holdings, options, wanted, prefix: prefix.clone(), tally, watcher, stop, limiter, ended };
    let comparison = Comparison::new()?;
    let queue = options.queue.clone().unwrap_or_default();
    let asked = fsck::Options {
        archive_id: options.archive_id,
        queue,
        repair: false,
        force: false,
        foreign: false,
        min_age: Duration::ZERO,
        threads: options.threads,
    };
    if is_root {
        run.claims(&comparison, &asked)?;
        list(holdings, &comparison, &run, &mut Report::default())?;
    }
    let from = prefix.strip_suffix(b"/").map(|path| (directory, path.to_vec()));
    let scope = Scope { from, onlooker: Some(&run) };
    let (comparison, _) = walk((fs, holdings), comparison, &asked, &run, &mut Report::default(), &scope)?;
    run.end()?;
    if is_root && !run.is_stopped() {
        run.claims(&comparison, &asked)?;
        run.extras(&Judge::new(fs, holdings, comparison, &asked, started_ms))?;
    }
    Ok(!stop.load(Ordering::Relaxed))
}

/// The handle of a directory of the filesystem, and its path with a slash at the end; empty for the root.
fn place(fs: &Filesystem, tree: &Path) -> Result<(FileHandle, Vec<u8>), MaintenanceError> {
    let flags = sys::OFlags::PATH | sys::OFlags::DIRECTORY | sys::OFlags::CLOEXEC;
    let opened = rustix::fs::open(tree, flags, sys::Mode::empty()).map_err(std::io::Error::from);
    let opened = opened.map_err(MaintenanceError::io("open", tree))?;
    let handle = handle_of(&opened).map_err(MaintenanceError::io("take the handle of", tree))?;
    let gone = || std::io::Error::from_raw_os_error(rustix::io::Errno::XDEV.raw_os_error());
    let root = handle_of(fs.root()).map_err(MaintenanceError::io("take the handle of the root above", tree))?;
    if handle == root {
        return Ok((handle, Vec::new()));
    }
    let path = fs.path_of_directory(&handle).ok_or_else(gone);
    let path = path.map_err(MaintenanceError::io("find in the managed filesystem", tree))?;
    Ok((handle, [&path[..], b"/"].concat()))
}

impl Run<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.ended.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn end(&self) -> Result<(), MaintenanceError> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    fn claims(&self, comparison: &Comparison, asked: &fsck::Options) -> Result<(), MaintenanceError> {
        if self.options.queue.is_some() { read_claims(comparison, asked) } else { Ok(()) }
    }

    /// `path` is in the filesystem.
    fn told(&self, path: &[u8], object: Option<&str>, found: Found) {
        self.tally.count(&found);
        if found.is_problem() || self.watcher.wants_all() {
            let path = path.strip_prefix(&self.prefix[..]).unwrap_or(path).to_vec();
            self.watcher.tell(&Finding { path, object: object.map(str::to_owned), found });
        }
    }

    /// Whether it is to be compared, as far as its path is known.
    fn wants(&self, path: &[u8], stamp: Option<&FileStamp>) -> bool {
        let below = path.strip_prefix(&self.prefix[..]).unwrap_or(path);
        self.wanted.is_all()
            || (path != MOVED && self.wanted.path(below)) && stamp.is_none_or(|stamp| self.wanted.file(stamp))
    }

    /// What the archive holds and no file names.
    fn extras(&self, judge: &Judge<'_>) -> Result<(), MaintenanceError> {
        let mut after = String::new();
        loop {
            let turn = judge.comparison().unnamed(&after)?;
            let Some(last) = turn.last().filter(|_| !self.is_stopped()) else { return Ok(()) };
            after.clone_from(last);
            let judged = judge.for_each(turn, |id| match judge.judge(id)? {
                Verdict::Orphan => Ok((Verdict::Orphan, judge.orphan(id, false)?.manifest)),
                verdict => Ok((verdict, None)),
            })?;
            for (id, (verdict, manifest)) in judged {
                let path = manifest.map(|manifest| manifest.path).unwrap_or_default();
                match verdict {
                    Verdict::Gone | Verdict::Missed => {}
                    Verdict::Orphan if !self.wants(&path, None) => {}
                    Verdict::Orphan => self.told(&path, Some(&id), Found::Extra),
                    Verdict::Claimed => add(&self.tally.claimed, 1),
                    Verdict::Young => add(&self.tally.young, 1),
                    Verdict::Foreign => add(&self.tally.foreign, 1),
                    Verdict::NotOurs => add(&self.tally.strange, 1),
                    Verdict::Unreadable => {
                        let why = "no file names it, and its manifest cannot be read".to_owned();
                        self.told(b"", Some(&id), Found::Failed(why));
                    }
                }
            }
        }
    }
}

impl Onlooker for Run<'_> {
    fn file(&self, file: &Seen, handle: &FileHandle) {
        if self.is_stopped() {
            return;
        }
        if !self.wanted.is_all() {
            match sys::file::stamp(&file.fd) {
                Ok(stamp) if !self.wants(&file.path, Some(&stamp)) => {
                    return self.told(&file.path, None, Found::Filtered);
                }
                _ => {}
            }
        }
        let (object, found) = self.compared(file, handle);
        if matches!(found, Found::Failed(_)) && self.is_stopped() {
            return;
        }
        self.told(&file.path, object.as_deref(), found);
    }

    fn unmanaged(&self, path: &[u8], fd: &OwnedFd) {
        let is_wanted = self.wanted.is_all() || sys::file::stamp(fd).is_ok_and(|stamp| self.wants(path, Some(&stamp)));
        self.told(path, None, if is_wanted { Found::Unarchived } else { Found::Filtered });
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped()
    }
}

/// What goes wrong with listing and walking.
impl report::Watcher for Run<'_> {
    fn phase(&self, _: &'static str, _: Option<u64>) {}

    fn advanced(&self, _: u64) {}

    fn found(&self, finding: report::Finding) {
        // Copies that nothing leads to are no difference, and `fsck` tells them.
        if finding.problem != Problem::Stray {
            let path = finding.path.unwrap_or_default();
            self.told(&path, finding.object.as_deref(), Found::Failed(finding.what.into_owned()));
        }
    }
}

/// Bounds the rate, and ends what is being read when all is to end.
impl Monitor for Run<'_> {
    fn cancelled(&self) -> bool {
        self.limiter.wait(false, || self.is_stopped()) || self.is_stopped()
    }

    fn advanced(&self, extent: Extent) {
        add(&self.tally.bytes, extent.length);
        self.limiter.spend(extent.length);
    }

    fn skipped(&self, _: Extent) {}
}
