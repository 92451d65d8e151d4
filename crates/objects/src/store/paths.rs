//! The layout "path": an object lies where its file lay when it was archived, for people and other tools to read.
//!
//! The text `id` says whose an object is, and the manifest, which is put first, says in its text `path` where it was meant to lie. When the place is taken, by
//! another object of ours or by somebody else's, it lies at `<path>~<id>`; when what took the place is removed, the newest of those is brought there. So
//! whoever looks for an id asks at `<path>` first, then at `<path>~<id>`, and once more before he says that it is missing: it may just have been on
//! its way. Nothing is ever written over that says another id of itself, or none.

use super::listing::Listing;
use super::place::{self, Claim, Place, There};
use crate::Bucket;
use crate::fault::Fault;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::{StreamExt as _, stream};
use model::ObjectId;
use opendal::Metadata;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;

/// The text of an object that says whose it is.
const ID: &str = "id";
/// The text of an object that says when it was archived: seconds since 1970, with nanoseconds behind the point.
const ARCHIVED: &str = "archived";
/// The text of a manifest that says where its object was meant to lie: in base64.
const PATH: &str = "path";
/// What is below it is ours and no file's.
const OURS: &str = ".sifaka";
/// The longest key that every service takes, with the prefix.
const MAX_KEY_BYTES: usize = 1024;
/// How many objects are looked at at a time while everything is listed.
const LOOKS: usize = 32;
/// How many objects are brought to their paths at a time; each is in memory.
static MOVES: Semaphore = Semaphore::const_new(2);

/// Where an object is meant to lie, and where when that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Visible {
    pub(super) path: String,
    pub(super) beside: String,
}

impl Visible {
    /// Of a file at this path of its filesystem; `None` when no key can be called so.
    pub(super) fn of(bucket: &Bucket, path: &[u8], id: &ObjectId) -> Option<Self> {
        let path = std::str::from_utf8(path).ok().filter(|path| is_key(path))?;
        let beside = format!("{path}~{id}");
        (bucket.key_in_whole(&beside).len() <= MAX_KEY_BYTES).then(|| Self { path: path.to_owned(), beside })
    }

    fn keys(self) -> [String; 2] {
        [self.path, self.beside]
    }
}

/// Whether it gets to every service as it is and back in its listings, and leads nowhere else.
fn is_key(path: &str) -> bool {
    // Azure takes no parts that end in a dot.
    let is_part = |part: &str| !part.is_empty() && !part.ends_with('.');
    let carried = |c: char| !c.is_control() && !matches!(c, '\\' | '\u{fffe}' | '\u{ffff}');
    path.trim() == path
        && path.split('/').all(is_part)
        && path.chars().all(carried)
        && path.split('/').next() != Some(OURS)
}

/// What an object says of itself: its id, and when it was archived.
pub(super) fn describe_object(place: &mut Place, id: &ObjectId) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    place.say(ARCHIVED, format!("{}.{:09}", now.as_secs(), now.subsec_nanos()));
    place.claim(claim(id));
}

/// When it was archived, for an order: services tell whole seconds.
fn archived(found: &Metadata) -> (u64, u32) {
    let text = found.user_metadata().and_then(|texts| texts.get(ARCHIVED));
    let parts = text.and_then(|text| text.split_once('.'));
    parts.and_then(|(seconds, nanos)| Some((seconds.parse().ok()?, nanos.parse().ok()?))).unwrap_or_default()
}

/// Only an object of this id is written over.
pub(super) fn claim(id: &ObjectId) -> Claim {
    let refusal = "there is another object";
    Claim { text: ID, value: id.to_string(), or_silent: false, refusal }
}

/// What a manifest says besides.
pub(super) fn describe(manifest: &mut Place, visible: Option<&Visible>) {
    if let Some(visible) = visible {
        manifest.say(PATH, BASE64_STANDARD.encode(&visible.path));
    }
}

/// Chooses between the path and what is beside it, by what is there now.
pub(super) async fn choose(bucket: &Bucket, place: &mut Place, visible: &Visible) -> Result<(), Fault> {
    place.key.clone_from(&visible.path);
    if place.look(bucket).await? == There::Strange {
        place.key.clone_from(&visible.beside);
    }
    Ok(())
}

fn is_of(found: &Metadata, id: &ObjectId) -> bool {
    found.user_metadata().and_then(|texts| texts.get(ID)).is_some_and(|text| *text == *id.as_str())
}

/// Where a manifest says that its object was meant to lie.
pub(super) async fn meant(bucket: &Bucket, id: &ObjectId) -> Result<Option<Visible>, Fault> {
    let Some(found) = bucket.stat(&bucket.layout().manifest(id)).await? else { return Ok(None) };
    let text = found.user_metadata().and_then(|texts| texts.get(PATH));
    let path = text.and_then(|text| BASE64_STANDARD.decode(text.as_bytes()).ok());
    Ok(path.and_then(|path| Visible::of(bucket, &path, id)))
}

/// Finds an object; `None` when there is none.
pub(super) async fn find(bucket: &Bucket, id: &ObjectId) -> Result<Option<(String, Metadata)>, Fault> {
    // Twice: it may be brought to its path between the two questions.
    for _ in 0..2 {
        let visible = meant(bucket, id).await?;
        for key in visible.clone().into_iter().flat_map(Visible::keys) {
            if let Some(found) = bucket.stat(&key).await?.filter(|found| is_of(found, id)) {
                return Ok(Some((key, found)));
            }
        }
        if visible.is_none() {
            break;
        }
    }
    let key = bucket.layout().object(id);
    Ok(bucket.stat(&key).await?.map(|found| (key, found)))
}

/// Removes an object and its manifest, and brings another one to the path that is free then.
pub(super) async fn remove(bucket: &Bucket, id: &ObjectId) -> Result<(), Fault> {
    let visible = meant(bucket, id).await?;
    if let Some(visible) = &visible {
        // Twice, as it is looked for.
        for key in [&visible.path, &visible.beside, &visible.path] {
            remove_if_of(bucket, key, id).await?;
        }
        if let Err(fault) = bring(bucket, &visible.path, id).await {
            let path = bucket.path(&visible.path);
            tracing::warn!(object = %path.display(), error = fault.why(), "a newer object stays beside its path");
        }
    }
    // The manifest last: with it whatever is left is found again.
    bucket.remove(&bucket.layout().all(id)).await?;
    match visible {
        // Somebody may have brought it to its path meanwhile.
        Some(visible) => remove_if_of(bucket, &visible.path, id).await,
        None => Ok(()),
    }
}

async fn remove_if_of(bucket: &Bucket, key: &String, id: &ObjectId) -> Result<(), Fault> {
    match bucket.stat(key).await? {
        Some(found) if is_of(&found, id) => bucket.remove(std::slice::from_ref(key)).await,
        _ => Ok(()),
    }
}

/// Removes what earlier attempts left of this id elsewhere than at the keys `own`, and in other forms. What is of the attempt `mark` stays, wherever it was
/// brought meanwhile.
pub(super) async fn remove_older(
    bucket: &Bucket,
    id: &ObjectId,
    (own, mark): (&[String], &str),
    before: Option<Visible>,
) -> Result<(), Fault> {
    for other in bucket.layout().other_forms(id) {
        remove(bucket, &other).await?;
    }
    let now = meant(bucket, id).await?;
    let keys = [before, now].into_iter().flatten().flat_map(Visible::keys).chain([bucket.layout().object(id)]);
    for key in keys.filter(|key| !own.contains(key)) {
        match bucket.stat(&key).await? {
            Some(found) if is_of(&found, id) && !place::is_of_attempt(&found, mark) => {
                bucket.remove(std::slice::from_ref(&key)).await?;
            }
            _ => {}
        }
    }
    let manifest = bucket.layout().manifest(id);
    if own.contains(&manifest) { Ok(()) } else { bucket.remove(&[manifest]).await }
}

/// Brings the newest object that lies beside a path to it, if nothing is there. What is larger than one request is stays where it is.
async fn bring(bucket: &Bucket, path: &str, gone: &ObjectId) -> Result<(), Fault> {
    if bucket.stat(path).await?.is_some() {
        return Ok(());
    }
    let Some((id, found)) = newest_beside(bucket, path, gone).await? else { return Ok(()) };
    if found.content_length() > bucket.limits().part_bytes {
        return Ok(());
    }
    let _turn = MOVES.acquire().await;
    let beside = format!("{path}~{id}");
    // Read and put: not every service looks at conditions when it copies.
    let content = match bucket.request(|| bucket.operator().read(&beside)).await {
        // It stays where it is: a better place is not worth a thaw, and the removal that made room is done.
        Err(fault) if fault.is_cold() => return Ok(()),
        read => read?,
    };
    let place = Place::copy_of(&found, path.to_owned(), claim(&id));
    match place.put(bucket, content).await {
        Ok(_) => {}
        // Somebody else was faster.
        Err(fault) if fault.told == opendal::ErrorKind::Conflict => return Ok(()),
        Err(fault) => return Err(fault),
    }
    if bucket.stat(&bucket.layout().manifest(&id)).await?.is_none() {
        // It was removed meanwhile, by somebody who may not have seen this.
        return remove_if_of(bucket, &place.key, &id).await;
    }
    remove_if_of(bucket, &beside, &id).await
}

async fn newest_beside(bucket: &Bucket, path: &str, gone: &ObjectId) -> Result<Option<(ObjectId, Metadata)>, Fault> {
    let prefix = format!("{path}~");
    let mut listing = Listing::of(bucket, &prefix, None)?;
    let mut newest: Option<(ObjectId, Metadata)> = None;
    loop {
        let batch = listing.next_batch(bucket).await?;
        for id in batch.entries.iter().filter_map(|entry| super::keys::id(&prefix, entry.path())) {
            let Some(found) = bucket.stat(&format!("{prefix}{id}")).await?.filter(|found| is_of(found, &id)) else {
                continue;
            };
            // There may be a file that is really called so.
            let is_meant = id != *gone && meant(bucket, &id).await?.is_some_and(|visible| visible.path == path);
            let is_newer = |old: &(ObjectId, Metadata)| archived(&found) > archived(&old.1);
            if is_meant && newest.as_ref().is_none_or(is_newer) {
                newest = Some((id, found));
            }
        }
        if batch.is_last {
            return Ok(newest);
        }
    }
}

/// The ids of the objects among these keys: each is looked at.
pub(super) async fn ids(bucket: &Arc<Bucket>, keys: Vec<String>) -> Result<Vec<ObjectId>, Fault> {
    let is_visible = |key: &String| !key.ends_with('/') && key.split('/').next() != Some(OURS);
    let looks = keys.into_iter().filter(is_visible).map(|key| {
        let bucket = bucket.clone();
        async move {
            let Some(found) = bucket.stat(&key).await? else { return Ok(None) };
            let id = found.user_metadata().and_then(|texts| texts.get(ID)).and_then(|id| ObjectId::parse(id).ok());
            Ok::<_, Fault>(id)
        }
    });
    let found: Vec<_> = stream::iter(looks).buffer_unordered(LOOKS).collect().await;
    found.into_iter().filter_map(Result::transpose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_service_takes_as_it_is_is_no_key() {
        for fine in ["a", "a b/c", "home/grün/x~y", ".hidden/a", "a.b", "sifaka/x", "a+b&c=d?#%41"] {
            assert!(is_key(fine), "{fine}");
        }
        for bad in
            ["", "/a", "a/", "a//b", ".", "a/..", "a/./b", "dot.", " a", "a ", "a\nb", "a\\b", ".sifaka", ".sifaka/x"]
        {
            assert!(!is_key(bad), "{bad:?}");
        }
    }
}
