//! `llapi_lease_…`: leases on files, and what is done to mirrors when one is given back.
//!
//! A read lease is lost when the file changes, a write lease also when anybody opens it: inotify tells. Nobody is stopped by
//! a lease, as on Lustre. A descriptor keeps a lease that was lost until it gives it back, and gets no other one before: also
//! the begin of a resync takes a lease, and wants none to be there.

use std::collections::HashMap;
use std::ffi::c_int;
use std::fs::{self, File};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify;

use crate::abi::LeaseRequest;
use crate::boundary::{Errno, Result, negative};
use crate::file::modification;
use crate::mirror;
use crate::root::{Root, by_fd};
use crate::user::alone;

const READ: u32 = 1;
const WRITE: u32 = 2;
const UNLOCK: u32 = 4;
const RESYNC: u32 = 1;
const RESYNC_DONE: u32 = 2;
const LAYOUT_MERGE: u32 = 4;
const LAYOUT_SPLIT: u32 = 8;

struct Lease {
    mode: u32,
    inode: u64,
    modification: u64,
    opened: OwnedFd,
    lost: bool,
}

/// Leases are the process's, by descriptor.
static LEASES: LazyLock<Mutex<HashMap<RawFd, Lease>>> = LazyLock::new(Mutex::default);

fn leases() -> MutexGuard<'static, HashMap<RawFd, Lease>> {
    LEASES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the descriptor has a lease to give back, lost or not. Closing gives back, too: of another file, it is a former one's.
fn has(fd: RawFd) -> Result<bool> {
    let inode = fs::metadata(by_fd(fd))?.ino();
    let mut leases = leases();
    if leases.get(&fd).is_some_and(|lease| lease.inode != inode) {
        leases.remove(&fd);
    }
    Ok(leases.contains_key(&fd))
}

fn acquire(fd: RawFd, mode: u32) -> Result<()> {
    if has(fd)? {
        return Err(Errno(libc::EBUSY));
    }
    // SAFETY: the caller's descriptor, which it does not close meanwhile.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    if mode == WRITE {
        // Another descriptor of the same opening: it counts as one.
        alone(&File::from(rustix::io::dup(borrowed)?))?;
    }
    let opened = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&opened, by_fd(fd), inotify::WatchFlags::OPEN)?;
    let metadata = fs::metadata(by_fd(fd))?;
    let lease = Lease { mode, inode: metadata.ino(), modification: modification(&metadata), opened, lost: false };
    leases().insert(fd, lease);
    Ok(())
}

/// The mode of the lease that is still held; 0 when there is none, or it was lost.
pub(crate) fn held(fd: RawFd) -> Result<u32> {
    let mut leases = leases();
    let Some(lease) = leases.get_mut(&fd) else { return Ok(0) };
    let metadata = fs::metadata(by_fd(fd))?;
    let mut events = [0; 256];
    let changed = lease.modification != modification(&metadata);
    let opened = lease.mode == WRITE && rustix::io::read(&lease.opened, &mut events).is_ok_and(|len| len > 0);
    let lost = lease.lost || changed || opened || lease.inode != metadata.ino();
    lease.lost = lost;
    Ok(if lost { 0 } else { lease.mode })
}

/// Gives it back, and tells what [`held`] would. `ENOLCK` without one.
fn give_back(fd: RawFd) -> Result<u32> {
    if !has(fd)? {
        return Err(Errno(libc::ENOLCK));
    }
    let mode = held(fd);
    leases().remove(&fd);
    mode
}

/// Mirrors are written under a lease: what that does to the file is not somebody else's change.
pub(crate) fn keep_through(fd: RawFd, change: impl FnOnce() -> Result<()>) -> Result<()> {
    change()?;
    if let Some(lease) = leases().get_mut(&fd) {
        lease.modification = modification(&fs::metadata(by_fd(fd))?);
    }
    Ok(())
}

/// A call that gives a lease back and fails has given it back.
fn forget_if(gives_back: bool, fd: RawFd) {
    if gives_back {
        leases().remove(&fd);
    }
}

/// What a swap that ends a lease needs: `EBUSY` when it was lost. It is gone in any case.
pub(crate) fn end_for_swap(fd: RawFd) -> Result<()> {
    match give_back(fd)? {
        0 => Err(Errno(libc::EBUSY)),
        _ => Ok(()),
    }
}

fn set(fd: RawFd, asked: &LeaseRequest, ids: &[u32]) -> Result<u32> {
    let root = Root::of_fd(fd)?;
    root.fault("llapi_lease_set").inspect_err(|_| forget_if(asked.mode == UNLOCK, fd))?;
    match (asked.mode, asked.flags) {
        (READ | WRITE, 0) => acquire(fd, asked.mode).map(|()| 0),
        (WRITE, RESYNC) => {
            acquire(fd, WRITE)?;
            let begun = mirror::begin_resync(&root, fd);
            if begun.is_err() {
                leases().remove(&fd);
            }
            begun.map(|()| 0)
        }
        (UNLOCK, flags) => {
            // It is gone whatever becomes of what it was for.
            let mode = give_back(fd)?;
            if mode != 0 {
                match (flags, ids) {
                    (0, _) => {}
                    (LAYOUT_MERGE, [copy]) => mirror::merge(&root, fd, descriptor(*copy)?)?,
                    (LAYOUT_SPLIT, [rest, id]) => mirror::split(&root, fd, descriptor(*rest)?, *id)?,
                    (RESYNC_DONE, synced) => mirror::end_resync(&root, fd, synced)?,
                    _ => return Err(Errno(libc::EINVAL)),
                }
            }
            Ok(mode)
        }
        _ => Err(Errno(libc::EINVAL)),
    }
}

fn descriptor(id: u32) -> Result<RawFd> {
    RawFd::try_from(id).map_err(|_| Errno(libc::EBADF))
}

fn mode(mode: Result<u32>) -> c_int {
    negative(mode.and_then(|mode| c_int::try_from(mode).map_err(|_| Errno(libc::EINVAL))))
}

/// Takes a lease, or, with `UNLCK`, gives it back and does what the flags say: what mode it had, or 0 when it was lost, and
/// then nothing was done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_lease_set(fd: c_int, asked: *const LeaseRequest) -> c_int {
    mode((|| {
        // SAFETY: null, or a request.
        let header = unsafe { asked.as_ref() }.ok_or(Errno(libc::EINVAL))?;
        if header.count > 4096 {
            return Err(Errno(libc::EINVAL));
        }
        // SAFETY: the ids follow the request, as many as it says.
        let ids = unsafe { std::slice::from_raw_parts(asked.add(1).cast::<u32>(), header.count as usize) };
        set(fd, header, ids)
    })())
}

/// Takes a lease; `EBUSY` when others have the file open.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_lease_acquire(fd: c_int, lease_mode: c_int) -> c_int {
    mode((|| {
        Root::of_fd(fd)?.fault("llapi_lease_acquire")?;
        match u32::try_from(lease_mode) {
            Ok(lease_mode @ (READ | WRITE)) => acquire(fd, lease_mode).map(|()| 0),
            _ => Err(Errno(libc::EINVAL)),
        }
    })())
}

/// The mode of the lease that is held, or 0.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_lease_check(fd: c_int) -> c_int {
    mode(Root::of_fd(fd).and_then(|root| root.fault("llapi_lease_check")).and_then(|()| held(fd)))
}

/// Gives it back: what mode it had, or 0 when it was lost.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_lease_release(fd: c_int) -> c_int {
    mode((|| {
        Root::of_fd(fd)?.fault("llapi_lease_release").inspect_err(|_| forget_if(true, fd))?;
        give_back(fd)
    })())
}
