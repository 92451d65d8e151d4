//! File leases: proof that nobody else has a file open.
//!
//! `F_SETLEASE` succeeds with `F_WRLCK` only while no other open file description of the inode exists (mappings
//! count). While the lease is held, an open by anybody waits until it is released, at most `/proc/sys/fs/lease-break-time`
//! seconds; the holder sees it in [`WriteLease::still_held`].
//!
//! The kernel announces a break with a signal to the process that took the lease, by default SIGIO, which kills. The
//! functions here choose SIGURG first, which by default does nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::check;

/// `F_SETSIG` of fcntl(2), not in every libc crate target.
const F_SETSIG: libc::c_int = 10;

/// A write lease; released on drop. It belongs to the open file description, so `fd` stays the only one.
#[derive(Debug)]
pub struct WriteLease<F: AsFd = OwnedFd> {
    fd: F,
}

impl<F: AsFd> WriteLease<F> {
    /// Takes the lease through `fd` (own it or lend it; the file's owner or `CAP_LEASE`). `None` when anybody else has
    /// the file open, in this process too.
    ///
    /// Duplicates of `fd` are the same open file description and do not count as anybody else.
    pub fn take(fd: F) -> io::Result<Option<Self>> {
        let taken = set_lease(fd.as_fd(), libc::F_WRLCK)?;
        Ok(taken.then_some(Self { fd }))
    }

    /// Whether the lease is whole: `false` as soon as somebody's open waits for it, and after it was taken away.
    pub fn still_held(&self) -> bool {
        // SAFETY: F_GETLEASE takes no argument and touches no memory of ours.
        let held = unsafe { libc::fcntl(self.fd.as_fd().as_raw_fd(), libc::F_GETLEASE) };
        held == libc::F_WRLCK
    }
}

impl<F: AsFd> AsFd for WriteLease<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<F: AsFd> Drop for WriteLease<F> {
    fn drop(&mut self) {
        release(self.fd.as_fd());
    }
}

/// A read lease; released on drop. While it is held, an open for writing by anybody waits.
#[derive(Debug)]
pub struct ReadLease<F: AsFd = OwnedFd> {
    fd: F,
}

impl<F: AsFd> ReadLease<F> {
    /// Takes the lease through `fd`, which must be `O_RDONLY`. `None` when somebody has the file open for writing, or
    /// mapped shared and writable.
    pub fn take(fd: F) -> io::Result<Option<Self>> {
        let taken = set_lease(fd.as_fd(), libc::F_RDLCK)?;
        Ok(taken.then_some(Self { fd }))
    }

    /// Whether the lease is whole: `false` as soon as a writer's open waits for it.
    pub fn still_held(&self) -> bool {
        // SAFETY: F_GETLEASE takes no argument and touches no memory of ours.
        let held = unsafe { libc::fcntl(self.fd.as_fd().as_raw_fd(), libc::F_GETLEASE) };
        held == libc::F_RDLCK
    }
}

impl<F: AsFd> Drop for ReadLease<F> {
    fn drop(&mut self) {
        release(self.fd.as_fd());
    }
}

/// Whether any open file description, or a shared writable mapping, can write to the file. `fd` must be `O_RDONLY`.
///
/// Asks by taking a read lease and dropping it at once. A write lease held on the file counts as a writer.
pub fn has_writers(fd: impl AsFd) -> io::Result<bool> {
    let taken = set_lease(fd.as_fd(), libc::F_RDLCK)?;
    if taken {
        release(fd.as_fd());
    }
    Ok(!taken)
}

/// `false` on EAGAIN: somebody has the file open in a way the lease does not allow.
fn set_lease(fd: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<bool> {
    // SAFETY: F_SETSIG takes an integer and touches no memory of ours.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, libc::SIGURG) })?;
    // SAFETY: F_SETLEASE takes an integer and touches no memory of ours.
    match check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, kind) }) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
        Err(error) => Err(error),
    }
}

fn release(fd: BorrowedFd<'_>) {
    // An error says that there is no lease any more (the kernel took it away): what we want.
    // SAFETY: F_SETLEASE takes an integer and touches no memory of ours.
    let _ = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
}
