//! Lemur's layout in Azure: an object's key is the path of its file, below the prefix, and so is the id that the file carries.
//!
//! So one key may be wanted for several files, one after the other, and ids are used again. What tells objects of one key apart is the mark that each
//! attempt puts into its object: the file carries it, in the fragment of its URL, and whoever removes the object says it. An object is removed, or written
//! over, only by who names its mark; one without a mark, such as Lemur's own, is removed by who names none, and never written over. Both on condition
//! that it is still the one that was looked at. Where a path is taken, the object lies beside it, at `<path>~` and the beginning of its mark.

use super::paths::Visible;
use super::place::{Claim, MARK, Place, is_of_attempt};
use crate::Bucket;
use crate::fault::Fault;
use model::{ArchiveRecord, Identity, ObjectId, ObjectUrl, xattr};
use opendal::options::DeleteOptions;
use opendal::{ErrorKind, Metadata};
use std::path::PathBuf;
use std::sync::Arc;
use transfer::manifest::describe as describe_inode;
use transfer::{ForeignObject, OpenFile, Origin, StoredAt, TransferError};

/// The text that says for which action an object was stored, by the id that was proposed: a later attempt of the same writes over it.
const ACTION: &str = "sifaka_id";
/// What a mark stands behind in a URL. A fragment: what is before it is the object's URL, as Lemur writes it.
const FRAGMENT: &str = "#sifaka=";
/// The longest key that Azure takes is of so many characters.
const MAX_KEY_BYTES: usize = 1024;
/// So much of the mark is in the key of an object beside its path.
const MARK_BYTES: usize = 8;
/// An object that changes each time between the look and the request is left for the next attempt.
const LOOKS: usize = 4;

/// Says of an object what Lemur says, and which ones it replaces. Gives back where it is to lie.
pub(super) fn describe(
    place: &mut Place,
    bucket: &Bucket,
    id: &ObjectId,
    source: &OpenFile,
    origin: Option<Origin<'_>>,
) -> Result<Visible, TransferError> {
    let unfit = |why: &str| TransferError::Undescribed { path: source.path().to_owned(), why: why.to_owned() };
    let origin = origin.filter(|origin| !origin.path.is_empty());
    let origin = origin
        .ok_or_else(|| unfit("its path is not known, and an object in Lemur's layout in Azure is named by it"))?;
    let path = std::str::from_utf8(origin.path).map_err(|_| unfit("its path is no text, and no object is named so"))?;
    let beside = format!("{path}~{}", place.mark.get(..MARK_BYTES).unwrap_or(&place.mark));
    if !can_be_stored(path) || bucket.key_in_whole(&beside).len() > MAX_KEY_BYTES {
        return Err(unfit(
            "no object can be named by its path: too long, or with characters or parts that keys cannot have",
        ));
    }
    place.key = path.to_owned();
    place.describe_as_lemur(source)?;
    place.say(ACTION, id.to_string());
    let mut any_of = Vec::new();
    // Of a shared object others need the content that it has now, and one that was stored for this action may be shared already.
    if source.attribute(xattr::SHARED)?.is_none_or(|shared| shared != path.as_bytes()) {
        any_of.push((ACTION, id.to_string()));
        any_of.extend(own_mark(source, path)?.map(|mark| (MARK, mark)));
    }
    let refusal = "there is an object that is not known to be an older version of this file's";
    place.claim(Claim { any_of, exactly: true, refusal });
    Ok(Visible { path: path.to_owned(), beside })
}

/// The mark of the object at this path that holds an older content of this very file, and nothing of any other file's.
fn own_mark(source: &OpenFile, path: &str) -> Result<Option<String>, TransferError> {
    let text = |name: &str| source.attribute(name).map(|text| text.and_then(|text| String::from_utf8(text).ok()));
    if text(xattr::UUID)?.is_none_or(|uuid| uuid != path) {
        return Ok(None);
    }
    let record = source.attribute(xattr::RECORD)?.and_then(|bytes| ArchiveRecord::decode(&bytes).ok());
    let Some(record) = record else { return Ok(None) };
    let inode = describe_inode(source, b"", [0; 8])?.inode;
    // Attributes are copied, and then they are another file's.
    let is_own = inode.handle.is_some_and(|handle| handle == record.inode);
    // What may be released as it is, without another look at its object, needs that object.
    let changed = source.stamp()?.size != record.size || inode.mtime != record.mtime;
    Ok(text(xattr::URL)?.and_then(|url| mark_in(&url)).filter(|_| is_own && changed))
}

/// What a file carries.
pub(super) fn identity(bucket: &Bucket, at: &StoredAt) -> Identity {
    let url = format!("{}{FRAGMENT}{}", bucket.url(&at.key), at.mark);
    Identity { uuid: at.key.clone(), hash: None, url }
}

fn mark_in(url: &str) -> Option<String> {
    url.rsplit_once(FRAGMENT).map(|(_, mark)| mark.to_owned()).filter(|mark| !mark.is_empty())
}

/// The object that an identity names.
pub(super) fn named(bucket: &Arc<Bucket>, identity: &Identity) -> Result<ForeignObject, TransferError> {
    let unusable = |why: String| TransferError::Foreign { url: identity.uuid.clone(), why };
    let Some((scheme, container)) = bucket.place() else { return Err(unusable("it is in no container".to_owned())) };
    if !is_key(&identity.uuid) {
        return Err(unusable("it is no path that a key can be".to_owned()));
    }
    let url = ObjectUrl::new(scheme, container, &bucket.key_in_whole(&identity.uuid));
    let url = url.map_err(|e| unusable(e.to_string()))?;
    Ok(ForeignObject { url, version: None, compare: true, mark: mark_in(&identity.url) })
}

/// Removes what lies under a key if it is of this mark, or without one if that is `None`. Anything else there stays.
pub(super) async fn remove(bucket: &Bucket, key: &str, mark: Option<&str>) -> Result<(), Fault> {
    for _ in 0..LOOKS {
        let Some(found) = bucket.stat(key).await? else { return Ok(()) };
        if !is_meant(&found, mark) {
            tracing::info!(object = %bucket.path(key).display(), "another object came to lie there, and is left");
            return Ok(());
        }
        let tag = found.etag().map(str::to_owned);
        let options = || DeleteOptions { if_match: tag.clone(), ..DeleteOptions::default() };
        match bucket.request(|| bucket.operator().delete_options(key, options())).await {
            Err(fault) if fault.told == ErrorKind::ConditionNotMatch => {}
            removed => return removed.map_err(Fault::of_bucket),
        }
    }
    Err(Fault::contended("it changes all the time"))
}

/// Removes what a failed attempt may have left. What cannot be removed is told of.
pub(super) async fn take_back(bucket: &Bucket, key: &str, mark: &str) {
    if let Err(fault) = bucket.in_time(remove(bucket, key, Some(mark)), |late| late).await {
        let path = bucket.path(key);
        tracing::warn!(object = %path.display(), error = fault.why(), "cannot look for what a failed attempt may have left");
    }
}

fn is_meant(found: &Metadata, mark: Option<&str>) -> bool {
    match mark {
        Some(mark) => is_of_attempt(found, mark),
        None => found.user_metadata().is_none_or(|texts| texts.get(MARK).is_none()),
    }
}

/// Nothing tells which of a container's objects are the archive's.
pub(super) fn unlisted(bucket: &Bucket) -> TransferError {
    Fault::unsupported("in Lemur's layout in Azure nothing tells which objects are the archive's")
        .into_error("list", PathBuf::from(bucket.name()))
}

/// Whether a request for it asks for nothing else.
fn is_key(path: &str) -> bool {
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    path.trim() == path && path.split('/').all(is_part) && !path.chars().any(|c| c.is_control() || c == '\\')
}

/// Whether it gets to the service as it is, and back: Azure takes no parts that end in a dot, and two paths must not become one key.
fn can_be_stored(path: &str) -> bool {
    is_key(path) && !path.split('/').any(|part| part.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_what_stands_behind_the_last_sign_of_it() {
        assert_eq!(mark_in("az://c/a%20b#sifaka=0e2f9a7c").as_deref(), Some("0e2f9a7c"));
        for none in ["", "az://c/a", "az://c/a#sifaka=", "az://c/a#etag=1"] {
            assert_eq!(mark_in(none), None, "{none}");
        }
        assert_eq!(mark_in("az://c/a#sifaka=x#sifaka=y").as_deref(), Some("y"));
    }

    #[test]
    fn two_paths_are_never_one_key() {
        for path in ["a", "a b/c.d", ".a/..b", "ü"] {
            assert!(can_be_stored(path), "{path}");
        }
        for path in ["", "a.", "a./b", "a..", "..", "a/../b", "a//b", "a/", " a", "a\\b", "a\nb"] {
            assert!(!can_be_stored(path), "{path:?}");
        }
        // What Lemur may have stored is read all the same.
        assert!(is_key("a./b") && !is_key("../b"));
    }
}
