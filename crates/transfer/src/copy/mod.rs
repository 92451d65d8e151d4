//! The copy engine.
//!
//! What has a hash of ours (BLAKE3), or none, goes by chunks: `intake` into the archive, `outlet` out of it, each chunk by itself, by several threads
//! when there are many. Whatever has to be looked at from front to back (SHA-1, one compressed stream) is a `source` that gives steps of
//! data and holes, a digest that sees them and a `sink` that takes them, in two threads when it is much. Memory is a few chunks,
//! whatever the file's size (P6). Cancellation is looked at before each chunk (P4).

pub(crate) mod archive;
mod chunk_reader;
pub(crate) mod each;
pub(crate) mod intake;
pub(crate) mod kernel;
pub(crate) mod outlet;
mod pipeline;
mod restore;
pub(crate) mod sink;
pub(crate) mod source;
mod write_at;

use crate::manifest::HoleMap;
use crate::{DigestKind, Digester, Encoding, Monitor, OpenFile, TransferError};
use intake::{Hashes, Intake, Outlet, take_in};
use model::Digest;
use sink::{Discard, NewFile};
use source::FileSource;

pub use archive::{Archived, archive_file};
pub use chunk_reader::{ChunkBuffer, ChunkReader, Verified, read_chunks, unusable};
pub(crate) use pipeline::run;
pub(crate) use restore::{compare, right_size};
pub use restore::{open_chunks, open_member, restore_chunks, restore_hashing, restore_range, restore_stream};
pub use write_at::WriteAt;

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
        return Ok(by_chunks(source, Outlet::Raw(target), Encoding::Raw, digest, monitor)?.0);
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
        DigestKind::Blake3 => by_chunks(file, Outlet::Nothing, Encoding::Raw, Some(kind), monitor)?.0,
        DigestKind::Sha1 => run(&mut FileSource::new(file)?, &mut Discard, Some(kind), monitor)?,
    };
    Ok((copied.bytes, copied.digest.unwrap_or_else(|| Digester::new(kind).finish())))
}

/// Without a manifest. Gives back how many bytes were stored, too.
fn by_chunks(
    file: &OpenFile,
    outlet: Outlet<'_>,
    encoding: Encoding,
    digest: Option<DigestKind>,
    monitor: &dyn Monitor,
) -> Result<(Copied, u64), TransferError> {
    let stamp = file.stamp()?;
    let holes = HoleMap::of(file, stamp.size, stamp.blocks)?;
    let intake = Intake { file, size: stamp.size, holes: &holes };
    if let (None, Outlet::Raw(target)) = (digest, outlet)
        && kernel::copy_ranges(&intake, target, monitor)?
    {
        return Ok((Copied { bytes: stamp.size, digest: None }, stamp.size));
    }
    let hashes = digest.map(|_| Hashes::new(stamp.size, encoding, 0, None));
    let stored = take_in(&intake, outlet, hashes.as_ref(), monitor)?;
    let digest = hashes.and_then(Hashes::finish).map(|(hash, _)| Digest::Blake3(hash));
    Ok((Copied { bytes: stamp.size, digest }, stored))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Unwatched;
    use std::process::Command;

    const IN_CHILD: &str = "SIFAKA_TEST_WITHOUT_THREADS";

    /// The child's threads would have larger stacks than there are addresses: it cannot start any.
    #[test]
    fn a_large_file_is_copied_when_the_system_has_no_more_threads() {
        if std::env::var_os(IN_CHILD).is_none() {
            let name = "copy::tests::a_large_file_is_copied_when_the_system_has_no_more_threads";
            let mut child = Command::new(std::env::current_exe().unwrap());
            child
                .args(["--exact", name, "--test-threads=1"])
                .env(IN_CHILD, "1")
                .env("RUST_MIN_STACK", (1u64 << 60).to_string());
            let output = child.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let refused = std::thread::Builder::new().spawn(|| ()).expect_err("this process can have threads");
        assert_eq!(crate::TransferError::io("start", "a thread")(refused).kind(), model::ErrorKind::Temporary);
        let scratch = testkit::Scratch::new("threadless");
        let content: Vec<u8> = (0..4u32 << 20).flat_map(u32::to_le_bytes).collect();
        std::fs::write(scratch.join("source"), &content).unwrap();
        let source = OpenFile::for_reading(scratch.join("source")).unwrap();
        for kind in [DigestKind::Blake3, DigestKind::Sha1] {
            let path = scratch.join("target");
            std::fs::write(&path, b"").unwrap();
            let copied = copy_file(&source, &OpenFile::for_writing(&path).unwrap(), Some(kind), &Unwatched).unwrap();
            assert_eq!(copied.bytes, content.len() as u64);
            assert!(std::fs::read(&path).unwrap() == content, "{kind:?}");
        }
    }
}
