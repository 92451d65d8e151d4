//! The lease, and what happens without it.

use super::{Desk, Output};
use crate::Time;

/// The agent's word that this host may go on.
#[derive(Debug)]
pub(super) struct Lease {
    /// When the last Ask that was answered was sent.
    pub(super) since: Time,
    /// Works were cancelled because it runs out.
    cautious: bool,
}

impl Desk {
    /// When all movers have to be dead, if this does not move on before; `None` while nothing runs.
    #[must_use]
    pub fn fence_at(&self) -> Option<Time> {
        if self.movers.is_empty() {
            return None;
        }
        let lease = self.lease.as_ref().map(|lease| lease.since + self.terms.kill_after());
        [lease, self.kill_at].into_iter().flatten().min()
    }

    /// The agent answered what was sent then.
    pub(super) fn renew(&mut self, since: Time) {
        let since = self.lease.as_ref().map_or(since, |lease| lease.since.max(since));
        self.lease = Some(Lease { since, cautious: false });
    }

    /// Whether works may be taken and begun.
    pub(super) fn may_begin(&self) -> bool {
        self.kill_at.is_none() && self.lease.as_ref().is_some_and(|lease| !lease.cautious)
    }

    /// Brings everything to the present: nothing else is looked at before.
    pub(super) fn advance(&mut self, now: Time) {
        let terms = self.terms;
        let Some(lease) = &mut self.lease else {
            // The agent may have heard of it, and given it up since.
            self.over |= now.since(self.began) >= terms.lease();
            self.kill_remains(now);
            return self.begin_again(now);
        };
        let age = now.since(lease.since);
        if age >= terms.cancel_after() && !lease.cautious {
            lease.cautious = true;
            tracing::warn!(?age, "the agent does not answer: what runs here is cancelled");
            self.give_back_claims();
            self.cancel_all();
        }
        if age >= terms.kill_after() && !self.movers.is_empty() && self.kill_at.is_none() {
            self.kill_at = Some(now);
        }
        if age >= terms.lease() {
            tracing::warn!("the lease is over: what was here belongs to others");
            self.lease = None;
            self.over = true;
            self.drop_works();
            self.flight = None;
            self.announce_at = now;
        }
        self.kill_remains(now);
        self.begin_again(now);
    }

    fn kill_remains(&mut self, now: Time) {
        if self.movers.is_empty() {
            self.kill_at = None;
        } else if self.kill_at.is_some_and(|at| now >= at) {
            self.kill_at = Some(now + self.terms.grace() / 2);
            self.out.push_back(Output::KillMovers);
        }
    }

    /// The next session begins when nothing of the last one runs.
    fn begin_again(&mut self, now: Time) {
        if self.over && self.movers.is_empty() {
            self.over = false;
            self.flight = None;
            self.session += 1;
            self.begin_session(now);
        }
    }
}
