//! Objects and manifests in a bucket, as a [`Store`].

mod fetch;
mod keys;
mod known;
mod lemur_az;
mod listing;
mod memory;
mod packs;
mod paths;
mod place;
pub mod plain;
mod proven;
mod publish;
pub(crate) mod remote;
mod stage;
mod sweep;
mod upload;

#[cfg(test)]
mod tests;

pub use packs::Repacked;
pub use stage::Staged;
pub use sweep::SweptUploads;

use crate::fault::Fault;
use crate::foreign::Foreign;
use crate::{Bucket, Layout};
use fetch::SYNC_ALONE_FROM_BYTES;
use known::Known;
use listing::Listing;
use memory::Memory;
use model::{Extent, Identity, ObjectId};
use packs::{Arrival, Packs};
pub(crate) use place::MARK;
use place::{Place, is_ours};
use publish::{Ending, publish, put_bytes, unless};
use stage::StagedKind;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use sweep::Underway;
use transfer::copy::unusable;
use transfer::forms::not_reserved;
use transfer::manifest::{Manifest, ManifestError};
use transfer::pack::{MemberId, MemberName};
use transfer::{
    Done, Encoding, Expected, ForeignObject, GivenUp, Head, Monitor, OpenFile, PutOptions, Restored, Store, Stored,
    StoredAt, TransferError,
};

/// An archive in a bucket. Several processes, on any hosts, may have the same one open.
///
/// Small files go in one request each, many at a time: [`Store::commit`] returns at once. Large ones go in parts while they are read, and become
/// visible with the commit. Small files that come together share packs.
///
/// Nothing is overwritten that Sifaka did not write: that is left alone, and the action fails.
pub struct ObjectStore {
    bucket: Arc<Bucket>,
    memory: Memory,
    underway: Underway,
    known: Known,
    packs: Packs,
}

impl ObjectStore {
    /// An archive in this bucket. Asks the service nothing.
    #[must_use]
    pub fn new(bucket: Arc<Bucket>) -> Self {
        let memory = Memory::new(bucket.limits().upload_memory_bytes);
        let packs = Packs::new(&bucket);
        Self { bucket, memory, underway: Underway::default(), known: Known::default(), packs }
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &Arc<Bucket> {
        &self.bucket
    }

    /// Removes what lies under exactly this id, and its manifest: see [`transfer::PosixStore::remove_exactly`]. What nothing proves to be Sifaka's stays, and
    /// is an error: see [`ObjectStore::is_ours`].
    pub fn remove_exactly(&self, id: &ObjectId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        match self.is_ours(id) {
            Ok(true) => self.remove_all(vec![id.clone()], done),
            Ok(false) => done(Err(self.not_ours(id))),
            Err(error) => done(Err(error)),
        }
    }

    fn remove_all(&self, ids: Vec<ObjectId>, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        if let Err(error) = ids.iter().try_for_each(not_reserved) {
            return done(Err(error));
        }
        if let Some(member) = ids.first().and_then(|id| self.member(id)) {
            return self.packs.remove(&member, done);
        }
        let ending = Ending::new(done);
        let bucket = self.bucket.clone();
        self.bucket.engine().spawn(async move {
            let layout = bucket.layout();
            let removed = if layout == Layout::Path {
                bucket.in_time(remove_visible(&bucket, &ids), |late| late).await
            } else {
                let keys: Vec<String> = ids.iter().flat_map(|id| layout.all(id)).collect();
                bucket.in_time(bucket.remove(&keys), |late| late).await
            };
            let path = ids.first().map_or_else(|| bucket.path(""), |id| bucket.path(&layout.object(id)));
            ending.tell(removed.map_err(|fault| fault.into_error("remove", path)));
        });
    }

    /// The member of a pack that an id names, if it is one.
    fn member(&self, id: &ObjectId) -> Option<MemberId> {
        MemberId::parse(id).filter(|_| self.bucket.layout().has_packs())
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
                return Ok(());
            }
        }
        if self.bucket.layout().has_packs() { self.packs.list(visit).map(drop) } else { Ok(()) }
    }

    fn list_ids(
        &self,
        prefix: &'static str,
        visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, TransferError> {
        let failed = |fault: Fault| fault.of_bucket().into_error("list", self.bucket.path(prefix));
        let mut listing = Listing::of(&self.bucket, prefix, None).map_err(failed)?;
        loop {
            let bucket = self.bucket.clone();
            let batch = async move { listing.next_batch(&bucket).await.map(|batch| (listing, batch)) };
            let (next, batch) = self.bucket.engine().wait(batch).map_err(failed)?;
            for id in batch.entries.iter().filter_map(|entry| keys::id(prefix, entry.path())) {
                if visit(id).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if batch.is_last {
                return Ok(ControlFlow::Continue(()));
            }
            listing = next;
        }
    }

    /// As [`Store::list`]; also tells which objects nothing leads to, so that no removal of their ids finds them: the name of each, and its id. Only where keys are
    /// paths there may be such. They are visited too.
    pub fn list_with_strays(
        &self,
        visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>,
        stray: &mut dyn FnMut(PathBuf, ObjectId),
    ) -> Result<(), TransferError> {
        if self.bucket.layout() != Layout::Path {
            return self.list(visit);
        }
        if self.list_visible(visit, Some(stray))?.is_break() {
            return Ok(());
        }
        self.list_all(self.bucket.layout().objects(), visit)
    }

    /// What lies at the paths of files: each key is asked for what it is.
    fn list_visible(
        &self,
        visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>,
        mut stray: Option<&mut dyn FnMut(PathBuf, ObjectId)>,
    ) -> Result<ControlFlow<()>, TransferError> {
        let failed = |fault: Fault| fault.of_bucket().into_error("list", self.bucket.path(""));
        let wants_strays = stray.is_some();
        let mut listing = Listing::of(&self.bucket, "", None).map_err(failed)?;
        loop {
            let bucket = self.bucket.clone();
            let batch = async move {
                let batch = listing.next_batch(&bucket).await?;
                let keys = batch.entries.iter().map(|entry| entry.path().to_owned()).collect();
                let objects = paths::objects(&bucket, keys).await?;
                let strays = if wants_strays { paths::strays(&bucket, objects.clone()).await? } else { Vec::new() };
                Ok((listing, (objects, strays), batch.is_last))
            };
            let (next, (objects, strays), is_last) = self.bucket.engine().wait(batch).map_err(failed)?;
            for (key, id) in strays {
                stray.as_mut().into_iter().for_each(|stray| stray(self.bucket.path(&key), id.clone()));
            }
            for (_, id) in objects {
                if visit(id).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if is_last {
                return Ok(ControlFlow::Continue(()));
            }
            listing = next;
        }
    }

    /// Takes removed members out of packs, where that frees half of a pack or more, and removes marks that nothing needs any more. Lists all packs. Calls
    /// `pause` with the bytes that were moved after each pack that was rewritten, for whoever wants to do it slowly. Several processes may do it at once.
    pub fn repack(&self, pause: &mut dyn FnMut(u64)) -> Result<Repacked, TransferError> {
        self.packs.repack(packs::GRACE, pause)
    }

    /// Reads every pack through: see [`transfer::PosixStore::check_packs`].
    pub fn check_packs(&self, told: &mut dyn FnMut(PathBuf, String)) -> Result<(), TransferError> {
        self.packs.check(told)
    }
}

/// What its own manifest says: a pack is younger than its members, if it was written anew.
fn head_of_member(manifest: &Manifest) -> Option<Head> {
    let (content, made) = (manifest.content()?, manifest.made);
    let seconds = u64::try_from(made.seconds).unwrap_or(0);
    let stored_ms = seconds.saturating_mul(1000).saturating_add(u64::from(made.nanos / 1_000_000));
    Some(Head { encoding: content.encoding, stored_bytes: content.stored_bytes, stored_ms })
}

async fn remove_visible(bucket: &Bucket, ids: &[ObjectId]) -> Result<(), Fault> {
    for id in ids {
        paths::remove(bucket, id).await?;
    }
    // Nothing was found to be removed: the answer may be the same when there is no such bucket.
    bucket.is_there().await
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
    type Staged = Staged;

    fn stage(
        &self,
        id: &ObjectId,
        source: &OpenFile,
        options: PutOptions<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Staged, TransferError> {
        self.stage_file(id, source, options, monitor)
    }

    fn commit(&self, staged: Staged, done: Done) {
        self.commit_unless(Box::new(|| false), staged, done);
    }

    /// A pack is not given up: others are in it.
    fn commit_unless(&self, given_up: GivenUp, staged: Staged, done: Done) {
        let (bucket, ending) = (self.bucket.clone(), Ending::new(done));
        let staged = match staged.0 {
            StagedKind::Member(packed, place, memory, repeated) => {
                return self.packs.add(Arrival { packed, place, memory, repeated, given_up, ending });
            }
            StagedKind::Object(object) => object,
        };
        self.bucket.engine().spawn(async move {
            // The bucket is held until the very end: its threads do not go while they have something to tell.
            let path = bucket.path(&bucket.layout().object(&staged.id));
            // Nobody else finds what is left where keys are paths and nothing is listed.
            let may_be_left = (bucket.layout() == Layout::LemurAz).then(|| staged.places());
            let late = |fault: Fault| fault.into_error("store", path);
            let published = unless(given_up, bucket.in_time(publish(&bucket, staged), late)).await;
            let left = may_be_left.filter(|_| published.is_err());
            ending.tell(published);
            for StoredAt { key, mark } in left.into_iter().flatten() {
                lemur_az::take_back(&bucket, &key, &mark).await;
            }
        });
    }

    fn identity(&self, stored: &Stored) -> Identity {
        let uuid = stored.id.to_string();
        match (&stored.at, self.bucket.layout()) {
            (Some(at), _) => lemur_az::identity(&self.bucket, at),
            (None, Layout::LemurS3) => {
                Identity { url: self.bucket.url(&format!("o/{uuid}")), uuid, ..Identity::default() }
            }
            (None, _) => Identity { uuid, ..Identity::default() },
        }
    }

    fn named(&self, identity: &Identity) -> Option<Result<ForeignObject, TransferError>> {
        (self.bucket.layout() == Layout::LemurAz).then(|| lemur_az::named(&self.bucket, identity))
    }

    fn remove_named(&self, object: &ForeignObject, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        let (bucket, ending, key) = (self.bucket.whole(), Ending::new(done), object.url.key().to_owned());
        let mark = object.mark.clone();
        self.bucket.engine().spawn(async move {
            let removed = bucket.in_time(lemur_az::remove(&bucket, &key, mark.as_deref()), |late| late).await;
            ending.tell(removed.map_err(|fault| fault.into_error("remove", bucket.path(&key))));
        });
    }

    fn get(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        self.bucket.thawed(|| self.restore(id, target, expected, monitor))
    }

    fn get_range(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        extent: Extent,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        self.bucket.thawed(|| self.restore_part(id, target, extent, expected, monitor))
    }

    fn verify(&self, id: &ObjectId, expected: Expected, monitor: &dyn Monitor) -> Result<Restored, TransferError> {
        self.read_moving(id, None, expected, monitor)
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
            let place = Place::ours(bucket.layout().manifest(&id));
            let put = put_bytes(&bucket, &place, bytes.into()).await;
            ending.tell(put.map(|()| Stored { id, bytes: 0, digest: None, at: None }));
        });
    }

    fn manifest(&self, id: &ObjectId) -> Result<Option<Manifest>, TransferError> {
        if let Some(member) = self.member(id) {
            return self.member_manifest(&member);
        }
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
        let read = || Foreign::of(&self.bucket).read(object, target, expected, monitor);
        // Who only compares has nothing thawed.
        let restored = if target.is_some() { self.bucket.thawed(read)? } else { read()? };
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
        if let Some(member) = self.member(id) {
            return self.packs.remove(&member, done);
        }
        let layout = self.bucket.layout();
        if layout == Layout::Path {
            // What says no id of ours is never removed there.
            return self.remove_all(self.named_by(id), done);
        }
        let keys: Vec<String> = self.named_by(id).iter().flat_map(|id| layout.all(id)).collect();
        let (bucket, ending, path) = (self.bucket.clone(), Ending::new(done), self.bucket.path(&layout.object(id)));
        self.bucket.engine().spawn(async move {
            let removed = bucket.in_time(remove_ours(&bucket, keys), |late| late).await;
            ending.tell(removed.map_err(|fault| fault.into_error("remove", path)));
        });
    }

    fn attempts(&self, proposed: &ObjectId, since_ms: u64) -> Result<Vec<ObjectId>, TransferError> {
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
        let mut found: Vec<ObjectId> = found.into_iter().flatten().collect();
        if let Some(name) = MemberName::parse(proposed.as_str()).filter(|_| layout.has_packs()) {
            found.extend(self.packs.attempts(name, since_ms)?);
        }
        Ok(found)
    }

    fn head(&self, id: &ObjectId) -> Result<Option<Head>, TransferError> {
        not_reserved(id)?;
        if let Some(member) = self.member(id) {
            return Ok(self.member_manifest(&member)?.and_then(|manifest| head_of_member(&manifest)));
        }
        let (bucket, layout) = (self.bucket.clone(), self.bucket.layout());
        let path = self.bucket.path(&layout.object(id));
        let keys: Vec<String> = layout.small(id).into_iter().chain([layout.object(id)]).collect();
        let id = id.clone();
        let encoding = layout.encoding(&id);
        let found = self.bucket.engine().wait(async move {
            let stat = async {
                if layout == Layout::Path {
                    return Ok(paths::find(&bucket, &id).await?.map(|(_, found)| found));
                }
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
        let stored = found.last_modified().map(|time| time.into_inner().as_millisecond());
        // What does not say how old it is counts as new: it might be on its way.
        let stored_ms = stored.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(u64::MAX);
        Ok(Some(Head { encoding, stored_bytes: found.content_length(), stored_ms }))
    }

    fn list(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), TransferError> {
        if self.bucket.layout() == Layout::LemurAz {
            return Err(lemur_az::unlisted(&self.bucket));
        }
        if self.bucket.layout() == Layout::Path && self.list_visible(visit, None)?.is_break() {
            return Ok(());
        }
        self.list_all(self.bucket.layout().objects(), visit)
    }

    fn list_manifests(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), TransferError> {
        self.list_all(self.bucket.layout().manifests(), visit)
    }
}
