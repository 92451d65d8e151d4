//! How many actions a second pass through the agent, and how long one takes.

use super::load::{Load, Measured, Pace};
use super::noop_agent::NoopAgent;
use crate::finding::{Finding, Goal, Series, Spread};
use crate::options::Options;

pub(crate) const ABOUT: &str = "An in-memory source, through agent and gRPC on a Unix socket to the noop mover (a process of \
its own) and back to the source. Time is taken from when an action is due to its result: at full speed it is due when the agent \
takes it, at half load on a fixed schedule, so that delays of the source count too. Half load is 100,000 a second, half of the target; half of what was reached is told too. \
Lemur (Go, agent and mover in one process, 16 threads) does 50,000 a second on such a machine.";

const TARGET: f64 = 200_000.0;

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
    let reached = Spread::of(&rates).median;
    let mut findings = vec![Finding::alone("actions, full speed", "/s", Goal::AtLeast(TARGET), ours(rates))];
    findings.extend(latencies("full speed", &full, Goal::None));
    for (rate, goal) in [(TARGET.min(reached) / 2.0, Goal::AtMost(2.0)), (reached / 2.0, Goal::None)] {
        let mut paced = Vec::new();
        for _ in 0..options.runs {
            paced.push(load.measure(Pace::PerSecond(rate), count / 4).await);
        }
        findings.extend(latencies(&format!("at {rate:.0} a second"), &paced, goal));
    }
    agent.stop().await;
    findings
}

fn ours(values: Vec<f64>) -> Series {
    Series::of("sifaka", values)
}

fn latencies(when: &str, runs: &[Measured], goal: Goal) -> [Finding; 2] {
    let p50 = ours(runs.iter().map(|run| run.p50_ms).collect());
    let p99 = ours(runs.iter().map(|run| run.p99_ms).collect());
    [
        Finding::alone(format!("p50, {when}"), "ms", Goal::None, p50),
        Finding::alone(format!("p99, {when}"), "ms", goal, p99),
    ]
}
