//! One registration of a mover: its queue, what it holds, and what it reports.
//!
//! A mover process has one endpoint for each archive it serves. Everything here happens in batches under one short lock, and
//! the mover's stream takes all that is queued without a task switch between messages. Which endpoint gets an action:
//! [`crate::Endpoints`].

mod stream;

pub use stream::ActionStream;

use crate::action::{Action, Addressed, Finished, Stop, Update};
use model::limits::{DEFAULT_CREDITS, MAX_CREDITS};
use model::{ActionId, Extent};
use parking_lot::Mutex;
use proto::{Capabilities, Instruction, ReportBody, pdm};
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Messages taken from the queue at once.
const DRAIN: usize = 256;

/// What a mover said when it registered, and who it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// The archive it serves.
    pub archive_id: u32,
    /// Its name and version, for people; may be empty.
    pub name: String,
    /// What it can do beyond Lemur's protocol.
    pub capabilities: Capabilities,
    /// How many actions it wanted at once when it registered; 0 for [`DEFAULT_CREDITS`].
    pub credits: u32,
    /// The connection it came by.
    pub connection: u64,
    /// Its process, as the kernel told.
    pub pid: Option<i32>,
    /// It stands for movers on other hosts: whether those hang is seen to there.
    pub remote: bool,
}

/// A registered mover.
pub struct Endpoint {
    handle: u64,
    registration: Registration,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// As in the registration, unless that changed since: see [`Endpoint::set_capabilities`].
    capabilities: Capabilities,
    /// How many actions it may have.
    credits: u32,
    actions: HashMap<u64, Held, BuildHasherDefault<IdHasher>>,
    outgoing: VecDeque<Outgoing>,
    stream: Option<Waker>,
    /// The last report, or when it got something after having had nothing.
    quiet_since: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// It has not asked for actions yet.
    Registered,
    /// Its stream is open.
    Serving,
    /// It closed its stream and goes on reporting about what it has.
    Draining,
    /// It is gone, or is to go.
    Closed,
}

struct Held {
    action: Action,
    sent: bool,
}

enum Outgoing {
    Run(ActionId),
    Cancel(ActionId),
}

/// Spreads ascending ids. They are ours, so nobody chooses them to collide.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte) ^ self.0);
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Why a mover gets no actions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// No such registration, or of another connection, or ended.
    #[error("handle {0} is not one of this connection: register first")]
    Unknown(u64),
    /// The stream was asked for before.
    #[error("handle {0} has its stream of actions already")]
    AlreadyOpen(u64),
}

/// What a batch of reports did.
#[derive(Default)]
pub(crate) struct Reported {
    pub(crate) finished: Vec<Finished>,
    pub(crate) progress: Vec<(ActionId, u64, Extent)>,
    /// About actions that the mover does not have.
    pub(crate) ignored: Vec<ActionId>,
    /// The mover wants more or fewer actions from now on.
    pub(crate) credits_changed: bool,
}

/// What an endpoint that is gone left.
pub(crate) struct Remains {
    /// The mover may have begun with these.
    pub(crate) sent: Vec<Action>,
    /// It never saw these.
    pub(crate) queued: Vec<Action>,
}

/// What an endpoint says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct EndpointStatus {
    /// Its handle.
    pub handle: u64,
    /// The archive it serves.
    pub archive_id: u32,
    /// Its name, as it gave it.
    pub name: String,
    /// Its process.
    pub pid: Option<i32>,
    /// Actions it has, queued and sent.
    pub in_flight: usize,
    /// How many it may have.
    pub credits: usize,
    /// Whether it can be told to stop an action.
    pub cancel: bool,
    /// Whether it can hash files.
    pub verify: bool,
    /// Whether it reads its configuration again when told to.
    pub reload: bool,
}

impl Endpoint {
    pub(crate) fn new(handle: u64, registration: Registration) -> Self {
        let credits = match registration.credits {
            0 => DEFAULT_CREDITS,
            credits => credits.min(MAX_CREDITS),
        };
        let state = State {
            phase: Phase::Registered,
            capabilities: registration.capabilities,
            credits,
            actions: HashMap::default(),
            outgoing: VecDeque::new(),
            stream: None,
            quiet_since: Instant::now(),
        };
        Self { handle, registration, state: Mutex::new(state) }
    }

    /// Its name towards the mover.
    #[must_use]
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// What the mover said of itself.
    #[must_use]
    pub fn registration(&self) -> &Registration {
        &self.registration
    }

    /// Whether it may be given an action that needs this.
    #[must_use]
    pub fn can(&self, needs: Capabilities) -> bool {
        self.capabilities().bits() & needs.bits() == needs.bits()
    }

    /// What it can do beyond Lemur's protocol.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.state.lock().capabilities
    }

    /// It can do this from now on, and nothing else: for one that stands for several movers.
    pub fn set_capabilities(&self, capabilities: Capabilities) {
        self.state.lock().capabilities = capabilities;
    }

    /// How many actions more it may have; 0 unless its stream is open.
    #[must_use]
    pub fn free(&self) -> usize {
        let state = self.state.lock();
        if state.phase != Phase::Serving {
            return 0;
        }
        (state.credits as usize).saturating_sub(state.actions.len())
    }

    /// How many actions it may have.
    #[must_use]
    pub fn credits(&self) -> usize {
        self.state.lock().credits as usize
    }

    /// What it says of itself.
    #[must_use]
    pub fn status(&self) -> EndpointStatus {
        let (in_flight, credits, capabilities) = {
            let state = self.state.lock();
            (state.actions.len(), state.credits as usize, state.capabilities)
        };
        EndpointStatus {
            handle: self.handle,
            archive_id: self.registration.archive_id,
            name: self.registration.name.clone(),
            pid: self.registration.pid,
            in_flight,
            credits,
            cancel: capabilities.cancel,
            verify: capabilities.verify,
            reload: capabilities.reload,
        }
    }

    /// The keys of what it has.
    pub(crate) fn for_each_key(&self, mut told: impl FnMut(u64)) {
        self.state.lock().actions.values().for_each(|held| told(held.action.key()));
    }

    /// Its name, for people; Lemur's plugins have none, and are known by their processes.
    pub(crate) fn called(&self) -> String {
        match (self.registration.name.as_str(), self.registration.pid) {
            ("", Some(pid)) => format!("pid {pid}"),
            ("", None) => format!("handle {}", self.handle),
            (name, _) => name.to_owned(),
        }
    }

    /// Queues actions for the mover's stream. Gives them back when the mover is gone.
    pub fn send(&self, actions: Vec<Action>) -> Result<(), Vec<Action>> {
        let mut state = self.state.lock();
        if state.phase != Phase::Serving {
            return Err(actions);
        }
        if state.actions.is_empty() {
            state.quiet_since = Instant::now();
        }
        for mut action in actions {
            action.set_handle(self.handle);
            state.outgoing.push_back(Outgoing::Run(action.id()));
            state.actions.insert(action.id().0, Held { action, sent: false });
        }
        state.wake();
        Ok(())
    }

    /// Opens the stream.
    pub(crate) fn open(&self) -> Result<(), OpenError> {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Registered => state.phase = Phase::Serving,
            Phase::Serving | Phase::Draining => return Err(OpenError::AlreadyOpen(self.handle)),
            Phase::Closed => return Err(OpenError::Unknown(self.handle)),
        }
        Ok(())
    }

    /// Moves messages that are queued to `out`. Ready with `false` when the endpoint is closed.
    fn poll_drain(&self, out: &mut VecDeque<pdm::ActionItem>, cx: &Context<'_>) -> Poll<bool> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.phase == Phase::Closed {
            return Poll::Ready(false);
        }
        while out.len() < DRAIN {
            match state.outgoing.pop_front() {
                None => break,
                Some(Outgoing::Cancel(id)) => out.push_back(Instruction::Cancel(id).into()),
                Some(Outgoing::Run(id)) => {
                    if let Some(held) = state.actions.get_mut(&id.0) {
                        held.sent = true;
                        out.push_back(held.action.as_message());
                    }
                }
            }
        }
        if !out.is_empty() {
            return Poll::Ready(true);
        }
        if !state.stream.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.stream = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Takes in reports about its actions.
    pub(crate) fn report(&self, reports: impl Iterator<Item = Addressed>, done: &mut Reported) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.quiet_since = Instant::now();
        for Addressed { id, ends, body, .. } in reports {
            if let Ok(ReportBody::Credits(credits)) = body {
                let credits = credits.min(MAX_CREDITS);
                done.credits_changed |= credits != state.credits;
                state.credits = credits;
                continue;
            }
            let Some(held) = state.actions.get_mut(&id.0).filter(|held| held.sent) else {
                done.ignored.push(id);
                continue;
            };
            match body.and_then(|body| held.action.update(body)) {
                Ok(Update::Progress(moved)) => done.progress.push((id, held.action.key(), moved)),
                Ok(Update::Completed(outcome)) => {
                    done.finished.extend(state.actions.remove(&id.0).map(|held| held.action.complete(outcome)));
                }
                Err(error) if ends => {
                    done.finished.extend(state.actions.remove(&id.0).map(|held| held.action.fail_wire(&error)));
                }
                Err(error) => tracing::warn!(mover = %self, %id, %error, "ignored a report that makes no sense"),
            }
        }
    }

    /// Whether the mover was given this action.
    pub(crate) fn owns(&self, id: ActionId) -> bool {
        self.state.lock().actions.contains_key(&id.0)
    }

    /// Stops the actions that `which` chooses: those not sent end here, for the others the mover is asked if it can do that.
    pub(crate) fn stop(&self, stop: Stop, which: impl Fn(&Action) -> bool, ended: &mut Vec<Finished>) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut queued = Vec::new();
        for (id, held) in state.actions.iter_mut().filter(|(_, held)| which(&held.action)) {
            let asked = held.action.stop().is_some();
            held.action.mark_stop(stop);
            if !held.sent {
                queued.push(*id);
            } else if state.capabilities.cancel && !asked {
                state.outgoing.push_front(Outgoing::Cancel(ActionId(*id)));
            }
        }
        if !queued.is_empty() {
            let gone = queued.iter().filter_map(|id| state.actions.remove(id));
            ended.extend(gone.map(|held| held.action.end_stopped(stop)));
            let actions = &state.actions;
            state.outgoing.retain(|out| !matches!(out, Outgoing::Run(id) if !actions.contains_key(&id.0)));
        }
        state.wake();
    }

    /// Whether it has actions and said nothing for `limit`.
    pub(crate) fn is_hung(&self, limit: Duration, now: Instant) -> bool {
        let state = self.state.lock();
        !self.registration.remote
            && !state.actions.is_empty()
            && now.saturating_duration_since(state.quiet_since) >= limit
    }

    /// Its stream is gone; gives what was not sent. What was is waited for.
    pub(crate) fn drain(&self) -> Vec<Action> {
        let mut state = self.state.lock();
        state.phase = Phase::Draining;
        state.outgoing.clear();
        let queued = state.actions.extract_if(|_, held| !held.sent);
        let mut queued: Vec<Action> = queued.map(|(_, held)| held.action).collect();
        queued.sort_unstable_by_key(Action::id);
        queued
    }

    /// Whether its stream is gone.
    pub(crate) fn is_draining(&self) -> bool {
        self.state.lock().phase == Phase::Draining
    }

    /// Ends the stream and takes everything back.
    pub(crate) fn close(&self) -> Remains {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.phase = Phase::Closed;
        state.outgoing.clear();
        state.wake();
        let mut held: Vec<Held> = std::mem::take(&mut state.actions).into_values().collect();
        held.sort_unstable_by_key(|held| held.action.id());
        let (sent, queued): (Vec<_>, Vec<_>) = held.into_iter().partition(|held| held.sent);
        let actions = |held: Vec<Held>| held.into_iter().map(|held| held.action).collect();
        Remains { sent: actions(sent), queued: actions(queued) }
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.stream.take() {
            waker.wake();
        }
    }
}

impl Remains {
    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.queued.is_empty()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Registration { archive_id, name, pid, .. } = &self.registration;
        let name = if name.is_empty() { "(unnamed)" } else { name };
        write!(f, "{} (archive {archive_id}, handle {}", name.escape_debug(), self.handle)?;
        match pid {
            Some(pid) => write!(f, ", pid {pid})"),
            None => f.write_str(")"),
        }
    }
}
