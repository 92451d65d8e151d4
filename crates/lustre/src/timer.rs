//! What happens by the clock: attempts that are due, progress, heartbeats, readers that waited too long, what waited for its turn for so long that the
//! coordinator has to hear of it; and ends are written down, many at once.

use crate::entry::{Entry, now_ms};
use crate::source::Shared;
use crate::state::{Phase, State, Stop};
use crate::workers::Job;
use model::{Class, Failure, Outcome};
use std::time::{Duration, Instant};

const ENOTCONN: i32 = 107;

/// How often it looks while something is under way.
const TICK: Duration = Duration::from_millis(100);
/// And while something only waits for its turn.
const LOOK: Duration = Duration::from_secs(1);
/// How often the agent is told that an action should end early: it may not have had it yet when it was told first.
const STOP_AGAIN: Duration = Duration::from_secs(1);
/// After ends could not be written down.
const FIRST_RECORD_PAUSE: Duration = Duration::from_secs(1);
const MAX_RECORD_PAUSE: Duration = Duration::from_secs(30);

impl Shared {
    /// The timer's thread.
    pub(crate) fn keep_time(&self) {
        let (mut record_at, mut pause) = (Instant::now(), FIRST_RECORD_PAUSE);
        loop {
            let closed = {
                let mut state = self.state.lock();
                if state.active.is_empty() && state.ended.is_empty() && !state.closed {
                    if state.lanes.is_empty() {
                        self.timer.wait(&mut state);
                    } else {
                        self.timer.wait_for(&mut state, LOOK);
                    }
                }
                state.closed
            };
            if Instant::now() >= record_at {
                if self.record_ends() {
                    pause = FIRST_RECORD_PAUSE;
                } else {
                    record_at = Instant::now() + pause;
                    pause = (pause * 2).min(MAX_RECORD_PAUSE);
                }
            }
            if closed {
                return;
            }
            self.tick();
            self.announce();
            let mut state = self.state.lock();
            if !state.closed {
                self.timer_pause.wait_for(&mut state, TICK);
            }
        }
    }

    fn tick(&self) {
        let reader_timeout = self.settings.lock().reader_timeout;
        let mut state = self.state.lock();
        let now = Instant::now();
        let (mut due, mut overdue, mut report, mut again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (id, active) in &mut state.active {
            let is_late = |limit: Duration| age(&active.entry) >= limit;
            if active.entry.class == Class::Reader && active.stop.is_none() && reader_timeout.is_some_and(is_late) {
                overdue.push(*id);
            }
            if active.phase == Phase::Given && active.stop_told.is_some_and(|told| told + STOP_AGAIN <= now) {
                active.stop_told = Some(now);
                again.push(*id);
            }
            if matches!(active.phase, Phase::Waiting(until) if until <= now) {
                due.push(*id);
            }
            if active.action.is_some() && !active.reporting && self.wants_report(active, now) {
                active.reporting = true;
                report.push(*id);
            }
        }
        state.cancels.extend(again);
        overdue.into_iter().for_each(|id| state.stop(id, Stop::TimedOut));
        due.into_iter().for_each(|id| self.try_again(&mut state, id, now));
        state.jobs.extend(report.into_iter().map(Job::Report));
        if let Some(limit) = reader_timeout {
            state.time_out(ago_ms(limit));
        }
        state.begin_early(ago_ms(self.config.patience.keep));
    }

    fn wants_report(&self, active: &crate::state::Active, now: Instant) -> bool {
        let patience = &self.config.patience;
        if !matches!(active.phase, Phase::Given | Phase::Queued | Phase::Waiting(_)) || active.stop.is_some() {
            return false;
        }
        let last = now.saturating_duration_since(active.reported);
        if active.is_early() {
            // It is told of as seldom as will do: of a restore that was told of, no other process takes over.
            return last >= patience.keep;
        }
        let loud = !active.entry.is_restore() || now.saturating_duration_since(active.since) >= patience.quiet_restore;
        last >= patience.heartbeat || loud && last >= patience.report && !active.extents.is_empty()
    }

    fn try_again(&self, state: &mut State, id: u64, now: Instant) {
        let Some(active) = state.active.get_mut(&id) else { return };
        let archive_id = active.entry.archive_id;
        if !state.is_served(archive_id) {
            return self.without_mover(state, id, now);
        }
        let registered = state.handle.is_some() && !state.renewing;
        let Some(active) = state.active.get_mut(&id) else { return };
        if !active.begun && active.entry.item.is_some() && !registered {
            // There is nothing to begin it with.
            state.wait(id, now + TICK);
        } else if active.begun {
            state.give(id);
        } else if active.reporting {
            // A worker has what it begins with.
            state.wait(id, now + TICK);
        } else {
            active.phase = Phase::Beginning;
            state.jobs.push_back(Job::Begin(id));
        }
    }

    /// Its mover is restarting: the agent would only give it back. One that does not come back must not hold the coordinator's slots for
    /// ever; a reader has a limit of his own.
    fn without_mover(&self, state: &mut State, id: u64, now: Instant) {
        let Some(active) = state.active.get_mut(&id) else { return };
        if active.entry.item.is_none() {
            return state.put_back(id);
        }
        let (archive_id, age) = (active.entry.archive_id, age(&active.entry));
        let is_reader = active.entry.class == Class::Reader;
        let away = state.away_for(archive_id).min(age);
        if is_reader || away < self.config.patience.hold {
            return state.wait(id, now + TICK);
        }
        let message = format!("archive {archive_id} has had no mover for {} s", away.as_secs());
        state.outcome(id, Outcome::Failed(Failure::temporary(ENOTCONN, message)));
    }

    /// What ended is taken out of the journal. When that fails it is tried again: at the worst, a later process begins what
    /// the coordinator does not know any more. Whether it was done.
    pub(crate) fn record_ends(&self) -> bool {
        let ended = std::mem::take(&mut self.state.lock().ended);
        if ended.is_empty() {
            return true;
        }
        match self.journal.end(&ended) {
            Ok(()) => {
                let mut state = self.state.lock();
                for end in &ended {
                    state.recording.remove(&end.id);
                }
                true
            }
            Err(error) => {
                tracing::error!(%error, "ends of actions are not written down yet");
                self.state.lock().ended.extend(ended);
                false
            }
        }
    }
}

/// Since it came, whichever process it came to.
fn age(entry: &Entry) -> Duration {
    Duration::from_millis(now_ms().saturating_sub(entry.created_ms))
}

fn ago_ms(age: Duration) -> u64 {
    now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}
