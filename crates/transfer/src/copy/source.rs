//! Where content comes from: a file with holes, or a compressed object.

use crate::compress::Decoder;
use crate::manifest::ReadAt;
use crate::{Encoding, OpenFile, TransferError};
use model::limits::CHUNK_SIZE_BYTES;
use std::io::{self, Read};
use std::path::Path;

/// The longest hole in one step, so that hashing its zeros does not delay a cancel for long.
const HOLE_STEP_BYTES: u64 = 64 << 20;
/// Below this size a file is only searched for holes when it has fewer blocks than bytes.
const SEARCH_HOLES_FROM_BYTES: u64 = 64 << 10;
/// Decompressed data is looked through for zeros in pieces of this size: what was a hole becomes one again.
const ZERO_SEARCH_BYTES: usize = 128 << 10;
const _: () = assert!(ZERO_SEARCH_BYTES <= CHUNK_SIZE_BYTES);

/// The next piece of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many bytes are in the buffer (at least 1).
    Data(usize),
    /// So many zeros follow (at least 1), which take no space.
    Hole(u64),
    /// The content is complete.
    End,
}

pub(crate) trait Source {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Step, TransferError>;
    /// About how many bytes of data there are; only a hint for buffers and threads.
    fn data_hint(&self) -> u64;
}

/// A file as it is, of the size that it has when this is made.
pub(crate) struct FileSource<'a> {
    file: &'a OpenFile,
    size: u64,
    blocks: u64,
    position: u64,
    /// Up to here is data.
    data_end: u64,
    /// Up to here is a hole.
    hole_end: u64,
    search: bool,
}

impl<'a> FileSource<'a> {
    pub(crate) fn new(file: &'a OpenFile) -> Result<Self, TransferError> {
        let stamp = file.stamp()?;
        let allocated = stamp.blocks.saturating_mul(512);
        if stamp.size > SEARCH_HOLES_FROM_BYTES {
            // Advice: that it is not taken is no reason to fail.
            let _ = sys::file::advise_sequential(file.file());
        }
        Ok(Self {
            file,
            size: stamp.size,
            blocks: allocated,
            position: 0,
            data_end: 0,
            hole_end: 0,
            search: stamp.size > SEARCH_HOLES_FROM_BYTES || allocated < stamp.size,
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Finds out what is at the present position.
    fn locate(&mut self) -> Result<(), TransferError> {
        if !self.search {
            self.data_end = self.size;
            return Ok(());
        }
        match sys::file::next_data(self.file.file(), self.position) {
            Ok(Some(data)) if data > self.position => self.hole_end = data.min(self.size),
            Ok(Some(_)) => {
                let hole = sys::file::next_hole(self.file.file(), self.position);
                let hole = hole.map_err(self.file.failed("find holes in"))?;
                self.data_end = hole.unwrap_or(self.size).min(self.size);
                if self.data_end <= self.position {
                    // It changed in between: reading tells what is there.
                    self.data_end = self.size.min(self.position + CHUNK_SIZE_BYTES as u64);
                }
            }
            Ok(None) => self.hole_end = self.size,
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                self.search = false;
                self.data_end = self.size;
            }
            Err(e) => return Err(self.file.failed("find holes in")(e)),
        }
        Ok(())
    }

    fn changed(&self, found: u64) -> TransferError {
        TransferError::Changed { path: self.file.path().to_owned(), expected: self.size, found }
    }
}

impl Source for FileSource<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Step, TransferError> {
        if self.position >= self.size {
            // A hole at the end looks the same when the end has moved before it.
            let now = if self.hole_end == self.size { self.file.stamp()?.size } else { self.size };
            return if now < self.size { Err(self.changed(now)) } else { Ok(Step::End) };
        }
        if self.position >= self.data_end && self.position >= self.hole_end {
            self.locate()?;
        }
        if self.hole_end > self.position {
            let length = (self.hole_end - self.position).min(HOLE_STEP_BYTES);
            self.position += length;
            return Ok(Step::Hole(length));
        }
        let wanted = usize::try_from(self.data_end - self.position).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        let read = self.file.read_full_at(buffer, self.position).map_err(self.file.failed("read"))?;
        self.position += read as u64;
        if read < wanted { Err(self.changed(self.position)) } else { Ok(Step::Data(read)) }
    }

    fn data_hint(&self) -> u64 {
        self.size.min(self.blocks.saturating_add(4096))
    }
}

/// The content of an object that is not encoded, and not a file that could tell its holes: a row of zeros becomes one.
pub(crate) struct StoredSource<'a> {
    pub(crate) object: &'a dyn ReadAt,
    pub(crate) path: &'a Path,
    pub(crate) size: u64,
    pub(crate) position: u64,
}

impl Source for StoredSource<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Step, TransferError> {
        let left = usize::try_from(self.size - self.position).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len()).min(ZERO_SEARCH_BYTES);
        let piece = buffer.get_mut(..wanted).unwrap_or_default();
        let read = self.object.read_full_at(piece, self.position).map_err(TransferError::io("read", self.path))?;
        self.position += read as u64;
        if read < wanted {
            let why = format!("it ends after {} bytes, and should have {}", self.position, self.size);
            return Err(TransferError::Damaged { path: self.path.to_owned(), why });
        }
        Ok(step(piece))
    }

    fn data_hint(&self) -> u64 {
        self.size
    }
}

/// What a piece of content is.
fn step(piece: &[u8]) -> Step {
    match piece {
        [] => Step::End,
        zeros if zeros.len() == ZERO_SEARCH_BYTES && zeros.iter().all(|byte| *byte == 0) => {
            Step::Hole(zeros.len() as u64)
        }
        _ => Step::Data(piece.len()),
    }
}

/// The content of a compressed object.
pub(crate) struct DecodedSource<'a> {
    path: &'a Path,
    decoder: Decoder<ObjectBytes<'a>>,
    /// The most that may come.
    limit: u64,
    position: u64,
    stored: u64,
}

impl<'a> DecodedSource<'a> {
    /// `None` for [`Encoding::Raw`]. `size` bounds what is decompressed, however much the object holds.
    pub(crate) fn new(
        object: &'a dyn ReadAt,
        path: &'a Path,
        stored: u64,
        encoding: Encoding,
        size: Option<u64>,
    ) -> Result<Option<Self>, TransferError> {
        let decoder = Decoder::new(ObjectBytes { object, offset: 0 }, encoding).map_err(|e| damaged(path, e))?;
        let limit = size.unwrap_or(u64::MAX);
        Ok(decoder.map(|decoder| Self { path, decoder, limit, position: 0, stored }))
    }
}

/// An error without a number is the decoder's: the bytes were read, and make no sense.
fn damaged(path: &Path, error: io::Error) -> TransferError {
    if error.raw_os_error().is_some() {
        return TransferError::io("read", path)(error);
    }
    TransferError::within(error)
        .unwrap_or_else(|error| TransferError::Damaged { path: path.to_owned(), why: error.to_string() })
}

impl Source for DecodedSource<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Step, TransferError> {
        let piece = buffer.len().min(ZERO_SEARCH_BYTES);
        let piece = buffer.get_mut(..piece).unwrap_or_default();
        let count = self.decoder.read_full(piece).map_err(|e| damaged(self.path, e))?;
        self.position += count as u64;
        if self.position > self.limit {
            let why = format!("it holds more than the {} bytes that were archived", self.limit);
            return Err(TransferError::Damaged { path: self.path.to_owned(), why });
        }
        Ok(step(piece.get(..count).unwrap_or_default()))
    }

    fn data_hint(&self) -> u64 {
        if self.limit == u64::MAX { self.stored.saturating_mul(4) } else { self.limit }
    }
}

/// The stored bytes in order.
struct ObjectBytes<'a> {
    object: &'a dyn ReadAt,
    offset: u64,
}

impl Read for ObjectBytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.object.read_full_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
