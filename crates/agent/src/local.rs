//! The coordinator of a local filesystem as the agent's source of actions, and as what the admin API controls.
//!
//! Translation only: what a request means is decided in the coordinator.

mod objects;

use crate::Endpoints;
use crate::admin::api::{
    ActionReport, ActionState, ActionView, ActionsQuery, CancelRequest, Cancelled, DEFAULT_LIMIT, FileRef, FileStatus,
    FilesRequest, FilesSet, FinishedQuery, FinishedView, FurtherCopy, GuardStatus, MAX_LIMIT, QueueCount, RecordRef,
    Refused, Released, Reloaded, RequestStatus, SetRequest, SourceStatus, StatusReport, SubmitRequest, Submitted,
    fsid_text,
};
use crate::admin::control::{Control, ControlError, ErrorCode, Reply};
use crate::admin::objects::{CloneRequest, Made, RetiredPage, RetiredRequest, UndeleteRequest};
use crate::source::{ActionSource, SourceError, Work};
use coordinator::{Engine, Entry, FileState, FlagChange, Refusal, Request, Running, Selection, Target, Thawing};
use futures_util::future::BoxFuture;
use model::{ActionId, Extent, Failure, FileHandle, HsmFlags, Outcome};
use queue::{Finished, ListFilter, QueueError, QueuedAction, RequestId};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How soon, and at least how often, a request that is waited for is looked at: in between after each twentieth of the time that it has taken so far.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_millis(100);

/// The coordinator, seen from the agent.
pub struct LocalSource {
    engine: Arc<Engine>,
}

impl LocalSource {
    /// Takes actions from `engine`.
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

impl ActionSource for LocalSource {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Work>, SourceError>> {
        Box::pin(async move {
            let works = self.engine.next(max).await;
            Ok(works
                .into_iter()
                .map(|d| Work {
                    key: d.key,
                    archive_id: d.archive_id,
                    command: d.command,
                    write_path: if d.command == model::Command::Restore { d.path.clone() } else { String::new() },
                    primary_path: d.path,
                    extent: d.extent,
                    data: d.data,
                    identity: d.identity,
                    file_path: d.file_path,
                    expected_size: d.expected_size,
                    tree_path: d.tree_path,
                    attempted_since_ms: d.attempted_since_ms,
                    metadata_only: d.metadata_only,
                    owner: d.owner,
                    reader_waits: d.class == model::Class::Reader,
                    // The engine does, through the same mount.
                    sync_target: false,
                    size: d.size,
                    keepalive: d.file.map(|f| Box::new(f) as _),
                })
                .collect())
        })
    }

    fn progress(&self, key: u64, moved: Extent) {
        self.engine.progress(key, moved);
    }

    fn complete(&self, results: Vec<(u64, Outcome)>) {
        self.engine.complete(results);
    }

    fn next_cancels(&self) -> BoxFuture<'_, Vec<u64>> {
        Box::pin(self.engine.next_cancels())
    }

    fn archives_changed(&self, served: &[(u32, usize)]) {
        self.engine.archives_changed(served);
    }

    fn in_flight_limit_changed(&self, limit: usize) {
        self.engine.in_flight_limit_changed(limit);
    }
}

/// The admin API's view of an agent with a local filesystem.
pub struct LocalControl {
    engine: Arc<Engine>,
    mount_point: PathBuf,
    mount_root: PathBuf,
    started_ms: u64,
    agent_status: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
    reload: Option<Reload>,
    movers: Option<Arc<Endpoints>>,
}

/// Reads the configuration again; may block.
type Reload = Arc<dyn Fn() -> Result<Reloaded, ControlError> + Send + Sync>;

impl LocalControl {
    /// `agent_status` gives the agent's own part of the status.
    pub fn new(
        engine: Arc<Engine>,
        mount_point: PathBuf,
        mount_root: PathBuf,
        agent_status: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) -> Self {
        Self {
            engine,
            mount_point,
            mount_root,
            started_ms: now_ms(),
            agent_status: Box::new(agent_status),
            reload: None,
            movers: None,
        }
    }

    /// Has running actions told with the movers that have them.
    #[must_use]
    pub fn naming_movers(mut self, movers: Arc<Endpoints>) -> Self {
        self.movers = Some(movers);
        self
    }

    fn name_movers(&self, views: &mut [ActionView]) {
        self.movers.iter().for_each(|movers| movers.name_in(views));
    }

    /// Has `reload` called when the configuration is to be read again, on a thread that may block.
    #[must_use]
    pub fn on_reload(mut self, reload: impl Fn() -> Result<Reloaded, ControlError> + Send + Sync + 'static) -> Self {
        self.reload = Some(Arc::new(reload));
        self
    }

    /// Splits off files of other filesystems: their handles mean something else here.
    fn own_files(&self, files: Vec<FileRef>) -> (Vec<Target>, Vec<Refused>) {
        let own = fsid_text(self.engine.filesystem().fsid);
        let (here, elsewhere): (Vec<_>, Vec<_>) = files.into_iter().partition(|f| f.fsid.eq_ignore_ascii_case(&own));
        let message = format!("it is not on {}, which this agent manages", self.mount_point.display());
        let refuse = |f: FileRef| Refused { path: f.path, errno: 18, message: message.clone() };
        let target = |f: FileRef| Target { handle: f.handle, path: f.path };
        (here.into_iter().map(target).collect(), elsewhere.into_iter().map(refuse).collect())
    }

    /// What is on other filesystems belongs to other agents; a path above this one's root leads there, so nobody is told.
    fn own_entries(&self, records: Vec<RecordRef>) -> Vec<Entry> {
        let own = fsid_text(self.engine.filesystem().fsid);
        let here = records.into_iter().filter(|r| r.fsid.eq_ignore_ascii_case(&own));
        let entry = |r: RecordRef| {
            let RecordRef { handle, path, parent, name, .. } = r;
            Entry { handle, path, place: parent.map(|parent| (parent, name)) }
        };
        here.map(entry).collect()
    }

    /// Runs a look at the queue on a thread that may block.
    async fn with_queue<T: Send + 'static>(
        &self,
        look: impl FnOnce(&dyn queue::Queue) -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, ControlError> {
        let queue = Arc::clone(self.engine.queue());
        blocking(move || look(queue.as_ref())).await?.map_err(|e| ControlError::new(ErrorCode::Internal, e.to_string()))
    }

    fn running(&self) -> HashMap<ActionId, Running> {
        self.engine.running().into_iter().map(|r| (r.id, r)).collect()
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ControlError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| ControlError::new(ErrorCode::Internal, format!("the work was cut short: {e}")))
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(0)
}

fn refused(refusal: Refusal) -> Refused {
    Refused { path: refusal.path, errno: refusal.failure.errno, message: refusal.failure.message }
}

fn control_error(failure: Failure) -> ControlError {
    ControlError::new(ErrorCode::Unavailable, failure.message)
}

fn view(entry: QueuedAction, running: Option<&Running>) -> ActionView {
    let thaw = entry.last_failure.as_ref().and_then(|failure| failure.thaw);
    let state = match (running, entry.attempts) {
        (Some(_), _) => ActionState::Running,
        (None, _) if thaw.is_some() => ActionState::Thawing,
        (None, 0) => ActionState::Queued,
        (None, _) => ActionState::Retrying,
    };
    ActionView {
        id: entry.id,
        request: entry.action.request.0,
        command: entry.action.command,
        class: entry.action.class,
        archive_id: entry.action.archive_id,
        path: entry.action.path,
        fid: None,
        cookie: None,
        state,
        mover: None,
        attempts: entry.attempts,
        bytes_done: running.map_or(0, |r| r.bytes_done),
        size: running.map(|r| r.size),
        created_ms: entry.action.created_ms,
        not_before_ms: entry.action.not_before_ms,
        thawing_since_ms: thaw.map(|thaw| thaw.since_ms),
        last_error: entry.last_failure,
    }
}

/// An action that is in no queue: a restore for a blocked reader, a hash for a release.
fn ephemeral_view(running: &Running) -> ActionView {
    ActionView {
        id: running.id,
        request: 0,
        command: running.command,
        class: running.class,
        archive_id: running.archive_id,
        path: running.path.clone(),
        fid: None,
        cookie: None,
        state: ActionState::Running,
        mover: None,
        attempts: 0,
        bytes_done: running.bytes_done,
        size: Some(running.size),
        created_ms: 0,
        not_before_ms: 0,
        thawing_since_ms: None,
        last_error: None,
    }
}

/// A restore that blocked readers wait for, and that waits for a thaw.
fn thawing_view(thawing: Thawing) -> ActionView {
    ActionView {
        id: thawing.id,
        request: 0,
        command: model::Command::Restore,
        class: model::Class::Reader,
        archive_id: thawing.archive_id,
        path: thawing.path,
        fid: None,
        cookie: None,
        state: ActionState::Thawing,
        mover: None,
        attempts: 0,
        bytes_done: 0,
        size: None,
        created_ms: thawing.since_ms,
        not_before_ms: thawing.again_ms,
        thawing_since_ms: Some(thawing.since_ms),
        last_error: Some(thawing.said),
    }
}

fn finished_view(finished: Finished) -> FinishedView {
    FinishedView {
        id: finished.id,
        request: finished.request.0,
        command: finished.command,
        archive_id: finished.archive_id,
        path: finished.path,
        error: finished.result.err(),
        bytes: finished.bytes,
        created_ms: finished.created_ms,
        finished_ms: finished.finished_ms,
    }
}

impl Control for LocalControl {
    fn submit(&self, request: SubmitRequest) -> Reply<'_, Submitted> {
        Box::pin(async move {
            let (files, mut refusals) = self.own_files(request.files);
            let asked = Request {
                entries: self.own_entries(request.records),
                command: request.command.into(),
                archive_id: request.archive_id,
                copies: request.copies,
                data: request.data,
                request: request.request,
                force: request.force,
                files,
            };
            let accepted = self.engine.request(asked).await.map_err(control_error)?;
            refusals.extend(accepted.refused.into_iter().map(refused));
            Ok(Submitted {
                request: accepted.request,
                accepted: accepted.files,
                records: accepted.records,
                already: accepted.already,
                refused: refusals,
            })
        })
    }

    fn request(&self, id: u64, wait: Duration) -> Reply<'_, RequestStatus> {
        Box::pin(async move {
            let begun = Instant::now();
            let deadline = begun + wait;
            loop {
                let found = self.with_queue(move |q| q.request(RequestId(id))).await?;
                let Some(status) = found else {
                    if self.engine.is_recent_request(id) {
                        // None of its files needed an action.
                        return Ok(RequestStatus::default());
                    }
                    return Err(ControlError::new(
                        ErrorCode::NotFound,
                        format!("request {id} is not known (any more)"),
                    ));
                };
                let status = RequestStatus {
                    total: status.total,
                    succeeded: status.succeeded,
                    failed: status.failed,
                    cancelled: status.cancelled,
                    bytes: status.bytes,
                    in_flight_bytes: self.engine.running().iter().map(|r| r.bytes_done).sum(),
                };
                let left = deadline.saturating_duration_since(Instant::now());
                if status.is_finished() || left.is_zero() {
                    return Ok(status);
                }
                let look = (begun.elapsed() / 20).clamp(FIRST_LOOK, LAST_LOOK);
                tokio::time::sleep(look.min(left)).await;
            }
        })
    }

    fn failures(&self, id: u64, query: FinishedQuery) -> Reply<'_, Vec<FinishedView>> {
        Box::pin(async move {
            let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
            let mut before = query.before.map_or(ActionId(u64::MAX), ActionId);
            self.with_queue(move |q| {
                let mut found = Vec::new();
                loop {
                    let page = q.finished(before, MAX_LIMIT)?;
                    let Some(last) = page.last() else { return Ok(found) };
                    before = last.id;
                    found
                        .extend(page.into_iter().filter(|f| f.request.0 == id && f.result.is_err()).map(finished_view));
                    if found.len() >= limit {
                        found.truncate(limit);
                        return Ok(found);
                    }
                }
            })
            .await
        })
    }

    fn release(&self, request: FilesRequest) -> Reply<'_, Released> {
        Box::pin(async move {
            let (files, mut refusals) = self.own_files(request.files);
            let report = self.engine.release(files).await;
            refusals.extend(report.refused.into_iter().map(refused));
            Ok(Released { released: report.released, bytes: report.bytes, already: report.already, refused: refusals })
        })
    }

    fn cancel(&self, request: CancelRequest) -> Reply<'_, Cancelled> {
        Box::pin(async move {
            let selection = match request {
                CancelRequest::Files(files) => {
                    Selection::Files(self.own_files(files).0.into_iter().map(|t| t.handle).collect())
                }
                CancelRequest::Actions(ids) => Selection::Actions(ids),
                CancelRequest::Request(id) => Selection::Actions(self.all(Some(RequestId(id))).await?),
                CancelRequest::All(_) => Selection::Actions(self.all(None).await?),
            };
            let (cancelled, not_found) = self.engine.cancel(selection).await;
            Ok(Cancelled { cancelled, not_found, asked: 0 })
        })
    }

    fn files_status(&self, request: FilesRequest) -> Reply<'_, Vec<FileStatus>> {
        Box::pin(async move {
            let own = fsid_text(self.engine.filesystem().fsid);
            let engine = Arc::clone(&self.engine);
            let running = self.running();
            blocking(move || {
                let look = |file: FileRef| {
                    if file.fsid.eq_ignore_ascii_case(&own) {
                        file_status(&engine, &file, &running)
                    } else {
                        let error = Some("it is not on the filesystem that this agent manages".to_owned());
                        FileStatus { error, ..unmanaged(&file.handle, &file.path) }
                    }
                };
                request.files.into_iter().map(look).collect()
            })
            .await
        })
    }

    fn files_set(&self, request: SetRequest) -> Reply<'_, FilesSet> {
        Box::pin(async move {
            let flags = |names: &[String]| {
                names.iter().filter_map(|n| HsmFlags::from_name(n)).fold(HsmFlags::empty(), HsmFlags::with)
            };
            let (set, clear) = (flags(&request.set), flags(&request.clear));
            let (files, refusals) = self.own_files(request.files);
            let mut done = FilesSet { changed: 0, refused: refusals };
            for target in files {
                let change = FlagChange { file: target.handle, set, clear, archive_id: request.archive_id };
                match self.engine.set_flags(change).await {
                    Ok(changed) => done.changed += u64::from(changed),
                    Err(failure) => done.refused.push(refused(Refusal { path: target.path, failure })),
                }
            }
            let engine = Arc::clone(&self.engine);
            let synced = blocking(move || engine.filesystem().sync()).await?;
            synced.map_err(|e| {
                ControlError::new(ErrorCode::Internal, format!("the flags may not survive a crash: {e}"))
            })?;
            Ok(done)
        })
    }

    fn actions(&self, query: ActionsQuery) -> Reply<'_, Vec<ActionView>> {
        Box::pin(async move {
            let filter =
                ListFilter { command: query.command, archive_id: query.archive, request: query.request.map(RequestId) };
            let (after, limit) = (ActionId(query.after.unwrap_or(0)), query.limit.unwrap_or(DEFAULT_LIMIT));
            let running = self.running();
            let wanted = |view: &ActionView| {
                view.id.0 >= 1 << 63
                    && view.id > after
                    && query.request.is_none()
                    && query.command.is_none_or(|c| c == view.command)
                    && query.archive.is_none_or(|a| a == view.archive_id)
            };
            let thawing = self.engine.thawing().into_iter().map(thawing_view);
            let ephemeral: Vec<_> = running.values().map(ephemeral_view).chain(thawing).filter(wanted).collect();
            let entries = self.with_queue(move |q| q.list(&filter, after, limit)).await?;
            let mut views: Vec<_> = entries
                .into_iter()
                .map(|e| {
                    let r = running.get(&e.id);
                    view(e, r)
                })
                .collect();
            views.extend(ephemeral);
            views.truncate(limit);
            self.name_movers(&mut views);
            Ok(views)
        })
    }

    fn clone_files(&self, request: CloneRequest) -> Reply<'_, Made> {
        Box::pin(self.make_clones(request))
    }

    fn undelete(&self, request: UndeleteRequest) -> Reply<'_, Made> {
        Box::pin(self.undelete_files(request))
    }

    fn retired(&self, request: RetiredRequest) -> Reply<'_, RetiredPage> {
        Box::pin(self.retired_objects(request))
    }

    fn finished(&self, query: FinishedQuery) -> Reply<'_, Vec<FinishedView>> {
        Box::pin(async move {
            let before = query.before.map_or(ActionId(u64::MAX), ActionId);
            let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
            let page = self.with_queue(move |q| q.finished(before, limit)).await?;
            Ok(page.into_iter().map(finished_view).collect())
        })
    }

    fn action(&self, id: ActionId) -> Reply<'_, ActionReport> {
        Box::pin(async move {
            let running = self.engine.running_action(id);
            let thawing = self.engine.thawing().into_iter().find(|thawing| thawing.id == id);
            let (live, ended) = self.with_queue(move |q| Ok((q.get(id)?, q.result(id)?))).await?;
            let mut live = match (live, ended, running) {
                (Some(entry), _, running) => view(entry, running.as_ref()),
                (None, Some(finished), _) => return Ok(ActionReport::Finished(finished_view(finished))),
                (None, None, Some(running)) => ephemeral_view(&running),
                (None, None, None) => match thawing {
                    Some(thawing) => thawing_view(thawing),
                    None => {
                        return Err(ControlError::new(
                            ErrorCode::NotFound,
                            format!("action {id} is not known (any more)"),
                        ));
                    }
                },
            };
            self.name_movers(std::slice::from_mut(&mut live));
            Ok(ActionReport::Live(live))
        })
    }

    fn reload(&self) -> Reply<'_, Reloaded> {
        let reload = self.reload.clone();
        Box::pin(async move {
            let Some(reload) = reload else {
                return Err(ControlError::new(ErrorCode::Unsupported, "there is no file to read again"));
            };
            blocking(move || reload()).await?
        })
    }

    fn status(&self) -> Reply<'_, StatusReport> {
        Box::pin(async move {
            let totals = self.with_queue(|q| q.totals()).await?;
            let guard = self.engine.guard_info().map(|g| GuardStatus {
                pid: g.pid,
                restarts: g.guard_restarts,
                events: g.events,
                waiting_readers: g.waiting,
            });
            let count = |(class, command, archive_id, count)| QueueCount { class, command, archive_id, count };
            Ok(StatusReport {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started_ms: self.started_ms,
                agent: (self.agent_status)(),
                source: SourceStatus {
                    filesystem: self.mount_point.display().to_string(),
                    kind: self.engine.filesystem().kind.clone(),
                    mount_root: self.mount_root.display().to_string(),
                    guard,
                    queue: totals.live.into_iter().map(count).collect(),
                    succeeded: totals.succeeded,
                    failed: totals.failed,
                    blocked_readers: self.engine.blocked_readers(),
                    damaged_chunks: self.engine.damaged_chunks(),
                },
            })
        })
    }
}

impl LocalControl {
    /// The ids of all live actions, or those of one request.
    async fn all(&self, request: Option<RequestId>) -> Result<Vec<ActionId>, ControlError> {
        let filter = ListFilter { request, ..ListFilter::default() };
        self.with_queue(move |q| {
            let (mut ids, mut after) = (Vec::new(), ActionId(0));
            loop {
                let page = q.list(&filter, after, 10_000)?;
                let Some(last) = page.last() else { return Ok(ids) };
                after = last.id;
                ids.extend(page.into_iter().map(|e| e.id));
            }
        })
        .await
    }
}

fn unmanaged(handle: &FileHandle, path: &str) -> FileStatus {
    FileStatus {
        path: path.to_owned(),
        handle: handle.clone(),
        managed: false,
        flags: Vec::new(),
        archive_id: 0,
        uuid: String::new(),
        hash: String::new(),
        url: String::new(),
        copies: Vec::new(),
        size: 0,
        archived_size: None,
        dirty: false,
        action: None,
        error: None,
    }
}

fn file_status(engine: &Engine, file: &FileRef, running: &HashMap<ActionId, Running>) -> FileStatus {
    let base = unmanaged(&file.handle, &file.path);
    let failed = |why: String| FileStatus { error: Some(why), ..base.clone() };
    // Only its attributes are looked at: no event is raised, so a released file stays released.
    let fd = match engine.filesystem().open(&file.handle, sys::OFlags::PATH) {
        Ok(fd) => fd,
        Err(error) => return failed(format!("cannot open it by its handle: {error}")),
    };
    let (state, stamp) = match (FileState::read(&fd), sys::file::stamp(&fd)) {
        (Ok(state), Ok(stamp)) => (state, stamp),
        (Err(error), _) => return failed(error.to_string()),
        (_, Err(error)) => return failed(format!("cannot look at it: {error}")),
    };
    let flags = state.hsm.flags;
    let archived = flags.contains(HsmFlags::ARCHIVED);
    let now = coordinator::stamp_of(&stamp);
    let differs = state.record.as_ref().is_some_and(|r| r.size != now.size || r.mtime != now.mtime);
    let live = engine.queue().of_file(&file.handle).unwrap_or_default().into_iter().next();
    let further = |copy: model::Copy| FurtherCopy {
        archive_id: copy.archive_id,
        uuid: copy.identity.uuid,
        hash: copy.identity.hash.map(|h| h.to_string()).unwrap_or_default(),
        url: copy.identity.url,
    };
    FileStatus {
        copies: coordinator::further_copies(&fd, &state).into_iter().map(further).collect(),
        managed: flags != HsmFlags::empty() || !state.identity.uuid.is_empty(),
        flags: flags.names().map(str::to_owned).collect(),
        archive_id: state.hsm.archive_id,
        hash: state.identity.hash.map(|h| h.to_string()).unwrap_or_default(),
        uuid: state.identity.uuid,
        url: state.identity.url,
        size: stamp.size,
        archived_size: state.record.as_ref().map(|r| r.size),
        dirty: flags.contains(HsmFlags::DIRTY) || (archived && !flags.contains(HsmFlags::RELEASED) && differs),
        action: live.map(|entry| {
            let r = running.get(&entry.id);
            view(entry, r)
        }),
        ..base
    }
}
