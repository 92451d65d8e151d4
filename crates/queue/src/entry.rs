//! What the queue holds.

use crate::{About, Retired};
use model::{ActionId, Class, Command, ErrorKind, Failure, FileHandle, Identity, Stamp};
use serde::{Deserialize, Serialize};

/// Names one request of a user or policy: a set of actions that are waited for together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// An action to be accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewAction {
    /// The request it belongs to. Chosen by the caller; 0 for actions that nobody waits for.
    pub request: RequestId,
    /// Urgency.
    pub class: Class,
    /// What to do.
    pub command: Command,
    /// In which archive.
    pub archive_id: u32,
    /// The user on whose behalf, for fairness: the file's owner.
    pub owner: u32,
    /// The file; `None` when only the archive is concerned.
    pub file: Option<FileHandle>,
    /// Where people know the file, for display only; any bytes a path may have, as lossy UTF-8.
    pub path: String,
    /// The archived object (restore, remove) or the proposed id of the new one (archive).
    pub identity: Identity,
    /// Passed through to the mover.
    pub data: Vec<u8>,
    /// Earliest start.
    pub not_before_ms: u64,
    /// When it was asked for.
    pub created_ms: u64,
}

/// An accepted action that has no result yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueuedAction {
    /// Its name.
    pub id: ActionId,
    /// What was asked, with `not_before_ms` moved on by retries.
    pub action: NewAction,
    /// How often it was tried and failed.
    pub attempts: u32,
    /// Why it failed last.
    pub last_failure: Option<Failure>,
}

/// A place in the order (not before, id).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Cursor {
    /// `not_before_ms` of the last entry seen.
    pub not_before_ms: u64,
    /// Its id.
    pub id: ActionId,
}

/// One step of an action's or a file's life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The action has its one result and leaves the queue.
    Finish {
        /// Which.
        id: ActionId,
        /// How it ended.
        result: Result<(), Failure>,
        /// Bytes moved.
        bytes: u64,
        /// When.
        finished_ms: u64,
    },
    /// The action failed and is to be tried again: counts an attempt.
    Retry {
        /// Which.
        id: ActionId,
        /// Earliest next start.
        not_before_ms: u64,
        /// Why.
        failure: Failure,
    },
    /// The action is to be begun again later, through no fault of its own: counts no attempt.
    PutBack {
        /// Which.
        id: ActionId,
        /// Earliest next start.
        not_before_ms: u64,
        /// Why. Of [`model::Thaw`], only since when is kept.
        failure: Failure,
    },
    /// The action is more urgent than it was (a reader came).
    Promote {
        /// Which.
        id: ActionId,
        /// Its new class.
        class: Class,
        /// Earliest start, normally now.
        not_before_ms: u64,
    },
    /// What the file's stamp was after our own last change to it, all synced.
    SetStamp {
        /// The file.
        file: FileHandle,
        /// Size, mtime, ctime.
        stamp: SyncedStamp,
    },
    /// The objects that hold the file's content beside the one of its stamp: all of them. Goes with its stamp.
    SetCopies {
        /// The file.
        file: FileHandle,
        /// The objects, each once.
        copies: Vec<ObjectRef>,
    },
    /// Nothing is known of the file's stamp any more.
    ForgetStamp {
        /// The file.
        file: FileHandle,
    },
    /// From now on the object may be in the archive without any file knowing it.
    OweOrphanCheck(OrphanCheck),
    /// The check was made.
    SettleOrphanCheck {
        /// Archive.
        archive_id: u32,
        /// Object.
        uuid: String,
    },
    /// Enters another action in the same transaction.
    Submit(NewAction),
    /// What the file is, in case it is to be made again. Goes with its stamp.
    Describe {
        /// The file.
        file: FileHandle,
        /// What it is.
        about: About,
    },
    /// Enters the removal of an object, with what is needed to undo its reason. That is kept until the action ends.
    Retire {
        /// The removal.
        removal: NewAction,
        /// Of what.
        retired: Retired,
    },
    /// These files may name the object, from now on. Counts [`crate::Sharing::sequence`].
    Share {
        /// The object.
        object: ObjectRef,
        /// It is proven that no other files do. Of no account when the object is known to be shared already.
        complete: bool,
        /// The files.
        files: Vec<FileHandle>,
    },
    /// The file does not name the object any more.
    ForgetReferrer {
        /// Archive.
        archive_id: u32,
        /// Object.
        uuid: String,
        /// The file.
        file: FileHandle,
    },
    /// The object is gone, and with it all that is known of who names it.
    ForgetShared {
        /// Archive.
        archive_id: u32,
        /// Object.
        uuid: String,
    },
    /// This database is not the newest there was: no object is removed any more because of what it has said so far. Stamps
    /// forget their objects, owed checks are dropped, tables of referrers count as incomplete.
    Doubt,
}

/// What is remembered of an archived file beside its attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncedStamp {
    /// Size, mtime and ctime after our own last change: while they are the same, nobody else changed the file.
    pub stamp: Stamp,
    /// Its object, to be removed when the file's last link goes (its attributes cannot be read then).
    pub object: Option<ObjectRef>,
}

/// An object in an archive.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ObjectRef {
    /// In which archive.
    pub archive_id: u32,
    /// Its id.
    pub uuid: String,
    /// Its URL, if it has one.
    pub url: String,
}

/// An object that must be removed unless the file's attributes name it: written before a file's identity changes,
/// settled after. It is what makes an old version's object disappear exactly when the new one is on the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OrphanCheck {
    /// In which archive.
    pub archive_id: u32,
    /// The object.
    pub uuid: String,
    /// Its URL, if it had one.
    pub url: String,
    /// The file that may name it.
    pub file: FileHandle,
}

/// An action with its result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finished {
    /// Its name.
    pub id: ActionId,
    /// The request.
    pub request: RequestId,
    /// What was done.
    pub command: Command,
    /// In which archive.
    pub archive_id: u32,
    /// To which file, for display.
    pub path: String,
    /// How it ended.
    pub result: Result<(), Failure>,
    /// Bytes moved.
    pub bytes: u64,
    /// When it was asked for.
    pub created_ms: u64,
    /// When it ended.
    pub finished_ms: u64,
}

/// How far a request is. Counts of finished actions by how they ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RequestStatus {
    /// Actions accepted.
    pub total: u64,
    /// Ended well.
    pub succeeded: u64,
    /// Ended in an error other than being cancelled.
    pub failed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Bytes moved by those that ended well.
    pub bytes: u64,
}

/// Which entries [`crate::Queue::list`] gives.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListFilter {
    /// Only this command.
    pub command: Option<Command>,
    /// Only this archive.
    pub archive_id: Option<u32>,
    /// Only this request.
    pub request: Option<RequestId>,
}

/// How many entries wait or run, and how many ever finished.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// (class, command, archive id, number).
    pub live: Vec<(Class, Command, u32, u64)>,
    /// Finished with success, ever.
    pub succeeded: u64,
    /// Finished with an error, cancelled ones among them, ever.
    pub failed: u64,
}

/// What went wrong with the queue itself.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The database is damaged or is none. Its content can be rebuilt from the files' attributes.
    #[error(
        "the queue database {path} is damaged: {why}. Move it away and start the agent again: accepted actions that had not finished are forgotten, files and archives are not touched, and file state is read from the files' own attributes"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What SQLite or a row's check said.
        why: String,
    },
    /// No room, or the disk failed.
    #[error("cannot {what} in the queue database {path}: {why}")]
    Storage {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: String,
        /// The system's or SQLite's words.
        why: String,
        /// Whether waiting may help.
        kind: ErrorKind,
    },
    /// The file was written by a newer version.
    #[error(
        "the queue database {path} has schema version {found}; this program knows versions up to {known}: use the newer program that wrote it"
    )]
    Version {
        /// The file.
        path: String,
        /// In the file.
        found: i64,
        /// In the program.
        known: i64,
    },
}
