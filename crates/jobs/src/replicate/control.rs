//! What a replica says of itself: the directory `.sifaka-replica` in its root.
//!
//! `replica.json`: of what it is a copy, and whether it was promoted. `status.json`: how it goes ([`super::status`]). `lock`: held by who writes to it.
//! `removed`: what was removed or replaced. Nobody but their owner may enter it, and what is read from it may be garbage all the same.

use crate::failure::JobError;
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::file::stamp;
use sys::{Mode, OFlags};

/// Of the directory.
pub const NAME: &str = ".sifaka-replica";
const REPLICA: &str = "replica.json";
const LOCK: &str = "lock";
const FORMAT: u32 = 1;
/// More is garbage.
const MAX_BYTES: u64 = 64 << 10;

/// Of what a directory is a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Of this file.
    pub format: u32,
    /// The directory that is copied, as text.
    pub source: String,
    /// Which filesystem it is on, and which directory of it: a path leads elsewhere when nothing is mounted.
    pub source_id: String,
    /// Seconds since 1970 at which it became one.
    pub since: u64,
    /// Seconds since 1970 at which it was promoted: nothing is replicated into it any more.
    pub promoted: Option<u64>,
}

impl Replica {
    /// A new one.
    pub(crate) fn of(source: &Path) -> Result<Self, JobError> {
        let path = std::path::absolute(source).unwrap_or_else(|_| source.to_owned());
        Ok(Self {
            format: FORMAT,
            source: path.to_string_lossy().into_owned(),
            source_id: identity(source)?,
            since: super::now(),
            promoted: None,
        })
    }
}

/// Of a directory: the same as long as it is the same one, also after another mount.
pub(crate) fn identity(path: &Path) -> Result<String, JobError> {
    let info = sys::mounts::filesystem_of(path).map_err(JobError::io("find the filesystem of", path))?;
    let root = rustix::fs::stat(path).map_err(JobError::io("find", path))?;
    Ok(format!("{} {:016x} {}", info.kind, u64::from_be_bytes(info.fsid), root.st_ino))
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    fd: OwnedFd,
}

impl Control {
    /// Of the directory `root`, which is called `path`. `None` if it is no replica.
    pub(crate) fn open(root: BorrowedFd<'_>, path: &Path) -> Result<Option<Self>, JobError> {
        let path = path.join(NAME);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(root, NAME, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(JobError::io("open", &path))?,
        };
        let found = stamp(&fd).map_err(JobError::io("read attributes of", &path))?;
        if found.uid != rustix::process::geteuid().as_raw() || found.mode & 0o077 != 0 {
            let why = format!("{} is another user's, or others may enter it: it is not believed", path.display());
            return Err(JobError::Senseless(why));
        }
        Ok(Some(Self { path, fd }))
    }

    /// As [`open`](Self::open); made if it is not there.
    pub(crate) fn make(root: BorrowedFd<'_>, path: &Path) -> Result<Self, JobError> {
        let shown = path.join(NAME);
        match rustix::fs::mkdirat(root, NAME, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(JobError::io("make the directory", &shown)(error)),
        }
        let made = Self::open(root, path)?;
        made.ok_or_else(|| JobError::io("open", &shown)(io::Error::from(Errno::NOENT)))
    }

    /// What it says of itself; `None` if that was not written yet.
    pub(crate) fn replica(&self) -> Result<Option<Replica>, JobError> {
        let Some(replica): Option<Replica> = self.read(REPLICA)? else { return Ok(None) };
        if replica.format != FORMAT {
            let path = self.path.join(REPLICA);
            return Err(JobError::Senseless(format!("{} is of another version of Sifaka", path.display())));
        }
        Ok(Some(replica))
    }

    pub(crate) fn set_replica(&self, replica: &Replica) -> Result<(), JobError> {
        self.write(REPLICA, replica)
    }

    /// Until the file is closed nobody else writes to the replica.
    pub(crate) fn lock(&self) -> Result<File, JobError> {
        let path = self.path.join(LOCK);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, LOCK, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(JobError::io("open", &path))?);
        match sys::file::try_lock_exclusive(&file).map_err(JobError::io("lock", &path))? {
            true => Ok(file),
            false => Err(JobError::Running { path }),
        }
    }

    /// As a whole.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is anything of this name.
    pub(crate) fn has(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A directory in it, whose files are kept in the same way; made if it is not there.
    pub(crate) fn below(&self, name: &str) -> Result<Self, JobError> {
        Ok(Self { path: self.path.join(name), fd: self.directory(name)? })
    }

    /// A directory in it; made if it is not there.
    pub(crate) fn directory(&self, name: &str) -> Result<OwnedFd, JobError> {
        let path = self.path.join(name);
        match rustix::fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(JobError::io("make the directory", &path)(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty()).map_err(JobError::io("open", &path))
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, JobError> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => File::from(other.map_err(JobError::io("open", &path))?),
        };
        let mut bytes = Vec::new();
        let read = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(JobError::io("read", &path))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(JobError::Senseless(format!("{} is too long to be what it should be", path.display())));
        }
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|why| JobError::Senseless(format!("{} makes no sense: {why}", path.display())))
    }

    /// Whole and on stable storage, or not at all.
    pub(crate) fn write(&self, name: &str, value: &impl Serialize) -> Result<(), JobError> {
        let path = self.path.join(name);
        let written = (|| -> io::Result<()> {
            let new = format!("{name}.new");
            match rustix::fs::unlinkat(&self.fd, &new, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::openat(&self.fd, &new, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(&serde_json::to_vec(value)?)?;
            file.sync_all()?;
            rustix::fs::renameat(&self.fd, &new, &self.fd, name)?;
            sys::file::sync_all(&self.fd)
        })();
        written.map_err(JobError::io("write", &path))
    }
}

/// Whether there is anything in the directory but what replication keeps.
pub(crate) fn is_empty(root: impl AsFd) -> io::Result<bool> {
    let mut listing = rustix::fs::Dir::read_from(root)?;
    Ok(listing.all(|entry| {
        let Ok(entry) = entry else { return false };
        let name = entry.file_name().to_bytes();
        // What mkfs makes in the root of a filesystem is nobody's.
        let is_new = name == b"lost+found" && entry.file_type() == FileType::Directory;
        name == b"." || name == b".." || name == NAME.as_bytes() || is_new
    }))
}
