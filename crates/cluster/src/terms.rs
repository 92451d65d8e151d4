//! Time as the machines see it, and how long things may take.

use std::ops::Add;
use std::time::Duration;

/// Milliseconds since any moment, by a clock that goes on while the machine sleeps (`CLOCK_BOOTTIME`) and that nobody sets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// How long it is since `earlier`; nothing if that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// How long things may take. Agent and hosts need the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// For how long a host may go on without hearing from the agent.
    lease: Duration,
}

impl Terms {
    /// The shortest lease.
    pub const MIN_LEASE: Duration = Duration::from_millis(600);
    /// The longest.
    pub const MAX_LEASE: Duration = Duration::from_secs(3600);

    /// These, with the lease brought within [`Self::MIN_LEASE`] and [`Self::MAX_LEASE`].
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self { lease: lease.clamp(Self::MIN_LEASE, Self::MAX_LEASE) }
    }

    /// For how long a host may go on without hearing from the agent.
    #[must_use]
    pub fn lease(self) -> Duration {
        self.lease
    }

    /// How often a host announces itself.
    #[must_use]
    pub fn announce_every(self) -> Duration {
        self.lease / 6
    }

    /// A host that heard nothing for so long cancels what it runs.
    #[must_use]
    pub fn cancel_after(self) -> Duration {
        self.lease * 2 / 3
    }

    /// A host that heard nothing for so long kills its movers.
    #[must_use]
    pub fn kill_after(self) -> Duration {
        self.lease * 5 / 6
    }

    /// How long movers may take to end what was cancelled because there is another agent; then they are killed.
    #[must_use]
    pub fn grace(self) -> Duration {
        self.lease / 6
    }

    /// A host that the agent has not heard for so long has ended everything: its lease, and what killing takes, and what two clocks may
    /// differ by.
    #[must_use]
    pub fn dead_after(self) -> Duration {
        self.lease * 7 / 6
    }

    /// What was not answered is repeated after so long at first.
    #[must_use]
    pub fn retry(self) -> Duration {
        self.lease / 15
    }

    /// How long a request for works waits at the server.
    #[must_use]
    pub fn pull_expires(self) -> Duration {
        self.lease / 3
    }

    /// A work that nobody claimed for so long is published again: its message may be lost.
    #[must_use]
    pub fn unclaimed(self) -> Duration {
        self.lease * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_ended_everything_before_the_agent_gives_it_up() {
        for ms in [0, 600, 1_000, 30_000, u64::MAX] {
            let terms = Terms::new(Duration::from_millis(ms));
            assert!(terms.announce_every() * 3 < terms.cancel_after());
            assert!(terms.cancel_after() < terms.kill_after() && terms.kill_after() < terms.lease());
            assert!(terms.lease() + terms.grace() / 2 < terms.dead_after());
            assert!(terms.retry() >= Duration::from_millis(40));
        }
    }
}
