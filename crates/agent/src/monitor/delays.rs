//! When a plugin that ended is started again.

use std::time::{Duration, Instant};

/// Delays before restarts: the first, the second, …, the last for ever; from the beginning again after a time without a restart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestartDelays {
    /// In order.
    pub delays: Vec<Duration>,
    /// After so long without a restart the first delay applies again.
    pub reset_after: Duration,
}

impl Default for RestartDelays {
    /// Lemur's: 0, 1, 10, 30, 60 seconds; two minutes.
    fn default() -> Self {
        Self { delays: [0, 1, 10, 30, 60].map(Duration::from_secs).to_vec(), reset_after: Duration::from_secs(120) }
    }
}

/// Where one plugin is in the delays.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Restarts {
    in_a_row: usize,
    last: Option<Instant>,
}

impl Restarts {
    /// The delay before the restart that is due now.
    pub(super) fn next(&mut self, delays: &RestartDelays, now: Instant) -> Duration {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) > delays.reset_after) {
            self.in_a_row = 0;
        }
        let delay = delays.delays.get(self.in_a_row).or(delays.delays.last()).copied().unwrap_or_default();
        self.in_a_row += 1;
        self.last = Some(now + delay);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lemur_s_delays_and_their_reset() {
        let delays = RestartDelays::default();
        let mut restarts = Restarts::default();
        let mut now = Instant::now();
        let mut seen = Vec::new();
        for _ in 0..7 {
            let delay = restarts.next(&delays, now);
            seen.push(delay.as_secs());
            // It ran for a second and ended again.
            now += delay + Duration::from_secs(1);
        }
        assert_eq!(seen, [0, 1, 10, 30, 60, 60, 60]);
        now += Duration::from_secs(118);
        assert_eq!(restarts.next(&delays, now).as_secs(), 60, "119 s after the last restart");
        now += Duration::from_secs(60 + 121);
        assert_eq!(restarts.next(&delays, now).as_secs(), 0, "121 s after the last restart");
        assert_eq!(restarts.next(&delays, now).as_secs(), 1);
    }
}
