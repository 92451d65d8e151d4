//! What comes next: pure decisions about order and delay.

use crate::Class;
use crate::limits::RETRY_FIRST_DELAY_MS;
use std::collections::{BTreeMap, VecDeque};

/// How often a class that has something to do is passed over for more urgent ones before it gets a turn.
const PASSED_OVER: u32 = 15;

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
        self.pop_if(|_, _| true)
    }

    /// Takes the next entry of the first owner, in the order of turns, whose next entry may go now. Those passed over keep
    /// their place.
    pub fn pop_if(&mut self, mut may_go: impl FnMut(u32, &T) -> bool) -> Option<T> {
        let next = |owner: &u32| self.lanes.get(owner).and_then(VecDeque::front);
        let at = self.turn.iter().position(|owner| next(owner).is_some_and(|item| may_go(*owner, item)))?;
        let owner = self.turn.remove(at)?;
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

    /// Whether [`FairQueue::pop_if`] would give something.
    pub fn has(&self, mut may_go: impl FnMut(u32, &T) -> bool) -> bool {
        self.lanes.iter().any(|(owner, lane)| lane.front().is_some_and(|item| may_go(*owner, item)))
    }

    /// Takes out every entry that is chosen, whoever's turn it is.
    pub fn remove(&mut self, mut chosen: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for lane in self.lanes.values_mut() {
            if lane.iter().any(&mut chosen) {
                let (out, kept): (VecDeque<T>, VecDeque<T>) = lane.drain(..).partition(&mut chosen);
                *lane = kept;
                removed.extend(out);
            }
        }
        if !removed.is_empty() {
            self.lanes.retain(|_, lane| !lane.is_empty());
            self.turn.retain(|owner| self.lanes.contains_key(owner));
            self.len -= removed.len();
        }
        removed
    }

    /// Entries of one owner.
    #[must_use]
    pub fn len_of(&self, owner: u32) -> usize {
        self.lanes.get(&owner).map_or(0, VecDeque::len)
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

/// Whose turn it is among the classes: the most urgent that has something, except that one which was passed over
/// `PASSED_OVER` times gets a turn. So of sixteen turns one at least is a less urgent class's, and no storm of urgent
/// work starves the rest for ever.
#[derive(Debug, Default)]
pub struct ClassTurns {
    passed_over: [u32; Class::ALL.len()],
}

impl ClassTurns {
    /// The class whose turn it is, of those that have something. The turn counts as taken.
    pub fn next(&mut self, has_something: impl FnMut(Class) -> bool) -> Option<Class> {
        let has = Class::ALL.map(has_something);
        let waiting = || Class::ALL.into_iter().zip(has).filter_map(|(class, has)| has.then_some(class));
        let overdue = |class: &Class| self.passed_over.get(*class as usize).is_some_and(|n| *n >= PASSED_OVER);
        let chosen = waiting().find(overdue).or_else(|| waiting().next());
        for ((class, has), count) in Class::ALL.into_iter().zip(has).zip(&mut self.passed_over) {
            // Who had nothing to do was not passed over.
            *count = if has && Some(class) != chosen { count.saturating_add(1) } else { 0 };
        }
        chosen
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

        /// No class that has something waits for more than `PASSED_OVER` turns of others and one of each other class that
        /// waited as long; without anybody so long passed over, the most urgent is served.
        #[test]
        fn no_class_is_starved(waiting in prop::collection::vec(prop::collection::vec(any::<bool>(), 4), 1..300)) {
            let mut turns = ClassTurns::default();
            let mut passed_over = [0u32; 4];
            for has in waiting {
                let next = turns.next(|class| has[class as usize]);
                prop_assert_eq!(next.is_some(), has.contains(&true));
                let most_urgent = has.iter().position(|has| *has);
                let overdue = (0..4).any(|class| has[class] && passed_over[class] >= PASSED_OVER);
                prop_assert!(overdue || next.map(|class| class as usize) == most_urgent);
                for class in 0..4 {
                    let passed = has[class] && next.is_some_and(|next| next as usize != class);
                    passed_over[class] = if passed { passed_over[class] + 1 } else { 0 };
                    prop_assert!(passed_over[class] <= PASSED_OVER + 3);
                }
            }
        }

        /// What is removed comes out once, what may not go stays, and the rest is as if the removed had never been there.
        #[test]
        fn removing_and_passing_over_lose_nothing(
            owners in prop::collection::vec(0..5u32, 1..100), held in 0..5u32, step in 1..7usize,
        ) {
            let (mut q, mut fresh) = (FairQueue::default(), FairQueue::default());
            for (i, o) in owners.iter().enumerate() {
                q.push(*o, (*o, i));
                if i % step != 0 {
                    fresh.push(*o, (*o, i));
                }
            }
            let removed = q.remove(|(_, i)| i % step == 0);
            prop_assert_eq!(removed.len(), owners.len().div_ceil(step));
            prop_assert_eq!(q.len(), owners.len() - removed.len());
            let mine = q.len_of(held);
            let others: Vec<_> = std::iter::from_fn(|| q.pop_if(|o, _| o != held)).collect();
            prop_assert!(others.iter().all(|(o, _)| *o != held));
            prop_assert!(!q.has(|o, _| o != held) && q.has(|_, _| true) == (mine > 0));
            prop_assert_eq!((q.len(), q.len_of(held)), (mine, mine));
            let mut all: Vec<_> = others.into_iter().chain(std::iter::from_fn(|| q.pop())).collect();
            let mut expected: Vec<_> = std::iter::from_fn(|| fresh.pop()).collect();
            all.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(all, expected);
        }
    }
}
