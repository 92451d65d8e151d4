//! From one bucket into another, or into another part of the same one: by way of this host, since services copy among themselves only what both sides' credentials and
//! encryption allow.

use super::about::changed;
use super::compare::compare_objects;
use super::listing::each;
use super::notes::Notes;
use super::steps::{Reading, STEP};
use super::upload::{SETTLE, abort_earlier, over};
use super::{Done, Place, Run, TRIES, Trouble};
use crate::failure::JobError;
use crate::migrate::{End, Existing, Options};
use crate::report::{Did, Kind, Tally, Watcher};
use bytes::Bytes;
use model::Extent;
use objects::foreign::Listed;
use objects::plain::{Found, Over, Plain, Put, Texts};
use std::sync::atomic::AtomicBool;
use sys::file::FileStamp;
use transfer::Monitor as _;

/// One run.
struct Copying<'a> {
    run: Run<'a>,
    from: Plain,
    to: Plain,
    source: &'a str,
    target: &'a str,
    notes: Option<Notes>,
}

/// Copies what is in a bucket below a prefix into another one, or below another prefix.
///
/// # Errors
/// The job cannot begin, or a bucket is gone. What goes wrong with single objects is told to the watcher, and counted.
pub fn copy(
    source: &Place,
    target: &Place,
    options: &Options,
    tally: &Tally,
    watcher: &dyn Watcher,
    stop: &AtomicBool,
) -> Result<End, JobError> {
    let (from, to) = (Plain::new(source.bucket.clone()), Plain::new(target.bucket.clone()));
    let nested = source.prefix.starts_with(&target.prefix) || target.prefix.starts_with(&source.prefix);
    // Of one name at two endpoints they are two: who means that gives other prefixes.
    if from.place() == to.place() && nested {
        let why = "one lies in the other: what is below a prefix cannot be copied into or out of itself";
        return Err(JobError::Senseless(why.to_owned()));
    }
    from.check()?;
    to.check()?;
    let (notes, resumed) = abort_earlier(&to, &target.prefix, options)?;
    let run = Run::new(options, tally, watcher, stop);
    let job = Copying { run, from, to, source: &source.prefix, target: &target.prefix, notes };
    let threads = job.run.threads();
    each(&job.from, job.source, threads, stop, || (), |(), listed| job.object(&listed))?;
    if options.delete && !job.run.is_stopped() && job.run.may_delete(&job.from, job.source)? {
        each(&job.to, job.target, threads, stop, || (), |(), listed| job.extraneous(&listed))?;
    }
    if !job.to.settle(SETTLE) {
        tracing::warn!("not everything that was given up is aborted: the service may keep unfinished uploads");
    }
    job.run.end()?;
    let end = End { interrupted: job.run.is_stopped(), resumed, several: false };
    if let Some(notes) = job.notes {
        notes.remove();
    }
    Ok(end)
}

impl Copying<'_> {
    fn object(&self, listed: &Listed) {
        let Some(relative) = listed.key.strip_prefix(self.source) else {
            let why = Trouble::Unfit("its key does not begin as the listing was asked for");
            return self.run.failed(Kind::File, why, || listed.key.as_str().into());
        };
        if relative.is_empty() {
            // The marker of the root itself.
            return;
        }
        let kind = kind_of(relative);
        let path = relative.trim_end_matches('/');
        if !self.run.options.filter.wants_path(path.as_bytes(), kind == Kind::Directory) {
            return self.run.told(kind, Done::plain(Did::Filtered), || path.into());
        }
        match self.copied(&listed.key, &format!("{}{relative}", self.target), kind) {
            Ok(done) => self.run.told(kind, done, || path.into()),
            Err(trouble) => self.run.failed(kind, trouble, || path.into()),
        }
    }

    fn copied(&self, key: &str, to: &str, kind: Kind) -> Result<Done, Trouble> {
        for _ in 0..TRIES {
            let Some(found) = self.from.look(key)? else { return Ok(Done::plain(Did::Vanished)) };
            if kind == Kind::File && !self.run.options.filter.wants_file(&as_stamp(&found)) {
                return Ok(Done::plain(Did::Filtered));
            }
            let there = self.to.look(to)?;
            let over = match self.judge(&found, there.as_ref()) {
                Ok(over) => over,
                Err(done) => return Ok(done),
            };
            if self.run.options.dry_run {
                self.run.tally.moved(found.size);
                return Ok(Done { bytes: found.size, ..Done::plain(Did::Copied) });
            }
            let put = if found.size <= self.to.whole_bytes() {
                self.small((key, &found), to, &over)
            } else {
                self.large((key, &found), to, &over)
            };
            match put {
                // Somebody else was there, or the object was replaced: all is looked at anew.
                Ok(Put::Taken) | Err(Trouble::Changed) => continue,
                Err(trouble) => return Err(trouble),
                Ok(Put::Done) => {}
            }
            if self.run.options.verify
                && let Some(done) = self.verified((key, &found), to)?
            {
                return Ok(done);
            }
            return Ok(Done { bytes: found.size, ..Done::plain(Did::Copied) });
        }
        Ok(Done::with_note(Did::Changed, "one of both was replaced each time that it was copied"))
    }

    /// What may be replaced, or what is told instead.
    fn judge(&self, found: &Found, there: Option<&Found>) -> Result<Over, Done> {
        let Some(there) = there else { return Ok(Over::Nothing) };
        let is_same = there.size == found.size && there.texts == texts(found);
        match self.run.options.existing {
            Existing::Overwrite => Ok(over(Some(there))),
            _ if is_same => Err(Done::plain(Did::Same)),
            Existing::Newer if changed(found) <= changed(there) => Err(Done::plain(Did::Same)),
            Existing::Update | Existing::Newer => Ok(over(Some(there))),
            Existing::Keep => {
                let why = "something else is there already; --update or --overwrite would replace it";
                Err(Done::with_note(Did::Refused, why))
            }
        }
    }

    fn small(&self, (key, found): (&str, &Found), to: &str, over: &Over) -> Result<Put, Trouble> {
        if self.run.cancelled() {
            return Err(Trouble::Stopped);
        }
        // Memory of the source before that of the destination, as everywhere: nobody waits for another one in a circle.
        let from = Reading::begin(&self.run, &self.from, key, found)?;
        let _room = self.to.room(found.size, &self.run)?;
        let mut content = vec![0; usize::try_from(found.size).unwrap_or(0)];
        if from.read(&mut content, 0)? < content.len() {
            return Err(Trouble::Changed);
        }
        let put = self.to.put(to, Bytes::from(content), texts(found), over)?;
        self.run.advanced(Extent { offset: 0, length: found.size });
        Ok(put)
    }

    fn large(&self, (key, found): (&str, &Found), to: &str, over: &Over) -> Result<Put, Trouble> {
        let _noted = self.notes.as_ref().map(|notes| notes.begin(to));
        let content = Reading::begin(&self.run, &self.from, key, found)?;
        let Some(large) = self.to.begin(to, found.size, texts(found), over, &self.run)? else { return Ok(Put::Taken) };
        self.run.pour(found.size, |step, at| content.read(step, at), |step, at| Ok(large.write(step, at)?))?;
        // The conditions that requests have are not heeded by each service.
        if self.from.look(key)?.is_none_or(|now| now.version != found.version) {
            return Err(Trouble::Changed);
        }
        Ok(large.complete()?)
    }

    /// `None`: they are equal.
    fn verified(&self, (key, found): (&str, &Found), to: &str) -> Result<Option<Done>, Trouble> {
        let failed = |why: String| Ok(Some(Done::with_note(Did::Failed, why)));
        let Some(there) = self.to.look(to)? else {
            return failed("it is not there, though it was put there without error".to_owned());
        };
        if there.size != found.size {
            return failed(format!("there are {} bytes of it, though {} were put there", there.size, found.size));
        }
        if let Some(at) = compare_objects(&self.run, (&self.from, key, found), (&self.to, to, &there))? {
            return failed(format!("what is there differs in the {STEP} bytes from byte {at} on"));
        }
        self.run.tally.verified();
        Ok(None)
    }

    /// What no filter lets through is not the job's: it stays.
    fn extraneous(&self, listed: &Listed) {
        let Some(relative) = listed.key.strip_prefix(self.target).filter(|relative| !relative.is_empty()) else {
            return;
        };
        let kind = kind_of(relative);
        let path = relative.trim_end_matches('/');
        if !self.run.options.filter.wants_path(path.as_bytes(), kind == Kind::Directory) {
            return;
        }
        let removed = || {
            if self.from.look(&format!("{}{relative}", self.source))?.is_some() {
                return Ok(false);
            }
            if !self.run.options.dry_run {
                self.to.remove(std::slice::from_ref(&listed.key))?;
            }
            Ok::<bool, Trouble>(true)
        };
        match removed() {
            Ok(true) => self.run.told(kind, Done::plain(Did::Deleted), || path.into()),
            Ok(false) => {}
            Err(trouble) => self.run.failed(kind, trouble, || path.into()),
        }
    }
}

fn kind_of(relative: &str) -> Kind {
    if relative.ends_with('/') { Kind::Directory } else { Kind::File }
}

/// Those of the source; where none says when the file was changed, when it was stored is said.
fn texts(found: &Found) -> Texts {
    let mut texts = found.texts.clone();
    if let Some((seconds, nanos)) =
        found.modified.filter(|_| !texts.contains_key("mtime") && !texts.contains_key("modtime"))
    {
        texts.insert("mtime".to_owned(), format!("{seconds}.{nanos:09}"));
    }
    texts
}

/// What filters look at.
fn as_stamp(found: &Found) -> FileStamp {
    super::download::as_stamp(found, &super::about::About::read(&found.texts))
}
