//! What a process used, as `/proc` tells.

use std::fs;

/// Megabytes (10^6) of memory: now, and at most so far.
pub(crate) fn resident_mb(pid: u32) -> (f64, f64) {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let field = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a field of /proc/PID/status");
        let kib: f64 = line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number");
        kib * 1024.0 / 1e6
    };
    (field("VmRSS:"), field("VmHWM:"))
}
