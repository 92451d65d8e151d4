//! What the queue keeps of objects beside actions: which files name one, what a file was that is gone, and how far that can be relied on.
//!
//! The files' own attributes are the truth. This is what makes it safe to remove an object without looking at every file of the
//! filesystem, and what brings a deleted file back.

use crate::ObjectRef;
use model::{ActionId, Digest, FileHandle, Timestamp};

/// What a file was when it was last recorded: enough to make it again, released.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct About {
    /// Below the filesystem's root, without a slash at the start; empty when it was not known.
    pub path: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// Type and permission bits (`st_mode`); 0 when nothing is known of the file.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Of the content.
    pub hash: Option<Digest>,
}

/// Why an object waits for its removal, and of what file it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retired {
    /// The file was archived again; otherwise its last link went.
    pub replaced: bool,
    /// The file.
    pub file: FileHandle,
    /// What it was.
    pub about: About,
    /// Since when.
    pub retired_ms: u64,
}

/// An object whose removal waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetiredObject {
    /// The action that removes it.
    pub id: ActionId,
    /// The object.
    pub object: ObjectRef,
    /// Of what.
    pub retired: Retired,
    /// When the action starts, at the earliest.
    pub until_ms: u64,
}

/// An object that an action is about to remove.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removal<'a> {
    /// The action.
    pub id: ActionId,
    /// Where the object is.
    pub archive_id: u32,
    /// Its id there.
    pub uuid: &'a str,
}

/// What may keep an object from being removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// It waits for another removal too, whose time has not come.
    pub waits: bool,
    /// Whether it was ever shared, as far as is known: if so, whether [`crate::Queue::referrers`] names all files that may name it.
    pub shared: Option<bool>,
}

/// How far the tables of referrers can be relied on.
///
/// The agent writes `database` and `sequence` on the filesystem after each [`crate::Change::Share`]: a database that is not that one,
/// or is behind it, does not know all files that name an object. It then takes [`crate::Change::Doubt`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sharing {
    /// Drawn when the database was made, and anew at each doubt.
    pub database: [u8; 16],
    /// How often an object came to be shared.
    pub sequence: u64,
    /// Actions up to this one were accepted before the last doubt.
    pub doubted: ActionId,
}
