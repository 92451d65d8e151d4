//! The server over a real socket, in front of a `Control` that only notes what it is asked.

use super::api::*;
use super::control::{Control, ControlError, ErrorCode, Reply};
use super::socket::{AdminSocket, SocketError};
use futures_util::FutureExt;
use model::{ActionId, FileHandle};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};

/// In place of an agent: answers with nothing, keeps what it was asked, holds long polls until told.
#[derive(Default)]
struct NotingControl {
    asked: Mutex<Vec<String>>,
    finish: Notify,
    polling: Notify,
}

impl NotingControl {
    fn note<T: Default + Send + 'static>(&self, what: impl std::fmt::Debug) -> Reply<'_, T> {
        self.asked.lock().push(format!("{what:?}"));
        async { Ok(T::default()) }.boxed()
    }
}

impl Control for NotingControl {
    fn submit(&self, request: SubmitRequest) -> Reply<'_, Submitted> {
        self.note(request)
    }
    fn request(&self, id: u64, wait: Duration) -> Reply<'_, RequestStatus> {
        if wait.is_zero() {
            return self.note((id, wait));
        }
        async {
            self.polling.notify_one();
            self.finish.notified().await;
            Ok(RequestStatus { total: 1, succeeded: 1, ..RequestStatus::default() })
        }
        .boxed()
    }
    fn failures(&self, id: u64, query: FinishedQuery) -> Reply<'_, Vec<FinishedView>> {
        self.note((id, query))
    }
    fn release(&self, request: FilesRequest) -> Reply<'_, Released> {
        self.note(request)
    }
    fn cancel(&self, request: CancelRequest) -> Reply<'_, Cancelled> {
        self.note(request)
    }
    fn files_status(&self, request: FilesRequest) -> Reply<'_, Vec<FileStatus>> {
        self.note(request)
    }
    fn files_set(&self, request: SetRequest) -> Reply<'_, FilesSet> {
        self.note(request)
    }
    fn actions(&self, query: ActionsQuery) -> Reply<'_, Vec<ActionView>> {
        self.note(query)
    }
    fn finished(&self, query: FinishedQuery) -> Reply<'_, Vec<FinishedView>> {
        self.note(query)
    }
    fn action(&self, id: ActionId) -> Reply<'_, ActionReport> {
        async move { Err(ControlError::new(ErrorCode::NotFound, format!("no action {id}"))) }.boxed()
    }
    fn status(&self) -> Reply<'_, StatusReport> {
        async { Err(ControlError::new(ErrorCode::Unavailable, "starting")) }.boxed()
    }
}

struct Served {
    _directory: tempfile::TempDir,
    path: PathBuf,
    control: Arc<NotingControl>,
    stop: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<()>,
}

fn start() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/admin.sock");
    let socket = AdminSocket::bind(&path, None).unwrap();
    let control = Arc::new(NotingControl::default());
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(super::serve(socket, control.clone(), async { stopped.await.unwrap_or(()) }));
    Served { _directory: directory, path, control, stop: Some(stop), server }
}

async fn raw(path: &Path, request: &[u8]) -> (u16, Value) {
    let mut stream = UnixStream::connect(path).await.unwrap();
    // The server may answer, and close, before it has read a body that is too large.
    let _ = stream.write_all(request).await;
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    let reply = String::from_utf8(reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP reply: {reply:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("{reply}")))
}

async fn get(path: &Path, address: &str) -> (u16, Value) {
    raw(path, format!("GET {address} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await
}

async fn post(path: &Path, address: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let head = format!("POST {address} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    raw(path, [head.as_bytes(), body.as_bytes()].concat().as_slice()).await
}

fn file() -> Value {
    json!({ "handle": "1:0a0b0c0d", "fsid": "00112233445566ff", "path": "/fs/a" })
}

fn message(reply: &Value) -> &str {
    reply["error"]["message"].as_str().unwrap()
}

#[tokio::test]
async fn a_request_arrives_as_it_was_sent() {
    let served = start();
    let body = json!({ "command": "archive", "archive_id": 3, "data": "AAH/", "request": 7, "files": [file()], "force": true });
    let (status, reply) = post(&served.path, "/v1/requests", &body.to_string()).await;
    assert_eq!((status, &reply["request"]), (200, &json!(0)));
    let expected = SubmitRequest {
        command: RequestCommand::Archive,
        archive_id: Some(3),
        copies: Vec::new(),
        data: vec![0, 1, 255],
        request: Some(7),
        files: vec![FileRef {
            handle: FileHandle { kind: 1, bytes: vec![10, 11, 12, 13].into() },
            fsid: fsid_text([0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0xff]),
            path: "/fs/a".into(),
        }],
        records: Vec::new(),
        force: true,
    };
    assert_eq!(*served.control.asked.lock(), [format!("{expected:?}")]);
    assert_eq!(serde_json::to_value(&expected).unwrap(), body);
}

#[tokio::test]
async fn every_kind_of_cancel_has_its_form() {
    let served = start();
    for body in
        [json!({ "files": [file()] }), json!({ "actions": [1, 2] }), json!({ "request": 5 }), json!({ "all": true })]
    {
        assert_eq!(post(&served.path, "/v1/cancel", &body.to_string()).await.0, 200, "{body}");
    }
    for body in
        [json!({ "all": false }), json!({}), json!({ "request": 5, "all": true }), json!({ "everything": true })]
    {
        assert_eq!(post(&served.path, "/v1/cancel", &body.to_string()).await.0, 400, "{body}");
    }
}

#[tokio::test]
async fn listings_have_limits() {
    let served = start();
    assert_eq!(get(&served.path, "/v1/actions?command=restore&archive=2&after=9").await, (200, json!([])));
    assert!(served.control.asked.lock()[0].contains("limit: Some(100)"));
    for bad in [
        "/v1/actions?limit=0",
        "/v1/actions?limit=1001",
        "/v1/actions?colour=red",
        "/v1/actions?command=dance",
        "/v1/actions/finished?before=x",
        "/v1/actions/x",
        "/v1/requests/-1",
        "/v1/requests/1?wait_ms=30001",
    ] {
        let (status, reply) = get(&served.path, bad).await;
        assert_eq!((status, &reply["error"]["code"]), (400, &json!("invalid")), "{bad}");
    }
}

#[tokio::test]
async fn bad_bodies_are_refused_with_the_place() {
    let served = start();
    let release = |body: String| {
        let path = served.path.clone();
        async move { post(&path, "/v1/release", &body).await }
    };
    let (status, reply) = release("{\n  \"files\": [,]\n}".into()).await;
    assert_eq!(status, 400);
    assert!(message(&reply).contains("line 2 column 13"), "{reply}");
    let (status, reply) = release(json!({ "files": [], "fiels": [] }).to_string()).await;
    assert_eq!(status, 400);
    assert!(message(&reply).contains("fiels"), "{reply}");
    for (field, bad) in
        [("handle", json!("1:")), ("handle", json!("zz")), ("fsid", json!("0011")), ("path", json!("x".repeat(17_000)))]
    {
        let mut one = file();
        one[field] = bad;
        assert_eq!(release(json!({ "files": [one] }).to_string()).await.0, 400, "{field}");
    }
    let many: Vec<_> = std::iter::repeat_n(file(), MAX_FILES + 1).collect();
    let (status, reply) = release(json!({ "files": many }).to_string()).await;
    assert_eq!(status, 400);
    assert!(message(&reply).contains("4096"), "{reply}");
    assert!(served.control.asked.lock().is_empty());
}

#[tokio::test]
async fn flags_and_archives_are_checked() {
    let served = start();
    for bad in [
        json!({ "set": ["released"], "files": [] }),
        json!({ "set": ["sticky"], "files": [] }),
        json!({ "set": ["lost"], "clear": ["lost"], "files": [] }),
        json!({ "archive_id": 0, "files": [] }),
    ] {
        assert_eq!(post(&served.path, "/v1/files/set", &bad.to_string()).await.0, 400, "{bad}");
    }
    let verify = json!({ "command": "verify", "files": [] });
    assert_eq!(post(&served.path, "/v1/requests", &verify.to_string()).await.0, 400);
}

#[tokio::test]
async fn a_large_body_is_refused() {
    let served = start();
    let (status, reply) = post(&served.path, "/v1/release", &" ".repeat(MAX_BODY_BYTES + 1)).await;
    assert_eq!((status, &reply["error"]["code"]), (413, &json!("too_large")));
}

#[tokio::test]
async fn errors_have_their_status() {
    let served = start();
    assert_eq!(get(&served.path, "/v2/status").await.0, 404);
    assert_eq!(get(&served.path, "/v1/release").await.0, 405);
    let (status, reply) = get(&served.path, "/v1/actions/5").await;
    assert_eq!((status, message(&reply)), (404, "no action 5"));
    assert_eq!(get(&served.path, "/v1/status").await.0, 503);
}

#[tokio::test]
async fn a_long_poll_ends_when_the_request_does() {
    let served = start();
    let poll = get(&served.path, "/v1/requests/1?wait_ms=30000");
    let finish = async {
        served.control.polling.notified().await;
        served.control.finish.notify_one();
    };
    let ((status, reply), ()) = tokio::join!(poll, finish);
    assert_eq!((status, &reply["succeeded"]), (200, &json!(1)));
}

#[tokio::test]
async fn a_long_poll_does_not_keep_the_agent_from_stopping() {
    let mut served = start();
    let poll = get(&served.path, "/v1/requests/1?wait_ms=30000");
    let stop = async {
        served.control.polling.notified().await;
        served.stop.take().unwrap().send(()).unwrap();
    };
    let ((status, _), ()) = tokio::join!(poll, stop);
    assert_eq!(status, 503);
    served.server.await.unwrap();
    assert!(!served.path.exists());
}

#[tokio::test]
async fn the_socket_is_for_its_owner_alone() {
    let served = start();
    let found = std::fs::symlink_metadata(&served.path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(served.path.parent().unwrap()).unwrap().count(), 1);
}

/// Needs root, to be somebody else.
#[tokio::test]
async fn a_stranger_is_refused_even_when_the_mode_lets_him_connect() {
    let served = start();
    std::fs::set_permissions(served.path.parent().unwrap().parent().unwrap(), PermissionsExt::from_mode(0o755))
        .unwrap();
    std::fs::set_permissions(&served.path, PermissionsExt::from_mode(0o666)).unwrap();
    let as_nobody = |path: PathBuf| {
        tokio::task::spawn_blocking(move || {
            use std::os::unix::process::CommandExt;
            let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                          s.sendall(b'GET /v1/status HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n'); \
                          print(s.recv(65536).decode())";
            let output =
                std::process::Command::new("python3").args(["-c", script]).arg(path).uid(65534).gid(65534).output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        })
    };
    let reply = as_nobody(served.path.clone()).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 403"), "{reply}");
    assert!(reply.contains("user 65534"), "{reply}");
}

#[tokio::test]
async fn a_group_may_share_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let socket = AdminSocket::bind(&path, Some("daemon")).unwrap();
    let found = std::fs::symlink_metadata(&path).unwrap();
    let daemon = nix::unistd::Group::from_name("daemon").unwrap().unwrap().gid.as_raw();
    assert_eq!((found.permissions().mode() & 0o777, found.gid()), (0o660, daemon));
    assert!(socket.shared);
    let error = AdminSocket::bind(&path.with_extension("2"), Some("no-such-group")).unwrap_err();
    assert!(matches!(error, SocketError::NoGroup(_)), "{error}");
}

#[tokio::test]
async fn only_a_stale_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let live = AdminSocket::bind(&path, None).unwrap();
    assert!(matches!(AdminSocket::bind(&path, None), Err(SocketError::InUse(_))));
    drop(live);
    assert!(!path.exists());
    // As after a kill: the file is there, nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let socket = AdminSocket::bind(&path, None).unwrap();
    // A successor has taken the name: it is not removed with us.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "not a socket").unwrap();
    drop(socket);
    assert!(matches!(AdminSocket::bind(&path, None), Err(SocketError::NotASocket(_))));
    assert!(path.exists());
}

/// An agent without local files says so; what goes beyond the limits does not reach it.
#[tokio::test]
async fn files_that_share_objects_are_asked_for_within_limits() {
    let served = start();
    let place = json!({ "directory": "1:0a0b", "fsid": "00112233445566ff", "name": "bmFtZQ==", "path": "/fs/name" });
    let bodies = [
        ("/v1/clone", json!({ "clones": [{ "source": file(), "at": place }] })),
        ("/v1/undelete", json!({ "files": [{ "at": place, "version": 7 }] })),
        ("/v1/retired", json!({ "of": { "place": place }, "limit": 10 })),
    ];
    for (address, body) in bodies {
        assert_eq!(post(&served.path, address, &body.to_string()).await.0, 501, "{address}");
    }
    let bad = json!({ "directory": "1:0a0b", "fsid": "no", "name": "bmFtZQ==", "path": "/fs/name" });
    let no_base64 = json!({ "directory": "1:0a0b", "fsid": "00112233445566ff", "name": "/../", "path": "/fs/name" });
    let bodies = [
        ("/v1/clone", json!({ "clones": [{ "source": file(), "at": bad }] })),
        ("/v1/clone", json!({ "clones": [{ "source": file(), "at": no_base64 }] })),
        ("/v1/undelete", json!({ "files": [{ "at": place, "which": 7 }] })),
        ("/v1/retired", json!({ "of": { "below": place }, "limit": 1001 })),
        ("/v1/retired", json!({ "of": { "file": file() }, "limit": 0 })),
    ];
    for (address, body) in bodies {
        assert_eq!(post(&served.path, address, &body.to_string()).await.0, 400, "{address} {body}");
    }
}
