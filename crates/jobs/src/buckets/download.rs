//! From a bucket into a tree.

use super::about::{About, changed};
use super::compare::compare;
use super::group::{Group, Waiting};
use super::key::path_of;
use super::listing::each;
use super::steps::{Reading, STEP};
use super::surplus::remove_surplus;
use super::target::{OpenDirectories, Target, Unfinished};
use super::{Done, Place, Run, TRIES, Trouble};
use crate::failure::{Failure, JobError};
use crate::migrate::granularity::Granularity;
use crate::migrate::{End, Existing, Options};
use crate::report::{Did, Kind, Tally, Watcher};
use objects::foreign::Listed;
use objects::plain::{Found, Plain};
use rustix::fs::FileType;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use sys::file::{FileStamp, stamp, stamp_at};
use sys::{Mode, OFlags};

/// The kernel takes no longer links.
const MAX_LINK_BYTES: u64 = 4095;
/// Comes by one request: nothing can come between its parts.
const ONE_RANGE_BYTES: u64 = 8 << 20;

/// One run.
pub(super) struct Download<'a> {
    pub(super) run: Run<'a>,
    pub(super) plain: Plain,
    pub(super) prefix: &'a str,
    /// `None` in a dry run, where it would be made.
    target: Option<Target>,
    granularity: Granularity,
    group: Group,
}

/// Copies what is in the bucket below the prefix into the directory `target`, which is made if it is not there. `owners`: files are given to whom the objects say.
///
/// # Errors
/// The job cannot begin, or the bucket is gone. What goes wrong with single objects is told to the watcher, and counted.
pub fn download(
    source: &Place,
    target: &Path,
    (options, owners): (&Options, bool),
    tally: &Tally,
    watcher: &dyn Watcher,
    stop: &AtomicBool,
) -> Result<End, JobError> {
    let plain = Plain::new(source.bucket.clone());
    plain.check()?;
    let opened = Target::open(target, options.cross, owners, options.dry_run)?;
    let granularity = match &opened {
        Some(target) if !options.dry_run => Granularity::of(target.root()).unwrap_or(Granularity::FINEST),
        _ => Granularity::FINEST,
    };
    let run = Run::new(options, tally, watcher, stop);
    let job = Download { run, plain, prefix: &source.prefix, target: opened, granularity, group: Group::new() };
    let threads = job.run.threads();
    let begin = OpenDirectories::default;
    let listed = each(&job.plain, job.prefix, threads, stop, begin, |open, listed| job.object(open, &listed));
    if let Some(target) = &job.target {
        job.group.finish(&job.run, target.root());
    }
    listed?;
    if let Some(target) = job.target.as_ref().filter(|_| options.delete && !job.run.is_stopped())
        && job.run.may_delete(&job.plain, job.prefix)?
    {
        remove_surplus(&job, target)?;
    }
    if let Some(target) = job.target.as_ref().filter(|_| !job.run.is_stopped() && !options.dry_run) {
        // Now that all is in them.
        each(&job.plain, job.prefix, threads, stop, || (), |(), listed| job.finish_directory(target, &listed))?;
    }
    job.run.end()?;
    if let Some(target) = job.target.as_ref().filter(|_| !options.dry_run) {
        sys::file::sync_fs(target.root())
            .map_err(JobError::io("make durable what was written into", &source_path(source)))?;
    }
    Ok(End { interrupted: job.run.is_stopped(), resumed: false, several: false })
}

fn source_path(source: &Place) -> std::path::PathBuf {
    Path::new("the destination of what is in").join(source.bucket.name())
}

/// What is to be done about an object.
enum Verdict {
    Same,
    Refuse(&'static str),
    /// And whether something is there.
    Make(bool),
}

impl Download<'_> {
    fn object(&self, open: &mut OpenDirectories, listed: &Listed) {
        if listed.key == self.prefix {
            // The marker of the root itself.
            return;
        }
        let relative = listed.key.strip_prefix(self.prefix).unwrap_or(&listed.key);
        let shown = || relative.trim_end_matches('/').into();
        let (path, is_directory) = match path_of(&listed.key, self.prefix) {
            Ok(found) => found,
            Err(why) => return self.run.failed(Kind::File, Trouble::Unfit(why), || relative.into()),
        };
        let kind = if is_directory { Kind::Directory } else { Kind::File };
        if path.split('/').any(Unfinished::is_meant) {
            let why = "part of its name is one that is used for unfinished files";
            return self.run.failed(kind, Trouble::Unfit(why), shown);
        }
        if !self.run.options.filter.wants_path(path.as_bytes(), is_directory) {
            return self.run.told(kind, Done::plain(Did::Filtered), shown);
        }
        if is_directory {
            if let Err(trouble) = self.directory(open, path) {
                self.run.failed(kind, trouble, shown);
            }
            return;
        }
        match self.file(open, &listed.key, path) {
            // It is told when it has its name.
            Ok((_, None)) => {}
            Ok((kind, Some(done))) => self.run.told(kind, done, shown),
            Err(trouble) => self.run.failed(kind, trouble, shown),
        }
    }

    /// `None` in a dry run, when it would be made.
    fn directory(&self, open: &mut OpenDirectories, path: &str) -> Result<Option<Arc<OwnedFd>>, Trouble> {
        let Some(target) = &self.target else { return Ok(None) };
        if self.run.options.dry_run {
            let found = target.existing(if path.is_empty() { "." } else { path });
            return Ok(found.map_err(Failure::destination("open the directory"))?.map(Arc::new));
        }
        let told = |path: &str| {
            let found = self.plain.look(&format!("{}{path}/", self.prefix))?;
            self.run.told(Kind::Directory, Done::plain(Did::Copied), || path.into());
            Ok(found.map(|found| About::read(&found.texts)).unwrap_or_default())
        };
        target.directory(open, path, told).map(Some)
    }

    /// What became of it: nothing yet, as long as it waits for its name.
    fn file(&self, open: &mut OpenDirectories, key: &str, path: &str) -> Result<(Kind, Option<Done>), Trouble> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        for _ in 0..TRIES {
            let Some(found) = self.plain.look(key)? else { return Ok((Kind::File, Some(Done::plain(Did::Vanished)))) };
            let about = About::read(&found.texts);
            let is_link = about.file_type() == FileType::Symlink && (1..=MAX_LINK_BYTES).contains(&found.size);
            let kind = if is_link { Kind::Symlink } else { Kind::File };
            if !is_link && !self.run.options.filter.wants_file(&as_stamp(&found, &about)) {
                return Ok((kind, Some(Done::plain(Did::Filtered))));
            }
            let directory = self.directory(open, parent)?;
            let existing = match &directory {
                None => None,
                Some(directory) => match stamp_at(directory, name) {
                    Ok(existing) => Some(existing),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(error) => return Err(Failure::destination("find")(error).into()),
                },
            };
            let replace = match self.judge(&found, existing.as_ref(), is_link) {
                Verdict::Refuse(why) => return Ok((kind, Some(Done::with_note(Did::Refused, why)))),
                Verdict::Same => {
                    return self
                        .same(directory.as_ref(), name, existing.as_ref(), &about)
                        .map(|done| (kind, Some(done)));
                }
                Verdict::Make(replace) => replace,
            };
            let (Some(directory), false) = (directory, self.run.options.dry_run) else {
                self.run.tally.moved(found.size);
                return Ok((kind, Some(Done { bytes: found.size, ..Done::plain(Did::Copied) })));
            };
            let made = if is_link {
                self.link((&directory, name), (key, &found), &about, replace).map(Some)
            } else {
                self.content((&directory, path), (key, &found), &about, replace)
            };
            match made {
                Err(Trouble::Changed) => {}
                made => return made.map(|done| (kind, done)),
            }
        }
        let why = "it was replaced each time that it was read; nothing of it is here";
        Ok((Kind::File, Some(Done::with_note(Did::Changed, why))))
    }

    fn judge(&self, found: &Found, existing: Option<&FileStamp>, is_link: bool) -> Verdict {
        let Some(existing) = existing else { return Verdict::Make(false) };
        let there = FileType::from_raw_mode(existing.mode);
        if there == FileType::Directory {
            return Verdict::Refuse("a directory has its place at the destination");
        }
        let wanted = if is_link { FileType::Symlink } else { FileType::RegularFile };
        let mtime = changed(found);
        let is_same = there == wanted
            && existing.size == found.size
            && mtime.is_some_and(|mtime| self.granularity.same(mtime, existing.mtime));
        match self.run.options.existing {
            Existing::Overwrite => Verdict::Make(true),
            _ if is_same => Verdict::Same,
            Existing::Newer if mtime.is_some_and(|mtime| mtime <= existing.mtime) => Verdict::Same,
            Existing::Update | Existing::Newer => Verdict::Make(true),
            Existing::Keep => Verdict::Refuse(
                "something else is at the destination already; --update or --overwrite would replace it",
            ),
        }
    }

    /// Nothing to copy. Where files may be changed, owner and mode are brought in line.
    fn same(
        &self,
        directory: Option<&Arc<OwnedFd>>,
        name: &str,
        existing: Option<&FileStamp>,
        about: &About,
    ) -> Result<Done, Trouble> {
        let changes = self.run.options.existing == Existing::Update && !self.run.options.dry_run;
        let (Some(target), Some(directory), Some(existing)) = (&self.target, directory, existing) else {
            return Ok(Done::plain(Did::Same));
        };
        if !changes || !existing.is_regular || target.fits(existing, about) {
            return Ok(Done::plain(Did::Same));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(Failure::destination("open"))?;
        let unset = target.dress(&file, about, existing.mode & 0o777, None);
        Ok(self.noted(Did::Updated, 0, unset.map_err(Failure::destination("set the attributes of"))?))
    }

    fn noted(&self, did: Did, bytes: u64, note: Option<String>) -> Done {
        if note.is_some() {
            self.run.tally.incomplete();
        }
        Done { did, bytes, note }
    }

    /// [`Trouble::Changed`] when the object was replaced meanwhile.
    fn content(
        &self,
        (directory, path): (&Arc<OwnedFd>, &str),
        (key, found): (&str, &Found),
        about: &About,
        replace: bool,
    ) -> Result<Option<Done>, Trouble> {
        let Some(target) = &self.target else { return Err(Trouble::Stopped) };
        let name = path.rsplit('/').next().unwrap_or(path);
        let (unfinished, file) = Unfinished::file(directory, name).map_err(Failure::destination("make"))?;
        self.fill(&file, key, found)?;
        // The conditions that requests have are not heeded by each service.
        if found.size > ONE_RANGE_BYTES && self.plain.look(key)?.is_none_or(|now| now.version != found.version) {
            return Err(Trouble::Changed);
        }
        let is_small = found.size <= ONE_RANGE_BYTES && !self.run.options.verify;
        let waits = is_small && target.syncs_together(&file).map_err(Failure::destination("find"))?;
        if !waits {
            // Before it has its name, by which the next run takes it for whole: no database says what a power failure may have taken.
            sys::file::sync_data(&file).map_err(Failure::destination("make durable"))?;
        }
        if self.run.options.verify {
            if let Some(at) = compare(&self.run, &self.plain, (key, found), &file)? {
                let why = format!("what was written differs in the {STEP} bytes from byte {at} on: check the device");
                return Ok(Some(Done::with_note(Did::Failed, why)));
            }
            self.run.tally.verified();
        }
        let file = OwnedFd::from(file);
        let unset = target.dress(&file, about, 0o666, changed(found));
        let done = self.noted(Did::Copied, found.size, unset.map_err(Failure::destination("set the attributes of"))?);
        if waits {
            let waiting = Waiting { unfinished, name: name.to_owned(), replace, path: path.into(), done };
            self.group.add(&self.run, target.root(), waiting);
            return Ok(None);
        }
        unfinished.publish(name, replace)?;
        Ok(Some(done))
    }

    /// Zeros become holes.
    fn fill(&self, file: &File, key: &str, found: &Found) -> Result<(), Trouble> {
        let content = Reading::begin(&self.run, &self.plain, key, found)?;
        let write = |step: &[u8], at| {
            if step.iter().any(|byte| *byte != 0) {
                file.write_all_at(step, at).map_err(Failure::destination("write"))?;
            }
            Ok(())
        };
        self.run.pour(found.size, |step, at| content.read(step, at), write)?;
        Ok(file.set_len(found.size).map_err(Failure::destination("set the size of"))?)
    }

    fn link(
        &self,
        (directory, name): (&Arc<OwnedFd>, &str),
        (key, found): (&str, &Found),
        about: &About,
        replace: bool,
    ) -> Result<Done, Trouble> {
        let Some(target) = &self.target else { return Err(Trouble::Stopped) };
        let content = Reading::begin(&self.run, &self.plain, key, found)?;
        let mut to = vec![0; usize::try_from(found.size).unwrap_or(0)];
        if content.read(&mut to, 0)? < to.len() {
            return Err(Trouble::Changed);
        }
        let to = Path::new(std::ffi::OsStr::from_bytes(&to));
        let made = target.link(directory, name, to, about, changed(found));
        let made = made.map_err(Failure::destination("make the link"))?;
        made.publish(name, replace)?;
        Ok(Done::plain(Did::Copied))
    }

    /// A directory gets its mode and time when nothing more comes into it.
    fn finish_directory(&self, target: &Target, listed: &Listed) {
        let Ok((path, true)) = path_of(&listed.key, self.prefix) else { return };
        if path.is_empty() || !self.run.options.filter.wants_path(path.as_bytes(), true) {
            return;
        }
        let finished = || {
            let Some(found) = self.plain.look(&listed.key)? else { return Ok(()) };
            // It was told before when it could not be made.
            let Ok(Some(directory)) = target.existing(path) else { return Ok(()) };
            let about = About::read(&found.texts);
            let usual = stamp(directory.as_fd()).map_err(Failure::destination("find"))?.mode & 0o777;
            let unset = target.dress(&directory, &about, usual, about.mtime);
            if unset.map_err(Failure::destination("set the attributes of"))?.is_some() {
                self.run.tally.incomplete();
            }
            Ok::<(), Trouble>(())
        };
        if let Err(trouble) = finished() {
            self.run.failed(Kind::Directory, trouble, || path.into());
        }
    }
}

/// What filters look at.
pub(super) fn as_stamp(found: &Found, about: &About) -> FileStamp {
    FileStamp {
        size: found.size,
        mtime: changed(found).unwrap_or_default(),
        ctime: (0, 0),
        atime: (0, 0),
        ino: 0,
        dev: 0,
        nlink: 1,
        mode: about.mode.unwrap_or_default(),
        uid: about.uid.unwrap_or(u32::MAX),
        gid: about.gid.unwrap_or(u32::MAX),
        blocks: 0,
        is_regular: true,
    }
}
