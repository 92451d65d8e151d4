//! A source of actions in memory that measures how long each takes: from when it was due to its result.

use agent::{ActionSource, MemorySource, SourceError, Work};
use futures_util::future::BoxFuture;
use hdrhistogram::Histogram;
use model::{Extent, Outcome};
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Low bits of a key: which of the actions due at that nanosecond.
const SEQUENCE_BITS: u32 = 24;
/// How often actions that have become due are handed out. Tokio's timer is too coarse for that.
const PACE: Duration = Duration::from_micros(200);

/// How the actions of a run come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As fast as they are taken; due when they are taken.
    Full,
    /// So many a second; due on time, whoever is late (so that a stall counts for everything it delays).
    PerSecond(f64),
}

/// What a run found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Gives noop archive actions, one run after the other.
pub(crate) struct Load {
    origin: Instant,
    run: Mutex<Run>,
    more: Notify,
    done: Notify,
}

struct Run {
    pace: Pace,
    start_ns: u64,
    count: u64,
    /// How many may be taken, and were.
    ready: u64,
    taken: u64,
    finished: u64,
    failed: u64,
    latency_ns: Histogram<u64>,
}

impl Load {
    pub(crate) fn new() -> Arc<Self> {
        let run = Run {
            pace: Pace::Full,
            start_ns: 0,
            count: 0,
            ready: 0,
            taken: 0,
            finished: 0,
            failed: 0,
            latency_ns: Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("bounds in order"),
        };
        Arc::new(Self { origin: Instant::now(), run: Mutex::new(run), more: Notify::new(), done: Notify::new() })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("less than centuries")
    }

    /// Gives `count` actions and waits for all their results.
    pub(crate) async fn measure(self: &Arc<Self>, pace: Pace, count: u64) -> Measured {
        {
            let mut run = self.run.lock();
            assert_eq!(run.finished, run.count, "one run at a time");
            run.latency_ns.reset();
            let ready = if matches!(pace, Pace::Full) { count } else { 0 };
            (run.pace, run.start_ns, run.count, run.ready) = (pace, self.now_ns(), count, ready);
            (run.taken, run.finished, run.failed) = (0, 0, 0);
        }
        let pacer = matches!(pace, Pace::PerSecond(_)).then(|| {
            let load = Arc::clone(self);
            thread::spawn(move || {
                while !load.let_due_ones_go() {
                    thread::sleep(PACE)
                }
            })
        });
        self.more.notify_one();
        self.done.notified().await;
        pacer.into_iter().for_each(|thread| thread.join().expect("the pacer ended"));
        let run = self.run.lock();
        assert_eq!(run.failed, 0, "every action must succeed");
        let elapsed_s = (self.now_ns() - run.start_ns) as f64 / 1e9;
        let quantile = |q| run.latency_ns.value_at_quantile(q) as f64 / 1e6;
        Measured { per_second: count as f64 / elapsed_s, p50_ms: quantile(0.5), p99_ms: quantile(0.99) }
    }

    /// Whether all have been let go.
    fn let_due_ones_go(&self) -> bool {
        let mut run = self.run.lock();
        if let Pace::PerSecond(rate) = run.pace {
            let elapsed_s = (self.now_ns() - run.start_ns) as f64 / 1e9;
            run.ready = ((elapsed_s * rate) as u64).min(run.count);
        }
        let (waiting, all) = (run.ready > run.taken, run.ready == run.count);
        drop(run);
        if waiting {
            self.more.notify_one();
        }
        all
    }

    fn take(&self, max: usize) -> Vec<Work> {
        let now_ns = self.now_ns();
        let mut run = self.run.lock();
        let end = run.ready.min(run.taken + max as u64);
        let due_ns = |number: u64| match run.pace {
            Pace::Full => now_ns,
            Pace::PerSecond(rate) => run.start_ns + (number as f64 / rate * 1e9) as u64,
        };
        let key = |number: u64| due_ns(number) << SEQUENCE_BITS | (number & ((1 << SEQUENCE_BITS) - 1));
        let works = (run.taken..end).map(|number| MemorySource::noop(key(number), 1)).collect();
        run.taken = end;
        works
    }
}

impl ActionSource for Load {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Work>, SourceError>> {
        Box::pin(async move {
            loop {
                let works = self.take(max);
                if !works.is_empty() {
                    return Ok(works);
                }
                self.more.notified().await;
            }
        })
    }

    fn progress(&self, _: u64, _: Extent) {}

    fn complete(&self, results: Vec<(u64, Outcome)>) {
        let now_ns = self.now_ns();
        let mut run = self.run.lock();
        for (key, outcome) in results {
            run.latency_ns.saturating_record(now_ns.saturating_sub(key >> SEQUENCE_BITS));
            run.finished += 1;
            // The mover makes an id for each: what did not come from it has none.
            run.failed += u64::from(!matches!(outcome, Outcome::Archived(identity) if !identity.uuid.is_empty()));
        }
        if run.finished == run.count {
            self.done.notify_one();
        }
    }
}
