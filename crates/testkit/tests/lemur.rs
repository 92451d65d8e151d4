//! The Lemur-like mover talks to a stock tonic server, over both kinds of address, and understands extended messages.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in its helpers too")]

use proto::pdm::{self, ActionItem};
use sifaka_testkit::lemur::{LemurCommand, LemurMover, LemurStatus};
use sifaka_testkit::pdm_agent::PdmAgent;
use tokio_stream::StreamExt;

async fn converse(address: &str, authority: &str) {
    let mut agent = PdmAgent::start(address);
    let mover = LemurMover::connect(address, authority).await.unwrap();
    let handle = mover.register(1, "lustre").await.unwrap();
    let (endpoint, given) = agent.registration();
    assert_eq!((endpoint.archive, endpoint.fs_url.as_str(), handle.id), (1, "lustre", given));
    assert_eq!((endpoint.capabilities, endpoint.credits, endpoint.name.as_str()), (0, 0, ""));

    let mut actions = mover.actions(handle).await.unwrap();
    let (statuses, end) = mover.statuses();
    let item = ActionItem {
        id: 9,
        op: pdm::Command::Restore.into(),
        write_path: ".lustre/fid/x".into(),
        length: -1,
        url: "posix:o".into(),
        expected_size: Some(7),
        file_path: "unknown to Lemur".into(),
        ..ActionItem::default()
    };
    agent.send(given, item);
    let item = actions.next().await.unwrap().unwrap();
    assert_eq!((item.id, item.op(), item.length), (9, LemurCommand::Restore, -1));
    assert_eq!((item.write_path.as_str(), item.url.as_str()), (".lustre/fid/x", "posix:o"));

    let status = LemurStatus { id: 9, completed: true, error: -1, handle: Some(handle), ..LemurStatus::default() };
    statuses.send(status).await.unwrap();
    drop(statuses);
    end.await.unwrap().unwrap();
    let status = agent.status();
    assert_eq!((status.id, status.completed, status.error), (9, true, -1));
    assert_eq!((status.handle, status.error_text.as_str()), (Some(pdm::Handle { id: given }), ""));
    // A runtime must not be dropped inside another.
    tokio::task::spawn_blocking(move || drop(agent)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn over_an_abstract_socket_with_the_authority_that_go_sends() {
    let address = format!("@lhsmd-{}", std::process::id());
    converse(&address, &address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_path() {
    let dir = tempfile::tempdir().unwrap();
    converse(dir.path().join("agent.sock").to_str().unwrap(), "localhost").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_error() {
    let address = format!("@sifaka-refusing-{}", std::process::id());
    let agent = PdmAgent::start_refusing(&address, "already connected");
    let mover = LemurMover::connect(&address, &address).await.unwrap();
    assert_eq!(mover.register(1, "lustre").await.unwrap_err().message(), "already connected");
    tokio::task::spawn_blocking(move || drop(agent)).await.unwrap();
}
