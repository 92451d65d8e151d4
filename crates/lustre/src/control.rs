//! What the admin API can do on Lustre: tell what the agent has, and cancel it. Everything else is asked of Lustre itself.

use crate::entry::{Entry, now_ms};
use crate::source::{LustreSource, Shared};
use crate::state::{Active, Phase};
use agent::Endpoints;
use agent::admin::api::{
    ActionReport, ActionState, ActionView, ActionsQuery, CancelRequest, Cancelled, DEFAULT_LIMIT, FileStatus,
    FilesRequest, FilesSet, FinishedQuery, FinishedView, QueueCount, Released, Reloaded, RequestStatus, SetRequest,
    SourceStatus, StatusReport, SubmitRequest, Submitted,
};
use agent::admin::hosts::{DrainRequest, Draining, HostControl, HostsReport, drained};
use agent::admin::{Control, ControlError, ErrorCode, Reply};
use futures_util::FutureExt;
use model::{ActionId, Class, Extent, Fid};
use queue::{Finished, JournalItem, QueueError};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sys::lustre::{MAX_REQUEST_ITEMS, Request, RequestError, UserAction, request};

const ENOENT: i32 = 2;
const EAGAIN: i32 = 11;

/// The admin API's view of an agent on Lustre.
pub struct LustreControl {
    source: Arc<LustreSource>,
    /// As the configuration names it.
    filesystem: String,
    mount_root: PathBuf,
    started_ms: u64,
    agent_status: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
    reload: Option<Reload>,
    movers: Option<Arc<Endpoints>>,
    hosts: Option<Arc<dyn HostControl>>,
}

type Reload = Arc<dyn Fn() -> Result<Reloaded, ControlError> + Send + Sync>;

impl LustreControl {
    /// `agent_status` gives the agent's own part of the status.
    pub fn new(
        source: Arc<LustreSource>,
        filesystem: String,
        mount_root: PathBuf,
        agent_status: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) -> Self {
        let agent_status = Box::new(agent_status);
        Self {
            source,
            filesystem,
            mount_root,
            started_ms: now_ms(),
            agent_status,
            reload: None,
            movers: None,
            hosts: None,
        }
    }

    /// Has running actions told with the movers that have them.
    #[must_use]
    pub fn naming_movers(mut self, movers: Arc<Endpoints>) -> Self {
        self.movers = Some(movers);
        self
    }

    /// Has movers on other hosts told of and drained.
    #[must_use]
    pub fn with_hosts(mut self, hosts: Option<Arc<dyn HostControl>>) -> Self {
        self.hosts = hosts;
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

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, ControlError> {
        let shared = Arc::clone(&self.source.shared);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.map_err(|e| ControlError::new(ErrorCode::Internal, format!("the work was cut short: {e}")))?
    }
}

fn internal(error: QueueError) -> ControlError {
    ControlError::new(ErrorCode::Internal, error.to_string())
}

fn not_known(id: ActionId) -> ControlError {
    ControlError::new(ErrorCode::NotFound, format!("action {id} is not known (any more)"))
}

fn no_hosts<T: Send + 'static>() -> Reply<'static, T> {
    let message = "the movers of this agent are all on its host: its transport is not \"nats\"";
    let error = ControlError::new(ErrorCode::Unsupported, message);
    async move { Err(error) }.boxed()
}

/// For what Lustre itself is asked.
fn ask_lustre<T: Send + 'static>(what: &str) -> Reply<'static, T> {
    let message = format!(
        "on Lustre, {what} by Lustre itself (`sifaka` and `lfs` ask it when a path is there), not by the agent"
    );
    let error = ControlError::new(ErrorCode::Unsupported, message);
    async move { Err(error) }.boxed()
}

fn view(shared: &Shared, item: JournalItem) -> Option<ActionView> {
    let created_ms = item.item.created_ms;
    let state = shared.state.lock();
    if state.recording.contains(&item.id) {
        return None;
    }
    let active = state.active.get(&item.id);
    let entry = match active {
        Some(active) => Arc::clone(&active.entry),
        None => Arc::new(Entry::from_journal(item, false)?),
    };
    let shown = active.map_or("", |active| active.prepared.shown.as_str());
    let wait = active.map_or(0, |active| match active.phase {
        Phase::Waiting(until) => until.saturating_duration_since(Instant::now()).as_millis(),
        _ => 0,
    });
    let last_error = active.and_then(|active| active.last_failure.clone());
    Some(ActionView {
        id: ActionId(entry.id),
        request: 0,
        command: entry.command,
        class: entry.class,
        archive_id: entry.archive_id,
        path: entry.named(shown),
        fid: entry.fid().map(|fid| fid.to_string()),
        cookie: entry.fid().map(|_| format!("{:#x}", entry.cookie())),
        state: state_of(active),
        mover: None,
        attempts: active.map_or(0, |active| active.attempts),
        bytes_done: active.map_or(0, |active| active.bytes_done),
        size: active.map(|active| active.prepared.size),
        created_ms,
        not_before_ms: now_ms().saturating_add(u64::try_from(wait).unwrap_or(0)),
        thawing_since_ms: last_error.as_ref().and_then(|failure| failure.thaw).map(|_| created_ms),
        last_error,
    })
}

/// What is in the journal, and wanted.
fn live(shared: &Shared, query: &ActionsQuery) -> Result<Vec<ActionView>, ControlError> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    let wanted = |view: &ActionView| {
        query.command.is_none_or(|c| c == view.command)
            && query.archive.is_none_or(|a| a == view.archive_id)
            && query.request.is_none_or(|r| r == 0)
    };
    let (mut views, mut after) = (Vec::new(), query.after.unwrap_or(0));
    loop {
        let page = shared.journal.list(after, 1000).map_err(internal)?;
        let Some(last) = page.last() else { return Ok(views) };
        after = last.id;
        views.extend(page.into_iter().filter_map(|item| view(shared, item)).filter(wanted));
        if views.len() >= limit {
            views.truncate(limit);
            return Ok(views);
        }
    }
}

fn state_of(active: Option<&Active>) -> ActionState {
    match active {
        Some(Active { phase: Phase::Waiting(_), last_failure: Some(failure), .. }) if failure.thaw.is_some() => {
            ActionState::Thawing
        }
        Some(Active { phase: Phase::Waiting(_), last_failure: Some(_), .. }) => ActionState::Retrying,
        Some(Active { phase: Phase::Given | Phase::Ending, .. }) => ActionState::Running,
        Some(_) | None => ActionState::Queued,
    }
}

fn finished_view(finished: Finished) -> FinishedView {
    FinishedView {
        id: finished.id,
        request: 0,
        command: finished.command,
        archive_id: finished.archive_id,
        path: finished.path,
        error: finished.result.err(),
        bytes: finished.bytes,
        created_ms: finished.created_ms,
        finished_ms: finished.finished_ms,
    }
}

/// How a cancel went, and of how many actions the coordinator would not hear, with the reason of the first.
#[derive(Default)]
struct Canceling {
    done: Cancelled,
    refused: u64,
    why: Option<ControlError>,
}

impl Canceling {
    /// Asks the coordinator, which then asks this agent: so that both know. What it refuses keeps nothing else from being cancelled.
    ///
    /// # Errors
    /// The coordinator takes no requests.
    fn ask(&mut self, shared: &Shared, items: impl Iterator<Item = Entry>) -> Result<(), ControlError> {
        // A request is of one archive, or else the agent of the first file's hears of all.
        let mut by_archive: BTreeMap<u32, Vec<Fid>> = BTreeMap::new();
        for entry in items {
            match entry.fid() {
                Some(fid) => by_archive.entry(entry.archive_id).or_default().push(fid),
                None => self.done.not_found += 1,
            }
        }
        for (archive_id, fids) in by_archive {
            let mut left = fids.as_slice();
            while let Err(failed) = ask_to_cancel(shared, archive_id, left) {
                // One of the next is to blame.
                self.done.cancelled += failed.accepted as u64;
                let (next, rest) = split(left.get(failed.accepted..).unwrap_or_default(), MAX_REQUEST_ITEMS);
                next.iter().try_for_each(|fid| self.ask_one(shared, archive_id, *fid))?;
                left = rest;
            }
            self.done.cancelled += left.len() as u64;
        }
        Ok(())
    }

    fn ask_one(&mut self, shared: &Shared, archive_id: u32, fid: Fid) -> Result<(), ControlError> {
        let Err(error) = ask_to_cancel(shared, archive_id, &[fid]) else {
            self.done.cancelled += 1;
            return Ok(());
        };
        let message = format!("the coordinator does not cancel what it does for {fid}: {error}");
        let refusal = ControlError::new(ErrorCode::Unavailable, message);
        match error.source.raw_os_error() {
            // It ended meanwhile.
            Some(ENOENT) => self.done.not_found += 1,
            Some(EAGAIN) => return Err(refusal),
            _ => {
                self.refused += 1;
                self.why.get_or_insert(refusal);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Cancelled, ControlError> {
        let Some(why) = self.why else { return Ok(self.done) };
        let message = format!("{} cancelled, {} refused: {}", self.done.cancelled, self.refused, why.message);
        Err(ControlError::new(ErrorCode::Unavailable, message))
    }
}

fn split(fids: &[Fid], at: usize) -> (&[Fid], &[Fid]) {
    fids.split_at_checked(at).unwrap_or((fids, &[]))
}

/// Nothing happens of no files.
fn ask_to_cancel(shared: &Shared, archive_id: u32, fids: &[Fid]) -> Result<(), RequestError> {
    if fids.is_empty() {
        return Ok(());
    }
    let items: Vec<_> = fids.iter().map(|fid| (*fid, Extent::WHOLE)).collect();
    let asked = Request { action: UserAction::Cancel, archive_id, flags: 0, items: &items, data: b"" };
    request(&shared.library, &shared.config.mount, &asked)
}

fn cancel(shared: &Shared, ids: &[ActionId]) -> Result<Cancelled, ControlError> {
    let mut all = Canceling::default();
    let mut entries = Vec::new();
    for id in ids {
        let found = shared.journal.get(id.0).map_err(internal)?;
        match found.and_then(|item| Entry::from_journal(item, false)) {
            Some(entry) => entries.push(entry),
            None => all.done.not_found += 1,
        }
    }
    all.ask(shared, entries.into_iter())?;
    all.finish()
}

/// What is owed is nobody's to cancel.
fn cancel_all(shared: &Shared) -> Result<Cancelled, ControlError> {
    let mut all = Canceling::default();
    let mut after = 0;
    loop {
        let page = shared.journal.list(after, 1000).map_err(internal)?;
        let Some(last) = page.last() else { return all.finish() };
        after = last.id;
        let entries = page.into_iter().filter_map(|item| Entry::from_journal(item, false));
        all.ask(shared, entries.filter(|entry| entry.item.is_some()))?;
    }
}

impl Control for LustreControl {
    fn submit(&self, _: SubmitRequest) -> Reply<'_, Submitted> {
        ask_lustre("files are archived, restored and removed")
    }

    fn request(&self, _: u64, _: Duration) -> Reply<'_, RequestStatus> {
        ask_lustre("requests are kept")
    }

    fn failures(&self, _: u64, _: FinishedQuery) -> Reply<'_, Vec<FinishedView>> {
        ask_lustre("requests are kept")
    }

    fn release(&self, _: FilesRequest) -> Reply<'_, Released> {
        ask_lustre("files are released")
    }

    fn files_status(&self, _: FilesRequest) -> Reply<'_, Vec<FileStatus>> {
        ask_lustre("the state of files is told")
    }

    fn files_set(&self, _: SetRequest) -> Reply<'_, FilesSet> {
        ask_lustre("the state of files is changed")
    }

    fn cancel(&self, asked: CancelRequest) -> Reply<'_, Cancelled> {
        match asked {
            CancelRequest::Actions(ids) => Box::pin(self.blocking(move |shared| cancel(shared, &ids))),
            CancelRequest::All(_) => Box::pin(self.blocking(cancel_all)),
            CancelRequest::Files(_) | CancelRequest::Request(_) => ask_lustre("actions are canceled by their files"),
        }
    }

    fn hosts(&self) -> Reply<'_, HostsReport> {
        match &self.hosts {
            Some(hosts) => hosts.report().map(Ok).boxed(),
            None => no_hosts(),
        }
    }

    fn drain_host(&self, asked: DrainRequest) -> Reply<'_, Draining> {
        match &self.hosts {
            Some(hosts) => async move { drained(&asked.name, hosts.drain(asked.name.clone()).await) }.boxed(),
            None => no_hosts(),
        }
    }

    fn actions(&self, query: ActionsQuery) -> Reply<'_, Vec<ActionView>> {
        Box::pin(async move {
            let mut views = self.blocking(move |shared| live(shared, &query)).await?;
            self.name_movers(&mut views);
            Ok(views)
        })
    }

    fn finished(&self, query: FinishedQuery) -> Reply<'_, Vec<FinishedView>> {
        Box::pin(self.blocking(move |shared| {
            let found = shared.journal.ended(query.before.unwrap_or(u64::MAX), query.limit.unwrap_or(DEFAULT_LIMIT));
            Ok(found.map_err(internal)?.into_iter().map(finished_view).collect())
        }))
    }

    fn action(&self, id: ActionId) -> Reply<'_, ActionReport> {
        Box::pin(async move {
            let look = move |shared: &Shared| {
                if let Some(live) = shared.journal.get(id.0).map_err(internal)?.and_then(|item| view(shared, item)) {
                    return Ok(ActionReport::Live(live));
                }
                let page = shared.journal.ended(id.0.saturating_add(1), 1).map_err(internal)?;
                let ended = page.into_iter().find(|finished| finished.id == id).ok_or_else(|| not_known(id))?;
                Ok(ActionReport::Finished(finished_view(ended)))
            };
            let mut report = self.blocking(look).await?;
            if let ActionReport::Live(view) = &mut report {
                self.name_movers(std::slice::from_mut(view));
            }
            Ok(report)
        })
    }

    fn reload(&self) -> Reply<'_, Reloaded> {
        let reload = self.reload.clone();
        Box::pin(async move {
            let Some(reload) = reload else {
                return Err(ControlError::new(ErrorCode::Unsupported, "there is no file to read again"));
            };
            self.blocking(move |_| reload()).await
        })
    }

    fn status(&self) -> Reply<'_, StatusReport> {
        Box::pin(async move {
            let (counts, (succeeded, failed)) = self
                .blocking(|shared| {
                    let counts = shared.journal.counts().map_err(internal)?;
                    Ok((counts, shared.journal.totals().map_err(internal)?))
                })
                .await?;
            let readers = counts.iter().filter(|count| count.class == Class::Reader).map(|count| count.count).sum();
            let queue = counts.into_iter().map(|c| QueueCount {
                class: c.class,
                command: c.command,
                archive_id: c.archive_id,
                count: c.count,
            });
            Ok(StatusReport {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started_ms: self.started_ms,
                agent: (self.agent_status)(),
                source: SourceStatus {
                    filesystem: self.filesystem.clone(),
                    kind: "lustre".to_owned(),
                    mount_root: self.mount_root.display().to_string(),
                    guard: None,
                    queue: queue.collect(),
                    succeeded,
                    failed,
                    blocked_readers: readers,
                    damaged_chunks: 0,
                },
            })
        })
    }
}
