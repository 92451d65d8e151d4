//! What an engine is told of how to manage its filesystem.

use model::Backoff;
use std::path::PathBuf;
use std::time::Duration;

/// How a filesystem is managed.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where the agent reaches the filesystem: best its private mount.
    pub root: PathBuf,
    /// The archive of requests that name none.
    pub default_archive: u32,
    /// The archives that every archived file gets a copy in; empty: the default one alone. A release waits for all of them.
    pub copies: Vec<u32>,
    /// How long a blocked reader waits at most.
    pub restore_timeout: Option<Duration>,
    /// How temporary failures are tried again.
    pub backoff: Backoff,
    /// How long the archive copy of a file stays after its last link went.
    pub remove_grace: Duration,
    /// How long the archive copy of an older version stays after the file was archived again.
    pub keep_versions: Duration,
    /// Whether each archived version gets a released file in [`model::SNAPSHOT_DIRECTORY`].
    pub snapshots: bool,
    /// Whether large files are restored in parts; `None`: all files whole, when they are opened.
    pub ranges: Option<RangeConfig>,
}

/// How files are restored in parts.
#[derive(Debug, Clone)]
pub struct RangeConfig {
    /// Files of fewer bytes are restored whole.
    pub threshold: u64,
    /// Bytes that are fetched ahead of a reader who reads in order, at most.
    pub readahead: u64,
    /// Programs, by their name as `/proc/PID/comm` has it, for which files are restored whole when they are opened: those that look for
    /// holes and would take what is away for one.
    pub whole_for: Vec<String>,
}

impl RangeConfig {
    /// Whether the process is one of [`Self::whole_for`]; so is one that cannot be looked at.
    pub(super) fn is_for_whole(&self, pid: i32) -> bool {
        /// The kernel keeps so many bytes of a name.
        const KEPT: usize = 15;
        let Ok(comm) = std::fs::read_to_string(format!("/proc/{pid}/comm")) else { return true };
        let comm = comm.trim_end_matches('\n').as_bytes();
        self.whole_for.iter().any(|name| name.as_bytes().get(..KEPT).unwrap_or(name.as_bytes()) == comm)
    }
}
