//! Looking through all packs of an archive: what is in them, and whether it is whole.

use super::Packs;
use super::cache::{self, is_dead};
use super::fault::PackFault;
use super::keys::{self, Listed};
use crate::Bucket;
use crate::fault::Fault;
use crate::store::listing::Listing;
use futures_util::StreamExt as _;
use model::{ErrorKind, ObjectId};
use opendal::raw::oio::Entry;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use transfer::TransferError;
use transfer::pack::{MemberId, MemberName, PackId, PackReader};

/// Packs whose indexes are read at the same time.
const READERS: usize = 16;
/// Packs that are read whole at the same time.
const WHOLE_READERS: usize = 2;

/// A pack as it was listed.
pub(super) struct Seen {
    pub(super) pack: PackId,
    /// `None`: there are marks, and no pack.
    pub(super) size: Option<u64>,
    /// When it was stored, by the service's clock.
    pub(super) stored: Option<SystemTime>,
    /// The marks that were listed with it, and when they were made. There are more if the listing did not go by keys.
    pub(super) marks: HashMap<MemberName, Option<SystemTime>>,
}

/// Packs with their marks, one after the other.
pub(super) struct Survey {
    listing: Listing,
    last: Option<Seen>,
    is_over: bool,
}

impl Survey {
    pub(super) fn begin(bucket: &Bucket) -> Result<Self, Fault> {
        Ok(Self { listing: Listing::of(bucket, keys::PACKS, None)?, last: None, is_over: false })
    }

    /// Some more of them; `None` at the end.
    pub(super) async fn next(&mut self, bucket: &Bucket) -> Result<Option<Vec<Seen>>, Fault> {
        if self.is_over {
            return Ok(None);
        }
        let batch = self.listing.next_batch(bucket).await.map_err(Fault::of_bucket)?;
        let mut seen = Vec::new();
        for entry in &batch.entries {
            let Some(listed) = keys::listed(entry) else { continue };
            let pack = match listed {
                Listed::Pack(pack) => pack,
                Listed::Mark(member) => member.pack,
            };
            if self.last.as_ref().is_none_or(|last| last.pack != pack) {
                seen.extend(self.last.take());
            }
            let last = self.last.get_or_insert_with(|| Seen { pack, size: None, stored: None, marks: HashMap::new() });
            match listed {
                Listed::Pack(_) => (last.size, last.stored) = (Some(entry.metadata().content_length()), stored(entry)),
                Listed::Mark(_) if last.marks.len() > cache::MAX_MARKS => {}
                Listed::Mark(member) => drop(last.marks.insert(member.name, stored(entry))),
            }
        }
        self.is_over = batch.is_last;
        if self.is_over {
            seen.extend(self.last.take());
        }
        Ok(Some(seen))
    }
}

fn stored(entry: &Entry) -> Option<SystemTime> {
    entry.metadata().last_modified().map(SystemTime::from)
}

impl Packs {
    /// Visits all members that are not removed. A pack that cannot be read holds up nothing: the first such error is given back when all
    /// others were visited.
    pub(in crate::store) fn list(
        &self,
        visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, TransferError> {
        let mut unreadable = None;
        let flow = self.each(live, READERS, &mut |pack, members| {
            let members = match members {
                Ok(members) => members,
                Err(error) => {
                    let error = error.into_error("read", self.bucket.path(&keys::pack(pack)));
                    keep(&mut unreadable, error);
                    return Ok(ControlFlow::Continue(()));
                }
            };
            if let Some(why) = members.incomplete {
                let path = self.bucket.path(&keys::pack(pack));
                // What was found without the index may not be all.
                keep(&mut unreadable, TransferError::Damaged { path, why });
            }
            for name in members.names {
                if visit(MemberId { pack, name }.object_id()?).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        match unreadable {
            Some(error) if flow.is_continue() => Err(error),
            _ => Ok(flow),
        }
    }

    /// Reads every pack through and tells what is damaged, with the pack's path: its members, or what holds them together.
    pub(in crate::store) fn check(&self, told: &mut dyn FnMut(PathBuf, String)) -> Result<(), TransferError> {
        let mut unreadable = None;
        let checked = self.each(check, WHOLE_READERS, &mut |pack, damaged| {
            let path = self.bucket.path(&keys::pack(pack));
            match damaged {
                Ok(damaged) => damaged.into_iter().for_each(|why| told(path.clone(), why)),
                Err(PackFault::Damaged(why)) => told(path, why),
                Err(PackFault::Service(fault)) => keep(&mut unreadable, fault.into_error("read", path)),
            }
            Ok(ControlFlow::Continue(()))
        });
        checked.and(unreadable.map_or(Ok(()), Err))
    }

    /// Does something with each pack, several at a time, and tells what came of it in the order of their ids.
    fn each<T: Send + 'static, F: Future<Output = Result<T, PackFault>> + Send + 'static>(
        &self,
        work: fn(Arc<Bucket>, Seen) -> F,
        readers: usize,
        told: &mut dyn FnMut(PackId, Result<T, PackFault>) -> Result<ControlFlow<()>, TransferError>,
    ) -> Result<ControlFlow<()>, TransferError> {
        let failed = |fault: Fault| fault.of_bucket().into_error("list", self.bucket.path(keys::PACKS));
        let mut survey = Survey::begin(&self.bucket).map_err(failed)?;
        loop {
            let bucket = self.bucket.clone();
            let batch = async move {
                let seen = survey.next(&bucket).await?;
                let Some(seen) = seen else { return Ok((survey, None)) };
                let works = seen.into_iter().filter(|seen| seen.size.is_some()).map(|seen| {
                    let (bucket, pack) = (bucket.clone(), seen.pack);
                    async move { (pack, work(bucket, seen).await) }
                });
                let done: Vec<_> = futures_util::stream::iter(works).buffered(readers).collect().await;
                Ok((survey, Some(done)))
            };
            let (next, done) = self.bucket.engine().wait(batch).map_err(failed)?;
            let Some(done) = done else { return Ok(ControlFlow::Continue(())) };
            for (pack, result) in done {
                let gone = matches!(&result, Err(PackFault::Service(fault)) if fault.is_missing());
                if !gone && told(pack, result)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            survey = next;
        }
    }
}

/// What is alive in a pack.
#[derive(Default)]
struct Live {
    names: Vec<MemberName>,
    /// Why there may be more of them.
    incomplete: Option<String>,
}

async fn live(bucket: Arc<Bucket>, seen: Seen) -> Result<Live, PackFault> {
    let index = match cache::index_as_written(&bucket, seen.pack, size_of(&bucket, &seen).await?).await {
        // It may have been written anew since it was listed.
        Err(PackFault::Damaged(_)) => {
            let Some(found) = bucket.stat(&keys::pack(seen.pack)).await? else { return Ok(Live::default()) };
            cache::index(&bucket, seen.pack, found.content_length()).await
        }
        index => index.map(|index| (index, None)),
    };
    let (index, incomplete) = index?;
    // If all of it is dead, somebody is about to remove it.
    let dead: HashSet<MemberName> = seen.marks.keys().copied().collect();
    if is_dead(&index, &dead) {
        return Ok(Live { names: Vec::new(), incomplete });
    }
    let alive = index.entries().iter().map(|entry| entry.name).filter(|name| !dead.contains(name));
    Ok(Live { names: alive.collect(), incomplete })
}

/// Not every service says it where it lists.
pub(super) async fn size_of(bucket: &Bucket, seen: &Seen) -> Result<u64, Fault> {
    match seen.size {
        Some(size) if size > 0 => Ok(size),
        _ => Ok(bucket.stat(&keys::pack(seen.pack)).await?.map_or(0, |found| found.content_length())),
    }
}

async fn check(bucket: Arc<Bucket>, seen: Seen) -> Result<Vec<String>, PackFault> {
    let Seen { pack, marks, .. } = seen;
    let removed: HashSet<MemberName> = marks.into_keys().collect();
    let mut found = bucket.stat(&keys::pack(pack)).await?;
    loop {
        let Some(before) = found else { return Ok(Vec::new()) };
        let damaged = check_as_it_is(&bucket, pack, before.content_length(), &removed).await;
        if damaged.as_ref().is_ok_and(Vec::is_empty) {
            return damaged;
        }
        // What was read may be half of one pack and half of another that somebody wrote anew meanwhile.
        found = bucket.stat(&keys::pack(pack)).await?;
        let is_same =
            |now: &opendal::Metadata| (now.content_length(), now.etag()) == (before.content_length(), before.etag());
        if found.as_ref().is_some_and(is_same) {
            return damaged;
        }
    }
}

async fn check_as_it_is(
    bucket: &Bucket,
    pack: PackId,
    size: u64,
    removed: &HashSet<MemberName>,
) -> Result<Vec<String>, PackFault> {
    let bytes = cache::whole(bucket, pack, size).await?;
    let removed = removed.clone();
    let checked = tokio::task::spawn_blocking(move || {
        let mut damaged = Vec::new();
        let mut member = |name, why| {
            // Nobody needs it any more.
            if !removed.contains(&name) {
                damaged.push(format!("member {name}: {why}"));
            }
        };
        if let Err(error) = PackReader::new(bytes.as_ref(), size, pack).check(&mut member) {
            damaged.push(error.to_string());
        }
        damaged
    });
    checked.await.map_err(|_| Fault::strange("the check ended without a result").into())
}

/// The first error; one for now before any other, since with that something may be told wrongly.
fn keep(kept: &mut Option<TransferError>, error: TransferError) {
    let is_for_now = |error: &TransferError| error.kind() == ErrorKind::Temporary;
    if kept.as_ref().is_none_or(|kept| !is_for_now(kept) && is_for_now(&error)) {
        *kept = Some(error);
    }
}
