//! From a file into the archive by chunks: each is read, hashed, and stored where it belongs.

use super::each::{Step, each_chunk};
use super::write_at::WriteAt;
use crate::compress::FrameEncoder;
use crate::manifest::{Block, Frame, HoleMap, ReadAt as _, Shape, TableBuilder, Value};
use crate::{Encoding, Monitor, OpenFile, TransferError};
use model::Extent;
use model::limits::CHUNK_SIZE_BYTES;
use parking_lot::Mutex;

/// Once so much was written, the kernel is told to begin writing it back: the sync at the end is short then, and an
/// archive run does not push everything else out of the page cache.
const WRITE_BACK_CHUNKS: u64 = 8;

static ZEROS: [u8; CHUNK_SIZE_BYTES] = [0; CHUNK_SIZE_BYTES];

/// A file of which so much is to be read.
pub(crate) struct Intake<'a> {
    pub(crate) file: &'a OpenFile,
    pub(crate) size: u64,
    pub(crate) holes: &'a HoleMap,
}

/// Where it goes.
#[derive(Clone, Copy)]
pub(crate) enum Outlet<'a> {
    /// Nowhere: it is only hashed.
    Nothing,
    /// An empty file, holes kept.
    Raw(&'a OpenFile),
    /// Something that knows no holes.
    Whole(&'a dyn WriteAt),
    /// One frame for each chunk.
    Frames(&'a dyn WriteAt, Encoding),
}

/// Collects the hashes of the chunks.
pub(crate) struct Hashes<'a> {
    builder: Mutex<TableBuilder>,
    /// Where blocks of the table go as soon as they are complete; without it they are kept if there is one, and dropped if more.
    table: Option<&'a dyn WriteAt>,
    last: Mutex<Option<Block>>,
}

impl<'a> Hashes<'a> {
    /// For a manifest in `table`, whose descriptive part has `start` bytes.
    pub(crate) fn new(size: u64, encoding: Encoding, start: u64, table: Option<&'a dyn WriteAt>) -> Self {
        Self { builder: Mutex::new(TableBuilder::new(size, encoding, start)), table, last: Mutex::new(None) }
    }

    fn set(&self, index: u64, value: Value, frame: Frame) -> Result<(), TransferError> {
        let Some(block) = self.builder.lock().set(index, value, frame) else { return Ok(()) };
        let mut last = self.last.lock();
        // One block stays in memory, to be written together with the descriptive part before it.
        let earlier = last.replace(block);
        drop(last);
        match (earlier, self.table) {
            (Some(block), Some(table)) => table.write_all_at(&block.bytes, block.offset),
            _ => Ok(()),
        }
    }

    /// The hash of everything, and what of the table was not written yet.
    pub(crate) fn finish(self) -> Option<(Value, impl Iterator<Item = Block>)> {
        let (hash, groups) = self.builder.into_inner().finish()?;
        Some((hash, groups.into_iter().chain(self.last.into_inner())))
    }
}

/// The buffers of one thread.
struct Buffers {
    chunk: Vec<u8>,
    encoder: Option<FrameEncoder>,
}

/// Reads everything, and gives back how many bytes were stored. Syncs nothing.
///
/// # Errors
/// [`TransferError::Changed`] when the file is shorter than it was; bytes added to it meanwhile are not read.
pub(crate) fn take_in(
    intake: &Intake<'_>,
    outlet: Outlet<'_>,
    hashes: Option<&Hashes<'_>>,
    monitor: &dyn Monitor,
) -> Result<u64, TransferError> {
    let shape = Shape::of(intake.size);
    if intake.size > CHUNK_SIZE_BYTES as u64 {
        // Advice: that it is not taken is no reason to fail.
        let _ = sys::file::advise_sequential(intake.file.file());
    }
    let room = usize::try_from(shape.chunk(0).length).unwrap_or(CHUNK_SIZE_BYTES);
    let buffers = || Buffers { chunk: vec![0; room], encoder: None };
    let stored = each_chunk(shape, 0..shape.chunks(), monitor, buffers, |buffers, turn, extent| {
        let index = turn.index();
        let bytes = intake.read(&mut buffers.chunk, extent)?;
        let mut frame = Frame::default();
        match outlet {
            Outlet::Nothing => {}
            Outlet::Raw(file) => bytes.map_or(Ok(()), |bytes| put_raw(file, intake, extent, bytes))?,
            Outlet::Whole(file) => file.write_all_at(or_zeros(bytes, extent), extent.offset)?,
            Outlet::Frames(file, encoding) => {
                let failed = || TransferError::io("compress into", file.path());
                let encoder = match &mut buffers.encoder {
                    Some(encoder) => encoder,
                    none => none.insert(FrameEncoder::new(encoding).map_err(failed())?),
                };
                // A hole is compressed like any zeros, which take next to nothing.
                let encoded = encoder.encode(or_zeros(bytes, extent)).map_err(failed())?;
                let length = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
                // Whoever comes before has failed, and tells why.
                let Some(offset) = turn.take(length.into()) else { return Ok(Step::Skipped) };
                file.write_all_at(encoded, offset)?;
                frame = Frame { offset, length };
            }
        }
        if let Some(hashes) = hashes {
            let value = bytes.map_or_else(|| shape.value_of_zeros(index), |bytes| shape.value(index, bytes));
            hashes.set(index, value, frame)?;
        }
        write_back(outlet, index, extent, frame);
        Ok(if bytes.is_some() { Step::Moved } else { Step::Skipped })
    })?;
    match outlet {
        Outlet::Nothing => intake.still_as_long().map(|()| 0),
        Outlet::Raw(file) => intake.finish(file).map(|()| intake.size),
        Outlet::Whole(_) => intake.still_as_long().map(|()| intake.size),
        Outlet::Frames(..) => intake.still_as_long().map(|()| stored),
    }
}

/// The bytes of a chunk, or those of a hole.
fn or_zeros(bytes: Option<&[u8]>, extent: Extent) -> &[u8] {
    let length = usize::try_from(extent.length).unwrap_or(0);
    bytes.or_else(|| ZEROS.get(..length)).unwrap_or_default()
}

/// Has what was written lately handed to the device early, from time to time.
fn write_back(outlet: Outlet<'_>, index: u64, extent: Extent, frame: Frame) {
    if index % WRITE_BACK_CHUNKS != WRITE_BACK_CHUNKS - 1 {
        return;
    }
    // Twice as much as was written since the last time: what the other threads had not written then, and what is clean by now.
    let reach = 2 * WRITE_BACK_CHUNKS * CHUNK_SIZE_BYTES as u64;
    let (file, end): (&dyn WriteAt, u64) = match outlet {
        Outlet::Nothing => return,
        Outlet::Raw(file) => (file, extent.offset + extent.length),
        Outlet::Whole(file) => (file, extent.offset + extent.length),
        Outlet::Frames(file, _) => (file, frame.offset + u64::from(frame.length)),
    };
    let from = end.saturating_sub(reach);
    file.settle(from, end - from);
}

impl Intake<'_> {
    /// `None` for a hole that fills the chunk.
    fn read<'b>(&self, buffer: &'b mut [u8], extent: Extent) -> Result<Option<&'b [u8]>, TransferError> {
        if extent.length > 0 && self.holes.covers(extent) {
            return Ok(None);
        }
        let length = usize::try_from(extent.length).unwrap_or(0);
        let bytes = buffer.get_mut(..length).unwrap_or_default();
        let read = self.file.read_full_at(bytes, extent.offset).map_err(self.file.failed("read"))?;
        if read < length { Err(self.changed(extent.offset + read as u64)) } else { Ok(Some(bytes)) }
    }

    /// What of an extent is data, in order.
    pub(crate) fn data(&self, extent: Extent) -> impl Iterator<Item = Extent> + '_ {
        let end = Extent { offset: extent.offset + extent.length, length: 0 };
        self.holes
            .inside(extent)
            .chain([end])
            .scan(extent.offset, |at, hole| {
                let data = Extent { offset: *at, length: hole.offset - *at };
                *at = hole.offset + hole.length;
                Some(data)
            })
            .filter(|data| data.length > 0)
    }

    /// After everything was copied into `target`: gives it the size, where a hole at the end left it shorter.
    pub(crate) fn finish(&self, target: &OpenFile) -> Result<(), TransferError> {
        self.still_as_long()?;
        if self.ends_in_hole() {
            target.file().set_len(self.size).map_err(target.failed("set the size of"))?;
        }
        Ok(())
    }

    fn ends_in_hole(&self) -> bool {
        self.size > 0 && self.holes.covers(Extent { offset: self.size - 1, length: 1 })
    }

    /// A hole at the end looks the same when the end has moved before it.
    fn still_as_long(&self) -> Result<(), TransferError> {
        if self.ends_in_hole() {
            let now = self.file.stamp()?.size;
            if now < self.size {
                return Err(self.changed(now));
            }
        }
        Ok(())
    }

    pub(crate) fn changed(&self, found: u64) -> TransferError {
        TransferError::Changed { path: self.file.path().to_owned(), expected: self.size, found }
    }
}

/// Writes what of a chunk is no hole.
fn put_raw(file: &OpenFile, intake: &Intake<'_>, extent: Extent, bytes: &[u8]) -> Result<(), TransferError> {
    intake.data(extent).try_for_each(|data| {
        let from = usize::try_from(data.offset - extent.offset).unwrap_or(usize::MAX);
        let part = bytes.get(from..).and_then(|rest| rest.get(..usize::try_from(data.length).ok()?));
        file.write_all_at(part.unwrap_or_default(), data.offset)
    })
}
