//! How fast actions pass through the agent: a source in memory, the agent, a Unix socket, and a noop mover in a process of its own.
//!
//! Prints actions a second with as many in flight as fit, and the latency (from when an action was due at the source to its result)
//! at half of that rate, open loop: the source does not wait for the agent, so a stall counts for every action it delayed.
//!
//! `cargo run --release -p sifaka-agent --example dispatch [-- SECONDS [ACTIONS_A_SECOND…]]`: with rates, those instead of half.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a measurement, not a service")]

use config::AgentConfig;
use futures_util::future::BoxFuture;
use hdrhistogram::Histogram;
use model::{Extent, Outcome};
use parking_lot::Mutex;
use sifaka_agent::{ActionSource, ClientMounts, HsmAgent, MemorySource, Services, SourceError, Work};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MOVER: &str = "lhsm-plugin-noop";

/// Makes works at a rate, or as fast as they are taken; a key says when its work was due, in nanoseconds since the start.
struct Paced {
    start: Instant,
    interval: Option<Duration>,
    made: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
    served: AtomicBool,
    measured_from: Mutex<Instant>,
    latency_us: Mutex<Histogram<u64>>,
}

impl Paced {
    fn new(rate: Option<f64>) -> Self {
        Self {
            start: Instant::now(),
            interval: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            made: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            served: AtomicBool::new(false),
            measured_from: Mutex::new(Instant::now()),
            latency_us: Mutex::new(Histogram::new_with_bounds(1, 60_000_000, 3).unwrap()),
        }
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Forgets the warm-up.
    fn restart(&self) {
        self.latency_us.lock().reset();
        self.ended.store(0, Ordering::Relaxed);
        *self.measured_from.lock() = Instant::now();
    }
}

impl ActionSource for Paced {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Work>, SourceError>> {
        Box::pin(async move {
            while !self.served.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(1)).await;
                // What was due before there was a mover is nobody's latency.
                self.made.store(self.interval.map_or(0, |i| self.now_ns() / i.as_nanos() as u64), Ordering::Relaxed);
            }
            let made = self.made.load(Ordering::Relaxed);
            let Some(interval) = self.interval.map(|interval| interval.as_nanos() as u64) else {
                let now = self.now_ns();
                self.made.store(made + max as u64, Ordering::Relaxed);
                // The low bits keep keys apart.
                return Ok((0..max as u64).map(|i| MemorySource::noop(now + i, 1)).collect());
            };
            loop {
                let due = (self.now_ns() / interval).saturating_sub(made).min(max as u64);
                if due > 0 {
                    self.made.store(made + due, Ordering::Relaxed);
                    return Ok((made..made + due).map(|i| MemorySource::noop((i + 1) * interval, 1)).collect());
                }
                // A timer's tick is a millisecond, which is the length of the bursts then.
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        })
    }

    fn progress(&self, _: u64, _: Extent) {}

    fn archives_changed(&self, served: &[(u32, usize)]) {
        self.served.store(!served.is_empty(), Ordering::Relaxed);
    }

    fn complete(&self, results: Vec<(u64, Outcome)>) {
        let now = self.now_ns();
        let mut latency = self.latency_us.lock();
        self.ended.fetch_add(results.len() as u64, Ordering::Relaxed);
        for (due, outcome) in results {
            if matches!(outcome, Outcome::Failed(_)) {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            latency.saturating_record(now.saturating_sub(due) / 1000);
        }
    }
}

async fn measure(rate: Option<f64>, seconds: f64) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    // The mover is this program under its other name.
    let mover = dir.path().join(MOVER);
    symlink(std::env::current_exe().unwrap(), &mover).unwrap();
    let text = format!(
        "client_device = \"{0}\"\nenabled_plugins = [\"{1}\"]\ntransport {{ socket_dir = \"{0}/run\" }}",
        dir.path().display(),
        mover.display()
    );
    let (config, _) = AgentConfig::parse(&text, "dispatch").unwrap();
    let source = Arc::new(Paced::new(rate));
    let mounts = ClientMounts::shared_directory(dir.path().into());
    let agent = HsmAgent::new(config, mounts, Services::new(dir.path().into()), source.clone()).unwrap();
    agent.start().await.unwrap();
    agent.wait_started(Duration::from_secs(10)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    source.restart();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let elapsed = source.measured_from.lock().elapsed().as_secs_f64();
    let per_second = source.ended.load(Ordering::Relaxed) as f64 / elapsed;
    {
        let latency = source.latency_us.lock();
        let offered = rate.map_or("all it takes".into(), |rate| format!("{rate:.0}/s"));
        println!(
            "offered {offered}: {per_second:.0} actions/s, latency p50 {} µs, p99 {} µs, p99.9 {} µs, max {} µs",
            latency.value_at_quantile(0.5),
            latency.value_at_quantile(0.99),
            latency.value_at_quantile(0.999),
            latency.max()
        );
    }
    agent.stop().await;
    assert_eq!(source.failed.load(Ordering::Relaxed), 0, "actions failed before the agent stopped");
    per_second
}

fn main() {
    let mut arguments = std::env::args();
    if arguments.next().is_some_and(|name| name.ends_with(MOVER)) {
        let environment = plugin::Environment::from_env().unwrap();
        let _ = movers::noop::run(environment, Path::new("/nonexistent/configuration"));
        return;
    }
    let numbers: Vec<f64> = arguments.map(|argument| argument.parse().expect("a number")).collect();
    let seconds = numbers.first().copied().unwrap_or(10.0);
    let threads = std::env::var("WORKERS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
    let full = runtime.block_on(measure(None, seconds));
    let rates = numbers.get(1..).filter(|rates| !rates.is_empty()).map_or(vec![full / 2.0], <[f64]>::to_vec);
    for rate in rates {
        runtime.block_on(measure(Some(rate), seconds));
    }
}
