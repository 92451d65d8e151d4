//! The actions of one registration: which are being worked on, and how each ends exactly once.

use crate::Handler;
use crate::outbox::Outbox;
use crate::reply::{Reply, Running, Stop};
use model::{ActionId, Failure};
use parking_lot::Mutex;
use proto::{Instruction, Report, ReportBody, WireError, pdm};
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::Notify;

const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;

/// One archive as registered.
pub(crate) struct Lane {
    handle: u64,
    archive: u32,
    handler: Arc<dyn Handler>,
    outbox: Arc<Outbox>,
    state: Mutex<State>,
    /// Told each time the last action ends while somebody waits for that.
    idle: Notify,
}

#[derive(Default)]
struct State {
    running: HashMap<ActionId, Arc<Running>>,
    /// Nothing begins any more.
    draining: bool,
    /// What came while draining, or was handed back: the agent's again when the streams close. Known only so that a
    /// cancel of one is answered at once.
    unbegun: HashSet<ActionId>,
}

impl Lane {
    pub(crate) fn new(handle: u64, archive: u32, handler: Arc<dyn Handler>, outbox: Arc<Outbox>) -> Arc<Self> {
        Arc::new(Self { handle, archive, handler, outbox, state: Mutex::default(), idle: Notify::new() })
    }

    pub(crate) fn handle(&self) -> u64 {
        self.handle
    }

    pub(crate) fn archive(&self) -> u32 {
        self.archive
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Takes one message of the agent's.
    pub(crate) fn take(self: &Arc<Self>, item: pdm::ActionItem) {
        let id = ActionId(item.id);
        match Instruction::try_from(item) {
            Ok(Instruction::Run(task)) => self.run(task),
            Ok(Instruction::Cancel(target)) => self.cancel(target),
            Err(error) => {
                let errno = if matches!(error, WireError::Command(_)) { EOPNOTSUPP } else { EINVAL };
                let failure = Failure::permanent(errno, format!("the mover cannot read action {id}: {error}"));
                self.report(id, ReportBody::Failed(failure));
            }
        }
    }

    fn run(self: &Arc<Self>, task: proto::Task) {
        let id = task.id;
        let running = Arc::new(Running::new(self.clone(), id));
        {
            let mut state = self.state.lock();
            if state.running.contains_key(&id) {
                // Two writers in one file would be worse; the first one's result answers both.
                tracing::warn!(%id, "the agent sent an action that is still running; ignored");
                return;
            }
            if state.draining {
                state.unbegun.insert(id);
                return;
            }
            state.running.insert(id, running.clone());
        }
        let reply = Reply::new(running);
        // The reply was moved into the call: when that unwinds, dropping it has reported the failure.
        if catch_unwind(AssertUnwindSafe(|| self.handler.accept(task, reply))).is_err() {
            tracing::error!(%id, "the mover panicked when it was given an action");
        }
    }

    /// An action that is neither running nor unbegun has ended, and its result is on the way: nothing to do.
    fn cancel(&self, id: ActionId) {
        let running = {
            let mut state = self.state.lock();
            if state.unbegun.remove(&id) {
                self.report(id, ReportBody::Failed(Failure::cancelled()));
                return;
            }
            state.running.get(&id).cloned()
        };
        if let Some(running) = running {
            running.stop(Stop::Cancelled);
            self.handler.cancel(id);
        }
    }

    /// Stops everything, because the process has to end.
    pub(crate) fn stop_all(&self) {
        let all: Vec<_> = self.state.lock().running.values().cloned().collect();
        for running in all {
            running.stop(Stop::Ending);
            self.handler.cancel(running.id());
        }
    }

    /// From now on obeys cancels only: hands back what the handler has not begun, and begins nothing that still comes.
    pub(crate) fn drain(&self) {
        self.state.lock().draining = true;
        self.handler.drain();
    }

    /// Waits until nothing runs, which lasts only after [`Lane::drain`]. Stops nothing.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.state.lock().running.is_empty() {
                return;
            }
            idle.await;
        }
    }

    pub(crate) fn report(&self, id: ActionId, body: ReportBody) {
        self.outbox.push(Report { id, handle: Some(self.handle), body });
    }

    /// The end of an action, with its report; without one it stays the agent's, which gives it to another mover when
    /// this one's streams have ended.
    ///
    /// Under one lock, so that neither can a retry with the same id arrive while the old entry is still there, nor can
    /// [`Lane::idle`] return before the report is in the outbox.
    pub(crate) fn end(&self, id: ActionId, body: Option<ReportBody>) {
        let mut state = self.state.lock();
        state.running.remove(&id);
        match body {
            Some(body) => self.report(id, body),
            None => {
                state.unbegun.insert(id);
            }
        }
        if state.running.is_empty() {
            self.idle.notify_waiters();
        }
    }
}
