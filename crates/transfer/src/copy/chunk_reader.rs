//! Reads an object's content by chunks, every one verified.

use crate::compress::FrameDecoder;
use crate::manifest::{ChunkTable, Content, Group, HoleMap, Manifest, ManifestError, ReadAt, Shape, Value};
use crate::{Encoding, TransferError};
use model::Extent;
use model::limits::CHUNK_SIZE_BYTES;
use parking_lot::Mutex;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An object with its manifest. Several threads may read from it, each with a [`ChunkBuffer`] of its own.
pub struct ChunkReader<O, M> {
    object: O,
    object_path: PathBuf,
    stored_bytes: u64,
    encoding: Encoding,
    holes: HoleMap,
    table: ChunkTable<M>,
    manifest_path: PathBuf,
    /// The group that was used last.
    group: Mutex<Option<Arc<Group>>>,
}

/// What reading a chunk takes; to be used again for the next one.
#[derive(Default)]
pub struct ChunkBuffer {
    content: Vec<u8>,
    encoded: Vec<u8>,
    decoder: Option<FrameDecoder>,
}

/// The content of a chunk, found to be what was archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Nothing but zeros: a hole of the original.
    Zeros,
}

impl<O: ReadAt, M: ReadAt> ChunkReader<O, M> {
    /// `content` and `start` come from reading the manifest. The paths are for messages.
    ///
    /// # Errors
    /// [`TransferError::NoManifest`] when the table's groups do not verify.
    pub fn new(
        object: (O, PathBuf),
        manifest: (M, PathBuf),
        content: &Content,
        start: u64,
    ) -> Result<Self, TransferError> {
        let (manifest, manifest_path) = manifest;
        let table = ChunkTable::open(manifest, content, start).map_err(unusable(&manifest_path))?;
        let holes = HoleMap::from_sorted(content.holes.clone());
        let (object, object_path) = object;
        let Content { stored_bytes, encoding, .. } = *content;
        let group = Mutex::new(None);
        Ok(Self { object, object_path, stored_bytes, encoding, holes, table, manifest_path, group })
    }

    /// How the content is cut.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.table.shape()
    }

    /// What the content is read from.
    #[must_use]
    pub fn object(&self) -> &O {
        &self.object
    }

    /// Which bytes of the object hold these chunks, of which there has to be one at least.
    ///
    /// # Errors
    /// [`TransferError::NoManifest`] when a part of the manifest does not verify.
    pub fn stored(&self, chunks: Range<u64>) -> Result<Range<u64>, TransferError> {
        let shape = self.shape();
        let (first, last) = (chunks.start, chunks.end.saturating_sub(1));
        let place = |index: u64| -> Result<(u64, u64), TransferError> {
            let Extent { offset, length } = shape.chunk(index);
            let chunk = self.group(shape.group_of(index))?.chunk(index);
            let frame = chunk.and_then(|chunk| chunk.frame);
            Ok(frame.map_or((offset, length), |frame| (frame.offset, frame.length.into())))
        };
        let (start, _) = place(first)?;
        let (offset, length) = place(last)?;
        Ok(start..offset.saturating_add(length).max(start))
    }

    /// That the object, which has so many bytes, has those it had when it was stored. Reading all chunks alone would not find that
    /// there is more.
    pub(crate) fn expect_whole(&self, found: u64) -> Result<(), TransferError> {
        if found == self.stored_bytes {
            return Ok(());
        }
        let why = format!("it has {found} bytes, and had {} when it was stored", self.stored_bytes);
        Err(TransferError::Damaged { path: self.object_path.clone(), why })
    }

    /// The hash that a chunk's content has to have. Nothing of the object is read.
    ///
    /// # Errors
    /// [`TransferError::NoManifest`] when its part of the manifest does not verify.
    pub fn value(&self, index: u64) -> Result<Value, TransferError> {
        let chunk = self.group(self.shape().group_of(index))?.chunk(index);
        let none = ManifestError::Damaged("it lacks a chunk");
        Ok(chunk.ok_or_else(|| unusable(&self.manifest_path)(none))?.value)
    }

    /// Where the original had holes in an extent.
    pub fn holes(&self, extent: Extent) -> impl Iterator<Item = Extent> + '_ {
        self.holes.inside(extent)
    }

    /// Reads one chunk.
    ///
    /// # Errors
    /// [`TransferError::DamagedChunk`] when the object does not hold what was archived; [`TransferError::NoManifest`] when its part of the
    /// manifest does not verify; I/O errors.
    pub fn read<'b>(&self, index: u64, buffer: &'b mut ChunkBuffer) -> Result<Verified<'b>, TransferError> {
        let shape = self.shape();
        let extent = shape.chunk(index);
        let group = self.group(shape.group_of(index))?;
        let damaged = |why: String| {
            let Extent { offset, length } = extent;
            TransferError::DamagedChunk { path: self.object_path.clone(), offset, length, why }
        };
        let chunk = group.chunk(index).ok_or_else(|| damaged("there is no such chunk".to_owned()))?;
        if extent.length > 0 && self.holes.covers(extent) && shape.value_of_zeros(index) == chunk.value {
            return Ok(Verified::Zeros);
        }
        let length = usize::try_from(extent.length).unwrap_or(0);
        if buffer.content.len() < length {
            buffer.content.resize(length, 0);
        }
        let content = buffer.content.get_mut(..length).unwrap_or_default();
        let failed = |e: io::Error| TransferError::io("read", &self.object_path)(e);
        match chunk.frame {
            None => {
                if self.object.read_full_at(content, extent.offset).map_err(failed)? < length {
                    return Err(damaged("the object ends before".to_owned()));
                }
            }
            Some(frame) => {
                let size = usize::try_from(frame.length).unwrap_or(0);
                if buffer.encoded.len() < size {
                    buffer.encoded.resize(size.max(CHUNK_SIZE_BYTES.min(2 * size)), 0);
                }
                let encoded = buffer.encoded.get_mut(..size).unwrap_or_default();
                if self.object.read_full_at(encoded, frame.offset).map_err(failed)? < size {
                    return Err(damaged("the object ends before".to_owned()));
                }
                let decoder = match &mut buffer.decoder {
                    Some(decoder) if decoder.encoding() == self.encoding => decoder,
                    other => other.insert(FrameDecoder::new(self.encoding).map_err(failed)?),
                };
                decoder.decode(encoded, content).map_err(|e| damaged(e.to_string()))?;
            }
        }
        if shape.value(index, content) == chunk.value {
            Ok(Verified::Bytes(content))
        } else {
            Err(damaged("it does not have the hash that was archived".to_owned()))
        }
    }

    fn group(&self, index: u64) -> Result<Arc<Group>, TransferError> {
        let mut last = self.group.lock();
        if let Some(group) = last.as_ref().filter(|group| group.index() == index) {
            return Ok(group.clone());
        }
        let group = Arc::new(self.table.group(index).map_err(unusable(&self.manifest_path))?);
        *last = Some(group.clone());
        Ok(group)
    }
}

/// Opens nothing: reads the manifest, and makes the reader when it describes content.
pub fn read_chunks<O: ReadAt, M: ReadAt>(
    object: (O, PathBuf),
    manifest: (M, PathBuf),
) -> Result<(Manifest, ChunkReader<O, M>), TransferError> {
    let (read, start) = Manifest::read(&manifest.0).map_err(unusable(&manifest.1))?;
    let no_content = ManifestError::Damaged("it describes no content, but there is an object");
    let Some(content) = read.content() else { return Err(unusable(&manifest.1)(no_content)) };
    let reader = ChunkReader::new(object, manifest, content, start)?;
    Ok((read, reader))
}

/// A manifest that cannot be used is as good as none. Not so when only reading it failed, which may work later.
pub fn unusable(path: &Path) -> impl FnOnce(ManifestError) -> TransferError + '_ {
    move |error| match error {
        ManifestError::Io(source) => TransferError::io("read", path)(source),
        other => TransferError::NoManifest { path: path.to_owned(), why: other.to_string() },
    }
}
