//! What the destination has and the source does not: removed where that was asked for.

use super::Migration;
use super::attic::discard;
use super::spot::{Place, unlink};
use crate::failure::Failure;
use crate::report::{Did, Kind};
use crate::walk::{Buffer, Directory, Entry, as_path};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use sys::{Mode, OFlags};

/// Directories one in another that are removed.
const MAX_DEPTH: usize = 4096;

impl Migration<'_> {
    /// Looks through a directory of the destination when the source's is done: what is left of an interrupted run goes, and what the source does not
    /// have, where that was asked for.
    pub(super) fn tidy(&self, directory: &Directory<Place>) -> Result<(), Failure> {
        let deletes = self.options.delete && !directory.kept.unlisted.load(std::sync::atomic::Ordering::Relaxed);
        let Some(target) = directory.kept.fd() else { return Ok(()) };
        if directory.kept.is_fresh || !(deletes || self.earlier.is_some()) {
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
                if self.is_temporary(&entry.name) {
                    unlink(target, entry.as_path())
                        .map_err(Failure::destination("remove what an interrupted run left in"))?;
                } else if deletes && self.is_extraneous(directory, &entry)? {
                    self.remove(directory, &entry);
                }
            }
        }
        Ok(())
    }

    fn is_extraneous(&self, directory: &Directory<Place>, entry: &Entry) -> Result<bool, Failure> {
        let is_directory = entry.kind == FileType::Directory;
        // What no filter lets through is not the job's: it stays.
        if self.is_reserved(directory, &entry.name)
            || !self.options.filter.wants_name(directory, &entry.name, is_directory)
        {
            return Ok(false);
        }
        match rustix::fs::statat(directory.fd(), entry.as_path(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => Err(Failure::source("find")(error)),
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
            (true, _) => Ok(()),
            (false, Kind::Directory) => self.remove_tree(directory, &entry.name),
            (false, _) => discard(self.attic(), target, entry.as_path(), || directory.path_of(&entry.name))
                .map_err(Failure::destination("remove")),
        };
        match removed {
            Ok(()) => self.told(kind, Did::Deleted, 0, None, || directory.shown(&entry.name)),
            Err(failure) => {
                directory.mark_flawed();
                self.trouble_at(kind, directory.shown(&entry.name), &failure);
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
    pub(super) fn remove_tree(&self, directory: &Directory<Place>, name: &[u8]) -> Result<(), Failure> {
        let Some(target) = directory.kept.fd() else { return Ok(()) };
        if let Some(attic) = self.attic() {
            let kept = attic.take(target, as_path(name), &directory.path_of(name));
            return kept.map_err(Failure::destination("put aside the directory"));
        }
        remove_tree(target, name, &|| self.is_stopped()).map_err(Failure::destination("remove the directory"))
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

struct Level {
    fd: OwnedFd,
    name: Box<[u8]>,
    below: Vec<Box<[u8]>>,
}

pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &[u8], stop: &dyn Fn() -> bool) -> io::Result<()> {
    let mut buffer = Buffer::new();
    let mut levels = vec![Level { fd: open(parent, name)?, name: name.into(), below: Vec::new() }];
    while let Some(level) = levels.last_mut() {
        if stop() {
            return Err(Errno::CANCELED.into());
        }
        if let Some(name) = level.below.pop() {
            let fd = open(level.fd.as_fd(), &name)?;
            levels.push(Level { fd, name, below: Vec::new() });
            if levels.len() > MAX_DEPTH {
                return Err(io::Error::other(format!("there are more than {MAX_DEPTH} directories one in another")));
            }
            continue;
        }
        // What is removed while a directory is read may hide others: it is read until it is empty.
        rustix::fs::seek(&level.fd, rustix::fs::SeekFrom::Start(0))?;
        match buffer.fill(level.fd.as_fd(), 0)? {
            Some(entries) if !entries.is_empty() => {
                for entry in entries {
                    if entry.kind == FileType::Directory {
                        level.below.push(entry.name);
                    } else {
                        unlink(level.fd.as_fd(), as_path(&entry.name))?;
                    }
                }
            }
            _ => {
                let Some(level) = levels.pop() else { return Ok(()) };
                let parent = levels.last().map_or(parent, |above| above.fd.as_fd());
                rustix::fs::unlinkat(parent, as_path(&level.name), AtFlags::REMOVEDIR)?;
            }
        }
    }
    Ok(())
}
