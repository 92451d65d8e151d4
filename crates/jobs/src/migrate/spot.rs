//! One name in the two trees.

use crate::walk::{Directory, as_path};
use rustix::fs::AtFlags;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use sys::file::{FileStamp, Moment};
use sys::{Mode, OFlags};

/// What is done with a directory that is in both trees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// All in and below it is brought up to date.
    Whole,
    /// All in it; of the directories in it only those that the destination does not have.
    Listed,
    /// As that, and only what is named.
    Named,
}

/// A directory at the destination, kept with the source's.
#[derive(Debug)]
pub(crate) struct Place {
    /// `None`: it would be made, but this is a dry run.
    fd: Option<OwnedFd>,
    /// This run made it: nobody else has put anything there, and nobody but us may.
    pub(crate) is_fresh: bool,
    /// The source's could not be read to its end.
    pub(crate) unlisted: AtomicBool,
    /// It was closed to its owner, who opened it: the mode that it had.
    pub(crate) opened: Option<u32>,
    /// Of its content, when it was found; `None` if this run made it.
    pub(crate) changed: Option<Moment>,
    pub(crate) scope: Scope,
}

impl Place {
    pub(crate) fn new(fd: Option<OwnedFd>, is_fresh: bool) -> Self {
        Self { fd, is_fresh, unlisted: AtomicBool::new(false), opened: None, changed: None, scope: Scope::Whole }
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(|fd| fd.as_fd())
    }
}

/// See the module.
#[derive(Clone, Copy)]
pub(crate) struct Spot<'a> {
    pub(crate) directory: &'a Arc<Directory<Place>>,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Spot<'a> {
    pub(crate) fn new(directory: &'a Arc<Directory<Place>>, bytes: &'a [u8]) -> Self {
        Self { directory, bytes }
    }

    /// One component.
    pub(crate) fn name(&self) -> &'a Path {
        as_path(self.bytes)
    }

    /// For people, and for the report.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.shown(self.bytes)
    }

    pub(crate) fn place(&self) -> &'a Place {
        &self.directory.kept
    }

    /// The directory of the source.
    pub(crate) fn source(&self) -> BorrowedFd<'a> {
        self.directory.fd()
    }

    /// What has the name at the source now.
    pub(crate) fn look(&self) -> std::io::Result<FileStamp> {
        sys::file::stamp_at(self.source(), self.name())
    }

    /// What has the name at the destination now.
    pub(crate) fn find(&self) -> std::io::Result<Option<FileStamp>> {
        let Some(directory) = self.place().fd() else { return Ok(None) };
        match sys::file::stamp_at(directory, self.name()) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Opens a name for looking only: nothing is followed, nothing is waited for.
pub(crate) fn node(directory: BorrowedFd<'_>, name: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

/// Removes a name that is no directory; one that is not there is removed already.
pub(crate) fn unlink(directory: BorrowedFd<'_>, name: &Path) -> std::io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}
