//! A mover as a process of its own: how it ends when it is asked to, and when its agent dies.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in its helpers too")]

use proto::pdm::{self, ActionItem, ActionStatus};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::Daemon;
use testkit::pdm_agent::{Event, PdmAgent};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a mover waits for running actions, and an action takes, that is not meant to end in time, in milliseconds.
const FOR_EVER: u32 = 3_600_000;
const EINTR: i32 = 4;

/// `examples/sleeper.rs`, built along with the tests.
fn sleeper() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join("examples/sleeper");
    assert!(built.exists(), "{} does not exist: cargo build -p sifaka-plugin --examples", built.display());
    built
}

struct Running {
    agent: PdmAgent,
    handle: u64,
    mover: Daemon,
    dir: tempfile::TempDir,
}

impl Running {
    fn start(threads: u32, drain_ms: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("agent.sock").to_str().unwrap().to_owned();
        let mut agent = PdmAgent::start(&address);
        let mut command = Command::new(sleeper());
        command
            .args([threads.to_string(), drain_ms.to_string()])
            .env("LHSMD_AGENT_CONNECTION", &address)
            .env("LHSMD_CLIENT_MOUNTPOINT", dir.path())
            .env("LHSMD_CONFIG_DIR", dir.path());
        let mover = Daemon::spawn("sleeper", command);
        let (_, handle) = agent.registration();
        Self { agent, handle, mover, dir }
    }

    fn send(&self, id: u64, data: &str) {
        let op = pdm::Command::Restore.into();
        let item = ActionItem { id, op, length: -1, data: data.into(), ..ActionItem::default() };
        self.agent.send(self.handle, item);
    }

    /// Sends something that is answered on the receive path: all before it were accepted.
    fn wait_until_accepted(&mut self) {
        self.agent.send(self.handle, ActionItem { id: 999, op: 99, ..ActionItem::default() });
        assert_eq!(self.agent.status().id, 999);
    }

    fn wait_until_begun(&self, id: u64) {
        self.mover.wait_for_line(&format!("begun {id}"), PATIENCE);
    }

    /// Waits until both streams have ended, the reports first, so that no agent misses one. The reports not asked for.
    fn last_statuses(&mut self) -> Vec<ActionStatus> {
        let (mut statuses, mut ends) = (Vec::new(), Vec::new());
        while ends.len() < 2 {
            ends.extend(self.agent.wait_for("the end of a stream", |event| match event {
                Event::Status(status) => {
                    statuses.push((**status).clone());
                    Some(None)
                }
                Event::StatusesEnded(end) => Some(Some(format!("reports, {}", end.is_ok()))),
                Event::ActionsClosed(handle) => Some(Some(format!("actions of {handle}"))),
                _ => None,
            }));
        }
        assert_eq!(ends, ["reports, true".to_owned(), format!("actions of {}", self.handle)]);
        statuses
    }
}

#[test]
fn sigterm_drains_what_runs_and_leaves_the_rest_to_the_agent() {
    let mut running = Running::start(1, FOR_EVER);
    let over = running.dir.path().join("over");
    running.send(1, &format!("until {}", over.display()));
    running.send(2, "sleep 1");
    running.send(3, "sleep 1");
    running.wait_until_accepted();
    running.wait_until_begun(1);
    running.mover.signal(Signal::TERM);
    running.mover.wait_for_line("draining", PATIENCE);
    std::fs::write(over, "").unwrap();
    let ended: Vec<_> = running.last_statuses().iter().map(|s| (s.id, s.completed, s.error)).collect();
    assert_eq!(ended, [(1, true, 0)]);
    assert_eq!(running.mover.wait(PATIENCE).code(), Some(0));
}

#[test]
fn what_runs_too_long_after_sigint_is_stopped_as_temporary_or_left_behind() {
    let mut running = Running::start(2, 100);
    running.send(1, &format!("sleep {FOR_EVER}"));
    running.send(2, "hang");
    [1, 2].into_iter().for_each(|id| running.wait_until_begun(id));
    running.mover.signal(Signal::INT);
    let ended: Vec<_> = running.last_statuses().iter().map(|s| (s.id, s.completed, s.error, s.error_kind)).collect();
    assert_eq!(ended, [(1, true, EINTR, pdm::ErrorKind::Temporary.into())]);
    assert_eq!(running.mover.wait(PATIENCE).code(), Some(0));
}

#[test]
fn an_idle_mover_ends_at_once() {
    let mut running = Running::start(2, FOR_EVER);
    running.wait_until_accepted();
    running.mover.signal(Signal::TERM);
    assert_eq!(running.mover.wait(PATIENCE).code(), Some(0));
}

#[test]
fn without_its_agent_a_mover_dies_in_the_middle_of_its_work() {
    let running = Running::start(2, FOR_EVER);
    running.send(1, &format!("sleep {FOR_EVER}"));
    running.send(2, "hang");
    [1, 2].into_iter().for_each(|id| running.wait_until_begun(id));
    drop(running.agent);
    assert_eq!(running.mover.wait(PATIENCE).code(), Some(1));
    running.mover.wait_for_line("agent gone", PATIENCE);
}

#[test]
fn started_by_hand_it_says_what_is_missing() {
    let mut command = Command::new(sleeper());
    command.env_clear();
    let mover = Daemon::spawn("sleeper", command);
    assert_eq!(mover.wait(PATIENCE).code(), Some(2));
    let line = mover.wait_for_line("LHSMD_AGENT_CONNECTION is not set", PATIENCE);
    assert!(line.contains("started by the agent"), "{line}");
}
