//! Durability that can be watched.

use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ThreadId;
use transfer::{Durability, KernelDurability};

/// Counts syncs, can hold them up, and can make them fail; those that succeed are real.
#[derive(Default)]
pub(crate) struct Watched {
    pub(crate) started: AtomicU64,
    pub(crate) finished: AtomicU64,
    pub(crate) synced_files: Mutex<HashMap<u64, u64>>,
    held: Mutex<bool>,
    released: Condvar,
    pub(crate) failing: AtomicBool,
    /// Syncs of these files fail, by inode number.
    pub(crate) failing_files: Mutex<HashSet<u64>>,
    /// Which threads synced the filesystem, and through which descriptor.
    pub(crate) filesystem_synced_by: Mutex<HashSet<(ThreadId, i32)>>,
}

impl Watched {
    /// Every sync waits until what is returned is dropped; also by a panic, or the test would hang instead of failing.
    pub(crate) fn hold(&self) -> Hold<'_> {
        *self.held.lock() = true;
        Hold(self)
    }

    fn sync(&self, real: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.started.fetch_add(1, Ordering::SeqCst);
        let mut held = self.held.lock();
        while *held {
            self.released.wait(&mut held);
        }
        drop(held);
        if self.failing.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        real()?;
        self.finished.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

pub(crate) struct Hold<'a>(&'a Watched);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        *self.0.held.lock() = false;
        self.0.released.notify_all();
    }
}

impl Durability for Watched {
    fn sync_filesystem(&self, file: &File) -> io::Result<()> {
        self.filesystem_synced_by.lock().insert((std::thread::current().id(), file.as_raw_fd()));
        self.sync(|| KernelDurability.sync_filesystem(file))
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.sync(|| KernelDurability.sync_data(file))
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        let inode = file.metadata()?.ino();
        *self.synced_files.lock().entry(inode).or_default() += 1;
        if self.failing_files.lock().contains(&inode) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.sync(|| KernelDurability.sync_all(file))
    }
}
