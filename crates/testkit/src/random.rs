//! Random numbers that are the same again for the same seed, so that a failure can be repeated.
//!
//! Not for anything that has to be hard to guess. The generator is SplitMix64 (Steele, Lea, Flood: "Fast splittable
//! pseudorandom number generators", OOPSLA 2014).

use std::ops::Range;

/// A stream of numbers.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The stream of a seed taken from the environment (`SIFAKA_TEST_SEED`), or else a new one; says which on standard
    /// error, so that a failed test shows what to set.
    pub fn from_env() -> Self {
        let given = std::env::var("SIFAKA_TEST_SEED").ok();
        let seed = match &given {
            Some(text) => text.parse().unwrap_or_else(|_| panic!("SIFAKA_TEST_SEED is not a number: {text:?}")),
            None => fresh_seed(),
        };
        eprintln!("SIFAKA_TEST_SEED={seed}");
        Self::new(seed)
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of `range`, which must not be empty. (Not perfectly even for ranges near 2^64.)
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        assert!(range.start < range.end, "an empty range has no numbers: {range:?}");
        range.start + self.next_u64() % (range.end - range.start)
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.within(0..times) == 0
    }

    /// One of `choices`, which must not be empty.
    pub fn choose<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let index = self.within(0..choices.len() as u64);
        &choices[usize::try_from(index).expect("the index of a slice")]
    }

    /// Fills `buffer`.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// How many rounds a random test goes: `usual`, or `soak` in the long runs of `make soak` (`SIFAKA_SOAK` is set).
pub fn rounds(usual: u64, soak: u64) -> u64 {
    if std::env::var_os("SIFAKA_SOAK").is_some() { soak } else { usual }
}

pub(crate) fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    // Two processes started in the same tick differ by their number.
    Random::new(u64::from(since.subsec_nanos()) ^ (since.as_secs() << 30) ^ (u64::from(std::process::id()) << 10))
        .next_u64()
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn same_seed_same_numbers() {
        let mut first = Random::new(7);
        let mut second = Random::new(7);
        let mut third = Random::new(8);
        let numbers: Vec<u64> = (0..10).map(|_| first.next_u64()).collect();
        assert!(numbers.iter().all(|&number| number == second.next_u64()));
        assert!(numbers.iter().any(|&number| number != third.next_u64()));
    }

    #[test]
    fn ranges_are_kept_and_filled() {
        let mut random = Random::new(1);
        let mut seen = [false; 5];
        for _ in 0..1000 {
            let number = random.within(10..15);
            seen[usize::try_from(number - 10).unwrap()] = true;
        }
        assert_eq!(seen, [true; 5]);
    }

    #[test]
    fn fill_writes_every_byte() {
        let mut buffer = [0; 1003];
        Random::new(3).fill(&mut buffer);
        assert!(buffer.windows(16).all(|window| window.iter().any(|&byte| byte != 0)));
        assert_ne!(buffer[1000..], [0, 0, 0]);
    }
}
