//! Stopping what was asked for.

use crate::kit::{Fixture, TestMover, failure};
use model::{ActionId, ErrorKind, Outcome};
use proto::Instruction;
use proto::pdm::ActionStatus;

#[tokio::test]
async fn what_waits_for_credit_is_cancelled_at_once() {
    let fixture = Fixture::start().await;
    let mut mover = fixture.mover(1).await;
    fixture.push(0..3);
    let id = mover.take(1).await[0];
    fixture.wait_status("all accepted", |status| status.in_flight == 3).await;
    fixture.source.cancel(2);
    let results = fixture.results(1).await;
    assert_eq!(results[0].0, 2);
    assert!(failure(&results[0].1).is_cancelled());
    mover.done(id);
    let next = mover.take(1).await[0];
    mover.done(next);
    fixture.results(3).await;
    mover.assert_quiet().await;
    fixture.wait_idle().await;
}

#[tokio::test]
async fn a_mover_that_can_is_told_to_stop_a_running_action() {
    let fixture = Fixture::start().await;
    let mut mover = fixture.mover(10).await;
    fixture.push(7..9);
    let ids = mover.take(2).await;
    fixture.source.cancel(7);
    fixture.source.cancel(7);
    fixture.source.cancel(1234);
    assert_eq!(mover.next_instruction().await, Instruction::Cancel(ActionId(ids[0])));
    mover.assert_quiet().await;
    mover.report(ActionStatus {
        id: ids[0],
        error: 125,
        error_text: "cancelled".into(),
        completed: true,
        ..ActionStatus::default()
    });
    let results = fixture.results(1).await;
    assert!(results[0].0 == 7 && failure(&results[0].1).is_cancelled());
    // Too late is too late.
    fixture.source.cancel(8);
    assert_eq!(mover.next_instruction().await, Instruction::Cancel(ActionId(ids[1])));
    mover.done(ids[1]);
    assert!(matches!(fixture.results(2).await[0].1, Outcome::Archived(_)));
    fixture.wait_idle().await;
}

#[tokio::test]
async fn a_mover_that_cannot_is_not_told_and_its_result_stands() {
    let fixture = Fixture::start().await;
    let mut mover = TestMover::start(&fixture, 1, 0, 0).await;
    fixture.push(0..2);
    let ids = mover.take(2).await;
    fixture.source.cancel(0);
    fixture.source.cancel(1);
    mover.assert_quiet().await;
    mover.done(ids[0]);
    assert!(matches!(fixture.results(1).await[0].1, Outcome::Archived(_)));
    // The mover dies: a cancelled action is not given to another one.
    let mut other = fixture.mover(10).await;
    drop(mover);
    let results = fixture.results(2).await;
    assert!(results[0].0 == 1 && failure(&results[0].1).is_cancelled());
    other.assert_quiet().await;
    fixture.wait_idle().await;
}

#[tokio::test]
async fn stop_waits_for_running_actions_and_takes_no_new_ones() {
    let fixture = Fixture::start_with(|_, _, services| services.drain = std::time::Duration::from_secs(3600)).await;
    let mut mover = fixture.mover(10).await;
    fixture.push(0..1);
    let id = mover.take(1).await[0];
    let agent = fixture.agent.clone();
    let stopping = tokio::spawn(async move { agent.stop().await });
    // The stop holds on until the result is there; what comes meanwhile stays with the source.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(!stopping.is_finished());
    fixture.push(1..2);
    mover.assert_quiet().await;
    mover.done(id);
    assert!(matches!(fixture.results(1).await[0].1, Outcome::Archived(_)));
    stopping.await.unwrap();
    assert_eq!(mover.next().await, None);
    assert_eq!(fixture.source.finished(), 1);
    assert!(!fixture.dir.path().join("run").read_dir().unwrap().any(|_| true), "the socket is still there");
}

#[tokio::test]
async fn stop_cancels_what_does_not_end_and_calls_it_temporary() {
    let fixture = Fixture::start_with(|_, _, services| services.drain = std::time::Duration::from_millis(50)).await;
    let mut mover = fixture.mover(10).await;
    fixture.push(0..2);
    let ids = mover.take(2).await;
    let agent = fixture.agent.clone();
    let stopping = tokio::spawn(async move { agent.stop().await });
    let told = [mover.next_instruction().await, mover.next_instruction().await];
    assert!(
        told.contains(&Instruction::Cancel(ActionId(ids[0]))) && told.contains(&Instruction::Cancel(ActionId(ids[1])))
    );
    // One obeys, the other does not answer.
    mover.report(ActionStatus { id: ids[0], error: 125, completed: true, ..ActionStatus::default() });
    stopping.await.unwrap();
    for (_, outcome) in fixture.results(2).await {
        assert_eq!((failure(&outcome).errno, failure(&outcome).kind), (107, ErrorKind::Temporary), "{outcome:?}");
    }
}
