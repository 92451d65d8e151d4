//! A limit on what several threads move in a second: one bucket for all of them, restores before the rest.
//!
//! What was moved is charged afterwards, and whoever wants to move more waits until the debt is paid: so a chunk's size need not
//! be known before, and the rate is kept over time, whatever the chunks.

use std::num::NonZeroU64;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting worker looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(100);
/// What may be moved at once after a pause: as much as in this part of a second.
const BURST_PART: u64 = 10;
/// Restores that are let through while others wait, before one of these has its turn.
const PASSED_OVER: u32 = 15;
const NANOS: u128 = 1_000_000_000;

/// Tokens, which are bytes: a pure value, told of time's passing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bucket {
    rate: NonZeroU64,
    /// In billionths of a byte. Below 0: moved already, and to be waited for.
    level: i128,
}

impl Bucket {
    fn new(rate: NonZeroU64) -> Self {
        let mut bucket = Self { rate, level: 0 };
        bucket.level = bucket.burst();
        bucket
    }

    fn burst(&self) -> i128 {
        i128::from(self.rate.get() / BURST_PART) * NANOS.cast_signed()
    }

    /// Time passed. Nothing is lost by telling it in small pieces.
    fn pass(&mut self, time: Duration) {
        let gained = u128::from(self.rate.get()).saturating_mul(time.as_nanos());
        self.level = self.level.saturating_add_unsigned(gained).min(self.burst());
    }

    fn spend(&mut self, bytes: u64) {
        self.level = self.level.saturating_sub_unsigned(u128::from(bytes) * NANOS);
    }

    /// How long until the debt is paid; `None` when there is none.
    fn debt(&self) -> Option<Duration> {
        let owed = u128::try_from(self.level.checked_neg()?).ok().filter(|owed| *owed > 0)?;
        let nanos = owed.div_ceil(u128::from(self.rate.get()));
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

/// A limit on bytes a second that threads share: what was moved is charged, and whoever wants to move more waits.
#[derive(Debug)]
pub struct Limiter {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    bucket: Option<Bucket>,
    at: Instant,
    restores_waiting: usize,
    /// Restores let through since one of the others was, while one waited.
    passed_over: u32,
}

impl Limiter {
    /// At most `rate` bytes a second; `None` is no limit.
    pub fn new(rate: Option<NonZeroU64>) -> Self {
        let bucket = rate.map(Bucket::new);
        let state = State { bucket, at: Instant::now(), restores_waiting: 0, passed_over: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// From now on. A debt is forgiven.
    pub fn set_rate(&self, rate: Option<NonZeroU64>) {
        let mut state = self.lock();
        if state.bucket.as_ref().map(|bucket| bucket.rate) != rate {
            state.bucket = rate.map(Bucket::new);
            state.at = Instant::now();
            self.changed.notify_all();
        }
    }

    /// These bytes were moved.
    pub fn spend(&self, bytes: u64) {
        if let Some(bucket) = &mut self.lock().bucket {
            bucket.spend(bytes);
        }
    }

    /// Waits until more may be moved, or `give_up` says so, which is asked at least every `LOOK`. Whether to give up.
    pub fn wait(&self, is_restore: bool, give_up: impl Fn() -> bool) -> bool {
        if give_up() {
            return true;
        }
        let mut state = self.lock();
        if state.bucket.is_none() {
            return false;
        }
        state.restores_waiting += usize::from(is_restore);
        let gave_up = loop {
            match state.next(is_restore) {
                None => break false,
                Some(wait) => {
                    let waited = self.changed.wait_timeout(state, wait.min(LOOK));
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
            drop(state);
            let over = give_up();
            state = self.lock();
            if over {
                break true;
            }
        };
        state.restores_waiting -= usize::from(is_restore);
        if is_restore && state.restores_waiting == 0 {
            self.changed.notify_all();
        }
        gave_up
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Numbers are whole at every moment: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How long to wait before asking again; `None`: go.
    fn next(&mut self, is_restore: bool) -> Option<Duration> {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.at);
        self.at = now;
        let bucket = self.bucket.as_mut()?;
        bucket.pass(passed);
        if let Some(debt) = bucket.debt() {
            return Some(debt);
        }
        if is_restore {
            self.passed_over = self.passed_over.saturating_add(1);
        } else if self.restores_waiting > 0 && self.passed_over < PASSED_OVER {
            // They are about to take what there is.
            return Some(LOOK);
        } else {
            self.passed_over = 0;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    fn rate(rate: u64) -> NonZeroU64 {
        NonZeroU64::new(rate).unwrap()
    }

    proptest! {
        /// However it is spent and however time is told: over any time, no more is let through than the rate, the burst, and the one
        /// chunk that was begun without debt; and whoever waits as long as it is told to has no debt then.
        #[test]
        fn the_rate_is_kept(
            per_second in (64u64 << 10)..1 << 40,
            steps in prop::collection::vec((0..4u64 << 20, 0..5_000_000u64), 1..200),
        ) {
            let mut bucket = Bucket::new(rate(per_second));
            let (mut moved, mut nanos, mut largest) = (0u128, 0u128, 0u128);
            for (chunk, pause_ns) in steps {
                let pause = Duration::from_nanos(pause_ns);
                bucket.pass(pause);
                nanos += pause.as_nanos();
                if let Some(wait) = bucket.debt() {
                    bucket.pass(wait);
                    nanos += wait.as_nanos();
                    prop_assert_eq!(bucket.debt(), None);
                }
                bucket.spend(chunk);
                moved += u128::from(chunk);
                largest = largest.max(u128::from(chunk));
                let allowed = u128::from(per_second) * nanos / NANOS + u128::from(per_second / BURST_PART) + largest;
                prop_assert!(moved <= allowed + 1, "{} of {}", moved, allowed);
            }
        }

        #[test]
        fn no_number_overflows(per_second in 1..u64::MAX, bytes: u64, seconds: u64) {
            let mut bucket = Bucket::new(rate(per_second));
            for _ in 0..5 {
                bucket.spend(bytes);
                let _ = bucket.debt();
                bucket.pass(Duration::from_secs(seconds));
            }
        }
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let limiter = Limiter::new(None);
        limiter.spend(u64::MAX);
        assert!(!limiter.wait(false, || false));
        assert!(limiter.wait(false, || true));
    }

    #[test]
    fn a_waiting_worker_hears_of_a_cancel_and_of_a_new_rate() {
        let limiter = Arc::new(Limiter::new(Some(rate(1 << 16))));
        limiter.spend(1 << 40);
        let cancelled = Arc::new(AtomicBool::new(false));
        let waiting = {
            let (limiter, cancelled) = (Arc::clone(&limiter), Arc::clone(&cancelled));
            std::thread::spawn(move || limiter.wait(true, || cancelled.load(Ordering::Relaxed)))
        };
        let other = {
            let limiter = Arc::clone(&limiter);
            std::thread::spawn(move || limiter.wait(false, || false))
        };
        cancelled.store(true, Ordering::Relaxed);
        assert!(waiting.join().unwrap(), "it was cancelled, years before its turn");
        limiter.set_rate(None);
        assert!(!other.join().unwrap());
    }

    #[test]
    fn restores_go_first_and_others_have_turns() {
        let limiter = Arc::new(Limiter::new(Some(rate(200 << 20))));
        let (restored, archived) = (AtomicU64::new(0), AtomicU64::new(0));
        let work = |count: &AtomicU64, is_restore: bool| {
            // Until the restores' share is clear from the counts.
            while restored.load(Ordering::Relaxed) < 200 {
                assert!(!limiter.wait(is_restore, || false));
                limiter.spend(1 << 20);
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| work(&restored, true));
                scope.spawn(|| work(&archived, false));
            }
        });
        let (restored, archived) = (restored.into_inner(), archived.into_inner());
        assert!(archived > 0 && archived < restored, "{archived} beside {restored} restores");
    }
}
