//! Hosts: who is there, with what, and what they give together.

use super::{Board, MAX_POOLS, Output, pools_of};
use crate::{HostId, Pool, Time};
use model::limits::MAX_CREDITS;
use proto::Capabilities;
use proto::cluster::{Announce, Tell};
use std::collections::{BTreeMap, BTreeSet};

/// A session of a host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) announce: Announce,
    /// When its last Ask came.
    pub(super) heard: Time,
    /// The number of that one.
    pub(super) seq: u64,
    /// Works granted to it.
    pub(super) holds: BTreeSet<u64>,
    /// Those of them that it is to stop.
    pub(super) cancels: BTreeSet<u64>,
    /// It is to take nothing more.
    pub(super) drain: bool,
}

/// What the hosts of a pool give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Capacity {
    credits: u32,
    capabilities: Capabilities,
    unserved_since: Option<Time>,
}

/// A host as people see it.
#[derive(Clone, Debug)]
pub struct HostView<'a> {
    /// Which session.
    pub id: HostId,
    /// What it said last; `held` is not kept.
    pub announce: &'a Announce,
    /// When it was heard last.
    pub heard: Time,
    /// How many works it has.
    pub holds: usize,
    /// It takes nothing more.
    pub draining: bool,
}

impl Host {
    pub(super) fn new(announce: Announce, heard: Time) -> Self {
        Self { announce, heard, seq: 0, holds: BTreeSet::new(), cancels: BTreeSet::new(), drain: false }
    }

    pub(super) fn called(&self) -> String {
        self.announce.name.clone()
    }

    fn is_draining(&self) -> bool {
        self.drain || self.announce.draining
    }

    /// What it gives each pool that it is in.
    fn gives(&self) -> BTreeMap<Pool, (u32, Capabilities)> {
        let mut gives = BTreeMap::new();
        for served in self.announce.served.iter().filter(|served| served.credits > 0 && !self.is_draining()) {
            // A little more than it runs, so that the next work is there when one ends.
            let credits = served.credits + served.credits / 8 + 1;
            for pool in pools_of(&self.announce.groups, served.archive) {
                gives.insert(pool, (credits, served.capabilities));
            }
        }
        gives
    }
}

impl Board {
    /// The hosts, in the order of their ids.
    pub fn hosts(&self) -> impl Iterator<Item = HostView<'_>> {
        self.hosts.iter().map(|(&id, host)| HostView {
            id,
            announce: &host.announce,
            heard: host.heard,
            holds: host.holds.len(),
            draining: host.is_draining(),
        })
    }

    /// Has the hosts of this name take nothing more, and end when they have nothing left. Gives how many there are.
    pub fn drain(&mut self, now: Time, name: &str) -> usize {
        let ids: Vec<HostId> =
            self.hosts.iter().filter(|(_, host)| host.announce.name == name).map(|(&id, _)| id).collect();
        for id in &ids {
            let before = self.gives(*id);
            if let Some(host) = self.hosts.get_mut(id) {
                host.drain = true;
            }
            let tell = Tell { epoch: self.epoch, drain: true, ..Tell::default() };
            self.out.push_back(Output::Tell { to: Some(id.instance), payload: tell.encode() });
            self.recount(now, &before, *id);
        }
        ids.len()
    }

    pub(super) fn gives(&self, id: HostId) -> BTreeMap<Pool, (u32, Capabilities)> {
        self.hosts.get(&id).map(Host::gives).unwrap_or_default()
    }

    /// Tells what pools have since a host gives something else than `before`.
    pub(super) fn recount(&mut self, now: Time, before: &BTreeMap<Pool, (u32, Capabilities)>, id: HostId) {
        let after = self.gives(id);
        if *before == after {
            return;
        }
        let all: BTreeSet<&Pool> = before.keys().chain(after.keys()).collect();
        let changed: Vec<Pool> =
            all.into_iter().filter(|pool| before.get(*pool) != after.get(*pool)).cloned().collect();
        let mut totals: BTreeMap<Pool, (u32, Capabilities)> = BTreeMap::new();
        for host in self.hosts.values() {
            for (pool, (credits, can)) in host.gives().into_iter().filter(|(pool, _)| changed.contains(pool)) {
                let total = totals.entry(pool).or_insert((0, can));
                total.0 = total.0.saturating_add(credits).min(MAX_CREDITS);
                total.1 = Capabilities::from_bits(total.1.bits() & can.bits());
            }
        }
        for pool in changed {
            let (credits, capabilities) = totals.get(&pool).copied().unwrap_or_default();
            self.serve(now, pool, credits, capabilities);
        }
    }

    fn serve(&mut self, now: Time, pool: Pool, credits: u32, capabilities: Capabilities) {
        if !self.pools.contains_key(&pool) && (credits == 0 || self.pools.len() >= MAX_POOLS) {
            return;
        }
        let unserved_since = (credits == 0).then_some(now);
        self.pools.insert(pool.clone(), Capacity { credits, capabilities, unserved_since });
        self.out.push_back(Output::Serve { pool, credits, capabilities });
    }

    /// Gives up hosts that have not been heard for so long that they have ended everything.
    pub(super) fn end_dead_hosts(&mut self, now: Time) {
        let dead_after = self.terms.dead_after();
        let dead = self.hosts.iter().filter(|(_, host)| now.since(host.heard) >= dead_after);
        let dead: Vec<HostId> = dead.map(|(&id, _)| id).collect();
        for id in dead {
            if let Some(host) = self.hosts.get(&id) {
                let (host, works) = (host.called(), host.holds.len());
                tracing::warn!(host, %id, works, "not heard for longer than its lease: its works go to others");
            }
            self.end_session(now, id, true);
        }
    }

    /// A session is over, and nothing of it runs: its works go to others.
    pub(super) fn end_session(&mut self, now: Time, id: HostId, lost: bool) {
        let before = self.gives(id);
        let Some(host) = self.hosts.remove(&id) else { return };
        for work in host.holds {
            self.take_back(now, work, lost);
        }
        self.recount(now, &before, id);
        self.out.push_back(Output::Unregister(id));
    }

    /// Pools that have had no host for a while: what nobody has of theirs ends.
    pub(super) fn end_unserved(&mut self, now: Time) {
        let lease = self.terms.lease();
        let long = |capacity: &Capacity| capacity.unserved_since.is_some_and(|since| now.since(since) >= lease);
        let unserved: Vec<Pool> =
            self.pools.iter().filter(|(_, capacity)| long(capacity)).map(|(pool, _)| pool.clone()).collect();
        unserved.iter().for_each(|pool| self.end_unclaimed(pool));
    }
}
