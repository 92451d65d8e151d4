//! What hosts ask, and the answers.

use super::hosts::Host;
use super::works::State;
use super::{Board, MAX_HOSTS, Output};
use crate::{HostId, Time};
use proto::cluster::{Announce, Answer, Ask, VERSION};
use std::collections::BTreeSet;

impl Board {
    /// A host's request. Anything may be in it.
    pub fn hear(&mut self, now: Time, reply_to: String, bytes: &[u8]) {
        if !self.leads(now) {
            return;
        }
        let ask = match Ask::decode(bytes) {
            Ok(ask) => ask,
            Err(error) => {
                self.ignored += 1;
                tracing::debug!(%error, "ignored what a host asked");
                return;
            }
        };
        if ask.epoch > self.epoch {
            self.out.push_back(Output::Deposed { epoch: ask.epoch });
            return;
        }
        let answer = Answer { epoch: self.epoch, seq: ask.seq, version: VERSION, ..Answer::default() };
        let known = ask.announce.is_some() || self.hosts.contains_key(&ask.from);
        if ask.epoch < self.epoch || !known {
            let answer = Answer { announce: true, ..answer };
            self.out.push_back(Output::Answer { reply_to, payload: answer.encode() });
            return;
        }
        if let Some(answer) = self.take(now, ask, answer) {
            self.out.push_back(Output::Answer { reply_to, payload: answer.encode() });
        }
        self.open_if_clear(now);
    }

    /// Takes everything in; `None` if it came late, or twice.
    fn take(&mut self, now: Time, ask: Ask, mut answer: Answer) -> Option<Answer> {
        let Ask { from, seq, epoch: _, announce, statuses, claims } = ask;
        if self.hosts.get(&from).is_some_and(|host| seq <= host.seq) {
            return None;
        }
        let before = self.gives(from);
        let held = match announce {
            Some(announce) => Some(self.admit(now, from, announce)?),
            None => None,
        };
        let host = self.hosts.get_mut(&from)?;
        host.seq = seq;
        host.heard = now;
        for status in statuses {
            self.take_status(now, from, status);
        }
        if let Some(held) = held {
            answer.forget = self.reconcile(now, from, seq, &held, &claims);
            self.recount(now, &before, from);
        }
        answer.granted = claims;
        answer.granted.retain(|&id| self.grant(id, from, seq));
        let host = self.hosts.get(&from)?;
        answer.cancel = host.cancels.iter().copied().collect();
        answer.drain = host.drain;
        if host.announce.leaving {
            self.end_session(now, from, false);
        }
        Some(answer)
    }

    /// Takes in what a host is; gives what it has. `None` if the session is over, or there are too many.
    fn admit(&mut self, now: Time, from: HostId, mut announce: Announce) -> Option<Vec<u64>> {
        let of_instance = HostId { session: 0, ..from }..=HostId { session: u32::MAX, ..from };
        let sessions: Vec<HostId> = self.hosts.range(of_instance.clone()).map(|(&id, _)| id).collect();
        if sessions.iter().any(|id| id.session > from.session) {
            return None;
        }
        // A session begins when nothing of the one before it runs any more.
        for over in sessions.into_iter().filter(|id| *id != from) {
            self.end_session(now, over, true);
        }
        let members: Vec<HostId> = self.members.range(of_instance).map(|(&id, _)| id).collect();
        for id in members.into_iter().filter(|id| id.session <= from.session) {
            self.members.remove(&id);
            if id != from {
                self.out.push_back(Output::Unregister(id));
            }
        }
        if !self.hosts.contains_key(&from) && self.hosts.len() >= MAX_HOSTS {
            self.ignored += 1;
            return None;
        }
        let held = std::mem::take(&mut announce.held);
        match self.hosts.get_mut(&from) {
            Some(host) => host.announce = announce,
            None => {
                tracing::info!(host = announce.name, id = %from, software = announce.software, "host is there");
                self.hosts.insert(from, Host::new(announce, now));
            }
        }
        Some(held)
    }

    /// Compares what a host has with what it was granted. Takes back what it does not have; gives what it has and should not.
    fn reconcile(&mut self, now: Time, from: HostId, seq: u64, held: &[u64], claims: &[u64]) -> Vec<u64> {
        let held: BTreeSet<u64> = held.iter().copied().collect();
        let granted = self.hosts.get(&from).map(|host| host.holds.clone()).unwrap_or_default();
        for &id in granted.difference(&held) {
            let before = |state| matches!(state, State::Held { seq: granted, .. } if granted < seq);
            if self.works.get(&id).is_some_and(|entry| before(entry.state)) {
                self.take_back(now, id, false);
            }
        }
        let claims: BTreeSet<u64> = claims.iter().copied().collect();
        let ours = |id: &u64| self.works.get(id).is_some_and(|entry| entry.is_held_by(from));
        held.into_iter().filter(|id| !claims.contains(id) && !ours(id)).collect()
    }
}
