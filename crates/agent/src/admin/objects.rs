//! What goes over the admin socket about objects that several files name, or that wait for their removal.
//!
//! As in [`super::api`]: requests refuse unknown fields, replies may grow.

use super::api::{FileRef, Invalid, MAX_FILES, MAX_LIMIT, Refused, Validate, base64_text, validate_named};
use model::{ActionId, FileHandle, Timestamp};
use serde::{Deserialize, Serialize};

/// A name of a file that is to be, or was: a directory and a name in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceRef {
    /// The directory's handle.
    pub directory: FileHandle,
    /// The filesystem it is on, as `fsid_text`.
    pub fsid: String,
    /// The name in it; base64 on the wire. Empty where the directory itself is meant.
    #[serde(default, with = "base64_text", skip_serializing_if = "Vec::is_empty")]
    pub name: Vec<u8>,
    /// How the user called it, lossy where it is not UTF-8.
    pub path: String,
}

/// One clone: a new, released file that names the object of another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clone {
    /// Of what. It must be archived as it is.
    pub source: FileRef,
    /// Where; nothing may be there.
    pub at: PlaceRef,
}

/// `POST /v1/clone`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// At most [`MAX_FILES`].
    pub clones: Vec<Clone>,
}

/// One file that is to come back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Undelete {
    /// Where; nothing may be there.
    pub at: PlaceRef,
    /// Which: the number of the removal that waits. `None`: the last file that was deleted there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<ActionId>,
}

/// `POST /v1/undelete`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UndeleteRequest {
    /// At most [`MAX_FILES`].
    pub files: Vec<Undelete>,
}

/// What `POST /v1/clone` and `POST /v1/undelete` did. The files are there durably.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Made {
    /// Files made.
    pub made: u64,
    /// Those that were not, by the path of their place.
    pub refused: Vec<Refused>,
}

/// Which objects that wait for their removal are asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RetiredOf {
    /// Of files that were deleted in this directory or below it.
    Below(PlaceRef),
    /// Of files that were deleted at this place.
    Place(PlaceRef),
    /// Older versions of this file.
    File(FileRef),
}

/// A place in a listing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetiredCursor {
    /// Path of the last entry seen; base64 on the wire.
    #[serde(with = "base64_text")]
    pub path: Vec<u8>,
    /// Its number.
    pub id: ActionId,
}

/// `POST /v1/retired`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetiredRequest {
    /// Which.
    pub of: RetiredOf,
    /// From just after here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<RetiredCursor>,
    /// How many; at most [`MAX_LIMIT`].
    pub limit: usize,
}

/// One page.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RetiredPage {
    /// By path and number.
    pub objects: Vec<RetiredView>,
    /// Where to go on; `None` at the end.
    pub next: Option<RetiredCursor>,
}

/// An object that waits for its removal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetiredView {
    /// The number of the removal.
    pub id: ActionId,
    /// Below the filesystem's root, lossy where it is not UTF-8.
    pub path: String,
    /// The same, or below the directory that was asked for; base64 on the wire.
    #[serde(with = "base64_text")]
    pub name: Vec<u8>,
    /// An older version of a file that is there; else of one that was deleted.
    pub replaced: bool,
    /// In which archive.
    pub archive_id: u32,
    /// The object's id.
    pub uuid: String,
    /// Bytes of content.
    pub size: u64,
    /// The file's permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When its content was last changed.
    pub mtime: Timestamp,
    /// When it was deleted or archived again.
    pub retired_ms: u64,
    /// When the object is removed.
    pub until_ms: u64,
}

fn validate_places<'a>(places: impl ExactSizeIterator<Item = &'a PlaceRef>) -> Result<(), Invalid> {
    validate_named("places", places.map(|place| (place.path.as_str(), place.fsid.as_str())))
}

impl Validate for CloneRequest {
    fn validate(&self) -> Result<(), Invalid> {
        validate_named("sources", self.clones.iter().map(|c| (c.source.path.as_str(), c.source.fsid.as_str())))?;
        validate_places(self.clones.iter().map(|clone| &clone.at))
    }
}

impl Validate for UndeleteRequest {
    fn validate(&self) -> Result<(), Invalid> {
        validate_places(self.files.iter().map(|file| &file.at))
    }
}

impl Validate for RetiredRequest {
    fn validate(&self) -> Result<(), Invalid> {
        if !(1..=MAX_LIMIT).contains(&self.limit) {
            return Err(format!("limit: 1 to {MAX_LIMIT}"));
        }
        match &self.of {
            RetiredOf::Below(place) | RetiredOf::Place(place) => validate_places([place].into_iter()),
            RetiredOf::File(file) => validate_named("file", [(file.path.as_str(), file.fsid.as_str())].into_iter()),
        }
    }
}

/// Kept beside the types that it limits.
const _: () = assert!(MAX_LIMIT <= MAX_FILES);
