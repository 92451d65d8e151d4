//! The layout "path": an object lies where its file lay when it was archived, for people and other tools to read.
//!
//! The text `id` says whose an object is, and the manifest, which is put first, says in its text `path` where it was meant to lie. When the place is taken, by
//! another object of ours or by somebody else's, it lies at `<path>~<id>`; when what took the place is removed, the newest of those is brought there. So
//! whoever looks for an id asks at `<path>` first, then at `<path>~<id>`, and once more before he says that it is missing: it may just have been on
//! its way. Nothing is ever written over that says another id of itself, or none.

use super::listing::Listing;
use super::place::{self, Claim, MARK, Place, There};
use crate::Bucket;
use crate::fault::{Fault, HEAD_REFUSED};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::{StreamExt as _, stream};
use model::ObjectId;
use opendal::{Buffer, Metadata};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use uuid::Uuid;

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
/// Azure takes no keys of more parts than 254, prefix and all.
const MAX_PARTS: usize = 254;
/// Google takes no keys that begin so.
const NOT_GOOGLE: &str = ".well-known/acme-challenge/";
/// How many objects are looked at at a time.
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
        let whole = bucket.key_in_whole(&beside);
        let fits =
            whole.len() <= MAX_KEY_BYTES && whole.split('/').count() <= MAX_PARTS && !whole.starts_with(NOT_GOOGLE);
        fits.then(|| Self { path: path.to_owned(), beside })
    }

    pub(super) fn keys(self) -> [String; 2] {
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
    place.say(ID, id.to_string());
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
    Claim { any_of: vec![(ID, id.to_string())], exactly: false, refusal }
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
    match place.look(bucket).await {
        Ok(There::Strange) => place.key.clone_from(&visible.beside),
        Err(fault) if is_hidden(&fault) => place.key.clone_from(&visible.beside),
        looked => drop(looked?),
    }
    Ok(())
}

/// Whether the object may be one that the service does not let us look at, as opposed to others: encrypted with a key of somebody's own, or denied by a rule.
fn is_hidden(fault: &Fault) -> bool {
    fault.code() == HEAD_REFUSED || fault.is_forbidden()
}

/// Whether the service takes no object under this key, and might under another: a file is in the way where a directory would be, for instance.
pub(super) fn is_no_place(fault: &Fault) -> bool {
    fault.told == opendal::ErrorKind::Conflict || fault.is_refused() && !fault.is_forbidden()
}

fn is_of(found: &Metadata, id: &ObjectId) -> bool {
    found.user_metadata().and_then(|texts| texts.get(ID)).is_some_and(|text| *text == *id.as_str())
}

/// What a manifest says besides.
struct Described {
    /// Where its object was meant to lie.
    visible: Option<Visible>,
    /// The attempt that it is of.
    mark: String,
}

async fn described(bucket: &Bucket, id: &ObjectId) -> Result<Option<Described>, Fault> {
    let Some(found) = bucket.stat(&bucket.layout().manifest(id)).await? else { return Ok(None) };
    let text = |name: &str| found.user_metadata().and_then(|texts| texts.get(name));
    let path = text(PATH).and_then(|text| BASE64_STANDARD.decode(text.as_bytes()).ok());
    let visible = path.and_then(|path| Visible::of(bucket, &path, id));
    Ok(Some(Described { visible, mark: text(MARK).map(ToString::to_string).unwrap_or_default() }))
}

/// Where a manifest says that its object was meant to lie.
async fn meant(bucket: &Bucket, id: &ObjectId) -> Result<Option<Visible>, Fault> {
    Ok(described(bucket, id).await?.and_then(|described| described.visible))
}

/// Finds an object; `None` when there is none. Of several that say the id, it is the one of the manifest's own attempt.
pub(super) async fn find(bucket: &Bucket, id: &ObjectId) -> Result<Option<(String, Metadata)>, Fault> {
    // Twice: it may be brought to its path between the two questions.
    for _ in 0..2 {
        let (found, may_move) = find_once(bucket, id).await?;
        if found.is_some() || !may_move {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Also says whether it may be somewhere else the next time.
async fn find_once(bucket: &Bucket, id: &ObjectId) -> Result<(Option<(String, Metadata)>, bool), Fault> {
    let described = described(bucket, id).await?;
    let (visible, mark) = described.map_or((None, String::new()), |described| (described.visible, described.mark));
    let may_move = visible.is_some();
    let (mut older, mut hidden) = (None, None);
    for key in visible.into_iter().flat_map(Visible::keys) {
        match bucket.stat(&key).await {
            Ok(Some(found)) if is_of(&found, id) && place::is_of_attempt(&found, &mark) => {
                return Ok((Some((key, found)), may_move));
            }
            Ok(Some(found)) if is_of(&found, id) => drop(older.get_or_insert((key, found))),
            Ok(_) => {}
            Err(fault) if is_hidden(&fault) => hidden = Some(fault),
            Err(fault) => return Err(fault),
        }
    }
    let key = bucket.layout().object(id);
    let by_id = bucket.stat(&key).await?.map(|found| (key, found));
    match (by_id.or(older), hidden) {
        (None, Some(fault)) => Err(fault),
        (found, _) => Ok((found, may_move)),
    }
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

/// Removes what earlier attempts left at another path than `now`. Before the manifest is written over that leads there: nothing else does.
pub(super) async fn leave_old_path(
    bucket: &Bucket,
    id: &ObjectId,
    now: Option<&Visible>,
    mark: &str,
) -> Result<(), Fault> {
    match meant(bucket, id).await? {
        Some(before) if Some(&before) != now => remove_attempts(bucket, id, before.keys(), mark).await,
        _ => Ok(()),
    }
}

/// Removes what earlier attempts left of this id elsewhere than at the keys `own`, and in other forms. What is of the attempt `mark` stays, wherever it was
/// brought meanwhile.
pub(super) async fn remove_older(bucket: &Bucket, id: &ObjectId, (own, mark): (&[String], &str)) -> Result<(), Fault> {
    for other in bucket.layout().other_forms(id) {
        remove(bucket, &other).await?;
    }
    let keys = meant(bucket, id).await?.into_iter().flat_map(Visible::keys).chain([bucket.layout().object(id)]);
    remove_attempts(bucket, id, keys.filter(|key| !own.contains(key)), mark).await?;
    let manifest = bucket.layout().manifest(id);
    if own.contains(&manifest) { Ok(()) } else { bucket.remove(&[manifest]).await }
}

/// Removes what says this id under these keys, and is of another attempt than `mark`.
async fn remove_attempts(
    bucket: &Bucket,
    id: &ObjectId,
    keys: impl IntoIterator<Item = String>,
    mark: &str,
) -> Result<(), Fault> {
    for key in keys {
        match bucket.stat(&key).await? {
            Some(found) if is_of(&found, id) && !place::is_of_attempt(&found, mark) => {
                bucket.remove(std::slice::from_ref(&key)).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether the object of this id was brought to its path while a repeated attempt chose what is beside it.
pub(super) async fn was_brought(bucket: &Bucket, id: &ObjectId, visible: &Visible) -> Result<bool, Fault> {
    Ok(bucket.stat(&visible.path).await?.is_some_and(|found| is_of(&found, id)))
}

/// Brings the newest object that lies beside a path to it, if nothing is there. What is larger than one request is stays where it is.
///
/// The object may be archived anew at the same moment. That attempt puts its manifest first and looks at the path then; here the path is put first, and
/// then the manifest is looked at. So one of the two sees the other: either what lies beside the path is left alone here, or it is not written to there.
async fn bring(bucket: &Bucket, path: &str, gone: &ObjectId) -> Result<(), Fault> {
    if bucket.stat(path).await?.is_some() {
        return Ok(());
    }
    let Some((id, found)) = newest_beside(bucket, path, gone).await? else { return Ok(()) };
    if found.content_length() > bucket.limits().part_bytes || !keeps_conditions(bucket).await? {
        return Ok(());
    }
    let _turn = MOVES.acquire().await;
    let beside = format!("{path}~{id}");
    // Read and put: not every service looks at conditions when it copies.
    let content = match bucket.request(|| bucket.operator().read(&beside)).await {
        // It stays where it is: a better place is not worth a thaw, and the removal that made room is done.
        Err(fault) if fault.is_cold() => return Ok(()),
        // Somebody brought it away.
        Err(fault) if fault.is_missing() => return Ok(()),
        read => read?,
    };
    let place = Place::copy_of(&found, path.to_owned(), claim(&id));
    // Not `If-Match`, with the entity tag: of several services each compares something else.
    if !bucket.stat(&beside).await?.is_some_and(|found| place::is_of_attempt(&found, &place.mark)) {
        return Ok(());
    }
    if content.len() as u64 != found.content_length() {
        return Err(Fault::strange("the service gave another number of bytes than there are"));
    }
    if !place.put_new(bucket, content).await? {
        // Somebody else was faster.
        return Ok(());
    }
    match described(bucket, &id).await? {
        Some(described) if described.mark == place.mark => remove_if_made_by(bucket, &beside, &place.mark).await,
        // It is being archived anew. That attempt removes this one, or finds its own, whose mark is the manifest's.
        Some(_) => Ok(()),
        // It was removed meanwhile, by somebody who may not have seen this.
        None => remove_if_made_by(bucket, &place.key, &place.mark).await,
    }
}

async fn remove_if_made_by(bucket: &Bucket, key: &String, mark: &str) -> Result<(), Fault> {
    match bucket.stat(key).await? {
        Some(found) if place::is_of_attempt(&found, mark) => bucket.remove(std::slice::from_ref(key)).await,
        _ => Ok(()),
    }
}

/// Whether the service heeds what a put depends on. If not, what is brought to a path could replace what somebody puts there at the same moment.
async fn keeps_conditions(bucket: &Bucket) -> Result<bool, Fault> {
    let ask = || async {
        let place = Place::ours(format!("{OURS}/probe-{}", Uuid::new_v4()));
        let options = place.options(bucket, &There::Nothing);
        let mut kept = false;
        for _ in 0..2 {
            let put = bucket.request(|| bucket.usual().write_options(&place.key, Buffer::new(), options.clone())).await;
            match put {
                Ok(_) => {}
                Err(fault) if fault.told == opendal::ErrorKind::ConditionNotMatch => kept = true,
                Err(fault) => return Err(fault),
            }
        }
        bucket.remove(std::slice::from_ref(&place.key)).await?;
        Ok(kept)
    };
    bucket.keeps_conditions().get_or_try_init(ask).await.copied()
}

/// Among the first thousand that may be some: there may be any number of files that are called so.
async fn newest_beside(bucket: &Bucket, path: &str, gone: &ObjectId) -> Result<Option<(ObjectId, Metadata)>, Fault> {
    let prefix = format!("{path}~");
    let batch = Listing::of(bucket, &prefix, None)?.next_batch(bucket).await?;
    let ids: Vec<ObjectId> = batch.entries.iter().filter_map(|entry| super::keys::id(&prefix, entry.path())).collect();
    let looks = ids.into_iter().filter(|id| id != gone).map(|id| look_beside(bucket, path, id));
    let mut found = stream::iter(looks).buffer_unordered(LOOKS);
    let mut newest: Option<(ObjectId, Metadata)> = None;
    while let Some(looked) = found.next().await {
        let Some((id, found)) = looked? else { continue };
        if newest.as_ref().is_none_or(|(_, old)| archived(&found) > archived(old)) {
            newest = Some((id, found));
        }
    }
    Ok(newest)
}

/// What lies beside a path, if it was meant to lie at it, and is what its manifest is of. There may be a file that is really called so.
async fn look_beside(bucket: &Bucket, path: &str, id: ObjectId) -> Result<Option<(ObjectId, Metadata)>, Fault> {
    let found = match bucket.stat(&format!("{path}~{id}")).await {
        Err(fault) if is_hidden(&fault) => None,
        found => found?,
    };
    let Some(found) = found.filter(|found| is_of(found, &id)) else { return Ok(None) };
    let is_meant = described(bucket, &id).await?.is_some_and(|described| {
        described.visible.is_some_and(|visible| visible.path == path) && place::is_of_attempt(&found, &described.mark)
    });
    Ok(is_meant.then_some((id, found)))
}

/// The objects among these keys, and their ids: each is looked at. What the service does not let us look at, while it lists it, is none of ours: people share the
/// bucket.
pub(super) async fn objects(bucket: &Arc<Bucket>, keys: Vec<String>) -> Result<Vec<(String, ObjectId)>, Fault> {
    // Others may not be asked for as they are listed.
    let looks = keys.into_iter().filter(|key| is_key(key)).map(|key| {
        let bucket = bucket.clone();
        async move {
            let found = match bucket.stat(&key).await {
                Err(fault) if is_hidden(&fault) => {
                    let path = bucket.path(&key);
                    tracing::warn!(object = %path.display(), error = fault.why(), "an object cannot be looked at, and is passed over");
                    None
                }
                found => found?,
            };
            let texts = found.as_ref().and_then(Metadata::user_metadata);
            let id = texts.and_then(|texts| texts.get(ID)).and_then(|id| ObjectId::parse(id).ok());
            Ok::<_, Fault>(id.map(|id| (key, id)))
        }
    });
    let found: Vec<_> = stream::iter(looks).buffer_unordered(LOOKS).collect().await;
    found.into_iter().filter_map(Result::transpose).collect()
}

/// Which of these nothing leads to: there is no manifest, or it says another path. A late request of an attempt that was given up may have made one, or somebody
/// who copied an object with its texts.
pub(super) async fn strays(
    bucket: &Arc<Bucket>,
    objects: Vec<(String, ObjectId)>,
) -> Result<Vec<(String, ObjectId)>, Fault> {
    let looks = objects.into_iter().map(|(key, id)| {
        let bucket = bucket.clone();
        async move {
            let leads_there = |visible: &Visible| visible.path == key || visible.beside == key;
            if meant(&bucket, &id).await?.as_ref().is_some_and(leads_there) {
                return Ok(None);
            }
            // It may just have been removed, or moved.
            let is_there = bucket.stat(&key).await?.is_some_and(|found| is_of(&found, &id));
            Ok::<_, Fault>(is_there.then_some((key, id)))
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
