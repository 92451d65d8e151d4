//! The directory that is imported into, and those below it that have to be made.
//!
//! A directory is made under another name, closed to everybody but root, gets its owner and its mode, and then its name. What a crash leaves under the
//! other name, the next run goes on with. Directories that were there before are left as they are. Mounts below the target are not entered.

use super::Options;
use super::replace::aside;
use crate::MaintenanceError;
use rustix::fs::{AtFlags, Gid, Uid};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use sys::{Mode, OFlags};

/// Until it is finished only root may enter.
const UNFINISHED: u32 = 0o700;
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

    /// Whether there is no room for anything more.
    pub(super) fn is_full(&self) -> bool {
        rustix::fs::fstatvfs(&self.root).is_ok_and(|stat| stat.f_bavail == 0)
    }

    /// For messages.
    pub(super) fn shown(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// What is at a path, as a name only.
    pub(super) fn look(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        match sys::file::open_within(&self.root, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
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
        match open(&self.root, path) {
            Ok(fd) => return Ok(Arc::new(fd)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut at = Arc::clone(&self.root);
        for name in path.split('/') {
            at = Arc::new(match open(&at, name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(&at, name)?,
                found => found?,
            });
        }
        Ok(at)
    }

    /// Makes one; another thread may be about it at the same time.
    fn make(&self, at: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
        let under = format!("{}.d", aside(name));
        match rustix::fs::mkdirat(at, &under, Mode::from_raw_mode(UNFINISHED)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let made = match open(at, &under) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return open(at, name),
            made => made?,
        };
        let stamp = sys::file::stamp(&made)?;
        if stamp.uid != 0 && stamp.uid != self.uid {
            return Err(io::Error::other(format!("there is a {under} of somebody else's in its parent")));
        }
        rustix::fs::fchown(&made, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(self.mode | (stamp.mode & SETGID)))?;
        match sys::file::rename_noreplace(at, &under, at, name) {
            Ok(()) => Ok(made),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Not if there is anything in it.
                let _ = rustix::fs::unlinkat(at, &under, AtFlags::REMOVEDIR);
                open(at, name)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => open(at, name),
            Err(error) => Err(error),
        }
    }
}

fn open(at: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    sys::file::open_within(at, path, DIRECTORY, Mode::empty())
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
