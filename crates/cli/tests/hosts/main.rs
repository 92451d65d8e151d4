//! Movers on many hosts: real NATS servers, real `sifaka mover-host` processes, and an agent in the test whose actions are the test's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the lints do not see that functions beside tests belong to them"
)]

mod kit;

use agent::admin::hosts::HostsReport;
use kit::{Fixture, LONG, MoverFile};
use model::{Command, Identity, Outcome};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use testkit::wait_until;

/// Each has one result, and it was done.
fn all_done(results: &[(u64, Outcome)], count: u64) {
    let mut keys: Vec<u64> = results.iter().map(|(key, _)| *key).collect();
    keys.sort_unstable();
    assert!(keys.iter().copied().eq(0..count), "{} results, of {} actions", keys.len(), count);
    let failed: Vec<_> = results.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).collect();
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_every_action_has_one_result_when_hosts_die_and_hang() {
    const COUNT: u64 = 4000;
    let fixture = Fixture::start(1, MoverFile::Noop { delay_ms: 100 }).await;
    let mut hosts: Vec<_> = (0..3).map(|n| fixture.host(&format!("h{n}"))).collect();
    fixture.wait_for_hosts(3).await;
    fixture.source.generate(1, COUNT);

    fixture.wait_finished(COUNT / 8).await;
    hosts[0].kill_group();
    fixture.wait_finished(COUNT / 4).await;
    assert!(fixture.source.finished() < COUNT / 2, "too fast: nothing is in flight any more");
    // Its watchdog kills it when its lease is over, and its movers end with it: nobody continues it.
    let movers = kit::children(hosts[1].pid(), "noop");
    assert_eq!(movers.len(), 1);
    hosts[1].signal(Signal::STOP);
    hosts.push(fixture.host("h3"));
    let frozen = &hosts[1];
    wait_until(LONG, "the frozen host is killed", || frozen.status().is_some());
    wait_until(LONG, "its mover is gone", || !kit::runs(movers[0], "noop"));

    all_done(&fixture.results(COUNT).await, COUNT);
    fixture.wait_empty().await;
    for host in [hosts.remove(2), hosts.pop().unwrap()] {
        assert_eq!(host.terminate(LONG).code(), Some(0), "{}", host.log());
    }
    fixture.wait_for_hosts(0).await;
    fixture.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_every_action_has_one_result_when_servers_die() {
    const COUNT: u64 = 3000;
    let fixture = Fixture::start(3, MoverFile::Noop { delay_ms: 200 }).await;
    let hosts: Vec<_> = (0..2).map(|n| fixture.host(&format!("h{n}"))).collect();
    fixture.wait_for_hosts(2).await;
    fixture.source.generate(1, COUNT);
    fixture.wait_finished(COUNT / 8).await;
    let stream = fixture.stream();
    let leader = fixture.nats.leader(&stream).expect("a leader");
    fixture.nats.servers()[leader].server().kill();
    fixture.wait_finished(COUNT / 3).await;
    assert!(fixture.source.finished() < COUNT, "too fast: nothing is in flight any more");
    fixture.nats.servers()[leader].server().restart();
    all_done(&fixture.results(COUNT).await, COUNT);
    fixture.wait_empty().await;
    drop(hosts);
    fixture.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_an_agent_that_comes_back_goes_on_with_the_same_hosts() {
    const COUNT: u64 = 500;
    let mut fixture = Fixture::start(1, MoverFile::Noop { delay_ms: 100 }).await;
    let _hosts: Vec<_> = (0..2).map(|n| fixture.host(&format!("h{n}"))).collect();
    fixture.wait_for_hosts(2).await;
    let first = fixture.report().await.epoch;
    fixture.source.generate(1, COUNT);
    fixture.wait_finished(COUNT / 8).await;
    // What is on its way is given back as temporary failures, and comes again by the source's own rules.
    fixture.restart_agent().await;
    fixture.wait_for_hosts(2).await;
    assert!(fixture.report().await.epoch > first);
    fixture.source.generate(1, COUNT);
    all_done(&fixture.results(COUNT).await, COUNT);
    fixture.wait_empty().await;
    fixture.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_what_runs_is_cancelled_and_hosts_are_drained() {
    let fixture = Fixture::start(1, MoverFile::Noop { delay_ms: 3_000_000 }).await;
    let host = fixture.host("only");
    fixture.wait_for_hosts(1).await;
    // More than the host's movers are given at once (40): some run, some are in the stream or wait in the agent.
    fixture.source.generate(1, 100);
    fixture.wait_report("the host has what it takes", |report| report.hosts[0].actions >= 40).await;
    (0..100).for_each(|key| fixture.source.cancel(key));
    let results = fixture.results(100).await;
    let cancelled = |outcome: &Outcome| matches!(outcome, Outcome::Failed(failure) if failure.is_cancelled());
    assert!(results.iter().all(|(_, outcome)| cancelled(outcome)), "{results:?}");
    fixture.wait_empty().await;

    assert_eq!(fixture.drain("nobody").await, Some(0));
    assert_eq!(fixture.drain("only").await, Some(1));
    assert_eq!(host.wait(LONG).code(), Some(0), "{}", host.log());
    fixture.wait_for_hosts(0).await;
    fixture.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_archived_and_restored_by_other_hosts() {
    const COUNT: u64 = 200;
    let fixture = Fixture::start(1, MoverFile::Posix).await;
    let hosts: Vec<_> = (0..2).map(|n| fixture.host(&format!("h{n}"))).collect();
    fixture.wait_for_hosts(2).await;
    let content = |key: u64| format!("{key} ").repeat(usize::try_from(key * 37 % 5000).unwrap() + 1);
    for key in 0..COUNT {
        fs::write(fixture.shared().join(format!("f{key}")), content(key)).unwrap();
        let uuid = uuid::Uuid::new_v4().to_string();
        let identity = Identity { uuid, ..Identity::default() };
        fixture.source.push(agent::Work {
            primary_path: format!("f{key}"),
            identity,
            ..fixture.work(key, Command::Archive)
        });
    }
    let archived: BTreeMap<u64, Outcome> = fixture.results(COUNT).await.into_iter().collect();
    for (key, outcome) in &archived {
        let Outcome::Archived(identity) = outcome else { panic!("{key}: {outcome:?}") };
        fs::write(fixture.shared().join(format!("r{key}")), "").unwrap();
        let size = u64::try_from(content(*key).len()).unwrap();
        fixture.source.push(agent::Work {
            primary_path: format!("r{key}"),
            write_path: format!("r{key}"),
            identity: identity.clone(),
            expected_size: Some(size),
            ..fixture.work(COUNT + key, Command::Restore)
        });
    }
    let restored = fixture.results(2 * COUNT).await;
    for (key, outcome) in restored {
        assert!(matches!(outcome, Outcome::Restored(_)), "{key}: {outcome:?}");
        let file = fixture.shared().join(format!("r{}", key - COUNT));
        assert_eq!(fs::read_to_string(file).unwrap(), content(key - COUNT), "{key}");
    }
    // And by nobody else.
    let finished = |report: &HostsReport| report.hosts.iter().map(|host| host.finished).sum::<u64>();
    fixture.wait_report("the hosts had all", |report| finished(report) == 2 * COUNT).await;
    fixture.wait_empty().await;
    drop(hosts);
    fixture.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_needs_the_transport_and_what_the_servers_ask_for() {
    let fixture = Fixture::start(1, MoverFile::Noop { delay_ms: 0 }).await;
    let without = fixture.host_with("h0", "");
    assert_eq!(without.wait(LONG).code(), Some(4), "{}", without.log());
    without.wait_for_line("needs transport", LONG);
    let file = fixture.dir().join("password");
    fs::write(&file, "secret\n").unwrap();
    let shared = fixture.host_with("h1", &fixture.transport(&format!("user = \"u\" password_file = {file:?}")));
    assert_ne!(shared.wait(LONG).code(), Some(0));
    shared.wait_for_line("chmod 600", LONG);
    fixture.agent.stop().await;
}
