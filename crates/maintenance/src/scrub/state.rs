//! How far a scrub is, as a file: an interrupted one goes on there.
//!
//! JSON, replaced as a whole: a crash leaves the one before. Losing it costs only that the archive is read from its beginning.

use super::Counts;
use crate::MaintenanceError;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
/// A larger file is none of ours.
const MAX_BYTES: u64 = 1 << 20;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// Of which archive.
    pub(super) archive_id: u32,
    /// Everything up to this id, in their order, was checked.
    pub(super) after: String,
    /// What was found up to there.
    pub(super) counts: Counts,
}

impl State {
    pub(super) fn new(archive_id: u32) -> Self {
        Self { version: VERSION, archive_id, after: String::new(), counts: Counts::default() }
    }

    /// `None` when there is none.
    pub(super) fn load(path: &Path, archive_id: u32) -> Result<Option<Self>, MaintenanceError> {
        let bad = |why: String| MaintenanceError::ScrubState { path: path.to_owned(), why };
        match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Ok(found) if found.len() > MAX_BYTES => return Err(bad(format!("it has {} bytes", found.len()))),
            _ => {}
        }
        let bytes = fs::read(path).map_err(MaintenanceError::io("read", path))?;
        let state: Self = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if state.version != VERSION {
            return Err(bad(format!("it has version {}, this program knows version {VERSION}", state.version)));
        }
        if state.archive_id != archive_id {
            return Err(bad(format!("it is that of archive {}", state.archive_id)));
        }
        Ok(Some(state))
    }

    pub(super) fn save(&self, path: &Path) -> Result<(), MaintenanceError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let failed = |error| MaintenanceError::io("write", path)(error);
        let write = || {
            let mut file = File::create(&temporary)?;
            serde_json::to_writer(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().map_err(failed)
    }

    pub(super) fn remove(path: &Path) -> Result<(), MaintenanceError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(MaintenanceError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use testkit::Scratch;

    /// As version 1 writes it; it must be readable for ever.
    const FROZEN_V1: &str = r#"{"version":1,"archive_id":7,"after":"0e2f","counts":{"objects":3,"bytes":4,"records":5,
        "unverified":6,"damaged":7,"bad_manifests":8,"lost":9,"failed":10}}"#;

    #[test]
    fn a_state_comes_back_and_what_is_none_is_refused() {
        let scratch = Scratch::new("state");
        let path = scratch.join("state");
        assert_eq!(State::load(&path, 7).unwrap(), None);
        fs::write(&path, FROZEN_V1).unwrap();
        let state = State::load(&path, 7).unwrap().unwrap();
        assert_eq!((state.after.as_str(), state.counts.failed), ("0e2f", 10));
        state.save(&path).unwrap();
        assert_eq!(State::load(&path, 7).unwrap(), Some(state));
        assert!(State::load(&path, 8).is_err(), "of another archive");
        for bad in ["", "{}", "garbage", &FROZEN_V1.replace("\"version\":1", "\"version\":2")] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(State::load(&path, 7), Err(MaintenanceError::ScrubState { .. })), "{bad}");
        }
    }
}
