//! The server with its noting `Control`, and the program run against it.

use agent::admin::api::*;
use agent::admin::control::Reply;
use agent::admin::{AdminSocket, Control, ControlError, ErrorCode, serve};
use futures_util::FutureExt;
use model::{ActionId, Class, Command as Action, Failure};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// How requests end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum End {
    /// Well, at once.
    #[default]
    Well,
    /// One file of theirs failed.
    OneFailed,
    /// Never.
    Never,
}

#[derive(Default)]
pub(crate) struct NotingControl {
    pub(crate) end: End,
    /// Files of each request, by the number of the request.
    pub(crate) requests: Mutex<BTreeMap<u64, Vec<FileRef>>>,
    /// What is to be recorded, of all requests.
    pub(crate) records: Mutex<Vec<RecordRef>>,
    /// Files a call.
    pub(crate) batches: Mutex<Vec<usize>>,
    /// The other calls, as text.
    pub(crate) calls: Mutex<Vec<String>>,
    /// Somebody waits for a request that never ends.
    pub(crate) polling: Notify,
}

impl NotingControl {
    fn note(&self, call: impl std::fmt::Debug) {
        self.calls.lock().unwrap().push(format!("{call:?}"));
    }

    fn accept(&self, request: SubmitRequest) -> Submitted {
        let mut requests = self.requests.lock().unwrap();
        let id = request.request.unwrap_or(requests.len() as u64 + 1);
        let accepted = request.files.len() as u64;
        self.batches.lock().unwrap().push(request.files.len());
        let is_refused = |file: &&FileRef| file.path.contains("refused");
        let refused = request.files.iter().filter(is_refused).map(refusal).collect::<Vec<_>>();
        requests.entry(id).or_default().extend(request.files);
        self.records.lock().unwrap().extend(request.records);
        Submitted { request: id, accepted: accepted - refused.len() as u64, refused, ..Submitted::default() }
    }
}

fn refusal(file: &FileRef) -> Refused {
    Refused { path: file.path.clone(), errno: 16, message: "it is in use".into() }
}

fn finished(path: &str) -> FinishedView {
    FinishedView {
        id: ActionId(1),
        request: 1,
        command: Action::Archive,
        archive_id: 1,
        path: path.to_owned(),
        error: Some(Failure::permanent(5, "the archive's disk is broken")),
        bytes: 0,
        created_ms: 0,
        finished_ms: 1,
    }
}

impl Control for NotingControl {
    fn submit(&self, request: SubmitRequest) -> Reply<'_, Submitted> {
        self.note((request.command, request.archive_id, request.force, String::from_utf8_lossy(&request.data)));
        let submitted = self.accept(request);
        async move { Ok(submitted) }.boxed()
    }
    fn request(&self, id: u64, wait: Duration) -> Reply<'_, RequestStatus> {
        let total = self.requests.lock().unwrap().get(&id).map_or(0, Vec::len) as u64;
        let failed = u64::from(self.end == End::OneFailed);
        let status =
            RequestStatus { total, succeeded: total - failed, failed, bytes: 4096, ..RequestStatus::default() };
        async move {
            if self.end == End::Never {
                self.polling.notify_one();
                tokio::time::sleep(wait).await;
                return Ok(RequestStatus { succeeded: 0, ..status });
            }
            Ok(status)
        }
        .boxed()
    }
    fn failures(&self, _: u64, _: FinishedQuery) -> Reply<'_, Vec<FinishedView>> {
        async { Ok(vec![finished("/fs/bad\x1bname")]) }.boxed()
    }
    fn release(&self, request: FilesRequest) -> Reply<'_, Released> {
        let refused =
            request.files.iter().filter(|file| file.path.contains("refused")).map(refusal).collect::<Vec<_>>();
        let released = (request.files.len() - refused.len()) as u64;
        async move { Ok(Released { released, bytes: released << 20, already: 0, refused }) }.boxed()
    }
    fn cancel(&self, request: CancelRequest) -> Reply<'_, Cancelled> {
        self.note(&request);
        async { Ok(Cancelled { cancelled: 2, not_found: 1, asked: 0 }) }.boxed()
    }
    fn files_status(&self, request: FilesRequest) -> Reply<'_, Vec<FileStatus>> {
        let of = |file: FileRef| FileStatus {
            path: file.path,
            handle: file.handle,
            managed: true,
            flags: vec!["exists".into(), "archived".into()],
            archive_id: 1,
            uuid: String::new(),
            hash: String::new(),
            url: String::new(),
            copies: Vec::new(),
            size: 5,
            archived_size: Some(5),
            dirty: false,
            action: None,
            error: None,
        };
        async move { Ok(request.files.into_iter().map(of).collect()) }.boxed()
    }
    fn files_set(&self, request: SetRequest) -> Reply<'_, FilesSet> {
        self.note((&request.set, &request.clear, request.archive_id));
        async move { Ok(FilesSet { changed: request.files.len() as u64, refused: Vec::new() }) }.boxed()
    }
    /// 2500 of them, to have pages.
    fn actions(&self, query: ActionsQuery) -> Reply<'_, Vec<ActionView>> {
        let first = query.after.unwrap_or(0) + 1;
        let page = (first..=2500).take(query.limit.unwrap_or(0)).map(queued).collect();
        async move { Ok(page) }.boxed()
    }
    fn finished(&self, _: FinishedQuery) -> Reply<'_, Vec<FinishedView>> {
        async { Ok(vec![finished("/fs/a"), FinishedView { error: None, ..finished("/fs/b") }]) }.boxed()
    }
    fn action(&self, id: ActionId) -> Reply<'_, ActionReport> {
        async move { Err(ControlError::new(ErrorCode::NotFound, format!("no action {id}"))) }.boxed()
    }
    fn status(&self) -> Reply<'_, StatusReport> {
        let source = SourceStatus { filesystem: "/data".into(), kind: "ext4".into(), ..SourceStatus::default() };
        let agent =
            serde_json::json!({ "plugins": [{ "name": "posix", "state": "running", "pid": 8, "restarts": 0 }] });
        async { Ok(StatusReport { version: "9.9".into(), pid: 7, started_ms: 0, agent, source }) }.boxed()
    }
}

fn queued(id: u64) -> ActionView {
    ActionView {
        id: ActionId(id),
        request: 1,
        command: Action::Archive,
        class: Class::Archive,
        archive_id: 1,
        path: format!("/fs/{id}"),
        state: ActionState::Queued,
        fid: None,
        cookie: None,
        mover: None,
        attempts: 0,
        bytes_done: 0,
        size: None,
        created_ms: 0,
        not_before_ms: 0,
        thawing_since_ms: None,
        last_error: None,
    }
}

/// A served `Control`, gone when dropped.
pub(crate) struct Served {
    _directory: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    pub(crate) control: Arc<NotingControl>,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Served {
    pub(crate) fn start(end: End) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let control = Arc::new(NotingControl { end, ..NotingControl::default() });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listening = {
            let _in_runtime = runtime.enter();
            AdminSocket::bind(&socket, None).unwrap()
        };
        runtime.spawn(serve(listening, control.clone(), std::future::pending()));
        Self { _directory: directory, socket, control, runtime }
    }

    /// `sifaka ARGS`, to be run.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = sifaka("sifaka");
        command.env("SIFAKA_SOCKET", &self.socket).args(args);
        command
    }

    /// `sifaka ARGS PATH`, run.
    pub(crate) fn run(&self, args: &[&str], path: &Path) -> Output {
        self.command(args).arg(path).output().unwrap()
    }
}

/// The program, under a name.
pub(crate) fn sifaka(name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sifaka"));
    command.arg0(name).stdin(Stdio::null()).env_remove("SIFAKA_SOCKET");
    command
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
