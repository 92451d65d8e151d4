//! Out of an archive into a file, wherever the object is: by chunks where there is a manifest, else from front to back.

use super::chunk_reader::{ChunkReader, read_chunks};
use super::outlet::{Target, bring_back};
use super::run;
use super::sink::{Discard, Overwrite, Sink, fit};
use super::source::{DecodedSource, Source, StoredSource};
use crate::manifest::{Manifest, ReadAt};
use crate::{DigestKind, Encoding, Expected, Monitor, OpenFile, Restored, TransferError};
use model::{Digest, Extent, ObjectId};
use std::path::{Path, PathBuf};

/// An object to be read by its manifest. `None` when there is no hash to compare with that the manifest could prove.
///
/// # Errors
/// [`TransferError::NoManifest`] when it is damaged, or that of something else than what is expected under this id.
pub fn open_chunks<O: ReadAt, M: ReadAt>(
    id: &ObjectId,
    object: (O, PathBuf),
    manifest: (M, PathBuf),
    expected: Expected,
) -> Result<Option<ChunkReader<O, M>>, TransferError> {
    let Some(Digest::Blake3(hash)) = expected.digest else { return Ok(None) };
    let path = manifest.1.clone();
    let (manifest, reader) = read_chunks(object, manifest)?;
    let fits = manifest.content().is_some_and(|content| {
        content.hash == hash
            && expected.size.is_none_or(|size| size == content.size)
            && content.encoding == Encoding::split(id.as_str()).1
    });
    if !fits {
        let why = "it describes other content than was archived".to_owned();
        return Err(TransferError::NoManifest { path, why });
    }
    Ok(Some(reader))
}

/// A member of a pack to be read by its manifest, which is all of `manifest`. `object` is its content as it is stored, and how long that is; `path` is for
/// messages.
///
/// # Errors
/// [`TransferError::Damaged`] when the manifest is, or size or length are not what was expected; [`TransferError::Mismatch`] when the hash is not.
pub fn open_member<O: ReadAt, M: ReadAt>(
    path: PathBuf,
    manifest: M,
    object: (O, u64),
    expected: Expected,
) -> Result<ChunkReader<O, M>, TransferError> {
    let damaged = |why: String| TransferError::Damaged { path: path.clone(), why };
    let (described, start) = Manifest::read(&manifest).map_err(|e| damaged(format!("its manifest: {e}")))?;
    let content =
        described.content().ok_or_else(|| damaged("it is the description of something else than a file".to_owned()))?;
    if let Some(size) = expected.size.filter(|size| *size != content.size) {
        return Err(damaged(format!("it holds {} bytes, {size} were archived", content.size)));
    }
    let found = Digest::Blake3(content.hash);
    if let Some(expected) = expected.digest.filter(|expected| *expected != found) {
        return Err(TransferError::Mismatch { path, expected, found });
    }
    let (object, length) = object;
    if content.stored_bytes != length {
        return Err(damaged(format!("it has {length} bytes in its pack, and had {}", content.stored_bytes)));
    }
    ChunkReader::new((object, path.clone()), (manifest, path), content, start)
}

/// Reads all chunks of an object that has `stored_bytes`, and writes them into `target`, if there is one: see [`crate::Store::get`].
pub fn restore_chunks<O: ReadAt, M: ReadAt>(
    reader: &ChunkReader<O, M>,
    stored_bytes: u64,
    target: Option<&OpenFile>,
    expected: Expected,
    monitor: &dyn Monitor,
) -> Result<Restored, TransferError> {
    reader.expect_whole(stored_bytes)?;
    let shape = reader.shape();
    let into = target.map(Target::growing).transpose()?;
    bring_back(reader, into.as_ref(), 0..shape.chunks(), monitor)?;
    target.map_or(Ok(()), |target| fit(target, shape.size()))?;
    Ok(Restored { bytes: shape.size(), digest: expected.digest })
}

/// Writes the chunks that touch an extent: see [`crate::Store::get_range`].
pub fn restore_range<O: ReadAt, M: ReadAt>(
    reader: &ChunkReader<O, M>,
    target: &OpenFile,
    extent: Extent,
    expected: Expected,
    monitor: &dyn Monitor,
) -> Result<Restored, TransferError> {
    let shape = reader.shape();
    let chunks = shape.touched(extent);
    let bytes = chunks.clone().map(|index| shape.chunk(index).length).sum();
    bring_back(reader, Some(&Target::of_its_size(target)?), chunks, monitor)?;
    Ok(Restored { bytes, digest: expected.digest })
}

/// Reads an object of `stored_bytes` from front to back, into `target` if there is one, and compares at the end. For objects without a manifest.
pub fn restore_stream(
    (object, path, stored_bytes): (&dyn ReadAt, &Path, u64),
    encoding: Encoding,
    target: Option<&OpenFile>,
    expected: Expected,
    monitor: &dyn Monitor,
) -> Result<Restored, TransferError> {
    let (mut stored, mut decoded);
    let source: &mut dyn Source = match DecodedSource::new(object, path, stored_bytes, encoding, expected.size)? {
        Some(source) => {
            decoded = source;
            &mut decoded
        }
        None => {
            right_size(path, stored_bytes, expected)?;
            stored = StoredSource { object, path, size: stored_bytes, position: 0 };
            &mut stored
        }
    };
    let Some(target) = target else { return compare(source, &mut Discard, path, expected, monitor) };
    let mut sink = Overwrite::new(target)?;
    let restored = compare(source, &mut sink, path, expected, monitor)?;
    sink.finish()?;
    Ok(restored)
}

/// Reads an object of `stored_bytes` that is stored as it is, likewise, and computes its hash (BLAKE3) if none is expected: for objects of which nobody
/// knew one before.
pub fn restore_hashing(
    (object, path, stored_bytes): (&dyn ReadAt, &Path, u64),
    target: Option<&OpenFile>,
    expected: Expected,
    monitor: &dyn Monitor,
) -> Result<Restored, TransferError> {
    right_size(path, stored_bytes, expected)?;
    let mut source = StoredSource { object, path, size: stored_bytes, position: 0 };
    let kind = expected.digest.as_ref().map_or(DigestKind::Blake3, DigestKind::of);
    let Some(target) = target else {
        return compare_by(&mut source, &mut Discard, path, (expected, Some(kind)), monitor);
    };
    let mut sink = Overwrite::new(target)?;
    let restored = compare_by(&mut source, &mut sink, path, (expected, Some(kind)), monitor)?;
    sink.finish()?;
    Ok(restored)
}

/// Moves everything from an object's source to a sink, and compares.
pub(crate) fn compare(
    source: &mut dyn Source,
    sink: &mut dyn Sink,
    path: &Path,
    expected: Expected,
    monitor: &dyn Monitor,
) -> Result<Restored, TransferError> {
    let kind = expected.digest.as_ref().map(DigestKind::of);
    compare_by(source, sink, path, (expected, kind), monitor)
}

fn compare_by(
    source: &mut dyn Source,
    sink: &mut dyn Sink,
    path: &Path,
    (expected, kind): (Expected, Option<DigestKind>),
    monitor: &dyn Monitor,
) -> Result<Restored, TransferError> {
    let copied = run(source, sink, kind, monitor)?;
    right_size(path, copied.bytes, expected)?;
    match (expected.digest, copied.digest) {
        (Some(expected), Some(found)) if expected != found => {
            Err(TransferError::Mismatch { path: path.to_owned(), expected, found })
        }
        _ => Ok(Restored { bytes: copied.bytes, digest: copied.digest }),
    }
}

/// That an object's content has the size that was archived.
pub(crate) fn right_size(path: &Path, found: u64, expected: Expected) -> Result<(), TransferError> {
    match expected.size {
        Some(size) if size != found => {
            let why = format!("it holds {found} bytes, {size} were archived");
            Err(TransferError::Damaged { path: path.to_owned(), why })
        }
        _ => Ok(()),
    }
}
