//! The group of names: notifications of everything that changes in a filesystem, each with the directory and the name it happened to.
//!
//! They come late, and are lost beyond the queue's limit, which one overflow event tells. What is written through mappings is not told before
//! the file is closed by who opened it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::record::{Record, Records};
use super::{
    ATTRIB, CLOSE_WRITE, CREATE, DELETE, EventBuffer, MODIFY, ONDIR, QUEUE_OVERFLOW, RENAME, init, mark, read_queued,
};
use crate::handle::RawHandle;

const MASK: u64 = MODIFY | CLOSE_WRITE | ATTRIB | CREATE | DELETE | RENAME | ONDIR;
/// `FAN_REPORT_TARGET_FID` (Linux 5.17).
const FAN_REPORT_TARGET_FID: libc::c_uint = 0x1000;

/// A group of class `FAN_CLASS_NOTIF` that tells names, non-blocking.
#[derive(Debug)]
pub struct NameGroup {
    fd: OwnedFd,
}

/// Where something is, or was: a name in a directory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// As [`crate::handle::name_to_handle`] names it.
    pub directory: RawHandle,
    /// One component; empty for the directory itself.
    pub name: Vec<u8>,
}

/// Something happened. Equal events that follow each other are merged into one with the masks of all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameEvent {
    /// Any of [`MODIFY`], [`CLOSE_WRITE`], [`ATTRIB`], [`CREATE`], [`DELETE`], with [`ONDIR`] for a directory; or [`RENAME`].
    pub mask: u64,
    /// To what; `None` where the kernel does not know the name any more, or never did.
    pub place: Option<Place>,
    /// Before a rename.
    pub old_place: Option<Place>,
    /// The file itself.
    pub handle: Option<RawHandle>,
    /// Events were lost here.
    pub overflow: bool,
}

impl NameGroup {
    /// Makes a group; `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` on kernels older than 5.17.
    pub fn new() -> io::Result<Self> {
        let names = libc::FAN_REPORT_FID | libc::FAN_REPORT_DIR_FID | libc::FAN_REPORT_NAME | FAN_REPORT_TARGET_FID;
        let flags = libc::FAN_CLASS_NOTIF | names | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
        Ok(Self { fd: init(flags, libc::O_RDONLY | libc::O_CLOEXEC)? })
    }

    /// Asks for the events of the whole filesystem that `on` is on. `ENODEV`, `EXDEV` or `EOPNOTSUPP` where it cannot name its files by handle.
    pub fn mark_filesystem(&self, on: impl AsFd) -> io::Result<()> {
        mark(self.as_fd(), libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM, MASK, on.as_fd())
    }

    /// Takes queued events, as many as fit `buffer`; none when none is queued. `EPROTO`: the kernel speaks another version of this interface.
    pub fn read(&self, buffer: &mut EventBuffer) -> io::Result<std::vec::IntoIter<NameEvent>> {
        let length = read_queued(self.as_fd(), buffer)?;
        let mut records = Records::new(buffer.bytes.get(..length).unwrap_or_default());
        let events: Vec<_> = records.by_ref().map(NameEvent::from).collect();
        if records.is_stuck() {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        Ok(events.into_iter())
    }
}

impl AsFd for NameGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Record> for NameEvent {
    fn from(record: Record) -> Self {
        let place = |(directory, name)| Place { directory, name };
        Self {
            mask: record.mask,
            place: record.place.map(place),
            old_place: record.old_place.map(place),
            handle: record.handle,
            overflow: record.mask & QUEUE_OVERFLOW != 0,
        }
    }
}
