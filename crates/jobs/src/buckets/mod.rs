//! A tree copied into a bucket, with what belongs to its files as texts beside the objects; a bucket into a tree, or into another bucket.
//!
//! For: `sifaka migrate` and `sifaka verify` where one side or both are an object store's URL. **Blocks.**
//!
//! - `key`: which object has which key; `about`: the texts; `upload`: what happens in each directory; `extraneous`, `surplus`: removal from the bucket, from the tree; `notes`: uploads that
//!   a killed run has left.
//! - `listing`: what is below a prefix; `download`: what happens with each object; `target`: the tree; `group`: files that wait for their names; `copy`: between buckets; `verify`: what differs; `steps`: how content goes, whichever way. What stands in a bucket leads nobody out of that, and gives
//!   nobody rights.
//! - An object is there as a whole or not at all, so a repeated run needs to know nothing of the one before: what has the source's size and time is the same.
//! - Nothing is written or removed outside of the prefix, and no key is bent to fit: what has none is told.
//! - Nothing is replaced that was not looked at: puts depend on what was seen, where the service heeds that.

mod about;
mod compare;
mod copy;
mod download;
mod extraneous;
mod group;
mod key;
mod listing;
mod notes;
mod steps;
mod surplus;
mod target;
mod upload;
mod verify;

pub use copy::copy;
pub use download::download;
pub use upload::upload;
pub use verify::{verify_buckets, verify_tree};

use crate::failure::{Failure, JobError};
use crate::migrate::Options;
use crate::report::{Did, Event, Kind, Tally, Watcher};
use model::Extent;
use objects::Bucket;
use objects::plain::Plain;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use transfer::{Limiter, Monitor, TransferError};

/// Requests take their time, and threads wait for them.
const THREADS: usize = 32;
/// A file that changes while it is copied is copied so often.
const TRIES: u32 = 3;

/// Keys that begin alike, in one bucket.
#[derive(Clone, Debug)]
pub struct Place {
    /// Opened without a prefix of its own.
    pub bucket: Arc<Bucket>,
    /// Empty, or with a slash at its end.
    pub prefix: String,
}

/// One run, whatever the direction.
struct Run<'a> {
    options: &'a Options,
    tally: &'a Tally,
    watcher: &'a dyn Watcher,
    stop: &'a AtomicBool,
    limiter: Limiter,
    /// What ended it.
    fatal: Mutex<Option<JobError>>,
}

/// Why one thing was not done.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error(transparent)]
    Service(TransferError),
    #[error("{0}")]
    Unfit(&'static str),
    /// The source changed while it was read.
    #[error("it changed while it was read")]
    Changed,
    #[error("stopped")]
    Stopped,
}

impl From<TransferError> for Trouble {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Cancelled => Self::Stopped,
            error => Self::Service(error),
        }
    }
}

/// What became of one thing.
struct Done {
    did: Did,
    bytes: u64,
    note: Option<String>,
}

impl Done {
    fn plain(did: Did) -> Self {
        Self { did, bytes: 0, note: None }
    }

    fn with_note(did: Did, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..Self::plain(did) }
    }
}

impl<'a> Run<'a> {
    fn new(options: &'a Options, tally: &'a Tally, watcher: &'a dyn Watcher, stop: &'a AtomicBool) -> Self {
        Self { options, tally, watcher, stop, limiter: Limiter::new(options.limit), fatal: Mutex::default() }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn told(&self, kind: Kind, done: Done, path: impl FnOnce() -> PathBuf) {
        let Done { did, bytes, note: why } = done;
        self.tally.count(kind, did);
        if did.is_problem() || why.is_some() || self.watcher.wants_all() {
            self.watcher.tell(&Event { path: path(), kind, did, bytes, why });
        }
    }

    /// Also ends the whole run when the bucket itself is gone.
    fn failed(&self, kind: Kind, trouble: Trouble, path: impl FnOnce() -> PathBuf) {
        match trouble {
            Trouble::Stopped => {}
            Trouble::Failed(failure) if failure.is_vanished() => self.told(kind, Done::plain(Did::Vanished), path),
            Trouble::Service(error @ TransferError::Unavailable { .. }) => self.ends(error.into()),
            trouble => self.told(kind, Done::with_note(Did::Failed, trouble.to_string()), path),
        }
    }

    /// Nothing more is begun, and this is why.
    fn ends(&self, error: JobError) {
        self.fatal.lock().get_or_insert(error);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// What ended the run, if anything did.
    fn end(&self) -> Result<(), JobError> {
        self.fatal.lock().take().map_or(Ok(()), Err)
    }

    /// An empty source is what a wrong name looks like, too: nothing is removed for that.
    fn may_delete(&self, source: &Plain, prefix: &str) -> Result<bool, TransferError> {
        if source.has_below(prefix)? {
            return Ok(true);
        }
        let why = "nothing is removed from the destination, since there is nothing in the source: is its name right?";
        self.told(Kind::Directory, Done::with_note(Did::Failed, why), || "".into());
        Ok(false)
    }

    fn threads(&self) -> usize {
        self.options.threads.unwrap_or(THREADS)
    }
}

/// The rate is kept, and an end is heard of.
impl Monitor for Run<'_> {
    fn cancelled(&self) -> bool {
        self.limiter.wait(false, || self.is_stopped())
    }

    fn advanced(&self, extent: Extent) {
        self.tally.moved(extent.length);
        self.limiter.spend(extent.length);
    }

    fn skipped(&self, _: Extent) {}
}
