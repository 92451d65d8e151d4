//! Leases, group locks, and the changes of a file's layout that they make safe.
//!
//! A lease is lost as soon as somebody opens the file in a way it excludes; the change that was to end it is then
//! not made. That is how a file is given other objects without blocking its users.

use std::fs::File;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::raw::c_int;
use std::path::Path;

use super::copy_action::DELAY_LAYOUT;
use super::{Library, abi, check, path_argument, result};

/// `enum ll_lease_mode`.
const UNLOCK: u32 = 4;
/// `enum ll_lease_flags`.
const RESYNC: u32 = 1;
const RESYNC_DONE: u32 = 2;
const MERGE: u32 = 4;
const SPLIT: u32 = 8;

/// `IOC_IDS_MAX`.
const MAX_IDS: usize = 4096;

/// `SWAP_LAYOUTS_CLOSE`: swap, release the lease and close, as one.
const SWAP_AND_CLOSE: u64 = 0x10;
/// `SWAP_LAYOUTS_CHECK_DV1`: only when the first file still has the version.
const SWAP_CHECKED: u64 = 0x1;

/// Whom a lease excludes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseMode {
    /// Writers.
    Read,
    /// Everybody.
    Write,
}

impl LeaseMode {
    fn to_wire(self) -> u32 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
        }
    }
}

/// A lease on an open file; released when dropped.
#[derive(Debug)]
pub struct LayoutLease<F: AsFd> {
    library: Library,
    file: F,
    held: bool,
}

impl<F: AsFd> LayoutLease<F> {
    /// Takes it. `EBUSY` when somebody has the file open in a way that it excludes, and when this open file has a lease.
    pub fn acquire(library: &Library, file: F, mode: LeaseMode) -> io::Result<Self> {
        // SAFETY: an open descriptor and a number.
        check(unsafe { (library.leases()?.acquire)(file.as_fd().as_raw_fd(), mode.to_wire()) })?;
        Ok(Self { library: library.clone(), file, held: true })
    }

    /// Takes one that excludes everybody, and tells the MDT that stale mirrors are to be written now: one call of the kernel, which
    /// wants no lease to be there before. End it with [`finish_resync`](Self::finish_resync). `EBUSY` as for [`acquire`](Self::acquire);
    /// `EALREADY`: no mirror is stale. A resync that was begun before and not ended is gone on with.
    pub fn acquire_for_resync(library: &Library, file: F) -> io::Result<Self> {
        let mut lease = Self { library: library.clone(), file, held: false };
        // When this fails, the kernel has given the lease back.
        lease.set(LeaseMode::Write.to_wire(), RESYNC, &[])?;
        lease.held = true;
        Ok(lease)
    }

    /// Whether it was kept until now.
    pub fn still_held(&self) -> io::Result<bool> {
        // SAFETY: an open descriptor.
        Ok(result(unsafe { (self.library.leases()?.check)(self.file.as_fd().as_raw_fd()) })? > 0)
    }

    /// Ends a resync, and the lease: the components given (by id) are in sync now, maybe none.
    pub fn finish_resync(self, components: &[u32]) -> io::Result<()> {
        self.end_with(RESYNC_DONE, components)
    }

    /// Makes the content of `copy` a further mirror of the file, and ends the lease. `copy` has no content any more then. It has to have a layout of
    /// components ([`Layout::set_composite`](super::Layout::set_composite)): `EINVAL` otherwise.
    pub fn merge(self, copy: impl AsFd) -> io::Result<()> {
        self.end_with(MERGE, &[number(copy.as_fd())?])
    }

    /// Moves a mirror to `placeholder` (of [`create_volatile_empty`], with which it goes), and ends the lease.
    pub fn split(self, placeholder: impl AsFd, mirror: u32) -> io::Result<()> {
        self.end_with(SPLIT, &[number(placeholder.as_fd())?, mirror])
    }

    /// Gives the file the objects of `copy` and the reverse, and ends the lease; the versions say what was copied.
    /// `EBUSY` or `EAGAIN` when the file was opened or written meanwhile.
    ///
    /// The descriptor is good for nothing but closing afterwards.
    pub fn swap(mut self, copy: impl AsFd, version: u64, copy_version: u64) -> io::Result<()> {
        let swap = self.library.leases()?.swap;
        let (file, copy) = (self.file.as_fd().as_raw_fd(), copy.as_fd().as_raw_fd());
        // SAFETY: two open descriptors and numbers.
        let swapped = check(unsafe { swap(file, copy, version, copy_version, SWAP_AND_CLOSE) });
        self.held = swapped.is_err();
        swapped
    }

    /// Releases it. `EBUSY` when it was lost before.
    pub fn release(mut self) -> io::Result<()> {
        self.held = false;
        // SAFETY: an open descriptor.
        lost_if_zero(result(unsafe { (self.library.leases()?.release)(self.file.as_fd().as_raw_fd()) })?)
    }

    fn end_with(mut self, flags: u32, ids: &[u32]) -> io::Result<()> {
        let code = self.set(UNLOCK, flags, ids)?;
        self.held = false;
        lost_if_zero(code)
    }

    fn set(&self, mode: u32, flags: u32, ids: &[u32]) -> io::Result<c_int> {
        if ids.len() > MAX_IDS {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let count = u32::try_from(ids.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let mut words = vec![mode, flags, count];
        words.extend_from_slice(ids);
        // Newer kernels look for more in the same place, which is 0 for whoever does not know of it.
        words.resize(words.len().max(8), 0);
        // SAFETY: an open descriptor, and words that are laid out as the struct with as many ids as it says.
        result(unsafe { (self.library.leases()?.set)(self.file.as_fd().as_raw_fd(), words.as_ptr().cast()) })
    }
}

// The words are the struct.
const _: () = assert!(size_of::<abi::LlIocLease>() == 3 * size_of::<u32>());
const _: () = assert!(offset_of!(abi::LlIocLease, mode) == 0);

impl<F: AsFd> AsFd for LayoutLease<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl<F: AsFd> Drop for LayoutLease<F> {
    fn drop(&mut self) {
        if self.held
            && let Ok(functions) = self.library.leases()
        {
            // An error says that there is no lease any more.
            // SAFETY: an open descriptor.
            let _ = unsafe { (functions.release)(self.file.as_fd().as_raw_fd()) };
        }
    }
}

/// A group lock on an open file: while it is held, only holders of locks with the same id can read or write. Released when dropped.
#[derive(Debug)]
pub struct GroupLock<F: AsFd> {
    library: Library,
    file: F,
    group: c_int,
}

impl<F: AsFd> GroupLock<F> {
    /// Takes it; waits for who reads or writes at present. `group` is any number but 0.
    pub fn acquire(library: &Library, file: F, group: u32) -> io::Result<Self> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let group = c_int::try_from(group).ok().filter(|group| *group != 0).ok_or_else(invalid)?;
        // SAFETY: an open descriptor and a number.
        check(unsafe { (library.leases()?.group_lock)(file.as_fd().as_raw_fd(), group) })?;
        Ok(Self { library: library.clone(), file, group })
    }

    /// Gives the file the objects of `copy` and the reverse, both locked; only if the file still has this version (`EAGAIN`).
    pub fn swap<C: AsFd>(&self, copy: &GroupLock<C>, version: u64) -> io::Result<()> {
        let swap = self.library.leases()?.swap_grouplock;
        let (file, copy) = (self.file.as_fd().as_raw_fd(), copy.file.as_fd().as_raw_fd());
        // No group: the lock is ours already, and stays.
        // SAFETY: two open descriptors and numbers.
        check(unsafe { swap(file, copy, version, 0, 0, SWAP_CHECKED) })
    }
}

impl<F: AsFd> AsFd for GroupLock<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl<F: AsFd> Drop for GroupLock<F> {
    fn drop(&mut self) {
        if let Ok(functions) = self.library.leases() {
            // An error says that there is none.
            // SAFETY: an open descriptor and a number.
            let _ = unsafe { (functions.group_unlock)(self.file.as_fd().as_raw_fd(), self.group) };
        }
    }
}

/// A file without a name that lives as long as it is open, in `directory`, without a layout: what [`LayoutLease::split`] gives a mirror to.
/// It has to be on the file's MDT.
pub fn create_volatile_empty(library: &Library, directory: &Path, mdt_index: u32) -> io::Result<File> {
    let path = path_argument(directory)?;
    let index = c_int::try_from(mdt_index).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let create = library.leases()?.create_volatile;
    // SAFETY: a string and numbers.
    let fd = result(unsafe { create(path.as_ptr(), index, libc::O_RDWR | libc::O_CLOEXEC | DELAY_LAYOUT) })?;
    // SAFETY: the library opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// Has all clients write what they have cached of the file.
pub fn flush(library: &Library, file: impl AsFd) -> io::Result<()> {
    // SAFETY: an open descriptor.
    check(unsafe { (library.leases()?.file_flush)(file.as_fd().as_raw_fd()) })
}

/// A lease's release gives what it was; nothing says that it had been lost.
fn lost_if_zero(code: c_int) -> io::Result<()> {
    match code {
        0 => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        _ => Ok(()),
    }
}

fn number(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}
