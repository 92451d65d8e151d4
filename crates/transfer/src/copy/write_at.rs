//! Bytes that can be written at any place: a file, memory, the parts of an upload.

use crate::{OpenFile, TransferError};
use std::path::Path;

/// Written at any place, from any thread; each byte once.
pub trait WriteAt: Sync {
    /// Its name in messages.
    fn path(&self) -> &Path;

    /// Writes all of it. May wait until there is room.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<(), TransferError>;

    /// What was written of this range is not needed in memory any more: a hint.
    fn settle(&self, _from: u64, _length: u64) {}
}

impl WriteAt for OpenFile {
    fn path(&self) -> &Path {
        self.path()
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<(), TransferError> {
        self.write_all_at(bytes, offset)
    }

    fn settle(&self, from: u64, length: u64) {
        // DONTNEED starts write-back of dirty pages and drops the clean ones. Errors show at the sync.
        let _ = sys::file::advise_dontneed(self.file(), from, length);
    }
}
