//! Lemur's layout in Azure: an object's key is the path of its file, below the prefix, and so is the id that the file carries.
//!
//! So one key may be wanted for two files: one was renamed, and another came to its place. Lemur wrote over what was there. Here an object says which
//! inode it is of, and only that inode's file writes over it; one of Lemur's own, which does not say it, is written over by the file that names it.

use super::place::{Claim, Place};
use crate::Bucket;
use crate::fault::Fault;
use model::{FileHandle, ObjectUrl, xattr};
use std::path::PathBuf;
use std::sync::Arc;
use transfer::manifest::describe as describe_inode;
use transfer::{ForeignObject, OpenFile, Origin, TransferError};

/// The text that says which inode an object is of.
const INODE: &str = "sifaka_inode";
/// The longest key that Azure takes is of so many characters.
const MAX_KEY_BYTES: usize = 1024;
const REFUSAL: &str = "there is the object of another file, which was at this path before, or an object that nobody knows; it is left until it \
    is removed (that of a deleted file is after remove_grace_s)";

/// Gives an object its key, and what Lemur says of one.
pub(super) fn describe(
    place: &mut Place,
    bucket: &Bucket,
    source: &OpenFile,
    origin: Option<Origin<'_>>,
) -> Result<(), TransferError> {
    let unfit = |why: &str| TransferError::Undescribed { path: source.path().to_owned(), why: why.to_owned() };
    let origin = origin.filter(|origin| !origin.path.is_empty());
    let origin = origin
        .ok_or_else(|| unfit("its path is not known, and an object in Lemur's layout in Azure is named by it"))?;
    let path = std::str::from_utf8(origin.path).map_err(|_| unfit("its path is no text, and no object is named so"))?;
    if !is_key(path) || bucket.key_in_whole(path).len() > MAX_KEY_BYTES {
        return Err(unfit(
            "no object can be named by its path: too long, or with characters or parts that keys cannot have",
        ));
    }
    if source.attribute(xattr::SHARED)?.is_some_and(|id| id == path.as_bytes()) {
        return Err(unfit(
            "its object belongs to clones or snapshots of it, too, and cannot be replaced under its name",
        ));
    }
    place.key = path.to_owned();
    place.describe_as_lemur(source)?;
    let inode = describe_inode(source, b"", origin.fsid)?.inode;
    let handle = inode.handle.as_ref().ok_or_else(|| unfit("its filesystem gives no handles"))?;
    let or_silent = source.attribute(xattr::UUID)?.is_some_and(|id| id == path.as_bytes());
    place.claim(Claim { text: INODE, value: shown(inode.fsid, handle), or_silent, refusal: REFUSAL });
    Ok(())
}

/// The object that an id names.
pub(super) fn named(bucket: &Arc<Bucket>, id: &str) -> Result<ForeignObject, TransferError> {
    let unusable = |why: String| TransferError::Foreign { url: id.to_owned(), why };
    let Some((scheme, container)) = bucket.place() else { return Err(unusable("it is in no container".to_owned())) };
    if !is_key(id) {
        return Err(unusable("it is no path that a key can be".to_owned()));
    }
    let url = ObjectUrl::new(scheme, container, &bucket.key_in_whole(id)).map_err(|e| unusable(e.to_string()))?;
    Ok(ForeignObject { url, version: None, compare: true })
}

/// Nothing tells which of a container's objects are the archive's.
pub(super) fn unlisted(bucket: &Bucket) -> TransferError {
    Fault::unsupported("in Lemur's layout in Azure nothing tells which objects are the archive's")
        .into_error("list", PathBuf::from(bucket.name()))
}

/// Whether it gets to the service as it is, and back in its listings.
fn is_key(path: &str) -> bool {
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    path.trim() == path && path.split('/').all(is_part) && !path.chars().any(|c| c.is_control() || c == '\\')
}

fn shown(fsid: [u8; 8], handle: &FileHandle) -> String {
    let fsid: String = fsid.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{fsid}:{handle}")
}
