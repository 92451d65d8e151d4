//! An open file that knows what to call itself in errors.

use crate::TransferError;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use sys::OFlags;
use sys::file::FileStamp;

/// A regular file opened for a transfer. All I/O is positioned: the descriptor's own offset means nothing.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    path: PathBuf,
}

impl OpenFile {
    /// Takes an open file; `path` is only for messages.
    pub fn new(file: File, path: impl Into<PathBuf>) -> Self {
        Self { file, path: path.into() }
    }

    /// Opens for reading, without moving its atime where we may. A path such as `/proc/<pid>/fd/<n>` is an ordinary one.
    pub fn for_reading(path: impl AsRef<Path>) -> Result<Self, TransferError> {
        let path = path.as_ref();
        regular(path)?;
        let open = |flags: OFlags| OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
        let file = match open(OFlags::NOATIME) {
            // Only the owner and root may ask for it, and not every filesystem knows it.
            Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput) => {
                open(OFlags::empty())
            }
            other => other,
        };
        Ok(Self::new(file.map_err(TransferError::io("open for reading", path))?, path))
    }

    /// Opens for writing in place; never creates and never truncates.
    pub fn for_writing(path: impl AsRef<Path>) -> Result<Self, TransferError> {
        let path = path.as_ref();
        regular(path)?;
        let file = OpenOptions::new().write(true).open(path);
        Ok(Self::new(file.map_err(TransferError::io("open for writing", path))?, path))
    }

    /// The descriptor.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its name in messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size, times and the rest.
    pub fn stamp(&self) -> Result<FileStamp, TransferError> {
        sys::file::stamp(&self.file).map_err(self.failed("read attributes of"))
    }

    /// For `map_err`.
    pub(crate) fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> TransferError {
        TransferError::io(doing, &self.path)
    }

    /// Writes all of it.
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<(), TransferError> {
        self.file.write_all_at(bytes, offset).map_err(self.failed("write to"))
    }
}

/// Looked at before the open, because the open of a FIFO would wait for its other end.
fn regular(path: &Path) -> Result<(), TransferError> {
    let metadata = std::fs::metadata(path).map_err(TransferError::io("find", path))?;
    if metadata.is_file() { Ok(()) } else { Err(TransferError::NotRegular { path: path.to_owned() }) }
}
