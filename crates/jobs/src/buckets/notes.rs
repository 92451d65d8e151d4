//! Which uploads in parts a job has under way, for the run after one that was killed: such an upload is in no listing of objects, and is paid for.
//!
//! One small file, replaced as a whole. It is not synced: a machine that goes down leaves the service's own rule for what is unfinished.

use crate::failure::JobError;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// More is no file of ours.
const MAX_BYTES: u64 = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Notes {
    path: PathBuf,
    keys: Mutex<BTreeSet<String>>,
    /// Locked while the job runs.
    _lock: File,
}

/// One of them, until it is dropped.
pub(super) struct Noted<'a> {
    notes: &'a Notes,
    key: &'a str,
}

impl Notes {
    /// Opens or makes the notes, and says what a killed run has left.
    pub(super) fn open(path: &Path, restart: bool) -> Result<(Self, Vec<String>), JobError> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
            made.map_err(JobError::io("make the directory", parent))?;
        }
        let lock_path = path.with_extension("lock");
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(false).mode(0o600);
        let lock = options.open(&lock_path).map_err(JobError::io("open", &lock_path))?;
        if !sys::file::try_lock_exclusive(&lock).map_err(JobError::io("lock", &lock_path))? {
            return Err(JobError::Running { path: path.to_owned() });
        }
        let earlier = match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(JobError::io("find", path)(error)),
            Ok(found) => match read(path, found.len()) {
                Some(keys) => keys,
                None if restart => Vec::new(),
                None => {
                    let why = "is no job's state: remove it, or name another file with --state";
                    return Err(JobError::Senseless(format!("{} {why}", path.display())));
                }
            },
        };
        let keys = earlier.iter().cloned().collect();
        Ok((Self { path: path.to_owned(), keys: Mutex::new(keys), _lock: lock }, earlier))
    }

    /// Notes that this key is about to be put to in parts.
    pub(super) fn begin<'a>(&'a self, key: &'a str) -> Noted<'a> {
        self.change(|keys| keys.insert(key.to_owned()));
        Noted { notes: self, key }
    }

    /// What an earlier run had begun is gone.
    pub(super) fn forget(&self, key: &str) {
        self.change(|keys| keys.remove(key));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) {
        let mut keys = self.keys.lock();
        change(&mut keys);
        if let Err(error) = self.write(&keys) {
            tracing::warn!(path = %self.path.display(), %error, "cannot note which uploads are under way");
        }
    }

    fn write(&self, keys: &BTreeSet<String>) -> std::io::Result<()> {
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, serde_json::to_vec(keys)?)?;
        std::fs::rename(&beside, &self.path)
    }

    /// The job is over, and nothing is under way.
    pub(super) fn remove(self) {
        if self.keys.lock().is_empty() {
            let _ = std::fs::remove_file(&self.path);
            // Last, while it is still locked.
            let _ = std::fs::remove_file(self.path.with_extension("lock"));
        }
    }
}

fn read(path: &Path, bytes: u64) -> Option<Vec<String>> {
    if bytes > MAX_BYTES {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.notes.forget(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_under_way_is_known_to_the_next_run() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jobs/state.db");
        let (notes, earlier) = Notes::open(&path, false).unwrap();
        assert!(earlier.is_empty());
        assert!(matches!(Notes::open(&path, false), Err(JobError::Running { .. })));
        drop(notes.begin("done"));
        // A killed process does not drop it.
        std::mem::forget(notes.begin("p/a \"b\"\n"));
        drop(notes);
        let (notes, earlier) = Notes::open(&path, false).unwrap();
        assert_eq!(earlier, ["p/a \"b\"\n"]);
        notes.forget("p/a \"b\"\n");
        notes.remove();
        assert!(!path.exists() && !path.with_extension("lock").exists());
        std::fs::write(&path, "garbage").unwrap();
        assert!(matches!(Notes::open(&path, false), Err(JobError::Senseless(_))));
    }
}
