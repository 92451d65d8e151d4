//! Who gets what, and what happens when a mover goes away.

use crate::kit::{Fixture, TestMover, failure};
use model::{Command, ErrorKind, Outcome};
use proto::pdm::ActionStatus;
use sifaka_agent::{MemorySource, Work};
use std::collections::BTreeSet;

#[tokio::test]
async fn two_movers_of_one_archive_share_the_work_by_credit() {
    let fixture = Fixture::start().await;
    let (mut small, mut large) = (fixture.mover(2).await, fixture.mover(6).await);
    assert_eq!(fixture.source.served(), [1]);
    fixture.push(0..20);
    let first: Vec<u64> = small.take(2).await;
    let others: Vec<u64> = large.take(6).await;
    small.assert_quiet().await;
    large.assert_quiet().await;
    let status = fixture.agent.status();
    assert_eq!(status.movers.iter().map(|m| m.in_flight).collect::<Vec<_>>(), [2, 6]);
    assert_eq!(status.in_flight, 20, "those that wait for credit hold slots too");
    // Credit that comes free is used, by the mover whose it is.
    small.done(first[0]);
    let next = small.take(1).await;
    assert!(!first.contains(&next[0]));
    small.assert_quiet().await;
    // All the rest, one each.
    let mut seen: BTreeSet<u64> = first.iter().chain(&others).chain(&next).copied().collect();
    [first[1], next[0]].into_iter().for_each(|id| small.done(id));
    others.iter().for_each(|id| large.done(*id));
    while seen.len() < 20 {
        let (mover, id) = tokio::select! {
            item = small.next() => (&small, item.unwrap().id),
            item = large.next() => (&large, item.unwrap().id),
        };
        assert!(seen.insert(id), "action {id} was sent twice");
        mover.done(id);
    }
    let results = fixture.results(20).await;
    assert_eq!(results.iter().map(|(key, _)| *key).collect::<BTreeSet<_>>(), (0..20).collect());
    assert!(
        results.iter().all(|(_, outcome)| matches!(outcome, Outcome::Archived(id) if id.uuid.starts_with("object-")))
    );
    fixture.wait_idle().await;
    fixture.agent.stop().await;
}

#[tokio::test]
async fn slots_bound_what_is_in_flight() {
    let fixture = Fixture::start().await;
    let mut mover = fixture.mover(0).await;
    fixture.source.generate(1, 1_000_000);
    let ids = mover.take(20).await;
    mover.assert_quiet().await;
    assert_eq!(fixture.agent.status().in_flight, 20, "2 handlers, 10 each");
    ids.iter().for_each(|id| mover.done(*id));
    mover.take(20).await;
    fixture.results(20).await;
}

#[tokio::test]
async fn an_archive_without_mover_fails_as_temporary_and_says_what_to_look_at() {
    let fixture = Fixture::start().await;
    fixture.source.push(MemorySource::noop(5, 3));
    let results = fixture.results(1).await;
    let failed = failure(&results[0].1);
    assert_eq!((results[0].0, failed.errno, failed.kind), (5, 107, ErrorKind::Temporary));
    assert!(failed.message.contains("archive 3") && failed.message.contains("enabled_plugins"), "{}", failed.message);
    fixture.wait_idle().await;
}

#[tokio::test]
async fn a_lost_mover_s_actions_go_to_another_and_end_once() {
    let fixture = Fixture::start().await;
    let mut lost = fixture.mover(10).await;
    fixture.push(0..4);
    let ids = lost.take(4).await;
    lost.done(ids[0]);
    fixture.results(1).await;
    let mut other = fixture.mover(10).await;
    drop(lost);
    let mut again = other.take(3).await;
    again.sort_unstable();
    assert_eq!(again, ids[1..]);
    again.iter().for_each(|id| other.done(*id));
    assert!(fixture.results(4).await.iter().all(|(_, outcome)| matches!(outcome, Outcome::Archived(_))));
    fixture.wait_idle().await;
}

#[tokio::test]
async fn a_lost_mover_s_actions_come_back_when_there_is_no_other() {
    let fixture = Fixture::start().await;
    let mut lost = fixture.mover(3).await;
    fixture.push(0..5);
    lost.take(3).await;
    drop(lost);
    let results = fixture.results(5).await;
    for (_, outcome) in &results {
        let failed = failure(outcome);
        assert_eq!((failed.errno, failed.kind), (107, ErrorKind::Temporary));
        assert!(failed.message.contains("test mover"), "{}", failed.message);
    }
    fixture.wait_status("the mover is listed", |status| status.movers.is_empty()).await;
    assert!(fixture.source.served().is_empty());
    fixture.wait_idle().await;
}

#[tokio::test]
async fn a_mover_that_drains_may_report_what_it_has() {
    let fixture = Fixture::start().await;
    let mut mover = fixture.mover(2).await;
    fixture.push(0..3);
    let ids = mover.take(2).await;
    // It takes no more actions; the third, which waited for its credit, has nobody else.
    let TestMover { actions, handle, reports, reporting, client, .. } = mover;
    drop(actions);
    let back = fixture.results(1).await;
    assert_eq!((back[0].0, failure(&back[0].1).errno), (2, 107));
    let status = ActionStatus {
        id: ids[0],
        completed: true,
        uuid: "late".into(),
        handle: Some(proto::pdm::Handle { id: handle }),
        ..ActionStatus::default()
    };
    reports.send(status).unwrap();
    let late = fixture.results(2).await;
    assert!(matches!(&late[0].1, Outcome::Archived(identity) if identity.uuid == "late"));
    // What it did not report before it closed its reports was not done.
    drop(reports);
    reporting.await.unwrap().unwrap();
    let rest = fixture.results(3).await;
    assert_eq!((rest[0].0, failure(&rest[0].1).errno), (1, 107));
    drop(client);
    fixture.wait_idle().await;
}

#[tokio::test]
async fn an_action_is_taken_over_once_and_then_goes_back() {
    let fixture = Fixture::start().await;
    let (mut first, mut second) = (fixture.mover(5).await, fixture.mover(4).await);
    fixture.push(0..1);
    first.take(1).await;
    drop(first);
    second.take(1).await;
    let third = fixture.mover(5).await;
    drop(second);
    let results = fixture.results(1).await;
    assert_eq!(failure(&results[0].1).errno, 107);
    fixture.wait_idle().await;
    drop(third);
}

#[tokio::test]
async fn verify_goes_only_to_movers_that_can() {
    let fixture = Fixture::start().await;
    let verify = |key| Work { command: Command::Verify, ..MemorySource::noop(key, 1) };
    let mut plain = TestMover::start(&fixture, 1, 0, 100).await;
    fixture.source.push(verify(1));
    let results = fixture.results(1).await;
    let failed = failure(&results[0].1);
    assert_eq!((failed.errno, failed.kind), (95, ErrorKind::Permanent));
    let mut able = fixture.mover(1).await;
    fixture.source.push(verify(2));
    let id = able.take(1).await[0];
    plain.assert_quiet().await;
    able.report(ActionStatus { id, completed: true, hash: vec![7; 32], ..ActionStatus::default() });
    assert!(matches!(fixture.results(2).await[0].1, Outcome::Verified(_)));
}

#[tokio::test]
async fn what_no_mover_would_accept_is_refused_at_once() {
    let fixture = Fixture::start().await;
    let _mover = fixture.mover(10).await;
    fixture.source.push(Work { command: Command::Restore, ..MemorySource::noop(1, 1) });
    fixture.source.push(Work { primary_path: "x".repeat(20_000), ..MemorySource::noop(2, 1) });
    fixture.source.push(Work { data: vec![0; 70_000], ..MemorySource::noop(3, 1) });
    let errnos: Vec<_> = fixture.results(3).await.iter().map(|(key, outcome)| (*key, failure(outcome).errno)).collect();
    assert_eq!(errnos, [(1, 61), (2, 22), (3, 22)]);
    fixture.wait_idle().await;
}
