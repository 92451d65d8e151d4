//! Whether, and when, what failed is tried again before the coordinator is told.
//!
//! While it is tried, it holds one of the coordinator's slots (`max_requests`), so that is bounded whatever the configuration says.

use model::{Backoff, Class, ErrorKind, Failure};
use std::time::Duration;

/// `ENOTCONN`: no mover could take it, or its mover died. Nothing was wrong with the action.
pub(crate) const NO_MOVER: i32 = 107;
/// How soon a mover is looked for again.
const MOVER_PAUSE: Duration = Duration::from_millis(500);

/// What is to be known of the action.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    pub(crate) class: Class,
    /// It is owed by us, and known to nobody else.
    pub(crate) owed: bool,
    /// How often it failed, this time included.
    pub(crate) failed: u32,
    /// Since it failed first.
    pub(crate) failing: Duration,
    /// Since it came.
    pub(crate) age: Duration,
}

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) backoff: Backoff,
    pub(crate) hold: Duration,
    pub(crate) reader: Option<Duration>,
}

/// Whether a failure counts as an attempt.
pub(crate) fn counts(failure: &Failure) -> bool {
    failure.thaw.is_none() && failure.errno != NO_MOVER
}

/// When to try again; `None` for never.
pub(crate) fn pause(history: History, failure: &Failure, bounds: Bounds) -> Option<Duration> {
    if failure.kind == ErrorKind::Permanent || failure.is_cancelled() {
        return None;
    }
    let is_restore = matches!(history.class, Class::Reader | Class::Restore);
    let over = match (history.owed, history.class) {
        (true, _) => false,
        (false, Class::Reader) => bounds.reader.is_some_and(|limit| history.age >= limit),
        // A thaw takes hours, and whoever asked for the restore waits for it.
        (false, _) if is_restore && failure.thaw.is_some() => false,
        _ => history.failing >= bounds.hold,
    };
    if over {
        return None;
    }
    if let Some(thaw) = failure.thaw {
        let again = Duration::from_secs(thaw.again_s.max(1).into());
        return Some(again.min(Duration::from_millis(bounds.backoff.max_delay_ms.max(1000))));
    }
    if failure.errno == NO_MOVER {
        return Some(MOVER_PAUSE);
    }
    bounds.backoff.delay_ms(history.failed).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        backoff: Backoff { max_delay_ms: 4000, max_attempts: 3 },
        hold: Duration::from_secs(100),
        reader: Some(Duration::from_secs(10)),
    };

    fn history(class: Class) -> History {
        History { class, owed: false, failed: 1, failing: Duration::ZERO, age: Duration::ZERO }
    }

    #[test]
    fn what_is_permanent_or_cancelled_ends() {
        for failure in [Failure::permanent(5, "no"), Failure::cancelled()] {
            assert_eq!(pause(history(Class::Archive), &failure, BOUNDS), None);
        }
    }

    #[test]
    fn attempts_and_the_time_at_the_coordinator_are_bounded() {
        let failure = Failure::temporary(5, "now");
        let one = history(Class::Archive);
        assert_eq!(pause(one, &failure, BOUNDS), Some(Duration::from_millis(500)));
        assert_eq!(pause(History { failed: 3, ..one }, &failure, BOUNDS), None);
        let endless = Bounds { backoff: Backoff { max_attempts: 0, ..BOUNDS.backoff }, ..BOUNDS };
        assert!(pause(History { failed: 99, ..one }, &failure, endless).is_some());
        assert_eq!(pause(History { failing: BOUNDS.hold, ..one }, &failure, endless), None);
        let no_mover = Failure::temporary(NO_MOVER, "none");
        assert!(!counts(&no_mover));
        assert!(pause(History { failed: 99, ..one }, &no_mover, BOUNDS).is_some());
        let owed = History { owed: true, failing: BOUNDS.hold, ..one };
        assert!(pause(owed, &failure, BOUNDS).is_some());
    }

    #[test]
    fn readers_wait_as_long_as_they_may_and_who_asked_for_a_thaw_longer() {
        let thaw = Failure::thawing("cold", 3600);
        let old =
            History { age: Duration::from_secs(11), failing: Duration::from_secs(1000), ..history(Class::Reader) };
        assert_eq!(pause(old, &thaw, BOUNDS), None);
        assert_eq!(pause(History { class: Class::Restore, ..old }, &thaw, BOUNDS), Some(Duration::from_secs(4)));
        assert_eq!(pause(old, &thaw, Bounds { reader: None, ..BOUNDS }), Some(Duration::from_secs(4)));
    }
}
