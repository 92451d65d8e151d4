//! A tree and a bucket compared, or two buckets: by what is known of each file, or by content as well.
//!
//! For: `sifaka verify` where one side is an object store's URL. Nothing is changed on either side. What an object does not say of itself (by its
//! texts: time, mode, owner, attributes) is not compared. Each side is gone through once, and the other one asked about each thing that is in it: memory
//! does not grow with their number.

use super::about::{About, xattrs_at};
use super::compare::{compare, compare_objects};
use super::extraneous::tree_has;
use super::key::path_of;
use super::listing::each;
use super::steps::Reading;
use super::{Place, Run, TRIES, Trouble};
use crate::failure::{Failure, JobError};
use crate::migrate;
use crate::report::{self, Kind, Unwatched};
use crate::verify::times;
use crate::verify::{Aspect, Difference, Finding, Found, Ignore, Options, Tally, Watcher};
use crate::walk::{self, Directory, Entry, Pace, Visitor, Walker, as_path};
use objects::foreign::Listed;
use objects::plain::{self, Plain};
use rustix::fs::FileType;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use sys::file::{FileStamp, Moment, stamp_at};
use transfer::TransferError;

/// Permissions, with set-user-id, set-group-id and sticky.
const PERMISSIONS: u32 = 0o7777;
/// The kernel takes no longer links.
const MAX_LINK_BYTES: u64 = 4095;

/// What both kinds of comparisons have.
struct Audit<'a> {
    run: Run<'a>,
    options: &'a Options,
    tally: &'a Tally,
    watcher: &'a dyn Watcher,
}

/// A tree and a bucket.
struct Mixed<'a> {
    audit: Audit<'a>,
    plain: Plain,
    prefix: &'a str,
    /// The tree is the first of both.
    tree_first: bool,
}

/// Two buckets: the first one, and the second.
struct Buckets<'a> {
    audit: Audit<'a>,
    plains: [Plain; 2],
    prefixes: [&'a str; 2],
}

/// Compares a directory with what is in a bucket below a prefix; `tree_first`: what is only in the directory is missing, and else extra. Gives whether it
/// came to the end; it does not when it is asked to stop.
///
/// # Errors
/// The directory cannot be opened, or the bucket is not there. What goes wrong with single things is told, and counted.
pub fn verify_tree(
    (tree, bucket, tree_first): (&Path, &Place, bool),
    options: &Options,
    tally: &Tally,
    watcher: &dyn Watcher,
    stop: &AtomicBool,
) -> Result<bool, JobError> {
    let root = super::upload::open_root(tree)?;
    if options.content {
        // What is still to be written stays in the page cache, and would be read from there.
        sys::file::sync_fs(&root).map_err(JobError::io("make durable what was written into", tree))?;
    }
    let plain = Plain::new(bucket.bucket.clone());
    plain.check()?;
    let (asked, counted) = (as_migration(options), report::Tally::default());
    let audit = Audit { run: Run::new(&asked, &counted, &Unwatched, stop), options, tally, watcher };
    let mixed = Mixed { audit, plain, prefix: &bucket.prefix, tree_first };
    let again = root.try_clone().map_err(JobError::io("open", tree))?;
    let threads = mixed.audit.run.threads();
    let pace = Pace::new(threads, threads);
    Walker::new(&mixed, &pace, stop, options.cross).run(root).map_err(JobError::io("read", tree))?;
    each(&mixed.plain, mixed.prefix, threads, stop, || (), |(), listed| mixed.only_listed(&again, &listed))?;
    mixed.audit.run.end()?;
    Ok(!stop.load(Ordering::Relaxed))
}

/// As [`verify_tree`], of two buckets.
///
/// # Errors
/// One of them is not there.
pub fn verify_buckets(
    (a, b): (&Place, &Place),
    options: &Options,
    tally: &Tally,
    watcher: &dyn Watcher,
    stop: &AtomicBool,
) -> Result<bool, JobError> {
    let plains = [a, b].map(|place| Plain::new(place.bucket.clone()));
    plains.iter().try_for_each(Plain::check)?;
    let (asked, counted) = (as_migration(options), report::Tally::default());
    let audit = Audit { run: Run::new(&asked, &counted, &Unwatched, stop), options, tally, watcher };
    let buckets = Buckets { audit, plains, prefixes: [&a.prefix, &b.prefix] };
    let threads = buckets.audit.run.threads();
    let [first, second] = &buckets.plains;
    each(first, &a.prefix, threads, stop, || (), |(), listed| buckets.listed(&listed, true))?;
    each(second, &b.prefix, threads, stop, || (), |(), listed| buckets.listed(&listed, false))?;
    buckets.audit.run.end()?;
    Ok(!stop.load(Ordering::Relaxed))
}

fn as_migration(options: &Options) -> migrate::Options {
    let Options { filter, limit, threads, cross, .. } = options;
    migrate::Options { filter: filter.clone(), limit: *limit, threads: *threads, cross: *cross, ..Default::default() }
}

impl Audit<'_> {
    fn told(&self, kind: Kind, found: Found, path: impl FnOnce() -> PathBuf) {
        self.tally.count(&found);
        if found.is_problem() || self.watcher.wants_all() {
            self.watcher.tell(&Finding { path: path(), kind, found });
        }
    }

    /// Also ends the whole run when the bucket itself is gone.
    fn failed(&self, kind: Kind, trouble: Trouble, path: impl FnOnce() -> PathBuf) {
        let found = match trouble {
            Trouble::Stopped => return,
            Trouble::Service(error @ TransferError::Unavailable { .. }) => return self.run.ends(error.into()),
            Trouble::Failed(failure) if failure.is_vanished() => Found::Vanished,
            Trouble::Failed(failure) => {
                Found::Failed(format!("cannot {} it in the tree: {}", failure.doing, failure.error))
            }
            trouble => Found::Failed(trouble.to_string()),
        };
        self.told(kind, found, path);
    }

    fn read(&self, bytes: u64) {
        self.tally.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Visitor for Mixed<'_> {
    type Kept = ();

    fn wants(&self, parent: &Directory<()>, name: &[u8]) -> bool {
        let wants = self.audit.options.filter.wants_name(parent, name, true);
        if !wants {
            self.audit.told(Kind::Directory, Found::Filtered, || parent.shown(name));
        }
        wants
    }

    fn enter(&self, found: walk::Found<'_, ()>) -> Option<()> {
        let Some(parent) = found.parent else { return Some(()) };
        let compared = self.directory(&parent.path_of(found.name), found.fd, found.stamp);
        let shown = || parent.shown(found.name);
        match compared {
            Ok(compared) => {
                let enters = !matches!(compared, Found::Missing | Found::Extra);
                self.audit.told(Kind::Directory, compared, shown);
                enters.then_some(())
            }
            Err(trouble) => {
                self.audit.failed(Kind::Directory, trouble, shown);
                None
            }
        }
    }

    fn entries(&self, _: &Walker<'_, Self>, directory: &Arc<Directory<()>>, entries: &[Entry]) {
        for entry in entries {
            if self.audit.run.is_stopped() {
                return;
            }
            let (kind, shown) = (super::upload::kind_told(entry.kind), || directory.shown(&entry.name));
            let found = match entry.kind {
                _ if !self.audit.options.filter.wants_name(directory, &entry.name, false) => Ok(Found::Filtered),
                FileType::RegularFile | FileType::Symlink => self.file(directory, &entry.name),
                FileType::Unknown => Ok(Found::Vanished),
                _ => Ok(Found::Skipped),
            };
            match found {
                Ok(found) => self.audit.told(kind, found, shown),
                Err(trouble) => self.audit.failed(kind, trouble, shown),
            }
        }
    }

    fn leave(&self, _: &Directory<()>) {}

    fn trouble(&self, directory: &Directory<()>, name: &[u8], doing: &'static str, error: &io::Error) {
        let error =
            error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error);
        self.audit.failed(Kind::Directory, Failure::source(doing)(error).into(), || directory.shown(name));
    }

    fn elsewhere(&self, directory: &Directory<()>, name: &[u8]) {
        self.audit.told(Kind::Directory, Found::Elsewhere, || directory.shown(name));
    }
}

impl Mixed<'_> {
    fn only_in_tree(&self) -> Found {
        if self.tree_first { Found::Missing } else { Found::Extra }
    }

    fn only_in_bucket(&self) -> Found {
        if self.tree_first { Found::Extra } else { Found::Missing }
    }

    /// `None`: no object is called so.
    fn key(&self, path: &[u8]) -> Option<String> {
        let path = str::from_utf8(path).ok()?;
        Some(format!("{}{path}", self.prefix)).filter(|key| objects::foreign::can_be_asked_for(key))
    }

    fn in_order(&self, tree: (&About, u64), bucket: (&About, u64), is_directory: bool) -> Vec<Difference> {
        let ignore = &self.audit.options.ignore;
        if self.tree_first {
            differences(ignore, tree, bucket, is_directory)
        } else {
            differences(ignore, bucket, tree, is_directory)
        }
    }

    /// A directory is in the bucket if an object stands for it, or anything is below it.
    fn directory(&self, path: &[u8], fd: BorrowedFd<'_>, seen: &FileStamp) -> Result<Found, Trouble> {
        let Some(key) = self.key(path).map(|key| key + "/") else { return Ok(self.only_in_tree()) };
        let Some(found) = self.plain.look(&key)? else {
            let is_there = self.plain.has_below(&key)?;
            return Ok(if is_there { Found::Same } else { self.only_in_tree() });
        };
        let (attributes, _) = super::about::xattrs(fd).map_err(Failure::source("read attributes of"))?;
        let here = About::of(seen, attributes);
        let differences = self.in_order((&here, 0), (&About::read(&found.texts), found.size), true);
        Ok(if differences.is_empty() { Found::Same } else { Found::Differs(differences) })
    }

    fn file(&self, directory: &Directory<()>, name: &[u8]) -> Result<Found, Trouble> {
        let Some(key) = self.key(&directory.path_of(name)) else { return Ok(self.only_in_tree()) };
        for _ in 0..TRIES {
            let look = || stamp_at(directory.fd(), as_path(name)).map_err(Failure::source("look at"));
            let seen = look()?;
            if seen.is_regular && !self.audit.options.filter.wants_file(&seen) {
                return Ok(Found::Filtered);
            }
            let Some(found) = self.plain.look(&key)? else { return Ok(self.only_in_tree()) };
            let differences = match self.compared(directory, name, &seen, (&key, &found)) {
                Err(Trouble::Changed) => continue,
                differences => differences?,
            };
            if differences.is_empty() {
                return Ok(Found::Same);
            }
            let state = |stamp: &FileStamp| (stamp.ino, stamp.mode, stamp.size, stamp.mtime, stamp.ctime);
            let is_settled = state(&look()?) == state(&seen) && self.plain.look(&key)?.is_some_and(|now| now == found);
            if is_settled {
                return Ok(Found::Differs(differences));
            }
        }
        Ok(Found::Changed)
    }

    fn compared(
        &self,
        directory: &Directory<()>,
        name: &[u8],
        seen: &FileStamp,
        (key, found): (&str, &plain::Found),
    ) -> Result<Vec<Difference>, Trouble> {
        let (here, there) = (self.about(directory, name, seen)?, About::read(&found.texts));
        let mut differences = self.in_order((&here, seen.size), (&there, found.size), false);
        let alike = here.file_type() == there.file_type() && seen.size == found.size;
        if alike && !seen.is_regular && found.size <= MAX_LINK_BYTES {
            let target = rustix::fs::readlinkat(directory.fd(), as_path(name), Vec::new());
            let target = target.map_err(Failure::source("read"))?.into_bytes();
            let mut told = vec![0; usize::try_from(found.size).unwrap_or(0)];
            let read = Reading::begin(&self.audit.run, &self.plain, key, found)?.read(&mut told, 0)?;
            if told.get(..read) != Some(target.as_slice()) {
                let texts = [&target, &told].map(|text| String::from_utf8_lossy(text).into_owned());
                let [tree, bucket] = texts;
                let (a, b) = if self.tree_first { (tree, bucket) } else { (bucket, tree) };
                differences.push(Difference::new(Aspect::Target, a, b));
            }
        }
        if alike && seen.is_regular && self.audit.options.content && found.size > 0 {
            let file = super::upload::open(directory.fd(), name)?;
            differences.extend(compare(&self.audit.run, &self.plain, (key, found), &file)?.map(content_from));
            self.audit.read(found.size);
        }
        Ok(differences)
    }

    fn about(&self, directory: &Directory<()>, name: &[u8], seen: &FileStamp) -> Result<About, Failure> {
        if !seen.is_regular || self.audit.options.ignore.attributes {
            return Ok(About::of(seen, String::new()));
        }
        let attributes = xattrs_at(directory.fd(), as_path(name));
        Ok(About::of(seen, attributes.map_err(Failure::source("read attributes of"))?.0))
    }

    /// Tells of what only the bucket has. What the tree has was compared.
    fn only_listed(&self, root: &OwnedFd, listed: &Listed) {
        let relative = listed.key.strip_prefix(self.prefix).unwrap_or(&listed.key);
        if relative.is_empty() {
            // The marker of the root itself.
            return;
        }
        let shown = || relative.trim_end_matches('/').into();
        let kind = if relative.ends_with('/') { Kind::Directory } else { Kind::File };
        let (path, is_directory) = match path_of(&listed.key, self.prefix) {
            Ok(found) => found,
            // No file's.
            Err(_) => return self.audit.told(kind, self.only_in_bucket(), || relative.into()),
        };
        let filter = &self.audit.options.filter;
        if !filter.wants_path(path.as_bytes(), is_directory) {
            return;
        }
        let only = || {
            let has = tree_has(root, path, is_directory, self.audit.options.cross);
            if has.map_err(Failure::source("look for"))? {
                return Ok(false);
            }
            if is_directory || !filter.asks_of_files() {
                return Ok(true);
            }
            let found = self.plain.look(&listed.key)?;
            let wanted = |found: &plain::Found| filter.wants_file(&as_stamp(found));
            Ok::<bool, Trouble>(found.as_ref().is_some_and(wanted))
        };
        match only() {
            Ok(true) => self.audit.told(kind, self.only_in_bucket(), shown),
            Ok(false) => {}
            Err(trouble) => self.audit.failed(kind, trouble, shown),
        }
    }
}

impl Buckets<'_> {
    /// What one of both has: is compared if that is the first, and else told if the other one has no such.
    fn listed(&self, listed: &Listed, is_first: bool) {
        let own = usize::from(!is_first);
        let prefix = self.prefixes.get(own).copied().unwrap_or_default();
        let Some(relative) = listed.key.strip_prefix(prefix).filter(|relative| !relative.is_empty()) else { return };
        let path = relative.trim_end_matches('/');
        let kind = if relative.ends_with('/') { Kind::Directory } else { Kind::File };
        if !self.audit.options.filter.wants_path(path.as_bytes(), kind == Kind::Directory) {
            if is_first {
                self.audit.told(kind, Found::Filtered, || path.into());
            }
            return;
        }
        match self.compared(relative, kind, is_first) {
            Ok(Some(found)) => self.audit.told(kind, found, || path.into()),
            Ok(None) => {}
            Err(trouble) => self.audit.failed(kind, trouble, || path.into()),
        }
    }

    /// `None`: it was told already.
    fn compared(&self, relative: &str, kind: Kind, is_first: bool) -> Result<Option<Found>, Trouble> {
        let [from, to] = &self.plains;
        let [key, other] = self.prefixes.map(|prefix| format!("{prefix}{relative}"));
        let wants =
            |found: &plain::Found| kind == Kind::Directory || self.audit.options.filter.wants_file(&as_stamp(found));
        for _ in 0..TRIES {
            let found = from.look(&key)?;
            if !is_first {
                let there = if found.is_none() { to.look(&other)? } else { None };
                return Ok(there.filter(wants).map(|_| Found::Extra));
            }
            let Some(found) = found else { return Ok(Some(Found::Vanished)) };
            if !wants(&found) {
                return Ok(Some(Found::Filtered));
            }
            let Some(there) = to.look(&other)? else { return Ok(Some(Found::Missing)) };
            let (a, b) = (About::read(&found.texts), About::read(&there.texts));
            let ignore = &self.audit.options.ignore;
            let mut told = differences(ignore, (&a, found.size), (&b, there.size), kind == Kind::Directory);
            if self.audit.options.content && found.size == there.size && found.size > 0 {
                match compare_objects(&self.audit.run, (from, &key, &found), (to, &other, &there)) {
                    Err(Trouble::Changed) => continue,
                    at => told.extend(at?.map(content_from)),
                }
                self.audit.read(found.size);
            }
            if told.is_empty() {
                return Ok(Some(Found::Same));
            }
            if from.look(&key)?.is_some_and(|now| now == found) && to.look(&other)?.is_some_and(|now| now == there) {
                return Ok(Some(Found::Differs(told)));
            }
        }
        Ok(Some(Found::Changed))
    }
}

fn content_from(at: u64) -> Difference {
    Difference { what: Aspect::Content, of: Some(format!("from byte {at} on")), a: None, b: None }
}

fn as_stamp(found: &plain::Found) -> FileStamp {
    super::download::as_stamp(found, &About::read(&found.texts))
}

/// In what both say of themselves, and size.
fn differences(
    ignore: &Ignore,
    (a, a_bytes): (&About, u64),
    (b, b_bytes): (&About, u64),
    is_directory: bool,
) -> Vec<Difference> {
    let word = |about: &About| if about.file_type() == FileType::Symlink { "symbolic link" } else { "file" };
    if !is_directory && a.file_type() != b.file_type() {
        return vec![Difference::new(Aspect::Kind, word(a), word(b))];
    }
    let mut found = Vec::new();
    if a_bytes != b_bytes {
        found.push(Difference::new(Aspect::Size, a_bytes, b_bytes));
    }
    if let (false, Some(one), Some(other)) = (ignore.times, a.mtime, b.mtime)
        && !times::same(one, other, false)
    {
        found.push(Difference::new(Aspect::Mtime, seconds(one), seconds(other)));
    }
    let permissions = |mode: u32| mode & PERMISSIONS;
    let is_link = a.file_type() == FileType::Symlink;
    // Nobody can set a link's.
    if let (false, Some(one), Some(other)) = (ignore.mode || is_link, a.mode.map(permissions), b.mode.map(permissions))
        && one != other
    {
        found.push(Difference::new(Aspect::Mode, format!("{one:o}"), format!("{other:o}")));
    }
    for (what, one, other) in [(Aspect::Owner, a.uid, b.uid), (Aspect::Group, a.gid, b.gid)] {
        if let (false, Some(one), Some(other)) = (ignore.owner, one, other)
            && one != other
        {
            found.push(Difference::new(what, one, other));
        }
    }
    // What says no mode was not put there with attributes.
    if !ignore.attributes && !is_link && a.mode.is_some() && b.mode.is_some() {
        let (one, other) = (a.attributes(), b.attributes());
        let mut names: Vec<&str> = one.keys().chain(other.keys()).copied().collect();
        names.sort_unstable();
        names.dedup();
        let shown = |value: Option<&&str>| value.map(|value| format!("{} bytes of base64", value.len()));
        for name in names.into_iter().filter(|name| one.get(name) != other.get(name)) {
            let (a, b) = (shown(one.get(name)), shown(other.get(name)));
            found.push(Difference { what: Aspect::Attribute, of: Some(name.to_owned()), a, b });
        }
    }
    found
}

fn seconds((seconds, nanos): Moment) -> String {
    format!("{seconds}.{nanos:09}")
}
