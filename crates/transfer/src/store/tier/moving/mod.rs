//! Moving objects from root to root, while the archive is used: to make all roots about equally full, or to empty one.
//!
//! For: administrators, now and then. Not for: placing new objects, which needs no help; nor for changing what is stored.
//!
//! *Invariant*: an object is in one root at every moment, whole and durable. In two of them only between two steps of `batch`, and after a crash there until the next run.

mod batch;
mod item;
mod journal;
mod plan;
mod twins;

use super::super::hold::{self, Alone, DRAINED};
use super::super::posix::PosixStore;
use super::super::root::Root;
use super::level::Level;
use super::marker::{MARKER, Marker};
use super::{Roots, TierStore};
use crate::{Limiter, Monitor, TransferError};
use batch::{Batch, Outcome};
use item::{Found, Item};
use model::Extent;
use plan::{Gauge, Plan};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use sys::{Mode, OFlags};
use twins::Settled;

/// Whoever moves things has this file's lock, in each root; whoever lists all objects has it shared.
const RUN: &str = ".sifaka-rebalance";

/// What is to be done.
#[derive(Debug)]
pub struct Rebalance<'a> {
    /// The root that is to be emptied, as the configuration names it; nothing new comes into it from then on.
    pub drain: Option<&'a Path>,
    /// How far from the mean of all a root may be in the end; a part of 1.
    pub within: f64,
    /// Moves nothing, and says what it would move.
    pub dry_run: bool,
    /// How many bytes a second are moved.
    pub limiter: &'a Limiter,
    /// Set by whoever wants it to end.
    pub stop: &'a AtomicBool,
}

/// What is told while it runs.
pub trait MovesWatcher {
    /// This was moved, or would be: an object, a record or a pack.
    fn moved(&self, what: &str, from: &Path, to: &Path, bytes: u64);
    /// This stays where it is.
    fn stays(&self, what: &str, root: &Path, why: &str);
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rebalanced {
    /// The roots, in the configuration's order.
    pub roots: Vec<RootFill>,
    /// Objects, records and packs that were moved, or would be.
    pub moved: u64,
    /// Bytes of them on disk.
    pub moved_bytes: u64,
    /// Second copies that were removed.
    pub twins: u64,
    /// What could not be moved, or lies in a root that is to be emptied and is not the archive's.
    pub failed: u64,
    /// Whether each root is about as full as all together, or the one that was to be emptied is empty.
    pub done: bool,
    /// It was ended before.
    pub interrupted: bool,
}

/// How full a root was, and is. Parts of 1.
#[derive(Debug, Clone, PartialEq)]
pub struct RootFill {
    /// The root.
    pub path: PathBuf,
    /// At the beginning.
    pub before: f64,
    /// At the end, by what was moved.
    pub after: f64,
    /// Whether nothing new comes into it.
    pub drained: bool,
}

impl TierStore {
    /// Moves objects until the roots are about equally full, or one is empty. Goes on where an earlier run was cut short, whatever that had done.
    ///
    /// # Errors
    /// [`TransferError::Unavailable`] when a root is not there; [`TransferError::Busy`] when one is not known to the movers yet, or somebody else rebalances or lists the archive. What is wrong with
    /// single objects is told, and no error.
    pub fn rebalance(&self, how: &Rebalance<'_>, watcher: &dyn MovesWatcher) -> Result<Rebalanced, TransferError> {
        let stores = self.roots.all()?;
        for store in &stores {
            if Marker::read(store.root_dir())?.is_none() {
                let why = format!("it has no file {MARKER}: the mover has to be started with this configuration first");
                return Err(TransferError::Busy { path: store.root().to_owned(), why });
            }
        }
        let _run = stores.iter().map(|store| RunLock::alone(store.root_dir())).collect::<Result<Vec<_>, _>>()?;
        let drain = match how.drain {
            Some(path) => Some(position(&stores, path)?),
            None => None,
        };
        if let Some(store) = drain.and_then(|root| stores.get(root)).filter(|_| !how.dry_run) {
            close(store.root_dir())?;
        }
        let mut gauges = stores.iter().map(|store| gauge(store.root_dir())).collect::<Result<Vec<_>, _>>()?;
        if let Some(gauge) = drain.and_then(|root| gauges.get_mut(root)) {
            gauge.takes = false;
        }
        let before: Vec<f64> = gauges.iter().map(Gauge::fraction).collect();
        let plan = Plan::new(gauges, how.within, drain);
        let mut run = Run { stores: &stores, how, watcher, plan, result: Rebalanced::default(), told: HashSet::new() };
        if !how.dry_run {
            run.recover()?;
        }
        let emptied = run.work()?;
        let Run { plan, mut result, .. } = run;
        result.interrupted = how.stop.load(Ordering::Relaxed);
        result.done = if drain.is_some() { emptied } else { plan.is_balanced() };
        let fills = plan.gauges.iter().zip(before);
        result.roots = fills
            .map(|(gauge, before)| RootFill {
                path: gauge.path.clone(),
                before,
                after: gauge.fraction(),
                drained: !gauge.takes,
            })
            .collect();
        if let (Some(root), true, false) = (drain, emptied, how.dry_run) {
            self.roots.unlist(&stores, root)?;
        }
        Ok(result)
    }
}

impl Roots {
    /// Nobody misses this root any more: it is empty.
    fn unlist(&self, stores: &[Arc<PosixStore>], root: usize) -> Result<(), TransferError> {
        let Some(gone) = stores.get(root) else { return Ok(()) };
        let Some(this) = Marker::read(gone.root_dir())?.map(|marker| marker.this) else { return Ok(()) };
        self.known.lock().listed.remove(&this);
        for (_, store) in stores.iter().enumerate().filter(|(n, _)| *n != root) {
            if let Some(mut marker) = Marker::read(store.root_dir())?
                && marker.roots.remove(&this).is_some()
            {
                marker.write(store.root_dir())?;
            }
        }
        Ok(())
    }
}

/// One run.
struct Run<'a> {
    stores: &'a [Arc<PosixStore>],
    how: &'a Rebalance<'a>,
    watcher: &'a dyn MovesWatcher,
    plan: Plan,
    result: Rebalanced,
    told: HashSet<String>,
}

/// What one look through a root came to.
#[derive(Default)]
struct Pass {
    moved: u64,
    /// Of what is still there: what may be moved when it is looked at again, and what could not be.
    left: u64,
    failed: u64,
}

/// Of what could not be moved so much is told once and not with each pass.
const MAX_TOLD: usize = 10_000;

impl<'a> Run<'a> {
    /// Settles what an earlier run was in the middle of.
    fn recover(&mut self) -> Result<(), TransferError> {
        for (to, keep) in self.stores.iter().enumerate() {
            let items = journal::read(keep.root_dir())?;
            for item in &items {
                for from in (0..self.stores.len()).filter(|from| *from != to) {
                    self.settle(from, to, item);
                }
            }
            if !items.is_empty() {
                journal::clear(keep.root_dir())?;
            }
        }
        Ok(())
    }

    /// Whether the root that was to be emptied is empty.
    fn work(&mut self) -> Result<bool, TransferError> {
        let mut is_empty = false;
        while !self.is_over()
            && let Some(source) = self.plan.source()
        {
            let pass = self.pass(source)?;
            // A root that is emptied is looked through again: what failed before may not now.
            self.result.failed = if self.how.drain.is_some() { pass.failed } else { self.result.failed + pass.failed };
            // What came into it before it was closed, while it was looked through.
            is_empty = self.how.drain.is_some() && pass.left + pass.failed == 0 && !self.is_over();
            if pass.moved == 0 || self.how.drain.is_none() || self.how.dry_run {
                self.plan.exhaust(source);
            }
        }
        Ok(is_empty)
    }

    fn is_over(&self) -> bool {
        self.how.stop.load(Ordering::Relaxed)
    }

    /// Looks through a root once, and moves what is to go.
    fn pass(&mut self, source: usize) -> Result<Pass, TransferError> {
        let mut pass = Pass::default();
        let stores = self.stores;
        let Some(from) = stores.get(source) else { return Ok(pass) };
        let mut batches: Vec<Option<Batch<'a>>> = stores.iter().map(|_| None).collect();
        let is_drain = self.how.drain.is_some();
        let _ = item::each(from.root_dir(), &mut |found| {
            if self.is_over() || !self.plan.goes_on(source) {
                return ControlFlow::Break(());
            }
            match found {
                Found::Item(item) => self.offer(source, &item, &mut batches, &mut pass),
                Found::Strange(path) if is_drain => {
                    let what = path.to_string_lossy().into_owned();
                    self.stays(source, what, "it is nothing of Sifaka's", &mut pass);
                }
                Found::Strange(_) => {}
            }
            ControlFlow::Continue(())
        })?;
        for (to, batch) in batches.into_iter().enumerate() {
            if let Some(batch) = batch {
                self.finish(source, to, batch, &mut pass);
            }
        }
        Ok(pass)
    }

    fn offer(&mut self, source: usize, item: &Item, batches: &mut [Option<Batch<'a>>], pass: &mut Pass) {
        let stores = self.stores;
        let Some(from) = stores.get(source) else { return };
        let bytes = match item.bytes_in(from.root_dir()) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return,
            Err(e) => return self.failed(source, item, &e.to_string(), pass),
        };
        let Some(to) = self.plan.destination(source, bytes) else {
            if self.how.drain.is_some() {
                self.failed(source, item, "no other root has room for it", pass);
            }
            return;
        };
        self.plan.moved(source, to, bytes);
        let (Some(target), Some(slot)) = (stores.get(to), batches.get_mut(to)) else { return };
        if self.how.dry_run {
            return self.ended(source, to, item, Outcome::Moved(bytes), pass);
        }
        if slot.is_none() {
            match Batch::new(from, target) {
                Ok(batch) => *slot = Some(batch),
                Err(error) => return self.ended(source, to, item, Outcome::Failed(bytes, error), pass),
            }
        }
        let Some(batch) = slot.as_mut() else { return };
        let pace = Pace(self.how);
        if let Some(outcome) = batch.add(item, bytes, &pace) {
            self.ended(source, to, item, outcome, pass);
        }
        if batch.is_full()
            && let Some(batch) = slot.take()
        {
            self.finish(source, to, batch, pass);
        }
    }

    fn finish(&mut self, source: usize, to: usize, batch: Batch<'_>, pass: &mut Pass) {
        let pace = Pace(self.how);
        let mut twins = Vec::new();
        batch.finish(&pace, &mut |item, outcome| match outcome {
            Outcome::Twin(_) => twins.push((item.clone(), outcome)),
            outcome => self.ended(source, to, item, outcome, pass),
        });
        for (item, outcome) in twins {
            self.ended(source, to, &item, outcome, pass);
        }
    }

    fn ended(&mut self, source: usize, to: usize, item: &Item, outcome: Outcome, pass: &mut Pass) {
        let path = |n: usize| self.stores.get(n).map_or(Path::new(""), |store| store.root());
        match outcome {
            Outcome::Moved(bytes) => {
                pass.moved += 1;
                self.result.moved += 1;
                self.result.moved_bytes = self.result.moved_bytes.saturating_add(bytes);
                self.watcher.moved(&item.line(), path(source), path(to), bytes);
            }
            Outcome::Changed(bytes) => {
                // Another pass looks again, if it is still there.
                pass.left += 1;
                self.plan.moved(to, source, bytes);
            }
            Outcome::Twin(bytes) => {
                self.plan.moved(to, source, bytes);
                match self.settle(source, to, item) {
                    Settled::Gone => {
                        pass.moved += 1;
                        self.plan.gone(source, bytes);
                    }
                    Settled::Newer => {
                        // Its place is free now: another pass takes it there.
                        (pass.moved, pass.left) = (pass.moved + 1, pass.left + 1);
                        self.plan.gone(to, bytes);
                    }
                    Settled::Both => {
                        self.failed(source, item, "another root has one of the same id, which is not the same", pass);
                    }
                }
            }
            Outcome::Failed(bytes, error) => {
                self.plan.moved(to, source, bytes);
                if matches!(error, TransferError::Cancelled) {
                    pass.left += 1;
                } else {
                    self.failed(source, item, &error.to_string(), pass);
                }
            }
        }
    }

    fn failed(&mut self, source: usize, item: &Item, why: &str, pass: &mut Pass) {
        self.stays(source, item.line(), why, pass);
    }

    fn stays(&mut self, source: usize, what: String, why: &str, pass: &mut Pass) {
        pass.failed += 1;
        let root = self.stores.get(source).map_or(Path::new(""), |store| store.root());
        if !self.told.contains(&what) {
            self.watcher.stays(&what, root, why);
            if self.told.len() < MAX_TOLD {
                self.told.insert(what);
            }
        }
    }

    /// Removes one of two equal copies, or the older of two records.
    fn settle(&mut self, from: usize, keep: usize, item: &Item) -> Settled {
        let (Some(from), Some(keep)) = (self.stores.get(from), self.stores.get(keep)) else { return Settled::Both };
        match twins::settle(from, keep, item, &Pace(self.how)) {
            Ok(settled) => {
                self.result.twins += u64::from(settled != Settled::Both);
                settled
            }
            Err(error) => {
                tracing::warn!(root = %from.root().display(), %error, "cannot compare what is in two roots");
                Settled::Both
            }
        }
    }
}

/// For who copies.
struct Pace<'a>(&'a Rebalance<'a>);

impl Monitor for Pace<'_> {
    fn cancelled(&self) -> bool {
        self.0.limiter.wait(false, || self.0.stop.load(Ordering::Relaxed))
    }

    fn advanced(&self, extent: Extent) {
        self.0.limiter.spend(extent.length);
    }

    fn skipped(&self, _: Extent) {}
}

/// The configuration's path, or another one of the same directory.
fn position(stores: &[Arc<PosixStore>], path: &Path) -> Result<usize, TransferError> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(path).map_err(TransferError::io("look at", path))?;
    let is_it = |store: &Arc<PosixStore>| store.root_dir().identity() == (meta.dev(), meta.ino());
    stores.iter().position(is_it).ok_or_else(|| TransferError::Busy {
        path: path.to_owned(),
        why: "it is none of the archive's roots".to_owned(),
    })
}

fn gauge(root: &Root) -> Result<Gauge, TransferError> {
    let level = Level::of(root).map_err(TransferError::io("read the room of", root.path()))?;
    let takes = !hold::is_drained(root);
    let (path, device) = (root.path().to_owned(), root.identity().0);
    Ok(Gauge { path, total: level.total, used: level.used(), reserve: level.reserve(), device, takes })
}

/// From now on nothing new comes into the root: also nothing that is on its way.
fn close(root: &Root) -> Result<(), TransferError> {
    let _alone = Alone::of(root)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW;
    let made = sys::file::open_beneath(root.dir(), DRAINED, flags, Mode::RUSR | Mode::WUSR);
    let made = made.and_then(|_| sys::file::sync_all(root.dir()));
    made.map_err(TransferError::io("make", root.path().join(DRAINED)))
}

/// The lock of a run.
pub(super) struct RunLock {
    _file: Option<File>,
}

impl RunLock {
    /// Makes the file that is locked.
    pub(super) fn make(root: &Root) -> Result<File, TransferError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = sys::file::open_beneath(root.dir(), RUN, flags, Mode::RUSR | Mode::WUSR).map(File::from);
        file.map_err(TransferError::io("open", root.path().join(RUN)))
    }

    fn alone(root: &Root) -> Result<Self, TransferError> {
        let (file, path) = (Self::make(root)?, root.path().join(RUN));
        if sys::file::try_lock_exclusive(&file).map_err(TransferError::io("lock", &path))? {
            return Ok(Self { _file: Some(file) });
        }
        let why = "it is being rebalanced, or all that is in it is being listed (by fsck, scrub or rebuild)".to_owned();
        Err(TransferError::Busy { path: root.path().to_owned(), why })
    }

    /// For whoever wants to see each object once, wherever it is.
    pub(super) fn shared(root: &Root) -> Result<Self, TransferError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match sys::file::open_beneath(root.dir(), RUN, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            // Nothing was ever moved.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self { _file: None }),
            Err(e) => return Err(TransferError::io("open", root.path().join(RUN))(e)),
        };
        match sys::file::try_lock_shared(&file) {
            Ok(false) => {
                let why = "it is being rebalanced, and objects that move would be missed".to_owned();
                Err(TransferError::Busy { path: root.path().to_owned(), why })
            }
            Ok(true) => Ok(Self { _file: Some(file) }),
            // Nobody rebalances where there are no locks.
            Err(_) => Ok(Self { _file: None }),
        }
    }
}
