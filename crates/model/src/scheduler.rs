//! What comes next: pure decisions about order and delay.

use crate::limits::RETRY_FIRST_DELAY_MS;
use std::collections::{BTreeMap, VecDeque};

/// Exponential back-off without a clock: attempt number in, delay out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Longest delay in milliseconds.
    pub max_delay_ms: u64,
    /// Attempts after which a temporary failure becomes final; 0 for never.
    pub max_attempts: u32,
}

impl Backoff {
    /// The delay in milliseconds before attempt `failed + 1`, or `None` when there is to be none.
    #[must_use]
    pub fn delay_ms(&self, failed: u32) -> Option<u64> {
        if self.max_attempts != 0 && failed >= self.max_attempts {
            return None;
        }
        let doubled =
            RETRY_FIRST_DELAY_MS.saturating_mul(1u64.checked_shl(failed.saturating_sub(1)).unwrap_or(u64::MAX));
        Some(doubled.min(self.max_delay_ms.max(1)))
    }
}

/// First in, first out for each owner; round-robin between owners. An owner with a million entries delays the one
/// entry of another by at most one turn each.
#[derive(Debug)]
pub struct FairQueue<T> {
    lanes: BTreeMap<u32, VecDeque<T>>,
    turn: VecDeque<u32>,
    len: usize,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { lanes: BTreeMap::new(), turn: VecDeque::new(), len: 0 }
    }
}

impl<T> FairQueue<T> {
    /// Adds at the end of the owner's lane.
    pub fn push(&mut self, owner: u32, item: T) {
        let lane = self.lanes.entry(owner).or_default();
        if lane.is_empty() {
            self.turn.push_back(owner);
        }
        lane.push_back(item);
        self.len += 1;
    }

    /// Takes the next entry of the owner whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let owner = self.turn.pop_front()?;
        let lane = self.lanes.get_mut(&owner)?;
        let item = lane.pop_front()?;
        if lane.is_empty() {
            self.lanes.remove(&owner);
        } else {
            self.turn.push_back(owner);
        }
        self.len -= 1;
        Some(item)
    }

    /// Entries in all lanes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn delays_double_up_to_the_limit_and_end() {
        let b = Backoff { max_delay_ms: 3000, max_attempts: 5 };
        let delays: Vec<_> = (1..=5).map(|n| b.delay_ms(n)).collect();
        assert_eq!(delays, [Some(500), Some(1000), Some(2000), Some(3000), None]);
        assert_eq!(Backoff { max_delay_ms: 600_000, max_attempts: 0 }.delay_ms(u32::MAX), Some(600_000));
    }

    proptest! {
        /// Whatever is pushed comes out once; each owner's entries in order; nobody waits for more than one entry of
        /// each other owner.
        #[test]
        fn turns_are_fair(owners in prop::collection::vec(0..5u32, 1..200)) {
            let mut q = FairQueue::default();
            for (i, o) in owners.iter().enumerate() {
                q.push(*o, (*o, i));
            }
            let out: Vec<(u32, usize)> = std::iter::from_fn(|| q.pop()).collect();
            prop_assert_eq!(out.len(), owners.len());
            prop_assert!(q.is_empty());
            for o in 0..5 {
                let mine: Vec<usize> = out.iter().filter(|(x, _)| *x == o).map(|(_, i)| *i).collect();
                prop_assert!(mine.windows(2).all(|w| w[0] < w[1]));
                let places: Vec<usize> = out.iter().enumerate().filter(|(_, (x, _))| *x == o).map(|(p, _)| p).collect();
                prop_assert!(places.windows(2).all(|w| w[1] - w[0] <= 5));
            }
        }
    }
}
