//! What the destination has of a bucket, and the bucket does not: removed where that was asked for.
//!
//! To be begun when all of the bucket was listed. Nothing is concluded from that listing: of each file the service is asked once more whether there is
//! such an object, and of each directory whether there is anything below it. What cannot be asked about stays.

use super::download::Download;
use super::target::Target;
use super::upload::kind_told;
use super::{Done, Trouble};
use crate::failure::{Failure, JobError};
use crate::migrate::extraneous::remove_but;
use crate::report::{Did, Kind};
use crate::walk::{Directory, Entry, Found, Pace, Visitor, Walker, as_path};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use sys::file::stamp_at;

/// See the module.
struct Removal<'a> {
    job: &'a Download<'a>,
    /// Files of the job's own, by device and inode.
    own: Vec<(u64, u64)>,
}

/// Walks the destination, and removes.
pub(super) fn remove_surplus(job: &Download<'_>, target: &Target) -> Result<(), JobError> {
    let options = job.run.options;
    let state = options.state.iter().flat_map(|state| [state.clone(), state.with_extension("lock")]);
    let own = options.own.iter().cloned().chain(state).filter_map(|path: PathBuf| std::fs::metadata(path).ok());
    let removal = Removal { job, own: own.map(|found| (found.dev(), found.ino())).collect() };
    let failed = JobError::io("read", std::path::Path::new("the destination"));
    let pace = Pace::new(job.run.threads(), job.run.threads());
    let root = target.root().try_clone().map_err(JobError::io("open", std::path::Path::new("the destination")))?;
    Walker::new(&removal, &pace, job.run.stop, options.cross).run(root).map_err(failed)
}

impl Visitor for Removal<'_> {
    type Kept = ();

    fn wants(&self, parent: &Directory<()>, name: &[u8]) -> bool {
        if self.job.run.is_stopped() || !self.job.run.options.filter.wants_name(parent, name, true) {
            return false;
        }
        match self.has_below(&parent.path_of(name)) {
            Ok(true) => true,
            Ok(false) => {
                self.remove_directory(parent, name);
                false
            }
            Err(trouble) => {
                self.job.run.failed(Kind::Directory, trouble, || parent.shown(name));
                false
            }
        }
    }

    fn enter(&self, _: Found<'_, ()>) -> Option<()> {
        Some(())
    }

    fn entries(&self, _: &Walker<'_, Self>, directory: &Arc<Directory<()>>, entries: &[Entry]) {
        for entry in entries {
            if self.job.run.is_stopped() {
                return;
            }
            let kind = kind_told(entry.kind);
            match self.removed(directory, entry) {
                Ok(true) => self.job.run.told(kind, Done::plain(Did::Deleted), || directory.shown(&entry.name)),
                Ok(false) => {}
                Err(trouble) => self.job.run.failed(kind, trouble, || directory.shown(&entry.name)),
            }
        }
    }

    fn leave(&self, _: &Directory<()>) {}

    fn trouble(&self, directory: &Directory<()>, name: &[u8], doing: &'static str, error: &io::Error) {
        let error =
            error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error);
        let trouble = Failure::destination(doing)(error).into();
        self.job.run.failed(Kind::Directory, trouble, || directory.shown(name));
    }

    fn elsewhere(&self, directory: &Directory<()>, name: &[u8]) {
        self.job.run.told(Kind::Directory, Done::plain(Did::Elsewhere), || directory.shown(name));
    }
}

impl Removal<'_> {
    /// `None`: no object is called so.
    fn key(&self, path: &[u8]) -> Option<String> {
        Some(format!("{}{}", self.job.prefix, str::from_utf8(path).ok()?))
    }

    fn has_below(&self, path: &[u8]) -> Result<bool, Trouble> {
        let Some(key) = self.key(path) else { return Ok(false) };
        if !objects::foreign::can_be_asked_for(&key) {
            return Err(Trouble::Unfit(objects::foreign::UNASKABLE));
        }
        Ok(self.job.plain.has_below(&format!("{key}/"))?)
    }

    /// Whether it was there to be removed.
    fn removed(&self, directory: &Directory<()>, entry: &Entry) -> Result<bool, Trouble> {
        let path = || directory.path_of(&entry.name);
        if self.stays(directory.fd(), entry, &path).map_err(Failure::destination("find"))? {
            return Ok(false);
        }
        if let Some(key) = self.key(&path())
            && self.job.plain.look(&key)?.is_some()
        {
            return Ok(false);
        }
        if self.job.run.options.dry_run {
            return Ok(true);
        }
        match rustix::fs::unlinkat(directory.fd(), entry.as_path(), AtFlags::empty()) {
            Ok(()) => Ok(true),
            // Somebody else did, or it is a directory by now.
            Err(Errno::NOENT | Errno::ISDIR) => Ok(false),
            Err(error) => Err(Failure::destination("remove")(error).into()),
        }
    }

    /// What no filter lets through is not the job's; and what is the job's own is not the bucket's.
    fn stays(&self, directory: BorrowedFd<'_>, entry: &Entry, path: &dyn Fn() -> Vec<u8>) -> io::Result<bool> {
        let filter = &self.job.run.options.filter;
        if !filter.wants(&entry.name, entry.kind == FileType::Directory, path) {
            return Ok(true);
        }
        if entry.kind != FileType::RegularFile || self.own.is_empty() && !filter.asks_of_files() {
            return Ok(false);
        }
        match stamp_at(directory, entry.as_path()) {
            Ok(found) => {
                Ok(found.is_regular && (!filter.wants_file(&found) || self.own.contains(&(found.dev, found.ino))))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn remove_directory(&self, parent: &Directory<()>, name: &[u8]) {
        let run = &self.job.run;
        let stays = |level: BorrowedFd<'_>, entry: &Entry, below: &[u8]| {
            let path = || {
                let way = parent.path_of(name);
                let parts = [&way, below, &entry.name];
                parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'/')
            };
            self.stays(level, entry, &path)
        };
        let enters = |_: BorrowedFd<'_>| if run.is_stopped() { Err(Errno::CANCELED.into()) } else { Ok(()) };
        let removed = if run.options.dry_run { Ok(true) } else { remove_but(parent.fd(), name, &enters, &stays) };
        let path = || as_path(&parent.path_of(name)).to_owned();
        match removed {
            Ok(true) => run.told(Kind::Directory, Done::plain(Did::Deleted), path),
            Ok(false) => {
                let why = "what filters leave out of it, and what is the job's own, stays; all else in it was removed";
                run.told(Kind::Directory, Done::with_note(Did::Filtered, why), path);
            }
            Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::XDEV) => run.told(Kind::Directory, Done::plain(Did::Elsewhere), path),
                Some(Errno::CANCELED) if run.is_stopped() => {}
                _ => run.failed(Kind::Directory, Failure::destination("remove")(error).into(), path),
            },
        }
    }
}
