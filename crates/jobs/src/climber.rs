//! How many threads are worth their while, found by trying: a pure value, told of rates.

/// Less of a difference than this part of the rate is chance.
const CHANCE_PART: u64 = 20;

/// Goes on in one direction as long as that makes it no slower, and turns back when it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Climber {
    limit: usize,
    most: usize,
    last: u64,
    upwards: bool,
}

impl Climber {
    /// Begins with `first` of at most `most`.
    pub(crate) fn new(first: usize, most: usize) -> Self {
        let most = most.max(1);
        Self { limit: first.clamp(1, most), most, last: 0, upwards: true }
    }

    /// With the present number the work went at this rate. Gives the number to go on with.
    pub(crate) fn step(&mut self, rate: u64) -> usize {
        if rate < self.last.saturating_sub(self.last / CHANCE_PART) {
            self.upwards = !self.upwards;
        }
        self.last = rate;
        let stride = (self.limit / 4).max(1);
        let next = if self.upwards { self.limit.saturating_add(stride) } else { self.limit.saturating_sub(stride) };
        self.limit = next.clamp(1, self.most);
        // At an end there is only one way to try.
        if self.limit == self.most {
            self.upwards = false;
        } else if self.limit == 1 {
            self.upwards = true;
        }
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the rates, the number stays in its bounds; where more threads help up to some number and then hurt, it ends up
        /// near that number.
        #[test]
        fn it_finds_the_top(top in 1usize..64, first in 1usize..100, most in 1usize..64) {
            let mut climber = Climber::new(first, most);
            let rate = |limit: usize| 1_000_000 * limit.min(top) as u64 / (1 + limit.saturating_sub(top) as u64);
            let mut limit = climber.limit;
            for _ in 0..64 {
                limit = climber.step(rate(limit));
                prop_assert!((1..=most).contains(&limit));
            }
            let best = top.min(most);
            let mut reached = 0;
            for _ in 0..16 {
                limit = climber.step(rate(limit));
                reached = reached.max(rate(limit));
            }
            prop_assert!(reached * 2 >= rate(best), "{reached} of {}", rate(best));
        }
    }
}
