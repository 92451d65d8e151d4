//! Taking removed members out of packs.
//!
//! A pack is written anew under its own id, without the dead, in the place of the old one, in one request: at each moment one or the other is
//! there, whole. Marks that have no member any more go later, see [`GRACE`].

use super::cache::{self, Cache, is_dead, removed};
use super::fault::PackFault;
use super::survey::{Seen, Survey, size_of};
use super::{Packs, keys};
use crate::Bucket;
use crate::fault::Fault;
use crate::store::place::Place;
use bytes::Bytes;
use opendal::Buffer;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use transfer::TransferError;
use transfer::pack::{Entry, Index, MemberId, MemberName, PackId, PackReader, PackWriter};

/// So long after its pack was stored, or it was made, a mark that has no member is kept: whoever is late may bring the member back.
pub(in crate::store) const GRACE: Duration = Duration::from_secs(3600);
/// Who has worked so long on one pack does not store it any more. The request itself may take some minutes, and clocks differ.
const LATE: Duration = Duration::from_secs(600);
/// Marks that are removed by one request, where there are such requests.
const MARKS_AT_ONCE: usize = 500;

/// What [`crate::ObjectStore::repack`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repacked {
    /// Packs written anew.
    pub rewritten: u64,
    /// Packs removed, because all their members were.
    pub removed: u64,
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Marks removed that no member needs any more.
    pub marks: u64,
    /// Packs that would have been rewritten, but are damaged or could not be read or written. They stay as they are.
    pub failed: u64,
}

/// Packs that were looked into and need nothing, as long as nobody removes more of their members: so they are not asked for again and again.
#[derive(Default)]
pub(super) struct Settled(Mutex<HashMap<PackId, (Option<SystemTime>, usize)>>);

impl Settled {
    /// Some 50 bytes each. Beyond that it begins anew.
    const MAX: usize = 1 << 16;

    fn is(&self, seen: &Seen) -> bool {
        // Marks without a pack go by their age.
        seen.size.is_some() && self.0.lock().get(&seen.pack) == Some(&(seen.stored, seen.marks.len()))
    }

    fn note(&self, (pack, stored, marks): (PackId, Option<SystemTime>, usize)) {
        let mut settled = self.0.lock();
        if settled.len() >= Self::MAX {
            settled.clear();
        }
        settled.insert(pack, (stored, marks));
    }
}

/// What became of one pack.
#[derive(Default)]
struct Done {
    moved: u64,
    what: Repacked,
    /// Nothing will have to be done as long as no other member is removed.
    is_settled: bool,
}

impl Packs {
    /// Looks at all packs with removed members once. Marks without a member go after `grace`. After each that was rewritten `pause` is called with the bytes moved.
    pub(in crate::store) fn repack(
        &self,
        grace: Duration,
        pause: &mut dyn FnMut(u64),
    ) -> Result<Repacked, TransferError> {
        let failed = |fault: Fault| fault.of_bucket().into_error("list", self.bucket.path(keys::PACKS));
        let mut survey = Survey::begin(&self.bucket).map_err(failed)?;
        let mut all = Repacked::default();
        loop {
            let bucket = self.bucket.clone();
            let next = async move {
                let seen = survey.next(&bucket).await?;
                Ok::<_, Fault>((survey, seen))
            };
            let (rest, seen) = self.bucket.engine().wait(next).map_err(failed)?;
            let Some(seen) = seen else { return Ok(all) };
            survey = rest;
            for seen in seen.into_iter().filter(|seen| !seen.marks.is_empty() && !self.settled.is(seen)) {
                let pack = seen.pack;
                let as_seen = (pack, seen.stored, seen.marks.len());
                let (bucket, cache) = (self.bucket.clone(), self.cache.clone());
                let done = self.bucket.engine().wait(async move { repack_one(&bucket, &cache, seen, grace).await });
                match done {
                    Ok(Done { moved, what, is_settled }) => {
                        all.rewritten += what.rewritten;
                        all.removed += what.removed;
                        all.freed_bytes += what.freed_bytes;
                        all.marks += what.marks;
                        if is_settled {
                            self.settled.note(as_seen);
                        }
                        if moved > 0 {
                            pause(moved);
                        }
                    }
                    Err(error) => {
                        if matches!(error, PackFault::Damaged(_)) {
                            self.settled.note(as_seen);
                        }
                        let error = error.into_error("rewrite", self.bucket.path(&keys::pack(pack)));
                        tracing::warn!(%error, "a pack with removed members cannot be rewritten; it stays as it is");
                        all.failed += 1;
                    }
                }
            }
        }
    }
}

async fn repack_one(bucket: &Arc<Bucket>, cache: &Cache, seen: Seen, grace: Duration) -> Result<Done, PackFault> {
    let mut done = Done::default();
    let size = match seen.size {
        Some(_) => size_of(bucket, &seen).await?,
        None => {
            // Not every service lists in the order of keys.
            if bucket.stat(&keys::pack(seen.pack)).await?.is_none() {
                done.what.marks = remove_marks(bucket, &seen, &Index::default(), grace).await?;
            }
            return Ok(done);
        }
    };
    let begun = SystemTime::now();
    let index = cache::index_as_written(bucket, seen.pack, size).await?;
    // Not only those that were listed with it.
    let dead = removed(bucket, seen.pack).await?;
    if is_dead(&index, &dead) {
        done.what.freed_bytes = remove_dead(bucket, cache, seen.pack).await?;
        done.what.removed = u64::from(done.what.freed_bytes > 0);
    } else if is_due(&index, &dead) {
        let (all, dead_bytes) = bytes(&index, &dead);
        let rewritten = without(bucket, (seen.pack, size), &index, &dead, begun).await?;
        done.moved = rewritten;
        done.what.rewritten = u64::from(rewritten > 0);
        done.what.freed_bytes = if rewritten > 0 { dead_bytes.min(all) } else { 0 };
        cache.forget(seen.pack);
        // Who was late, or came between, finds this again: the marks are all there.
        remove_dead(bucket, cache, seen.pack).await?;
    } else {
        done.what.marks = remove_marks(bucket, &seen, &index, grace).await?;
        done.is_settled = seen.marks.keys().all(|name| index.find(*name).is_some());
    }
    Ok(done)
}

/// Removes a pack if nothing in it is alive. Its marks stay for [`GRACE`]: somebody may be about to write it anew. Gives back how many bytes it had.
pub(super) async fn remove_dead(bucket: &Arc<Bucket>, cache: &Cache, pack: PackId) -> Result<u64, PackFault> {
    let key = keys::pack(pack);
    let Some(found) = bucket.stat(&key).await? else { return Ok(0) };
    let index = cache::index_as_written(bucket, pack, found.content_length()).await?;
    let dead = removed(bucket, pack).await?;
    if !is_dead(&index, &dead) {
        return Ok(0);
    }
    bucket.remove(std::slice::from_ref(&key)).await?;
    cache.forget(pack);
    Ok(found.content_length())
}

/// Writes a pack anew without the dead. Gives back how many bytes it has now; 0 when it was not written.
async fn without(
    bucket: &Arc<Bucket>,
    (pack, size): (PackId, u64),
    index: &Index,
    dead: &HashSet<MemberName>,
    begun: SystemTime,
) -> Result<u64, PackFault> {
    let old = cache::whole(bucket, pack, size).await?;
    let mut live: Vec<Entry> = index.entries().iter().filter(|entry| !dead.contains(&entry.name)).copied().collect();
    live.sort_unstable_by_key(Entry::place);
    let written = tokio::task::spawn_blocking(move || rewrite(pack, &old, &live));
    let written = written.await.map_err(|_| Fault::strange("the work on a pack ended without a result"))??;
    // It takes the place of the only copy. If that is gone meanwhile, all its members are removed.
    let key = keys::pack(pack);
    let is_there = bucket.stat(&key).await?.is_some_and(|found| found.content_length() == size);
    // By a clock that goes on while the machine sleeps.
    let is_late = begun.elapsed().is_ok_and(|passed| passed > LATE);
    if !is_there || is_late {
        return Ok(0);
    }
    let bytes = written.len() as u64;
    Place::new(key).put_over(bucket, Buffer::from(written)).await?;
    Ok(bytes)
}

/// The live members alone, and found to be readable.
fn rewrite(pack: PackId, old: &Bytes, live: &[Entry]) -> Result<Bytes, PackFault> {
    let reader = PackReader::new(old.as_ref(), old.len() as u64, pack);
    let mut writer = PackWriter::begin(pack, Vec::with_capacity(old.len()))?;
    for entry in live {
        // A damaged member ends it here: the old pack stays, for whoever can still make something of it.
        writer.add(&reader.read(entry)?.into())?;
    }
    let new = writer.finish()?;
    let mut first_damage = None;
    PackReader::new(new.as_slice(), new.len() as u64, pack).check(&mut |_, why| first_damage = Some(why))?;
    match first_damage {
        Some(why) => Err(PackFault::Damaged(format!("what was just written reads differently: {why}"))),
        None => Ok(new.into()),
    }
}

/// Removes marks that have no member, if pack and mark are old enough.
async fn remove_marks(bucket: &Bucket, seen: &Seen, index: &Index, grace: Duration) -> Result<u64, Fault> {
    let is_old =
        |stored: Option<SystemTime>| stored.is_some_and(|stored| stored.elapsed().is_ok_and(|age| age >= grace));
    if seen.size.is_some() && !is_old(seen.stored) {
        return Ok(0);
    }
    let spent = seen.marks.iter().filter(|(name, made)| index.find(**name).is_none() && is_old(**made));
    let spent: Vec<String> = spent.map(|(name, _)| keys::mark(&MemberId { pack: seen.pack, name: *name })).collect();
    for keys in spent.chunks(MARKS_AT_ONCE) {
        bucket.remove(keys).await?;
    }
    Ok(spent.len() as u64)
}

/// Of all members, and of the dead ones.
fn bytes(index: &Index, dead: &HashSet<MemberName>) -> (u64, u64) {
    let total = |entries: &mut dyn Iterator<Item = &Entry>| entries.map(Entry::total_bytes).sum::<u64>();
    let mut gone = index.entries().iter().filter(|entry| dead.contains(&entry.name));
    (total(&mut index.entries().iter()), total(&mut gone))
}

/// Whether enough of it is dead to be worth the work.
fn is_due(index: &Index, dead: &HashSet<MemberName>) -> bool {
    let (all, dead) = bytes(index, dead);
    dead > 0 && dead * 2 >= all
}
