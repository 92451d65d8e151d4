//! Programs under test as child processes: their output kept, their end certain.
//!
//! A [`Daemon`] and what it starts form a process group that ends with the value, and with the test: also when the
//! test is killed, or panics (and then the output is printed).

use std::fs;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use rustix::time::Timespec;
use sys::process::PidFd;

/// How much output is printed when a test fails.
const DUMP_LINES: usize = 300;

/// A running (or ended) program. Dropping it kills it and everything else in its process group.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    pidfd: PidFd,
    output: Arc<Output>,
    /// Kills the group when this process ends without having said that it did so itself.
    watchdog: Child,
}

#[derive(Debug, Default)]
struct Output {
    state: Mutex<Captured>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct Captured {
    bytes: Vec<u8>,
    ended: bool,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Captured> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn capture(&self, mut pipe: PipeReader) {
        let mut buffer = [0; 16 << 10];
        loop {
            let read = match pipe.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            let mut state = self.lock();
            state.bytes.extend(&buffer[..read]);
            state.ended = read == 0;
            self.grown.notify_all();
            if state.ended {
                return;
            }
        }
    }

    /// Waits until `found` makes something of the output, or the output has ended (`Err(true)`), or the time is up.
    fn wait<T>(&self, timeout: Duration, mut found: impl FnMut(&[u8]) -> Option<T>) -> Result<T, bool> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(found) = found(&state.bytes) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return Err(state.ended);
            }
            state = self.grown.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Daemon {
    /// Starts `command` with empty standard input, in a process group of its own; `name` is for messages.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn spawn(name: &str, mut command: Command) -> Self {
        let (reader, writer): (PipeReader, PipeWriter) = io::pipe().expect("make a pipe");
        command.stdin(Stdio::null());
        command.stdout(writer.try_clone().expect("duplicate a pipe")).stderr(writer);
        let child = command
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        // The command holds the pipe's other end: only without it is there ever an end of the output.
        drop(command);
        let pidfd = PidFd::open(child.id().cast_signed()).expect("open a child's pidfd");
        let watchdog = watchdog(child.id());
        let output = Arc::new(Output::default());
        let sink = Arc::clone(&output);
        thread::spawn(move || sink.capture(reader));
        Self { name: name.to_owned(), child, pidfd, output, watchdog }
    }

    /// Its process id, which is also the id of its group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it and its descendants have written so far, standard output and standard error in the order of writing.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().bytes).into_owned()
    }

    /// Waits for a line with `text` in it, from the beginning of the output, and returns the line.
    ///
    /// # Panics
    /// When the output ends without, or `timeout` has passed.
    #[track_caller]
    pub fn wait_for_line(&self, text: &str, timeout: Duration) -> String {
        let line = |bytes: &[u8]| {
            // What has no newline yet is not a line.
            let mut lines = bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
            lines.find_map(|line| {
                let line = String::from_utf8_lossy(line);
                line.contains(text).then(|| line.trim_end().to_owned())
            })
        };
        self.output.wait(timeout, line).unwrap_or_else(|ended| {
            let why = if ended { "its output ended".to_owned() } else { format!("{timeout:?} passed") };
            panic!("{}: no line with {text:?} before {why}; output:\n{}", self.name, self.tail())
        })
    }

    /// Sends a signal to the process alone, not to its group. Nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        let _ = self.pidfd.kill(signal.as_raw());
    }

    /// Kills the process alone (SIGKILL), and waits for its end. What it started lives on until it is dropped.
    pub fn kill(&self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(60))
    }

    /// Kills everything in the process group (SIGKILL), and waits for the end of the process.
    pub fn kill_group(&self) -> ExitStatus {
        // The child is not reaped before we are dropped, so its number cannot be anybody else's.
        let _ = rustix::process::kill_process_group(self.group(), Signal::KILL);
        self.wait(Duration::from_secs(60))
    }

    /// Asks the process to end (SIGTERM), and waits for it.
    ///
    /// # Panics
    /// When it does not within `timeout`.
    #[track_caller]
    pub fn terminate(&self, timeout: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(timeout)
    }

    /// How it ended, or `None` while it runs.
    pub fn status(&self) -> Option<ExitStatus> {
        // NOWAIT: see `kill_group`.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = rustix::process::waitid(WaitId::Pid(self.group()), options).expect("wait for a child")?;
        let raw = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => (code & 0xff) << 8,
            (_, Some(signal)) => signal,
            _ => return None,
        };
        Some(ExitStatus::from_raw(raw))
    }

    /// Waits for the end of the process and says how it ended.
    ///
    /// # Panics
    /// When `timeout` has passed before.
    #[track_caller]
    pub fn wait(&self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} has not ended within {timeout:?}; output:\n{}", self.name, self.tail());
            has_ended(&self.pidfd, left);
        }
    }

    /// The processes of its group (itself too, while it runs) whose command line contains `text`; oldest number first.
    ///
    /// For tests that kill one of several: the group stays the same when a parent dies.
    pub fn processes(&self, text: &str) -> Vec<Process> {
        let mut found: Vec<Process> = fs::read_dir("/proc")
            .expect("list /proc")
            .flatten()
            .filter_map(|entry| Process::of_group(entry.file_name().to_str()?.parse().ok()?, self.pid()))
            .filter(|process| process.command_line.contains(text))
            .collect();
        found.sort_by_key(|process| process.pid);
        found
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let skipped = lines.len().saturating_sub(DUMP_LINES);
        let head = if skipped > 0 { format!("({skipped} lines before)\n") } else { String::new() };
        head + &lines[skipped..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(self.group(), Signal::KILL);
        let _ = self.child.wait();
        if let Some(mut pipe) = self.watchdog.stdin.take() {
            let _ = io::Write::write_all(&mut pipe, b"done\n");
        }
        let _ = self.watchdog.wait();
        if thread::panicking() {
            // The last words may still be in the pipe.
            let _ = self.output.wait(Duration::from_secs(1), |_| None::<()>);
            eprintln!("---- output of {} ----\n{}\n---- end of {} ----", self.name, self.tail(), self.name);
        }
    }
}

/// Waits for the end of a process; says whether it came within `timeout`.
pub(crate) fn has_ended(pidfd: &PidFd, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let timeout = Timespec::try_from(timeout).expect("a time that fits");
    rustix::event::poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready == 1)
}

/// A process beside ours that waits for a line from us, and kills the group when there is none: when we were killed.
fn watchdog(group: u32) -> Child {
    let script = format!("read -r line || kill -s KILL -- -{group}");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own: whoever kills ours must not kill it too.
    command.process_group(0).spawn().expect("start sh")
}

/// A process that belongs to a [`Daemon`]'s group.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its program and arguments, with spaces between.
    pub command_line: String,
    pidfd: PidFd,
}

impl Process {
    fn of_group(pid: u32, group: u32) -> Option<Self> {
        // Opened first: what is read below is then about this process, or about none.
        let pidfd = PidFd::open(pid.cast_signed()).ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name, which may hold anything, in brackets: state, parent, group.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let (state, its_group) = (fields.next()?, fields.nth(1)?);
        if state == "Z" || its_group.parse() != Ok(group) {
            return None;
        }
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command_line = String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " ");
        if has_ended(&pidfd, Duration::ZERO) {
            return None;
        }
        Some(Self { pid, command_line, pidfd })
    }

    /// Sends it a signal; nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        let _ = self.pidfd.kill(signal.as_raw());
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Panics
    /// When it is not gone after a minute.
    #[track_caller]
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        let ended = has_ended(&self.pidfd, Duration::from_secs(60));
        assert!(ended, "process {} ({}) survived SIGKILL for a minute", self.pid, self.command_line);
    }
}
