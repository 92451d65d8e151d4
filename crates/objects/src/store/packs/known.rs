//! Which names members have in the packs of a time, in bounded memory.
//!
//! For: whoever looks for what an earlier attempt left: see the same for directories in `transfer/src/store/packs/known.rs`. Not for: where a member is, or whether
//! it is still there. A name that is not known is in no pack; for one that may be, the packs that may have it are looked into.
//!
//! A pack only ever loses members, which need not be noticed here. Packs of this process are entered before they are there; those of others are found
//! by listing, at the latest after [`LIST_AGAIN`].

use super::cache;
use super::fault::PackFault;
use super::keys::{self, Listed};
use crate::Bucket;
use crate::fault::Fault;
use crate::store::listing::Listing;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use transfer::pack::{MemberName, NameFilter, PackId};

const LIST_AGAIN: Duration = Duration::from_secs(10);
/// What nobody has asked for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(300);
/// Beginnings of windows are rounded down to this: each one that is earlier than those before costs a listing.
const ROUND_S: u64 = 3600;
/// With so many bits for each name, one name in a thousand is taken for one of a pack's.
const BITS_A_NAME: u64 = 16;
/// 24 MiB of filters.
const MAX_NAMES: u64 = 12_000_000;
/// Packs whose indexes are read at the same time.
const READERS: usize = 16;

/// The names, as far as somebody has asked.
#[derive(Default)]
pub(super) struct Known {
    window: Mutex<Option<Window>>,
    /// One looks, the others wait.
    looking: tokio::sync::Mutex<()>,
}

/// All packs from one on.
struct Window {
    from: PackId,
    packs: BTreeMap<PackId, NameFilter>,
    names: u64,
    listed: Option<Instant>,
    asked: Instant,
    /// Since this pack there are more than are kept track of: each of them has to be looked into.
    too_many: bool,
}

impl Known {
    /// The packs, begun since `from`, that may have a member of this name: of all others it is certain that they have none.
    pub(super) async fn packs_with(
        &self,
        bucket: &Arc<Bucket>,
        name: MemberName,
        from: SystemTime,
    ) -> Result<Vec<PackId>, Fault> {
        let first = PackId::first_of(from);
        let rounded = PackId::first_of(round_down(from));
        let _looking = self.looking.lock().await;
        let is_listed = self.reach_back_to(rounded);
        if !is_listed {
            let begun = Instant::now();
            self.list(bucket, rounded).await?;
            if let Some(window) = &mut *self.window.lock() {
                window.listed = Some(begun);
            }
        }
        let window = self.window.lock();
        let Some(window) = &*window else { return Ok(Vec::new()) };
        let may_have = |(_, names): &(&PackId, &NameFilter)| names.may_have(name);
        Ok(window.packs.range(first..).filter(may_have).map(|(pack, _)| *pack).collect())
    }

    /// Whether everything from then on was listed a moment ago.
    fn reach_back_to(&self, from: PackId) -> bool {
        let mut window = self.window.lock();
        let window = window.get_or_insert_with(|| Window::new(from));
        window.asked = Instant::now();
        if from < window.from {
            window.from = from;
            window.listed = None;
        }
        window.listed.is_some_and(|listed| listed.elapsed() < LIST_AGAIN)
    }

    /// Reads the indexes of the packs that are new.
    async fn list(&self, bucket: &Arc<Bucket>, from: PackId) -> Result<(), Fault> {
        let mut listing = Listing::of(bucket, keys::PACKS, Some(keys::pack(from)))?;
        loop {
            let batch = listing.next_batch(bucket).await.map_err(Fault::of_bucket)?;
            let new: Vec<(PackId, Option<u64>)> = {
                let window = self.window.lock();
                let is_new = |pack: &PackId| {
                    *pack >= from && window.as_ref().is_some_and(|window| !window.packs.contains_key(pack))
                };
                let found = batch.entries.iter().filter_map(|entry| match keys::listed(entry) {
                    Some(Listed::Pack(pack)) => {
                        Some((pack, Some(entry.metadata().content_length()).filter(|bytes| *bytes > 0)))
                    }
                    _ => None,
                });
                found.filter(|(pack, _)| is_new(pack)).collect()
            };
            let mut reads = futures_util::stream::iter(new)
                .map(|(pack, size)| async move { (pack, names(bucket, pack, size).await) })
                .buffer_unordered(READERS);
            while let Some((pack, read)) = reads.next().await {
                match read {
                    Ok(names) => self.enter(pack, names.into_iter()),
                    // Gone meanwhile.
                    Err(PackFault::Service(fault)) if fault.is_missing() => {}
                    Err(PackFault::Service(fault)) => return Err(fault),
                    Err(PackFault::Damaged(why)) => {
                        let path = bucket.path(&keys::pack(pack));
                        tracing::warn!(pack = %path.display(), why, "cannot look into a pack for what earlier attempts left");
                        self.enter(pack, std::iter::empty());
                    }
                }
            }
            if batch.is_last {
                return Ok(());
            }
        }
    }

    /// Notes the members of a pack, if somebody has asked for packs of its time.
    pub(super) fn enter(&self, pack: PackId, names: impl ExactSizeIterator<Item = MemberName>) {
        let mut window = self.window.lock();
        let Some(window) = window.as_mut().filter(|window| pack >= window.from) else { return };
        window.names += names.len() as u64;
        if window.names > MAX_NAMES && !window.too_many {
            window.too_many = true;
            tracing::info!("too many packs to keep their members' names in mind");
        }
        // A filter that is full of ones has every name: its pack is looked into.
        let mut filter = NameFilter::new(if window.too_many { 64 } else { names.len() as u64 * BITS_A_NAME });
        names.for_each(|name| filter.insert(name));
        window.packs.insert(pack, filter);
    }

    /// Frees the memory when nobody has asked for a while.
    pub(super) fn forget_unused(&self) {
        let mut window = self.window.lock();
        if window.as_ref().is_some_and(|window| window.asked.elapsed() > FORGET_AFTER) {
            *window = None;
        }
    }
}

impl Window {
    fn new(from: PackId) -> Self {
        Self { from, packs: BTreeMap::new(), names: 0, listed: None, asked: Instant::now(), too_many: false }
    }
}

async fn names(bucket: &Arc<Bucket>, pack: PackId, size: Option<u64>) -> Result<Vec<MemberName>, PackFault> {
    let size = match size {
        Some(size) => size,
        None => bucket.stat(&keys::pack(pack)).await?.map_or(0, |found| found.content_length()),
    };
    let index = cache::index(bucket, pack, size).await?;
    Ok(index.entries().iter().map(|entry| entry.name).collect())
}

fn round_down(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    UNIX_EPOCH + Duration::from_secs(seconds - seconds % ROUND_S)
}
