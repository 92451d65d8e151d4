//! The largest few of very many.

use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module. Offered to by any thread.
#[derive(Debug)]
pub(super) struct Top {
    most: usize,
    /// What is not larger than this is none of them.
    least: AtomicU64,
    kept: Mutex<BinaryHeap<Reverse<(u64, PathBuf)>>>,
}

impl Top {
    pub(super) fn new(most: usize) -> Self {
        Self { most, least: AtomicU64::new(0), kept: Mutex::default() }
    }

    /// Nothing of the value 0 is kept.
    pub(super) fn offer(&self, value: u64, path: impl FnOnce() -> PathBuf) {
        if self.most == 0 || value <= self.least.load(Ordering::Relaxed) {
            return;
        }
        let mut kept = self.kept.lock();
        kept.push(Reverse((value, path())));
        if kept.len() > self.most {
            kept.pop();
        }
        if kept.len() == self.most
            && let Some(Reverse((least, _))) = kept.peek()
        {
            self.least.store(*least, Ordering::Relaxed);
        }
    }

    /// The largest first.
    pub(super) fn into_sorted(self) -> Vec<(u64, PathBuf)> {
        self.kept.into_inner().into_sorted_vec().into_iter().map(|Reverse(entry)| entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_largest_are_kept(values in prop::collection::vec(0..1000u64, 0..200), most in 0..20usize) {
            let top = Top::new(most);
            for value in &values {
                top.offer(*value, || value.to_string().into());
            }
            let found: Vec<u64> = top.into_sorted().into_iter().map(|(value, _)| value).collect();
            let mut expected: Vec<u64> = values.into_iter().filter(|value| *value > 0).collect();
            expected.sort_by_key(|value| Reverse(*value));
            expected.truncate(most);
            prop_assert_eq!(found, expected);
        }
    }
}
