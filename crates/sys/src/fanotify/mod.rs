//! fanotify: the kernel asking before a file's content is used, and telling that it was changed.
//!
//! [`PreContentGroup`] gets permission events, each of which holds somebody's system call until it is answered.
//! [`ChangeGroup`] gets notifications, late and incomplete after an overflow; [`NameGroup`] those with names. Who decides the answers is not here.
//!
//! Sources: fanotify(7), fanotify_init(2), fanotify_mark(2), include/uapi/linux/fanotify.h of Linux 6.18.

mod change;
mod names;
mod pre_content;
mod record;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::check;

pub use change::{ChangeEvent, ChangeGroup};
pub use names::{NameEvent, NameGroup, Place};
pub use pre_content::{PermissionEvent, PreContentGroup, Verdict};

/// Before content is read, written, mapped or truncated (Linux 6.14); with the range concerned.
pub const PRE_ACCESS: u64 = 0x0010_0000;
/// Before a file is opened.
pub const OPEN_PERM: u64 = libc::FAN_OPEN_PERM;
/// Content was changed.
pub const MODIFY: u64 = libc::FAN_MODIFY;
/// A writable descriptor was closed.
pub const CLOSE_WRITE: u64 = libc::FAN_CLOSE_WRITE;
/// An inode has another name than before.
pub const MOVE_SELF: u64 = libc::FAN_MOVE_SELF;
/// An inode's attributes changed; its number of names is one of them.
pub const ATTRIB: u64 = libc::FAN_ATTRIB;
/// An inode is gone.
pub const DELETE_SELF: u64 = libc::FAN_DELETE_SELF;
/// A name was made.
pub const CREATE: u64 = libc::FAN_CREATE;
/// A name is gone.
pub const DELETE: u64 = libc::FAN_DELETE;
/// A name became another one (Linux 5.17).
pub const RENAME: u64 = 0x1000_0000;
/// It is about a directory.
pub const ONDIR: u64 = libc::FAN_ONDIR;
/// Events were lost.
pub const QUEUE_OVERFLOW: u64 = libc::FAN_Q_OVERFLOW;

/// Where events are read into; its size bounds how many one read takes off the queue (about 85 permission events in 4 KiB).
#[derive(Debug)]
pub struct EventBuffer {
    bytes: Box<[u8]>,
}

impl EventBuffer {
    /// The kernel refuses (`EINVAL`) to read into less than its largest event; a filesystem handle is at most 128 bytes.
    const MINIMUM_BYTES: usize = 512;

    /// Of `bytes` bytes, or the least the kernel can work with.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes.max(Self::MINIMUM_BYTES)].into_boxed_slice() }
    }
}

impl Default for EventBuffer {
    fn default() -> Self {
        Self::with_capacity(4096)
    }
}

fn init(flags: libc::c_uint, event_flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = check(unsafe { libc::fanotify_init(flags, event_flags as libc::c_uint) })?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Marks, or unmarks, what the descriptor `object` is open on.
fn mark(group: BorrowedFd<'_>, flags: libc::c_uint, mask: u64, object: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: with a null path the kernel takes the object from the descriptor.
    let by_fd =
        check(unsafe { libc::fanotify_mark(group.as_raw_fd(), flags, mask, object.as_raw_fd(), std::ptr::null()) });
    match by_fd {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
        other => return other.map(drop),
    }
    // An O_PATH descriptor is no object for it; a path that leads to the same inode is.
    let path = std::ffi::CString::new(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    // SAFETY: the path is a C string that outlives the call.
    check(unsafe { libc::fanotify_mark(group.as_raw_fd(), flags, mask, libc::AT_FDCWD, path.as_ptr()) })?;
    Ok(())
}

/// Reads what is queued; 0 bytes when nothing is.
fn read_queued(group: BorrowedFd<'_>, buffer: &mut EventBuffer) -> io::Result<usize> {
    loop {
        match rustix::io::read(group, &mut *buffer.bytes) {
            Ok(length) => return Ok(length),
            Err(rustix::io::Errno::AGAIN) => return Ok(0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// One more descriptor of the same group, close-on-exec: while any is open, marks and unanswered events live.
fn duplicate(group: &OwnedFd) -> io::Result<OwnedFd> {
    group.as_fd().try_clone_to_owned()
}
