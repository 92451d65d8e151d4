//! From a tree into a bucket.

use super::about::{About, changed, xattrs};
use super::compare::compare;
use super::key::key_of;
use super::notes::Notes;
use super::steps::STEP;
use super::{Done, Place, Run, TRIES, Trouble};
use crate::content::fill;
use crate::failure::{Failure, JobError};
use crate::migrate::{End, Existing, Options};
use crate::report::{Did, Kind, Tally, Watcher};
use crate::walk::{Directory, Entry, Found as Opened, Pace, Visitor, Walker, as_path};
use bytes::Bytes;
use model::Extent;
use objects::plain::{Found, Over, Plain, Put};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use sys::file::{FileStamp, stamp, stamp_at};
use sys::{Mode, OFlags};
use transfer::Monitor as _;

/// What was given up is aborted in this time, or left for the next run.
pub(super) const SETTLE: Duration = Duration::from_secs(60);
/// Somebody else may put to the same key, but not for ever.
const LOOKS: u32 = 3;

/// One run.
pub(super) struct Upload<'a> {
    pub(super) run: Run<'a>,
    pub(super) plain: Plain,
    pub(super) prefix: String,
    /// There was nothing below the prefix when the run began.
    is_fresh: bool,
    notes: Option<Notes>,
    /// Some of the source could not be listed.
    unlisted: AtomicBool,
}

/// Copies what is in the directory `source` into the bucket, below the prefix.
///
/// # Errors
/// The job cannot begin, or the bucket is gone. What goes wrong with single files is told to the watcher, and counted.
pub fn upload(
    source: &Path,
    target: &Place,
    options: &Options,
    tally: &Tally,
    watcher: &dyn Watcher,
    stop: &AtomicBool,
) -> Result<End, JobError> {
    let root = open_root(source)?;
    let plain = Plain::new(target.bucket.clone());
    plain.check()?;
    let (notes, resumed) = abort_earlier(&plain, &target.prefix, options)?;
    let is_fresh = !plain.has_below(&target.prefix)?;
    let run = Run::new(options, tally, watcher, stop);
    let prefix = target.prefix.clone();
    let upload = Upload { run, plain, prefix, is_fresh, notes, unlisted: AtomicBool::new(false) };
    upload.walk(root, source)?;
    let upload = upload.settled();
    upload.run.end()?;
    let end = End { interrupted: upload.run.is_stopped(), resumed, several: false };
    if let Some(notes) = upload.notes {
        notes.remove();
    }
    Ok(end)
}

/// Opens the job's notes, and aborts what they say that a killed run had begun to put. Whether there was any.
pub(super) fn abort_earlier(plain: &Plain, prefix: &str, options: &Options) -> Result<(Option<Notes>, bool), JobError> {
    let Some(path) = options.state.as_ref().filter(|_| !options.dry_run) else { return Ok((None, false)) };
    let (notes, earlier) = Notes::open(path, options.restart)?;
    for key in earlier.iter().filter(|key| key.starts_with(prefix)) {
        let aborted = plain.abort_unfinished(key)?;
        tracing::info!(key, aborted, "an interrupted run had begun to put it there: what was unfinished is aborted");
        notes.forget(key);
    }
    Ok((Some(notes), !earlier.is_empty()))
}

impl Visitor for Upload<'_> {
    type Kept = ();

    fn wants(&self, parent: &Directory<()>, name: &[u8]) -> bool {
        let wants = self.run.options.filter.wants_name(parent, name, true);
        if !wants {
            self.run.told(Kind::Directory, Done::plain(Did::Filtered), || parent.shown(name));
        }
        wants
    }

    fn enter(&self, _: Opened<'_, ()>) -> Option<()> {
        Some(())
    }

    fn entries(&self, walk: &Walker<'_, Self>, directory: &Arc<Directory<()>>, entries: &[Entry]) {
        for entry in entries {
            if self.run.is_stopped() {
                return;
            }
            if !self.run.options.filter.wants_name(directory, &entry.name, false) {
                self.run.told(kind_told(entry.kind), Done::plain(Did::Filtered), || directory.shown(&entry.name));
                continue;
            }
            self.entry(walk, directory, entry);
        }
    }

    fn leave(&self, directory: &Directory<()>) {
        if self.run.is_stopped() || directory.parent().is_none() {
            return;
        }
        match self.mark(directory) {
            Ok(None) => {}
            Ok(Some(done)) => self.run.told(Kind::Directory, done, || directory.shown(b"")),
            Err(trouble) => self.run.failed(Kind::Directory, trouble, || directory.shown(b"")),
        }
    }

    fn trouble(&self, directory: &Directory<()>, name: &[u8], doing: &'static str, error: &io::Error) {
        self.unlisted.store(true, Ordering::Relaxed);
        let error =
            error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error);
        self.run.failed(Kind::Directory, Failure::source(doing)(error).into(), || directory.shown(name));
    }

    fn elsewhere(&self, directory: &Directory<()>, name: &[u8]) {
        self.run.told(Kind::Directory, Done::plain(Did::Elsewhere), || directory.shown(name));
    }
}

impl Upload<'_> {
    fn walk(&self, root: OwnedFd, shown: &Path) -> Result<(), JobError> {
        let again = root.try_clone().map_err(JobError::io("open", shown))?;
        let pace = Pace::new(self.run.threads(), self.run.threads());
        let walked = Walker::new(self, &pace, self.run.stop, self.run.options.cross).run(root);
        walked.map_err(JobError::io("read", shown))?;
        if !self.run.options.delete || self.run.is_stopped() {
            return Ok(());
        }
        if self.unlisted.load(Ordering::Relaxed) {
            let why = "nothing is removed from the bucket, since not all of the source could be listed";
            self.run.told(Kind::Directory, Done::with_note(Did::Failed, why), || "".into());
            return Ok(());
        }
        Ok(self.remove_extraneous(&again)?)
    }

    /// Uploads that were given up are aborted behind everybody's back: that is waited for.
    fn settled(self) -> Self {
        if !self.plain.settle(SETTLE) {
            tracing::warn!("not everything that was given up is aborted: the service may keep unfinished uploads");
        }
        self
    }

    fn entry(&self, walk: &Walker<'_, Self>, directory: &Arc<Directory<()>>, entry: &Entry) {
        let done = match entry.kind {
            FileType::Directory => return walk.also(directory, &entry.name),
            FileType::RegularFile => self.file(directory, &entry.name),
            FileType::Symlink => self.link(directory, &entry.name),
            FileType::Unknown => Err(Failure::source("find")(Errno::NOENT).into()),
            _ => Ok(Done::with_note(Did::Skipped, "skipped: special file; a bucket has no pipes, sockets and devices")),
        };
        let path = || directory.shown(&entry.name);
        match done {
            Ok(done) => self.run.told(kind_told(entry.kind), done, path),
            Err(Trouble::Failed(failure)) if failure.is_other_kind() => {
                // It is something else by now: the next pass finds out what.
                self.run.told(kind_told(entry.kind), Done::plain(Did::Vanished), path);
            }
            Err(trouble) => self.run.failed(kind_told(entry.kind), trouble, path),
        }
    }

    fn key(&self, directory: &Directory<()>, name: &[u8], is_directory: bool) -> Result<String, Trouble> {
        let scheme = self.plain.place().map(|(scheme, _)| scheme);
        key_of(&self.prefix, &directory.path_of(name), is_directory, scheme).map_err(Trouble::Unfit)
    }

    fn file(&self, directory: &Directory<()>, name: &[u8]) -> Result<Done, Trouble> {
        let key = self.key(directory, name, false)?;
        let seen = stamp_at(directory.fd(), as_path(name)).map_err(Failure::source("find"))?;
        if !seen.is_regular {
            return Err(Failure::source("copy")(Errno::LOOP).into());
        }
        if !self.run.options.filter.wants_file(&seen) {
            return Ok(Done::plain(Did::Filtered));
        }
        let mut known = !self.is_fresh;
        for _ in 0..LOOKS {
            let found = if known { self.plain.look(&key)? } else { None };
            let over = match self.judge(found.as_ref(), &seen, seen.size) {
                Verdict::Put(over) => over,
                Verdict::Refuse => return Ok(refused()),
                Verdict::Leave => return Ok(Done::plain(Did::Same)),
                Verdict::Same if !self.differs_besides(directory, name, &seen, found.as_ref())? => {
                    return Ok(Done::plain(Did::Same));
                }
                Verdict::Same => over(found.as_ref()),
            };
            if let Some(done) = self.copied(directory, name, &key, &over)? {
                return Ok(done);
            }
            known = true;
        }
        Ok(Done::with_note(Did::Refused, "somebody else puts something there again and again"))
    }

    /// Whether something else than content is not as it is at the source, where that is to be brought in line.
    fn differs_besides(
        &self,
        directory: &Directory<()>,
        name: &[u8],
        seen: &FileStamp,
        found: Option<&Found>,
    ) -> Result<bool, Trouble> {
        let policy = self.run.options.existing;
        let Some(found) = found.filter(|_| matches!(policy, Existing::Update | Existing::Newer)) else {
            return Ok(false);
        };
        let file = open(directory.fd(), name)?;
        let (xattrs, _) = xattrs(file.as_fd()).map_err(Failure::source("read attributes of"))?;
        Ok(!About::read(&found.texts).fits(&About::of(seen, xattrs)))
    }

    fn judge(&self, found: Option<&Found>, seen: &FileStamp, size: u64) -> Verdict {
        let Some(found) = found else { return Verdict::Put(Over::Nothing) };
        let policy = self.run.options.existing;
        let about = About::read(&found.texts);
        let is_same = found.size == size
            && about.mtime == Some(seen.mtime)
            && about.file_type() == FileType::from_raw_mode(seen.mode);
        match policy {
            Existing::Overwrite => Verdict::Put(over(Some(found))),
            _ if is_same => Verdict::Same,
            Existing::Newer if changed(found).is_some_and(|there| seen.mtime <= there) => Verdict::Leave,
            Existing::Update | Existing::Newer => Verdict::Put(over(Some(found))),
            Existing::Keep => Verdict::Refuse,
        }
    }

    /// `None`: somebody else came in between.
    fn copied(&self, directory: &Directory<()>, name: &[u8], key: &str, over: &Over) -> Result<Option<Done>, Trouble> {
        for attempt in 1.. {
            let last = attempt == TRIES;
            let file = open(directory.fd(), name)?;
            let seen = stamp(&file).map_err(Failure::source("read attributes of"))?;
            if !seen.is_regular {
                return Err(Failure::source("copy")(Errno::LOOP).into());
            }
            let (xattrs, left) = xattrs(file.as_fd()).map_err(Failure::source("read attributes of"))?;
            let texts = About::of(&seen, xattrs).texts();
            if self.run.options.dry_run {
                self.run.tally.moved(seen.size);
                return Ok(Some(Done { bytes: seen.size, ..Done::plain(Did::Copied) }));
            }
            let put = if seen.size <= self.plain.whole_bytes() {
                self.small(&file, &seen, key, texts, over, last)
            } else {
                self.large(&file, &seen, key, texts, over, last)
            };
            let unchanged = match put {
                Err(Trouble::Changed) if last => {
                    return Ok(Some(Done::with_note(Did::Changed, "it became shorter each time that it was copied")));
                }
                Err(Trouble::Changed) => continue,
                Err(trouble) => return Err(trouble),
                Ok(None) => return Ok(None),
                Ok(Some(unchanged)) => unchanged,
            };
            if !unchanged {
                return Ok(Some(Done { bytes: seen.size, ..Done::plain(Did::Changed) }));
            }
            if self.run.options.verify
                && let Some(done) = self.verified(&file, &seen, key)?
            {
                return Ok(Some(done));
            }
            let note = left.map(|name| format!("its attribute {name} does not fit beside an object"));
            if note.is_some() {
                self.run.tally.incomplete();
            }
            return Ok(Some(Done { bytes: seen.size, note, did: Did::Copied }));
        }
        Err(Trouble::Stopped)
    }

    /// In one request. Says whether the file was the same all the while.
    fn small(
        &self,
        file: &File,
        seen: &FileStamp,
        key: &str,
        texts: objects::plain::Texts,
        over: &Over,
        last: bool,
    ) -> Result<Option<bool>, Trouble> {
        if self.run.cancelled() {
            return Err(Trouble::Stopped);
        }
        let _room = self.plain.room(seen.size, &self.run)?;
        let mut content = vec![0; usize::try_from(seen.size).unwrap_or(0)];
        let read = fill(file, &mut content, 0).map_err(Failure::source("read"))?;
        let unchanged = is_unchanged(file, seen)?;
        if read < content.len() || !unchanged && !last {
            return Err(Trouble::Changed);
        }
        let put = self.plain.put(key, Bytes::from(content), texts, over)?;
        self.run.advanced(Extent { offset: 0, length: seen.size });
        Ok((put == Put::Done).then_some(unchanged))
    }

    /// In parts, of which several are under way. Says whether the file was the same all the while.
    fn large(
        &self,
        file: &File,
        seen: &FileStamp,
        key: &str,
        texts: objects::plain::Texts,
        over: &Over,
        last: bool,
    ) -> Result<Option<bool>, Trouble> {
        let _noted = self.notes.as_ref().map(|notes| notes.begin(key));
        let Some(large) = self.plain.begin(key, seen.size, texts, over, &self.run)? else { return Ok(None) };
        let read = |step: &mut [u8], at| Ok(fill(file, step, at).map_err(Failure::source("read"))?);
        self.run.pour(seen.size, read, |step, at| Ok(large.write(step, at)?))?;
        let unchanged = is_unchanged(file, seen)?;
        if !unchanged && !last {
            return Err(Trouble::Changed);
        }
        Ok((large.complete()? == Put::Done).then_some(unchanged))
    }

    /// What is there now, read and compared. `None`: it is equal.
    fn verified(&self, file: &File, seen: &FileStamp, key: &str) -> Result<Option<Done>, Trouble> {
        let failed = |why: String| Ok(Some(Done::with_note(Did::Failed, why)));
        let Some(found) = self.plain.look(key)? else {
            return failed("it is not there, though it was put there without error".to_owned());
        };
        if found.size != seen.size {
            return failed(format!("there are {} bytes of it, though {} were put there", found.size, seen.size));
        }
        if let Some(at) = compare(&self.run, &self.plain, (key, &found), file)? {
            if !is_unchanged(file, seen)? {
                return Ok(Some(Done::with_note(Did::Changed, "it changed before it could be verified")));
            }
            return failed(format!("what is there differs in the {STEP} bytes from byte {at} on"));
        }
        self.run.tally.verified();
        Ok(None)
    }

    /// An object whose content is the link's target, as s3fs has them.
    fn link(&self, directory: &Directory<()>, name: &[u8]) -> Result<Done, Trouble> {
        let key = self.key(directory, name, false)?;
        let seen = stamp_at(directory.fd(), as_path(name)).map_err(Failure::source("find"))?;
        let target = rustix::fs::readlinkat(directory.fd(), as_path(name), Vec::new());
        let target = Bytes::from(target.map_err(Failure::source("read the link"))?.into_bytes());
        let mut known = !self.is_fresh;
        for _ in 0..LOOKS {
            let found = if known { self.plain.look(&key)? } else { None };
            let over = match self.judge(found.as_ref(), &seen, target.len() as u64) {
                Verdict::Put(over) => over,
                Verdict::Refuse => return Ok(refused()),
                Verdict::Same | Verdict::Leave => return Ok(Done::plain(Did::Same)),
            };
            let texts = About::of(&seen, String::new()).texts();
            if self.run.options.dry_run || self.plain.put(&key, target.clone(), texts, &over)? == Put::Done {
                return Ok(Done::plain(Did::Copied));
            }
            known = true;
        }
        Ok(refused())
    }

    /// An empty object that stands for a directory, so that there are empty ones, and modes.
    fn mark(&self, directory: &Directory<()>) -> Result<Option<Done>, Trouble> {
        let key = self.key(directory, b"", true)?;
        let found = if self.is_fresh { None } else { self.plain.look(&key)? };
        let seen = stamp(directory.fd()).map_err(Failure::source("read attributes of"))?;
        let (xattrs, left) = xattrs(directory.fd()).map_err(Failure::source("read attributes of"))?;
        let about = About::of(&seen, xattrs);
        if let Some(found) = &found {
            if found.size > 0 {
                return Ok(Some(Done::with_note(Did::Refused, "an object with content stands for the directory")));
            }
            let there = About::read(&found.texts);
            let is_same = there.mtime == about.mtime && there.fits(&about);
            if is_same || self.run.options.existing == Existing::Keep {
                return Ok(None);
            }
        }
        // Whoever else makes one at the same time means the same directory.
        if !self.run.options.dry_run
            && self.plain.put(&key, Bytes::new(), about.texts(), &Over::Anything)? == Put::Taken
        {
            return Ok(Some(refused()));
        }
        let note = left.map(|name| format!("its attribute {name} does not fit beside an object"));
        if note.is_some() {
            self.run.tally.incomplete();
        }
        let did = if found.is_some() { Did::Updated } else { Did::Copied };
        Ok(Some(Done { note, ..Done::plain(did) }))
    }
}

/// What is to be done about a key.
enum Verdict {
    Same,
    /// What is there was changed later: that is what was asked for.
    Leave,
    Refuse,
    Put(Over),
}

/// What was looked at may be replaced, and nothing else.
pub(super) fn over(found: Option<&Found>) -> Over {
    match found {
        None => Over::Nothing,
        Some(Found { version: Some(version), .. }) => Over::This(version.clone()),
        Some(_) => Over::Anything,
    }
}

fn refused() -> Done {
    let why = "something else is in the bucket already; --update or --overwrite would replace it";
    Done::with_note(Did::Refused, why)
}

fn is_unchanged(file: &File, seen: &FileStamp) -> Result<bool, Trouble> {
    let after = stamp(file).map_err(Failure::source("read attributes of"))?;
    Ok((after.size, after.mtime, after.ctime) == (seen.size, seen.mtime, seen.ctime))
}

/// Without moving its time of access where we may, and without waiting for the other end of what became a pipe.
pub(super) fn open(directory: BorrowedFd<'_>, name: &[u8]) -> Result<File, Failure> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::openat(directory, as_path(name), flags, Mode::empty());
    let opened = match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        other => other,
    };
    Ok(opened.map_err(Failure::source("open"))?.into())
}

pub(super) fn open_root(path: &Path) -> Result<OwnedFd, JobError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(JobError::io("open the directory", path))
}

pub(super) fn kind_told(kind: FileType) -> Kind {
    match kind {
        FileType::RegularFile | FileType::Unknown => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Special,
    }
}
