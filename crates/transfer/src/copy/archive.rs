//! A file's content and its manifest, into whatever can be written to at any place.

use super::intake::{Hashes, Intake, Outlet, take_in};
use super::sink::Encoded;
use super::source::FileSource;
use super::write_at::WriteAt;
use super::{Copied, by_chunks, run};
use crate::manifest::{Content, HoleMap, Kind, Manifest, ManifestError, describe};
use crate::{DigestKind, Encoding, Monitor, OpenFile, Origin, PutOptions, TransferError};
use model::limits::CHUNK_SIZE_BYTES;
use model::{Digest, ObjectId};

/// What was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archived {
    /// Of the content.
    pub copied: Copied,
    /// Bytes of the object.
    pub stored_bytes: u64,
    /// Whether there is a manifest.
    pub described: bool,
}

/// Reads a file into `object`, and writes its manifest into `table` if it is to have one. Both are empty, and know no holes. The compression
/// that the options ask for is not looked at: `encoding` says what was made of it, as `id` does.
///
/// # Errors
/// [`TransferError::Changed`] when the file becomes shorter meanwhile; bytes added to it meanwhile are not read.
pub fn archive_file(
    id: &ObjectId,
    source: &OpenFile,
    encoding: Encoding,
    options: PutOptions<'_>,
    (object, table): (&dyn WriteAt, &dyn WriteAt),
    monitor: &dyn Monitor,
) -> Result<Archived, TransferError> {
    let outlet = match encoding {
        Encoding::Raw => Outlet::Whole(object),
        other => Outlet::Frames(object, other),
    };
    if let (Some(origin), Some(DigestKind::Blake3)) = (options.origin, options.digest) {
        let mut stored_bytes = 0;
        let described = described(id, source, encoding, origin, table, |intake, hashes| {
            stored_bytes = take_in(intake, outlet, Some(hashes), monitor)?;
            Ok(stored_bytes)
        })?;
        if let Some(copied) = described {
            return Ok(Archived { copied, stored_bytes, described: true });
        }
    }
    let (copied, stored_bytes) = if options.digest == Some(DigestKind::Sha1) {
        let mut content = FileSource::new(source)?;
        let mut sink = Encoded::new(object, encoding, content.size())?;
        let copied = run(&mut content, &mut sink, options.digest, monitor)?;
        (copied, sink.finish()?)
    } else {
        by_chunks(source, outlet, encoding, options.digest, monitor)?
    };
    Ok(Archived { copied, stored_bytes, described: false })
}

/// Describes a file and writes its manifest into `table`. `store` moves the content: it is given what is to be read and what collects its
/// hashes, and gives back how many bytes were stored. `None`, with nothing done, for what is larger than any manifest can describe.
pub(crate) fn described(
    id: &ObjectId,
    source: &OpenFile,
    encoding: Encoding,
    origin: Origin<'_>,
    table: &dyn WriteAt,
    store: impl FnOnce(&Intake<'_>, &Hashes<'_>) -> Result<u64, TransferError>,
) -> Result<Option<Copied>, TransferError> {
    let description = describe(source, origin.path, origin.fsid)?;
    if !description.fits() {
        return Ok(None);
    }
    let (size, blocks) = (description.size, description.blocks);
    let holes = HoleMap::of(source, size, blocks)?;
    let kept = holes.clone().into_extents();
    let content = Content { size, stored_bytes: size, encoding, hash: [0; 32], holes: kept };
    let mut manifest = description.with_content(id.clone(), content);
    // Its length does not depend on what is not known yet. Content of one chunk has no table behind it.
    let start = if size > CHUNK_SIZE_BYTES as u64 { encoded(&manifest, source)?.len() as u64 } else { 0 };
    let hashes = Hashes::new(size, encoding, start, Some(table));
    let stored_bytes = store(&Intake { file: source, size, holes: &holes }, &hashes)?;
    // Every chunk came: else taking it in had failed.
    let Some((hash, blocks)) = hashes.finish() else { return Err(TransferError::Cancelled) };
    if let Kind::File(content) = &mut manifest.kind {
        (content.hash, content.stored_bytes) = (hash, stored_bytes);
    }
    let mut head = encoded(&manifest, source)?;
    for block in blocks {
        if block.offset == head.len() as u64 {
            head.extend(block.bytes);
        } else {
            table.write_all_at(&block.bytes, block.offset)?;
        }
    }
    table.write_all_at(&head, 0)?;
    Ok(Some(Copied { bytes: size, digest: Some(Digest::Blake3(hash)) }))
}

fn encoded(manifest: &Manifest, source: &OpenFile) -> Result<Vec<u8>, TransferError> {
    manifest.encode().map_err(|e| undescribed(source, &e))
}

pub(crate) fn undescribed(file: &OpenFile, error: &ManifestError) -> TransferError {
    TransferError::Undescribed { path: file.path().to_owned(), why: error.to_string() }
}
