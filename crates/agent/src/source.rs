//! Where actions come from and where their results go.
//!
//! An [`ActionSource`] owns what is to be done: it keeps the queue, knows files, decides about retries. The agent asks it
//! for as much as it has room for, gives every action to a mover, and hands back exactly one result for each. The
//! coordinator of a local filesystem is one source; [`MemorySource`] is another, for tests and measurements.
//!
//! Not here: which mover gets an action ([`crate::Endpoints`]), what a result does to a file.

mod memory;

pub use memory::MemorySource;

use futures_util::future::BoxFuture;
use model::{Command, Extent, Identity, Outcome};
use std::any::Any;
use std::fmt;

/// One action as a source gives it.
pub struct Work {
    /// The source's own name for it (a queue's id, a Lustre cookie). No two unfinished works of a source share one.
    pub key: u64,
    /// Which archive it concerns: selects the movers that may get it.
    pub archive_id: u32,
    /// What to do.
    pub command: Command,
    /// The file to read (archive, verify), absolute or relative to the mover's working directory.
    pub primary_path: String,
    /// The file to write (restore).
    pub write_path: String,
    /// Which bytes.
    pub extent: Extent,
    /// Passed through to the mover.
    pub data: Vec<u8>,
    /// The archived object (restore, remove), or the proposed uuid (archive).
    pub identity: Identity,
    /// Where people find the file; for messages only, may be empty.
    pub file_path: String,
    /// Size the restored content must have, when known.
    pub expected_size: Option<u64>,
    /// Where the file is, relative to its filesystem's root (archive); empty when not known.
    pub tree_path: Vec<u8>,
    /// Not before this time (milliseconds since 1970) an earlier attempt may have stored something under the proposed uuid;
    /// 0 when there was none.
    pub attempted_since_ms: u64,
    /// `tree_path` names something without content: its metadata is to be recorded (archive).
    pub metadata_only: bool,
    /// The user it is done for: who asked, or whose process is blocked. Users share movers fairly by it.
    pub owner: u32,
    /// Somebody is blocked in a system call until it is done.
    pub reader_waits: bool,
    /// A mover has to sync what it wrote before it says that it is done (restore): the source cannot, through its own mount.
    pub sync_target: bool,
    /// Bytes that are moved when it succeeds, for statistics: short works report no progress.
    pub size: u64,
    /// Dropped after the result was handed over: for example the open descriptor that `primary_path` names.
    pub keepalive: Option<Box<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("key", &self.key)
            .field("archive_id", &self.archive_id)
            .field("command", &self.command)
            .field("primary_path", &self.primary_path)
            .field("write_path", &self.write_path)
            .field("file_path", &self.file_path)
            .finish_non_exhaustive()
    }
}

/// The source cannot give actions at the moment.
#[derive(Debug, thiserror::Error)]
#[error("taking actions from {what} failed")]
pub struct SourceError {
    /// What could not be read: "the queue /var/lib/…".
    pub what: String,
    /// Why.
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

/// Gives actions, takes results. Shared by several tasks of the agent; nothing here may block a thread.
pub trait ActionSource: Send + Sync + 'static {
    /// Waits until there is something to do and gives it: at least one work, at most `max` (which is at least 1).
    /// An empty vector says that the source is closed: it is not asked again.
    ///
    /// Works come in the order in which they should start. The future may be dropped before it is ready, and must lose no
    /// work then. After an error the agent waits a second and asks again. One such future exists at a time.
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Work>, SourceError>>;

    /// A mover reported that it moved these bytes of a work. May come often; must be cheap.
    fn progress(&self, key: u64, moved: Extent);

    /// Takes results: exactly one for each work given, in no particular order, in batches.
    ///
    /// Must be cheap and not block: it hands over to whoever records them. The works' `keepalive`s are dropped after it
    /// returned. An action that no mover could take, or whose mover died without another to take over, ends as a temporary
    /// failure with errno `ENOTCONN`: no attempt was made, or nobody knows how far it came; it should come again later.
    fn complete(&self, results: Vec<(u64, Outcome)>);

    /// Waits until works that were given should be stopped, and gives their keys; keys of finished works are ignored.
    /// An empty vector says that there will be no more. The future may be dropped before it is ready, and must lose nothing then.
    ///
    /// A cancelled work still gets its one result through [`ActionSource::complete`]: [`model::Failure::cancelled`] when it
    /// had not been sent or its mover stopped it, whatever the mover reports when it was too late or the mover cannot cancel.
    fn next_cancels(&self) -> BoxFuture<'_, Vec<u64>> {
        Box::pin(std::future::pending())
    }

    /// Tells which archives have a mover from now on, ascending, each with the number of actions that all its movers take at
    /// once. Works of other archives would come back as temporary failures, so a source may hold them until their archive is
    /// named here. Works beyond an archive's number only wait in the agent and keep others' places: a source should not give them.
    fn archives_changed(&self, served: &[(u32, usize)]) {
        let _ = served;
    }

    /// Every enabled plugin has asked for actions, or ended, or takes longer for it than is usual: what archives have movers at the start is known by
    /// now, or a moment later. Comes once.
    fn movers_started(&self) {}

    /// The agent begins to stop: it asks for nothing more. What it has still gets its results.
    fn stopping(&self) {}

    /// Every work has its result, and nothing more will be asked; the filesystem is still mounted. May block.
    fn stopped(&self) {}

    /// Tells how many works the agent has at most that have no result yet. It asks for no more than that.
    fn in_flight_limit_changed(&self, limit: usize) {
        let _ = limit;
    }
}
