//! The demo's descendants: all of them, however they came to be.
//!
//! The guard outlives its agent, and starts a new one when it dies. So the demo adopts orphans: whatever loses its parent
//! becomes its child, and can be found and ended.

use rustix::process::{Pid, Signal, WaitOptions};
use std::fs;
use std::io;
use std::time::{Duration, Instant};
use sys::process::PidFd;

/// SIGKILL takes effect within moments; what does not end then hangs in the kernel.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// There is no event for "the last descendant ended".
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// From now on descendants whose parent dies become our children (`PR_SET_CHILD_SUBREAPER`).
pub(super) fn adopt_orphans() -> io::Result<()> {
    let here = Pid::from_raw(1);
    Ok(rustix::process::set_child_subreaper(here)?)
}

/// Waits until there are no descendants any more, and says whether that came true. To be called when nobody waits for a child.
pub(super) fn wait_for_end(patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        reap();
        if descendants().is_empty() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Kills every descendant, and those that they leave behind, and says whether all are gone. As for [`wait_for_end`].
pub(super) fn end_all() -> bool {
    let deadline = Instant::now() + KILL_PATIENCE;
    while Instant::now() < deadline {
        kill_descendants();
        if wait_for_end(LOOK_INTERVAL) {
            return true;
        }
    }
    false
}

/// Sends SIGKILL to every descendant there is.
pub(super) fn kill_descendants() {
    for (pid, parent) in descendants() {
        // Once it is open the number cannot come to mean another process; that it did not before is seen by its parent.
        if let Ok(process) = PidFd::open(pid)
            && parent_of(pid) == Some(parent)
        {
            // ESRCH: it has ended.
            let _ = process.kill(Signal::KILL.as_raw());
        }
    }
}

/// Our children that have ended.
fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}

/// Numbers of all descendants and of their parents.
fn descendants() -> Vec<(i32, i32)> {
    let all: Vec<(i32, i32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent_of(pid)?)))
        .collect();
    below(std::process::id().cast_signed(), &all)
}

/// From pairs of process and parent, those that descend from `root`.
fn below(root: i32, all: &[(i32, i32)]) -> Vec<(i32, i32)> {
    let mut found: Vec<(i32, i32)> = Vec::new();
    let mut wanted = vec![root];
    while let Some(parent) = wanted.pop() {
        let children = all.iter().filter(|(pid, its)| *its == parent && !found.iter().any(|(known, _)| known == pid));
        let children: Vec<_> = children.copied().collect();
        wanted.extend(children.iter().map(|(pid, _)| *pid));
        found.extend(children);
    }
    found
}

fn parent_of(pid: i32) -> Option<i32> {
    parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `PID (NAME) STATE PARENT …`, where the name may hold anything (`proc_pid_stat(5)`).
fn parent_in(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_whatever_the_name() {
        assert_eq!(parent_in("17 (a) R 3) S 5 17 17 0"), Some(5));
        assert_eq!(parent_in("17 (a"), None);
        assert_eq!(parent_in(""), None);
    }

    #[test]
    fn descendants_are_found_at_any_depth() {
        let all = [(2, 1), (3, 2), (4, 3), (5, 1), (6, 5), (7, 7)];
        let mut found: Vec<i32> = below(2, &all).into_iter().map(|(pid, _)| pid).collect();
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
        assert!(below(7, &all).len() <= 1);
    }
}
