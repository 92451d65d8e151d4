//! `llapi_group_lock`: a lock that those who name the same group share. Writers who hold none are not stopped by it here.
//!
//! Each group of a file is an empty file beside the coordinator's, locked by flock: shared by its holders, and for a moment
//! exclusively by whoever finds out that a group has none.

use std::collections::HashMap;
use std::ffi::c_int;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, OFlags};

use crate::abi::Fid;
use crate::boundary::{Errno, Result, negative};
use crate::file::path_to_fid;
use crate::root::{Root, by_fd};

/// What the process holds, by descriptor and group.
static HELD: LazyLock<Mutex<HashMap<(RawFd, c_int), File>>> = LazyLock::new(Mutex::default);

fn held() -> MutexGuard<'static, HashMap<(RawFd, c_int), File>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock(fd: RawFd, group: c_int) -> Result<()> {
    let root = Root::of_fd(fd)?;
    root.fault("llapi_group_lock")?;
    if group == 0 || held().keys().any(|(other, _)| *other == fd) {
        return Err(Errno(libc::EINVAL));
    }
    let fid = path_to_fid(&root, &by_fd(fd))?;
    // SAFETY: the caller's descriptor, open during its call.
    let flags = rustix::fs::fcntl_getfl(unsafe { BorrowedFd::borrow_raw(fd) })?;
    wait_for_others(&root, fid, group, flags.contains(OFlags::NONBLOCK))?;
    let file = open(&root, &format!("{fid}.{group}"))?;
    rustix::fs::flock(&file, FlockOperation::LockShared)?;
    held().insert((fd, group), file);
    Ok(())
}

fn open(root: &Root, name: &str) -> Result<File> {
    Ok(OpenOptions::new().write(true).create(true).truncate(false).open(root.inside("leases").join(name))?)
}

/// Until no other group has holders.
fn wait_for_others(root: &Root, fid: Fid, group: c_int, now: bool) -> Result<()> {
    let operation = if now { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::LockExclusive };
    for entry in fs::read_dir(root.inside("leases"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("{fid}.")) && name != format!("{fid}.{group}") {
            rustix::fs::flock(&open(root, &name)?, operation)?;
        }
    }
    Ok(())
}

/// Waits until no other group has the file; with `O_NONBLOCK`, `EAGAIN` instead.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_group_lock(fd: c_int, group: c_int) -> c_int {
    negative(lock(fd, group).map(|()| 0))
}

/// Gives the lock back.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_group_unlock(fd: c_int, group: c_int) -> c_int {
    negative((|| {
        Root::of_fd(fd)?.fault("llapi_group_unlock")?;
        held().remove(&(fd, group)).map(|_| 0).ok_or(Errno(libc::EINVAL))
    })())
}

/// How much the library says on its own: this one says nothing.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_msg_set_level(_level: c_int) {}
