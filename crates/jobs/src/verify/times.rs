//! Whether two filesystems, of which one may keep times less finely, show the same time.
//!
//! Neither is asked how finely it does: that takes a file to be made. A time whose end is all zeros may be one that was cut; on filesystems that
//! keep nanoseconds, next to none is.

use sys::file::Moment;

/// Nanoseconds that filesystems are known to keep times by, coarser and coarser.
const STEPS: [u32; 4] = [100, 1_000, 1_000_000, 1_000_000_000];

/// `two_seconds`: one of them is of a filesystem that keeps every second second.
pub(crate) fn same(a: Moment, b: Moment, two_seconds: bool) -> bool {
    a == b || cut_to(a, b, two_seconds) || cut_to(b, a, two_seconds)
}

/// Whether `kept` is `time`, kept less finely.
fn cut_to(time: Moment, kept: Moment, two_seconds: bool) -> bool {
    if time.0 == kept.0 {
        return STEPS.iter().any(|step| time.1 - time.1 % step == kept.1);
    }
    two_seconds && kept == (time.0 - time.0.rem_euclid(2), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_was_cut_is_the_same_and_one_that_was_changed_is_not() {
        let time = (1_000_000_001, 123_456_789);
        for kept in [123_456_789, 123_456_700, 123_456_000, 123_000_000, 0] {
            assert!(same(time, (time.0, kept), false) && same((time.0, kept), time, false), "{kept}");
        }
        for changed in
            [(time.0, 123_456_788), (time.0, 123_400_000), (time.0 + 1, time.1), (time.0 - 1, 0), (time.0 + 1, 0)]
        {
            assert!(!same(time, changed, false) && !same(changed, time, false), "{changed:?}");
        }
        assert!(same(time, (time.0 - 1, 0), true) && same((-3, 5), (-4, 0), true));
        assert!(!same(time, (time.0 + 1, 0), true) && !same(time, (time.0 - 1, 1), true));
    }
}
