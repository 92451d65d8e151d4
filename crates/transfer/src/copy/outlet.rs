//! From the archive into a file by chunks: each is verified before a byte of it is written.

use super::chunk_reader::{ChunkBuffer, ChunkReader, Verified};
use super::each::{Step, Turn, each_chunk};
use super::sink::Clearing;
use crate::manifest::ReadAt;
use crate::{Monitor, OpenFile, TransferError};
use model::Extent;
use std::ops::Range;

/// A file that may hold anything.
pub(crate) struct Target<'a> {
    file: &'a OpenFile,
    clearing: Clearing<'a>,
    /// Nothing is written from here on.
    limit: u64,
}

impl<'a> Target<'a> {
    /// Grows as far as the content reaches.
    pub(crate) fn growing(file: &'a OpenFile) -> Result<Self, TransferError> {
        Ok(Self { file, clearing: Clearing::new(file)?, limit: u64::MAX })
    }

    /// Keeps its size: what would lie past its end is not written.
    pub(crate) fn of_its_size(file: &'a OpenFile) -> Result<Self, TransferError> {
        let clearing = Clearing::new(file)?;
        let limit = clearing.old_size();
        Ok(Self { file, clearing, limit })
    }

    fn put(&self, bytes: &[u8], offset: u64) -> Result<(), TransferError> {
        let room = usize::try_from(self.limit.saturating_sub(offset)).unwrap_or(usize::MAX);
        let bytes = bytes.get(..bytes.len().min(room)).unwrap_or_default();
        if bytes.is_empty() { Ok(()) } else { self.file.write_all_at(bytes, offset) }
    }
}

/// Reads and verifies the chunks, and writes them into the target if there is one. A hole of the original becomes one again.
pub(crate) fn bring_back<O: ReadAt, M: ReadAt>(
    reader: &ChunkReader<O, M>,
    target: Option<&Target<'_>>,
    chunks: Range<u64>,
    monitor: &dyn Monitor,
) -> Result<(), TransferError> {
    let shape = reader.shape();
    let work = |buffer: &mut ChunkBuffer, turn: Turn<'_>, extent: Extent| {
        let verified = reader.read(turn.index(), buffer)?;
        let step = if verified == Verified::Zeros { Step::Skipped } else { Step::Moved };
        let Some(target) = target else { return Ok(step) };
        let end = extent.offset + extent.length;
        let Verified::Bytes(bytes) = verified else {
            target.clearing.clear(extent.offset, end)?;
            return Ok(step);
        };
        let part = |from: u64, to: u64| {
            let at = |offset: u64| usize::try_from(offset - extent.offset).unwrap_or(usize::MAX);
            bytes.get(at(from)..at(to)).unwrap_or_default()
        };
        // What is written together, from here on.
        let mut at = extent.offset;
        for hole in reader.holes(extent) {
            let hole_end = hole.offset + hole.length;
            if part(hole.offset, hole_end).iter().any(|byte| *byte != 0) {
                // The file was changed between the look for holes and the reading: data it is.
                continue;
            }
            target.put(part(at, hole.offset), at)?;
            target.clearing.clear(hole.offset, hole_end)?;
            at = hole_end;
        }
        target.put(part(at, end), at)?;
        Ok(step)
    };
    each_chunk(shape, chunks, monitor, ChunkBuffer::default, work).map(drop)
}
