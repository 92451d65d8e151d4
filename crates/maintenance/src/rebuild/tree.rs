//! The directory into which is rebuilt, and the directories below it.
//!
//! A directory is made with a mode that only an unfinished one has, closed to everybody but root; it gets its own mode, owner and times
//! when nothing is made in it any more. So a run that was killed leaves directories that the next one recognises and finishes, and
//! directories that were there before are left as they are.

use crate::MaintenanceError;
use rustix::fs::{AtFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use sys::file::{FileStamp, Moment};
use sys::{Mode, OFlags};

/// Only root may enter, and the sticky bit, which makes no sense for such a directory, marks it.
const UNFINISHED: u32 = 0o1700;
/// What the kernel adds below a directory that has it.
const SETGID: u32 = 0o2000;

/// Where everything goes.
pub(crate) struct Tree {
    root: Arc<OwnedFd>,
    path: PathBuf,
}

/// What came of looking for a directory.
pub(crate) enum Directory {
    /// It is there.
    Open(Arc<OwnedFd>),
    /// It would be made, if anything were.
    Missing,
}

/// Whether directories may be made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Making {
    Yes,
    No,
}

impl Tree {
    pub(crate) fn open(path: &Path) -> Result<Self, MaintenanceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| MaintenanceError::io("open the directory", path)(e.into()))?;
        Ok(Self { root: Arc::new(root), path: path.to_owned() })
    }

    pub(crate) fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// For messages.
    pub(crate) fn shown(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.path.clone() } else { self.path.join(OsStr::from_bytes(path)) }
    }

    /// Something at a path, as a name only.
    pub(crate) fn look(&self, path: &[u8]) -> io::Result<Option<OwnedFd>> {
        if path.is_empty() {
            return self.root.try_clone().map(Some);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        match sys::file::open_beneath(&self.root, OsStr::from_bytes(path), flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a directory, making what is missing of the way to it.
    fn directory(&self, path: &[u8], making: Making) -> io::Result<Directory> {
        if path.is_empty() {
            return Ok(Directory::Open(Arc::clone(&self.root)));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        match sys::file::open_beneath(&self.root, OsStr::from_bytes(path), flags, Mode::empty()) {
            Ok(fd) => return Ok(Directory::Open(Arc::new(fd))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if making == Making::No {
            return Ok(Directory::Missing);
        }
        let mut at = Arc::clone(&self.root);
        for name in path.split(|byte| *byte == b'/') {
            let name = OsStr::from_bytes(name);
            let made = match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(UNFINISHED)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            at = Arc::new(sys::file::open_beneath(&at, name, flags, Mode::empty())?);
            if made {
                mark_unfinished(&at)?;
            }
        }
        Ok(Directory::Open(at))
    }
}

/// Whether a directory was made by a rebuild and is not finished. Below a setgid directory, or on a mount with `grpid`, one that was just
/// made has the group of the directory that it is in, and the setgid bit; a crash may have left it so.
pub(crate) fn is_unfinished(stamp: &FileStamp) -> bool {
    stamp.mode & (0o7777 & !SETGID) == UNFINISHED && stamp.uid == 0
}

/// Marks a directory as to be finished: it is root's alone until then.
pub(crate) fn mark_unfinished(fd: impl AsFd) -> io::Result<()> {
    // The owner first: a mode that root's directories only may have must not be left on somebody else's.
    rustix::fs::fchown(&fd, Some(rustix::fs::Uid::ROOT), Some(rustix::fs::Gid::ROOT))?;
    // Also where a default ACL has taken something away from the mode.
    Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(UNFINISHED))?)
}

/// Of an `O_PATH` descriptor too.
pub(crate) fn set_mode(fd: impl AsFd, mode: u32) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    Ok(rustix::fs::chmodat(rustix::fs::CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

/// Of an `O_PATH` descriptor too.
pub(crate) fn set_mtime(fd: impl AsFd, mtime: Moment) -> io::Result<()> {
    let mtime = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.into() };
    let atime = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let times = Timestamps { last_access: atime, last_modification: mtime };
    Ok(rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH)?)
}

/// The directory and the last name of a path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &OsStr) {
    let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (&[][..], path),
    };
    (directory, OsStr::from_bytes(name))
}

/// Directories that are open, for one thread.
#[derive(Default)]
pub(crate) struct OpenDirectories {
    open: HashMap<Vec<u8>, Arc<OwnedFd>>,
}

/// Kept open at once, by one thread.
const MAX_OPEN: usize = 64;

impl OpenDirectories {
    pub(crate) fn get(&mut self, tree: &Tree, path: &[u8], making: Making) -> io::Result<Directory> {
        if let Some(fd) = self.open.get(path) {
            return Ok(Directory::Open(Arc::clone(fd)));
        }
        let directory = tree.directory(path, making)?;
        if let Directory::Open(fd) = &directory {
            if self.open.len() >= MAX_OPEN {
                self.open.clear();
            }
            self.open.insert(path.to_vec(), Arc::clone(fd));
        }
        Ok(directory)
    }
}
