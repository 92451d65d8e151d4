//! How much was done, how fast, and how well, by archive.
//!
//! Updated in batches under one short lock for an archive; read by the admin API and the audit log. No I/O but log lines.

use crate::action::{Action, Finished};
use hdrhistogram::Histogram;
use model::Outcome;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest latency told apart; longer ones count as this.
const MAX_LATENCY_US: u64 = 24 * 3600 * 1_000_000;

/// Statistics of all archives of one agent.
#[derive(Default)]
pub struct ActionStats {
    archives: Mutex<BTreeMap<u32, Arc<ArchiveStats>>>,
}

/// Statistics of one archive.
pub struct ArchiveStats {
    archive_id: u32,
    counts: Mutex<Counts>,
}

struct Counts {
    started: u64,
    succeeded: u64,
    failed: u64,
    cancelled: u64,
    bytes: u64,
    /// `None` only if the constant bounds were refused, which a test excludes.
    latency_us: Option<Histogram<u64>>,
    rates: [Rate; 3],
    rated: u64,
    audited: (u64, u64),
}

/// A moving average that forgets with the given time constant.
struct Rate {
    window: Duration,
    per_second: Option<f64>,
}

impl Rate {
    const fn new(minutes: u64) -> Self {
        Self { window: Duration::from_secs(minutes * 60), per_second: None }
    }

    fn tick(&mut self, events: u64, elapsed: Duration) {
        if elapsed.is_zero() {
            return;
        }
        let now = events as f64 / elapsed.as_secs_f64();
        let weight = 1.0 - (-elapsed.as_secs_f64() / self.window.as_secs_f64()).exp();
        self.per_second = Some(self.per_second.map_or(now, |before| before + weight * (now - before)));
    }
}

/// What [`ArchiveStats`] says at one moment.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ArchiveStatus {
    /// Which archive.
    pub archive_id: u32,
    /// Actions accepted by the agent and without result yet.
    pub queue_length: u64,
    /// Actions accepted since the agent started.
    pub started: u64,
    /// Ended well.
    pub succeeded: u64,
    /// Ended in an error.
    pub failed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Bytes that movers reported as moved, of ended actions.
    pub bytes: u64,
    /// Time from acceptance to result, all actions since the agent started.
    pub latency: Latency,
    /// Ended actions a second, over the last 1, 5 and 15 minutes.
    pub rates_per_s: [f64; 3],
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Latency {
    /// Median.
    pub p50_us: u64,
    /// 90 of 100 were faster.
    pub p90_us: u64,
    /// 99 of 100 were faster.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
}

impl ArchiveStats {
    fn new(archive_id: u32) -> Self {
        let counts = Counts {
            started: 0,
            succeeded: 0,
            failed: 0,
            cancelled: 0,
            bytes: 0,
            latency_us: Histogram::new_with_bounds(1, MAX_LATENCY_US, 2).ok(),
            rates: [Rate::new(1), Rate::new(5), Rate::new(15)],
            rated: 0,
            audited: (0, 0),
        };
        Self { archive_id, counts: Mutex::new(counts) }
    }

    /// What there is to say now.
    #[must_use]
    pub fn status(&self) -> ArchiveStatus {
        let counts = self.counts.lock();
        let latency = counts.latency_us.as_ref().map(|h| Latency {
            p50_us: h.value_at_quantile(0.5),
            p90_us: h.value_at_quantile(0.9),
            p99_us: h.value_at_quantile(0.99),
            max_us: h.max(),
        });
        ArchiveStatus {
            archive_id: self.archive_id,
            queue_length: counts.started.saturating_sub(counts.ended()),
            started: counts.started,
            succeeded: counts.succeeded,
            failed: counts.failed,
            cancelled: counts.cancelled,
            bytes: counts.bytes,
            latency: latency.unwrap_or_default(),
            rates_per_s: [0, 1, 2].map(|i: usize| counts.rates.get(i).and_then(|r| r.per_second).unwrap_or(0.0)),
        }
    }
}

impl Counts {
    fn ended(&self) -> u64 {
        self.succeeded + self.failed + self.cancelled
    }

    fn complete(&mut self, finished: &Finished, now: Instant) {
        if matches!(&finished.outcome, Outcome::Failed(failure) if failure.thaw.is_some()) {
            // As if it had not begun: nothing went wrong, and it comes again.
            self.started = self.started.saturating_sub(1);
            return;
        }
        match &finished.outcome {
            Outcome::Failed(failure) if failure.is_cancelled() => self.cancelled += 1,
            Outcome::Failed(_) => self.failed += 1,
            _ => self.succeeded += 1,
        }
        let whole = if matches!(finished.outcome, Outcome::Failed(_)) { 0 } else { finished.action.size() };
        self.bytes = self.bytes.saturating_add(finished.action.bytes().max(whole));
        if let Some(histogram) = &mut self.latency_us {
            let latency = now.saturating_duration_since(finished.action.started()).as_micros();
            histogram.saturating_record(u64::try_from(latency).unwrap_or(MAX_LATENCY_US).max(1));
        }
    }
}

impl ActionStats {
    /// The statistics of one archive, made when it is asked for first.
    #[must_use]
    pub fn get_index(&self, archive_id: u32) -> Arc<ArchiveStats> {
        let mut archives = self.archives.lock();
        Arc::clone(archives.entry(archive_id).or_insert_with(|| Arc::new(ArchiveStats::new(archive_id))))
    }

    /// The archives that had an action, ascending.
    #[must_use]
    pub fn archives(&self) -> Vec<u32> {
        self.archives.lock().keys().copied().collect()
    }

    /// What there is to say of every archive, ascending.
    #[must_use]
    pub fn status(&self) -> Vec<ArchiveStatus> {
        self.all().iter().map(|archive| archive.status()).collect()
    }

    /// `count` actions of an archive were accepted.
    pub fn start_actions(&self, archive_id: u32, count: u64) {
        self.get_index(archive_id).counts.lock().started += count;
    }

    /// An action was accepted.
    pub fn start_action(&self, action: &Action) {
        self.start_actions(action.archive_id(), 1);
    }

    /// Actions were accepted.
    pub fn start_batch<'a>(&self, actions: impl Iterator<Item = &'a Action>) {
        let mut run: Option<(u32, u64)> = None;
        for action in actions {
            match &mut run {
                Some((archive_id, count)) if *archive_id == action.archive_id() => *count += 1,
                _ => {
                    if let Some((archive_id, count)) = run.replace((action.archive_id(), 1)) {
                        self.start_actions(archive_id, count);
                    }
                }
            }
        }
        if let Some((archive_id, count)) = run {
            self.start_actions(archive_id, count);
        }
    }

    /// An action ended.
    pub fn complete_action(&self, finished: &Finished, now: Instant) {
        self.complete_actions(std::slice::from_ref(finished), now);
    }

    /// Actions ended.
    pub fn complete_actions(&self, finished: &[Finished], now: Instant) {
        for batch in finished.chunk_by(|a, b| a.action.archive_id() == b.action.archive_id()) {
            let Some(first) = batch.first() else { continue };
            let archive = self.get_index(first.action.archive_id());
            let mut counts = archive.counts.lock();
            for one in batch {
                counts.complete(one, now);
            }
        }
    }

    /// Moves the rates on; `elapsed` is the time since the last call.
    pub fn tick(&self, elapsed: Duration) {
        for archive in self.all() {
            let mut counts = archive.counts.lock();
            let ended = counts.ended();
            let events = ended - std::mem::replace(&mut counts.rated, ended);
            for rate in &mut counts.rates {
                rate.tick(events, elapsed);
            }
        }
    }

    /// Writes a line to the log for each archive in which something was accepted or ended since the last call.
    pub fn audit(&self) {
        for archive in self.all() {
            let changed = {
                let mut counts = archive.counts.lock();
                let now = (counts.started, counts.ended());
                std::mem::replace(&mut counts.audited, now) != now
            };
            if changed {
                let s = archive.status();
                tracing::info!(
                    target: "audit",
                    archive = s.archive_id, queue_length = s.queue_length, started = s.started, succeeded = s.succeeded,
                    failed = s.failed, cancelled = s.cancelled, bytes = s.bytes, p50_us = s.latency.p50_us,
                    p99_us = s.latency.p99_us, rate_1m = s.rates_per_s[0], rate_5m = s.rates_per_s[1],
                    rate_15m = s.rates_per_s[2], "archive"
                );
            }
        }
    }

    fn all(&self) -> Vec<Arc<ArchiveStats>> {
        self.archives.lock().values().map(Arc::clone).collect()
    }
}

#[cfg(test)]
mod tests;
