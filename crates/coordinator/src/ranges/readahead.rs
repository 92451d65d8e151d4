//! Guessing what is read next: a file that is read in order is fetched ahead of its reader, any other is not.
//!
//! The guard lets accesses to chunks that it knows pass without telling us, so what is seen here is the first access to each
//! piece and not every one; positions are chunks.

use super::Run;

/// Readers of one file that are followed at one time.
const STREAMS: usize = 4;
/// What is fetched ahead the first time that two accesses follow one another.
const FIRST_WINDOW: u64 = 2;

#[derive(Clone, Debug, Default)]
struct Stream {
    /// The chunk of the last access.
    at: u64,
    /// The end of what it asked for or what was fetched ahead for it.
    ahead: u64,
    window: u64,
    used: u64,
}

/// The sequential readers of one file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams {
    streams: Vec<Stream>,
    clock: u64,
}

impl Streams {
    /// Somebody accesses these chunks (at least one): which should be fetched ahead now, beyond them. At most `limit` chunks are ahead of a
    /// reader; 0 fetches nothing ahead.
    pub(crate) fn access(&mut self, touched: &Run, limit: u64) -> Run {
        self.clock += 1;
        let clock = self.clock;
        let last = touched.end.saturating_sub(1);
        // A reader that was followed goes on where it was, or anywhere in what was fetched for it.
        let follows = |s: &&mut Stream| s.at <= touched.start && touched.start <= s.ahead;
        let Some(stream) = self.streams.iter_mut().find(follows) else {
            if self.streams.len() == STREAMS
                && let Some(oldest) = (0..STREAMS).min_by_key(|i| self.streams.get(*i).map_or(0, |s| s.used))
            {
                self.streams.swap_remove(oldest);
            }
            self.streams.push(Stream { at: last, ahead: touched.end, window: 0, used: clock });
            return 0..0;
        };
        stream.used = clock;
        if last <= stream.at {
            return 0..0;
        }
        stream.at = last;
        let before = stream.ahead.max(touched.end);
        stream.ahead = before;
        // The next piece is asked for when half of the last is used up, so that it is there in time.
        let left = before - touched.end;
        if left > stream.window / 2 {
            return 0..0;
        }
        stream.window = (stream.window * 2).max(FIRST_WINDOW).min(limit);
        stream.ahead = before.max(touched.end.saturating_add(stream.window));
        before..stream.ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a reader gets that reads from front to back, one chunk at a time.
    fn fetched_ahead(chunks: u64, limit: u64) -> Vec<Run> {
        let mut streams = Streams::default();
        (0..chunks).map(|c| streams.access(&(c..c + 1), limit)).collect()
    }

    #[test]
    fn a_reader_in_order_is_followed_with_a_growing_window() {
        let windows: Vec<u64> =
            fetched_ahead(200, 32).iter().filter(|r| !r.is_empty()).map(|r| r.end - r.start).collect();
        assert_eq!(windows[0], 2, "the second access shows it");
        assert!(windows.iter().any(|w| *w >= 16), "{windows:?}");
    }

    #[test]
    fn one_access_fetches_nothing_ahead() {
        assert!(Streams::default().access(&(0..1), 32).is_empty());
    }

    proptest! {
        #[test]
        fn in_order_everything_is_fetched_once_and_never_too_far(chunks in 2u64..400, limit in 0u64..64) {
            let mut asked = 1;
            for (at, run) in fetched_ahead(chunks, limit).into_iter().enumerate() {
                let at = at as u64;
                prop_assert!(run.is_empty() || run.start >= asked.min(at + 1), "nothing twice");
                asked = asked.max(run.end).max(at + 1);
                prop_assert!(asked <= at + 1 + limit.max(1), "at {at} up to {asked}");
            }
        }

        #[test]
        fn readers_in_order_do_not_disturb_each_other(starts in prop::collection::vec(0u64..10, 2..=STREAMS)) {
            // Far apart, in turns.
            let mut streams = Streams::default();
            let mut ahead = vec![0u64; starts.len()];
            for step in 0..50 {
                for (reader, start) in starts.iter().enumerate() {
                    let at = reader as u64 * 10_000 + start + step;
                    let run = streams.access(&(at..at + 1), 16);
                    ahead[reader] += run.end - run.start;
                }
            }
            prop_assert!(ahead.iter().all(|a| *a >= 40), "{ahead:?}");
        }

        #[test]
        fn a_reader_at_random_costs_little(places in prop::collection::vec(0u64..1_000_000, 1..300)) {
            let mut streams = Streams::default();
            let wasted: u64 = places.iter().map(|p| streams.access(&(*p..p + 1), 32)).map(|r| r.end - r.start).sum();
            prop_assert!(wasted <= 8, "{wasted}");
        }

        #[test]
        fn no_access_panics(accesses in prop::collection::vec((any::<u64>(), any::<u64>()), 0..50), limit: u64) {
            let mut streams = Streams::default();
            for (a, b) in accesses {
                let run = streams.access(&(a.min(b)..a.max(b).max(1)), limit);
                prop_assert!(run.start <= run.end);
            }
        }
    }
}
