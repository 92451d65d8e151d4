//! A limit on bytes a second, shared by threads.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Whoever has spent bytes sleeps until they were due.
pub(super) struct Rate {
    bytes_per_second: Option<u64>,
    /// When everything that was spent so far is paid for.
    due: Mutex<Instant>,
}

/// What was not used is not saved up for longer.
const BURST: Duration = Duration::from_millis(200);

impl Rate {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.filter(|rate| *rate > 0), due: Mutex::new(Instant::now()) }
    }

    pub(super) fn spend(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let now = Instant::now();
        let price = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let due = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            *due = (*due).max(now.checked_sub(BURST).unwrap_or(now)) + price;
            *due
        };
        std::thread::sleep(due.saturating_duration_since(now));
    }
}
