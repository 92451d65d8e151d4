//! Extended attributes by descriptor.
//!
//! Reading and writing them needs no write access to the data: an `O_RDONLY` descriptor will do, and so works on running programs.
//! For `O_PATH` descriptors the plain calls answer `EBADF`; these functions then go through `/proc/self/fd`.
//! `O_PATH` descriptors may be of symbolic links: their own attributes are meant. Names may be texts or C strings: the kernel takes any bytes.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use rustix::path::Arg;

/// `XATTR_SIZE_MAX`, and `XATTR_LIST_MAX` too.
const MAX_BYTES: usize = 64 * 1024;
/// Enough for nearly every value we store, so that one call does.
const USUAL_BYTES: usize = 512;

/// The attribute's value; `None` when the file has no such attribute (`ENODATA`).
pub fn get(fd: impl AsFd, name: impl Arg + Copy) -> io::Result<Option<Vec<u8>>> {
    let fd = fd.as_fd();
    let value = read_growing(|buffer| match rustix::fs::fgetxattr(fd, name, &mut *buffer) {
        Err(Errno::BADF) => rustix::fs::getxattr(proc_path(fd).as_c_str(), name, buffer),
        other => other,
    });
    match value {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sets the attribute, whether or not it is there. Moves ctime.
pub fn set(fd: impl AsFd, name: impl Arg + Copy, value: &[u8]) -> io::Result<()> {
    let fd = fd.as_fd();
    match rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
        Err(Errno::BADF) => Ok(rustix::fs::setxattr(proc_path(fd).as_c_str(), name, value, XattrFlags::empty())?),
        other => Ok(other?),
    }
}

/// Sets an attribute that must not be there: `EEXIST` when it is. Some attributes (`lustre.lov`) can only be set so.
pub fn create(fd: impl AsFd, name: impl Arg + Copy, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(fd, name, value, XattrFlags::CREATE)?)
}

/// Removes the attribute; `false` when there was none.
pub fn remove(fd: impl AsFd, name: impl Arg + Copy) -> io::Result<bool> {
    let fd = fd.as_fd();
    let removed = match rustix::fs::fremovexattr(fd, name) {
        Err(Errno::BADF) => rustix::fs::removexattr(proc_path(fd).as_c_str(), name),
        other => other,
    };
    match removed {
        Ok(()) => Ok(true),
        Err(Errno::NODATA) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The names of all attributes we may see.
pub fn list(fd: impl AsFd) -> io::Result<Vec<CString>> {
    let fd = fd.as_fd();
    let names = read_growing(|buffer| match rustix::fs::flistxattr(fd, &mut *buffer) {
        Err(Errno::BADF) => rustix::fs::listxattr(proc_path(fd).as_c_str(), buffer),
        other => other,
    })?;
    Ok(split(&names))
}

fn split(names: &[u8]) -> Vec<CString> {
    let names = names.split_inclusive(|byte| *byte == 0);
    names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()).map(CStr::to_owned).collect()
}

/// As [`get`], of `name` in the directory `dir`, which is not opened; a symbolic link's own are meant.
pub fn get_at(dir: impl AsFd, name: &Path, attribute: impl Arg + Copy) -> io::Result<Option<Vec<u8>>> {
    let path = path_at(dir.as_fd(), name)?;
    match read_growing(|buffer| rustix::fs::lgetxattr(path.as_c_str(), attribute, buffer)) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// As [`list`], of `name` in the directory `dir`, which is not opened; a symbolic link's own are meant.
pub fn list_at(dir: impl AsFd, name: &Path) -> io::Result<Vec<CString>> {
    static KNOWN: AtomicBool = AtomicBool::new(true);
    let dir = dir.as_fd();
    if KNOWN.load(Ordering::Relaxed) {
        let name = CString::new(name.as_os_str().as_bytes())?;
        match read_growing(|buffer| listxattrat(dir, &name, buffer)) {
            Err(Errno::NOSYS) => KNOWN.store(false, Ordering::Relaxed),
            other => return Ok(split(&other?)),
        }
    }
    let path = path_at(dir, name)?;
    Ok(split(&read_growing(|buffer| rustix::fs::llistxattr(path.as_c_str(), buffer))?))
}

/// listxattrat(2), since Linux 6.13. Several times as fast as the way through `/proc`. `name` is not followed.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
fn listxattrat(dir: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    /// Of every architecture here.
    const SYS_LISTXATTRAT: libc::c_long = 465;
    // SAFETY: the name ends with a NUL, and the kernel writes no more than the buffer's length.
    let written = unsafe {
        libc::syscall(
            SYS_LISTXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    usize::try_from(written).map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// The call has another number there.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
fn listxattrat(_: BorrowedFd<'_>, _: &CStr, _: &mut [u8]) -> Result<usize, Errno> {
    Err(Errno::NOSYS)
}

/// Tries a small buffer, then the largest there can be: no second question for the size, hence no race with a change.
fn read_growing(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; USUAL_BYTES];
    let length = match read(&mut value) {
        Err(Errno::RANGE) => {
            value.resize(MAX_BYTES, 0);
            read(&mut value)?
        }
        other => other?,
    };
    value.truncate(length);
    Ok(value)
}

/// One component only: `name` is not to lead anywhere else.
fn path_at(dir: BorrowedFd<'_>, name: &Path) -> io::Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_os_str().as_bytes());
    Ok(CString::new(path)?)
}

fn proc_path(fd: BorrowedFd<'_>) -> CString {
    // A number has no NUL in it, so this cannot fail; the empty path would only give ENOENT.
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}
