//! What is going on: actions between being taken from the queue and having their result, and the inodes they lock.

use super::parts::Parts;
use super::sources::Sources;
use super::truncations::Truncation;
use crate::copies;
use crate::guard::PendingEvent;
use crate::prepare::{Opened, is_archived_as_it_is};
use model::{Class, Extent, Failure, FileHandle, Identity, Stamp};
use queue::{NewAction, QueuedAction};
use std::collections::VecDeque;
use std::time::Instant;

/// Names of actions that are in no queue begin here: restores for blocked readers, hashes for releases.
pub(crate) const EPHEMERAL: u64 = 1 << 63;

/// Why an action is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It is in the queue.
    Queued,
    /// Somebody is blocked. The guard remembers it, so the queue need not.
    Reader,
    /// A release needs the proof; the ticket waits for it.
    Proof(u64),
    /// A part of a file, or the end of its having been there in parts: see `ranges`.
    Part,
}

/// One action that was started.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) purpose: Purpose,
    pub(crate) action: NewAction,
    /// The archive that it goes to now: the action's, or for a restore that of another copy.
    pub(crate) archive_id: u32,
    /// What else the content can be restored from.
    pub(crate) sources: Sources,
    pub(crate) attempts: u32,
    /// Why an earlier attempt failed, where the queue knows of one.
    pub(crate) last_failure: Option<Failure>,
    /// The file, once it was opened.
    pub(crate) file: Option<Opened>,
    /// The object the mover works on.
    pub(crate) identity: Identity,
    /// Which bytes.
    pub(crate) extent: Extent,
    /// It records something that has no content: what it was when it was looked at.
    pub(crate) record: Option<Stamp>,
    /// Whether a mover may have begun, in this life or one before.
    pub(crate) maybe_begun: bool,
    pub(crate) cancelled: bool,
    /// Asked for by nobody in a hurry, it is a restore that a reader of this user waits for meanwhile.
    pub(crate) reader: Option<u32>,
    /// A commit failed or the action has no file: the result that is being recorded.
    pub(crate) detached: bool,
    /// It is to remove an object that was held when it began to look whether it may.
    pub(crate) began_held: bool,
}

impl Job {
    pub(crate) fn new(purpose: Purpose, action: NewAction, attempts: u32) -> Self {
        Self {
            purpose,
            identity: Identity::default(),
            extent: Extent::WHOLE,
            archive_id: action.archive_id,
            sources: Sources::default(),
            action,
            attempts,
            last_failure: None,
            file: None,
            record: None,
            maybe_begun: attempts > 0,
            cancelled: false,
            reader: None,
            detached: false,
            began_held: false,
        }
    }
}

impl Job {
    /// Of an entry of the queue.
    pub(crate) fn queued(entry: QueuedAction) -> Self {
        let QueuedAction { action, attempts, last_failure, .. } = entry;
        Self { last_failure, ..Self::new(Purpose::Queued, action, attempts) }
    }

    /// How urgent it is now, and for whom.
    pub(crate) fn turn(&self) -> (Class, u32) {
        self.reader.map_or((self.action.class, self.action.owner), |reader| (Class::Reader, reader))
    }

    /// Whether what the mover stored is one more copy of content that another archive has: the file said so when it was opened, and is
    /// compared with that when the copy is added.
    pub(crate) fn makes_further_copy(&self) -> bool {
        let has_first = |file: &Opened| {
            is_archived_as_it_is(&file.state, &file.before)
                && file.state.archive_id().is_some_and(|own| own != self.action.archive_id)
        };
        copies::is_ensured(&self.action) && self.file.as_ref().is_some_and(has_first)
    }
}

/// Who has the inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// An action, by its key.
    Job(u64),
    /// A release, by its ticket.
    Release(u64),
    /// Parts of the file are being restored.
    Parts,
}

/// Somebody who waits for the inode.
#[derive(Debug)]
pub(crate) enum Parked {
    /// An action from the queue.
    Entry(Box<QueuedAction>),
    /// An access.
    Event(PendingEvent),
    /// A release.
    Release(u64),
}

/// A reader that waits for a restore.
#[derive(Debug)]
pub(crate) struct Blocked {
    pub(crate) event: PendingEvent,
    pub(crate) deadline: Option<Instant>,
}

/// An inode with something going on.
#[derive(Debug, Default)]
pub(crate) struct Inode {
    pub(crate) holder: Option<Holder>,
    pub(crate) parked: VecDeque<Parked>,
    pub(crate) blocked: Vec<Blocked>,
    /// A restore for readers failed temporarily and is to be tried again.
    pub(crate) retry: Option<(Instant, u32)>,
    /// Nothing is restored into it until that is done.
    pub(crate) truncation: Option<Truncation>,
    /// It is released and there in parts, or about to be.
    pub(crate) parts: Option<Box<Parts>>,
}

impl Inode {
    pub(crate) fn is_idle(&self) -> bool {
        self.holder.is_none()
            && self.parked.is_empty()
            && self.blocked.is_empty()
            && self.retry.is_none()
            && self.truncation.is_none()
            && self.parts.is_none()
    }
}

/// A release that was asked for: files that are on their way, and what became of the others.
pub(crate) struct Ticket {
    pub(crate) pending: usize,
    pub(crate) paths: std::collections::HashMap<FileHandle, String>,
    pub(crate) proven: std::collections::HashSet<FileHandle>,
    pub(crate) report: super::ReleaseReport,
    pub(crate) reply: Option<tokio::sync::oneshot::Sender<super::ReleaseReport>>,
}
