//! The copy engine.
//!
//! What has a hash of ours (BLAKE3), or none, goes by chunks: `intake` into the archive, `outlet` out of it, each chunk by itself, by several threads
//! when there are many. Whatever has to be looked at from front to back (SHA-1, one compressed stream) is a `source` that gives steps of
//! data and holes, a digest that sees them and a `sink` that takes them, in two threads when it is much. Memory is a few chunks,
//! whatever the file's size (P6). Cancellation is looked at before each chunk (P4).

mod chunk_reader;
pub(crate) mod each;
pub(crate) mod intake;
pub(crate) mod kernel;
pub(crate) mod outlet;
mod pipeline;
pub(crate) mod sink;
pub(crate) mod source;

use crate::manifest::HoleMap;
use crate::{DigestKind, Digester, Encoding, Monitor, OpenFile, TransferError};
use intake::{Hashes, Intake, Outlet, take_in};
use model::Digest;
use sink::{Discard, NewFile};
use source::FileSource;

pub(crate) use chunk_reader::unusable;
pub use chunk_reader::{ChunkBuffer, ChunkReader, Verified, read_chunks};
pub(crate) use pipeline::run;

/// Buffers of one chunk each between the reading and the writing thread.
const RING: usize = 4;
/// Below this much data a second thread costs more than it saves.
const TWO_THREADS_FROM_BYTES: u64 = 4 << 20;

/// What went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Size of the content, holes included.
    pub bytes: u64,
    /// Its hash, when one was asked for.
    pub digest: Option<Digest>,
}

/// Copies the content of `source` into `target`, which is empty. Holes stay holes and are hashed as zeros. Syncs nothing.
///
/// # Errors
/// [`TransferError::Changed`] when the source becomes shorter meanwhile; bytes added to it meanwhile are not copied.
pub fn copy_file(
    source: &OpenFile,
    target: &OpenFile,
    digest: Option<DigestKind>,
    monitor: &dyn Monitor,
) -> Result<Copied, TransferError> {
    if digest != Some(DigestKind::Sha1) {
        return by_chunks(source, Outlet::Raw(target), digest, monitor);
    }
    let mut source = FileSource::new(source)?;
    let mut sink = NewFile::new(target);
    let copied = run(&mut source, &mut sink, digest, monitor)?;
    sink.finish()?;
    Ok(copied)
}

/// Hashes the content of a file.
pub fn hash_file(file: &OpenFile, kind: DigestKind, monitor: &dyn Monitor) -> Result<(u64, Digest), TransferError> {
    let copied = match kind {
        DigestKind::Blake3 => by_chunks(file, Outlet::Nothing, Some(kind), monitor)?,
        DigestKind::Sha1 => run(&mut FileSource::new(file)?, &mut Discard, Some(kind), monitor)?,
    };
    Ok((copied.bytes, copied.digest.unwrap_or_else(|| Digester::new(kind).finish())))
}

fn by_chunks(
    file: &OpenFile,
    outlet: Outlet<'_>,
    digest: Option<DigestKind>,
    monitor: &dyn Monitor,
) -> Result<Copied, TransferError> {
    let stamp = file.stamp()?;
    let holes = HoleMap::of(file, stamp.size, stamp.blocks)?;
    let intake = Intake { file, size: stamp.size, holes: &holes };
    if let (None, Outlet::Raw(target)) = (digest, outlet)
        && kernel::copy_ranges(&intake, target, monitor)?
    {
        return Ok(Copied { bytes: stamp.size, digest: None });
    }
    let hashes = digest.map(|_| Hashes::new(stamp.size, Encoding::Raw, 0, None));
    take_in(&intake, outlet, hashes.as_ref(), monitor)?;
    let digest = hashes.and_then(Hashes::finish).map(|(hash, _)| Digest::Blake3(hash));
    Ok(Copied { bytes: stamp.size, digest })
}
