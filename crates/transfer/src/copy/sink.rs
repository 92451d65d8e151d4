//! Where content goes: a new file, a file that is written over, a compressed object, or nowhere.

use super::write_at::WriteAt;
use crate::compress::Encoder;
use crate::{Encoding, OpenFile, TransferError};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Once so much was written, the kernel is told to begin writing it back: the sync at the end is short then, and an
/// archive run does not push everything else out of the page cache.
const WRITE_BACK_BYTES: u64 = 8 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Takes content in order.
pub(crate) trait Sink: Send {
    fn data(&mut self, bytes: &[u8]) -> Result<(), TransferError>;
    fn hole(&mut self, length: u64) -> Result<(), TransferError>;
    /// Whether it does nothing, and so is not worth a thread.
    fn discards(&self) -> bool {
        false
    }
}

/// For hashing only.
pub(crate) struct Discard;

impl Sink for Discard {
    fn data(&mut self, _: &[u8]) -> Result<(), TransferError> {
        Ok(())
    }

    fn hole(&mut self, _: u64) -> Result<(), TransferError> {
        Ok(())
    }

    fn discards(&self) -> bool {
        true
    }
}

/// Has written-out ranges handed to the device early.
struct WriteBack {
    from: u64,
}

impl WriteBack {
    fn wrote_up_to(&mut self, file: &dyn WriteAt, end: u64) {
        if end.saturating_sub(self.from) >= WRITE_BACK_BYTES {
            file.settle(self.from, end - self.from);
            self.from = end;
        }
    }
}

/// An empty file: holes are skipped.
pub(crate) struct NewFile<'a> {
    file: &'a OpenFile,
    position: u64,
    write_back: WriteBack,
    ends_in_hole: bool,
}

impl<'a> NewFile<'a> {
    pub(crate) fn new(file: &'a OpenFile) -> Self {
        Self { file, position: 0, write_back: WriteBack { from: 0 }, ends_in_hole: false }
    }

    /// Gives the file its size, where a hole at the end left it shorter.
    pub(crate) fn finish(self) -> Result<(), TransferError> {
        if self.ends_in_hole {
            self.file.file().set_len(self.position).map_err(self.file.failed("set the size of"))?;
        }
        Ok(())
    }
}

impl Sink for NewFile<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        self.file.write_all_at(bytes, self.position)?;
        self.position += bytes.len() as u64;
        self.ends_in_hole = false;
        self.write_back.wrote_up_to(self.file, self.position);
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<(), TransferError> {
        self.position += length;
        self.ends_in_hole = true;
        Ok(())
    }
}

/// Makes holes in a file that may hold anything.
pub(crate) struct Clearing<'a> {
    file: &'a OpenFile,
    old_size: u64,
    cannot_punch: AtomicBool,
}

impl<'a> Clearing<'a> {
    pub(crate) fn new(file: &'a OpenFile) -> Result<Self, TransferError> {
        Ok(Self { file, old_size: file.stamp()?.size, cannot_punch: AtomicBool::new(false) })
    }

    /// The file's size when this was made. There is nothing to clear past it.
    pub(crate) fn old_size(&self) -> u64 {
        self.old_size
    }

    /// Old data in the range goes. Where the filesystem cannot tell data from holes, everything is data.
    pub(crate) fn clear(&self, from: u64, to: u64) -> Result<(), TransferError> {
        let to = to.min(self.old_size);
        let mut at = from;
        while at < to {
            let start = match sys::file::next_data(self.file.file(), at) {
                Ok(Some(start)) if start < to => start,
                Ok(_) => return Ok(()),
                Err(_) => at,
            };
            let end = match sys::file::next_hole(self.file.file(), start) {
                Ok(Some(end)) if end > start => end.min(to),
                _ => to,
            };
            self.clear_data(start, end)?;
            at = end;
        }
        Ok(())
    }

    fn clear_data(&self, from: u64, to: u64) -> Result<(), TransferError> {
        if !self.cannot_punch.load(Ordering::Relaxed) {
            match sys::file::punch(self.file.file(), from, to - from) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Unsupported => self.cannot_punch.store(true, Ordering::Relaxed),
                Err(e) => return Err(self.file.failed("punch a hole into")(e)),
            }
        }
        let mut at = from;
        while at < to {
            let count = usize::try_from(to - at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.file.write_all_at(ZEROS.get(..count).unwrap_or_default(), at)?;
            at += count as u64;
        }
        Ok(())
    }
}

/// A file that may hold anything: what is a hole in the content is made one, or zeros, here.
pub(crate) struct Overwrite<'a> {
    file: &'a OpenFile,
    position: u64,
    clearing: Clearing<'a>,
}

impl<'a> Overwrite<'a> {
    pub(crate) fn new(file: &'a OpenFile) -> Result<Self, TransferError> {
        Ok(Self { file, position: 0, clearing: Clearing::new(file)? })
    }

    /// Gives the file the content's size if it has another. Only for content that was found right.
    pub(crate) fn finish(self) -> Result<(), TransferError> {
        fit(self.file, self.position)
    }
}

/// Gives a file this size if it has another.
pub(crate) fn fit(file: &OpenFile, size: u64) -> Result<(), TransferError> {
    if file.stamp()?.size != size {
        file.file().set_len(size).map_err(file.failed("set the size of"))?;
    }
    Ok(())
}

impl Sink for Overwrite<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        self.file.write_all_at(bytes, self.position)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<(), TransferError> {
        let end = self.position + length;
        self.clearing.clear(self.position, end)?;
        self.position = end;
        Ok(())
    }
}

/// A new object, encoded or not, in something that knows no holes: they become zeros.
pub(crate) struct Encoded<'a> {
    to: &'a dyn WriteAt,
    encoder: Encoder<Append<'a>>,
}

/// Appends to something empty.
struct Append<'a> {
    to: &'a dyn WriteAt,
    position: u64,
    write_back: WriteBack,
}

impl Write for Append<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all_at(bytes, self.position).map_err(TransferError::into_io)?;
        self.position += bytes.len() as u64;
        self.write_back.wrote_up_to(self.to, self.position);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> Encoded<'a> {
    pub(crate) fn new(to: &'a dyn WriteAt, encoding: Encoding, size: u64) -> Result<Self, TransferError> {
        let append = Append { to, position: 0, write_back: WriteBack { from: 0 } };
        let failed = TransferError::io("compress into", to.path());
        Ok(Self { to, encoder: Encoder::new(append, encoding, Some(size)).map_err(failed)? })
    }

    /// Writes the end of the stream, and gives back how many bytes there are.
    pub(crate) fn finish(self) -> Result<u64, TransferError> {
        let written = self.encoder.finish().map_err(TransferError::io("write to", self.to.path()))?;
        Ok(written.position)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        self.encoder.write_all(bytes).map_err(TransferError::io("write to", self.to.path()))
    }
}

impl Sink for Encoded<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        self.put(bytes)
    }

    fn hole(&mut self, mut length: u64) -> Result<(), TransferError> {
        while length > 0 {
            let count = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROS.len());
            self.put(ZEROS.get(..count).unwrap_or_default())?;
            length -= count as u64;
        }
        Ok(())
    }
}
