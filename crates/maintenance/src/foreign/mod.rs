//! Somebody else's objects in a bucket, made into released files.
//!
//! The bucket is listed once, from front to back; what it tells of is made a few hundred at a time, by several threads, and each such group shares a
//! sync. Nothing is kept of what is done: a run that was killed is run again, and finds on the filesystem what is there already. Nothing here
//! changes anything in the bucket, and only what a listing tells is asked for, unless owners and modes are wanted: those are a request for each object.

mod attributes;
mod directories;
mod make;
mod name;
mod replace;

use crate::MaintenanceError;
use crate::report::{Problem, Watcher};
use attributes::Defaults;
use directories::Target;
use make::Maker;
use model::Scheme;
use objects::ObjectStore;
use objects::foreign::{Foreign, Listed};
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

/// What is to be imported, and as what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory to make files in; has to be there.
    pub into: PathBuf,
    /// The archive whose mover is to restore them.
    pub archive_id: u32,
    /// What keys begin with: empty, or ending in a slash. The rest of a key is the path.
    pub prefix: String,
    /// Keys that begin with one of these are Sifaka's own.
    pub ours: Vec<String>,
    /// Owner, where the object does not say.
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
    /// Permission bits of files, likewise.
    pub mode: u32,
    /// Permission bits of directories that are made.
    pub dir_mode: u32,
    /// Ask for each object's texts: owner, mode and mtime stand there if Sifaka, rclone or Lemur stored it. Modes are taken without their special bits.
    pub attributes: bool,
    /// Take owners and groups from them, too. Whoever may write to the bucket says then whose files are.
    pub owners: bool,
    /// Make nothing.
    pub dry_run: bool,
    /// How many groups are worked on at the same time.
    pub threads: usize,
}

/// What was found and made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Objects in the listing.
    pub objects: u64,
    /// Files that were made.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Files that an earlier run made, of objects that are as they were then.
    pub already: u64,
    /// Files that were made anew, because their object is another version now.
    pub replaced: u64,
    /// Objects of archives of Sifaka's: no files are made of those.
    pub ours: u64,
    /// Empty objects whose names end in a slash: some programs make those for directories.
    pub markers: u64,
    /// Objects whose names cannot be those of files.
    pub bad_names: u64,
    /// Objects at whose place something else is.
    pub conflicts: u64,
    /// Objects that are another version now, and whose files are not as an import makes them.
    pub changed: u64,
    /// What could not be done.
    pub failed: u64,
}

impl Counts {
    fn count(&mut self, problem: Problem) {
        let counter = match problem {
            Problem::BadName => &mut self.bad_names,
            Problem::Conflict => &mut self.conflicts,
            Problem::Changed => &mut self.changed,
            _ => &mut self.failed,
        };
        *counter += 1;
    }

    fn add(&mut self, other: &Self) {
        self.objects += other.objects;
        self.files += other.files;
        self.bytes += other.bytes;
        self.already += other.already;
        self.replaced += other.replaced;
        self.ours += other.ours;
        self.markers += other.markers;
        self.bad_names += other.bad_names;
        self.conflicts += other.conflicts;
        self.changed += other.changed;
        self.failed += other.failed;
    }

    /// Whether there is a file for every object that is somebody else's.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.bad_names + self.conflicts + self.changed + self.failed == 0
    }
}

/// What all threads have in common.
struct Import<'a> {
    foreign: Foreign,
    place: (Scheme, &'a str),
    options: &'a Options,
    defaults: Defaults,
    target: Target,
    watcher: &'a dyn Watcher,
}

/// Imports. What was made is durable when this returns.
///
/// # Errors
/// The bucket cannot be listed or ceases to answer, the directory is not there, a guard cannot be told, or the disk fails: what was made until then
/// stays, and the next run goes on from there.
pub fn import(store: &ObjectStore, options: &Options, watcher: &dyn Watcher) -> Result<Counts, MaintenanceError> {
    sys::process::raise_nofile_limit();
    let bucket = store.bucket();
    let place = bucket.place().ok_or(MaintenanceError::NoBucket)?;
    let import = Import {
        foreign: Foreign::of(bucket),
        place,
        options,
        defaults: Defaults::of(options),
        target: Target::open(&options.into, options)?,
        watcher,
    };
    watcher.phase("importing", None);
    let counts = import.run()?;
    if !options.dry_run {
        let failed = MaintenanceError::io("sync the filesystem of", &options.into);
        sys::file::sync_fs(import.target.root()).map_err(failed)?;
    }
    Ok(counts)
}

impl Import<'_> {
    fn run(&self) -> Result<Counts, MaintenanceError> {
        let threads = self.options.threads.max(1);
        let (sender, groups) = sync_channel::<Vec<Listed>>(threads);
        let groups = Mutex::new(groups);
        let is_over = AtomicBool::new(false);
        let (listed, worked) = std::thread::scope(|scope| {
            let (groups, is_over) = (&groups, &is_over);
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(move || self.work(groups, is_over))).collect();
            let listed = self.foreign.list(&self.options.prefix, &mut |group| {
                // Those that work go on until there is nothing more, unless one has failed.
                let is_sent = !is_over.load(Ordering::Relaxed) && sender.send(group).is_ok();
                if is_sent { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            drop(sender);
            let worked: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            (listed, worked)
        });
        let mut counts = Counts::default();
        for worked in worked {
            counts.add(&worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        listed?;
        Ok(counts)
    }

    fn work(&self, groups: &Mutex<Receiver<Vec<Listed>>>, is_over: &AtomicBool) -> Result<Counts, MaintenanceError> {
        let mut maker = Maker::new(self);
        // Groups that were sent are taken also when it is over, so that nobody waits to send one.
        let next = || groups.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let mut failed = None;
        while let Ok(group) = next() {
            if is_over.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(error) = maker.group(group) {
                is_over.store(true, Ordering::Relaxed);
                failed = Some(error);
            }
        }
        failed.map_or(Ok(maker.counts), Err)
    }
}
