//! A tree of files from what the archive alone knows of it: after a loss of the filesystem, or to bring part of it elsewhere.
//!
//! 1. Every manifest is read; the `catalog` decides which count.
//! 2. Directories are made, closed to all but root (`tree`).
//! 3. Released files, links and special files are made, by several threads (`make`).
//! 4. Further names of files.
//! 5. Directories get their own owners, modes and times, from the bottom up.
//!
//! What is there already and is the same is passed over, and what is there and is something else is left alone, so a run that was
//! killed is just repeated. What is wrong with one manifest or file is told and counted, and holds up nothing else.

mod catalog;
mod make;
mod scan;
mod tree;

pub(crate) use make::is_in_the_way;

use crate::released::publish;
use crate::report::{Finding, Problem, Watcher};
use crate::{Holdings, MaintenanceError};
use catalog::{Catalog, Loser, Name};
use make::Maker;
use serde::Serialize;
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use transfer::manifest::Manifest;
use tree::{Directory, Making, OpenDirectories, Tree};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the tree is to be: a directory that exists.
    pub into: PathBuf,
    /// Number of the archive, as the files will name it.
    pub archive_id: u32,
    /// Only what was below this path, relative to the original filesystem's root, without slashes at its ends; empty for all.
    pub prefix: Vec<u8>,
    /// The original files may still be there, or other copies of them: see [`crate::released::Released::shared`].
    pub shared: bool,
    /// Make nothing.
    pub dry_run: bool,
    /// Where files go whose path or manifest is lost, under the ids of their objects: relative to `into`.
    pub orphans: Option<Vec<u8>>,
    /// Threads that read manifests and make files; at least 1.
    pub threads: usize,
}

/// What was made, and what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Manifests that were read.
    pub manifests: u64,
    /// Released files made.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Directories made or finished.
    pub directories: u64,
    /// Symbolic links and special files made.
    pub others: u64,
    /// Further names of files made.
    pub links: u64,
    /// Files made under the ids of their objects.
    pub orphans: u64,
    /// Files, links and names that were there.
    pub already: u64,
    /// Manifests that do not count because there are newer ones.
    pub superseded: u64,
    /// Something else is there.
    pub conflicts: u64,
    /// Content that is gone from the archive.
    pub lost: u64,
    /// Manifests that are damaged or unknown.
    pub bad_manifests: u64,
    /// Objects without a usable manifest.
    pub without_manifest: u64,
    /// Files whose manifest names no path.
    pub without_path: u64,
    /// Attributes that could not be set.
    pub attributes: u64,
    /// Further names whose file is not there.
    pub without_inode: u64,
    /// What could not be made.
    pub failed: u64,
}

impl Counts {
    fn count(&mut self, problem: Problem) {
        let counter = match problem {
            Problem::DamagedManifest | Problem::UnknownManifest => &mut self.bad_manifests,
            Problem::NoManifest => &mut self.without_manifest,
            Problem::NoObject => &mut self.lost,
            Problem::NoPath => &mut self.without_path,
            Problem::Superseded => &mut self.superseded,
            Problem::Conflict => &mut self.conflicts,
            Problem::NoInode => &mut self.without_inode,
            Problem::Attribute => &mut self.attributes,
            Problem::Damage
            | Problem::Orphan
            | Problem::Stray
            | Problem::BadName
            | Problem::Changed
            | Problem::Failed => &mut self.failed,
        };
        *counter += 1;
    }

    fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.directories += other.directories;
        self.others += other.others;
        self.links += other.links;
        self.orphans += other.orphans;
        self.already += other.already;
        self.superseded += other.superseded;
        self.conflicts += other.conflicts;
        self.lost += other.lost;
        self.bad_manifests += other.bad_manifests;
        self.without_manifest += other.without_manifest;
        self.without_path += other.without_path;
        self.attributes += other.attributes;
        self.without_inode += other.without_inode;
        self.failed += other.failed;
    }

    /// Whether everything that the archive knows of is there now.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let missing = self.conflicts + self.lost + self.bad_manifests + self.without_manifest + self.without_path;
        missing + self.without_inode + self.attributes + self.failed == 0
    }
}

/// Rebuilds. What was made is durable when this returns.
///
/// # Errors
/// The archive cannot be listed or ceases to answer, the directory is not there, a guard cannot be told, or the disk fails: what was made until then
/// stays, and the next run goes on from there.
pub fn rebuild(holdings: &dyn Holdings, options: &Options, watcher: &dyn Watcher) -> Result<Counts, MaintenanceError> {
    sys::process::raise_nofile_limit();
    let tree = Tree::open(&options.into)?;
    let mut counts = Counts::default();
    let mut catalog = scan::scan(holdings, options, watcher, &mut counts)?;
    watcher.phase("sorting", None);
    catalog.settle()?;
    tell_losers(&catalog, watcher, &mut counts)?;
    let mut run = Run { holdings, options, watcher, tree: &tree, catalog: Mutex::new(catalog), counts };
    run.make_directories()?;
    run.make_names()?;
    run.make_links()?;
    run.make_orphans()?;
    run.finish_directories()?;
    if !options.dry_run {
        sys::file::sync_fs(tree.root()).map_err(MaintenanceError::io("sync the filesystem of", &options.into))?;
    }
    Ok(run.counts)
}

fn tell_losers(catalog: &Catalog, watcher: &dyn Watcher, counts: &mut Counts) -> Result<(), MaintenanceError> {
    catalog.each_loser(|loser, path, id| {
        let (problem, what) = match loser {
            Loser::Older => (Problem::Superseded, "there is a newer manifest of the same file"),
            Loser::Displaced => (Problem::Superseded, "there is a newer manifest of something else at its path"),
            Loser::NoInode => (Problem::NoInode, "the archive does not know the file that it is another name of"),
            Loser::NoObject => (Problem::NoObject, "there is a manifest, and its object is gone"),
        };
        counts.count(problem);
        let finding = Finding::new(problem, what).of(id);
        watcher.found(match path {
            Some(path) => finding.at(path),
            None => finding,
        });
    })?;
    Ok(())
}

/// One run, after the catalog is settled.
struct Run<'a> {
    holdings: &'a dyn Holdings,
    options: &'a Options,
    watcher: &'a dyn Watcher,
    tree: &'a Tree,
    catalog: Mutex<Catalog>,
    counts: Counts,
}

impl<'a> Run<'a> {
    fn catalog(&self) -> std::sync::MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn maker(&self) -> Maker<'a> {
        Maker {
            holdings: self.holdings,
            tree: self.tree,
            options: self.options,
            watcher: self.watcher,
            open: OpenDirectories::default(),
            counts: Counts::default(),
            changed: HashSet::new(),
        }
    }

    fn make_directories(&mut self) -> Result<(), MaintenanceError> {
        let total = self.catalog().amounts()?.directories;
        self.watcher.phase("making directories", Some(total));
        let mut open = OpenDirectories::default();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let turn = self.catalog().directories(after.as_deref())?;
            let Some(last) = turn.last() else { return Ok(()) };
            after = Some(last.path.clone());
            let mut unfinished = Vec::new();
            for name in &turn {
                if self.make_directory(name, &mut open)? {
                    unfinished.push(name.path.clone());
                }
            }
            if !self.options.dry_run {
                self.catalog().changed(unfinished)?;
            }
            self.watcher.advanced(turn.len() as u64);
        }
    }

    /// Whether it is there and has to be finished.
    fn make_directory(&mut self, name: &Name, open: &mut OpenDirectories) -> Result<bool, MaintenanceError> {
        let making = if self.options.dry_run { Making::No } else { Making::Yes };
        let failed = MaintenanceError::io("make the directory", self.tree.shown(&name.path));
        let dir = match open.get(self.tree, &name.path, making) {
            Ok(Directory::Open(dir)) => dir,
            Ok(Directory::Missing) => {
                self.counts.directories += 1;
                return Ok(false);
            }
            Err(error) => {
                let conflict = make::is_in_the_way(&error);
                let problem = if conflict { Problem::Conflict } else { Problem::Failed };
                self.counts.count(problem);
                let what =
                    if conflict { "something else is at its place".to_owned() } else { failed(error).to_string() };
                self.watcher.found(Finding::new(problem, what).at(&name.path).of(&name.id));
                return Ok(false);
            }
        };
        if name.path.is_empty() && !self.options.dry_run && is_fresh(&dir) {
            tree::mark_unfinished(&dir).map_err(MaintenanceError::io("set the mode of", self.tree.shown(&[])))?;
        }
        let stamp = sys::file::stamp(&dir).map_err(MaintenanceError::io("look at", self.tree.shown(&name.path)))?;
        if !tree::is_unfinished(&stamp) {
            self.counts.already += 1;
        }
        Ok(tree::is_unfinished(&stamp))
    }

    fn make_names(&mut self) -> Result<(), MaintenanceError> {
        let total = self.catalog().amounts()?.names;
        self.watcher.phase("making files", Some(total));
        let after = Mutex::new(Vec::new());
        let next = || -> Result<Vec<Name>, MaintenanceError> {
            let mut after = after.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = self.catalog().names(Some(&after))?;
            if let Some(last) = turn.last() {
                after.clone_from(&last.path);
            }
            Ok(turn)
        };
        let work = || -> Result<Counts, MaintenanceError> {
            let mut maker = self.maker();
            loop {
                let turn = next()?;
                if turn.is_empty() {
                    return Ok(maker.counts);
                }
                maker.names(turn)?;
                self.catalog().changed(maker.changed.drain())?;
            }
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.options.threads.max(1)).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        for result in results {
            let counts = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            self.counts.add(&counts);
        }
        Ok(())
    }

    fn make_links(&mut self) -> Result<(), MaintenanceError> {
        let total = self.catalog().amounts()?.links;
        self.watcher.phase("making further names", Some(total));
        let mut maker = self.maker();
        let mut after = Vec::new();
        loop {
            let turn = self.catalog().links(&after)?;
            let Some(last) = turn.last() else { break };
            after.clone_from(&last.path);
            maker.links(turn);
            self.catalog().changed(maker.changed.drain())?;
        }
        self.counts.add(&maker.counts);
        Ok(())
    }

    /// Files whose path is not known, and objects that no manifest tells of.
    fn make_orphans(&mut self) -> Result<(), MaintenanceError> {
        self.watcher.phase("objects that nobody knows", None);
        let mut after = String::new();
        loop {
            let turn = self.catalog().nowhere(&after)?;
            let Some(last) = turn.last() else { break };
            after.clone_from(last);
            self.orphans(turn, Problem::NoPath, "its manifest does not say where it was")?;
        }
        if !self.options.prefix.is_empty() {
            // Whoever wants part of a tree is not told of what nobody can place.
            return Ok(());
        }
        let mut after = String::new();
        loop {
            let turn = self.catalog().strangers(&after)?;
            let Some(last) = turn.last() else { return Ok(()) };
            after.clone_from(last);
            self.orphans(turn, Problem::NoManifest, "there is no usable manifest for it")?;
        }
    }

    fn orphans(&mut self, ids: Vec<String>, problem: Problem, what: &'static str) -> Result<(), MaintenanceError> {
        for id in &ids {
            self.counts.count(problem);
            self.watcher.found(Finding::new(problem, what).of(id));
        }
        let Some(directory) = self.options.orphans.as_ref().filter(|_| !self.options.dry_run) else { return Ok(()) };
        let mut maker = self.maker();
        let shown = self.tree.shown(directory);
        let dir = maker.open.get(self.tree, directory, Making::Yes);
        let Directory::Open(dir) = dir.map_err(MaintenanceError::io("make the directory", &shown))? else {
            return Ok(());
        };
        let mut files = Vec::new();
        for id in ids {
            let path = [directory, &b"/"[..], id.as_bytes()].concat();
            match maker.orphan(&dir, &Name { path: path.clone(), id: id.clone() }) {
                Ok(Some(file)) => files.push(file),
                Ok(None) => {}
                Err(error @ MaintenanceError::Unreachable(_)) => return Err(error),
                Err(error) => {
                    self.counts.failed += 1;
                    self.watcher.found(Finding::new(Problem::Failed, error.to_string()).at(&path).of(id));
                }
            }
        }
        self.counts.add(&maker.counts);
        for result in publish(files)? {
            match result {
                Ok(()) => self.counts.orphans += 1,
                Err(error) => {
                    self.counts.failed += 1;
                    self.watcher.found(Finding::new(Problem::Failed, error.to_string()));
                }
            }
        }
        self.catalog().changed([directory.clone()])?;
        Ok(())
    }

    fn finish_directories(&mut self) -> Result<(), MaintenanceError> {
        if self.options.dry_run {
            return Ok(());
        }
        self.watcher.phase("finishing directories", None);
        let mut maker = self.maker();
        let mut before: Option<Vec<u8>> = None;
        loop {
            let turn = self.catalog().to_finish(before.as_deref())?;
            let Some((last, _)) = turn.last() else { break };
            before = Some(last.clone());
            for part in turn.chunks(READ_AHEAD) {
                // One after the other are they finished, but not asked for: in a bucket each is a request.
                let manifests = maker.manifests(part.iter().map(|(_, id)| id.as_deref()));
                for ((path, id), manifest) in part.iter().zip(manifests) {
                    let name = Name { path: path.clone(), id: id.clone().unwrap_or_default() };
                    match finish(&mut maker, &name, manifest) {
                        Ok(()) => {}
                        Err(error @ MaintenanceError::Unreachable(_)) => return Err(error),
                        Err(error) => {
                            maker.counts.count(Problem::Failed);
                            self.watcher.found(Finding::new(Problem::Failed, error.to_string()).at(&name.path));
                        }
                    }
                    self.watcher.advanced(1);
                }
            }
        }
        self.counts.add(&maker.counts);
        Ok(())
    }
}

/// What a directory without a record gets.
const USUAL_MODE: u32 = 0o755;
/// Directories whose manifests are read at a time.
const READ_AHEAD: usize = 256;

fn finish(
    maker: &mut Maker<'_>,
    name: &Name,
    manifest: Option<Result<Manifest, MaintenanceError>>,
) -> Result<(), MaintenanceError> {
    let shown = maker.tree.shown(&name.path);
    let Some(fd) = maker.tree.look(&name.path).map_err(MaintenanceError::io("look at", &shown))? else { return Ok(()) };
    let stamp = sys::file::stamp(&fd).map_err(MaintenanceError::io("look at", &shown))?;
    let unfinished = tree::is_unfinished(&stamp);
    if unfinished {
        maker.counts.directories += 1;
    }
    if let Some(manifest) = manifest {
        let manifest = manifest?;
        if unfinished {
            return maker.describe(&manifest, &fd, name);
        }
        // Finished by a run before this one, which had not made all that is in it.
        let mtime = (manifest.inode.mtime.seconds, manifest.inode.mtime.nanos);
        return tree::set_mtime(&fd, mtime).map_err(MaintenanceError::io("set the times of", &shown));
    }
    if unfinished {
        tree::set_mode(&fd, USUAL_MODE).map_err(MaintenanceError::io("set the mode of", &shown))?;
    }
    Ok(())
}

/// Whether there is nothing in it but what making a filesystem leaves.
fn is_fresh(dir: impl AsFd) -> bool {
    let Ok(entries) = rustix::fs::Dir::read_from(dir) else { return false };
    let known = [&b"."[..], b"..", b"lost+found"];
    entries.into_iter().all(|entry| entry.is_ok_and(|entry| known.contains(&entry.file_name().to_bytes())))
}
