//! How much to ask for, of what.
//!
//! Each lane has at most one request at the server. It asks for one work at first, for twice as many when it was filled, for as many as came when
//! it ran out; together they ask for what movers have room for. While there is any room each lane asks for one at least, so that a host may get a few works too many: without that
//! a reader's restore would wait where requests of a less urgent lane have taken all the room.

use super::{Desk, Output, PullId};
use crate::board::pools_of;
use crate::{Lane, Pool, Time};
use model::Class;

/// A request at the server.
#[derive(Debug)]
pub(super) struct Pull {
    lane: Lane,
    batch: u32,
    left: u32,
    ends: Time,
}

/// How many works a lane would like.
#[derive(Debug)]
pub(super) struct Wish(u32);

impl Desk {
    /// There will be no more messages for this pull.
    pub fn pull_ended(&mut self, now: Time, id: PullId) {
        self.advance(now);
        self.end_pull(id);
        self.settle(now);
    }

    fn end_pull(&mut self, id: PullId) {
        if let Some(pull) = self.pulls.remove(&id) {
            let got = pull.batch - pull.left;
            let wish = if pull.left == 0 { got.saturating_mul(2) } else { got };
            self.wishes.insert(pull.lane, Wish(wish.max(1)));
        }
    }

    pub(super) fn count_delivery(&mut self, id: PullId) {
        if let Some(pull) = self.pulls.get_mut(&id) {
            pull.left = pull.left.saturating_sub(1);
            if pull.left == 0 {
                self.end_pull(id);
            }
        }
    }

    /// Asks for as much as there is room for.
    pub(super) fn pull(&mut self, now: Time) {
        let over: Vec<PullId> = self.pulls.iter().filter(|(_, pull)| now >= pull.ends).map(|(&id, _)| id).collect();
        over.into_iter().for_each(|id| self.end_pull(id));
        if !self.may_begin() || self.draining || self.epoch == 0 {
            return;
        }
        let busy = self.busy();
        for served in self.served.clone() {
            let busy = busy.get(&served.archive).copied().unwrap_or(0);
            let asked = self.pulls.values().filter(|pull| pull.lane.pool.archive == served.archive);
            let asked = asked.fold(0u32, |sum, pull| sum.saturating_add(pull.left));
            if busy >= served.credits {
                continue;
            }
            let mut room = (served.credits - busy).saturating_sub(asked);
            for class in Class::ALL {
                let pools: Vec<Pool> = pools_of(&self.identity.groups, served.archive).collect();
                for pool in pools {
                    let lane = Lane { pool, class };
                    if self.pulls.values().all(|pull| pull.lane != lane) {
                        let batch = self.wishes.get(&lane).map_or(1, |wish| wish.0).min(room).max(1);
                        room = room.saturating_sub(batch);
                        self.request(now, lane, batch);
                    }
                }
            }
        }
    }

    fn request(&mut self, now: Time, lane: Lane, batch: u32) {
        self.last_pull += 1;
        let id = self.last_pull;
        let expires = self.terms.pull_expires();
        // The server counts from when it has it.
        let ends = now + expires + self.terms.retry();
        self.pulls.insert(id, Pull { lane: lane.clone(), batch, left: batch, ends });
        self.out.push_back(Output::Pull { id, lane, batch, expires });
    }
}
