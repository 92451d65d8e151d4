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
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use transfer::pack::{MemberName, NameFilter, PackId};

/// So long after its end a listing counts as all there is; where it takes longer than that itself, for twice as long.
const LIST_AGAIN: Duration = Duration::from_secs(10);
/// What nobody has asked for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(300);
/// Beginnings of windows are rounded down to this: each one that is earlier than those before costs a listing.
const ROUND_S: u64 = 3600;
/// 16 MiB for the names of all packs together: with [`MAX_NAMES`], one name in a hundred is taken for one of them.
const FILTER_BITS: u64 = 1 << 27;
const MAX_NAMES: u64 = 12_000_000;
/// For each name in the filter of its pack: which is asked when that of all says yes. 24 MiB at the most.
const BITS_A_NAME: u64 = 16;
/// Packs known at once, some 100 bytes each besides.
const MAX_PACKS: usize = 1 << 18;
/// Packs whose indexes are read at the same time.
const READERS: usize = 32;

/// The names, as far as somebody has asked.
#[derive(Default)]
pub(super) struct Known {
    state: Mutex<State>,
    /// One looks, the others wait.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    window: Option<Window>,
    /// Packs of this process that are on their way.
    under_way: HashMap<PackId, Vec<MemberName>>,
}

/// All packs from one on.
struct Window {
    from: PackId,
    names: NameFilter,
    packs: BTreeMap<PackId, NameFilter>,
    /// Until when no pack of others counts as overlooked.
    listed_until: Option<Instant>,
    asked: Instant,
    /// There are more than are kept track of.
    is_full: bool,
}

impl Known {
    /// The packs, begun since `from`, that may have a member of this name: of all others it is certain that they have none. When there are so
    /// many packs since then that they cannot be kept in mind, some may be missing.
    pub(super) async fn packs_with(
        &self,
        bucket: &Arc<Bucket>,
        name: MemberName,
        from: SystemTime,
    ) -> Result<Vec<PackId>, Fault> {
        let first = PackId::first_of(from);
        let _looking = self.looking.lock().await;
        if let Some(window_from) = self.to_be_listed(PackId::first_of(round_down(from))) {
            let begun = Instant::now();
            self.list(bucket, window_from).await?;
            let valid = LIST_AGAIN.max(begun.elapsed() * 2);
            if let Some(window) = &mut self.state.lock().window {
                window.listed_until = Some(Instant::now() + valid);
                window.asked = Instant::now();
            }
        }
        let state = self.state.lock();
        let Some(window) = &state.window else { return Err(Fault::strange("what packs hold was forgotten meanwhile")) };
        if !window.names.may_have(name) {
            return Ok(Vec::new());
        }
        let may_have = |(_, names): &(&PackId, &NameFilter)| names.may_have(name);
        Ok(window.packs.range(first..).filter(may_have).map(|(pack, _)| *pack).collect())
    }

    /// From which pack on everything has to be listed; `None` if it was a moment ago.
    fn to_be_listed(&self, from: PackId) -> Option<PackId> {
        let mut state = self.state.lock();
        let State { window, under_way } = &mut *state;
        let window = window.get_or_insert_with(|| {
            let mut window = Window::new(from);
            under_way.iter().for_each(|(pack, names)| window.enter(*pack, names));
            window
        });
        window.asked = Instant::now();
        if from < window.from {
            window.from = from;
            window.listed_until = None;
            under_way.iter().for_each(|(pack, names)| window.enter(*pack, names));
        }
        let is_listed = window.listed_until.is_some_and(|until| Instant::now() < until);
        (!is_listed).then_some(window.from)
    }

    /// Reads the indexes of the packs that are new.
    async fn list(&self, bucket: &Arc<Bucket>, from: PackId) -> Result<(), Fault> {
        let mut listing = Listing::of(bucket, keys::PACKS, Some(keys::pack(from)))?;
        loop {
            let batch = listing.next_batch(bucket).await.map_err(Fault::of_bucket)?;
            let found = batch.entries.iter().filter_map(|entry| match keys::listed(entry) {
                Some(Listed::Pack(pack)) => Some((pack, entry.metadata().content_length())),
                _ => None,
            });
            let new: Vec<(PackId, u64)> = {
                let state = self.state.lock();
                let is_new = |pack: &PackId| {
                    *pack >= from && state.window.as_ref().is_some_and(|window| !window.packs.contains_key(pack))
                };
                found.filter(|(pack, _)| is_new(pack)).collect()
            };
            let mut reads = futures_util::stream::iter(new)
                .map(|(pack, size)| async move { (pack, cache::current_index(bucket, pack, size).await) })
                .buffer_unordered(READERS);
            while let Some((pack, read)) = reads.next().await {
                match read {
                    Ok(Some(index)) => {
                        let names: Vec<MemberName> = index.entries().iter().map(|entry| entry.name).collect();
                        self.enter_listed(pack, &names);
                    }
                    // Gone meanwhile.
                    Ok(None) => {}
                    Err(PackFault::Service(fault)) => return Err(fault),
                    Err(PackFault::Damaged(why)) => {
                        let path = bucket.path(&keys::pack(pack));
                        tracing::warn!(pack = %path.display(), why, "cannot look into a pack for what earlier attempts left");
                        self.enter_listed(pack, &[]);
                    }
                }
            }
            if batch.is_last {
                return Ok(());
            }
        }
    }

    fn enter_listed(&self, pack: PackId, names: &[MemberName]) {
        if let Some(window) = &mut self.state.lock().window {
            window.enter(pack, names);
        }
    }

    /// Notes the members of a pack of this process that is about to be sent.
    pub(super) fn sending(&self, pack: PackId, names: Vec<MemberName>) {
        let mut state = self.state.lock();
        if let Some(window) = &mut state.window {
            window.enter(pack, &names);
        }
        state.under_way.insert(pack, names);
    }

    /// It is there, or will not be: whoever lists finds it.
    pub(super) fn sent(&self, pack: PackId) {
        self.state.lock().under_way.remove(&pack);
    }

    /// Frees the memory when nobody has asked for a while.
    pub(super) fn forget_unused(&self) {
        // Whoever looks may take long.
        let Ok(_looking) = self.looking.try_lock() else { return };
        let window = &mut self.state.lock().window;
        if window.as_ref().is_some_and(|window| window.asked.elapsed() > FORGET_AFTER) {
            *window = None;
        }
    }
}

impl Window {
    fn new(from: PackId) -> Self {
        let names = NameFilter::new(FILTER_BITS);
        Self { from, names, packs: BTreeMap::new(), listed_until: None, asked: Instant::now(), is_full: false }
    }

    fn enter(&mut self, pack: PackId, names: &[MemberName]) {
        if pack < self.from || self.is_full {
            return;
        }
        if self.names.inserted() > MAX_NAMES || self.packs.len() >= MAX_PACKS {
            self.is_full = true;
            tracing::warn!(
                "too many packs to keep their members' names in mind: what earlier attempts left in others is found by `sifaka fsck` only"
            );
            return;
        }
        let mut filter = NameFilter::new(names.len() as u64 * BITS_A_NAME);
        for name in names {
            filter.insert(*name);
            self.names.insert(*name);
        }
        self.packs.insert(pack, filter);
    }
}

fn round_down(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    UNIX_EPOCH + Duration::from_secs(seconds - seconds % ROUND_S)
}
