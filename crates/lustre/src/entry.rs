//! One thing to do, from the moment it was written down.

use model::{Class, Command, Fid, Identity};
use queue::{JournalItem, NewItem};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};
use sys::lustre::{Action, Item, READER_IS_BLOCKED};

/// An item of the coordinator's, or a removal that is owed to an archive. Does not change.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its number in the journal: its name towards the agent and people.
    pub(crate) id: u64,
    pub(crate) class: Class,
    pub(crate) command: Command,
    pub(crate) archive_id: u32,
    pub(crate) created_ms: u64,
    /// The object of an owed removal; in its uuid, the id proposed for an archive's object.
    pub(crate) identity: Identity,
    /// It was received by an earlier process.
    pub(crate) orphan: bool,
    /// The coordinator may have been told of progress, by an earlier process.
    pub(crate) progressed: bool,
    /// `None` for an owed removal.
    pub(crate) item: Option<Item>,
}

impl Entry {
    /// From the journal. `None` when its bytes are no item.
    pub(crate) fn from_journal(from: JournalItem, orphan: bool) -> Option<Self> {
        let JournalItem {
            id,
            progressed,
            item: NewItem { class, command, archive_id, created_ms, identity, bytes, .. },
        } = from;
        let item = if bytes.is_empty() { None } else { Some(Item::from_bytes(&bytes).ok()?) };
        Some(Self { id, class, command, archive_id, created_ms, identity, orphan, progressed, item })
    }

    pub(crate) fn cookie(&self) -> u64 {
        self.item.as_ref().map_or(0, Item::cookie)
    }

    pub(crate) fn fid(&self) -> Option<Fid> {
        self.item.as_ref().map(Item::fid)
    }

    /// The coordinator's name for it. A cookie alone is none: each MDT's coordinator counts for itself, from the second it
    /// started, so several have the same.
    pub(crate) fn key(&self) -> Option<(u64, Fid)> {
        self.item.as_ref().map(|item| (item.cookie(), item.fid()))
    }

    pub(crate) fn is_restore(&self) -> bool {
        self.command == Command::Restore
    }

    /// For people, with the path if it is known.
    pub(crate) fn named(&self, path: &str) -> String {
        match self.fid() {
            None => format!("object {}", self.identity.uuid),
            Some(fid) if path.is_empty() => format!("{fid} cookie {:#x}", self.cookie()),
            Some(fid) => format!("{path} {fid} cookie {:#x}", self.cookie()),
        }
    }
}

/// `archive [0x200000401:0x1:0x0] (cookie 0x5, archive 1)`.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fid() {
            Some(fid) => {
                write!(f, "{} {fid} (cookie {:#x}, archive {})", self.command, self.cookie(), self.archive_id)
            }
            None => write!(f, "{} of object {} (archive {})", self.command, self.identity.uuid, self.archive_id),
        }
    }
}

/// How an item is written down. `None` for a cancel, and for what nobody here knows.
pub(crate) fn to_journal(item: &Item, archive_id: u32, flags: u64) -> Option<NewItem> {
    let command = match item.action() {
        Action::Archive => Command::Archive,
        Action::Restore => Command::Restore,
        Action::Remove => Command::Remove,
        Action::Cancel | Action::Unknown(_) => return None,
    };
    let reader = command == Command::Restore && flags & READER_IS_BLOCKED != 0;
    let uuid = if command == Command::Archive { uuid::Uuid::new_v4().to_string() } else { String::new() };
    Some(NewItem {
        cookie: item.cookie(),
        fid: Some(item.fid()),
        class: if reader { Class::Reader } else { Class::of(command) },
        command,
        archive_id,
        flags,
        created_ms: now_ms(),
        identity: Identity { uuid, ..Identity::default() },
        bytes: item.as_bytes().to_vec(),
    })
}

pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(0)
}
