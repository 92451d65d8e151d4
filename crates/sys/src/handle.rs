//! File handles: names of inodes that outlive renames, unmounts and reboots.
//!
//! A handle carries the inode's generation, so a reused inode number is noticed. It does not say on which
//! filesystem the inode is: the caller keeps that beside it (see [`crate::mounts::filesystem_of`]).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::{OFlags, check};

/// `MAX_HANDLE_SZ`: no filesystem makes a longer handle.
pub const MAX_HANDLE_BYTES: usize = 128;

/// What `name_to_handle_at(2)` gives: opaque to us, meaningful to the filesystem that made it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RawHandle {
    /// The filesystem's encoding (`handle_type`).
    pub kind: i32,
    /// At most [`MAX_HANDLE_BYTES`] bytes.
    pub bytes: Vec<u8>,
}

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct Buffer {
    handle_bytes: u32,
    handle_type: i32,
    bytes: [u8; MAX_HANDLE_BYTES],
}

/// The handle of the open file. `O_PATH` descriptors will do. `EOPNOTSUPP` where the filesystem has no handles.
pub fn name_to_handle(fd: impl AsFd) -> io::Result<RawHandle> {
    encode(fd.as_fd(), c"", libc::AT_EMPTY_PATH)
}

/// The handle of `path`, relative to `dir`; with `follow`, of what a final symbolic link points to.
pub fn name_to_handle_at(dir: impl AsFd, path: impl AsRef<Path>, follow: bool) -> io::Result<RawHandle> {
    let path = CString::new(path.as_ref().as_os_str().as_bytes())?;
    encode(dir.as_fd(), &path, if follow { libc::AT_SYMLINK_FOLLOW } else { 0 })
}

fn encode(dir: BorrowedFd<'_>, path: &CStr, flags: i32) -> io::Result<RawHandle> {
    let mut buffer = Buffer { handle_bytes: MAX_HANDLE_BYTES as u32, handle_type: 0, bytes: [0; MAX_HANDLE_BYTES] };
    let mut mount_id = 0;
    // SAFETY: `buffer` has the layout of struct file_handle with `handle_bytes` bytes behind its head; the path is
    // a C string; both outlive the call.
    check(unsafe {
        libc::name_to_handle_at(dir.as_raw_fd(), path.as_ptr(), (&raw mut buffer).cast(), &raw mut mount_id, flags)
    })?;
    let bytes = buffer.bytes.get(..buffer.handle_bytes as usize).ok_or_else(|| errno(libc::EOVERFLOW))?;
    Ok(RawHandle { kind: buffer.handle_type, bytes: bytes.to_vec() })
}

/// Opens the inode that `handle` names, on the filesystem of `mount` (any descriptor on it that is not `O_PATH`).
///
/// `ESTALE` when the inode is gone; `EINVAL` when the bytes are no handle. Needs `CAP_DAC_READ_SEARCH`. The descriptor is always
/// close-on-exec. With flags other than `O_PATH` the open raises the events any open does.
pub fn open_by_handle(mount: impl AsFd, handle: &RawHandle, flags: OFlags) -> io::Result<OwnedFd> {
    let mut buffer =
        Buffer { handle_bytes: handle.bytes.len() as u32, handle_type: handle.kind, bytes: [0; MAX_HANDLE_BYTES] };
    buffer.bytes.get_mut(..handle.bytes.len()).ok_or_else(|| errno(libc::EINVAL))?.copy_from_slice(&handle.bytes);
    let flags = (flags | OFlags::CLOEXEC).bits() as libc::c_int;
    // SAFETY: `buffer` has the layout of struct file_handle, filled above, and outlives the call.
    let fd = check(unsafe { libc::open_by_handle_at(mount.as_fd().as_raw_fd(), (&raw mut buffer).cast(), flags) })?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
