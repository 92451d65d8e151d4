//! The sockets and the calls: who may connect, what is refused, and Lemur's plugins.

use crate::kit::{Fixture, connect, connect_abstract};
use model::{Extent, Identity, Outcome};
use proto::pdm::{ActionStatus, Endpoint, Handle};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use testkit::lemur::{LemurMover, LemurStatus};
use tonic::Code;

#[tokio::test]
async fn a_lemur_plugin_works_over_the_abstract_socket() {
    let fixture = Fixture::start().await;
    let address = fixture.address();
    // Go's client sends the address as the authority.
    let mover = LemurMover::connect(&address, &address).await.unwrap();
    let handle = mover.register(1, "lustre").await.unwrap();
    let (reports, reporting) = mover.statuses();
    let mut actions = mover.actions(handle).await.unwrap();
    fixture.push(40..42);
    let first = actions.message().await.unwrap().unwrap();
    assert_eq!((first.op, first.primary_path.as_str(), first.offset, first.length), (1, "noop", 0, -1));
    let second = actions.message().await.unwrap().unwrap();
    fixture.source.cancel(40);
    let status = LemurStatus { id: first.id, handle: Some(handle), ..LemurStatus::default() };
    reports.send(LemurStatus { length: 10, ..status.clone() }).await.unwrap();
    let uuid = String::from("0e2f9a7c");
    reports.send(LemurStatus { completed: true, uuid: uuid.clone(), ..status }).await.unwrap();
    let results = fixture.results(1).await;
    assert_eq!(results, [(40, Outcome::Archived(Identity { uuid, ..Identity::default() }))]);
    assert_eq!(fixture.source.take_progress(), [(40, Extent { offset: 0, length: 10 })]);
    reports
        .send(LemurStatus { id: second.id, completed: true, error: -1, handle: Some(handle), ..LemurStatus::default() })
        .await
        .unwrap();
    let failed = fixture.results(2).await;
    assert_eq!(crate::kit::failure(&failed[0].1).errno, 5);
    // Nothing but the two actions was ever sent: no cancel.
    let quiet = tokio::time::timeout(std::time::Duration::from_millis(100), actions.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    drop(reports);
    reporting.await.unwrap().unwrap();
    fixture.wait_idle().await;
}

#[tokio::test]
async fn calls_out_of_order_are_refused_and_hurt_nobody() {
    let fixture = Fixture::start().await;
    let mut client = connect(fixture.path()).await;
    let refused = |status: tonic::Status| status.code();
    assert_eq!(client.get_actions(Handle { id: 77 }).await.map_err(refused).err(), Some(Code::NotFound));
    let early = tokio_stream::iter([ActionStatus { id: 1, completed: true, ..ActionStatus::default() }]);
    assert_eq!(client.status_stream(early).await.map_err(refused).err(), Some(Code::FailedPrecondition));
    let none = Endpoint { archive: 0, ..Endpoint::default() };
    assert_eq!(client.register(none).await.map_err(refused).err(), Some(Code::InvalidArgument));
    let handle = client.register(Endpoint { archive: 9, ..Endpoint::default() }).await.unwrap().into_inner();
    // A handle is its connection's.
    let mut other = connect(fixture.path()).await;
    assert_eq!(other.get_actions(handle).await.map_err(refused).err(), Some(Code::NotFound));
    let stream = client.get_actions(handle).await.unwrap();
    assert_eq!(client.get_actions(handle).await.map_err(refused).err(), Some(Code::AlreadyExists));
    assert_eq!(fixture.source.served(), [9]);
    // A connection that ends takes its registrations along, also those that never asked for actions.
    client.register(Endpoint { archive: 10, ..Endpoint::default() }).await.unwrap();
    assert_eq!(fixture.agent.status().movers.len(), 2);
    drop((stream, client));
    fixture.wait_status("registrations are left", |status| status.movers.is_empty()).await;
    fixture.agent.stop().await;
}

#[tokio::test]
async fn reports_about_what_a_mover_does_not_have_are_ignored() {
    let fixture = Fixture::start().await;
    let (mut mover, stranger) = (fixture.mover(2).await, fixture.mover(1).await);
    fixture.push(0..2);
    let ids = mover.take(1).await;
    // Unknown; another's handle; another's action.
    mover.done(999);
    stranger.done(ids[0]);
    stranger.report(ActionStatus {
        id: ids[0],
        completed: true,
        uuid: "x".into(),
        handle: Some(Handle { id: mover.handle }),
        ..ActionStatus::default()
    });
    // Twice the same; and one without a handle, which the connection tells.
    mover.done(ids[0]);
    mover.done(ids[0]);
    let results = fixture.results(1).await;
    assert!(matches!(&results[0].1, Outcome::Archived(identity) if identity.uuid == format!("object-{}", ids[0])));
    let mut stranger = stranger;
    let id = stranger.take(1).await[0];
    let nameless = ActionStatus { id, completed: true, uuid: "y".into(), ..ActionStatus::default() };
    stranger.reports.send(nameless).unwrap();
    fixture.results(2).await;
    fixture.wait_idle().await;
}

#[tokio::test]
async fn a_result_without_sense_ends_the_action() {
    let fixture = Fixture::start().await;
    let mut mover = fixture.mover(2).await;
    fixture.push(0..2);
    let ids = mover.take(2).await;
    mover.report(ActionStatus { id: ids[0], offset: -5, ..ActionStatus::default() });
    mover.report(ActionStatus { id: ids[0], completed: true, ..ActionStatus::default() });
    mover.report(ActionStatus {
        id: ids[1],
        completed: true,
        uuid: "x".into(),
        hash: vec![1, 2, 3],
        ..ActionStatus::default()
    });
    for (_, outcome) in fixture.results(2).await {
        assert_eq!(crate::kit::failure(&outcome).errno, 71);
    }
    fixture.wait_idle().await;
}

#[tokio::test]
async fn only_root_and_the_agent_s_user_may_connect() {
    let fixture = Fixture::start().await;
    let (path, address) = (fixture.path(), fixture.address());
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    // As somebody else, with the modes out of the way: what refuses then is the check of the peer.
    for directory in [fixture.dir.path(), path.parent().unwrap()] {
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    for target in [format!("UNIX-CONNECT:{}", path.display()), address.clone()] {
        let uid = tokio::task::spawn_blocking(move || probe(&target, Some(65534))).await.unwrap();
        assert_eq!(uid, "closed");
    }
    let own = tokio::task::spawn_blocking(move || probe(&address, None)).await.unwrap();
    assert_eq!(own, "open");
}

/// Connects as another user, in a process of its own, and says whether the agent keeps the connection.
fn probe(target: &str, uid: Option<u32>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "protocol::probe_process", "--ignored", "--nocapture"]).env("SIFAKA_TEST_PROBE", target);
    if let Some(uid) = uid {
        command.uid(uid);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = text.lines().find_map(|line| line.split("probe: ").nth(1));
    answer.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr))).to_owned()
}

/// Not a test: what [`probe`] runs. Sends HTTP/2's greeting; an agent that accepts the peer answers with its settings.
#[test]
#[ignore = "runs as a child process of another test"]
fn probe_process() {
    let target = std::env::var("SIFAKA_TEST_PROBE").expect("started by a test");
    let mut stream = match target.strip_prefix("UNIX-CONNECT:") {
        Some(path) => std::os::unix::net::UnixStream::connect(path).unwrap(),
        None => connect_abstract(&target).unwrap(),
    };
    stream.set_read_timeout(Some(crate::kit::LONG)).unwrap();
    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let answered = matches!(stream.read(&mut [0; 9]), Ok(1..));
    println!("probe: {}", if answered { "open" } else { "closed" });
}

#[tokio::test]
async fn garbage_on_the_socket_ends_that_connection_only() {
    let fixture = Fixture::start().await;
    let mut mover = fixture.mover(1).await;
    let address = fixture.address();
    tokio::task::spawn_blocking(move || {
        let mut stream = connect_abstract(&address).unwrap();
        stream.set_read_timeout(Some(crate::kit::LONG)).unwrap();
        let _ = stream.write_all(&[0xff; 4096]);
        let _ = stream.read_to_end(&mut Vec::new());
    })
    .await
    .unwrap();
    fixture.push(0..1);
    let id = mover.take(1).await[0];
    mover.done(id);
    fixture.results(1).await;
}

#[tokio::test]
async fn two_agents_of_one_process_do_not_meet_and_sockets_of_the_dead_go() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    std::fs::create_dir(&run).unwrap();
    // A socket whose listener is gone, and a file that is none of ours.
    drop(std::os::unix::net::UnixListener::bind(run.join("lhsmd-4194304")).unwrap());
    std::fs::write(run.join("lhsmd-notes"), "").unwrap();
    let start = |run: std::path::PathBuf| async move {
        Fixture::start_with(move |_, config, _| config.transport.socket_dir = run).await
    };
    let (first, second) = (start(run.clone()).await, start(run.clone()).await);
    let mut names: Vec<String> =
        run.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let pid = std::process::id();
    assert_eq!(names, [format!("lhsmd-{pid}"), format!("lhsmd-{pid}-1"), "lhsmd-notes".into()]);
    for (agent, name) in [(&first, &names[0]), (&second, &names[1])] {
        let mut client = connect(run.join(name)).await;
        client.register(Endpoint { archive: 1, ..Endpoint::default() }).await.unwrap();
        assert_eq!(agent.agent.status().movers.len(), 1);
    }
    first.agent.stop().await;
    second.agent.stop().await;
    assert_eq!(run.read_dir().unwrap().count(), 1);
}

#[tokio::test]
async fn a_socket_directory_that_others_can_write_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let (mut config, services) = (crate::kit::config(&dir), crate::kit::services(&dir));
    config.transport.socket_dir = dir.path().into();
    let mounts = sifaka_agent::ClientMounts::shared_directory(dir.path().into());
    let source = std::sync::Arc::new(sifaka_agent::MemorySource::new());
    let agent = sifaka_agent::HsmAgent::new(config, mounts, services, source).unwrap();
    let error = agent.start().await.unwrap_err().to_string();
    assert!(error.contains("chmod go-w"), "{error}");
}
