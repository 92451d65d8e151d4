//! Packs that somebody reads members of: their indexes, and pieces of them, in bounded memory.
//!
//! For: a restore of one member that costs few requests, and one of many that costs far fewer requests than members. Who asks for a first member
//! of a pack gets just that; whoever asks for more makes it fetch larger pieces, which the next ones most likely lie in. Not for: what must be
//! known for certain. What others remove is noticed after [`FRESH`]; a pack that others wrote anew is noticed by members that are not
//! where they were, since each is checked.

use super::fault::PackFault;
use super::keys;
use crate::Bucket;
use crate::fault::Fault;
use crate::store::listing::Listing;
use bytes::{Bytes, BytesMut};
use opendal::options::ReadOptions;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use transfer::manifest::ReadAt;
use transfer::pack::{Entry, Index, MAX_TAIL_BYTES, Member, MemberName, PackId, PackReader};

/// For so long a pack counts as being there, with these members removed.
const FRESH: Duration = Duration::from_secs(10);
const BLOCK_BYTES: u64 = 1 << 20;
/// Blocks that are kept: 64 MiB.
const MAX_BLOCKS: usize = 64;
/// Packs whose indexes are kept: at most 128 KiB each, and as much again for what is removed of them.
const MAX_PACKS: usize = 64;
/// No pack is larger, whoever wrote it: those of directories end at 64 MiB and a member.
pub(super) const MAX_PACK_BYTES: u64 = 80 << 20;

/// A pack has far fewer members. Where there are more marks, they are not ours.
pub(super) const MAX_MARKS: usize = 1 << 16;

/// Everything that is kept.
#[derive(Default)]
pub(super) struct Cache {
    packs: Mutex<Recent<PackId, Arc<Slot>>>,
    blocks: Mutex<Recent<BlockId, Arc<Block>>>,
    /// Each time that a pack is read for the first time it gets the next one.
    generations: AtomicU64,
}

/// The generation, and the block's number in the pack.
type BlockId = (u64, u64);
/// Fetched by one, for all that wait for it.
type Block = OnceCell<Bytes>;
/// Where one looks and the others wait for it.
type Slot = tokio::sync::Mutex<Option<Opened>>;

/// A pack as it was when it was looked at.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) content: Arc<Content>,
    removed: Arc<Mutex<HashSet<MemberName>>>,
    looked: Instant,
}

/// A member.
pub(in crate::store) struct Found {
    pub(in crate::store) manifest: Vec<u8>,
    /// As it is stored.
    pub(in crate::store) content: Bytes,
    /// Whether the content is what was written. If not, its manifest still says what it was.
    pub(super) is_whole: bool,
}

/// What does not change as long as nobody writes the pack anew.
pub(super) struct Content {
    pub(super) pack: PackId,
    pub(super) size: u64,
    tag: Option<String>,
    pub(super) index: Index,
    /// Why the index may lack members: it is made of what was found.
    pub(super) incomplete: Option<String>,
    generation: u64,
    lookups: AtomicU64,
}

impl Opened {
    pub(super) fn is_removed(&self, name: MemberName) -> bool {
        self.removed.lock().contains(&name)
    }

    /// To be called when a mark is there. Says whether none of the members is left.
    pub(super) fn remove(&self, name: MemberName) -> bool {
        let mut removed = self.removed.lock();
        removed.insert(name);
        is_dead(&self.content.index, &removed)
    }
}

/// Whether all members are removed.
pub(super) fn is_dead(index: &Index, removed: &HashSet<MemberName>) -> bool {
    removed.len() >= index.entries().len() && index.entries().iter().all(|entry| removed.contains(&entry.name))
}

impl Cache {
    /// A pack; `None` when there is none.
    pub(super) async fn open(&self, bucket: &Arc<Bucket>, pack: PackId) -> Result<Option<Opened>, PackFault> {
        let slot = self.packs.lock().get_or_make(pack, MAX_PACKS);
        let mut slot = slot.lock().await;
        if let Some(opened) = slot.as_ref().filter(|opened| opened.looked.elapsed() < FRESH) {
            return Ok(Some(opened.clone()));
        }
        let looked = Instant::now();
        let key = keys::pack(pack);
        let (found, removed) = futures_util::try_join!(bucket.stat(&key), removed(bucket, pack))?;
        let Some(found) = found else {
            *slot = None;
            return Ok(None);
        };
        let (size, tag) = (found.content_length(), found.etag().map(str::to_owned));
        let before = slot.take();
        // Those that were removed while it was looked: a mark outlives its member, so none comes too much.
        let known = before.as_ref().map(|before| before.removed.clone()).unwrap_or_default();
        known.lock().extend(removed);
        let same = before.map(|before| before.content).filter(|it| tag.is_some() && (it.size, &it.tag) == (size, &tag));
        let content = match same {
            Some(content) => content,
            None => {
                let (index, incomplete) = index(bucket, pack, size).await?;
                let generation = self.generations.fetch_add(1, Ordering::Relaxed);
                Arc::new(Content { pack, size, tag, index, incomplete, generation, lookups: AtomicU64::new(0) })
            }
        };
        let opened = Opened { content, removed: known, looked };
        *slot = Some(opened.clone());
        Ok(Some(opened))
    }

    /// Has the pack read anew when it is asked for the next time.
    pub(super) fn forget(&self, pack: PackId) {
        self.packs.lock().remove(&pack);
    }

    /// A member at its place: record and manifest are checked, and it is told whether the content is what was written.
    pub(super) async fn read(&self, bucket: &Arc<Bucket>, content: &Content, entry: Entry) -> Result<Found, PackFault> {
        let range = entry.place()..entry.place() + entry.total_bytes();
        let bytes = if content.lookups.fetch_add(1, Ordering::Relaxed) == 0 {
            fetch(bucket, content.pack, range.clone()).await?
        } else {
            self.gather(bucket, content, range.clone()).await?
        };
        let at = usize::try_from(entry.content_at() - range.start).unwrap_or(usize::MAX).min(bytes.len());
        let stored = bytes.slice(at..);
        let reader = PackReader::new(Piece { start: range.start, bytes }, content.size, content.pack);
        match reader.read(&entry) {
            Ok(Member { manifest, .. }) => Ok(Found { manifest, content: stored, is_whole: true }),
            Err(_) => Ok(Found { manifest: reader.manifest(&entry)?, content: stored, is_whole: false }),
        }
    }

    /// A range, out of the blocks that it touches.
    async fn gather(&self, bucket: &Arc<Bucket>, content: &Content, range: Range<u64>) -> Result<Bytes, PackFault> {
        let mut gathered = BytesMut::new();
        for number in range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES) {
            let block = number * BLOCK_BYTES..content.size.min((number + 1) * BLOCK_BYTES);
            let cell = self.blocks.lock().get_or_make((content.generation, number), MAX_BLOCKS);
            // Who comes meanwhile waits for the same request.
            let bytes = cell.get_or_try_init(|| fetch(bucket, content.pack, block.clone())).await?;
            let from = usize::try_from(range.start.saturating_sub(block.start)).unwrap_or(usize::MAX).min(bytes.len());
            let to = usize::try_from(range.end - block.start).unwrap_or(usize::MAX).min(bytes.len());
            let piece = bytes.slice(from..to);
            if piece.len() as u64 == range.end - range.start {
                return Ok(piece);
            }
            gathered.extend_from_slice(&piece);
        }
        Ok(gathered.freeze())
    }
}

/// The marks that a pack has.
pub(super) async fn removed(bucket: &Bucket, pack: PackId) -> Result<HashSet<MemberName>, Fault> {
    let mut listing = Listing::of(bucket, &keys::marks(pack), None)?;
    let mut removed = HashSet::new();
    loop {
        let batch = listing.next_batch(bucket).await.map_err(Fault::of_bucket)?;
        for entry in &batch.entries {
            if let Some(keys::Listed::Mark(member)) = keys::listed(entry) {
                removed.insert(member.name);
            }
        }
        if removed.len() > MAX_MARKS {
            return Err(Fault::strange(format!(
                "there are more than {MAX_MARKS} marks of removed members beside the pack"
            )));
        }
        if batch.is_last {
            return Ok(removed);
        }
    }
}

/// The index of a pack of this size. Of one whose index is damaged, one made of the members that are found by reading it through, and why it may
/// not have all.
pub(super) async fn index(bucket: &Bucket, pack: PackId, size: u64) -> Result<(Index, Option<String>), PackFault> {
    match index_as_written(bucket, pack, size).await {
        Err(PackFault::Damaged(why)) => {
            let all = whole(bucket, pack, size).await?;
            Ok((PackReader::new(all.as_ref(), size, pack).index_or_salvage()?, Some(why)))
        }
        index => Ok((index?, None)),
    }
}

/// The index of a pack that had this size when it was listed, where that was said: somebody may have written it anew since. `None` when it is
/// gone.
pub(super) async fn current_index(bucket: &Bucket, pack: PackId, listed: u64) -> Result<Option<Index>, PackFault> {
    match index_as_written(bucket, pack, listed).await {
        Err(PackFault::Damaged(_)) => {}
        Err(PackFault::Service(fault)) if fault.is_missing() => {}
        index => return index.map(Some),
    }
    match bucket.stat(&keys::pack(pack)).await? {
        Some(found) => Ok(Some(index(bucket, pack, found.content_length()).await?.0)),
        None => Ok(None),
    }
}

/// The index of a pack of this size.
pub(super) async fn index_as_written(bucket: &Bucket, pack: PackId, size: u64) -> Result<Index, PackFault> {
    let start = size.saturating_sub(MAX_TAIL_BYTES);
    let tail = Piece { start, bytes: fetch(bucket, pack, start..size).await? };
    Ok(PackReader::new(&tail, size, pack).index()?)
}

/// All of a pack of this size.
pub(super) async fn whole(bucket: &Bucket, pack: PackId, size: u64) -> Result<Bytes, PackFault> {
    if size > MAX_PACK_BYTES {
        return Err(PackFault::Damaged(format!("it has {size} bytes, and no pack has so many")));
    }
    let mut all = BytesMut::with_capacity(usize::try_from(size).unwrap_or(0));
    while (all.len() as u64) < size {
        let at = all.len() as u64;
        let piece = fetch(bucket, pack, at..size.min(at + 8 * BLOCK_BYTES)).await?;
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// Part of a pack. One that is shorter than it was is damaged.
async fn fetch(bucket: &Bucket, pack: PackId, range: Range<u64>) -> Result<Bytes, PackFault> {
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let key = keys::pack(pack);
    let options = || ReadOptions { range: range.clone().into(), ..ReadOptions::default() };
    let cut_short = || PackFault::Damaged("the pack is cut short".to_owned());
    match bucket.request(|| bucket.operator().read_options(&key, options())).await {
        Ok(fetched) if fetched.len() as u64 == range.end - range.start => Ok(fetched.to_bytes()),
        Ok(_) => Err(cut_short()),
        // Services have many words for it.
        Err(fault) if fault.may_be_past_the_end() => match bucket.stat(&key).await? {
            Some(found) if found.content_length() < range.end => Err(cut_short()),
            _ => Err(fault.into()),
        },
        Err(fault) => Err(fault.into()),
    }
}

/// Part of a pack, as if it were all of it.
struct Piece {
    start: u64,
    bytes: Bytes,
}

impl ReadAt for Piece {
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match offset.checked_sub(self.start) {
            Some(at) => self.bytes.as_ref().read_full_at(buffer, at),
            None => Ok(0),
        }
    }
}

/// So many values, those that were used last.
struct Recent<K, V> {
    values: HashMap<K, (V, u64)>,
    clock: u64,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { values: HashMap::new(), clock: 0 }
    }
}

impl<K: Copy + Eq + Hash, V: Clone + Default> Recent<K, V> {
    fn get_or_make(&mut self, key: K, most: usize) -> V {
        self.clock += 1;
        if let Some((value, used)) = self.values.get_mut(&key) {
            *used = self.clock;
            return value.clone();
        }
        if self.values.len() >= most
            && let Some(oldest) = self.values.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key)
        {
            self.values.remove(&oldest);
        }
        let value = V::default();
        self.values.insert(key, (value.clone(), self.clock));
        value
    }

    fn remove(&mut self, key: &K) {
        self.values.remove(key);
    }
}
