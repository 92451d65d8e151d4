//! The change group: notifications that files were modified, closed after writing, or deleted; or that they got other names.
//!
//! They come late, and beyond the queue's limit (`/proc/sys/fs/fanotify/max_queued_events`) they are lost, which one overflow event
//! tells: after it nothing may be assumed unchanged. Bounded memory was chosen over completeness.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::record::{Record, Records};
use super::{
    ATTRIB, CLOSE_WRITE, DELETE_SELF, EventBuffer, MODIFY, MOVE_SELF, QUEUE_OVERFLOW, duplicate, init, mark,
    read_queued,
};
use crate::handle::RawHandle;

/// With directories, of which only the end is told.
const MASK: u64 = MODIFY | CLOSE_WRITE | DELETE_SELF | libc::FAN_ONDIR;
const NAMES_MASK: u64 = MOVE_SELF | ATTRIB | libc::FAN_ONDIR;

/// A group of class `FAN_CLASS_NOTIF` that names files by handle, non-blocking.
#[derive(Debug)]
pub struct ChangeGroup {
    fd: OwnedFd,
}

/// Something happened to a file. Equal events that follow each other are merged into one with both masks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeEvent {
    /// Any of [`MODIFY`], [`CLOSE_WRITE`], [`DELETE_SELF`]; or [`MOVE_SELF`], [`ATTRIB`].
    pub mask: u64,
    /// The process that did it; 0 when it is outside our process namespace.
    pub pid: i32,
    /// Which file, as [`crate::handle::name_to_handle`] names it; `None` on overflow.
    pub handle: Option<RawHandle>,
    /// Events were lost here.
    pub overflow: bool,
}

impl ChangeGroup {
    /// Makes a group; `EPERM` without `CAP_SYS_ADMIN`.
    pub fn new() -> io::Result<Self> {
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_FID | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
        Ok(Self { fd: init(flags, libc::O_RDONLY | libc::O_CLOEXEC)? })
    }

    /// Takes over a group made by [`ChangeGroup::new`], perhaps in another process.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// One more descriptor of the same group, close-on-exec.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: duplicate(&self.fd)? })
    }

    /// Asks for the events of every file on the filesystem that `on` (any descriptor) is on. `ENODEV`, `EXDEV` or
    /// `EOPNOTSUPP` where it cannot name its files by handle.
    pub fn mark_filesystem(&self, on: impl AsFd) -> io::Result<()> {
        mark(self.as_fd(), libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM, MASK, on.as_fd())
    }

    /// Asks for the events of everything on the filesystem that gets another name ([`MOVE_SELF`]: renamed, also directories) or one
    /// more ([`ATTRIB`], which comes for other reasons too). Errors as [`Self::mark_filesystem`].
    pub fn mark_names(&self, on: impl AsFd) -> io::Result<()> {
        mark(self.as_fd(), libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM, NAMES_MASK, on.as_fd())
    }

    /// Undoes [`Self::mark_filesystem`]; `ENOENT` when there is no mark.
    pub fn unmark_filesystem(&self, on: impl AsFd) -> io::Result<()> {
        mark(self.as_fd(), libc::FAN_MARK_REMOVE | libc::FAN_MARK_FILESYSTEM, MASK, on.as_fd())
    }

    /// Takes queued events, as many as fit `buffer`; none when none is queued.
    /// `EPROTO`: the kernel speaks another version of this interface.
    pub fn read(&self, buffer: &mut EventBuffer) -> io::Result<std::vec::IntoIter<ChangeEvent>> {
        let length = read_queued(self.as_fd(), buffer)?;
        let mut records = Records::new(buffer.bytes.get(..length).unwrap_or_default());
        let events: Vec<_> = records.by_ref().map(ChangeEvent::from).collect();
        if events.is_empty() && records.is_stuck() {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        Ok(events.into_iter())
    }
}

impl AsFd for ChangeGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<ChangeGroup> for OwnedFd {
    fn from(group: ChangeGroup) -> Self {
        group.fd
    }
}

impl From<Record> for ChangeEvent {
    fn from(record: Record) -> Self {
        let overflow = record.mask & QUEUE_OVERFLOW != 0;
        Self { mask: record.mask, pid: record.pid, handle: record.handle.filter(|_| !overflow), overflow }
    }
}
