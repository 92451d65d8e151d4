//! How many actions a second pass through the agent, and how long one takes.

use super::load::{Load, Pace};
use super::noop_agent::NoopAgent;
use crate::finding::{Finding, Goal, Series, Spread};
use crate::options::Options;

pub(crate) const ABOUT: &str = "An in-memory source, through agent and gRPC on a Unix socket to the noop mover (a process of \
its own) and back to the source. Time is taken from when an action is due to its result: at full speed it is due when the agent \
takes it, at half load on a fixed schedule, so that delays of the source count too. Half load is half of the median at full speed. \
Lemur (Go, agent and mover in one process, 16 threads) does 50,000 a second on such a machine.";

pub(crate) fn run(options: &Options) -> Vec<Finding> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("start a runtime");
    runtime.block_on(measure(options))
}

async fn measure(options: &Options) -> Vec<Finding> {
    let count = options.size(1_000_000, 100_000);
    let load = Load::new();
    let agent = NoopAgent::start(load.clone()).await;
    load.measure(Pace::Full, count / 5).await;
    let mut full = Vec::new();
    for _ in 0..options.runs {
        full.push(load.measure(Pace::Full, count).await);
    }
    let rates: Vec<f64> = full.iter().map(|run| run.per_second).collect();
    let rate = Spread::of(&rates).median / 2.0;
    let mut half = Vec::new();
    for _ in 0..options.runs {
        half.push(load.measure(Pace::PerSecond(rate), count / 2).await);
    }
    agent.stop().await;
    let ours = |values: Vec<f64>| Series::of("sifaka", values);
    let half_name = format!("at half load ({rate:.0}/s)");
    vec![
        Finding::alone("actions, full speed", "/s", Goal::AtLeast(200_000.0), ours(rates)),
        Finding::alone("p50, full speed", "ms", Goal::None, ours(full.iter().map(|r| r.p50_ms).collect())),
        Finding::alone("p99, full speed", "ms", Goal::None, ours(full.iter().map(|r| r.p99_ms).collect())),
        Finding::alone(format!("p50, {half_name}"), "ms", Goal::None, ours(half.iter().map(|r| r.p50_ms).collect())),
        Finding::alone(format!("p99, {half_name}"), "ms", Goal::AtMost(2.0), ours(half.iter().map(|r| r.p99_ms).collect())),
    ]
}
