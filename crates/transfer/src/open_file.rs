//! An open file that knows what to call itself in errors.

use crate::TransferError;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use sys::OFlags;
use sys::file::FileStamp;
use sys::process::PidFd;

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

    /// Opens for reading, without moving its atime where we may. Of a path such as `/proc/<pid>/fd/<n>` the other process's open file is
    /// taken, if we may and it can be read.
    pub fn for_reading(path: impl AsRef<Path>) -> Result<Self, TransferError> {
        let path = path.as_ref();
        if let Some(file) = lent(path, &[OFlags::RDONLY, OFlags::RDWR]) {
            return Ok(Self::new(file, path));
        }
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

    /// Opens for writing in place; never creates and never truncates. As [`OpenFile::for_reading`] with files of other processes.
    pub fn for_writing(path: impl AsRef<Path>) -> Result<Self, TransferError> {
        let path = path.as_ref();
        if let Some(file) = lent(path, &[OFlags::WRONLY, OFlags::RDWR]) {
            return Ok(Self::new(file, path));
        }
        regular(path)?;
        let file = OpenOptions::new().write(true).open(path);
        Ok(Self::new(file.map_err(TransferError::io("open for writing", path))?, path))
    }

    /// The descriptor.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Only the file.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }

    /// Its name in messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An extended attribute; `None` when it has none of that name.
    pub fn attribute(&self, name: &str) -> Result<Option<Vec<u8>>, TransferError> {
        sys::xattr::get(&self.file, name).map_err(self.failed("read attributes of"))
    }

    /// Size, times and the rest.
    pub fn stamp(&self) -> Result<FileStamp, TransferError> {
        sys::file::stamp(&self.file).map_err(self.failed("read attributes of"))
    }

    /// Waits until what was written is on storage.
    ///
    /// # Errors
    /// Some of it may not be, though it was written without an error.
    pub fn sync(&self) -> Result<(), TransferError> {
        sys::file::sync_data(&self.file).map_err(self.failed("sync"))
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

/// The regular file that another process has open in one of these modes, when `path` names it by that process's descriptor. An open by that path would
/// raise an event in the agent's guard for each file that it hands to a mover, and wait for the answer.
fn lent(path: &Path, modes: &[OFlags]) -> Option<File> {
    let (process, descriptor) = path.to_str()?.strip_prefix("/proc/")?.split_once("/fd/")?;
    let lender = PidFd::open(process.parse().ok()?).ok()?;
    let file = lender.get_fd(descriptor.parse().ok()?).ok()?;
    let flags = rustix::fs::fcntl_getfl(&file).ok()?;
    let right = modes.contains(&(flags & OFlags::ACCMODE)) && !flags.contains(OFlags::PATH);
    (right && sys::file::stamp(&file).ok()?.is_regular).then(|| file.into())
}

/// Looked at before the open, because the open of a FIFO would wait for its other end.
fn regular(path: &Path) -> Result<(), TransferError> {
    let metadata = std::fs::metadata(path).map_err(TransferError::io("find", path))?;
    if metadata.is_file() { Ok(()) } else { Err(TransferError::NotRegular { path: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn files_of_processes_are_lent_as_they_are_open() {
        let directory = testkit::Scratch::new("lent");
        let path = directory.join("f");
        std::fs::write(&path, "content").unwrap();
        let pid = std::process::id();
        let name = |file: &File| PathBuf::from(format!("/proc/{pid}/fd/{}", file.as_raw_fd()));
        let read = File::open(&path).unwrap();
        let both = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        // Gone by its name, it is found by the descriptor all the same.
        std::fs::remove_file(&path).unwrap();
        assert!(lent(&name(&read), &[OFlags::RDONLY, OFlags::RDWR]).is_some());
        assert!(lent(&name(&read), &[OFlags::WRONLY, OFlags::RDWR]).is_none());
        let lent = OpenFile::for_writing(name(&both)).unwrap();
        lent.write_all_at(b"CON", 0).unwrap();
        let mut start = [0; 7];
        OpenFile::for_reading(name(&read)).unwrap().file().read_exact_at(&mut start, 0).unwrap();
        assert_eq!(&start, b"CONtent");
        // A name alone, a directory, what is not there: opened by the path, or refused as ever.
        let named = OpenOptions::new().read(true).custom_flags(OFlags::PATH.bits().cast_signed()).open("/etc/passwd");
        assert!(OpenFile::for_reading(name(&named.unwrap())).is_ok());
        let none = OpenFile::for_reading(name(&File::open(directory.join(".")).unwrap()));
        assert!(matches!(none, Err(TransferError::NotRegular { .. })));
        for nowhere in ["/proc/1/fd/99999999", "/proc/x/fd/0", "/proc/99999999999/fd/0", "/proc/-1/fd/-1"] {
            assert!(OpenFile::for_reading(nowhere).is_err(), "{nowhere}");
        }
    }
}
