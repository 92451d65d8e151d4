//! The directory that is imported into, and those below it that have to be made.
//!
//! A directory is made with a mode that nothing else has, closed to everybody but root, and then gets its owner and its mode. If a crash comes between, the
//! next run recognises it. Directories that were there before are left as they are.

use super::Options;
use crate::MaintenanceError;
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use sys::{Mode, OFlags};

/// Only root may enter, and the sticky bit, which makes no sense then, marks it.
const UNFINISHED: u32 = 0o1700;
/// What the kernel adds below a directory that has it; it stays.
const SETGID: u32 = 0o2000;
/// Kept open at once, by one thread.
const MAX_OPEN: usize = 64;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// Where everything goes.
pub(super) struct Target {
    root: Arc<OwnedFd>,
    path: PathBuf,
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Target {
    pub(super) fn open(path: &Path, options: &Options) -> Result<Self, MaintenanceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| MaintenanceError::io("open the directory", path)(e.into()))?;
        let (uid, gid, mode) = (options.uid, options.gid, options.dir_mode & 0o7777);
        Ok(Self { root: Arc::new(root), path: path.to_owned(), uid, gid, mode })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// For messages.
    pub(super) fn shown(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// What is at a path, as a name only.
    pub(super) fn look(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        match sys::file::open_beneath(&self.root, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a directory, making what is missing of the way to it.
    fn directory(&self, path: &str) -> io::Result<Arc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        match sys::file::open_beneath(&self.root, path, DIRECTORY, Mode::empty()) {
            Ok(fd) => {
                self.finish(&fd)?;
                return Ok(Arc::new(fd));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut at = Arc::clone(&self.root);
        for name in path.split('/') {
            match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(UNFINISHED)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            at = Arc::new(sys::file::open_beneath(&at, OsStr::new(name), DIRECTORY, Mode::empty())?);
            self.finish(&at)?;
        }
        Ok(at)
    }

    /// Gives a directory that an import made its owner and mode, if it has not got them.
    fn finish(&self, fd: impl AsFd) -> io::Result<()> {
        let fd = fd.as_fd();
        let stamp = sys::file::stamp(fd)?;
        let is_unfinished = stamp.mode & 0o7777 & !SETGID == UNFINISHED && (stamp.uid == 0 || stamp.uid == self.uid);
        if !is_unfinished || self.mode & !SETGID == UNFINISHED {
            return Ok(());
        }
        rustix::fs::fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        // Last: until then it is recognised.
        Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode | (stamp.mode & SETGID)))?)
    }
}

/// Directories that are open, for one thread.
#[derive(Default)]
pub(super) struct OpenDirectories {
    open: HashMap<String, Arc<OwnedFd>>,
}

impl OpenDirectories {
    pub(super) fn get(&mut self, target: &Target, path: &str) -> io::Result<Arc<OwnedFd>> {
        if let Some(fd) = self.open.get(path) {
            return Ok(Arc::clone(fd));
        }
        let fd = target.directory(path)?;
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        self.open.insert(path.to_owned(), Arc::clone(&fd));
        Ok(fd)
    }
}
