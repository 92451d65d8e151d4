//! Objects and manifests in a bucket, as a [`Store`].

mod fetch;
mod keys;
mod known;
mod memory;
mod place;
mod publish;
pub(crate) mod remote;
mod stage;
mod sweep;
mod upload;

#[cfg(test)]
mod tests;

pub use stage::StagedObject;
pub use sweep::SweptUploads;

use crate::fault::Fault;
use crate::foreign::Foreign;
use crate::retry::Retry;
use crate::{Bucket, Layout};
use fetch::SYNC_ALONE_FROM_BYTES;
use known::Known;
use memory::Memory;
use model::{Extent, Identity, ObjectId};
use opendal::options::ListOptions;
use opendal::raw::oio::{self, List as _};
use opendal::raw::{OpList, Service as _};
use place::{Place, is_ours};
use publish::{Ending, publish, put_bytes};
use std::ops::ControlFlow;
use std::sync::Arc;
use sweep::Underway;
use transfer::copy::unusable;
use transfer::forms::not_reserved;
use transfer::manifest::{Manifest, ManifestError};
use transfer::{
    Done, Encoding, Expected, ForeignObject, Head, Monitor, OpenFile, PutOptions, Restored, Store, Stored,
    TransferError,
};

/// Ids that are handed over at a time while a listing goes on.
const LIST_BATCH: usize = 1000;

/// An archive in a bucket. Several processes, on any hosts, may have the same one open.
///
/// Small files go in one request each, many at a time: [`Store::commit`] returns at once. Large ones go in parts while they are read, and become
/// visible with the commit. No file is packed with others.
///
/// Nothing is overwritten that Sifaka did not write: that is left alone, and the action fails.
pub struct ObjectStore {
    bucket: Arc<Bucket>,
    memory: Memory,
    underway: Underway,
    known: Known,
}

impl ObjectStore {
    /// An archive in this bucket. Asks the service nothing.
    #[must_use]
    pub fn new(bucket: Arc<Bucket>) -> Self {
        let memory = Memory::new(bucket.limits().upload_memory_bytes);
        Self { bucket, memory, underway: Underway::default(), known: Known::default() }
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &Arc<Bucket> {
        &self.bucket
    }

    /// Removes what lies under exactly this id, and its manifest: see [`transfer::PosixStore::remove_exactly`].
    pub fn remove_exactly(&self, id: &ObjectId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        self.remove_all(vec![id.clone()], done);
    }

    fn remove_all(&self, ids: Vec<ObjectId>, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        if let Err(error) = ids.iter().try_for_each(not_reserved) {
            return done(Err(error));
        }
        let ending = Ending::new(done);
        let bucket = self.bucket.clone();
        self.bucket.engine().spawn(async move {
            let layout = bucket.layout();
            let keys: Vec<String> = ids.iter().flat_map(|id| layout.all(id)).collect();
            let removed = bucket.in_time(bucket.remove(&keys), |late| late).await;
            let path = ids.first().map_or_else(|| bucket.path(""), |id| bucket.path(&layout.object(id)));
            ending.tell(removed.map_err(|fault| fault.into_error("remove", path)));
        });
    }

    /// The id, and for one that was proposed all that it may have become.
    fn named_by(&self, id: &ObjectId) -> Vec<ObjectId> {
        let layout = self.bucket.layout();
        let others = (layout.encoding(id) == Encoding::Raw).then(|| layout.other_forms(id)).into_iter().flatten();
        std::iter::once(id.clone()).chain(others).collect()
    }

    fn list_all(
        &self,
        prefixes: &'static [&'static str],
        visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>,
    ) -> Result<(), TransferError> {
        for prefix in prefixes {
            if self.list_ids(prefix, visit)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn list_ids(
        &self,
        prefix: &'static str,
        visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, TransferError> {
        let failed = |fault: Fault| fault.of_bucket().into_error("list", self.bucket.path(prefix));
        let operator = self.bucket.operator();
        let options = OpList::from(ListOptions { recursive: true, ..ListOptions::default() });
        let lister = operator.service().list(operator.context(), prefix, options);
        let mut lister = lister.map_err(|e| failed(Fault::new(&e)))?;
        loop {
            let bucket = self.bucket.clone();
            let batch = async move { next_batch(&bucket, prefix, &mut lister).await.map(|batch| (lister, batch)) };
            let (next, batch) = self.bucket.engine().wait(batch).map_err(failed)?;
            let Batch { ids, is_last } = batch;
            for id in ids {
                if visit(id).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if is_last {
                return Ok(ControlFlow::Continue(()));
            }
            lister = next;
        }
    }
}

struct Batch {
    ids: Vec<ObjectId>,
    is_last: bool,
}

async fn next_batch(bucket: &Bucket, prefix: &str, lister: &mut oio::Lister) -> Result<Batch, Fault> {
    let mut ids = Vec::new();
    let mut retry = Retry::new(bucket.limits().attempts);
    while ids.len() < LIST_BATCH {
        match lister.next().await {
            Ok(Some(entry)) => {
                ids.extend(keys::id(prefix, entry.path()));
                retry = Retry::new(bucket.limits().attempts);
            }
            Ok(None) => return Ok(Batch { ids, is_last: true }),
            // It goes on where it was.
            Err(error) => retry.after(&error).await?,
        }
    }
    Ok(Batch { ids, is_last: false })
}

async fn remove_ours(bucket: &Bucket, keys: Vec<String>) -> Result<(), Fault> {
    let looks = keys.into_iter().map(|key| async move {
        let found = bucket.stat(&key).await?;
        Ok::<_, Fault>(found.filter(|found| is_ours(bucket, found)).map(|_| key))
    });
    let ours: Vec<String> = futures_util::future::try_join_all(looks).await?.into_iter().flatten().collect();
    if ours.is_empty() { Ok(()) } else { bucket.remove(&ours).await }
}

impl Store for ObjectStore {
    type Staged = StagedObject;

    fn stage(
        &self,
        id: &ObjectId,
        source: &OpenFile,
        options: PutOptions<'_>,
        monitor: &dyn Monitor,
    ) -> Result<StagedObject, TransferError> {
        self.stage_file(id, source, options, monitor)
    }

    fn commit(&self, staged: StagedObject, done: Done) {
        let (bucket, ending) = (self.bucket.clone(), Ending::new(done));
        self.bucket.engine().spawn(async move {
            // The bucket is held until the very end: its threads do not go while they have something to tell.
            let path = bucket.path(&bucket.layout().object(&staged.id));
            let late = |fault: Fault| fault.into_error("store", path);
            let published = bucket.in_time(publish(&bucket, staged), late).await;
            ending.tell(published);
        });
    }

    fn identity(&self, id: &ObjectId, _path: &[u8]) -> Identity {
        let url = match self.bucket.layout() {
            Layout::LemurS3 => self.bucket.url(&self.bucket.layout().object(id)),
            Layout::Uuid | Layout::LemurAz => String::new(),
        };
        Identity { uuid: id.to_string(), hash: None, url }
    }

    fn get(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        self.restore(id, target, expected, monitor)
    }

    fn get_range(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        extent: Extent,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        self.restore_part(id, target, extent, expected, monitor)
    }

    fn verify(&self, id: &ObjectId, expected: Expected, monitor: &dyn Monitor) -> Result<Restored, TransferError> {
        self.read(id, None, expected, monitor)
    }

    fn put_record(&self, record: &Manifest, done: Done) {
        let id = record.object.clone();
        let bytes = match record.content() {
            _ if !self.bucket.layout().has_manifests() => Err(ManifestError::Unfit("the archive has no manifests")),
            None => record.encode(),
            Some(_) => Err(ManifestError::Unfit("it has content, which only an object can hold")),
        };
        let path = self.bucket.path(&self.bucket.layout().manifest(&id));
        let unfit = |e: ManifestError| TransferError::Undescribed { path, why: e.to_string() };
        let bytes = match not_reserved(&id).and_then(|()| bytes.map_err(unfit)) {
            Ok(bytes) => bytes,
            Err(error) => return done(Err(error)),
        };
        let (bucket, ending) = (self.bucket.clone(), Ending::new(done));
        self.bucket.engine().spawn(async move {
            let place = Place::new(bucket.layout().manifest(&id));
            let put = put_bytes(&bucket, &place, bytes.into()).await;
            ending.tell(put.map(|()| Stored { id, bytes: 0, digest: None }));
        });
    }

    fn manifest(&self, id: &ObjectId) -> Result<Option<Manifest>, TransferError> {
        let Some(bytes) = self.find_manifest(id)? else { return Ok(None) };
        let path = self.bucket.path(&self.bucket.layout().manifest(id));
        let (manifest, _) = Manifest::read(&bytes).map_err(unusable(&path))?;
        Ok(Some(manifest))
    }

    fn get_foreign(
        &self,
        object: &ForeignObject,
        target: Option<&OpenFile>,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        let restored = Foreign::of(&self.bucket).read(object, target, expected, monitor)?;
        if let Some(target) = target.filter(|_| restored.bytes >= SYNC_ALONE_FROM_BYTES) {
            target.file().sync_data().map_err(TransferError::io("sync", target.path()))?;
        }
        Ok(restored)
    }

    fn check_foreign(&self, object: &ForeignObject) -> Result<(), TransferError> {
        Foreign::of(&self.bucket).check(object)
    }

    fn remove(&self, id: &ObjectId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        self.remove_all(self.named_by(id), done);
    }

    /// Looks at each key first: what Sifaka did not make made the attempt fail, and is left alone now too.
    fn remove_attempt(&self, id: &ObjectId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        if let Err(error) = not_reserved(id) {
            return done(Err(error));
        }
        let layout = self.bucket.layout();
        let keys: Vec<String> = self.named_by(id).iter().flat_map(|id| layout.all(id)).collect();
        let (bucket, ending, path) = (self.bucket.clone(), Ending::new(done), self.bucket.path(&layout.object(id)));
        self.bucket.engine().spawn(async move {
            let removed = bucket.in_time(remove_ours(&bucket, keys), |late| late).await;
            ending.tell(removed.map_err(|fault| fault.into_error("remove", path)));
        });
    }

    fn attempts(&self, proposed: &ObjectId, _since_ms: u64) -> Result<Vec<ObjectId>, TransferError> {
        let layout = self.bucket.layout();
        let forms: Vec<ObjectId> = layout.other_forms(proposed).chain([proposed.clone()]).collect();
        let bucket = self.bucket.clone();
        let found = self.bucket.engine().wait(async move {
            let looks = forms.into_iter().map(|id| {
                let bucket = bucket.clone();
                async move {
                    for key in layout.all(&id) {
                        if bucket.stat(&key).await?.is_some() {
                            return Ok(Some(id));
                        }
                    }
                    Ok::<_, Fault>(None)
                }
            });
            bucket.in_time(futures_util::future::try_join_all(looks), |late| late).await
        });
        let found = found.map_err(|fault| fault.into_error("look for", self.bucket.path(&layout.object(proposed))))?;
        Ok(found.into_iter().flatten().collect())
    }

    fn head(&self, id: &ObjectId) -> Result<Option<Head>, TransferError> {
        not_reserved(id)?;
        let (bucket, layout) = (self.bucket.clone(), self.bucket.layout());
        let path = self.bucket.path(&layout.object(id));
        let keys: Vec<String> = layout.small(id).into_iter().chain([layout.object(id)]).collect();
        let found = self.bucket.engine().wait(async move {
            let stat = async {
                for key in &keys {
                    if let Some(found) = bucket.stat(key).await? {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            };
            bucket.in_time(stat, |late| late).await
        });
        let Some(found) = found.map_err(|fault| fault.into_error("look for", path))? else {
            // The answer is the same when there is no such bucket.
            self.bucket.check()?;
            return Ok(None);
        };
        let encoding = layout.encoding(id);
        let stored = found.last_modified().map(|time| time.into_inner().as_millisecond());
        // What does not say how old it is counts as new: it might be on its way.
        let stored_ms = stored.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(u64::MAX);
        Ok(Some(Head { encoding, stored_bytes: found.content_length(), stored_ms }))
    }

    fn list(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), TransferError> {
        self.list_all(self.bucket.layout().objects(), visit)
    }

    fn list_manifests(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), TransferError> {
        self.list_all(self.bucket.layout().manifests(), visit)
    }
}
