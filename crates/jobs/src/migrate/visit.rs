//! What is done in each directory of the source.

use super::Migration;
use super::attic::discard;
use super::attributes;
use super::file::{Done, stopped};
use super::spot::{Place, Scope, Spot};
use crate::failure::Failure;
use crate::report::{Did, Kind};
use crate::walk::{Directory, Entry, Found, Visitor, Walker, as_path, kind_of};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use sys::file::{FileStamp, stamp};
use sys::{Mode, OFlags};

/// A name may become something else between two looks, but not for ever.
const KINDS: u32 = 3;

/// A file that was copied, to be compared with what was written.
pub(super) struct Written {
    name: Box<[u8]>,
    seen: FileStamp,
}

impl Visitor for Migration<'_> {
    type Kept = Place;

    fn wants(&self, parent: &Directory<Place>, name: &[u8]) -> bool {
        let filter = &self.options.filter;
        if self.is_reserved(parent, name) {
            return false;
        }
        if !filter.wants_name(parent, name, true) {
            self.told(Kind::Directory, Did::Filtered, 0, None, || parent.shown(name));
            return false;
        }
        if parent.kept.scope != Scope::Whole && self.is_directory_there(parent, name) {
            return false;
        }
        if self.earlier.is_some() && self.state.as_ref().is_some_and(|state| state.is_finished(&parent.path_of(name))) {
            self.tally.resumed();
            return false;
        }
        true
    }

    fn enter(&self, found: Found<'_, Place>) -> Option<Place> {
        let Some(parent) = found.parent else {
            if self.is_missing {
                return Some(Place::new(None, true));
            }
            let target = self.target.try_clone().map_err(Failure::destination("open"));
            let place = target.and_then(|target| match self.is_fresh {
                true => attributes::strip(self.myself, target.as_fd()).map(|()| Place::new(Some(target), true)),
                false => self.existing(target),
            });
            return match place {
                Ok(place) => Some(place),
                Err(failure) => {
                    self.trouble_at(Kind::Directory, "".into(), &failure);
                    None
                }
            };
        };
        if !self.is_missing && (found.stamp.dev, found.stamp.ino) == self.target_inode {
            let why = io::Error::other("the destination lies here");
            self.trouble_at(Kind::Directory, parent.shown(found.name), &Failure::source("enter")(why));
            return None;
        }
        match self.place(parent, found.name) {
            Ok(place) => Some(place),
            Err(failure) => {
                parent.mark_flawed();
                self.trouble_at(Kind::Directory, parent.shown(found.name), &failure);
                None
            }
        }
    }

    fn entries(&self, walk: &Walker<'_, Self>, directory: &Arc<Directory<Place>>, entries: &[Entry]) {
        let mut written = Vec::new();
        for entry in entries {
            if self.is_stopped() {
                directory.mark_flawed();
                return;
            }
            if directory.kept.scope == Scope::Named {
                self.named(walk, directory, &entry.name, &mut written);
            } else {
                self.entry(Some(walk), Spot::new(directory, &entry.name), entry.kind, &mut written);
            }
        }
        self.verify(directory, written);
    }

    fn leave(&self, directory: &Directory<Place>) {
        if self.is_stopped() {
            return;
        }
        let path = || directory.shown(b"");
        // What could not be removed is no reason for it to stay without its owner and mode.
        for left in [self.tidy(directory).map(|()| None), self.finished(directory)] {
            match left {
                Ok(Some(done)) => self.told(Kind::Directory, done.did, 0, done.note, path),
                Ok(None) => {}
                Err(failure) if failure.errno() == Some(Errno::CANCELED) => return,
                Err(failure) => {
                    directory.mark_flawed();
                    self.trouble_at(Kind::Directory, path(), &failure);
                }
            }
        }
        if let Some(state) = &self.state
            && !(directory.is_flawed() || self.partial)
        {
            state.finish(directory.path_of(b""));
        }
    }

    fn trouble(&self, directory: &Directory<Place>, name: &[u8], doing: &'static str, error: &io::Error) {
        if name.is_empty() {
            directory.kept.unlisted.store(true, Ordering::Relaxed);
        }
        // It was removed meanwhile, if whatever it was in says so. The root is in nothing.
        let removed = match (name.is_empty(), directory.parent()) {
            (false, _) => is_gone(directory.fd(), name),
            (true, Some(parent)) => is_gone(parent.fd(), directory.name().as_os_str().as_bytes()),
            (true, None) => false,
        };
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        if removed && matches!(errno, Some(Errno::NOENT | Errno::STALE)) {
            return self.told(Kind::Directory, Did::Vanished, 0, None, || directory.shown(name));
        }
        let error =
            error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error);
        self.trouble_at(Kind::Directory, directory.shown(name), &Failure::source(doing)(error));
    }

    fn elsewhere(&self, directory: &Directory<Place>, name: &[u8]) {
        self.told(Kind::Directory, Did::Elsewhere, 0, None, || directory.shown(name));
    }
}

impl Migration<'_> {
    /// Does what is to be done about one entry, whatever it is by now.
    /// Without a walk it is over already.
    pub(super) fn entry(
        &self,
        walk: Option<&Walker<'_, Self>>,
        spot: Spot<'_>,
        kind: FileType,
        written: &mut Vec<Written>,
    ) {
        if self.is_reserved(spot.directory, spot.bytes) {
            return;
        }
        if self.is_temporary(spot.bytes) {
            // At the destination it would be taken for what an interrupted run has left, and be removed.
            let why = "its name is one that this job gives to what it is making: rename it";
            spot.directory.mark_flawed();
            return self.told(kind_told(kind), Did::Refused, 0, Some(why.to_owned()), || spot.path());
        }
        if !self.options.filter.wants_name(spot.directory, spot.bytes, false) {
            return self.told(kind_told(kind), Did::Filtered, 0, None, || spot.path());
        }
        let mut kind = kind;
        for _ in 0..KINDS {
            let done = match kind {
                FileType::RegularFile => self.file(spot),
                FileType::Directory => match walk {
                    Some(walk) => return walk.also(spot.directory, spot.bytes),
                    None => return self.became_directory(spot),
                },
                FileType::Unknown => Err(Failure::source("find")(Errno::NOENT)),
                _ => self.node(spot),
            };
            match done {
                Ok(None) => return,
                Ok(Some(done)) => return self.ended(spot, kind, done, written),
                Err(failure) => {
                    if failure.is_other_kind()
                        && let Ok(now) = kind_of(spot.source(), spot.bytes)
                        && now != kind
                    {
                        kind = now;
                        continue;
                    }
                    return self.failed(spot, kind, &failure);
                }
            }
        }
        let why = io::Error::other("it became something else again and again");
        self.failed(spot, kind, &Failure::source("copy")(why));
    }

    fn became_directory(&self, spot: Spot<'_>) {
        let why = "it became a directory, which is not copied: run it again";
        self.told(Kind::Directory, Did::Changed, 0, Some(why.to_owned()), || spot.path());
    }

    fn ended(&self, spot: Spot<'_>, kind: FileType, done: Done, written: &mut Vec<Written>) {
        let Done { did, bytes, note, verify } = done;
        if did.is_problem() {
            spot.directory.mark_flawed();
        }
        if let Some(seen) = verify {
            written.push(Written { name: spot.bytes.into(), seen });
        }
        self.told(kind_told(kind), did, bytes, note, || spot.path());
    }

    fn failed(&self, spot: Spot<'_>, kind: FileType, failure: &Failure) {
        if failure.errno() == Some(Errno::CANCELED) {
            spot.directory.mark_flawed();
        } else if failure.is_vanished() || failure.is_stale() && is_gone(spot.source(), spot.bytes) {
            self.told(kind_told(kind), Did::Vanished, 0, None, || spot.path());
        } else {
            spot.directory.mark_flawed();
            self.trouble_at(kind_told(kind), spot.path(), failure);
        }
    }

    /// What was copied is read again on both sides, after a sync.
    pub(super) fn verify(&self, directory: &Arc<Directory<Place>>, written: Vec<Written>) {
        let (Some(target), false) = (directory.kept.fd(), written.is_empty()) else { return };
        let synced = sys::file::sync_fs(target).map_err(Failure::destination("make durable"));
        if let Err(failure) = synced {
            directory.mark_flawed();
            return self.trouble_at(Kind::Directory, directory.shown(b""), &failure);
        }
        for Written { name, seen } in written {
            let spot = Spot::new(directory, &name);
            match self.verified(spot, &seen) {
                Ok(done) if done.did == Did::Same => self.tally.verified(),
                Ok(done) => self.ended(spot, FileType::RegularFile, done, &mut Vec::new()),
                Err(failure) => self.failed(spot, FileType::RegularFile, &failure),
            }
        }
    }

    /// The directory of the destination that goes with one of the source.
    fn place(&self, parent: &Arc<Directory<Place>>, name: &[u8]) -> Result<Place, Failure> {
        let Some(above) = parent.kept.fd() else { return Ok(Place::new(None, true)) };
        let path = as_path(name);
        let make = || rustix::fs::mkdirat(above, path, Mode::RWXU);
        let dry = self.options.dry_run;
        if !parent.kept.is_fresh {
            match open(above, name) {
                Ok(found) => return self.existing(found),
                Err(failure) if failure.errno() == Some(Errno::NOENT) && dry => return Ok(Place::new(None, true)),
                Err(failure) if failure.errno() == Some(Errno::NOENT) => {}
                Err(failure) if matches!(failure.errno(), Some(Errno::NOTDIR | Errno::LOOP)) => {
                    self.make_way(parent, name)?;
                    if dry {
                        return Ok(Place::new(None, true));
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        match make() {
            Ok(()) => {}
            // Somebody else was faster.
            Err(Errno::EXIST) => return self.existing(open(above, name)?),
            Err(error) => return Err(Failure::destination("make the directory")(error)),
        }
        let made = open(above, name)?;
        if !parent.kept.is_fresh {
            attributes::strip(self.myself, made.as_fd())?;
        }
        Ok(Place::new(Some(made), true))
    }

    pub(super) fn existing(&self, found: OwnedFd) -> Result<Place, Failure> {
        let mut opened = None;
        let seen = stamp(&found).map_err(Failure::destination("read attributes of"))?;
        if !self.myself.is_root() && !self.options.dry_run {
            // Its owner may change what is in it, and says so for the time of that.
            if seen.mode & 0o700 != 0o700 && self.myself.owns(&seen) {
                set_mode(&found, seen.mode | 0o700)?;
                opened = Some(seen.mode);
            }
        }
        let mut place = Place::new(Some(found), false);
        (place.opened, place.changed) = (opened, Some(seen.mtime));
        Ok(place)
    }

    /// Whether an interrupted run of this job made a directory, which has still to get its owner and mode then.
    fn was_made(&self, directory: &Directory<Place>, target: BorrowedFd<'_>, found: &FileStamp) -> bool {
        match directory.parent() {
            // It was made before the job began to note anything.
            None => self.earlier.as_ref().is_some_and(|earlier| earlier.made_root),
            Some(_) => self.may_be_ours(target, as_path(b""), found),
        }
    }

    /// Gives a directory the mode that it had before it was opened to its owner.
    pub(super) fn closed(&self, directory: &Directory<Place>) -> Result<(), Failure> {
        match (directory.kept.fd(), directory.kept.opened) {
            (Some(target), Some(mode)) => set_mode(target, mode),
            _ => Ok(()),
        }
    }

    /// Something that is no directory is where one is to be.
    fn make_way(&self, parent: &Arc<Directory<Place>>, name: &[u8]) -> Result<(), Failure> {
        let spot = Spot::new(parent, name);
        let (Some(above), Some(existing)) = (parent.kept.fd(), spot.find().map_err(Failure::destination("find"))?)
        else {
            return Ok(());
        };
        let source = spot.look().map_err(Failure::source("find"))?;
        match self.judge_other(spot, &source, &existing)? {
            super::file::Verdict::Replace if self.options.dry_run => Ok(()),
            super::file::Verdict::Replace => {
                let removed = discard(self.attic(), above, spot.name(), || parent.path_of(name));
                removed.map_err(Failure::destination("remove"))
            }
            _ => Err(Failure::destination("make the directory")(Errno::EXIST)),
        }
    }

    /// All in and below it is done: now it may have its owner, mode and times.
    fn finished(&self, directory: &Directory<Place>) -> Result<Option<Done>, Failure> {
        let Some(target) = directory.kept.fd() else {
            return Ok(directory.kept.is_fresh.then(|| Done::plain(Did::Copied)));
        };
        if self.options.dry_run {
            let brings = self.options.existing != super::options::Existing::Keep;
            let differs = brings && attributes::would_differ(self.myself, directory.fd(), directory.stamp(), target)?;
            return Ok(differs.then(|| Done::plain(Did::Updated)));
        }
        if self.is_stopped() {
            return Err(stopped());
        }
        let (source, seen) = (directory.fd(), directory.stamp());
        if directory.kept.is_fresh {
            let names = attributes::names(source)?;
            let made = attributes::Made { mode: 0o700, inherits: false };
            let unset = attributes::give(self.myself, source, seen, &names, target, made)?;
            return Ok(Some(self.done(Did::Copied, 0, unset)));
        }
        let found = stamp(target).map_err(Failure::destination("read attributes of"))?;
        if self.options.existing == super::options::Existing::Keep && !self.was_made(directory, target, &found) {
            // What came into it or went, went as at the source.
            if directory.kept.changed.is_some_and(|before| before != found.mtime) {
                attributes::give_times(target, seen)?;
            }
            return self.closed(directory).map(|()| None);
        }
        let (changed, unset) = attributes::align(self.myself, source, seen, target)?;
        let found = stamp(target).map_err(Failure::destination("read attributes of"))?;
        let late = !self.granularity.same(seen.mtime, found.mtime);
        if late {
            attributes::give_times(target, seen)?;
        }
        Ok((changed || unset.is_some()).then(|| self.done(Did::Updated, 0, unset)))
    }
}

fn set_mode(directory: impl AsFd, mode: u32) -> Result<(), Failure> {
    let set = rustix::fs::fchmod(directory, Mode::from_raw_mode(mode & 0o7777));
    set.map_err(Failure::destination("set the mode of"))
}

/// A directory of the destination. What is mounted there is not entered: a sync of the destination would not be one of that, and what is in it
/// may be of others.
fn open(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    sys::file::open_within(directory, as_path(name), flags, Mode::empty()).map_err(|error| {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::XDEV) => {
                let why = io::Error::other("something else is mounted there; migrate into that by itself");
                Failure::destination("enter the directory")(why)
            }
            _ => Failure::destination("open the directory")(error),
        }
    })
}

/// Whether nothing has the name any more.
fn is_gone(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    kind_of(directory, name).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn kind_told(kind: FileType) -> Kind {
    match kind {
        FileType::RegularFile | FileType::Unknown => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Special,
    }
}
