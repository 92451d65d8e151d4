//! The one answer to one action.

use crate::lane::Lane;
use model::limits::PROGRESS_INTERVAL_S;
use model::{ActionId, Extent, Failure, Identity};
use parking_lot::Mutex;
use proto::ReportBody;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

const EINTR: i32 = 4;
const EIO: i32 = 5;
const INTERVAL: Duration = Duration::from_secs(PROGRESS_INTERVAL_S);

/// Why an action should stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// Somebody cancelled it.
    Cancelled = 1,
    /// The process ends; the action can be tried again.
    Ending = 2,
}

/// What the lane and the reply both know of an action.
pub(crate) struct Running {
    lane: Arc<Lane>,
    id: ActionId,
    /// 0, or a [`Stop`]. Only the first counts.
    stop: AtomicU8,
    progress: Mutex<Progress>,
}

/// What was moved and not reported yet.
#[derive(Default)]
struct Progress {
    due: Option<Instant>,
    first_offset: u64,
    bytes: u64,
}

impl Running {
    pub(crate) fn new(lane: Arc<Lane>, id: ActionId) -> Self {
        Self { lane, id, stop: AtomicU8::new(0), progress: Mutex::default() }
    }

    pub(crate) fn id(&self) -> ActionId {
        self.id
    }

    pub(crate) fn stop(&self, why: Stop) {
        let _first_wins = self.stop.compare_exchange(0, why as u8, Ordering::AcqRel, Ordering::Acquire);
    }

    fn stopped(&self) -> Option<Stop> {
        match self.stop.load(Ordering::Acquire) {
            0 => None,
            n if n == Stop::Cancelled as u8 => Some(Stop::Cancelled),
            _ => Some(Stop::Ending),
        }
    }
}

/// The right and the duty to answer one action: it reports exactly one end. May be sent to, and used from, any thread.
///
/// Dropped without [`Reply::done`] or [`Reply::fail`], it reports a permanent failure that says so, so that no action
/// is ever lost.
#[must_use = "dropping a reply reports that the action failed"]
pub struct Reply {
    /// `None` once answered.
    running: Option<Arc<Running>>,
}

impl Reply {
    pub(crate) fn new(running: Arc<Running>) -> Self {
        Self { running: Some(running) }
    }

    /// Tells that these bytes were moved. Cheap enough to call for each chunk: at most one report every
    /// `PROGRESS_INTERVAL_S` seconds is sent, none before the first of these intervals has passed. A report carries
    /// the lowest offset and the sum of the bytes since the last.
    pub fn progress(&self, moved: Extent) {
        let Some(running) = &self.running else { return };
        let now = Instant::now();
        let mut progress = running.progress.lock();
        let due = *progress.due.get_or_insert(now + INTERVAL);
        progress.first_offset =
            if progress.bytes == 0 { moved.offset } else { progress.first_offset.min(moved.offset) };
        progress.bytes = progress.bytes.saturating_add(moved.length);
        if now < due || running.lane.outbox().is_full() {
            return;
        }
        let extent = Extent { offset: progress.first_offset, length: progress.bytes };
        *progress = Progress { due: Some(now + INTERVAL), ..Progress::default() };
        drop(progress);
        running.lane.report(running.id, ReportBody::Progress(extent));
    }

    /// Whether to stop: the action was cancelled, or the process ends. To be asked at least once a chunk
    /// (`CHUNK_SIZE_BYTES`). Clean up, then [`Reply::fail`] with anything: what is reported is that it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.stopped().is_some())
    }

    /// The same question, for whoever works on after this reply was handed on.
    pub fn cancellation(&self) -> impl Fn() -> bool + Send + Sync + 'static + use<> {
        let running = self.running.clone();
        move || running.as_ref().is_some_and(|running| running.stopped().is_some())
    }

    /// The action's id, for messages.
    #[must_use]
    pub fn id(&self) -> ActionId {
        self.running.as_ref().map(|running| running.id).unwrap_or_default()
    }

    /// It is done. For an archive the identity has to name the object; for a verify it has to bring the hash; a
    /// restore may bring the hash of what was written. Counts even when the action was cancelled meanwhile.
    pub fn done(mut self, identity: Identity) {
        self.end(|_| Some(ReportBody::Done { identity }));
    }

    /// It failed.
    pub fn fail(mut self, failure: Failure) {
        self.end(|stopped| Some(failed(stopped, failure)));
    }

    /// Leaves the action, of which nothing was begun, to the agent. Only after [`Handler::drain`](crate::Handler::drain) was called: until the
    /// streams close, the agent goes on counting it as this mover's.
    pub fn hand_back(mut self) {
        self.end(|stopped| match stopped {
            Some(Stop::Cancelled) => Some(ReportBody::Failed(Failure::cancelled())),
            Some(Stop::Ending) | None => None,
        });
    }

    fn end(&mut self, body: impl FnOnce(Option<Stop>) -> Option<ReportBody>) {
        if let Some(running) = self.running.take() {
            running.lane.end(running.id, body(running.stopped()));
        }
    }
}

/// What is reported for a failure of an action that was told to stop.
fn failed(stopped: Option<Stop>, failure: Failure) -> ReportBody {
    ReportBody::Failed(match stopped {
        None => failure,
        Some(Stop::Cancelled) => Failure::cancelled(),
        Some(Stop::Ending) => Failure::temporary(EINTR, "the mover was stopped before the action was done"),
    })
}

impl Drop for Reply {
    fn drop(&mut self) {
        let why = if std::thread::panicking() {
            "the mover panicked while it worked on this action; the panic is in its log"
        } else {
            "the mover dropped this action without a result, which is an error in the mover"
        };
        self.end(|stopped| Some(failed(stopped, Failure::permanent(EIO, why))));
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("id", &self.id()).field("cancelled", &self.is_cancelled()).finish()
    }
}
