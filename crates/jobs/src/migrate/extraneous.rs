//! What the destination has and the source does not: removed where that was asked for.

use super::Migration;
use super::attic::discard;
use super::spot::{Place, Scope, Spot, unlink};
use crate::failure::Failure;
use crate::report::{Did, Kind};
use crate::walk::{Buffer, Directory, Entry, as_path};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use sys::file::stamp;
use sys::{Mode, OFlags};

/// Directories one in another that are removed.
const MAX_DEPTH: usize = 4096;
/// A directory into which somebody goes on putting things is not emptied for ever.
const MAX_PASSES: u32 = 16;

impl Migration<'_> {
    /// Looks through a directory of the destination when the source's is done: what is left of an interrupted run goes, and what the source does not
    /// have, where that was asked for.
    pub(super) fn tidy(&self, directory: &Directory<Place>) -> Result<(), Failure> {
        let deletes = self.options.delete && !directory.kept.unlisted.load(std::sync::atomic::Ordering::Relaxed);
        let Some(target) = directory.kept.fd() else { return Ok(()) };
        if directory.kept.is_fresh || directory.kept.scope == Scope::Named || !(deletes || self.earlier.is_some()) {
            return Ok(());
        }
        let listing = reopen(target).map_err(Failure::destination("open"))?;
        let mut buffer = Buffer::new();
        while let Some(entries) =
            buffer.fill(listing.as_fd(), directory.depth()).map_err(Failure::destination("list"))?
        {
            for entry in entries {
                if self.is_stopped() {
                    return Err(super::file::stopped());
                }
                if self.is_temporary(&entry.name) && entry.kind != FileType::Directory {
                    if self.options.dry_run {
                        continue;
                    }
                    unlink(target, entry.as_path())
                        .map_err(Failure::destination("remove what an interrupted run left in"))?;
                } else if deletes && self.is_extraneous(directory, &entry)? {
                    self.remove(directory, &entry);
                }
            }
        }
        Ok(())
    }

    /// The source does not have it any more: neither is the destination to.
    pub(super) fn gone(&self, directory: &Arc<Directory<Place>>, name: &[u8]) -> Result<(), Failure> {
        let Some(found) = Spot::new(directory, name).find().map_err(Failure::destination("find"))? else {
            return Ok(());
        };
        let entry = Entry { name: name.into(), kind: FileType::from_raw_mode(found.mode) };
        if self.options.delete && self.is_extraneous(directory, &entry)? {
            self.remove(directory, &entry);
        }
        Ok(())
    }

    fn is_extraneous(&self, directory: &Directory<Place>, entry: &Entry) -> Result<bool, Failure> {
        let Some(target) = directory.kept.fd() else { return Ok(false) };
        let path = || directory.path_of(&entry.name);
        let stays = || self.stays(target, entry, &path).map_err(Failure::destination("find"));
        if self.is_reserved(directory, &entry.name) || stays()? {
            return Ok(false);
        }
        match rustix::fs::statat(directory.fd(), entry.as_path(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => Err(Failure::source("find")(error)),
        }
    }

    /// What no filter lets through is not the job's, wherever it is.
    fn stays(&self, directory: BorrowedFd<'_>, entry: &Entry, path: &dyn Fn() -> Vec<u8>) -> io::Result<bool> {
        let filter = &self.options.filter;
        if !filter.wants(&entry.name, entry.kind == FileType::Directory, path) {
            return Ok(true);
        }
        if entry.kind != FileType::RegularFile || !filter.asks_of_files() {
            return Ok(false);
        }
        match sys::file::stamp_at(directory, entry.as_path()) {
            Ok(found) => Ok(found.is_regular && !filter.wants_file(&found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn remove(&self, directory: &Directory<Place>, entry: &Entry) {
        let kind = match entry.kind {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Symlink,
            _ => Kind::Special,
        };
        let Some(target) = directory.kept.fd() else { return };
        let removed = match (self.options.dry_run, kind) {
            (true, _) => Ok(true),
            (false, Kind::Directory) => self.remove_what_may_go(directory, &entry.name),
            (false, _) => {
                let path = || directory.path_of(&entry.name);
                discard(self.attic(), target, entry.as_path(), path).map(|()| true)
            }
        };
        let path = || directory.shown(&entry.name);
        match removed.map_err(Failure::destination("remove")) {
            Ok(true) => self.told(kind, Did::Deleted, 0, None, path),
            Ok(false) => {
                let why = "what filters leave out of it stays; all else in it was removed";
                self.told(kind, Did::Filtered, 0, Some(why.to_owned()), path);
            }
            Err(failure) if failure.errno() == Some(Errno::XDEV) => self.told(kind, Did::Elsewhere, 0, None, path),
            Err(failure) => {
                directory.mark_flawed();
                self.trouble_at(kind, path(), &failure);
            }
        }
    }

    /// Keeps for a while what is about to be replaced, where that was asked for.
    pub(super) fn keep_old(&self, directory: &Directory<Place>, name: &[u8]) -> Result<(), Failure> {
        let (Some(attic), Some(target)) = (self.attic(), directory.kept.fd()) else { return Ok(()) };
        let kept = attic.keep(target, as_path(name), &directory.path_of(name));
        kept.map_err(Failure::destination("keep what is replaced of"))
    }

    /// Removes a directory of the destination and all in it, without following anything and without leaving its filesystem.
    ///
    /// # Errors
    /// `ENOTEMPTY` where filters leave something out of it.
    pub(super) fn remove_tree(&self, directory: &Directory<Place>, name: &[u8]) -> Result<(), Failure> {
        let removed = self.remove_what_may_go(directory, name).and_then(|all| match all {
            true => Ok(()),
            false => Err(Errno::NOTEMPTY.into()),
        });
        removed.map_err(Failure::destination("remove the directory"))
    }

    /// Whether that was all.
    fn remove_what_may_go(&self, directory: &Directory<Place>, name: &[u8]) -> io::Result<bool> {
        let Some(target) = directory.kept.fd() else { return Ok(true) };
        if let Some(attic) = self.attic() {
            return attic.take(target, as_path(name), &directory.path_of(name)).map(|()| true);
        }
        let stays = |level: BorrowedFd<'_>, entry: &Entry, below: &[u8]| {
            let path = || {
                let way = directory.path_of(name);
                let parts = [&way, below, &entry.name];
                parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'/')
            };
            self.stays(level, entry, &path)
        };
        let enters = |level: BorrowedFd<'_>| {
            let found = stamp(level)?;
            if (found.dev, found.ino) == self.source_inode {
                return Err(io::Error::other("the source lies there"));
            }
            if self.is_stopped() { Err(Errno::CANCELED.into()) } else { Ok(()) }
        };
        remove_but(target, name, &enters, &stays)
    }
}

fn reopen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    open(directory, b".")
}

/// `EXDEV` where something else is mounted.
fn open(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    sys::file::open_within(directory, as_path(name), flags, Mode::empty())
}

/// A directory that is being removed.
struct Level {
    fd: OwnedFd,
    name: Box<[u8]>,
    below: Vec<Box<[u8]>>,
    /// Something in it stays.
    stays: bool,
    passes: u32,
}

/// Removes a directory and all in it.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &[u8], stop: &dyn Fn() -> bool) -> io::Result<()> {
    let enters = |_: BorrowedFd<'_>| if stop() { Err(Errno::CANCELED.into()) } else { Ok(()) };
    remove_but(parent, name, &enters, &|_, _, _| Ok(false)).map(|_| ())
}

impl Level {
    fn open(parent: BorrowedFd<'_>, name: Box<[u8]>) -> io::Result<Self> {
        Ok(Self { fd: open(parent, &name)?, name, below: Vec::new(), stays: false, passes: 1 })
    }
}

/// Whether something stays: an entry of a directory, and the way to that from the top.
pub(crate) type Stays<'a> = dyn Fn(BorrowedFd<'_>, &Entry, &[u8]) -> io::Result<bool> + 'a;

/// Removes what need not stay. Whether that was all. `enters` is asked of every directory, now and then.
pub(crate) fn remove_but(
    parent: BorrowedFd<'_>,
    name: &[u8],
    enters: &dyn Fn(BorrowedFd<'_>) -> io::Result<()>,
    stays: &Stays<'_>,
) -> io::Result<bool> {
    let mut buffer = Buffer::new();
    let mut levels = vec![Level::open(parent, name.into())?];
    loop {
        let way = || levels.iter().skip(1).map(|level| &*level.name).collect::<Vec<_>>().join(&b'/');
        let way = if levels.last().is_some_and(|level| level.below.is_empty()) { way() } else { Vec::new() };
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { return Ok(true) };
        enters(level.fd.as_fd())?;
        if let Some(name) = level.below.pop() {
            if depth >= MAX_DEPTH {
                return Err(io::Error::other(format!("there are more than {MAX_DEPTH} directories one in another")));
            }
            let below = Level::open(level.fd.as_fd(), name)?;
            levels.push(below);
            continue;
        }
        if let Some(entries) = buffer.fill(level.fd.as_fd(), 0)? {
            for entry in entries {
                if stays(level.fd.as_fd(), &entry, &way)? {
                    level.stays = true;
                } else if entry.kind == FileType::Directory {
                    level.below.push(entry.name);
                } else {
                    unlink(level.fd.as_fd(), entry.as_path())?;
                }
            }
            continue;
        }
        if !removed_empty(parent, &mut levels)? {
            continue;
        }
        let Some(level) = levels.pop() else { return Ok(true) };
        match levels.last_mut() {
            Some(above) => above.stays |= level.stays,
            None => return Ok(!level.stays),
        }
    }
}

/// Removes the last of the directories, of which all has been read. Whether it is done with; else it is to be read again.
fn removed_empty(parent: BorrowedFd<'_>, levels: &mut [Level]) -> io::Result<bool> {
    let Some((level, above)) = levels.split_last_mut() else { return Ok(true) };
    if level.stays {
        return Ok(true);
    }
    let parent = above.last().map_or(parent, |above| above.fd.as_fd());
    match rustix::fs::unlinkat(parent, as_path(&level.name), AtFlags::REMOVEDIR) {
        // What was removed while it was read hid others, or somebody makes new ones.
        Err(Errno::NOTEMPTY | Errno::EXIST) if level.passes < MAX_PASSES => {
            level.passes += 1;
            rustix::fs::seek(&level.fd, rustix::fs::SeekFrom::Start(0))?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
        Ok(()) => Ok(true),
    }
}
