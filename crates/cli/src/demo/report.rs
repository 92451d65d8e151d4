//! What came out of the demo, as values.

use super::tree::Tree;
use serde::Serialize;
use std::io;
use std::path::Path;

/// All of it: what `--json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) mode: Mode,
    /// The type that was asked for.
    pub(crate) filesystem: &'static str,
    /// What this system lacks for release, each with what follows. Empty: nothing.
    pub(crate) missing: Vec<String>,
    /// Where the files are from, for people.
    pub(crate) sources: Vec<String>,
    /// What is to be known about the choice of files.
    pub(crate) note: Option<String>,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) steps: Vec<Step>,
    /// Around the release.
    pub(crate) df_before: Option<Df>,
    pub(crate) df_after: Option<Df>,
    /// Objects in the archive after the last step.
    pub(crate) objects_left: Option<u64>,
    /// Why it ended early.
    pub(crate) error: Option<String>,
}

/// Which steps there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// It ended before that was found out.
    Undecided,
    /// With an agent and a guard.
    Full,
    /// The archive alone.
    WithoutRelease,
}

/// A step that was done.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) step: &'static str,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
}

/// What df(1) shows of a filesystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Df {
    pub(crate) size_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) available_bytes: u64,
}

impl Report {
    pub(super) fn new(filesystem: &'static str) -> Self {
        Self {
            mode: Mode::Undecided,
            filesystem,
            missing: Vec::new(),
            sources: Vec::new(),
            note: None,
            files: 0,
            bytes: 0,
            steps: Vec::new(),
            df_before: None,
            df_after: None,
            objects_left: None,
            error: None,
        }
    }

    pub(super) fn tree(&mut self, tree: &Tree) {
        self.sources = tree.roots.iter().map(|root| root.to_string_lossy().into_owned()).collect();
        self.note = tree.note.clone();
        self.files = tree.count();
        self.bytes = tree.bytes();
    }
}

impl Df {
    /// Of the filesystem that is mounted at `path`.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self {
            size_bytes: bytes(stat.f_blocks),
            used_bytes: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
            available_bytes: bytes(stat.f_bavail),
        })
    }
}
