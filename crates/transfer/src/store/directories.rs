//! Making names durable, one directory at a time.

use super::root::Root;
use crate::Durability;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Directories remembered as durable.
const MAX_KNOWN: usize = 1 << 16;

/// Syncs directories, and remembers which are in their parents durably. Only for directories that nobody removes.
pub(super) struct Directories {
    root: Arc<Root>,
    durability: Arc<dyn Durability>,
    known: HashSet<PathBuf>,
}

impl Directories {
    pub(super) fn new(root: Arc<Root>, durability: Arc<dyn Durability>) -> Self {
        Self { root, durability, known: HashSet::new() }
    }

    /// Makes the entries of a directory durable, and that directory's own, up to the root.
    pub(super) fn sync(&mut self, path: &Path) -> io::Result<()> {
        match self.root.open_dir(path) {
            Ok(dir) => self.durability.sync_all(&dir)?,
            // Nothing was ever in it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        }
        if self.known.contains(path) {
            return Ok(());
        }
        for parent in path.ancestors().skip(1) {
            if parent.as_os_str().is_empty() {
                self.durability.sync_all(self.root.dir())?;
            } else {
                self.durability.sync_all(&self.root.open_dir(parent)?)?;
            }
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(path.to_owned());
        Ok(())
    }
}
