//! Ending what a test leaves running: processes that were started for a directory of the test's, and outlived it.
//!
//! A guard outlives its agent on purpose and starts another one, in a process group of its own; no [`crate::Daemon`]
//! reaches it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sys::process::PidFd;

use crate::process::has_ended;

/// How long processes may take to go once they are killed; one that waits in the kernel for a disk does not go sooner.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// Kills all processes whose command line or environment names `dir`, except our own.
///
/// They start one another when one dies, so all are stopped before the first is killed.
pub(crate) fn end_processes_of(dir: &Path) {
    let mut stopped = BTreeMap::new();
    loop {
        let before = stopped.len();
        for pid in processes().filter(|&pid| pid != std::process::id().cast_signed()) {
            // Opened first: what is read then is about this process, or about none.
            if !stopped.contains_key(&pid)
                && let Ok(process) = PidFd::open(pid)
                && names(pid, dir)
                && process.kill(Signal::STOP.as_raw()).is_ok()
            {
                stopped.insert(pid, process);
            }
        }
        if stopped.len() == before {
            break;
        }
    }
    for process in stopped.values() {
        // It may have ended by itself.
        let _ = process.kill(Signal::KILL.as_raw());
    }
    let deadline = Instant::now() + END_TIMEOUT;
    for (pid, process) in &stopped {
        if !has_ended(process, deadline.saturating_duration_since(Instant::now())) {
            eprintln!("process {pid}, started for {}, survived SIGKILL for {END_TIMEOUT:?}", dir.display());
        }
    }
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether `dir` is a part of one of its arguments or variables; not of one that has ended.
fn names(pid: i32, dir: &Path) -> bool {
    ["cmdline", "environ"].iter().any(|file| {
        let words = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        words.windows(dir.as_os_str().len()).any(|part| part == dir.as_os_str().as_bytes())
    })
}
