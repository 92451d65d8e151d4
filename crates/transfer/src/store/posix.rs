//! Objects in a directory tree, laid out as Lemur does: `<root>/objects/<id[0:2]>/<id[2:4]>/<id>`, and `<id>.manifest` beside them.

use super::forms::{not_reserved, other_encodings, with_encoding};
use super::group::{GroupSync, Item};
use super::members::{Ordinary, Part};
use super::packing::Packed;
use super::packs::Packs;
use super::root::{OBJECTS, Root, entries};
use super::session::{Sessions, Swept, TempFile, Written, sweep};
use super::{Done, Expected, Head, PutOptions, Restored, Store, Stored};
use crate::copy::sink::{Discard, Overwrite, Sink};
use crate::copy::source::{DecodedSource, FileSource, Source};
use crate::copy::{ChunkReader, Copied, compare, open_chunks, restore_chunks, restore_range, right_size, unusable};
use crate::manifest::{self, Manifest};
use crate::pack::MemberId;
use crate::{Durability, Encoding, Monitor, OpenFile, TransferError};
use model::{Digest, Extent, ObjectId};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// From this size on, the worker that wrote a file syncs its data: several can do so at once, and a group is not held up.
const SYNC_ALONE_FROM_BYTES: u64 = 8 << 20;

/// An archive on a mounted filesystem. Several processes may have the same one open.
pub struct PosixStore {
    root: Arc<Root>,
    sessions: Arc<Sessions>,
    durability: Arc<dyn Durability>,
    group: Arc<GroupSync>,
    pub(super) packs: Packs,
}

impl PosixStore {
    /// Opens the archive in an existing directory, and removes what crashed processes left in it. Writes nothing: one that is mounted read-only can be
    /// read, listed and verified.
    pub fn open(root: &Path, durability: Arc<dyn Durability>) -> Result<Self, TransferError> {
        let root = Arc::new(Root::open(root)?);
        sweep(&root)?;
        let sessions = Arc::new(Sessions::new(root.clone()));
        let failed = |e| TransferError::io("start the syncing threads of", root.path())(e);
        let group = Arc::new(GroupSync::start(root.clone(), durability.clone()).map_err(failed)?);
        let ordinary = Ordinary { root: root.clone(), sessions: sessions.clone(), group: group.clone() };
        let alone = move |arrival| ordinary.store(arrival);
        let packs = Packs::start(root.clone(), sessions.clone(), durability.clone(), alone).map_err(failed)?;
        Ok(Self { root, sessions, durability, group, packs })
    }

    /// The root's path.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Removes temporary files of processes that are gone, and frees memory that is not needed any more. Cheap; to be called every few
    /// minutes.
    pub fn sweep(&self) -> Result<Swept, TransferError> {
        self.packs.forget_unused();
        sweep(&self.root)
    }

    /// Removes what lies under exactly this id, and its manifest: unlike [`Store::remove`], nothing that is stored under the same id in
    /// another encoding. For whoever has listed what there is, and knows of each thing by itself whether it is needed.
    pub fn remove_exactly(&self, id: &ObjectId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        self.unlink(std::slice::from_ref(id), done);
    }

    /// Removes these ids, which share a directory; the first is the one that was asked for.
    fn unlink(&self, ids: &[ObjectId], done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        let Some(id) = ids.first() else { return done(Ok(())) };
        if let Some(member) = MemberId::parse(id) {
            return self.packs.remove(&member, done);
        }
        let removed = not_reserved(id).and_then(|()| self.root.check_objects()).and_then(|()| {
            self.root.unlink_objects(ids.iter()).map_err(TransferError::io("remove", self.root.object_path(id)))
        });
        match removed {
            // Also when there was none: an earlier removal may have been cut short before its sync.
            Ok(()) => self.group.submit(Item::Settle { id: id.clone(), done }),
            Err(e) => done(Err(e)),
        }
    }

    /// Its directory.
    pub(super) fn root_dir(&self) -> &Root {
        &self.root
    }

    /// Whether there is something of exactly this id: an object, a manifest, or the pack that it would be in.
    pub(super) fn has(&self, id: &ObjectId) -> Result<bool, TransferError> {
        if let Some(member) = MemberId::parse(id) {
            return self.packs.has(member.pack);
        }
        let failed = || self.root.object_path(id);
        let is_there = self.root.has_object(id).map_err(TransferError::io("look for", failed()))?;
        if !is_there {
            self.root.check_objects()?;
        }
        Ok(is_there)
    }

    /// Removes these ids, which share a directory, and makes that durable.
    pub(super) fn forget(&self, ids: &[ObjectId]) -> Result<(), TransferError> {
        let Some(first) = ids.first() else { return Ok(()) };
        let failed = || self.root.object_path(first);
        for id in ids {
            if !self.root.has_object(id).map_err(TransferError::io("look for", failed()))? {
                continue;
            }
            self.root.unlink_objects([id].into_iter()).map_err(TransferError::io("remove", failed()))?;
            let synced = self.root.open_dir(&Root::fan_out(id)).and_then(|dir| self.durability.sync_all(&dir));
            synced.map_err(TransferError::io("sync the directory of", failed()))?;
        }
        Ok(())
    }

    /// Reads every pack through and tells what is damaged, with the pack's path: also what no member has to do with, such as the index.
    pub fn check_packs(&self, told: &mut dyn FnMut(std::path::PathBuf, String)) -> Result<(), TransferError> {
        self.packs.check(told)
    }

    /// Before anything is written.
    pub(super) fn begin(&self) -> Result<(), TransferError> {
        self.root.check()?;
        self.root.begin()
    }

    /// What its temporary files are made by, and how they are made durable.
    pub(super) fn workshop(&self) -> (&Arc<Root>, &Sessions, &Arc<dyn Durability>) {
        (&self.root, &self.sessions, &self.durability)
    }

    /// A temporary file.
    pub(super) fn create(&self, id: &ObjectId) -> Result<TempFile, TransferError> {
        self.sessions.create(id)
    }

    /// The object and its manifest, to be read by chunks. `None` when it has no manifest, or no hash is there to compare with.
    ///
    /// # Errors
    /// [`TransferError::NoManifest`] when the manifest is damaged, or that of something else.
    pub fn chunks(&self, id: &ObjectId, expected: Expected) -> Result<Option<ChunkReader<Part, Part>>, TransferError> {
        if let Some(member) = MemberId::parse(id) {
            return self.member_chunks(&member, expected).map(Some);
        }
        let Some(Digest::Blake3(_)) = expected.digest else { return Ok(None) };
        let object = self.open_object(id)?;
        let Some(file) = self.open_manifest(id)? else { return Ok(None) };
        let (object_path, path) = (object.path().to_owned(), file.path().to_owned());
        open_chunks(id, (Part::File(object), object_path), (Part::File(file), path), expected)
    }

    fn open_manifest(&self, id: &ObjectId) -> Result<Option<OpenFile>, TransferError> {
        let path = self.root.manifest_path(id);
        let file = self.root.open_manifest(id).map_err(TransferError::io("open", &path))?;
        Ok(file.map(|file| OpenFile::new(file, path)))
    }

    fn open_object(&self, id: &ObjectId) -> Result<OpenFile, TransferError> {
        not_reserved(id)?;
        let path = self.root.object_path(id);
        let Some(file) = self.root.open_object(id).map_err(TransferError::io("open", &path))? else {
            self.root.check_objects()?;
            return Err(TransferError::Missing { path });
        };
        let object = OpenFile::new(file, path);
        if object.stamp()?.is_regular {
            Ok(object)
        } else {
            Err(TransferError::NotRegular { path: object.path().to_owned() })
        }
    }

    /// Reads and verifies by chunks. `None` where only the whole can be compared.
    fn read_by_chunks(
        &self,
        id: &ObjectId,
        target: Option<&OpenFile>,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Option<Restored>, TransferError> {
        let read = self.chunks(id, expected).and_then(|reader| {
            let Some(reader) = reader else { return Ok(None) };
            restore_chunks(&reader, reader.object().bytes()?, target, expected, monitor).map(Some)
        });
        match read {
            Err(error @ TransferError::NoManifest { .. }) => {
                tracing::warn!(%id, %error, "an object is restored without its manifest");
                Ok(None)
            }
            other => other,
        }
    }

    /// Reads an object into a sink and compares.
    fn read(
        &self,
        id: &ObjectId,
        sink: &mut dyn Sink,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        let object = self.open_object(id)?;
        let (_, encoding) = Encoding::split(id.as_str());
        let (mut raw, mut decoded);
        let stored = object.stamp()?.size;
        let source: &mut dyn Source = match DecodedSource::new(&object, object.path(), stored, encoding, expected.size)?
        {
            Some(source) => {
                decoded = source;
                &mut decoded
            }
            None => {
                raw = FileSource::new(&object)?;
                right_size(object.path(), raw.size(), expected)?;
                &mut raw
            }
        };
        compare(source, sink, object.path(), expected, monitor)
    }

    fn list_dir(
        &self,
        path: &Path,
        depth: usize,
        id_of: fn(&str) -> Option<ObjectId>,
        visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, TransferError> {
        let full = self.root.path().join(path);
        let dir = match self.root.open_dir(path) {
            Ok(dir) => dir,
            // Removed meanwhile, or nothing that we made.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(ControlFlow::Continue(()));
            }
            Err(e) => return Err(TransferError::io("list", full)(e)),
        };
        for entry in entries(&dir).map_err(TransferError::io("list", &full))? {
            let name = entry.map_err(TransferError::io("list", &full))?;
            let flow = if depth > 0 {
                if name.len() != 2 || name.starts_with('.') {
                    continue;
                }
                self.list_dir(&path.join(&name), depth - 1, id_of, visit)?
            } else {
                match id_of(&name) {
                    Some(id) if Root::fan_out(&id) == path => visit(id),
                    _ => continue,
                }
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Content on its way into the archive.
pub struct StagedFile(Staged);

enum Staged {
    /// For an object of its own.
    Object(StagedObject),
    /// For a pack.
    Member(Packed),
}

/// Content in temporary files.
pub(super) struct StagedObject {
    pub(super) id: ObjectId,
    pub(super) written: Written,
    pub(super) copied: Copied,
    pub(super) synced: bool,
}

impl Store for PosixStore {
    type Staged = StagedFile;

    fn stage(
        &self,
        id: &ObjectId,
        source: &OpenFile,
        options: PutOptions<'_>,
        monitor: &dyn Monitor,
    ) -> Result<StagedFile, TransferError> {
        not_reserved(id)?;
        self.begin()?;
        if let Some(packed) = Packed::take(id, source, options)? {
            if monitor.cancelled() {
                return Err(TransferError::Cancelled);
            }
            monitor.advanced(Extent { offset: 0, length: packed.bytes });
            return Ok(StagedFile(Staged::Member(packed)));
        }
        let encoding = options.compression.encoding_of(source)?;
        let id = with_encoding(id, encoding)?;
        let (written, copied) = self.take_in(&id, source, encoding, options, monitor)?;
        let synced = copied.bytes >= SYNC_ALONE_FROM_BYTES;
        if synced {
            written.sync(&*self.durability).map_err(|(e, file)| file.failed("sync")(e))?;
        }
        if monitor.cancelled() {
            return Err(TransferError::Cancelled);
        }
        Ok(StagedFile(Staged::Object(StagedObject { id, written, copied, synced })))
    }

    fn commit(&self, staged: StagedFile, done: Done) {
        match staged.0 {
            Staged::Object(object) => publish(&self.group, &self.root, object, done),
            Staged::Member(packed) => self.packs.add(packed.arrival(done)),
        }
    }

    fn get(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        let restored = match self.read_by_chunks(id, Some(target), expected, monitor)? {
            Some(restored) => restored,
            None => {
                let mut sink = Overwrite::new(target)?;
                let restored = self.read(id, &mut sink, expected, monitor)?;
                sink.finish()?;
                restored
            }
        };
        if restored.bytes >= SYNC_ALONE_FROM_BYTES {
            // Several workers can do so at once. Whoever asked syncs before the content counts: small files many at a time.
            self.durability.sync_data(target.file()).map_err(target.failed("sync"))?;
        }
        Ok(restored)
    }

    fn verify(&self, id: &ObjectId, expected: Expected, monitor: &dyn Monitor) -> Result<Restored, TransferError> {
        match self.read_by_chunks(id, None, expected, monitor)? {
            Some(verified) => Ok(verified),
            None => self.read(id, &mut Discard, expected, monitor),
        }
    }

    fn get_range(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        extent: Extent,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        let reader = self.chunks(id, expected)?.ok_or_else(|| TransferError::NoManifest {
            path: self.root.manifest_path(id),
            why: "there is none, or no hash to compare with".to_owned(),
        })?;
        restore_range(&reader, target, extent, expected, monitor)
    }

    fn put_record(&self, record: &Manifest, done: Done) {
        match self.write_record(record) {
            Ok(written) => {
                let id = record.object.clone();
                let stored = Stored { id: id.clone(), bytes: 0, digest: None, at: None };
                let done = Box::new(move |result: Result<(), TransferError>| done(result.map(|()| stored)));
                self.group.submit(Item::Publish { written, id, synced: false, done });
            }
            Err(e) => done(Err(e)),
        }
    }

    fn manifest(&self, id: &ObjectId) -> Result<Option<Manifest>, TransferError> {
        if let Some(member) = MemberId::parse(id) {
            return Ok(self.manifest_in_pack(&member)?.map(|(manifest, _)| manifest));
        }
        let Some(file) = self.open_manifest(id)? else {
            self.root.check_objects()?;
            return Ok(None);
        };
        let read = Manifest::read(&file).map_err(unusable(file.path()))?;
        Ok(Some(read.0))
    }

    fn remove(&self, id: &ObjectId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        let is_raw = Encoding::split(id.as_str()).1 == Encoding::Raw;
        let others = is_raw.then(|| other_encodings(id)).into_iter().flatten();
        self.unlink(&std::iter::once(id.clone()).chain(others).collect::<Vec<_>>(), done);
    }

    fn attempts(&self, proposed: &ObjectId, since_ms: u64) -> Result<Vec<ObjectId>, TransferError> {
        self.stored_attempts(proposed, since_ms)
    }

    fn head(&self, id: &ObjectId) -> Result<Option<Head>, TransferError> {
        if let Some(member) = MemberId::parse(id) {
            let found = self.manifest_in_pack(&member)?;
            let head = |manifest: &Manifest| {
                let (content, made) = (manifest.content()?, manifest.made);
                let stored_ms = milliseconds((made.seconds, made.nanos));
                Some(Head { encoding: content.encoding, stored_bytes: content.stored_bytes, stored_ms })
            };
            return Ok(found.and_then(|(manifest, _)| head(&manifest)));
        }
        match self.open_object(id) {
            Ok(object) => {
                let (_, encoding) = Encoding::split(id.as_str());
                let stamp = object.stamp()?;
                // Written once, and nobody sets it.
                let stored_ms = milliseconds(stamp.mtime);
                Ok(Some(Head { encoding, stored_bytes: stamp.size, stored_ms }))
            }
            Err(TransferError::Missing { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn list(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), TransferError> {
        self.root.check()?;
        let object = |name: &str| ObjectId::parse(name).ok().filter(|_| !name.ends_with(manifest::SUFFIX));
        if self.list_dir(Path::new(OBJECTS), 2, object, visit)?.is_continue() {
            let _ = self.packs.list(visit)?;
        }
        Ok(())
    }

    fn list_manifests(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), TransferError> {
        self.root.check()?;
        if self.list_dir(Path::new(OBJECTS), 2, manifest::object_of, visit)?.is_continue() {
            let _ = self.packs.list(visit)?;
        }
        Ok(())
    }
}

/// Since 1970; nothing is older.
fn milliseconds((seconds, nanos): sys::file::Moment) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000).saturating_add(u64::from(nanos / 1_000_000))
}

/// Makes staged content an object of its own.
pub(super) fn publish(group: &GroupSync, root: &Arc<Root>, object: StagedObject, done: Done) {
    let StagedObject { id, written, copied, synced } = object;
    let root = root.clone();
    let stored = Stored { id: id.clone(), bytes: copied.bytes, digest: copied.digest, at: None };
    let has_manifest = written.manifest.is_some();
    let acknowledge = move |result: Result<(), TransferError>| {
        done(result.map(|()| {
            remove_older_forms(&root, &stored.id, has_manifest);
            stored
        }));
    };
    group.submit(Item::Publish { written, id, synced, done: Box::new(acknowledge) });
}

/// An earlier attempt of the same archive may have chosen another encoding, or had a manifest.
fn remove_older_forms(root: &Root, id: &ObjectId, has_manifest: bool) {
    let others: Vec<ObjectId> = other_encodings(id).collect();
    let removed = root.unlink_objects(others.iter());
    let removed = if has_manifest { removed } else { removed.and_then(|()| root.unlink_manifest(id)) };
    if let Err(e) = removed {
        let object = root.object_path(id);
        tracing::warn!(object = %object.display(), error = %e, "cannot remove older forms of an object");
    }
}
