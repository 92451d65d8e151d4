//! Entries of a directory, read a buffer at a time.

use rustix::fs::{AtFlags, FileType, RawDir};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A name in a directory, and what it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As the directory has it; any bytes but `/` and NUL.
    pub name: Box<[u8]>,
    /// When it was listed; something else may have the name by now.
    pub kind: FileType,
}

impl Entry {
    /// The name as a path of one component.
    pub fn as_path(&self) -> &Path {
        as_path(&self.name)
    }
}

/// Bytes as a path.
pub fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Memory for one reading of a directory.
pub(crate) struct Buffer(Vec<MaybeUninit<u8>>);

/// Holds a thousand names of usual length.
const USUAL_BYTES: usize = 32 << 10;
/// Far down, where many directories are being read at a time. Holds any one entry.
const DEEP_BYTES: usize = 4 << 10;
/// Levels that are not far down.
const USUAL_DEPTH: u32 = 64;

impl Buffer {
    pub(crate) fn new() -> Self {
        Self(vec![MaybeUninit::uninit(); USUAL_BYTES])
    }

    /// The next entries of the directory, without `.` and `..`; `None` at its end. The place is the descriptor's. They come in the order of
    /// their inodes, in which most filesystems find them sooner than in that of the directory.
    pub(crate) fn fill(&mut self, directory: BorrowedFd<'_>, depth: u32) -> io::Result<Option<Vec<Entry>>> {
        let bytes = if depth < USUAL_DEPTH { USUAL_BYTES } else { DEEP_BYTES };
        let room = self.0.get_mut(..bytes).unwrap_or_default();
        let mut raw = RawDir::new(directory, room);
        let mut entries = Vec::new();
        let mut any = false;
        loop {
            let entry = match raw.next() {
                None => break,
                Some(Err(Errno::INTR)) => continue,
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(entry)) => entry,
            };
            any = true;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push((entry.ino(), Entry { name: name.into(), kind: entry.file_type() }));
            }
            if raw.is_buffer_empty() {
                break;
            }
        }
        entries.sort_unstable_by_key(|(inode, _)| *inode);
        let mut entries: Vec<Entry> = entries.into_iter().map(|(_, entry)| entry).collect();
        for entry in entries.iter_mut().filter(|entry| entry.kind == FileType::Unknown) {
            // Gone: whoever works on it finds that out.
            if let Ok(found) = kind_of(directory, &entry.name) {
                entry.kind = found;
            }
        }
        Ok(any.then_some(entries))
    }
}

/// What has the name now.
pub(crate) fn kind_of(directory: impl AsFd, name: &[u8]) -> io::Result<FileType> {
    let found = rustix::fs::statat(directory, as_path(name), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(found.st_mode))
}
