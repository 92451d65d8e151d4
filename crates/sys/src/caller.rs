//! What the process is about whose permission event waits: an event says the process, not the thread, and not the system call.
//!
//! Reads `/proc/<pid>/task/*/syscall` (needs the right to trace). The thread that raised the event sleeps until it is answered,
//! so its call can be read; but it may not have got to sleep yet, and other threads may run and cannot be read at all. Those are told apart by
//! the time they take: whoever raised an event sleeps after some microseconds on a processor, however long it had to wait for one.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// A thread that ran for so long since it was looked at first, and still does not sleep, waits for no answer.
const NOT_ON_ITS_WAY_TO_SLEEP_NS: u64 = 1_000_000;

/// What the threads of a process that sleep may be waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    /// One is in truncate(2). Not ftruncate: who can call that has the file open for writing.
    pub truncate: bool,
    /// The flags of the open(2) that one is in; `None` when none is, when two differ, and when one may open a file in a way that
    /// cannot be read: `openat2` (its flags are in the process's memory), `execve`, io_uring.
    pub open_flags: Option<i32>,
    /// One is in mmap(2) of a file.
    pub maps: bool,
    /// One is in an open(2) with `O_TRUNC`, or in one that cannot be read.
    pub may_truncate: bool,
}

/// A process that waits for the answer to an event.
#[derive(Debug)]
pub struct Caller {
    pid: i32,
    /// Threads that ran when they were looked at first, with the time they had taken by then (nanoseconds).
    running: HashMap<String, u64>,
}

impl Caller {
    /// The process, as an event names it.
    #[must_use]
    pub fn new(pid: i32) -> Self {
        Self { pid, running: HashMap::new() }
    }

    /// Whether there is such a process (or one that has its number by now).
    #[must_use]
    pub fn exists(&self) -> bool {
        Path::new(&format!("/proc/{}", self.pid)).exists()
    }

    /// What it may be about; `None` when that cannot be said yet, or (look again and again for a while) ever. At most so many threads are looked at:
    /// of a process with more nothing is said.
    pub fn look(&mut self, most_threads: usize) -> Option<Calls> {
        let mut calls = Calls::default();
        let mut unknown_open = false;
        let mut flags: Option<i32> = None;
        let mut unclear = false;
        for (seen, task) in fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?.enumerate() {
            if seen == most_threads {
                return None;
            }
            let task = task.ok()?;
            let line = match fs::read_to_string(task.path().join("syscall")) {
                Ok(line) => line,
                // A thread that ended meanwhile waits for nothing.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => continue,
                Err(_) => return None,
            };
            match parse(&line) {
                Call::None => unclear |= !self.computes(&task.path()),
                Call::Truncate => calls.truncate = true,
                Call::Map => calls.maps = true,
                Call::Other => {}
                Call::Open(None) => (unknown_open, calls.may_truncate) = (true, true),
                Call::Open(Some(found)) => {
                    calls.may_truncate |= found & libc::O_TRUNC != 0;
                    unknown_open |= flags.is_some_and(|flags| flags != found);
                    flags = Some(found);
                }
            }
        }
        calls.open_flags = flags.filter(|_| !unknown_open);
        (!unclear).then_some(calls)
    }

    /// Whether a thread that runs has done so for too long to be the one that raised the event.
    fn computes(&mut self, task: &Path) -> bool {
        let Some(taken) = fs::read_to_string(task.join("schedstat"))
            .ok()
            .and_then(|text| text.split_ascii_whitespace().next()?.parse::<u64>().ok())
        else {
            return false;
        };
        let tid = task.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let first = *self.running.entry(tid).or_insert(taken);
        taken.saturating_sub(first) > NOT_ON_ITS_WAY_TO_SLEEP_NS
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Call {
    /// It runs, or the line makes no sense.
    None,
    Truncate,
    /// Of a file.
    Map,
    /// With these flags, if they can be read.
    Open(Option<i32>),
    Other,
}

/// The number in decimal, six arguments, stack pointer and program counter in hexadecimal; or `running`; or a number of -1
/// outside any call (proc_pid_syscall(5)).
fn parse(line: &str) -> Call {
    let mut words = line.split_ascii_whitespace();
    let Some(number) = words.next().and_then(|word| word.parse::<libc::c_long>().ok()) else { return Call::None };
    let mut argument = |index: usize| {
        let word = words.nth(index)?;
        u64::from_str_radix(word.strip_prefix("0x")?, 16).ok().map(|word| word as i32)
    };
    #[cfg(target_arch = "x86_64")]
    match number {
        libc::SYS_open => return Call::Open(argument(1)),
        libc::SYS_creat => return Call::Open(Some(libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC)),
        // The oldest call of 32-bit programs, whose arguments are in the process's memory.
        90 => return Call::Map,
        _ => {}
    }
    match number {
        libc::SYS_openat => Call::Open(argument(2)),
        // Also by the numbers that 32-bit programs have for it (x86 and arm): 92, and 193 for its 64-bit form.
        libc::SYS_truncate | 92 | 193 => Call::Truncate,
        // 192: mmap2 of 32-bit programs, with the same flags in the same place.
        libc::SYS_mmap | 192 => match argument(3) {
            Some(flags) if flags & libc::MAP_ANONYMOUS != 0 => Call::Other,
            _ => Call::Map,
        },
        libc::SYS_openat2
        | libc::SYS_open_by_handle_at
        | libc::SYS_execve
        | libc::SYS_execveat
        | libc::SYS_io_uring_enter => Call::Open(None),
        // A thread of the kernel's that works for the process, as io_uring has them.
        ..0 => Call::Open(None),
        _ => Call::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[test]
    fn lines_are_understood() {
        let line = |number: libc::c_long| parse(&format!("{number} 0xffffff9c 0x7ffd 0x80241 0x1b6 0x0 0x0 0x7f 0x7f"));
        assert_eq!(line(libc::SYS_openat), Call::Open(Some(0x80241)));
        assert_eq!(line(libc::SYS_openat2), Call::Open(None));
        assert_eq!(line(libc::SYS_truncate), Call::Truncate);
        assert_eq!(line(libc::SYS_pread64), Call::Other);
        assert_eq!(line(libc::SYS_ftruncate), Call::Other);
        let map = |flags: &str| parse(&format!("{} 0x0 0x10000 0x1 {flags} 0x3 0x0 0x7f 0x7f", libc::SYS_mmap));
        assert_eq!([map("0x1"), map("0x2"), map("zz"), map("0x22")], [Call::Map, Call::Map, Call::Map, Call::Other]);
        assert_eq!(parse("running"), Call::None);
        assert_eq!(parse(""), Call::None);
        assert_eq!(parse("-1 0x7ffd 0x7f"), Call::Open(None));
        assert_eq!(parse(&format!("{} 0x1 0x2", libc::SYS_openat)), Call::Open(None));
        assert_eq!(parse(&format!("{} 0xffffff9c 0x7ffd zz", libc::SYS_openat)), Call::Open(None));
        #[cfg(target_arch = "x86_64")]
        {
            assert_eq!(parse("2 0x7ffd 0x241 0x1b6 0x0 0x0 0x0 0x7f 0x7f"), Call::Open(Some(0x241)));
            let creat = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            assert_eq!(parse("85 0x7ffd 0x1b6 0x0 0x0 0x0 0x0 0x7f 0x7f"), Call::Open(Some(creat)));
        }
    }

    fn look_until_clear(pid: i32) -> Calls {
        let mut caller = Caller::new(pid);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(calls) = caller.look(64) {
                return calls;
            }
            assert!(Instant::now() < deadline, "never clear");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn one_that_sleeps_and_one_that_computes_wait_for_no_answer() {
        for script in ["exec sleep 600", "while :; do :; done"] {
            let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let calls = look_until_clear(child.id().cast_signed());
            assert!(!calls.truncate, "{script}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn of_one_that_is_gone_nothing_is_said() {
        assert_eq!(Caller::new(-1).look(64), None);
    }

    #[test]
    fn of_one_with_too_many_threads_nothing_is_said() {
        assert_eq!(Caller::new(std::process::id().cast_signed()).look(0), None);
    }
}
