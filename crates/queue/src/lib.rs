//! The durable queue: which actions were accepted, which are still owed a result, and how the finished ones ended.
//!
//! One trait, [`Queue`]; one suite, [`suite`], that every implementation passes; two implementations, [`MemoryQueue`]
//! and [`SqliteQueue`]. Beside it [`ItemJournal`], for filesystems that queue by themselves (Lustre). All calls block; an async caller makes them on a thread of its own and in batches, since the
//! price of a call is one sync of the disk and not the number of its entries.
//!
//! Not for: deciding what runs next (the coordinator does, with `model`'s scheduler), and not for the state of files
//! (that lives in their extended attributes; losing this database loses no data).

mod entry;
mod memory;
mod sharing;
mod sqlite;
pub mod suite;
mod tally;

pub use entry::{
    Change, Cursor, Finished, ListFilter, NewAction, ObjectRef, OrphanCheck, QueueError, QueuedAction, RequestId,
    RequestStatus, SyncedStamp, Totals,
};
pub use memory::MemoryQueue;
pub use sharing::{About, Removal, Retired, RetiredObject, Sharing, Standing};
pub use sqlite::{Claim, EndedItem, ItemCount, ItemJournal, JournalItem, LanePage, NewItem, SqliteQueue, claims};
pub use tally::Retention;

use model::{ActionId, Class, FileHandle};

/// A queue of actions. Everything it was given is on stable storage when a call returns (for implementations that
/// have any). Times are milliseconds since 1970 by the caller's clock; the queue itself reads none. Times and numbers
/// of bytes beyond `i64::MAX` are kept as `i64::MAX`.
///
/// An error means that nothing was changed.
pub trait Queue: Send + Sync {
    /// Accepts actions: all or none. The ids are in the order of the entries and larger than every id given before.
    fn submit(&self, actions: &[NewAction]) -> Result<Vec<ActionId>, QueueError>;

    /// Makes all the changes, in order and in one transaction, or none. A change to an action that is no longer
    /// there is passed over, so that repeating a call after a crash does no harm (a repeated [`Change::Submit`] alone
    /// enters another action).
    fn apply(&self, changes: &[Change]) -> Result<(), QueueError>;

    /// Owners that have entries of `class` with `not_before_ms <= now_ms`, ascending.
    fn owners(&self, class: Class, now_ms: u64) -> Result<Vec<u32>, QueueError>;

    /// Up to `limit` entries of one owner and class that are ready at `now_ms`, in the order (not before, id), from
    /// just after `after`.
    fn ready(
        &self,
        class: Class,
        owner: u32,
        after: Cursor,
        now_ms: u64,
        limit: usize,
    ) -> Result<Vec<QueuedAction>, QueueError>;

    /// When the next entry that is not ready at `now_ms` will be; `None` if there is none.
    fn next_ready_ms(&self, now_ms: u64) -> Result<Option<u64>, QueueError>;

    /// One entry that still waits or runs.
    fn get(&self, id: ActionId) -> Result<Option<QueuedAction>, QueueError>;

    /// All entries that still wait or run for this file, oldest first.
    fn of_file(&self, file: &FileHandle) -> Result<Vec<QueuedAction>, QueueError>;

    /// Entries that still wait or run, by id, from just after `after`.
    fn list(&self, filter: &ListFilter, after: ActionId, limit: usize) -> Result<Vec<QueuedAction>, QueueError>;

    /// Finished actions by id, the highest first, up to `limit`, with ids below `before`. Only a bounded number of
    /// successes and of failures is kept, those that finished last; see [`Retention`].
    fn finished(&self, before: ActionId, limit: usize) -> Result<Vec<Finished>, QueueError>;

    /// One finished action, while it is kept.
    fn result(&self, id: ActionId) -> Result<Option<Finished>, QueueError>;

    /// How far a request is; `None` when it is not known (any more; see [`Retention`]). Request 0 is never known.
    fn request(&self, id: RequestId) -> Result<Option<RequestStatus>, QueueError>;

    /// Counts of live actions by class, command and archive, in that order; of finished ones ever, where cancelled
    /// ones are failures.
    fn totals(&self) -> Result<Totals, QueueError>;

    /// The stamp recorded for a file by [`Change::SetStamp`].
    fn stamp(&self, file: &FileHandle) -> Result<Option<SyncedStamp>, QueueError>;

    /// Object checks that are still owed, oldest first; see [`OrphanCheck`]. Owing a check of the same object again
    /// replaces the older one in its place.
    fn orphan_checks(&self, limit: usize) -> Result<Vec<OrphanCheck>, QueueError>;

    /// What [`Change::Describe`] said of the file last.
    fn about(&self, file: &FileHandle) -> Result<Option<About>, QueueError>;

    /// What [`Change::SetCopies`] said of the file last, by archive and id.
    fn copies(&self, file: &FileHandle) -> Result<Vec<ObjectRef>, QueueError>;

    /// How far the tables of referrers can be relied on.
    fn sharing(&self) -> Result<Sharing, QueueError>;

    /// What may keep these objects from being removed at `now_ms`: one answer each, in their order, all as of one moment. Everything
    /// counts of which a call has returned before this one begins; what is being written at the same time may or may not.
    fn standing(&self, removals: &[Removal<'_>], now_ms: u64) -> Result<Vec<Standing>, QueueError>;

    /// Files that may name the object, by their handles' stored form, from just after `after`.
    fn referrers(
        &self,
        archive_id: u32,
        uuid: &str,
        after: Option<&FileHandle>,
        limit: usize,
    ) -> Result<Vec<FileHandle>, QueueError>;

    /// Removals of this object that wait, oldest first.
    fn retired_object(&self, archive_id: u32, uuid: &str, limit: usize) -> Result<Vec<RetiredObject>, QueueError>;

    /// Objects of this file that wait for their removal, oldest first.
    fn retired_of_file(&self, file: &FileHandle, limit: usize) -> Result<Vec<RetiredObject>, QueueError>;

    /// Objects that wait for their removal, by (path, id), of paths from `from` to just before `to`, from just after
    /// `after`. Paths are compared byte by byte.
    fn retired_in(
        &self,
        from: &[u8],
        to: &[u8],
        after: Option<(&[u8], ActionId)>,
        limit: usize,
    ) -> Result<Vec<RetiredObject>, QueueError>;
}
