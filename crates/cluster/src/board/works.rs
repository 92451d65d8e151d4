//! Works: from the offer to the result.

use super::{Board, MAX_LOSSES, Output};
use crate::{HostId, Lane, Pool, Time};
use model::{Command, Failure};
use proto::cluster::{Tell, Work};
use proto::{Report, ReportBody, Task, pdm};
use std::time::Duration;

const ENOTCONN: i32 = 107;
/// The wall clocks of hosts differ, and archives' filesystems have clocks of their own. Too early costs only time.
const CLOCK_SLACK_MS: u64 = 60_000;
/// A work that nobody claims is published again after longer and longer times, up to so many times the first.
const MAX_PATIENCE: u32 = 64;

/// A work without a result.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) lane: Lane,
    task: Task,
    offered_ms: u64,
    serial: u32,
    pub(super) state: State,
    losses: u32,
    tries: u32,
    pub(super) cancelled: bool,
    due: Option<Time>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Not in the stream.
    Queued,
    /// Perhaps in the stream.
    Publishing,
    /// In the stream, at this place.
    Published { at: u64 },
    /// Granted with an Ask of this number.
    Held { by: HostId, seq: u64 },
}

impl Entry {
    pub(super) fn is_held_by(&self, host: HostId) -> bool {
        matches!(self.state, State::Held { by, .. } if by == host)
    }

    fn is_held(&self) -> bool {
        matches!(self.state, State::Held { .. })
    }
}

impl Board {
    pub(super) fn accept(&mut self, now: Time, wall_ms: u64, pool: Pool, task: Task) {
        let id = task.id.0;
        let entry = Entry {
            lane: Lane { pool, class: task.class() },
            task,
            offered_ms: wall_ms,
            serial: 0,
            state: State::Queued,
            losses: 0,
            tries: 0,
            cancelled: false,
            due: None,
        };
        self.works.insert(id, entry);
        if self.deposed {
            self.fail(id, not_connected("this agent leads no more"));
        } else if self.open {
            self.publish(now, id);
        }
    }

    /// Stops a work. One that no host has ends at once, or when nothing of earlier epochs runs any more: the same action may be among that. Else its host is told until
    /// there is a result.
    pub fn cancel(&mut self, _now: Time, id: u64) {
        let Some(entry) = self.works.get_mut(&id) else { return };
        entry.cancelled = true;
        match entry.state {
            State::Held { by, .. } => {
                if let Some(host) = self.hosts.get_mut(&by) {
                    host.cancels.insert(id);
                }
                let tell = Tell { epoch: self.epoch, cancel: vec![id], ..Tell::default() };
                self.out.push_back(Output::Tell { to: Some(by.instance), payload: tell.encode() });
            }
            _ if self.open => self.fail(id, Failure::cancelled()),
            _ => {}
        }
    }

    /// What became of an [`Output::Publish`]: its place in the stream, or `None` when that is not known.
    pub fn published(&mut self, now: Time, id: u64, serial: u32, at: Option<u64>) {
        let Some(entry) = self.works.get_mut(&id).filter(|entry| entry.serial == serial) else {
            self.out.extend(at.map(|at| Output::Delete { at }));
            return;
        };
        if entry.state != State::Publishing {
            return;
        }
        let wait = match at {
            Some(at) => {
                entry.state = State::Published { at };
                self.terms.unclaimed() * (1 << (serial - 1).min(MAX_PATIENCE.ilog2()))
            }
            None => self.backoff(id),
        };
        self.set_due(id, Some(now + wait));
    }

    fn backoff(&self, id: u64) -> Duration {
        let tries = self.works.get(&id).map_or(0, |entry| entry.tries);
        (self.terms.retry() * (1 << tries.min(4))).min(self.terms.lease())
    }

    pub(super) fn publish_all(&mut self, now: Time) {
        let queued: Vec<u64> =
            self.works.iter().filter(|(_, entry)| entry.state == State::Queued).map(|(&id, _)| id).collect();
        for id in queued {
            if self.works.get(&id).is_some_and(|entry| entry.cancelled) {
                self.fail(id, Failure::cancelled());
            } else {
                self.publish(now, id);
            }
        }
    }

    /// A new publication.
    fn publish(&mut self, now: Time, id: u64) {
        if let Some(entry) = self.works.get_mut(&id) {
            entry.serial = entry.serial.saturating_add(1);
            entry.tries = 0;
            entry.state = State::Publishing;
            self.send(now, id);
        }
    }

    /// One attempt of a publication.
    fn send(&mut self, now: Time, id: u64) {
        let epoch = self.epoch;
        let Some(entry) = self.works.get_mut(&id) else { return };
        entry.tries = entry.tries.saturating_add(1);
        let serial = entry.serial;
        let work = Work { epoch, serial, lane: entry.lane.clone(), task: entry.task.clone() };
        let msg_id = format!("{epoch}-{id}-{serial}");
        let lane = entry.lane.clone();
        self.out.push_back(Output::Publish { lane, msg_id, id, serial, payload: work.encode() });
        let wait = self.backoff(id).max(self.terms.lease() / 3);
        self.set_due(id, Some(now + wait));
    }

    fn set_due(&mut self, id: u64, due: Option<Time>) {
        let Some(entry) = self.works.get_mut(&id) else { return };
        if let Some(at) = std::mem::replace(&mut entry.due, due) {
            self.due.remove(&(at, id));
        }
        self.due.extend(due.map(|at| (at, id)));
    }

    /// Publishes again what may have been lost on the way.
    pub(super) fn attend_works(&mut self, now: Time) {
        while let Some(&(at, id)) = self.due.first().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, id));
            let Some(entry) = self.works.get_mut(&id) else { continue };
            entry.due = None;
            match entry.state {
                State::Publishing => self.send(now, id),
                State::Published { at } => {
                    self.out.push_back(Output::Delete { at });
                    self.publish(now, id);
                }
                State::Queued | State::Held { .. } => {}
            }
        }
    }

    /// Whether a host may run a work from now on.
    pub(super) fn grant(&mut self, id: u64, host: HostId, seq: u64) -> bool {
        let open = self.open;
        let Some(entry) = self.works.get_mut(&id).filter(|_| open) else { return false };
        if entry.is_held() && !entry.is_held_by(host) {
            return false;
        }
        entry.state = State::Held { by: host, seq };
        self.set_due(id, None);
        if let Some(host) = self.hosts.get_mut(&host) {
            host.holds.insert(id);
        }
        true
    }

    /// A host has given a work back, or is gone (`lost`): it is published again, unless that happened too often.
    pub(super) fn take_back(&mut self, now: Time, id: u64, lost: bool) {
        let Some(entry) = self.works.get_mut(&id) else { return };
        let State::Held { by, .. } = entry.state else { return };
        entry.state = State::Queued;
        entry.losses += u32::from(lost);
        if entry.task.command == Command::Archive && entry.task.attempted_since_ms == 0 {
            entry.task.attempted_since_ms = entry.offered_ms.saturating_sub(CLOCK_SLACK_MS).max(1);
        }
        let (cancelled, losses) = (entry.cancelled, entry.losses);
        if let Some(host) = self.hosts.get_mut(&by) {
            host.holds.remove(&id);
            host.cancels.remove(&id);
        }
        if cancelled {
            self.fail(id, Failure::cancelled());
        } else if losses >= MAX_LOSSES {
            self.fail(id, not_connected(&format!("{losses} hosts were lost, or lost their movers, while they had it")));
        } else if self.open {
            self.publish(now, id);
        }
    }

    /// What a host says of a work that it holds.
    pub(super) fn take_status(&mut self, now: Time, host: HostId, status: pdm::ActionStatus) {
        let Some(entry) = self.works.get(&status.id).filter(|entry| entry.is_held_by(host)) else { return };
        let id = status.id;
        if !status.completed && status.error == 0 {
            self.out.push_back(Output::Status { pool: entry.lane.pool.clone(), status });
            return;
        }
        if status.error != 0 && !entry.cancelled {
            if status.error == ENOTCONN {
                return self.take_back(now, id, true);
            }
            // It had to stop, because it had not heard from here.
            if status.error == Failure::cancelled().errno {
                return self.take_back(now, id, false);
            }
        }
        self.finish(id, status);
    }

    pub(super) fn fail(&mut self, id: u64, failure: Failure) {
        let report = Report { id: model::ActionId(id), handle: None, body: ReportBody::Failed(failure) };
        self.finish(id, report.into());
    }

    /// The one result.
    fn finish(&mut self, id: u64, status: pdm::ActionStatus) {
        self.set_due(id, None);
        let Some(entry) = self.works.remove(&id) else { return };
        match entry.state {
            State::Held { by, .. } => {
                if let Some(host) = self.hosts.get_mut(&by) {
                    host.holds.remove(&id);
                    host.cancels.remove(&id);
                }
            }
            State::Published { at } => self.out.push_back(Output::Delete { at }),
            State::Queued | State::Publishing => {}
        }
        self.out.push_back(Output::Status { pool: entry.lane.pool, status });
    }

    /// Ends what nobody has, and nobody of the pool is there to claim.
    pub(super) fn end_unclaimed(&mut self, pool: &Pool) {
        let of_pool = |entry: &Entry| entry.lane.pool == *pool && !entry.is_held();
        let ids: Vec<u64> = self.works.iter().filter(|(_, entry)| of_pool(entry)).map(|(&id, _)| id).collect();
        for id in ids {
            self.fail(id, not_connected(&format!("no host of group {} serves archive {}", pool.group, pool.archive)));
        }
    }

    pub(super) fn end_all(&mut self) {
        let ids: Vec<u64> = self.works.keys().copied().collect();
        for id in ids {
            self.fail(id, not_connected("this agent leads no more"));
        }
    }
}

fn not_connected(why: &str) -> Failure {
    Failure::temporary(ENOTCONN, why)
}
