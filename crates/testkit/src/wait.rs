//! Waiting for what gives no notice.

use std::time::{Duration, Instant};

/// Asks `condition` until it holds. For states without an event to wait for; where there is one, wait for that.
///
/// # Panics
/// When it does not hold within `timeout`, naming `what`.
#[track_caller]
pub fn wait_until(timeout: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    while !condition() {
        assert!(started.elapsed() < timeout, "waited {timeout:?} in vain for: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
