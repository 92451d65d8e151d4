//! What a process used, as `/proc` tells.

use std::fs;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::Duration;

const POLL: Duration = Duration::from_millis(10);

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

/// Waits for a program's end; also gives the most megabytes (10^6) of memory that it had, as far as it was looked at.
pub(crate) fn wait_and_watch(child: &mut Child) -> (ExitStatus, f64) {
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0.0_f64;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        if let Some(kib) = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")) {
            most = most.max(kib.trim().parse::<f64>().expect("a number") * 1024.0 / 1e6);
        }
        if let Some(ended) = child.try_wait().expect("wait for a program") {
            return (ended, most);
        }
        std::thread::sleep(POLL);
    }
}

/// Processor seconds, so far, of everything that runs this program, and of the programs that this one has waited for.
pub(crate) fn cpu_seconds(program: &Path) -> f64 {
    let program = fs::canonicalize(program).expect("a program that there is");
    let mut ticks = times("self")[2..].iter().sum::<f64>();
    for entry in fs::read_dir("/proc").expect("read /proc").flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        if fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == program) {
            ticks += times(pid).iter().sum::<f64>();
        }
    }
    ticks / rustix::param::clock_ticks_per_second() as f64
}

/// Of a process: user and system time, and those of the children that it has waited for, in ticks. Zeros for one that is gone.
fn times(pid: &str) -> [f64; 4] {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything.
    let mut fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11);
    std::array::from_fn(|_| fields.next().and_then(|field| field.parse().ok()).unwrap_or(0.0))
}
