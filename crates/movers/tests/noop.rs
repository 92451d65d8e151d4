//! The noop mover against an agent's side on a real socket.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in its helpers too")]

use plugin::{AgentAddress, Environment, PluginError};
use proto::pdm::{ActionItem, Command, ErrorKind};
use sifaka_movers::noop;
use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use testkit::pdm_agent::PdmAgent;

struct Running {
    agent: PdmAgent,
    handle: u64,
    mover: JoinHandle<Result<(), noop::NoopError>>,
    _dir: tempfile::TempDir,
}

fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

fn start(config: &str) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let address = dir.path().join("agent.sock").to_str().unwrap().to_owned();
    let mut agent = PdmAgent::start(&address);
    let environment = Environment {
        agent: AgentAddress::parse(address.as_ref()).unwrap(),
        client_mountpoint: dir.path().into(),
        config_dir: dir.path().into(),
    };
    let path = environment.config_path("/usr/bin/lhsm-plugin-noop");
    if !config.is_empty() {
        write_private(&path, config);
    }
    let mover = std::thread::spawn(move || noop::run(environment, &path));
    let (_, handle) = agent.registration();
    Running { agent, handle, mover, _dir: dir }
}

impl Running {
    fn send(&self, id: u64, op: Command) {
        self.agent.send(self.handle, ActionItem { id, op: op.into(), length: -1, ..ActionItem::default() });
    }
}

#[test]
fn a_hundred_thousand_actions_get_exactly_one_result_each() {
    const ACTIONS: u64 = 100_000;
    let mut running = start("");
    for id in 0..ACTIONS {
        running.send(id, [Command::Archive, Command::Restore, Command::Remove][id as usize % 3]);
    }
    let mut ended = HashSet::new();
    for _ in 0..ACTIONS {
        let status = running.agent.status();
        assert!(status.completed && status.error == 0, "{status:?}");
        assert!(ended.insert(status.id), "two results for {}", status.id);
        assert_eq!(status.uuid.is_empty(), !status.id.is_multiple_of(3), "{status:?}");
    }
    drop(running.agent);
    let end = running.mover.join().unwrap();
    assert!(matches!(end, Err(noop::NoopError::Plugin(PluginError::AgentGone(_)))), "{end:?}");
}

#[test]
fn the_proposed_uuid_is_used_and_verify_refused() {
    let mut running = start("");
    let item = ActionItem { id: 1, op: Command::Archive.into(), uuid: "mine".into(), ..ActionItem::default() };
    running.agent.send(running.handle, item);
    assert_eq!(running.agent.status().uuid, "mine");
    running.send(2, Command::Verify);
    let status = running.agent.status();
    assert_eq!((status.error, status.error_kind), (95, ErrorKind::Permanent.into()));
}

#[test]
fn a_part_of_the_actions_fails_when_told_to() {
    let mut running = start("fail_percent = 25\n");
    (0..400).for_each(|id| running.send(id, Command::Restore));
    let failed = (0..400).map(|_| running.agent.status()).filter(|status| status.error != 0).collect::<Vec<_>>();
    assert_eq!(failed.len(), 100);
    assert!(failed.iter().all(|status| status.error_kind() == ErrorKind::Temporary), "{:?}", failed.first());
}

#[test]
fn a_delayed_action_can_be_cancelled() {
    let mut running = start("delay_ms = 300\n");
    let begun = Instant::now();
    running.send(1, Command::Restore);
    let status = running.agent.status();
    assert_eq!((status.id, status.error), (1, 0));
    assert!(begun.elapsed() >= Duration::from_millis(300));

    let mut running = start("delay_ms = 3600000\n");
    (1..=2).for_each(|id| running.send(id, Command::Restore));
    let cancel = ActionItem { op: Command::Cancel.into(), cancel_target: 2, ..ActionItem::default() };
    running.agent.send(running.handle, cancel);
    let status = running.agent.status();
    assert_eq!((status.id, status.error), (2, 125));
}

#[test]
fn a_configuration_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("noop");
    write_private(&path, "");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let environment = Environment {
        agent: AgentAddress::Abstract("nobody-listens".into()),
        client_mountpoint: dir.path().into(),
        config_dir: dir.path().into(),
    };
    let error = noop::run(environment, &path).unwrap_err().to_string();
    assert!(error.contains("0644") && error.contains("chmod 600"), "{error}");
}
