//! From a small file to a member.
//!
//! A member's manifest is the one that an object would have; it needs no table of chunks, because there is one chunk. It names the object by
//! the proposed uuid alone: the pack is not known when it is made.

use super::building::Arrival;
use crate::compress::{FrameEncoder, shrinks_enough};
use crate::manifest::ReadAt as _;
use crate::manifest::{Content, Description, HoleMap, Kind, ManifestError, describe_small};
use crate::pack::{MAX_CONTENT_BYTES, MemberName, NewMember};
use crate::store::{Compression, Done, Origin, PutOptions};
use crate::{Encoding, OpenFile, TransferError};
use model::{Digest, ObjectId};

/// A file's content, ready to be packed.
pub(in crate::store) struct Packed {
    member: NewMember,
    bytes: u64,
    digest: Option<Digest>,
}

impl Packed {
    /// Size of the content, before any encoding.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(in crate::store) fn arrival(self, done: Done) -> Arrival {
        let Self { member, bytes, digest } = self;
        Arrival { member, bytes, digest, done }
    }
}

/// Reads the whole of a small file. `None` when it is larger, or a pack cannot take it: its attributes are too many.
///
/// # Errors
/// [`TransferError::Changed`] when the file became shorter meanwhile.
pub(in crate::store) fn pack(
    name: MemberName,
    source: &OpenFile,
    origin: Origin<'_>,
    options: PutOptions<'_>,
) -> Result<Option<Packed>, TransferError> {
    let largest = options.pack_up_to_bytes.min(MAX_CONTENT_BYTES as u64);
    let Some(description) = describe_small(source, origin.path, origin.fsid, largest)? else { return Ok(None) };
    let size = description.size;
    let holes = HoleMap::of(source, size, description.blocks)?.into_extents();
    let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
    let read = source.read_full_at(&mut content, 0).map_err(source.failed("read"))?;
    if (read as u64) < size {
        return Err(TransferError::Changed { path: source.path().to_owned(), expected: size, found: read as u64 });
    }
    let hash = *blake3::hash(&content).as_bytes();
    let (encoding, stored, stored_hash) =
        match encoded(&content, options.compression).map_err(source.failed("compress"))? {
            Some((encoding, encoded)) => (encoding, encoded, None),
            None => (Encoding::Raw, content, Some(hash)),
        };
    let described = Content { size, stored_bytes: stored.len() as u64, encoding, hash, holes };
    let manifest = manifest(name, description, Kind::File(described)).map_err(|e| undescribed(source, &e))?;
    let packed = |member| Packed { member, bytes: size, digest: Some(Digest::Blake3(hash)) };
    // What is too large for a pack becomes an object of its own.
    Ok(NewMember::new(name, manifest, stored, stored_hash).ok().map(packed))
}

fn manifest(name: MemberName, description: Description, kind: Kind) -> Result<Vec<u8>, ManifestError> {
    let object = ObjectId::parse(&name.to_string()).map_err(|_| ManifestError::Unfit("its id is none"))?;
    description.with_kind(object, kind).encode()
}

/// The content as one frame, where that is asked for and smaller.
fn encoded(content: &[u8], compression: Compression) -> std::io::Result<Option<(Encoding, Vec<u8>)>> {
    let (encoding, must_pay) = match compression {
        Compression::Off => return Ok(None),
        Compression::On(encoding) => (encoding, false),
        Compression::Auto(encoding) => (encoding, true),
    };
    if encoding == Encoding::Raw || content.is_empty() {
        return Ok(None);
    }
    let mut encoder = FrameEncoder::new(encoding)?;
    let frame = encoder.encode(content)?;
    let (before, after) = (content.len() as u64, frame.len() as u64);
    let pays = if must_pay { shrinks_enough(before, after) } else { after < before };
    Ok(pays.then(|| (encoding, frame.to_vec())))
}

fn undescribed(file: &OpenFile, error: &ManifestError) -> TransferError {
    TransferError::Undescribed { path: file.path().to_owned(), why: error.to_string() }
}
