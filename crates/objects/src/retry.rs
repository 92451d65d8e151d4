//! A request that failed for now is sent again, a bounded number of times, after a wait that grows.
//!
//! Not OpenDAL's layer for it: that one forgets, at its end, whether the last error was one that may pass.

use crate::fault::Fault;
use std::time::Duration;
use tokio::time::Instant;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Nothing is tried again so long after it first failed: with the tries before and after, that is less than what the agent takes for a mover
/// that hangs.
const NO_MORE_AFTER: Duration = Duration::from_secs(110);

/// How often something was tried, and when it may be tried again.
pub(crate) struct Retry {
    left: u32,
    wait: Duration,
    failing_since: Option<Instant>,
}

impl Retry {
    /// For something that may be tried so often in all.
    pub(crate) fn new(attempts: u32) -> Self {
        Self { left: attempts, wait: FIRST_WAIT, failing_since: None }
    }

    /// To be called with the error of each try. Returns when the next one may begin.
    ///
    /// # Errors
    /// The error itself, when it is one for good, or there was none left, or it has been going on for too long.
    pub(crate) async fn after(&mut self, error: &opendal::Error) -> Result<(), Fault> {
        let fault = Fault::new(error);
        self.left = self.left.saturating_sub(1);
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if !error.is_temporary() || self.left == 0 || since.elapsed() >= NO_MORE_AFTER {
            return Err(fault);
        }
        tracing::debug!(left = self.left, error = fault.why(), "a request is sent again");
        tokio::time::sleep(self.wait / 2 + self.wait.mul_f64(part()) / 2).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Ok(())
    }
}

/// Any part of one, so that those who failed together do not come again together.
fn part() -> f64 {
    let random = uuid::Uuid::new_v4().as_fields().0;
    f64::from(random) / f64::from(u32::MAX)
}
