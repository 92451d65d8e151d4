//! From a description back to an inode.

use super::{Kind, Manifest};
use crate::TransferError;
use model::Timestamp;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::Path;

/// Permission bits, with set-uid, set-gid and sticky.
const PERMISSIONS: u32 = 0o7777;

/// An attribute that could not be set: the filesystem has no such namespace, or no room.
#[derive(Debug)]
pub struct Unset {
    /// Its name.
    pub name: Vec<u8>,
    /// What the kernel said.
    pub error: io::Error,
}

/// Gives an inode the owner, mode, attributes (with ACLs) and times of a manifest. `O_PATH` descriptors will do; `shown` is its name in
/// messages. Content, size and our own attributes are not touched. May be done again.
///
/// Attributes that cannot be set are given back: a file without one of them is better than none. ctime and btime cannot be set by anybody.
///
/// # Errors
/// Owner, mode or times cannot be set.
pub fn apply(manifest: &Manifest, fd: impl AsFd, shown: &Path) -> Result<Vec<Unset>, TransferError> {
    let fd = fd.as_fd();
    let inode = &manifest.inode;
    let failed = |doing| TransferError::io(doing, shown);
    // First, because a change of owner clears set-uid bits and capabilities.
    let owner = (Some(Uid::from_raw(inode.uid)), Some(Gid::from_raw(inode.gid)));
    rustix::fs::chownat(fd, c"", owner.0, owner.1, AtFlags::EMPTY_PATH)
        .map_err(|e| failed("set the owner of")(e.into()))?;
    let mut unset = Vec::new();
    if !matches!(manifest.kind, Kind::Symlink(_)) {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let mode = Mode::from_raw_mode(inode.mode & PERMISSIONS);
        rustix::fs::chmodat(CWD, path, mode, AtFlags::empty()).map_err(|e| failed("set the mode of")(e.into()))?;
        for attribute in &manifest.attributes {
            let name = CString::new(attribute.name.as_slice()).map_err(io::Error::from);
            let set = name.and_then(|name| sys::xattr::set(fd, name.as_c_str(), &attribute.value));
            if let Err(error) = set {
                unset.push(Unset { name: attribute.name.clone(), error });
            }
        }
    }
    let times = Timestamps { last_access: timespec(inode.atime), last_modification: timespec(inode.mtime) };
    rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH).map_err(|e| failed("set the times of")(e.into()))?;
    Ok(unset)
}

fn timespec(time: Timestamp) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() }
}
