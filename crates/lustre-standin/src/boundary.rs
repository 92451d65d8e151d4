//! What crosses the C boundary: error numbers, strings, and the two ways to say that a call failed.
//!
//! Functions in here take raw pointers; whoever calls the library vouches for them, as with the real one.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A positive error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// What everything in here returns.
pub type Result<T> = std::result::Result<T, Errno>;

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(error: rustix::io::Errno) -> Self {
        Errno(error.raw_os_error())
    }
}

impl From<serde_json::Error> for Errno {
    fn from(_: serde_json::Error) -> Self {
        Errno(libc::EIO)
    }
}

/// The convention of most functions: a negative error number.
pub(crate) fn negative(result: Result<c_int>) -> c_int {
    result.unwrap_or_else(|error| -error.0)
}

/// The convention of the `llapi_layout_…` functions: -1, and the number in `errno`.
pub(crate) fn minus_one(result: Result<c_int>) -> c_int {
    result.unwrap_or_else(|error| {
        set_errno(error);
        -1
    })
}

/// Sets the calling thread's `errno`.
pub(crate) fn set_errno(error: Errno) {
    // SAFETY: the C library returns a valid pointer to the thread's own errno.
    unsafe { *libc::__errno_location() = error.0 };
}

/// A path or name from C.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string.
pub(crate) unsafe fn path(text: *const c_char) -> Result<PathBuf> {
    if text.is_null() {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: not null, and terminated as the caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    Ok(PathBuf::from(OsStr::from_bytes(text.to_bytes())))
}

/// A string from C.
///
/// # Safety
/// As [`path`].
pub(crate) unsafe fn text(text: *const c_char) -> Result<String> {
    // SAFETY: as our caller promises.
    let path = unsafe { path(text) }?;
    path.into_os_string().into_string().map_err(|_| Errno(libc::EINVAL))
}

/// Writes `value` to where C wants it.
///
/// # Safety
/// `target` is null or valid for a write.
pub(crate) unsafe fn put<T>(target: *mut T, value: T) -> Result<()> {
    if target.is_null() {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: not null, and valid as the caller promises; it need not be aligned.
    unsafe { target.write_unaligned(value) };
    Ok(())
}

/// Says what was done wrong and ends the process: what the real library answers with a crash, or worse, without one.
pub(crate) fn misuse(what: &str) -> ! {
    eprintln!("lustre-standin: {what}");
    std::process::abort()
}
