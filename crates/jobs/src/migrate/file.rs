//! Regular files: whether they are to be copied, and how.
//!
//! A small file that is new comes about under its name, with its times last: who finds it with the source's size and time finds all of it. Any
//! other is made under a name of this job's and takes its place when it is whole.

use super::Migration;
use super::attributes::{self, Unset};
use super::options::Leaf;
use super::spot::{Spot, node, unlink};
use crate::content::{Compared, compare, fill};
use crate::failure::Failure;
use crate::report::Did;
use model::Extent;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use sys::file::{FileStamp, stamp};
use sys::{Mode, OFlags};
use transfer::{Monitor, OpenFile, TransferError};

/// Read into memory as a whole, if it has no holes.
const SMALL_BYTES: u64 = 256 << 10;
/// Made under its own name, if it is new.
pub(super) const DIRECT_BYTES: u64 = 1 << 20;
/// Below this, a copy costs no more than the question whether blocks can be shared.
const REFLINK_FROM_BYTES: u64 = 64 << 10;
/// A file that changes while it is copied is copied so often.
const TRIES: u32 = 3;

/// What became of one thing.
pub(crate) struct Done {
    pub(crate) did: Did,
    pub(crate) bytes: u64,
    pub(crate) note: Option<String>,
    /// The source's, if what was written is to be compared with it.
    pub(crate) verify: Option<FileStamp>,
}

impl Done {
    pub(crate) fn plain(did: Did) -> Self {
        Self { did, bytes: 0, note: None, verify: None }
    }

    pub(crate) fn with_note(did: Did, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..Self::plain(did) }
    }
}

/// What is to be done about what has the name at the destination.
pub(crate) enum Verdict {
    Same,
    Replace,
    Refuse(&'static str),
}

/// A copy that did not come about.
enum Halt {
    Failed(Failure),
    /// The source changed while it was read.
    Changed,
    Stopped,
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<TransferError> for Halt {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Changed { .. } => Self::Changed,
            TransferError::Cancelled => Self::Stopped,
            other => Self::Failed(other.into()),
        }
    }
}

/// A file that is being made. Removed when it is dropped before it is kept.
struct Unfinished<'a> {
    directory: BorrowedFd<'a>,
    name: PathBuf,
    kept: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = unlink(self.directory, &self.name)
        {
            tracing::warn!(name = %self.name.display(), %error, "cannot remove an unfinished copy");
        }
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; usize::try_from(SMALL_BYTES).unwrap_or(1 << 18)]);
}

impl Migration<'_> {
    /// Does what is to be done about a regular file. `None`: later.
    pub(super) fn file(&self, spot: Spot<'_>) -> Result<Option<Done>, Failure> {
        if self.options.leaf == Leaf::Link
            && let Some(done) = self.another_name(spot)?
        {
            return Ok(Some(done));
        }
        let existing = match spot.place().is_fresh {
            true => None,
            false => spot.find().map_err(Failure::destination("find"))?,
        };
        if let Some(existing) = &existing {
            let source = regular(spot.look().map_err(Failure::source("find"))?)?;
            if !self.options.filter.wants_file(&source) {
                return Ok(Some(Done::plain(Did::Filtered)));
            }
            if source.nlink < 2 {
                match self.judge(spot, &source, existing)? {
                    Verdict::Same => {
                        if let Some(done) = self.same(spot, &source, existing)? {
                            return Ok(Some(done));
                        }
                    }
                    Verdict::Refuse(why) => return Ok(Some(Done::with_note(Did::Refused, why))),
                    Verdict::Replace => {}
                }
            }
        }
        let source = self.open_source(spot)?;
        let seen = regular(stamp(&source).map_err(Failure::source("read attributes of"))?)?;
        if !self.options.filter.wants_file(&seen) {
            return Ok(Some(Done::plain(Did::Filtered)));
        }
        if seen.nlink < 2 {
            return self.made(spot, source, existing.as_ref(), seen).map(Some);
        }
        self.one_of_several_names(spot, &seen, existing.as_ref(), || {
            if let Some(existing) = &existing {
                match self.judge(spot, &seen, existing)? {
                    Verdict::Same => {
                        if let Some(done) = self.same(spot, &seen, existing)? {
                            return Ok(done);
                        }
                    }
                    Verdict::Refuse(why) => return Ok(Done::with_note(Did::Refused, why)),
                    Verdict::Replace => {}
                }
            }
            self.made(spot, source, existing.as_ref(), seen)
        })
    }

    /// What is to be done about a file that is there already.
    pub(super) fn judge(&self, spot: Spot<'_>, source: &FileStamp, existing: &FileStamp) -> Result<Verdict, Failure> {
        use super::options::Existing;
        let policy = self.options.existing;
        if existing.is_regular
            && policy != Existing::Overwrite
            && existing.size == source.size
            && self.granularity.same(source.mtime, existing.mtime)
        {
            if self.is_shared(source, existing) && matches!(policy, Existing::Update | Existing::Newer) {
                return Ok(Verdict::Replace);
            }
            if !self.is_doubtful(existing) || self.has_same_content(spot)? {
                return Ok(Verdict::Same);
            }
            // Its content was lost after it had got its times, which nobody else would have given it.
            return Ok(Verdict::Replace);
        }
        self.judge_other(spot, source, existing)
    }

    /// As [`judge`](Self::judge), when it is known that they differ.
    pub(super) fn judge_other(
        &self,
        spot: Spot<'_>,
        source: &FileStamp,
        existing: &FileStamp,
    ) -> Result<Verdict, Failure> {
        use super::options::Existing;
        if is_directory(existing) && !self.options.delete {
            return Ok(Verdict::Refuse("a directory has its place at the destination; --delete would remove that"));
        }
        Ok(match self.options.existing {
            Existing::Update | Existing::Overwrite => Verdict::Replace,
            Existing::Newer if source.mtime > existing.mtime => Verdict::Replace,
            // What was being written when a run was interrupted is younger than what it is to be.
            Existing::Newer | Existing::Keep if self.is_leftover(spot, source, existing)? => Verdict::Replace,
            // What is there was changed later: that is what was asked for.
            Existing::Newer => Verdict::Same,
            Existing::Keep => Verdict::Refuse(
                "something else is at the destination already; --update or --overwrite would replace it",
            ),
        })
    }

    /// Whether it is one file with others that the source has by themselves, or one of somebody else's with another name: to bring it in line would be to
    /// change those.
    fn is_shared(&self, source: &FileStamp, existing: &FileStamp) -> bool {
        let owners_differ = self.myself.is_root() && (source.uid, source.gid) != (existing.uid, existing.gid);
        let outside = self.options.names_outside.unwrap_or(0);
        existing.nlink > outside.saturating_add(1) && (source.nlink < 2 || owners_differ)
    }

    fn has_same_content(&self, spot: Spot<'_>) -> Result<bool, Failure> {
        let (source, target) = (self.open_source(spot)?, open_target(spot)?);
        Ok(compare(&source, &target, |_| self.is_stopped())? == Compared::Same)
    }

    /// Nothing to copy. Where files may be changed, the rest is brought in line. `None`: it has to be replaced for that.
    fn same(&self, spot: Spot<'_>, source: &FileStamp, existing: &FileStamp) -> Result<Option<Done>, Failure> {
        // What an interrupted run has copied may not have been verified.
        let begun = self.earlier.as_ref().is_some_and(|earlier| existing.ctime >= earlier.started);
        let verify = (self.options.verify && begun).then_some(*source);
        if self.options.existing == super::options::Existing::Keep {
            return Ok(Some(Done { verify, ..Done::plain(Did::Same) }));
        }
        let Some(directory) = spot.place().fd() else { return Ok(Some(Done::plain(Did::Same))) };
        if attributes::are_plainly_the_same((spot.source(), source), (directory, existing), spot.name()) {
            return Ok(Some(Done { verify, ..Done::plain(Did::Same) }));
        }
        // Only to be looked at: an open would restore what is released.
        let from = node(spot.source(), spot.name()).map_err(Failure::source("open"))?;
        let to = node(directory, spot.name()).map_err(Failure::destination("open"))?;
        regular(stamp(&from).map_err(Failure::source("read attributes of"))?)?;
        let found = stamp(&to).map_err(Failure::destination("read attributes of"))?;
        // Whoever may write into the directory may have put something else there, to have it given away.
        if (found.dev, found.ino) != (existing.dev, existing.ino) || self.is_shared(source, &found) {
            return Err(Failure::destination("bring in line")(Errno::BUSY));
        }
        if self.options.dry_run {
            let differs = attributes::would_differ(self.myself, from.as_fd(), source, to.as_fd())?;
            return Ok(Some(Done::plain(if differs { Did::Updated } else { Did::Same })));
        }
        if self.options.names_outside.is_some() {
            let same = self.same_throughout(directory, from.as_fd(), source, to.as_fd())?;
            return Ok(same.map(|done| Done { verify, ..done }));
        }
        let (changed, unset) = attributes::align(self.myself, from.as_fd(), source, to.as_fd())?;
        let did = if changed { Did::Updated } else { Did::Same };
        Ok(Some(Done { verify, ..self.done(did, 0, unset) }))
    }

    /// As [`same`](Self::same), where nothing may be changed in place.
    fn same_throughout(
        &self,
        directory: BorrowedFd<'_>,
        source: BorrowedFd<'_>,
        seen: &FileStamp,
        existing: BorrowedFd<'_>,
    ) -> Result<Option<Done>, Failure> {
        if !attributes::differ(source, seen, existing)? {
            return Ok(Some(Done::plain(Did::Same)));
        }
        // What the destination cannot have is no reason to copy it again and again: an empty file shows what it can.
        let name = self.temporary();
        let made = attributes::Made { mode: 0o600, inherits: true };
        let sample = make(directory, &name, made.mode)?;
        let _removed = Unfinished { directory, name, kept: false };
        let names = attributes::names(source)?;
        let unset = attributes::give(self.myself, source, seen, &names, sample.as_fd(), made)?;
        let best = stamp(&sample).map_err(Failure::destination("read attributes of"))?;
        let improves = attributes::differ(sample.as_fd(), &best, existing)?;
        Ok((!improves).then(|| self.done(Did::Same, 0, unset)))
    }

    /// Makes the source's file have its name at the destination, too. `None`: it can have no more of them.
    fn another_name(&self, spot: Spot<'_>) -> Result<Option<Done>, Failure> {
        let Some(directory) = spot.place().fd() else { return Ok(None) };
        match rustix::fs::linkat(spot.source(), spot.name(), directory, spot.name(), AtFlags::empty()) {
            Ok(()) => Ok(Some(Done::plain(Did::Linked))),
            Err(Errno::MLINK) => Ok(None),
            Err(error) => Err(Failure::destination("give another name to")(error)),
        }
    }

    pub(super) fn done(&self, did: Did, bytes: u64, unset: Option<Unset>) -> Done {
        if unset.is_some() {
            self.tally.incomplete();
        }
        Done { did, bytes, note: unset.map(|unset| unset.0), verify: None }
    }

    fn made(
        &self,
        spot: Spot<'_>,
        source: File,
        existing: Option<&FileStamp>,
        mut seen: FileStamp,
    ) -> Result<Done, Failure> {
        if self.options.dry_run {
            self.tally.moved(seen.size);
            return Ok(Done { bytes: seen.size, ..Done::plain(Did::Copied) });
        }
        let mut source = OpenFile::new(source, spot.name());
        for attempt in 1.. {
            let last = attempt == TRIES;
            match self.copied(spot, &source, existing, &seen, last) {
                Ok((did, unset)) => {
                    let verify = (self.options.verify && did == Did::Copied).then_some(seen);
                    return Ok(Done { verify, ..self.done(did, seen.size, unset) });
                }
                Err(Halt::Failed(failure)) => return Err(failure),
                Err(Halt::Stopped) => break,
                Err(Halt::Changed) if last => {
                    return Ok(Done::with_note(Did::Changed, "it became shorter each time that it was copied"));
                }
                Err(Halt::Changed) => {
                    source = OpenFile::new(self.open_source(spot)?, spot.name());
                    seen = regular(source.stamp()?)?;
                }
            }
        }
        Err(stopped())
    }

    /// One copy. On the `last` try also one of a file that changed meanwhile.
    fn copied(
        &self,
        spot: Spot<'_>,
        source: &OpenFile,
        existing: Option<&FileStamp>,
        seen: &FileStamp,
        last: bool,
    ) -> Result<(Did, Option<Unset>), Halt> {
        let Some(directory) = spot.place().fd() else { return Ok((Did::Copied, None)) };
        let names = attributes::names(source.file())?;
        let made = attributes::Made::for_file(seen, &names, spot.place().is_fresh);
        let replace = existing.is_some();
        let direct = !replace && seen.size <= DIRECT_BYTES;
        let name = if direct { spot.name().to_owned() } else { self.temporary() };
        let target = make(directory, &name, made.mode)?;
        let mut unfinished = Unfinished { directory, name, kept: false };
        let target = self.content(source, seen, target)?;
        let unset = attributes::give(self.myself, source.file().as_fd(), seen, &names, target.as_fd(), made)?;
        let after = stamp(source.file()).map_err(Failure::source("read attributes of"))?;
        let unchanged = (after.size, after.mtime, after.ctime) == (seen.size, seen.mtime, seen.ctime);
        if !unchanged && !last {
            return Err(Halt::Changed);
        }
        if existing.is_some_and(is_directory) {
            self.remove_tree(spot.directory, spot.bytes)?;
        } else if existing.is_some() {
            self.keep_old(spot.directory, spot.bytes)?;
        }
        if !direct {
            take_place(directory, &unfinished.name, spot.name(), replace)?;
        }
        unfinished.kept = true;
        Ok((if unchanged { Did::Copied } else { Did::Changed }, unset))
    }

    /// Gives the file back, open for writing.
    fn content(&self, source: &OpenFile, seen: &FileStamp, target: File) -> Result<File, Halt> {
        if seen.size == 0 {
            return Ok(target);
        }
        if self.options.leaf == Leaf::Reflink && sys::file::reflink(source.file(), &target).is_ok() {
            return Ok(target);
        }
        if seen.size <= SMALL_BYTES && seen.blocks.saturating_mul(512) >= seen.size {
            return self.small(source.file(), seen.size, target);
        }
        if seen.size >= REFLINK_FROM_BYTES && self.reflinks.load(Ordering::Relaxed) {
            match sys::file::reflink(source.file(), &target) {
                Ok(()) => {
                    self.tally.moved(seen.size);
                    return Ok(target);
                }
                Err(_) => self.reflinks.store(false, Ordering::Relaxed),
            }
        }
        let target = OpenFile::new(target, source.path());
        transfer::copy::copy_file(source, &target, None, self)?;
        Ok(target.into_file())
    }

    fn small(&self, source: &File, size: u64, target: File) -> Result<File, Halt> {
        if self.cancelled() {
            return Err(Halt::Stopped);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let room = usize::try_from(size).ok().and_then(|size| buffer.get_mut(..size)).unwrap_or_default();
            let read = fill(source, room, 0).map_err(Failure::source("read"))?;
            if (read as u64) < size {
                return Err(Halt::Changed);
            }
            target.write_all_at(room, 0).map_err(Failure::destination("write"))?;
            Ok(())
        })?;
        self.advanced(Extent { offset: 0, length: size });
        Ok(target)
    }

    /// Without moving its time of access where we may, and without waiting for the other end of what became a pipe.
    pub(super) fn open_source(&self, spot: Spot<'_>) -> Result<File, Failure> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::openat(spot.source(), spot.name(), flags, Mode::empty());
        let opened = if self.noatime.load(Ordering::Relaxed) {
            match open(flags | OFlags::NOATIME) {
                Err(Errno::PERM) => open(flags),
                other => other,
            }
        } else {
            open(flags)
        };
        let opened = match opened {
            Err(Errno::AGAIN) => after_lease(spot.source(), spot.name()),
            other => other.map_err(std::io::Error::from),
        };
        Ok(opened.map_err(Failure::source("open"))?.into())
    }

    /// Compares what was copied with what was written, once that is on stable storage.
    pub(super) fn verified(&self, spot: Spot<'_>, seen: &FileStamp) -> Result<Done, Failure> {
        let changed = || Ok(Done::with_note(Did::Changed, "it changed before it could be verified"));
        let (source, target) = (self.open_source(spot)?, open_target(spot)?);
        let is_seen = |now: FileStamp| {
            (now.dev, now.ino, now.size, now.mtime) == (seen.dev, seen.ino, seen.size, seen.mtime)
                && (now.ctime == seen.ctime || now.nlink != seen.nlink)
        };
        let now = || stamp(&source).map_err(Failure::source("read attributes of"));
        if !is_seen(now()?) {
            return changed();
        }
        let compared = compare(&source, &target, |bytes| {
            self.limiter.spend(bytes);
            self.cancelled()
        })?;
        match compared {
            Compared::Same => Ok(Done::plain(Did::Same)),
            Compared::Stopped => Err(stopped()),
            Compared::DiffersAt(at) => {
                if is_seen(now()?) {
                    let why = format!(
                        "what is at the destination differs from byte {at} on, though it was copied without error: check both devices"
                    );
                    Ok(Done::with_note(Did::Failed, why))
                } else {
                    changed()
                }
            }
        }
    }
}

/// The rate is kept, and an end is heard of, once a chunk.
impl Monitor for Migration<'_> {
    fn cancelled(&self) -> bool {
        self.limiter.wait(false, || self.is_stopped())
    }

    fn advanced(&self, extent: Extent) {
        self.tally.moved(extent.length);
        self.limiter.spend(extent.length);
    }

    fn skipped(&self, _: Extent) {}
}

/// An end that was asked for.
pub(super) fn stopped() -> Failure {
    Failure::source("go on with")(Errno::CANCELED)
}

pub(super) fn is_directory(stamp: &FileStamp) -> bool {
    stamp.mode & 0o170_000 == 0o040_000
}

/// `ELOOP` of the source says that it is something else by now.
fn regular(stamp: FileStamp) -> Result<FileStamp, Failure> {
    if stamp.is_regular { Ok(stamp) } else { Err(Failure::source("copy")(Errno::LOOP)) }
}

pub(super) fn open_target(spot: Spot<'_>) -> Result<File, Failure> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Some(directory) = spot.place().fd() else { return Err(Failure::destination("open")(Errno::NOENT)) };
    let opened = match rustix::fs::openat(directory, spot.name(), flags, Mode::empty()) {
        Err(Errno::AGAIN) => after_lease(directory, spot.name()),
        other => other.map_err(std::io::Error::from),
    };
    Ok(opened.map_err(Failure::destination("open"))?.into())
}

/// Opens a file of which somebody has a lease (a file server, say), who gives it back soon or loses it. Only of a regular file is there such a thing to
/// be waited for.
fn after_lease(directory: BorrowedFd<'_>, name: &Path) -> std::io::Result<OwnedFd> {
    let found = node(directory, name)?;
    if !stamp(&found)?.is_regular {
        return Err(Errno::LOOP.into());
    }
    sys::file::reopen(&found, OFlags::RDONLY)
}

fn make(directory: BorrowedFd<'_>, name: &Path, mode: u32) -> Result<File, Failure> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(mode));
    Ok(made.map_err(Failure::destination("make"))?.into())
}

/// Renames what was made to the name that it is to have; what nobody may replace is not replaced, whoever made it meanwhile.
pub(super) fn take_place(directory: BorrowedFd<'_>, made: &Path, name: &Path, replace: bool) -> Result<(), Failure> {
    let renamed = if replace {
        rustix::fs::renameat(directory, made, directory, name).map_err(std::io::Error::from)
    } else {
        match sys::file::rename_noreplace(directory, made, directory, name) {
            // A filesystem that does not know it.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => name_anew(directory, made, name),
            other => other,
        }
    };
    renamed.map_err(Failure::destination("give its name to"))
}

/// A second name is never one that is taken. Where files can have no second one, there is only the rename.
fn name_anew(directory: BorrowedFd<'_>, made: &Path, name: &Path) -> std::io::Result<()> {
    match rustix::fs::linkat(directory, made, directory, name, AtFlags::empty()) {
        Ok(()) => unlink(directory, made),
        Err(Errno::EXIST) => Err(Errno::EXIST.into()),
        Err(_) => Ok(rustix::fs::renameat(directory, made, directory, name)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_meanwhile_is_not_replaced() {
        let scratch = testkit::Scratch::new("name-anew");
        let directory = File::open(scratch.path()).unwrap();
        let give = |made: &str| name_anew(directory.as_fd(), Path::new(made), Path::new("name"));
        std::fs::write(scratch.join("one"), "one").unwrap();
        std::fs::write(scratch.join("two"), "two").unwrap();
        give("one").unwrap();
        assert_eq!(give("two").unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(scratch.join("name")).unwrap(), b"one");
        assert!(!scratch.join("one").exists() && scratch.join("two").exists());
    }
}
