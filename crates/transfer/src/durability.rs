//! The calls that make things durable, as a trait: what P1 rests on must be countable, and able to fail, in tests.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

/// Each call returns after the device said that it has the data.
pub trait Durability: Send + Sync {
    /// Everything of the filesystem that `file` is on, written before the call began.
    fn sync_filesystem(&self, file: &File) -> io::Result<()>;
    /// The file's data, and its size.
    fn sync_data(&self, file: &File) -> io::Result<()>;
    /// The file's data and attributes; of a directory, its entries.
    fn sync_all(&self, file: &File) -> io::Result<()>;
}

/// `syncfs(2)`, `fdatasync(2)` and `fsync(2)`.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelDurability;

impl Durability for KernelDurability {
    fn sync_filesystem(&self, file: &File) -> io::Result<()> {
        sys::file::sync_fs(file.as_fd())
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        sys::file::sync_data(file.as_fd())
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        sys::file::sync_all(file.as_fd())
    }
}
