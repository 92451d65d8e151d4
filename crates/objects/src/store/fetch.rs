//! Out of the bucket: by chunks with the manifest, else from front to back.

use super::known::{Described, Table};
use super::place::carried;
use super::remote::{Remote, Source, Tag};
use super::{ObjectStore, paths};
use crate::fault::Fault;
use crate::{Bucket, Layout};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use model::limits::CHUNK_SIZE_BYTES;
use model::{Digest, ErrorKind, Extent, ObjectId};
use opendal::Metadata;
use std::sync::Arc;
use transfer::copy::{ChunkReader, open_chunks, open_member, restore_chunks, restore_range, restore_stream};
use transfer::forms::not_reserved;
use transfer::manifest::{Manifest, ManifestError, ReadAt};
use transfer::pack::MemberId;
use transfer::{Expected, Monitor, OpenFile, Restored, TransferError, Unwatched};

/// Of at most so much content are objects that carry their manifests, if the settings are the usual ones.
const AT_ONCE_BYTES: u64 = 8 << 20;
/// Of these no manifest is needed to verify them before they are written.
const ONE_CHUNK_BYTES: u64 = CHUNK_SIZE_BYTES as u64;
/// A manifest of at most so many bytes is read in one request: that is content of some 90 GiB.
const MANIFEST_AT_ONCE_BYTES: usize = 4 << 20;
/// From this size on, what was restored is made durable by whoever restores it.
pub(super) const SYNC_ALONE_FROM_BYTES: u64 = 8 << 20;

type Reader<'m> = ChunkReader<Source<'m>, Source<'m>>;

/// An object that was looked for, and its manifest.
struct Found<'m> {
    key: String,
    object: Source<'m>,
    manifest: Option<Source<'m>>,
}

/// Where an object of so much content lies, most likely first.
fn order(layout: Layout, id: &ObjectId, size: Option<u64>) -> Vec<String> {
    let mut keys: Vec<String> = layout.small(id).into_iter().chain([layout.object(id)]).collect();
    if size.is_some_and(|size| size > AT_ONCE_BYTES) {
        keys.reverse();
    }
    keys
}

impl ObjectStore {
    /// Reads an object, into `target` if there is one.
    fn read(
        &self,
        id: &ObjectId,
        target: Option<&OpenFile>,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        not_reserved(id)?;
        if let Some(member) = self.member(id) {
            let reader = self.member_chunks(&member, expected, monitor)?;
            return restore_chunks(&reader, reader.object().size(), target, expected, monitor);
        }
        let layout = self.bucket.layout();
        let path = self.bucket.path(&layout.object(id));
        let encoding = layout.encoding(id);
        let is_one_chunk =
            matches!((expected.size, expected.digest), (Some(0..=ONE_CHUNK_BYTES), Some(Digest::Blake3(_))));
        if is_one_chunk {
            // The hash of one chunk is that of everything: one request is enough, and nothing is written before it is compared.
            let object = self.fetch_object(id, monitor)?;
            let stored = (&object as &dyn ReadAt, path.as_path(), object.size());
            let verified =
                restore_stream(stored, encoding, None, expected, if target.is_some() { &Unwatched } else { monitor })?;
            let Some(target) = target else { return Ok(verified) };
            return restore_stream(stored, encoding, Some(target), expected, monitor);
        }
        let Found { key, object, manifest } = self.find(id, expected, monitor)?;
        let stored_bytes = object.size();
        let Some(manifest) = manifest else {
            object.expect(0..stored_bytes);
            return restore_stream((&object, &path, stored_bytes), encoding, target, expected, monitor);
        };
        let by_chunks = self.reader(id, object, manifest, expected).and_then(|reader| {
            reader.map_or(Ok(None), |reader| {
                reader.object().expect(0..stored_bytes);
                restore_chunks(&reader, stored_bytes, target, expected, monitor).map(Some)
            })
        });
        match by_chunks {
            Ok(Some(restored)) => return Ok(restored),
            Ok(None) => {}
            Err(error @ TransferError::NoManifest { .. }) => {
                tracing::warn!(%id, %error, "an object is restored without its manifest");
            }
            Err(error) => return Err(error),
        }
        let object = Remote::new(&self.bucket, key, stored_bytes, None, monitor);
        object.expect(0..stored_bytes);
        restore_stream((&object, &path, stored_bytes), encoding, target, expected, monitor)
    }

    /// Reads an object that may be brought to its path in the middle of that.
    pub(super) fn read_moving(
        &self,
        id: &ObjectId,
        target: Option<&OpenFile>,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        match self.read(id, target, expected, monitor) {
            Err(TransferError::Missing { .. }) if self.bucket.layout() == Layout::Path => {
                self.read(id, target, expected, monitor)
            }
            read => read,
        }
    }

    pub(super) fn restore(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        let restored = self.read_moving(id, Some(target), expected, monitor)?;
        if restored.bytes >= SYNC_ALONE_FROM_BYTES {
            // Whoever asked syncs before the content counts: small files many at a time.
            target.file().sync_data().map_err(TransferError::io("sync", target.path()))?;
        }
        Ok(restored)
    }

    pub(super) fn restore_part(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        extent: Extent,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        let none = || TransferError::NoManifest {
            path: self.bucket.path(&self.bucket.layout().manifest(id)),
            why: "there is none, or no hash to compare with".to_owned(),
        };
        let Some(Digest::Blake3(_)) = expected.digest else { return Err(none()) };
        if let Some(member) = self.member(id) {
            let reader = self.member_chunks(&member, expected, monitor)?;
            return restore_range(&reader, target, extent, expected, monitor);
        }
        let part = |described: Described| self.part(id, described, target, extent, expected, monitor);
        if let Some(known) = self.known.get(id) {
            match part(known) {
                Err(error) if error.kind() == ErrorKind::Permanent => self.known.forget(id),
                done => return done,
            }
        }
        let mut described = self.describe(id, expected.size, monitor)?.ok_or_else(none)?;
        let restored = match part(described.clone()) {
            // It was brought to its path in the middle of that.
            Err(TransferError::Missing { .. }) if self.bucket.layout() == Layout::Path => {
                described = self.describe(id, expected.size, monitor)?.ok_or_else(none)?;
                part(described.clone())?
            }
            restored => restored?,
        };
        self.known.keep(id, described);
        Ok(restored)
    }

    fn part(
        &self,
        id: &ObjectId,
        Described { key, manifest }: Described,
        target: &OpenFile,
        extent: Extent,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        let manifest = self.source(id, manifest, monitor);
        // Its size is not asked for: the manifest says where each chunk lies, and a read past the end is an error of its own.
        let object = Source::Remote(Remote::new(&self.bucket, key, u64::MAX, None, monitor));
        let reader = self.reader(id, object, manifest, expected)?.ok_or_else(|| TransferError::NoManifest {
            path: self.bucket.path(&self.bucket.layout().manifest(id)),
            why: "it says nothing of content".to_owned(),
        })?;
        let chunks = reader.shape().touched(extent);
        if !chunks.is_empty() {
            reader.object().expect(reader.stored(chunks)?);
        }
        restore_range(&reader, target, extent, expected, monitor)
    }

    /// Where an object is, and its manifest; `None` when it has none.
    fn describe(
        &self,
        id: &ObjectId,
        size: Option<u64>,
        monitor: &dyn Monitor,
    ) -> Result<Option<Described>, TransferError> {
        let is_small = size.is_some_and(|size| size <= AT_ONCE_BYTES) || self.bucket.layout() == Layout::Path;
        if !is_small && let Some(manifest) = self.fetch_table(id, monitor)? {
            return Ok(Some(Described { key: self.bucket.layout().object(id), manifest }));
        }
        let (key, found) = self.stat_object(id, size, monitor)?;
        let manifest = match carried(&found) {
            Some(manifest) => Some(Table::All(manifest)),
            None => self.fetch_table(id, monitor)?,
        };
        Ok(manifest.map(|manifest| Described { key, manifest }))
    }

    /// The object and its manifest, to be read by chunks, best from front to back. `None` when it has no manifest, or no hash is there to compare
    /// with.
    ///
    /// # Errors
    /// [`TransferError::NoManifest`] when the manifest is damaged, or that of something else.
    pub fn chunks<'m>(
        &self,
        id: &ObjectId,
        expected: Expected,
        monitor: &'m dyn Monitor,
    ) -> Result<Option<ChunkReader<impl ReadAt + use<'m>, impl ReadAt + use<'m>>>, TransferError> {
        not_reserved(id)?;
        if let Some(member) = self.member(id) {
            return self.member_chunks(&member, expected, monitor).map(Some);
        }
        let Found { object, manifest, .. } = self.find(id, expected, monitor)?;
        let Some(manifest) = manifest else { return Ok(None) };
        object.expect(0..object.size());
        self.reader(id, object, manifest, expected)
    }

    /// A member's content, to be read by chunks. Each member can be: it has a manifest.
    fn member_chunks<'m>(
        &self,
        id: &MemberId,
        expected: Expected,
        monitor: &'m dyn Monitor,
    ) -> Result<Reader<'m>, TransferError> {
        let path = self.packs.path(id);
        let found = self.packs.find(id, monitor)?;
        let member = found.ok_or_else(|| TransferError::Missing { path: path.clone() })?;
        let length = member.content.len() as u64;
        open_member(path, Source::Here(member.manifest.into()), (Source::Here(member.content), length), expected)
    }

    /// A member's description; `None` when it is not there.
    pub(super) fn member_manifest(&self, id: &MemberId) -> Result<Option<Manifest>, TransferError> {
        let Some(member) = self.packs.find(id, &Unwatched)? else { return Ok(None) };
        let (path, object) = (self.packs.path(id), id.object_id()?);
        let damaged = |e: ManifestError| TransferError::Damaged { path, why: format!("its manifest: {e}") };
        let manifest = Manifest::decode(&member.manifest).map_err(damaged)?;
        Ok(Some(Manifest { object, ..manifest }))
    }

    fn reader<'m>(
        &self,
        id: &ObjectId,
        object: Source<'m>,
        manifest: Source<'m>,
        expected: Expected,
    ) -> Result<Option<Reader<'m>>, TransferError> {
        let object = (object, self.bucket.path(&self.bucket.layout().object(id)));
        open_chunks(id, object, (manifest, self.bucket.path(&self.bucket.layout().manifest(id))), expected)
    }

    /// The object, and its manifest when there is a hash that it could prove.
    fn find<'m>(
        &self,
        id: &ObjectId,
        expected: Expected,
        monitor: &'m dyn Monitor,
    ) -> Result<Found<'m>, TransferError> {
        let wants_manifest = matches!(expected.digest, Some(Digest::Blake3(_)));
        let (key, found) = self.stat_object(id, expected.size, monitor)?;
        // With a hash to compare with, a mixture of two versions is found anyway.
        let tag = found.etag().filter(|_| expected.digest.is_none()).map(|tag| Tag::Etag(tag.to_owned()));
        let object = Source::Remote(Remote::new(&self.bucket, key.clone(), found.content_length(), tag, monitor));
        let manifest = match carried(&found) {
            Some(manifest) => Some(Source::Here(manifest)),
            None if wants_manifest => self.fetch_manifest(id, monitor)?,
            None => None,
        };
        Ok(Found { key, object, manifest })
    }

    /// An object of one chunk.
    fn fetch_object(&self, id: &ObjectId, monitor: &dyn Monitor) -> Result<Source<'static>, TransferError> {
        let (bucket, keys) = (self.bucket.clone(), order(self.bucket.layout(), id, None));
        let object = self.bucket.layout().object(id);
        let at_path = (self.bucket.layout() == Layout::Path).then(|| id.clone());
        let fetch = async move {
            let keys = match &at_path {
                Some(id) => match paths::find(&bucket, id).await {
                    Ok(found) => found.map(|(key, _)| key).into_iter().collect(),
                    Err(fault) => return Err((fault, object)),
                },
                None => keys,
            };
            for key in keys {
                match fetch_whole(&bucket, &key).await {
                    Err(fault) if fault.is_missing() => {}
                    // Which of them it is matters when it has to be thawed.
                    fetched => return fetched.map_err(|fault| (fault, key)),
                }
            }
            Err((Fault::missing(), object))
        };
        let fetched = self.bucket.engine().wait_watched(async move { Ok(fetch.await) }, monitor)?;
        let fetched = fetched.unwrap_or_else(|fault| Err((fault, String::new())));
        if fetched.as_ref().is_err_and(|(fault, _)| fault.is_missing()) {
            // The answer may be the same when there is no such bucket.
            self.bucket.check()?;
        }
        fetched.map(Source::Here).map_err(|(fault, key)| fault.into_error("read", self.bucket.path(&key)))
    }

    /// Where the object is, and what is known of it.
    fn stat_object(
        &self,
        id: &ObjectId,
        size: Option<u64>,
        monitor: &dyn Monitor,
    ) -> Result<(String, Metadata), TransferError> {
        let (bucket, keys) = (self.bucket.clone(), order(self.bucket.layout(), id, size));
        let path = self.bucket.path(&self.bucket.layout().object(id));
        let at_path = (self.bucket.layout() == Layout::Path).then(|| id.clone());
        let stat = async move {
            let look = async {
                if let Some(id) = &at_path {
                    return paths::find(&bucket, id).await;
                }
                for key in keys {
                    if let Some(found) = bucket.stat(&key).await? {
                        return Ok(Some((key, found)));
                    }
                }
                Ok::<_, Fault>(None)
            };
            bucket.in_time(look, |late| late).await
        };
        let found = self.bucket.engine().wait_watched(stat, monitor)?;
        match found.map_err(|fault| fault.into_error("look for", path.clone()))? {
            Some(found) => Ok(found),
            None => {
                self.bucket.check()?;
                Err(TransferError::Missing { path })
            }
        }
    }

    /// The manifest of an object, which may carry it, or a record.
    pub(super) fn find_manifest(&self, id: &ObjectId) -> Result<Option<Source<'static>>, TransferError> {
        let Some(key) = self.bucket.layout().small(id) else { return self.fetch_manifest(id, &Unwatched) };
        let (bucket, path) = (self.bucket.clone(), self.bucket.path(&key));
        let stat = self.bucket.engine().wait(async move { bucket.stat(&key).await });
        let found = stat.map_err(|fault| fault.into_error("look for", path))?;
        match found.as_ref().and_then(carried) {
            Some(manifest) => Ok(Some(Source::Here(manifest))),
            None => self.fetch_manifest(id, &Unwatched),
        }
    }

    /// A manifest; `None` when there is none.
    pub(super) fn fetch_manifest<'m>(
        &self,
        id: &ObjectId,
        monitor: &'m dyn Monitor,
    ) -> Result<Option<Source<'m>>, TransferError> {
        Ok(self.fetch_table(id, monitor)?.map(|table| self.source(id, table, monitor)))
    }

    fn fetch_table(&self, id: &ObjectId, monitor: &dyn Monitor) -> Result<Option<Table>, TransferError> {
        let (bucket, layout) = (self.bucket.clone(), self.bucket.layout());
        if !layout.has_manifests() {
            return Ok(None);
        }
        let key = layout.manifest(id);
        let path = self.bucket.path(&key);
        let fetched = self.bucket.engine().wait_watched(async move { fetch(&bucket, &key).await }, monitor)?;
        fetched.map_err(|fault| fault.into_error("read", path))
    }

    fn source<'m>(&self, id: &ObjectId, table: Table, monitor: &'m dyn Monitor) -> Source<'m> {
        match table {
            Table::All(bytes) => Source::Here(bytes),
            Table::Larger(size) => {
                let key = self.bucket.layout().manifest(id);
                Source::Remote(Remote::new(&self.bucket, key, size, None, monitor))
            }
        }
    }
}

/// Everything under a key, if that is no more than a manifest of usual size.
async fn fetch(bucket: &Arc<Bucket>, key: &str) -> Result<Option<Table>, Fault> {
    let request = || async {
        let mut stream = bucket.operator().reader(key).await?.into_stream(..).await?;
        let mut all = BytesMut::new();
        while let Some(piece) = stream.next().await.transpose()? {
            all.extend_from_slice(&piece.to_bytes());
            if all.len() > MANIFEST_AT_ONCE_BYTES {
                return Ok(None);
            }
        }
        Ok(Some(all.freeze()))
    };
    let fetched = bucket.request(request).await;
    match fetched {
        Ok(Some(bytes)) => return Ok(Some(Table::All(bytes))),
        Ok(None) => {}
        // So long that the transport does not even begin with it.
        Err(fault) if fault.is_too_long() => {}
        Err(fault) if fault.is_missing() => {
            bucket.is_there().await?;
            return Ok(None);
        }
        Err(fault) => return Err(fault),
    }
    Ok(bucket.stat(key).await?.map(|found| Table::Larger(found.content_length())))
}

/// A small object. One that is larger than any that it could be is an error of the transport.
async fn fetch_whole(bucket: &Bucket, key: &str) -> Result<Bytes, Fault> {
    let content = bucket.request(|| bucket.operator().read(key)).await?;
    Ok(content.to_bytes())
}
