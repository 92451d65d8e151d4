//! A JetStream server: one stream as a work queue, one pull consumer for each lane, two key-value buckets.

use crate::random::Random;
use sifaka_cluster::desk::PullId;
use sifaka_cluster::{HostId, Lane};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How long a delivered message is its receiver's.
pub(crate) const ACK_WAIT_MS: u64 = 3_000;

#[derive(Default)]
pub(crate) struct Server {
    last_seq: u64,
    pub(crate) stream: BTreeMap<u64, Message>,
    known: BTreeMap<String, u64>,
    waiting: BTreeMap<Lane, VecDeque<Waiting>>,
    deliveries: u64,
    pub(crate) leader: Option<(u64, Vec<u8>)>,
    revision: u64,
    pub(crate) members: BTreeSet<HostId>,
}

pub(crate) struct Message {
    lane: Lane,
    payload: Vec<u8>,
    /// Nobody gets it before.
    from: u64,
}

struct Waiting {
    host: usize,
    life: u64,
    pull: PullId,
    left: u32,
    until: u64,
}

/// To a host.
pub(crate) struct Delivery {
    pub(crate) host: usize,
    pub(crate) life: u64,
    pub(crate) pull: PullId,
    pub(crate) ack_to: String,
    pub(crate) payload: Vec<u8>,
}

impl Server {
    pub(crate) fn publish(&mut self, lane: Lane, msg_id: String, payload: Vec<u8>) -> u64 {
        if let Some(&at) = self.known.get(&msg_id) {
            return at;
        }
        self.last_seq += 1;
        self.known.insert(msg_id, self.last_seq);
        self.stream.insert(self.last_seq, Message { lane, payload, from: 0 });
        self.last_seq
    }

    pub(crate) fn pull(&mut self, host: usize, life: u64, pull: PullId, lane: Lane, batch: u32, until: u64) {
        self.waiting.entry(lane).or_default().push_back(Waiting { host, life, pull, left: batch, until });
    }

    fn seq(ack_to: &str) -> u64 {
        ack_to.split('.').next().unwrap().parse().unwrap()
    }

    pub(crate) fn ack(&mut self, ack_to: &str) {
        self.stream.remove(&Self::seq(ack_to));
    }

    pub(crate) fn nak(&mut self, ack_to: &str, from: u64) {
        if let Some(message) = self.stream.get_mut(&Self::seq(ack_to)) {
            message.from = from;
        }
    }

    /// Gives messages to whoever waits; and the pulls that are over.
    pub(crate) fn deliver(&mut self, now: u64) -> (Vec<Delivery>, Vec<(usize, u64, PullId)>) {
        let mut over = Vec::new();
        for waiting in self.waiting.values_mut() {
            waiting.retain(|pull| {
                if pull.until <= now {
                    over.push((pull.host, pull.life, pull.pull));
                }
                pull.until > now
            });
        }
        let mut out = Vec::new();
        for (seq, message) in self.stream.iter_mut().filter(|(_, message)| message.from <= now) {
            let Some(waiting) = self.waiting.get_mut(&message.lane) else { continue };
            let Some(pull) = waiting.front_mut() else { continue };
            pull.left -= 1;
            message.from = now + ACK_WAIT_MS;
            self.deliveries += 1;
            let ack_to = format!("{seq}.{}", self.deliveries);
            let (host, life, pull_id) = (pull.host, pull.life, pull.pull);
            out.push(Delivery { host, life, pull: pull_id, ack_to, payload: message.payload.clone() });
            if pull.left == 0 {
                waiting.pop_front();
            } else {
                waiting.rotate_left(1);
            }
        }
        (out, over)
    }

    /// Another server leads: it does not know who waits, nor all of what was delivered; with one replica messages may be gone.
    pub(crate) fn fail_over(&mut self, now: u64, random: &mut Random, loses: bool) -> u64 {
        self.waiting.clear();
        let mut forgotten = 0;
        for message in self.stream.values_mut().filter(|message| message.from > now) {
            if random.chance(500) {
                message.from = 0;
                forgotten += 1;
            }
        }
        if loses {
            self.stream.retain(|_, _| !random.chance(100));
        }
        forgotten
    }

    /// Compare and set.
    pub(crate) fn write_leader(&mut self, expected: u64, value: Vec<u8>) -> Option<u64> {
        let present = self.leader.as_ref().map_or(0, |(revision, _)| *revision);
        (present == expected).then(|| {
            self.revision += 1;
            self.leader = Some((self.revision, value));
            self.revision
        })
    }
}
