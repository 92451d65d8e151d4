//! Packs in a bucket: putting members in, finding and removing them, and getting rid of what is dead.
//!
//! As in a directory (`transfer/src/store/packs`): a pack is never changed, a removed member is marked by an empty object beside the pack, a
//! pack goes with its last member, and one that is half dead is written anew under the same id, without the dead. Ids say where members are.
//!
//! No locks, since a bucket has none: whoever writes a pack anew may be late, and bring back members that were removed meanwhile. Their marks are
//! still there then: marks without a member are only removed after [`repack::GRACE`], and who works longer than that on one pack gives up. Members
//! are never added, so whoever comes last has all that are alive.

mod cache;
mod fault;
mod keys;
mod known;
mod repack;
mod sealer;
mod survey;

pub(super) use repack::GRACE;
pub use repack::Repacked;
pub(super) use sealer::Arrival;

use crate::Bucket;
use crate::fault::Fault;
use crate::store::place::Place;
use crate::store::publish::Ending;
use cache::{Cache, Found};
use fault::PackFault;
use known::Known;
use model::ObjectId;
use opendal::Buffer;
use repack::Settled;
use sealer::Sealer;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use transfer::pack::{MemberId, MemberName};
use transfer::{Monitor, TransferError};

/// A pack does not grow beyond this, by more than a member: it is in memory until the service has it.
const MAX_BUILT_BYTES: u64 = 32 << 20;
/// A pack may be older than its members, and clocks are set: so much earlier an attempt's pack may have begun.
const BEFORE_ATTEMPT: Duration = Duration::from_secs(60);

/// The packs of one archive.
pub(super) struct Packs {
    bucket: Arc<Bucket>,
    cache: Arc<Cache>,
    known: Arc<Known>,
    sealer: Arc<Sealer>,
    settled: Settled,
}

impl Packs {
    pub(super) fn new(bucket: &Arc<Bucket>) -> Self {
        let known = Arc::new(Known::default());
        let sealer = Arc::new(Sealer::new(known.clone()));
        Self { bucket: bucket.clone(), cache: Arc::default(), known, sealer, settled: Settled::default() }
    }

    /// Puts a file into the pack that is next.
    pub(super) fn add(&self, arrival: Arrival) {
        self.sealer.add(&self.bucket, arrival);
    }

    /// A member; `None` for one that is not there, or removed. Its manifest is checked; its content is to be compared with that.
    pub(super) fn find(&self, id: &MemberId, monitor: &dyn Monitor) -> Result<Option<Found>, TransferError> {
        let (bucket, cache, member) = (self.bucket.clone(), self.cache.clone(), *id);
        let found = self.bucket.engine().wait_watched(
            async move { bucket.in_time(find(&bucket, &cache, member), PackFault::from).await },
            monitor,
        )?;
        found.map_err(|fault| {
            // It is the pack that would have to be thawed.
            let path = if fault.is_cold() { self.bucket.path(&keys::pack(id.pack)) } else { self.path(id) };
            fault.into_error("read", path)
        })
    }

    /// For messages.
    pub(super) fn path(&self, id: &MemberId) -> PathBuf {
        self.bucket.path(&keys::member(id))
    }

    /// Members of this name in packs that an attempt since then may have written: at most one a pack.
    pub(super) fn attempts(&self, name: MemberName, since_ms: u64) -> Result<Vec<ObjectId>, TransferError> {
        let since = UNIX_EPOCH + Duration::from_millis(since_ms).saturating_sub(BEFORE_ATTEMPT);
        let (bucket, cache, known) = (self.bucket.clone(), self.cache.clone(), self.known.clone());
        let look = async move {
            let mut found = Vec::new();
            for pack in known.packs_with(&bucket, name, since).await? {
                let member = MemberId { pack, name };
                match find(&bucket, &cache, member).await {
                    Ok(Some(_)) => found.push(member),
                    Ok(None) => {}
                    Err(PackFault::Service(fault)) => return Err(fault),
                    // One bad pack must not stop everything that is tried again.
                    Err(PackFault::Damaged(why)) => {
                        tracing::warn!(%pack, why, %name, "cannot look into a pack for what an earlier attempt left");
                    }
                }
            }
            Ok(found)
        };
        let failed = |fault: Fault| fault.of_bucket().into_error("look through", self.bucket.path(keys::PACKS));
        let found: Vec<MemberId> = self.bucket.engine().wait(look).map_err(failed)?;
        found.iter().map(|member| member.object_id().map_err(TransferError::from)).collect()
    }

    /// Marks a member as removed. `done` is called once that is durable; one that is not there counts as removed.
    pub(super) fn remove(&self, id: &MemberId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        let (ending, path) = (Ending::new(done), self.path(id));
        let (bucket, cache, member) = (self.bucket.clone(), self.cache.clone(), *id);
        self.bucket.engine().spawn(async move {
            let removed = bucket.in_time(remove(&bucket, &cache, member), PackFault::from).await;
            ending.tell(removed.map_err(|fault| fault.into_error("remove", path)));
        });
    }

    /// Frees what is not needed any more.
    pub(super) fn forget_unused(&self) {
        self.known.forget_unused();
    }
}

/// Again from the beginning when something is not where it was: somebody has written the pack anew.
async fn find(bucket: &Arc<Bucket>, cache: &Cache, member: MemberId) -> Result<Option<Found>, PackFault> {
    match find_once(bucket, cache, member).await {
        Ok(Some(found)) if !found.is_whole => {}
        Err(PackFault::Service(fault)) if !fault.is_missing() => return Err(fault.into()),
        Err(_) => {}
        Ok(found) => return Ok(found),
    }
    cache.forget(member.pack);
    find_once(bucket, cache, member).await
}

async fn find_once(bucket: &Arc<Bucket>, cache: &Cache, member: MemberId) -> Result<Option<Found>, PackFault> {
    let Some(opened) = cache.open(bucket, member.pack).await? else { return Ok(None) };
    if opened.is_removed(member.name) {
        return Ok(None);
    }
    match (opened.content.index.find(member.name), &opened.content.incomplete) {
        (Some(entry), _) => cache.read(bucket, &opened.content, entry).await.map(Some),
        (None, None) => Ok(None),
        (None, Some(why)) => {
            Err(PackFault::Damaged(format!("{why}, and member {} is not found without it", member.name)))
        }
    }
}

async fn remove(bucket: &Arc<Bucket>, cache: &Cache, member: MemberId) -> Result<(), PackFault> {
    let opened = match cache.open(bucket, member.pack).await {
        Ok(Some(opened)) => Some(opened),
        Ok(None) => return Ok(()),
        // One that cannot be read well enough to tell may have it; or it is too cold to be read.
        Err(PackFault::Damaged(_)) => None,
        Err(PackFault::Service(fault)) if fault.told == opendal::ErrorKind::PermissionDenied => None,
        Err(error) => return Err(error),
    };
    if let Some(opened) = &opened {
        let is_none = opened.content.index.find(member.name).is_none() && opened.content.incomplete.is_none();
        if is_none || opened.is_removed(member.name) {
            return Ok(());
        }
    }
    let mark = Place::ours(keys::mark(&member));
    mark.put_over(bucket, Buffer::new()).await.map_err(Fault::of_bucket)?;
    if opened.is_some_and(|opened| opened.remove(member.name))
        && let Err(error) = repack::remove_dead(bucket, cache, member.pack).await
    {
        let error = error.into_error("remove", bucket.path(&keys::pack(member.pack)));
        tracing::warn!(%error, "a pack whose members were all removed cannot be removed yet; the next look at all packs will");
    }
    Ok(())
}
