//! Asks and their answers: one at a time.

use super::works::Entry;
use super::{Desk, Output};
use crate::Time;
use proto::cluster::{Announce, Answer, Ask, MAX_ASK_ITEMS, Tell, VERSION};

/// Results in one Ask, by bytes of their texts at most: the rest comes with the next.
const MAX_RESULT_BYTES: usize = 512 << 10;

/// An Ask that is not answered.
#[derive(Debug)]
pub(super) struct Flight {
    seq: u64,
    sent: Time,
    gives_up: Time,
    results: Vec<u64>,
    claims: Vec<u64>,
    announced: bool,
    leaving: bool,
}

impl Desk {
    /// When an Ask is due, or is given up.
    pub(super) fn ask_at(&self) -> Option<Time> {
        match &self.flight {
            Some(flight) => Some(flight.gives_up),
            None if !self.registered || self.over => None,
            None if self.moved.is_empty() => Some(self.announce_at),
            None => Some(self.announce_at.min(self.progress_at)),
        }
    }

    /// Sends an Ask if there is something to say and none is under way.
    pub(super) fn ask(&mut self, now: Time) {
        if self.flight.as_ref().is_some_and(|flight| now >= flight.gives_up) {
            self.fail_flight(now);
        }
        let leaving = self.draining && self.is_idle();
        if self.flight.is_some() || !self.registered || self.over || self.left || (leaving && self.lease.is_none()) {
            return;
        }
        let announced = now >= self.announce_at || leaving;
        let progress = !self.moved.is_empty() && now >= self.progress_at;
        let urgent = self.works.values().any(|entry| !matches!(entry, Entry::Running { .. }));
        if !(announced || progress || (urgent && self.lease.is_some())) {
            return;
        }
        let (mut statuses, results) = self.results();
        let claims = self.claims();
        statuses.extend(self.take_progress(MAX_ASK_ITEMS - statuses.len()));
        self.last_seq += 1;
        let seq = self.last_seq;
        let announce = announced.then(|| self.announcement(&results, leaving));
        let wait = self.terms.retry() * (1 << self.unanswered.min(4));
        let gives_up = now + wait.min(self.terms.announce_every());
        self.flight = Some(Flight { seq, sent: now, gives_up, results, claims: claims.clone(), announced, leaving });
        let ask = Ask { from: self.id(), seq, epoch: self.epoch, announce, statuses, claims };
        self.out.push_back(Output::Ask { seq, payload: ask.encode() });
    }

    fn results(&self) -> (Vec<proto::pdm::ActionStatus>, Vec<u64>) {
        let (mut statuses, mut ids, mut bytes) = (Vec::new(), Vec::new(), 0usize);
        for (&id, entry) in &self.works {
            if let Entry::Ended { status } = entry {
                bytes += 128 + status.uuid.len() + status.url.len() + status.hash.len() + status.error_text.len();
                if ids.len() >= MAX_ASK_ITEMS || (bytes > MAX_RESULT_BYTES && !ids.is_empty()) {
                    break;
                }
                ids.push(id);
                statuses.push((**status).clone());
            }
        }
        (statuses, ids)
    }

    fn claims(&self) -> Vec<u64> {
        if !self.may_begin() {
            return Vec::new();
        }
        let claimed = |(&id, entry): (&u64, &Entry)| matches!(entry, Entry::Claimed { .. }).then_some(id);
        self.works.iter().filter_map(claimed).take(MAX_ASK_ITEMS).collect()
    }

    fn announcement(&self, told: &[u64], leaving: bool) -> Announce {
        let ending = self.movers.values().filter(|work| work.is_none()).count();
        Announce {
            version: VERSION,
            name: self.identity.name.clone(),
            software: self.identity.software.clone(),
            groups: self.identity.groups.clone(),
            labels: self.identity.labels.clone(),
            served: self.served.clone(),
            draining: self.draining,
            leaving,
            held: self.works.keys().copied().filter(|id| told.binary_search(id).is_err()).collect(),
            finished: self.finished,
            moved_bytes: self.moved_bytes,
            ending: u32::try_from(ending).unwrap_or(u32::MAX),
        }
    }

    /// Nobody is there who answers: it is tried again after a while.
    pub fn unanswered(&mut self, now: Time, seq: u64) {
        self.advance(now);
        if let Some(flight) = self.flight.as_mut().filter(|flight| flight.seq == seq) {
            flight.gives_up = flight.gives_up.min(now + self.terms.retry());
        }
        self.settle(now);
    }

    fn fail_flight(&mut self, now: Time) {
        if self.flight.take().is_some_and(|flight| flight.announced) {
            self.announce_at = now;
        }
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// The agent's answer. Anything may be in it.
    pub fn answered(&mut self, now: Time, seq: u64, payload: &[u8]) {
        self.advance(now);
        match Answer::decode(payload) {
            Ok(answer) if answer.seq == seq => self.take_answer(now, answer),
            Ok(_) => tracing::debug!("ignored an answer to another question"),
            Err(error) => tracing::debug!(%error, "ignored an answer that makes no sense"),
        }
        self.settle(now);
    }

    fn take_answer(&mut self, now: Time, answer: Answer) {
        if answer.epoch > self.epoch {
            return self.change_epoch(now, answer.epoch);
        }
        if answer.epoch < self.epoch {
            return;
        }
        let Some(flight) = self.flight.take_if(|flight| flight.seq == answer.seq) else { return };
        self.unanswered = 0;
        if answer.announce {
            self.announce_at = now;
            return;
        }
        if flight.announced {
            self.announce_at = self.announce_at.max(now + self.terms.announce_every());
        }
        if flight.leaving {
            self.lease = None;
            return;
        }
        self.renew(flight.sent);
        self.advance(now);
        for id in &flight.results {
            if matches!(self.works.get(id), Some(Entry::Ended { .. })) {
                self.works.remove(id);
            }
        }
        if self.may_begin() && !self.draining {
            for id in flight.claims {
                self.decide(id, answer.granted.contains(&id));
            }
        }
        self.forget(&answer.forget);
        self.cancel(&answer.cancel);
        if answer.drain {
            self.begin_drain(now);
        }
    }

    /// There is another agent: what the one before it wanted is of no interest any more, and must end soon.
    fn change_epoch(&mut self, now: Time, epoch: u64) {
        tracing::info!(epoch, "another agent leads: works of the one before it end");
        // Who heard of no agent before has nothing to end.
        self.over |= self.epoch != 0;
        self.epoch = epoch;
        self.drop_works();
        self.flight = None;
        self.lease = None;
        self.unanswered = 0;
        self.announce_at = now;
        if !self.movers.is_empty() {
            let at = now + self.terms.grace();
            self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
        }
        self.advance(now);
    }

    /// The agent says something unasked. Anything may be in it.
    pub fn told(&mut self, now: Time, payload: &[u8]) {
        self.advance(now);
        match Tell::decode(payload) {
            Ok(tell) if tell.epoch == self.epoch => {
                self.cancel(&tell.cancel);
                if tell.drain {
                    self.begin_drain(now);
                }
                if tell.announce {
                    self.announce_at = now;
                }
            }
            // Only an answer is believed that there is another agent.
            Ok(tell) if tell.epoch > self.epoch => self.announce_at = now,
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "ignored what makes no sense"),
        }
        self.settle(now);
    }
}
