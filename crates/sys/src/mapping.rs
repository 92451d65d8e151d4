//! Mapping a file into memory, to see what the kernel says about it.
//!
//! Not for: reading through the mapping. The file may change under it, which no safe type can give; use `pread`.

use std::io;
use std::os::fd::AsFd;

use rustix::mm::{MapFlags, ProtFlags};

/// Maps `length` bytes from `offset` (a multiple of the page size) for reading, privately, and unmaps them without having
/// touched them. Raises the events that any mapping does.
pub fn map_and_unmap(fd: impl AsFd, offset: u64, length: usize) -> io::Result<()> {
    // SAFETY: the kernel chooses the address, so nothing of ours is replaced.
    let start =
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, fd, offset)? };
    // SAFETY: exactly what was mapped above, and nobody else knows the address.
    unsafe { rustix::mm::munmap(start, length)? };
    Ok(())
}
