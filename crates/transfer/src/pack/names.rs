//! Sets of members' names that may be a little too large, in little memory.

use super::MemberName;
use std::hash::{BuildHasher as _, RandomState};

const BITS_A_NAME: u64 = 4;

/// A Bloom filter: never says no for what was inserted. With as many names as a tenth of its bits, one other name in a hundred is taken for one of them.
#[derive(Debug)]
pub struct NameFilter {
    /// Zeros that nobody has written to take no memory.
    words: Vec<u64>,
    hasher: RandomState,
    inserted: u64,
}

impl NameFilter {
    /// An empty one of so many bits.
    #[must_use]
    pub fn new(bits: u64) -> Self {
        let words = usize::try_from(bits.div_ceil(64)).unwrap_or(usize::MAX).max(1);
        Self { words: vec![0; words], hasher: RandomState::new(), inserted: 0 }
    }

    /// How many names were inserted, also twice.
    #[must_use]
    pub fn inserted(&self) -> u64 {
        self.inserted
    }

    /// The words and bits that stand for a name.
    fn places(&self, name: MemberName) -> impl Iterator<Item = (usize, u64)> + use<> {
        let hash = self.hasher.hash_one(name);
        let (first, step) = (hash >> 32, hash & 0xffff_ffff | 1);
        let bits = self.words.len() as u64 * 64;
        (0..BITS_A_NAME).map(move |n| {
            let bit = (first + n * step) % bits;
            (usize::try_from(bit / 64).unwrap_or_default(), 1 << (bit % 64))
        })
    }

    /// Enters a name.
    pub fn insert(&mut self, name: MemberName) {
        for (word, bit) in self.places(name) {
            if let Some(word) = self.words.get_mut(word) {
                *word |= bit;
            }
        }
        self.inserted += 1;
    }

    /// Whether the name may have been inserted. `false` is certain.
    #[must_use]
    pub fn may_have(&self, name: MemberName) -> bool {
        self.places(name).all(|(word, bit)| self.words.get(word).is_some_and(|word| word & bit != 0))
    }
}
