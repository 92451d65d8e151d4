//! Which records of a changelog were handed over, whatever order they came in.
//!
//! An MDT gives numbers to records and writes them at different times: 43 can be in the log before 42 is, and 2.12 keeps them in that order. So what was read
//! last says nothing of what was read before: here is up to where there is nothing missing.

use std::collections::BTreeSet;

/// Records behind a hole that are kept in mind: with more, the hole is taken for one that stays.
const MAX_BEYOND: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct Delivered {
    /// All records up to this one were handed over, or are taken for lost. `None` until it is known where the log begins.
    whole: Option<u64>,
    /// Those that were handed over behind the first hole.
    beyond: BTreeSet<u64>,
}

/// Records that are missing, or not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hole {
    /// The last before it.
    pub(crate) after: u64,
    /// The first behind it.
    pub(crate) next: u64,
}

impl Delivered {
    /// All up to `whole` were handed over; 0 when that is not known.
    pub(crate) fn up_to(whole: u64) -> Self {
        Self { whole: (whole > 0).then_some(whole), beyond: BTreeSet::new() }
    }

    /// All records up to this one were handed over, or are taken for lost; 0 when that is not known.
    pub(crate) fn whole(&self) -> u64 {
        self.whole.unwrap_or(0)
    }

    /// Notes a record. Whether it is a new one.
    pub(crate) fn add(&mut self, index: u64) -> bool {
        if index <= self.whole() || !self.beyond.insert(index) {
            return false;
        }
        self.advance();
        true
    }

    /// The log was read to its end: it begins with the smallest number that was met.
    pub(crate) fn end_is_met(&mut self) {
        if self.whole.is_none() {
            self.whole = self.beyond.first().map(|first| first.saturating_sub(1));
            self.advance();
        }
    }

    /// The first hole.
    pub(crate) fn hole(&self) -> Option<Hole> {
        Some(Hole { after: self.whole?, next: *self.beyond.first()? })
    }

    /// Whether so much is behind the first hole that it is not waited for.
    pub(crate) fn is_full(&self) -> bool {
        self.beyond.len() >= MAX_BEYOND
    }

    /// What is missing in the first hole is taken for lost.
    pub(crate) fn give_up(&mut self) {
        if let Some(hole) = self.hole() {
            self.whole = Some(hole.next.saturating_sub(1));
            self.advance();
        }
    }

    fn advance(&mut self) {
        while let Some(whole) = self.whole
            && self.beyond.first() == Some(&whole.saturating_add(1))
        {
            self.beyond.pop_first();
            self.whole = Some(whole + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_comes_late_closes_the_hole() {
        let mut delivered = Delivered::up_to(40);
        assert!(delivered.add(41) && delivered.add(43) && delivered.add(44));
        assert_eq!((delivered.whole(), delivered.hole()), (41, Some(Hole { after: 41, next: 43 })));
        assert!(!delivered.add(43) && !delivered.add(40) && delivered.add(42));
        assert_eq!((delivered.whole(), delivered.hole()), (44, None));
        assert!(delivered.add(50));
        delivered.give_up();
        assert_eq!((delivered.whole(), delivered.hole()), (50, None));
        assert!(!delivered.add(45), "it was taken for lost");
    }

    #[test]
    fn a_log_begins_with_the_smallest_number_that_is_met() {
        let mut delivered = Delivered::up_to(0);
        delivered.end_is_met();
        assert!(delivered.add(8) && delivered.add(7) && delivered.add(9));
        assert_eq!((delivered.whole(), delivered.hole()), (0, None));
        delivered.end_is_met();
        assert_eq!((delivered.whole(), delivered.hole()), (9, None));
    }

    proptest! {
        #[test]
        fn nothing_is_told_twice_and_the_whole_has_no_holes(order in Just((1..=40_u64).collect::<Vec<_>>()).prop_shuffle(), again in 1..40_u64) {
            let mut delivered = Delivered::up_to(0);
            delivered.add(1);
            delivered.end_is_met();
            let mut known = BTreeSet::from([1]);
            for index in order {
                prop_assert_eq!(delivered.add(index), known.insert(index));
                prop_assert!((1..=delivered.whole()).all(|before| known.contains(&before)));
            }
            prop_assert!(!delivered.add(again));
            prop_assert_eq!((delivered.whole(), delivered.hole()), (40, None));
        }
    }
}
