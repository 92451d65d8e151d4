//! What a history is to be like.

use crate::random::Random;

/// Faults are over after this; then everything has to come to its end.
pub(crate) const STORM_MS: u64 = 30_000;
/// The lease in all histories.
pub(crate) const LEASE_MS: u64 = 3_000;

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) agents: usize,
    pub(crate) hosts: usize,
    pub(crate) slots: u64,
    pub(crate) actions: u64,
    /// For how long a lead is, beside the lease of hosts.
    pub(crate) ttl_ms: u64,
    /// The longest that a mover takes.
    pub(crate) longest_ms: u64,
    /// Of a thousand messages.
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) late: u64,
    /// How long what is late takes at most.
    pub(crate) late_ms: u64,
    /// Of a thousand actions.
    pub(crate) cancels: u64,
    pub(crate) failing: u64,
    /// Actions that kill the host that runs them.
    pub(crate) poison: u64,
    pub(crate) faults: u64,
    /// How likely each kind of fault is, beside the others.
    pub(crate) kinds: [(Fault, u64); 9],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    HostCrash,
    /// The host's process is stopped, its movers go on.
    HostStop,
    /// The whole machine stands still.
    HostFreeze,
    HostCut,
    HostDrain,
    AgentCrash,
    AgentStop,
    AgentCut,
    /// The server forgets whom it delivered what, and may lose messages.
    Failover,
}

impl Plan {
    pub(crate) fn calm(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0xca1);
        Self {
            agents: 1,
            hosts: random.between(1, 4) as usize,
            slots: random.between(1, 8),
            actions: random.between(10, 120),
            ttl_ms: LEASE_MS,
            longest_ms: random.between(1, 2_000),
            lost: 0,
            doubled: 0,
            late: 0,
            late_ms: 0,
            cancels: 0,
            failing: 20,
            poison: 0,
            faults: 0,
            kinds: [
                (Fault::HostCrash, 0),
                (Fault::HostStop, 0),
                (Fault::HostFreeze, 0),
                (Fault::HostCut, 0),
                (Fault::HostDrain, 0),
                (Fault::AgentCrash, 0),
                (Fault::AgentStop, 0),
                (Fault::AgentCut, 0),
                (Fault::Failover, 0),
            ],
        }
    }

    /// Much more to do than there is room for.
    pub(crate) fn busy(seed: u64) -> Self {
        let calm = Self::calm(seed);
        Self { hosts: 1 + seed as usize % 3, slots: 1 + seed % 2, actions: 250, longest_ms: 300, ..calm }
    }

    pub(crate) fn wild(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x417d);
        let calm = Self::calm(seed);
        let kinds = calm.kinds.map(|(kind, _)| (kind, random.between(0, 10)));
        Self {
            agents: random.between(1, 2) as usize,
            hosts: random.between(1, 5) as usize,
            actions: random.between(10, 80),
            ttl_ms: random.between(LEASE_MS / 4, LEASE_MS),
            longest_ms: random.between(10, 12_000),
            lost: random.between(0, 150),
            doubled: random.between(0, 150),
            late: random.between(0, 100),
            late_ms: random.between(100, 9_000),
            cancels: random.between(0, 200),
            poison: if random.chance(200) { 15 } else { 0 },
            faults: random.between(5, 40),
            kinds,
            ..calm
        }
    }

    pub(crate) fn agents(seed: u64) -> Self {
        let mut plan = Self { agents: 2, poison: 0, cancels: 400, ..Self::wild(seed) };
        for (kind, weight) in &mut plan.kinds {
            *weight = match kind {
                Fault::AgentCrash | Fault::AgentStop | Fault::AgentCut => 10,
                Fault::HostCut | Fault::HostStop => 3,
                _ => 0,
            };
        }
        plan
    }

    pub(crate) fn pauses(seed: u64) -> Self {
        let mut plan = Self { poison: 0, hosts: 3, ..Self::wild(seed) };
        for (kind, weight) in &mut plan.kinds {
            *weight = match kind {
                Fault::HostStop | Fault::HostFreeze => 10,
                Fault::HostCut | Fault::AgentStop => 3,
                _ => 0,
            };
        }
        plan
    }
}
