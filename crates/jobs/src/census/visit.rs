//! What is counted in each directory.

use super::{Counting, content, is_directory};
use crate::report::Kind;
use crate::walk::{Directory, Entry, Found, Visitor, Walker};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use sys::file::stamp_at;

/// One of the trees.
pub(super) struct Tree<'a> {
    pub(super) counting: &'a Counting<'a>,
    pub(super) root: &'a Path,
}

impl Tree<'_> {
    fn path(&self, directory: &Directory<AtomicU64>, name: &[u8]) -> PathBuf {
        let below = directory.shown(name);
        if below.as_os_str().is_empty() { self.root.to_owned() } else { self.root.join(below) }
    }
}

impl Visitor for Tree<'_> {
    /// Entries, whatever becomes of them.
    type Kept = AtomicU64;

    fn wants(&self, parent: &Directory<AtomicU64>, name: &[u8]) -> bool {
        parent.kept.fetch_add(1, Ordering::Relaxed);
        let wanted = self.counting.options.filter.wants_name(parent, name, true);
        if !wanted {
            self.counting.filtered.fetch_add(1, Ordering::Relaxed);
        }
        wanted
    }

    fn enter(&self, found: Found<'_, AtomicU64>) -> Option<AtomicU64> {
        let Found { parent, name, stamp, .. } = found;
        let counting = self.counting;
        if let Some(parent) = parent {
            if counting.roots.contains(&(stamp.dev, stamp.ino)) {
                return None;
            }
            counting.deepest.offer(u64::from(parent.depth()) + 1, || self.path(parent, name));
        }
        counting.count(&mut counting.sums(), stamp);
        counting.seen.fetch_add(1, Ordering::Relaxed);
        Some(AtomicU64::new(0))
    }

    fn entries(&self, walk: &Walker<'_, Self>, directory: &Arc<Directory<AtomicU64>>, entries: &[Entry]) {
        let counting = self.counting;
        let mut found = Vec::with_capacity(entries.len());
        for entry in entries {
            if walk.is_stopped() {
                break;
            }
            let name: &[u8] = &entry.name;
            if !counting.options.filter.wants_name(directory, name, false) {
                counting.filtered.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            match stamp_at(directory.fd(), entry.as_path()) {
                // It was something else when it was listed.
                Ok(stamp) if is_directory(&stamp) => walk.also(directory, name),
                Ok(stamp) if stamp.is_regular && !counting.options.filter.wants_file(&stamp) => {
                    counting.filtered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(stamp) => {
                    counting.deepest.offer(u64::from(directory.depth()) + 1, || self.path(directory, name));
                    found.push((name, stamp));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    counting.vanished.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => counting.trouble(Kind::File, self.path(directory, name), "look at it", &error),
            }
        }
        directory.kept.fetch_add(entries.len() as u64, Ordering::Relaxed);
        counting.seen.fetch_add(entries.len() as u64, Ordering::Relaxed);
        let mut sums = counting.sums();
        for (name, stamp) in &found {
            if counting.count(&mut sums, stamp) {
                counting.largest_files.offer(content(stamp), || self.path(directory, name));
            }
        }
    }

    fn leave(&self, directory: &Directory<AtomicU64>) {
        let entries = directory.kept.load(Ordering::Relaxed);
        self.counting.largest_directories.offer(entries, || self.path(directory, b""));
    }

    fn trouble(&self, directory: &Directory<AtomicU64>, name: &[u8], doing: &'static str, error: &io::Error) {
        self.counting.trouble(Kind::Directory, self.path(directory, name), doing, error);
    }

    fn elsewhere(&self, _: &Directory<AtomicU64>, _: &[u8]) {
        self.counting.elsewhere.fetch_add(1, Ordering::Relaxed);
    }
}
