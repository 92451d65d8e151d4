//! Events that wait for an answer, inside the guard.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

/// A reader that waits, as the guard keeps it.
pub(super) struct Waiting {
    /// The file, open as long as the event is unanswered: its number names the event.
    pub(super) file: OwnedFd,
    pub(super) number: i32,
    pub(super) pid: i32,
    pub(super) mask: u64,
    pub(super) range: Option<(u64, u64)>,
}

/// Unanswered events by sequence number, and which of them the present agent was not told of yet.
#[derive(Default)]
pub(super) struct Pending {
    waiting: BTreeMap<u64, Waiting>,
    untold: BTreeSet<u64>,
    next_seq: u64,
}

impl Pending {
    /// Sequence numbers begin at `first`, so that those of two guard processes differ.
    pub(super) fn starting_at(first: u64) -> Self {
        Self { next_seq: first, ..Self::default() }
    }

    pub(super) fn add(&mut self, waiting: Waiting) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.waiting.insert(seq, waiting);
        self.untold.insert(seq);
    }

    pub(super) fn remove(&mut self, seq: u64) -> Option<Waiting> {
        self.untold.remove(&seq);
        self.waiting.remove(&seq)
    }

    /// Removes all that this process waits for.
    pub(super) fn take_of(&mut self, pid: i32) -> Vec<Waiting> {
        self.take(|waiting| waiting.pid == pid)
    }

    fn take(&mut self, which: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let seqs: Vec<u64> = self.waiting.iter().filter(|(_, w)| which(w)).map(|(seq, _)| *seq).collect();
        seqs.into_iter().filter_map(|seq| self.remove(seq)).collect()
    }

    /// Removes all that processes wait for of which `ended` says that they do not any more. Each is asked about once.
    pub(super) fn take_ended(&mut self, ended: impl Fn(i32) -> bool) -> Vec<Waiting> {
        let pids: BTreeSet<i32> = self.waiting.values().map(|waiting| waiting.pid).collect();
        let pids: BTreeSet<i32> = pids.into_iter().filter(|pid| ended(*pid)).collect();
        self.take(|waiting| pids.contains(&waiting.pid))
    }

    /// A new agent has been told nothing.
    pub(super) fn forget_what_was_told(&mut self) {
        self.untold = self.waiting.keys().copied().collect();
    }

    pub(super) fn first_untold(&self) -> Option<(u64, &Waiting)> {
        let seq = *self.untold.first()?;
        self.waiting.get(&seq).map(|w| (seq, w))
    }

    pub(super) fn told(&mut self, seq: u64) {
        self.untold.remove(&seq);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    #[cfg(test)]
    pub(super) fn waiting_pids(&self) -> BTreeSet<i32> {
        self.waiting.values().map(|waiting| waiting.pid).collect()
    }
}
