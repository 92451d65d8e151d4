//! A directory that is being walked: open, and with a count of what is still to be done in and below it.

use super::entry::as_path;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sys::file::FileStamp;

/// See the module. `K` is what the visitor keeps with it.
#[derive(Debug)]
pub struct Directory<K> {
    parent: Option<Arc<Self>>,
    name: Box<[u8]>,
    fd: OwnedFd,
    /// When it was opened.
    stamp: FileStamp,
    depth: u32,
    /// The visitor's.
    pub kept: K,
    /// Listing it, directories in it, batches of its entries: what is under way.
    pending: AtomicU64,
    flawed: AtomicBool,
}

impl<K> Directory<K> {
    pub(crate) fn new(parent: Option<Arc<Self>>, name: Box<[u8]>, fd: OwnedFd, stamp: FileStamp, kept: K) -> Self {
        let depth = parent.as_ref().map_or(0, |parent| parent.depth + 1);
        Self { parent, name, fd, stamp, depth, kept, pending: AtomicU64::new(1), flawed: AtomicBool::new(false) }
    }

    /// The directory itself. Whoever reads entries through it takes them from the walk.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// As it was when it was opened.
    pub fn stamp(&self) -> &FileStamp {
        &self.stamp
    }

    /// `None` for the root.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// In its parent; empty for the root.
    pub fn name(&self) -> &Path {
        as_path(&self.name)
    }

    /// Levels below the root.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// The way from the root to `name` in it, or with an empty name to itself. May be longer than the kernel takes paths.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut names: Vec<&[u8]> = if name.is_empty() { Vec::new() } else { vec![name] };
        let mut at = self;
        while let Some(parent) = &at.parent {
            names.push(&at.name);
            at = parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// As [`path_of`](Self::path_of), as a path.
    pub fn shown(&self, name: &[u8]) -> PathBuf {
        as_path(&self.path_of(name)).to_owned()
    }

    /// Something in or below it could not be done, or not be listed.
    pub fn mark_flawed(&self) {
        self.flawed.store(true, Ordering::Relaxed);
    }

    /// See [`mark_flawed`](Self::mark_flawed). For certain only when it is left.
    pub fn is_flawed(&self) -> bool {
        self.flawed.load(Ordering::Relaxed)
    }

    /// One thing more is under way in it.
    pub(crate) fn hold(self: &Arc<Self>) -> Arc<Self> {
        self.pending.fetch_add(1, Ordering::Relaxed);
        Arc::clone(self)
    }

    /// One thing less. Whether it was the last.
    pub(crate) fn release(&self) -> bool {
        // What others did in the directory happened before it is left.
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl<K> Drop for Directory<K> {
    /// Not by recursion: a chain of parents may be long.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut parent) = next.and_then(Arc::into_inner) {
            next = parent.parent.take();
        }
    }
}
