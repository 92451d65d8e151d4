//! What is done in each directory of the first tree.

use super::Verification;
use super::compare::{Both, Place};
use super::finding::Found as Compared;
use crate::failure::Failure;
use crate::report::Kind;
use crate::walk::{Buffer, Directory, Entry, Found, Visitor, Walker, as_path, mount_of};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use sys::file::{FileStamp, stamp_at};
use sys::{Mode, OFlags};

/// What changes while it is compared is compared so often.
const TRIES: u32 = 3;

/// A directory of the second tree, kept with the first's.
pub(super) struct Pair {
    fd: OwnedFd,
    /// The first's could not be read to its end.
    unlisted: AtomicBool,
}

/// What became of one look at a name.
enum Look {
    Told(Compared),
    /// Something changed while it was compared.
    Again,
}

impl Visitor for Verification<'_> {
    type Kept = Pair;

    fn wants(&self, parent: &Directory<Pair>, name: &[u8]) -> bool {
        let wanted = self.options.filter.wants_name(parent, name, true);
        if !wanted {
            self.told(Kind::Directory, Compared::Filtered, || parent.shown(name));
        }
        wanted
    }

    fn enter(&self, found: Found<'_, Pair>) -> Option<Pair> {
        let Found { parent, name, fd, .. } = found;
        let path = || parent.map(|parent| parent.shown(name)).unwrap_or_default();
        let second = match parent {
            None => self.second.try_clone().map_err(Failure::destination("open")).map(Ok),
            Some(parent) => self.beside(parent, name),
        };
        let second = match second {
            Ok(Ok(second)) => second,
            Ok(Err(found)) => {
                self.told(Kind::Directory, found, path);
                return None;
            }
            Err(failure) => {
                match failure.is_vanished() {
                    true => self.told(Kind::Directory, Compared::Vanished, path),
                    false => self.failed(Kind::Directory, &failure, path),
                }
                return None;
            }
        };
        match self.directories(fd, second.as_fd()) {
            Ok(found) => self.told(Kind::Directory, found, path),
            Err(failure) => self.failed(Kind::Directory, &failure, path),
        }
        Some(Pair { fd: second, unlisted: AtomicBool::new(false) })
    }

    fn entries(&self, walk: &Walker<'_, Self>, directory: &Arc<Directory<Pair>>, entries: &[Entry]) {
        for entry in entries {
            if self.is_stopped() {
                return;
            }
            self.entry(walk, directory, entry);
        }
    }

    fn leave(&self, directory: &Directory<Pair>) {
        if self.is_stopped() || directory.kept.unlisted.load(Ordering::Relaxed) {
            return;
        }
        if let Err(failure) = self.extras(directory) {
            self.failed(Kind::Directory, &failure, || directory.shown(b""));
        }
    }

    fn trouble(&self, directory: &Directory<Pair>, name: &[u8], doing: &'static str, error: &io::Error) {
        if name.is_empty() {
            directory.kept.unlisted.store(true, Ordering::Relaxed);
        }
        let why = format!("cannot {doing} in the first tree: {error}");
        self.told(Kind::Directory, Compared::Failed(why), || directory.shown(name));
    }

    fn elsewhere(&self, directory: &Directory<Pair>, name: &[u8]) {
        self.told(Kind::Directory, Compared::Elsewhere, || directory.shown(name));
    }
}

impl Verification<'_> {
    /// The directory of the second tree that goes with one of the first, or why there is none to be entered.
    fn beside(&self, parent: &Arc<Directory<Pair>>, name: &[u8]) -> Result<Result<OwnedFd, Compared>, Failure> {
        let second = parent.kept.fd.as_fd();
        let opened = match open(second, name) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(Err(missing(Place::In(parent.fd(), as_path(name))))),
            // Something else has its name.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let name = as_path(name);
                let places = [Place::In(parent.fd(), name), Place::In(second, name)];
                let first = places[0].stamp().map_err(Failure::source("look at"))?;
                return match self.look(places, first) {
                    Ok(Look::Told(found)) => Ok(Err(found)),
                    Ok(Look::Again) => Ok(Err(Compared::Changed)),
                    Err(failure) => Err(failure),
                };
            }
            Err(error) => return Err(Failure::destination("open")(error)),
        };
        let mount = mount_of(opened.as_fd()).map_err(Failure::destination("look at"))?;
        if !self.options.cross && mount != self.second_mount {
            return Ok(Err(Compared::Elsewhere));
        }
        Ok(Ok(opened))
    }

    /// Two open directories, but for what is in them.
    fn directories(&self, first: BorrowedFd<'_>, second: BorrowedFd<'_>) -> Result<Compared, Failure> {
        for _ in 0..TRIES {
            let places = [Place::Open(first), Place::Open(second)];
            let first = places[0].stamp().map_err(Failure::source("look at"))?;
            if let Look::Told(found) = self.look(places, first)? {
                return Ok(found);
            }
        }
        Ok(Compared::Changed)
    }

    fn entry(&self, walk: &Walker<'_, Self>, directory: &Arc<Directory<Pair>>, entry: &Entry) {
        let (name, kind) = (entry.as_path(), kind_told(entry.kind));
        let path = || directory.shown(&entry.name);
        if !self.options.filter.wants_name(directory, &entry.name, false) {
            return self.told(kind, Compared::Filtered, path);
        }
        for _ in 0..TRIES {
            let first = match stamp_at(directory.fd(), name) {
                Ok(stamp) => stamp,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return self.told(kind, Compared::Vanished, path);
                }
                Err(error) => return self.failed(kind, &Failure::source("look at")(error), path),
            };
            if FileType::from_raw_mode(first.mode) == FileType::Directory {
                return walk.also(directory, &entry.name);
            }
            if first.is_regular && !self.options.filter.wants_file(&first) {
                return self.told(kind, Compared::Filtered, path);
            }
            let second = directory.kept.fd.as_fd();
            match self.look([Place::In(directory.fd(), name), Place::In(second, name)], first) {
                Ok(Look::Told(found)) => return self.told(kind_told(FileType::from_raw_mode(first.mode)), found, path),
                Ok(Look::Again) => {}
                Err(failure) if failure.errno() == Some(Errno::CANCELED) => return,
                Err(failure) => return self.failed(kind, &failure, path),
            }
        }
        self.told(kind, Compared::Changed, path);
    }

    /// One comparison. What was changed or removed while it was made is to be looked at again.
    fn look(&self, places: [Place<'_>; 2], first: FileStamp) -> Result<Look, Failure> {
        let second = match places[1].stamp() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Look::Told(missing(places[0])));
            }
            other => other.map_err(Failure::destination("look at"))?,
        };
        let both = Both { places, stamps: [first, second] };
        let compared = self.differences(&both).and_then(|found| {
            let settled = found.is_empty() || both.is_settled()?;
            Ok((found, settled))
        });
        let mut found = match compared {
            Ok((found, true)) => found,
            Ok((_, false)) => return Ok(Look::Again),
            Err(failure) if failure.errno() == Some(Errno::CANCELED) => return Err(failure),
            // What was changed or removed meanwhile gives all sorts of errors.
            Err(failure) if both.is_settled().is_ok_and(|settled| settled) => return Err(failure),
            Err(_) => return Ok(Look::Again),
        };
        if FileType::from_raw_mode(first.mode) != FileType::Directory {
            found.extend(self.linked(&both));
        }
        Ok(Look::Told(if found.is_empty() { Compared::Same } else { Compared::Differs(found) }))
    }

    /// What the second directory has and the first has not.
    fn extras(&self, directory: &Directory<Pair>) -> Result<(), Failure> {
        let listing = open(directory.kept.fd.as_fd(), b".").map_err(Failure::destination("open"))?;
        let mut buffer = Buffer::new();
        while let Some(entries) =
            buffer.fill(listing.as_fd(), directory.depth()).map_err(Failure::destination("list"))?
        {
            for entry in entries {
                if self.is_stopped() {
                    return Ok(());
                }
                self.extra(directory, &entry);
            }
        }
        Ok(())
    }

    fn extra(&self, directory: &Directory<Pair>, entry: &Entry) {
        let (name, kind) = (entry.as_path(), kind_told(entry.kind));
        let path = || directory.shown(&entry.name);
        let filter = &self.options.filter;
        if !filter.wants_name(directory, &entry.name, entry.kind == FileType::Directory) {
            return;
        }
        match rustix::fs::statat(directory.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Ok(_) => return,
            Err(error) => return self.failed(kind, &Failure::source("look at")(error), path),
        }
        match stamp_at(&directory.kept.fd, name) {
            Ok(stamp) if stamp.is_regular && !filter.wants_file(&stamp) => {}
            Ok(_) => self.told(kind, Compared::Extra, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.failed(kind, &Failure::destination("look at")(error), path),
        }
    }
}

/// What the second tree does not have, unless the first has it no more, either.
fn missing(first: Place<'_>) -> Compared {
    match first.stamp() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Compared::Vanished,
        _ => Compared::Missing,
    }
}

/// As the walk opens them.
fn open(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::openat(directory, as_path(name), flags, Mode::empty());
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        other => other,
    }
}

fn kind_told(kind: FileType) -> Kind {
    match kind {
        FileType::RegularFile | FileType::Unknown => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Special,
    }
}
