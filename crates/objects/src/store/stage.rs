//! From a file to content that is ready to become an object.

use super::ObjectStore;
use super::lemur_az;
use super::memory::{Memory, Taken};
use super::paths::{self, Visible};
use super::place::{Place, There};
use super::sweep::Uploading;
use super::upload::{Cut, Sent, Upload, Whole};
use crate::{Bucket, Layout};
use bytes::Bytes;
use model::{Extent, ObjectId};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use transfer::copy::{Archived, Copied, WriteAt, archive_file};
use transfer::forms::{not_reserved, with_encoding};
use transfer::packing::{Packed, as_object};
use transfer::{DigestKind, Encoding, Monitor, OpenFile, PutOptions, StoredAt, TransferError};

/// From this size on, a file's manifest (36 KiB to 45 KiB for each GiB) is collected on disk.
const SPOOL_FROM_BYTES: u64 = 64 << 30;

/// No manifest in memory is larger: one of this many bytes of content has less than 3 MiB, and what else may stand in it less than one.
const MAX_MANIFEST_BYTES: u64 = 8 << 20;

/// Content on its way into the bucket. Dropped, it leaves nothing.
pub struct Staged(pub(super) StagedKind);

pub(super) enum StagedKind {
    /// For an object of its own.
    Object(StagedObject),
    /// For a pack; with what it takes to become an object of its own, and whether there may be other forms of it.
    Member(Packed, Place, Taken, bool),
}

/// Content for an object of its own.
pub(super) struct StagedObject {
    pub(super) id: ObjectId,
    pub(super) copied: Copied,
    pub(super) content: StagedContent,
    pub(super) manifest: Option<Table>,
    /// Where it is to lie, if that is the path of the file.
    pub(super) visible: Option<Visible>,
    /// There may be other forms of it.
    pub(super) repeated: bool,
}

pub(super) enum StagedContent {
    /// To be put in one request.
    Whole(Place, Bytes, Taken),
    /// In the bucket, in parts.
    Parts(Sent),
}

/// A manifest that is being made.
pub(super) enum Table {
    Memory(Whole),
    /// Without a name: it goes with the descriptor.
    Disk(OpenFile),
}

impl Table {
    fn new(size: u64, path: PathBuf) -> Result<Self, TransferError> {
        if size < SPOOL_FROM_BYTES {
            return Ok(Self::Memory(Whole::new(path, 0, MAX_MANIFEST_BYTES)));
        }
        let directory = std::env::temp_dir();
        let file: File = tempfile::tempfile_in(&directory).map_err(TransferError::io("make a file in", &directory))?;
        Ok(Self::Disk(OpenFile::new(file, directory)))
    }

    fn as_write_at(&self) -> &dyn WriteAt {
        match self {
            Self::Memory(whole) => whole,
            Self::Disk(file) => file,
        }
    }
}

impl ObjectStore {
    pub(super) fn stage_file(
        &self,
        id: &ObjectId,
        source: &OpenFile,
        options: PutOptions<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Staged, TransferError> {
        not_reserved(id)?;
        let (layout, origin) = (self.bucket.layout(), options.origin);
        if layout.has_packs()
            && options.pack_up_to_bytes > 0
            // To thaw a file would be to thaw all that came with it, and nobody could take removed ones out.
            && !self.bucket.traits().is_cold
            && let Some(staged) = self.stage_member(id, source, options, monitor)?
        {
            return Ok(staged);
        }
        let (id, encoding, options) = if layout.has_manifests() {
            let encoding = options.compression.encoding_of(source)?;
            (with_encoding(id, encoding)?, encoding, options)
        } else {
            (id.clone(), Encoding::Raw, PutOptions { origin: None, ..options })
        };
        let size = source.stamp()?.size;
        // There may be none for minutes, and a log grows meanwhile.
        let as_before = || match source.stamp()?.size {
            found if found > size => {
                Err(TransferError::Changed { path: source.path().to_owned(), expected: size, found })
            }
            _ => Ok(()),
        };
        let table = Table::new(size, self.bucket.path(&layout.manifest(&id)))?;
        let mut place = Place::new(layout.object(&id));
        let mut visible = None;
        if layout == Layout::LemurAz {
            visible = Some(lemur_az::describe(&mut place, &self.bucket, &id, source, origin)?);
        } else {
            place.describe(source)?;
        }
        if layout == Layout::Path {
            paths::describe_object(&mut place, &id);
            // What gets no manifest is found by its id alone.
            let is_described = matches!(options.digest, Some(DigestKind::Blake3));
            visible = origin.filter(|_| is_described).and_then(|origin| Visible::of(&self.bucket, origin.path, &id));
        }
        let take = |object: &dyn WriteAt| {
            as_before()?;
            archive_file(&id, source, encoding, options, (object, table.as_write_at()), monitor)
        };
        let most = most_stored(size, encoding);
        let (mut content, archived) = if size <= self.bucket.limits().part_bytes || !self.bucket.traits().parts {
            take_whole(&self.bucket, &self.memory, place, (size, most), take, monitor)?
        } else {
            if let Some(visible) = visible.clone() {
                let bucket = self.bucket.clone();
                let path = bucket.path(&visible.path);
                let chosen = async move { paths::choose(&bucket, &mut place, &visible).await.map(|()| place) };
                let chosen = self.bucket.engine().wait_watched(chosen, monitor)?;
                place = chosen.map_err(|fault| fault.into_error("store", path))?;
            }
            let uploading = self.underway.begin(&place.key);
            take_parts(&self.bucket, &self.memory, (place, uploading), most, take, monitor)?
        };
        if monitor.cancelled() {
            return Err(TransferError::Cancelled);
        }
        let manifest = archived.described.then_some(table).filter(|table| match (&mut content, table) {
            (StagedContent::Whole(place, ..), Table::Memory(manifest)) => {
                !layout.small(&id).is_some_and(|key| manifest.carried_by(place, &self.bucket, key))
            }
            _ => true,
        });
        if layout == Layout::Path && visible.is_some() && !archived.described {
            let why =
                "it is larger than what can be described, and without a description it is not found again".to_owned();
            return Err(TransferError::Undescribed { path: source.path().to_owned(), why });
        }
        let (copied, repeated) = (archived.copied, options.repeated);
        let object = StagedObject { id, copied, content, manifest, visible, repeated };
        Ok(Staged(StagedKind::Object(object)))
    }
}

impl ObjectStore {
    /// `None` for a file that is to have an object of its own.
    fn stage_member(
        &self,
        id: &ObjectId,
        source: &OpenFile,
        options: PutOptions<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Option<Staged>, TransferError> {
        let size = source.stamp()?.size;
        if size > options.pack_up_to_bytes {
            return Ok(None);
        }
        let memory = self.memory.take(size, &self.bucket, monitor)?;
        // It is read up to that size, whatever it has grown to.
        let Some(packed) = Packed::take(id, source, options)? else { return Ok(None) };
        if monitor.cancelled() {
            return Err(TransferError::Cancelled);
        }
        monitor.advanced(Extent { offset: 0, length: packed.bytes });
        let mut place = Place::new(self.bucket.layout().object(id));
        place.describe(source)?;
        Ok(Some(Staged(StagedKind::Member(packed, place, memory, options.repeated))))
    }
}

impl StagedObject {
    /// Where it may come to lie, if that is by a path.
    pub(super) fn places(&self) -> Vec<StoredAt> {
        let place = match &self.content {
            StagedContent::Whole(place, ..) => place,
            StagedContent::Parts(sent) => &sent.place,
        };
        let keys = self.visible.clone().into_iter().flat_map(Visible::keys);
        keys.map(|key| StoredAt { key, mark: place.mark.clone() }).collect()
    }

    /// What was to go into a pack, as an object of its own.
    pub(super) fn of_member(
        bucket: &Arc<Bucket>,
        packed: Packed,
        (mut place, memory): (Place, Taken),
        repeated: bool,
    ) -> Result<Self, TransferError> {
        let Packed { member, bytes, digest } = packed;
        let (id, manifest, content) = as_object(member)?;
        let layout = bucket.layout();
        place.key = layout.object(&id);
        if let Some(hash) = &digest {
            place.set_hash(hash);
        }
        let carried = layout.small(&id).is_some_and(|key| place.carry(bucket, key, &manifest));
        let manifest = if carried {
            None
        } else {
            let whole = Whole::new(bucket.path(&layout.manifest(&id)), manifest.len(), MAX_MANIFEST_BYTES);
            whole.write_all_at(&manifest, 0)?;
            Some(Table::Memory(whole))
        };
        let content = StagedContent::Whole(place, content.into(), memory);
        Ok(Self { id, copied: Copied { bytes, digest }, content, manifest, visible: None, repeated })
    }
}

/// The most bytes that content of a size is stored in: what does not shrink grows a little.
fn most_stored(size: u64, encoding: Encoding) -> u64 {
    match encoding {
        Encoding::Raw => size,
        Encoding::Gzip | Encoding::Zstd => size.saturating_add(size / 64).saturating_add(1 << 20),
    }
}

fn take_whole(
    bucket: &Arc<Bucket>,
    memory: &Memory,
    mut place: Place,
    (size, most): (u64, u64),
    take: impl FnOnce(&dyn WriteAt) -> Result<Archived, TransferError>,
    monitor: &dyn Monitor,
) -> Result<(StagedContent, Archived), TransferError> {
    let memory = memory.take(most, bucket, monitor)?;
    let whole = Whole::new(bucket.path(&place.key), usize::try_from(size).unwrap_or(0), most);
    let archived = take(&whole)?;
    if let Some(hash) = &archived.copied.digest {
        place.set_hash(hash);
    }
    Ok((StagedContent::Whole(place, whole.into_bytes(), memory), archived))
}

fn take_parts(
    bucket: &Arc<Bucket>,
    memory: &Memory,
    (place, uploading): (Place, Uploading),
    most: u64,
    take: impl FnOnce(&dyn WriteAt) -> Result<Archived, TransferError>,
    monitor: &dyn Monitor,
) -> Result<(StagedContent, Archived), TransferError> {
    let path = bucket.path(&place.key);
    let cut = Cut::of(most, bucket, &path)?;
    let memory = memory.take(cut.memory(), bucket, monitor)?;
    // Asked before anything is moved: not every service looks at conditions when it makes an object of parts.
    let (asking, looking) = (place.clone(), bucket.clone());
    let there = bucket.engine().wait_watched(async move { asking.look(&looking).await }, monitor)?;
    let there = match there {
        Ok(There::Strange) => Err(place.strange()),
        other => other,
    };
    let there = there.map_err(|fault| fault.into_error("store", path))?;
    let upload = Upload::begin(bucket, (place, uploading), there, cut, memory, monitor);
    let archived = take(&upload)?;
    Ok((StagedContent::Parts(upload.finish()?), archived))
}
