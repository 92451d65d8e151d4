//! Who leads, of several agents of one filesystem.
//!
//! One key of a replicated key-value bucket says who leads ([`proto::cluster::Leader`]). It is only ever written by compare-and-set on its revision. The
//! leader refreshes it every third of the time to live, and leads for two thirds of that from when it SENT the last write that went through. Whoever
//! else wants the lead takes it when the key has not changed for all of that time by its own clock, or when it was resigned.
//!
//! Each lead has an epoch of its own, above all before it. The bucket may be lost; then hosts know epochs that it does not, and the agent learns of them ([`Contender::deposed`]).

use crate::Time;
use proto::cluster::Leader;
use std::collections::VecDeque;
use std::time::Duration;

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Write the key if its revision is still this one (0: if it does not exist); then [`Contender::written`], whatever became of it.
    Write {
        /// To be given back.
        attempt: u64,
        /// The revision.
        expected: u64,
        /// A [`Leader`].
        value: Vec<u8>,
    },
    /// This agent leads from now on: read the registry of hosts, and make a [`crate::board::Board`].
    Lead {
        /// Of this lead.
        epoch: u64,
        /// The lead is valid so long.
        until: Time,
    },
    /// The lead is valid for longer.
    Until(Time),
    /// This agent does not lead any more.
    Lost,
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// It went through, and this is the key's revision.
    At(u64),
    /// The key has another revision: read it anew, and tell it ([`Contender::seen`]).
    Refused,
    /// Nobody knows.
    Unknown,
}

/// An agent that wants the lead, or has it.
#[derive(Debug)]
pub struct Contender {
    instance: u128,
    host: String,
    ttl: Duration,
    /// The highest epoch that hosts have told of.
    floor: u64,
    seen: Option<Seen>,
    lead: Option<Held>,
    flight: Option<Flight>,
    attempts: u64,
    resigned: bool,
    out: VecDeque<Output>,
}

/// The key as it was last seen.
#[derive(Debug)]
struct Seen {
    revision: u64,
    at: Time,
    leader: Option<Leader>,
    /// For how long it says that nobody else may lead.
    holds: Duration,
}

#[derive(Debug)]
struct Held {
    epoch: u64,
    revision: u64,
    refreshed: Time,
}

#[derive(Debug)]
struct Flight {
    attempt: u64,
    epoch: u64,
    sent: Time,
}

impl Contender {
    /// One that knows nothing yet. `host` is for people.
    #[must_use]
    pub fn new(instance: u128, host: String, ttl: Duration) -> Self {
        Self {
            instance,
            host,
            ttl,
            floor: 0,
            seen: None,
            lead: None,
            flight: None,
            attempts: 0,
            resigned: false,
            out: VecDeque::new(),
        }
    }

    /// What is to be done next.
    pub fn next_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// The epoch of the lead, if this agent has it.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        self.lead.as_ref().map(|lead| lead.epoch)
    }

    /// Who leads, as far as the key says.
    #[must_use]
    pub fn leader(&self) -> Option<&Leader> {
        self.seen.as_ref()?.leader.as_ref()
    }

    /// The key's value, as a watch tells: at first, and on change. No value (never written, or deleted): revision 0, or that of the deletion. Anything may be in it.
    pub fn seen(&mut self, now: Time, revision: u64, value: Option<&[u8]>) {
        // What comes late says nothing; and a key that has not changed since is as old as it was.
        if self.seen.as_ref().is_some_and(|seen| seen.revision >= revision && value.is_some()) {
            return self.tick(now);
        }
        let leader = value.and_then(|value| Leader::decode(value).ok());
        let holds = match (&leader, value) {
            (Some(leader), _) => Duration::from_millis(leader.ttl_ms.into()).min(crate::Terms::MAX_LEASE),
            // Garbage: somebody may have meant it.
            (None, Some(_)) => self.ttl,
            (None, None) => Duration::ZERO,
        };
        if let (Some(lead), Some(value)) = (&mut self.lead, &leader) {
            if value.instance == self.instance && value.epoch == lead.epoch {
                lead.revision = lead.revision.max(revision);
            } else if revision > lead.revision {
                self.lose();
            }
        }
        self.seen = Some(Seen { revision, at: now, leader, holds });
        self.tick(now);
    }

    /// What became of an [`Output::Write`].
    pub fn written(&mut self, now: Time, attempt: u64, written: Written) {
        let Some(flight) = self.flight.take_if(|flight| flight.attempt == attempt) else { return self.tick(now) };
        if written == Written::Refused {
            // Perhaps the bucket was lost, and begins again: any revision is news.
            if let Some(seen) = self.seen.as_mut().filter(|_| self.lead.is_none()) {
                (seen.revision, seen.at, seen.holds) = (0, now, self.ttl);
            }
        }
        if let Written::At(revision) = written {
            let until = self.until(flight.sent);
            match &mut self.lead {
                Some(lead) if lead.epoch == flight.epoch => {
                    lead.revision = lead.revision.max(revision);
                    lead.refreshed = flight.sent;
                    self.out.push_back(Output::Until(until));
                }
                None if now < until && !self.resigned => {
                    self.lead = Some(Held { epoch: flight.epoch, revision, refreshed: flight.sent });
                    self.out.push_back(Output::Lead { epoch: flight.epoch, until });
                }
                _ => {}
            }
        }
        self.tick(now);
    }

    /// Hosts know of this epoch: it gives up the lead, and takes it only with a later one.
    pub fn deposed(&mut self, now: Time, epoch: u64) {
        self.floor = self.floor.max(epoch);
        self.lose();
        self.tick(now);
    }

    /// It gives up the lead for good, so that others need not wait. All works must have their results before.
    pub fn resign(&mut self, now: Time) {
        self.resigned = true;
        if let Some(lead) = self.lead.take() {
            self.out.push_back(Output::Lost);
            self.flight = None;
            self.write(now, lead.epoch, lead.revision, Duration::ZERO);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) {
        let patience = self.ttl / 6;
        self.flight.take_if(|flight| now.since(flight.sent) >= patience);
        match &self.lead {
            Some(lead) if now >= self.until(lead.refreshed) => self.lose(),
            Some(lead) => {
                if self.flight.is_none() && now.since(lead.refreshed) >= self.ttl / 3 {
                    let (epoch, revision) = (lead.epoch, lead.revision);
                    self.write(now, epoch, revision, self.ttl);
                }
            }
            None => self.take(now),
        }
    }

    /// When [`Self::tick`] is to be called next, at the latest.
    #[must_use]
    pub fn wake_at(&self, now: Time) -> Time {
        now + self.ttl / 12
    }

    /// Takes the lead if nobody may have it.
    fn take(&mut self, now: Time) {
        let Some(seen) = &self.seen else { return };
        if self.resigned || self.flight.is_some() || now.since(seen.at) < seen.holds {
            return;
        }
        let epoch = seen.leader.as_ref().map_or(0, |leader| leader.epoch).max(self.floor) + 1;
        let revision = seen.revision;
        self.write(now, epoch, revision, self.ttl);
    }

    fn write(&mut self, now: Time, epoch: u64, expected: u64, ttl: Duration) {
        self.attempts += 1;
        let attempt = self.attempts;
        let ttl_ms = u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX);
        let leader = Leader { epoch, instance: self.instance, host: self.host.clone(), ttl_ms };
        self.flight = Some(Flight { attempt, epoch, sent: now });
        self.out.push_back(Output::Write { attempt, expected, value: leader.encode() });
    }

    fn lose(&mut self) {
        if self.lead.take().is_some() {
            self.flight = None;
            self.out.push_back(Output::Lost);
        }
    }

    fn until(&self, refreshed: Time) -> Time {
        refreshed + self.ttl * 2 / 3
    }
}
