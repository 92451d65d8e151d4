//! The same with the durable queue in the path.

use super::noop_agent::NoopAgent;
use crate::finding::{Finding, Goal, Series};
use crate::options::Options;
use crate::timing::{Cache, seconds};
use agent::local::LocalSource;
use coordinator::{Engine, EngineConfig};
use model::{Backoff, Class, Command, Identity};
use queue::{NewAction, Queue, RequestId, SqliteQueue};
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::{LoopFs, Scratch};

pub(crate) const ABOUT: &str = "Remove actions that concern no file: submitted to the SQLite queue (one transaction for 4,096), then \
dispatched by the coordinator through agent and socket to the noop mover, their results recorded. Submitting and dispatching run \
one after the other, and the rate is that of both together; the database is on the disk of the temporary files.";

/// As many as one call of the admin API takes.
const BATCH: u64 = 4096;
const POLL: Duration = Duration::from_millis(5);
const REQUEST: RequestId = RequestId(1);
const OWNERS: u64 = 10;

struct Measured {
    submit_s: f64,
    dispatch_s: f64,
}

pub(crate) fn run(options: &Options) -> Vec<Finding> {
    let count = options.size(200_000, 20_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("start a runtime");
    let fs = LoopFs::new(options.fs, 64);
    runtime.block_on(measure(&fs, count / 10));
    let runs: Vec<_> = (0..options.runs).map(|_| runtime.block_on(measure(&fs, count))).collect();
    let ours = |seconds: fn(&Measured) -> f64| {
        Series::of("sifaka", runs.iter().map(|run| count as f64 / seconds(run)).collect())
    };
    vec![
        Finding::alone(
            "actions, submitted, dispatched and recorded",
            "/s",
            Goal::AtLeast(50_000.0),
            ours(|run| run.submit_s + run.dispatch_s),
        ),
        Finding::alone("submitting alone", "/s", Goal::None, ours(|run| run.submit_s)),
        Finding::alone("dispatching and recording alone", "/s", Goal::None, ours(|run| run.dispatch_s)),
    ]
}

async fn measure(fs: &LoopFs, count: u64) -> Measured {
    let scratch = Scratch::new("queue");
    let queue = Arc::new(SqliteQueue::open(scratch.join("queue.db")).expect("make a queue"));
    Cache::Warm.settle();
    let entries: Vec<_> = (0..count).map(entry).collect();
    let submit_s = seconds(|| {
        for batch in entries.chunks(usize::try_from(BATCH).expect("a small number")) {
            queue.submit(batch).expect("submit actions");
        }
    });
    let config = EngineConfig {
        root: fs.path(),
        default_archive: 1,
        copies: Vec::new(),
        restore_timeout: None,
        backoff: Backoff { max_delay_ms: 1000, max_attempts: 1 },
        remove_grace: Duration::ZERO,
        keep_versions: Duration::ZERO,
        snapshots: false,
        ranges: None,
    };
    let fatal = |why: String| panic!("the queue is damaged: {why}");
    let engine = Engine::start(config, queue.clone(), None, fatal).expect("start the engine");
    // Taking works begins when the mover has registered.
    let start = Instant::now();
    let agent = NoopAgent::start(Arc::new(LocalSource::new(engine.clone()))).await;
    let status = loop {
        let status = queue.request(REQUEST).expect("read the queue").expect("the request is known");
        if status.succeeded + status.failed + status.cancelled >= status.total {
            break status;
        }
        tokio::time::sleep(POLL).await;
    };
    let dispatch_s = start.elapsed().as_secs_f64();
    assert_eq!(status.succeeded, count, "every action must succeed: {status:?}");
    agent.stop().await;
    engine.stop();
    Measured { submit_s, dispatch_s }
}

fn entry(number: u64) -> NewAction {
    NewAction {
        request: REQUEST,
        class: Class::of(Command::Remove),
        command: Command::Remove,
        archive_id: 1,
        owner: u32::try_from(number % OWNERS).expect("a small number"),
        file: None,
        path: format!("projects/climate/run-{:04}/output/field-{number:08}.nc", number / 1000),
        identity: Identity { uuid: format!("{number:032x}"), ..Identity::default() },
        data: Vec::new(),
        not_before_ms: 0,
        created_ms: 0,
    }
}
