//! From a small file to a member.
//!
//! A member's manifest is the one that an object would have; it needs no table of chunks, because there is one chunk. It names the object by
//! the proposed uuid alone: the pack is not known when it is made.

use super::packs::Arrival;
use crate::compress::{FrameEncoder, shrinks_enough};
use crate::manifest::ReadAt as _;
use crate::manifest::{Content, Description, HoleMap, Kind, Manifest, ManifestError, describe_small};
use crate::pack::{MAX_CONTENT_BYTES, MemberName, NewMember};
use crate::store::forms::with_encoding;
use crate::store::{Compression, Done, Origin, PutOptions};
use crate::{DigestKind, Encoding, OpenFile, TransferError};
use model::{Digest, ObjectId};

/// A file's content, ready to be packed.
#[derive(Debug)]
pub struct Packed {
    /// What goes into the pack.
    pub member: NewMember,
    /// Size of the content, before any encoding.
    pub bytes: u64,
    /// Its hash.
    pub digest: Option<Digest>,
}

impl Packed {
    /// Reads the whole of a small file that is to share a pack. `None` when it is to have an object of its own: because it is too large, or
    /// nobody wants packs, or its attributes are too many.
    ///
    /// # Errors
    /// [`TransferError::Changed`] when the file became shorter meanwhile.
    pub fn take(id: &ObjectId, source: &OpenFile, options: PutOptions<'_>) -> Result<Option<Self>, TransferError> {
        let packs = options.pack_up_to_bytes > 0;
        let Some(name) = MemberName::parse(id.as_str()).filter(|_| packs) else { return Ok(None) };
        match (options.origin, options.digest) {
            (Some(origin), Some(DigestKind::Blake3)) => pack(name, source, origin, options),
            _ => Ok(None),
        }
    }

    pub(in crate::store) fn arrival(self, done: Done) -> Arrival {
        let Self { member, bytes, digest } = self;
        Arrival { member, bytes, digest, done }
    }
}

/// The same as an object of its own: its id, its manifest, and its content as it is stored. For a file that came alone.
///
/// # Errors
/// [`TransferError::Undescribed`], which cannot happen to what [`Packed::take`] gave.
pub fn as_object(member: NewMember) -> Result<(ObjectId, Vec<u8>, Vec<u8>), TransferError> {
    let proposed = ObjectId::parse(&member.name().to_string())?;
    let (manifest, content) = member.into_parts();
    let unfit = |e: ManifestError| TransferError::Undescribed { path: proposed.as_str().into(), why: e.to_string() };
    let mut manifest = Manifest::decode(&manifest).map_err(unfit)?;
    let encoding = manifest.content().map_or(Encoding::Raw, |content| content.encoding);
    let id = with_encoding(&proposed, encoding)?;
    manifest.object = id.clone();
    Ok((id, manifest.encode().map_err(unfit)?, content))
}

fn pack(
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
