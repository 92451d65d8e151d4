//! Files with several names: each is copied once, and its other names become names of the copy.

use super::Migration;
use super::file::{Done, Verdict, is_directory, take_place};
use super::spot::{Place, Spot, node, unlink};
use crate::failure::{Failure, JobError};
use crate::report::{Did, Kind};
use crate::state::Claim;
use crate::walk::{Directory, as_path, kind_of};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use sys::file::{FileStamp, stamp};
use sys::{Mode, OFlags};

/// Names that are dealt with at a time, after the walk.
const BATCH: u32 = 64;

impl Migration<'_> {
    /// Has `copy` make the first name of a file; further ones become names of that. `None`: the first is under way, and this one comes later.
    pub(super) fn one_of_several_names(
        &self,
        spot: Spot<'_>,
        seen: &FileStamp,
        existing: Option<&FileStamp>,
        copy: impl FnOnce() -> Result<Done, Failure>,
    ) -> Result<Option<Done>, Failure> {
        let Some(state) = self.state.as_ref().filter(|_| !self.options.dry_run) else { return copy().map(Some) };
        let (inode, path) = ((seen.dev, seen.ino), spot.directory.path_of(spot.bytes));
        loop {
            match state.claim(inode, &path).map_err(noted)? {
                Claim::First => break,
                Claim::Early => return Ok(None),
                Claim::Later(first) => {
                    // It may have been noted by an interrupted run, and the number be another file's by now.
                    if is_named(spot, &first, inode)
                        && let Some(done) = self.linked(spot, seen, existing, &first)?
                    {
                        return Ok(Some(done));
                    }
                    // It is not there any more, or can have no more names.
                    state.settle(inode, false).map_err(noted)?;
                }
            }
        }
        let copied = copy();
        let is_there = copied.as_ref().is_ok_and(|done| matches!(done.did, Did::Copied | Did::Updated | Did::Same));
        state.settle(inode, is_there).map_err(noted)?;
        if self.partial && !copied.as_ref().is_ok_and(|done| done.did == Did::Same) {
            self.several.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        copied.map(Some)
    }

    /// Gives what has the name `first` at the destination this one, too.
    fn linked(
        &self,
        spot: Spot<'_>,
        seen: &FileStamp,
        existing: Option<&FileStamp>,
        first: &[u8],
    ) -> Result<Option<Done>, Failure> {
        let Some(directory) = spot.place().fd() else { return Ok(None) };
        let found = match self.first_name(first) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::destination("find the first name of")(error)),
        };
        let copy = stamp(&found).map_err(Failure::destination("read attributes of"))?;
        let same_kind = (copy.mode ^ seen.mode) & 0o170_000 == 0;
        if !same_kind || copy.size != seen.size || !self.granularity.same(seen.mtime, copy.mtime) {
            return Ok(None);
        }
        let replace = match existing {
            Some(existing) if (existing.dev, existing.ino) == (copy.dev, copy.ino) => {
                return Ok(Some(Done::plain(Did::Same)));
            }
            Some(existing) => {
                // The same content under a name of its own is replaced where files may be.
                match self.judge_other(spot, seen, existing)? {
                    Verdict::Replace => {}
                    Verdict::Same => return Ok(Some(Done::plain(Did::Same))),
                    Verdict::Refuse(why) => return Ok(Some(Done::with_note(Did::Refused, why))),
                }
                true
            }
            None => false,
        };
        let name = if replace { self.temporary() } else { spot.name().to_owned() };
        match sys::file::link_fd(&found, directory, &name) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::MLINK.raw_os_error()) => return Ok(None),
            Err(error) => return Err(Failure::destination("give another name to")(error)),
        }
        let take = || {
            match existing.is_some_and(is_directory) {
                true => self.remove_tree(spot.directory, spot.bytes)?,
                false => self.keep_old(spot.directory, spot.bytes)?,
            }
            take_place(directory, &name, spot.name(), true)
        };
        if replace && let Err(failure) = take() {
            // The error is told; what could not be finished is not to stay.
            let _ = unlink(directory, &name);
            return Err(failure);
        }
        Ok(Some(Done::plain(Did::Linked)))
    }

    fn first_name(&self, first: &[u8]) -> io::Result<OwnedFd> {
        let (parent, name) = split(first);
        let parent = open_directory(self.target.as_fd(), parent)?;
        node(parent.as_fd(), as_path(name))
    }

    /// Names that came while the first of their file was being copied. After the walk.
    pub(super) fn late_names(&self, root: &Arc<Directory<Place>>) -> Result<(), JobError> {
        let Some(state) = &self.state else { return Ok(()) };
        state.forget_unsettled()?;
        loop {
            let names = state.early(BATCH)?;
            let Some((last, _)) = names.last() else { return Ok(()) };
            let last = *last;
            for (_, path) in names {
                if self.is_stopped() {
                    return Ok(());
                }
                self.late_name(root, &path);
            }
            state.forget_early(last)?;
        }
    }

    fn late_name(&self, root: &Arc<Directory<Place>>, path: &[u8]) {
        let (parent, name) = split(path);
        let found = (|| -> io::Result<_> {
            let source = open_directory(root.fd(), parent)?;
            Ok((stamp(&source)?, kind_of(&source, name)?, source))
        })();
        let opened = found.map_err(Failure::source("find")).and_then(|(seen, kind, source)| {
            let target = open_directory(self.target.as_fd(), parent).map_err(Failure::destination("find"))?;
            Ok((seen, kind, source, self.existing(target)?))
        });
        let (seen, kind, source, place) = match opened {
            Ok(opened) => opened,
            Err(failure) if failure.is_vanished() => {
                return self.told(Kind::File, Did::Vanished, 0, None, || as_path(path).to_owned());
            }
            Err(failure) => return self.trouble_at(Kind::File, as_path(path).to_owned(), &failure),
        };
        let times = place.fd().map(stamp);
        let directory = Directory::new(Some(Arc::clone(root)), parent.into(), source, seen, place);
        let directory = Arc::new(directory);
        let mut written = Vec::new();
        self.entry(None, Spot::new(&directory, name), kind, &mut written);
        self.verify(&directory, written);
        // The name is a change of the directory, which had its mode and times already.
        let Some((target, times)) = directory.kept.fd().zip(times) else { return };
        let times = times.map_err(Failure::destination("read attributes of"));
        let again = times.and_then(|times| {
            self.closed(&directory)?;
            super::attributes::give_times(target, &times)
        });
        if let Err(failure) = again {
            self.trouble_at(Kind::Directory, as_path(parent).to_owned(), &failure);
        }
    }
}

/// Whether the source still has the file by its first name.
fn is_named(spot: Spot<'_>, first: &[u8], inode: (u64, u64)) -> bool {
    let mut root = spot.directory;
    while let Some(parent) = root.parent() {
        root = parent;
    }
    let (parent, name) = split(first);
    let found = open_directory(root.fd(), parent).and_then(|parent| sys::file::stamp_at(parent, as_path(name)));
    found.is_ok_and(|found| (found.dev, found.ino) == inode)
}

fn noted(error: JobError) -> Failure {
    Failure::source("note the names of")(io::Error::other(error))
}

pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

/// A directory below `root`, however long the way: a component at a time, without following anything.
pub(crate) fn open_directory(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(root, c".", flags, Mode::empty())?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        at = rustix::fs::openat(&at, as_path(name), flags, Mode::empty())?;
    }
    Ok(at)
}
