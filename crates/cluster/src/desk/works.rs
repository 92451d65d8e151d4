//! Works: from the delivery to the result that the agent has.

use super::{Desk, Output, PullId};
use crate::Time;
use model::limits::PROGRESS_INTERVAL_S;
use model::{ActionId, Extent, Identity, Outcome};
use proto::cluster::{MAX_HELD, Work};
use proto::{Report, ReportBody, Task, pdm};
use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

/// A work of the present epoch.
#[derive(Debug)]
pub(super) enum Entry {
    /// Delivered; the agent is asked whether it is to be run here.
    Claimed { archive: u32, serial: u32, ack_to: String, task: Box<Task> },
    /// A mover has it.
    Running { archive: u32, key: u64 },
    /// Its result is to be told.
    Ended { status: Box<pdm::ActionStatus> },
}

/// Bytes that were moved and not told yet: in one piece, or else the last piece with the length of all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved(Extent);

impl Moved {
    fn add(&mut self, extent: Extent) {
        let Extent { offset, length } = self.0;
        let offset = if offset.checked_add(length) == Some(extent.offset) { offset } else { extent.offset };
        self.0 = Extent { offset, length: length.saturating_add(extent.length) };
    }
}

impl Desk {
    /// A message came for a pull. Anything may be in it.
    pub fn delivered(&mut self, now: Time, pull: PullId, ack_to: String, payload: &[u8]) {
        self.advance(now);
        self.count_delivery(pull);
        self.take(now, ack_to, payload);
        self.settle(now);
    }

    fn take(&mut self, now: Time, ack_to: String, payload: &[u8]) {
        let work = match Work::decode(payload) {
            Ok(work) => work,
            Err(error) => {
                tracing::warn!(%error, "a message in the stream of works is none: removed");
                return self.out.push_back(Output::Ack { ack_to });
            }
        };
        let Work { epoch, serial, lane, task } = work;
        if epoch < self.epoch {
            return self.out.push_back(Output::Ack { ack_to });
        }
        if epoch > self.epoch {
            // Only the agent itself is believed that it leads: ask it.
            self.announce_at = now;
            return self.out.push_back(Output::GiveBack { ack_to, delay: self.terms.retry() });
        }
        let id = task.id.0;
        match self.works.get_mut(&id) {
            Some(Entry::Running { .. } | Entry::Ended { .. }) => return self.out.push_back(Output::Ack { ack_to }),
            Some(Entry::Claimed { serial: known, ack_to: first, .. }) => {
                // The same message again, or an earlier or later publication: one of them is enough.
                let last = if *known <= serial { mem::replace(first, ack_to) } else { ack_to };
                if *known != serial {
                    self.out.push_back(Output::Ack { ack_to: last });
                }
                *known = serial.max(*known);
                return;
            }
            None => {}
        }
        let archive = lane.pool.archive;
        let served = self.served.iter().any(|served| served.archive == archive && served.credits > 0);
        if !self.may_begin() || self.draining || !served || self.works.len() >= MAX_HELD {
            let delay = if served { Duration::ZERO } else { self.terms.retry() };
            return self.out.push_back(Output::GiveBack { ack_to, delay });
        }
        self.works.insert(id, Entry::Claimed { archive, serial, ack_to, task: Box::new(task) });
    }

    /// The agent's word on a claim.
    pub(super) fn decide(&mut self, id: u64, granted: bool) {
        if !matches!(self.works.get(&id), Some(Entry::Claimed { .. })) {
            return;
        }
        if let Some(Entry::Claimed { archive, ack_to, task, .. }) = self.works.remove(&id) {
            self.out.push_back(Output::Ack { ack_to });
            if granted {
                self.last_key += 1;
                let key = self.last_key;
                self.works.insert(id, Entry::Running { archive, key });
                self.movers.insert(key, Some(id));
                self.out.push_back(Output::Run { key, archive, task });
            }
        }
    }

    /// How a work ended, by its key.
    pub fn ended(&mut self, now: Time, key: u64, outcome: Outcome) {
        self.advance(now);
        if let Some(Some(id)) = self.movers.remove(&key) {
            let identity = |hash| Identity { hash, ..Identity::default() };
            let body = match outcome {
                Outcome::Archived(identity) => ReportBody::Done { identity },
                Outcome::Restored(hash) => ReportBody::Done { identity: identity(hash) },
                Outcome::Removed => ReportBody::Done { identity: identity(None) },
                Outcome::Verified(digest) => ReportBody::Done { identity: identity(Some(digest)) },
                Outcome::Failed(failure) => ReportBody::Failed(failure),
            };
            let status = Report { id: ActionId(id), handle: None, body }.into();
            self.works.insert(id, Entry::Ended { status: Box::new(status) });
            self.moved.remove(&id);
            self.finished = self.finished.saturating_add(1);
        }
        self.advance(now);
        self.settle(now);
    }

    /// A mover moved these bytes of a work.
    pub fn progress(&mut self, now: Time, key: u64, extent: Extent) {
        self.advance(now);
        if let Some(&Some(id)) = self.movers.get(&key).filter(|_| extent.length != u64::MAX) {
            self.moved_bytes = self.moved_bytes.saturating_add(extent.length);
            if self.moved.is_empty() {
                self.progress_at = now + Duration::from_secs(PROGRESS_INTERVAL_S).min(self.terms.announce_every());
            }
            self.moved.entry(id).and_modify(|moved| moved.add(extent)).or_insert(Moved(extent));
        }
        self.settle(now);
    }

    /// What is to be told of progress; it is not told again.
    pub(super) fn take_progress(&mut self, limit: usize) -> Vec<pdm::ActionStatus> {
        let mut statuses = Vec::new();
        while let Some((id, Moved(extent))) = (statuses.len() < limit).then(|| self.moved.pop_first()).flatten() {
            statuses.push(Report { id: ActionId(id), handle: None, body: ReportBody::Progress(extent) }.into());
        }
        statuses
    }

    /// Cancels works by the agent's ids.
    pub(super) fn cancel(&mut self, ids: &[u64]) {
        let key = |id| match self.works.get(id) {
            Some(Entry::Running { key, .. }) => Some(*key),
            _ => None,
        };
        let keys: Vec<u64> = ids.iter().filter_map(key).collect();
        if !keys.is_empty() {
            self.out.push_back(Output::Cancel(keys));
        }
    }

    /// Cancels everything that movers have.
    pub(super) fn cancel_all(&mut self) {
        if !self.movers.is_empty() {
            self.out.push_back(Output::Cancel(self.movers.keys().copied().collect()));
        }
    }

    /// Gives back what it only claims.
    pub(super) fn give_back_claims(&mut self) {
        self.works.retain(|_, entry| match entry {
            Entry::Claimed { ack_to, .. } => {
                self.out.push_back(Output::GiveBack { ack_to: mem::take(ack_to), delay: Duration::ZERO });
                false
            }
            Entry::Running { .. } | Entry::Ended { .. } => true,
        });
    }

    /// Forgets these works; what runs of them is stopped, and its end is of no interest.
    pub(super) fn forget(&mut self, ids: &[u64]) {
        self.cancel(ids);
        for id in ids {
            self.moved.remove(id);
            match self.works.remove(id) {
                Some(Entry::Running { key, .. }) => {
                    self.movers.insert(key, None);
                }
                Some(Entry::Claimed { ack_to, .. }) => self.out.push_back(Output::Ack { ack_to }),
                Some(Entry::Ended { .. }) | None => {}
            }
        }
    }

    /// Forgets everything: it is somebody else's now. What only was claimed goes back.
    pub(super) fn drop_works(&mut self) {
        self.give_back_claims();
        self.works.clear();
        self.moved.clear();
        self.movers.values_mut().for_each(|work| *work = None);
        self.cancel_all();
    }

    /// How many works of each archive there are that movers do not have done.
    pub(super) fn busy(&self) -> BTreeMap<u32, u32> {
        let mut busy = BTreeMap::new();
        for entry in self.works.values() {
            if let Entry::Claimed { archive, .. } | Entry::Running { archive, .. } = entry {
                *busy.entry(*archive).or_default() += 1;
            }
        }
        busy
    }
}
