//! The copy engine: a source gives steps of data and holes, a digest sees them, a sink takes them.
//!
//! Small files go through one buffer. For large ones reading and hashing happen on the caller's thread while a second one
//! writes, with a ring of `RING` buffers between them: that is all the memory a copy takes, whatever the file's size (P6).
//! Cancellation is looked at before each step, and a step is at most one chunk of data (P4).

mod pipeline;
pub(crate) mod sink;
pub(crate) mod source;

use crate::{DigestKind, Digester, Monitor, OpenFile, TransferError};
use model::Digest;
use sink::{Discard, NewFile};
use source::FileSource;

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
    let mut source = FileSource::new(source)?;
    let mut sink = NewFile::new(target);
    let copied = run(&mut source, &mut sink, digest, monitor)?;
    sink.finish()?;
    Ok(copied)
}

/// Hashes the content of a file.
pub fn hash_file(file: &OpenFile, kind: DigestKind, monitor: &dyn Monitor) -> Result<(u64, Digest), TransferError> {
    let mut source = FileSource::new(file)?;
    let copied = run(&mut source, &mut Discard, Some(kind), monitor)?;
    Ok((copied.bytes, copied.digest.unwrap_or_else(|| Digester::new(kind).finish())))
}
