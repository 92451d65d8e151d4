//! Where a replica keeps for a while what was removed or replaced in it.
//!
//! A directory on the destination's filesystem, with a directory a slot of time in it, and in that the paths that things had: nothing is copied. Of a
//! file that is replaced again and again a slot keeps the first version only.

use super::spot::{node, unlink};
use crate::moment::{format, parse};
use crate::walk::{Buffer, as_path};
use parking_lot::Mutex;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sys::{Mode, OFlags};

/// Slots that a grace period has.
const SLOTS: u32 = 24;
/// Things of one path that a slot holds.
const MAX_OF_ONE_PATH: u32 = 1000;

/// See the module.
#[derive(Debug)]
pub struct Attic {
    root: OwnedFd,
    grace: Duration,
    slot: Mutex<Option<(u64, OwnedFd)>>,
}

impl Attic {
    /// In the directory `root`, which nobody else writes to.
    pub fn new(root: OwnedFd, grace: Duration) -> Self {
        Self { root, grace, slot: Mutex::new(None) }
    }

    fn slot_seconds(&self) -> u64 {
        (self.grace / SLOTS).as_secs().max(1)
    }

    /// Takes what has the name `name` in `directory` away, and keeps it as `path`. What is not there is gone already.
    pub(crate) fn take(&self, directory: BorrowedFd<'_>, name: &Path, path: &[u8]) -> io::Result<()> {
        let (parent, kept) = self.way(path)?;
        for number in 0..MAX_OF_ONE_PATH {
            match sys::file::rename_noreplace(directory, name, &parent, numbered(&kept, number)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => return other,
            }
        }
        Err(Errno::EXIST.into())
    }

    /// Keeps what has the name in `directory`, and is about to be replaced, as `path`. No directories.
    pub(crate) fn keep(&self, directory: BorrowedFd<'_>, name: &Path, path: &[u8]) -> io::Result<()> {
        let found = match node(directory, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let (parent, kept) = self.way(path)?;
        match rustix::fs::linkat(&found, c"", &parent, &kept, AtFlags::EMPTY_PATH) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            // No further names here, or not for everybody.
            Err(Errno::NOENT | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP) => self.take(directory, name, path),
            Err(error) => Err(error.into()),
        }
    }

    /// The directory and the name for `path` in today's slot.
    fn way(&self, path: &[u8]) -> io::Result<(OwnedFd, PathBuf)> {
        let mut at = self.current()?;
        let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                return Ok((at, as_path(name).to_owned()));
            }
            at = enter(at.as_fd(), as_path(name))?;
        }
        Err(Errno::INVAL.into())
    }

    fn current(&self) -> io::Result<OwnedFd> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let start = now - now % self.slot_seconds();
        let mut slot = self.slot.lock();
        if let Some((known, fd)) = &*slot
            && *known == start
        {
            return fd.try_clone();
        }
        let fd = enter(self.root.as_fd(), Path::new(&format(start)))?;
        *slot = Some((start, fd.try_clone()?));
        Ok(fd)
    }

    /// Removes what has been kept for longer than the grace period. Things of other names stay. How many slots went.
    ///
    /// # Errors
    /// Something cannot be removed: the rest is tried again next time.
    pub fn purge(&self, stop: &dyn Fn() -> bool) -> io::Result<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let kept = self.grace.as_secs().saturating_add(self.slot_seconds());
        let mut removed = 0;
        for name in names(self.root.as_fd())? {
            let Some(start) = str::from_utf8(&name).ok().and_then(parse) else { continue };
            if start.saturating_add(kept) < now {
                super::extraneous::remove_tree(self.root.as_fd(), &name, stop)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Of a directory that has few entries.
pub(crate) fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<Box<[u8]>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listing = rustix::fs::openat(directory, c".", flags, Mode::empty())?;
    let (mut buffer, mut names) = (Buffer::new(), Vec::new());
    while let Some(entries) = buffer.fill(listing.as_fd(), 0)? {
        names.extend(entries.into_iter().map(|entry| entry.name));
    }
    Ok(names)
}

/// Opens or makes the directory; what else has its name there is evaded.
fn enter(parent: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for number in 0..MAX_OF_ONE_PATH {
        let name = numbered(name, number);
        match rustix::fs::mkdirat(parent, &name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        match rustix::fs::openat(parent, &name, flags, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::EXIST.into())
}

fn numbered(name: &Path, number: u32) -> PathBuf {
    let mut numbered = name.as_os_str().to_owned();
    if number > 0 {
        numbered.push(format!("~{number}"));
    }
    numbered.into()
}

/// Removes a name, or has it kept.
pub(super) fn discard(
    attic: Option<&Attic>,
    directory: BorrowedFd<'_>,
    name: &Path,
    path: impl FnOnce() -> Vec<u8>,
) -> io::Result<()> {
    match attic {
        Some(attic) => attic.take(directory, name, &path()),
        None => unlink(directory, name),
    }
}
