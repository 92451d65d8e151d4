//! Ending what is left of an agent, and starting the next one.
//!
//! An agent that died may leave movers that go on writing into files for a while. Nobody may believe a restored file
//! before they are gone, so the guard kills every process it trusted, by pidfd, and waits for their end.

use std::collections::HashMap;
use std::ffi::OsString;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use sys::process::PidFd;

const SIGKILL: i32 = 9;
/// Delays before the agent is started again, by how often it was in short succession.
const DELAYS_S: [u64; 5] = [0, 1, 10, 30, 60];
/// An agent that lived this long starts the delays from the beginning.
const QUIET: Duration = Duration::from_secs(120);

/// The processes whose accesses are let through.
#[derive(Default)]
pub(super) struct Trusted {
    processes: HashMap<i32, PidFd>,
    dying: Vec<PidFd>,
}

impl Trusted {
    pub(super) fn contains(&self, pid: i32) -> bool {
        self.processes.contains_key(&pid)
    }

    /// A process that is gone already cannot access anything, so there is nothing to trust.
    pub(super) fn add(&mut self, pid: i32) {
        if let Ok(fd) = PidFd::open(pid) {
            self.processes.insert(pid, fd);
        }
    }

    pub(super) fn remove(&mut self, pid: i32) {
        self.processes.remove(&pid);
    }

    /// Kills all of them; none is trusted any more.
    pub(super) fn kill(&mut self) {
        for (_, fd) in self.processes.drain() {
            // It may have ended by itself.
            let _ = fd.kill(SIGKILL);
            self.dying.push(fd);
        }
    }

    /// Those that were killed and have not ended yet; to poll for.
    pub(super) fn dying(&self) -> &[PidFd] {
        &self.dying
    }

    pub(super) fn reap(&mut self, ended: impl Fn(&PidFd) -> bool) {
        self.dying.retain(|fd| !ended(fd));
    }
}

/// Starts agents, with growing pauses while they do not live long.
pub(super) struct AgentStarter {
    command_line: Vec<OsString>,
    child: Option<Child>,
    restarts: u64,
    step: usize,
    last_start: Option<Instant>,
    due: Option<Instant>,
}

impl AgentStarter {
    pub(super) fn new() -> Self {
        Self { command_line: Vec::new(), child: None, restarts: 0, step: 0, last_start: None, due: None }
    }

    /// How to start the agent, as the present one said.
    pub(super) fn learn(&mut self, command_line: Vec<OsString>) {
        self.command_line = command_line;
        self.due = None;
    }

    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }

    /// The agent died: plans the next start.
    pub(super) fn plan(&mut self, now: Instant) {
        if self.last_start.is_none_or(|t| now.duration_since(t) > QUIET) {
            self.step = 0;
        }
        let delay = DELAYS_S.get(self.step).or(DELAYS_S.last()).copied().unwrap_or(60);
        self.step = (self.step + 1).min(DELAYS_S.len() - 1);
        self.due = (!self.command_line.is_empty()).then(|| now + Duration::from_secs(delay));
    }

    pub(super) fn do_not_start(&mut self) {
        self.due = None;
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Starts the agent if its time has come. Says what to log.
    pub(super) fn start_if_due(&mut self, now: Instant) -> Option<String> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        self.last_start = Some(now);
        let (program, arguments) = self.command_line.split_first()?;
        let program = program.clone();
        let mut command = Command::new(&program);
        command.args(arguments);
        sys::signals::unblock_in_child(&mut command);
        match command.spawn() {
            Ok(child) => {
                self.restarts += 1;
                let text = format!("started the agent again, pid {}", child.id());
                self.child = Some(child);
                Some(text)
            }
            Err(error) => {
                self.plan(now);
                Some(format!("cannot start the agent again ({}): {error}", program.display()))
            }
        }
    }

    /// Collects an ended child. If it never got as far as connecting, the next start is planned.
    pub(super) fn reap(&mut self, now: Instant, connected: bool) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok().flatten()?;
        self.child = None;
        if !connected && self.due.is_none() {
            self.plan(now);
        }
        Some(format!("the agent ended: {status}"))
    }
}
