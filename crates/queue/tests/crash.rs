//! A process that submits and finishes is killed at random moments: nothing that it was told is lost or doubled.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap in a test is a failed test"
)]

use model::{ActionId, Class, Command, Failure, FileHandle, Identity};
use sifaka_queue::{Change, ListFilter, NewAction, Queue, RequestId, SqliteQueue};
use std::collections::{BTreeSet, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command as Process, Stdio};
use std::sync::mpsc;

const DATABASE: &str = "SIFAKA_TEST_QUEUE";
const ROUNDS: u64 = 20;
const BATCH: u64 = 40;

fn actions() -> Vec<NewAction> {
    let action = |n: u64| NewAction {
        request: RequestId(1),
        class: Class::Archive,
        command: Command::Archive,
        archive_id: 1,
        owner: u32::try_from(n % 3).unwrap(),
        file: Some(FileHandle::from_bytes(&[&[1, 0, 0, 0][..], &n.to_le_bytes()].concat()).unwrap()),
        path: format!("some/file/{n}"),
        identity: Identity::default(),
        data: Vec::new(),
        not_before_ms: 0,
        created_ms: 0,
    };
    (0..BATCH).map(action).collect()
}

/// One line a call begun and one a call returned, written before anything else is done.
fn say(what: &str, ids: &[ActionId]) {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    let line = format!("\n{what} {}\n", ids.join(" "));
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

#[test]
#[ignore = "the process that the other test kills"]
fn victim() {
    let queue = SqliteQueue::open(std::env::var_os(DATABASE).expect("started by the test")).unwrap();
    let (sender, receiver) = mpsc::sync_channel::<Vec<ActionId>>(4);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for ids in receiver {
                // Some of each batch stay.
                let ids: Vec<_> = ids.into_iter().filter(|id| id.0 % 4 != 0).collect();
                say("finishing", &ids);
                let result = Err(Failure::permanent(2, "kept longer than successes are"));
                let finish =
                    |id: &ActionId| Change::Finish { id: *id, result: result.clone(), bytes: 1, finished_ms: 1 };
                queue.apply(&ids.iter().map(finish).collect::<Vec<_>>()).unwrap();
                say("finished", &ids);
            }
        });
        loop {
            say("submitting", &[]);
            let ids = queue.submit(&actions()).unwrap();
            say("submitted", &ids);
            sender.send(ids).unwrap();
        }
    });
}

/// What a victim said before it died.
#[derive(Default)]
struct Said {
    submitted: Vec<ActionId>,
    finished: Vec<ActionId>,
    calls_begun: usize,
    calls_returned: usize,
}

/// Kills it when it has said `lines` lines.
fn run_and_kill(database: &std::path::Path, lines: u64) -> Said {
    let mut victim = Process::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "victim", "--nocapture"])
        .env(DATABASE, database)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Said::default();
    let mut heard = 0;
    for line in BufReader::new(victim.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let what = words.next().unwrap_or_default();
        let ids = || words.filter_map(|w| w.parse().ok()).map(ActionId);
        match what {
            "submitting" | "finishing" => said.calls_begun += 1,
            "submitted" => said.submitted.extend(ids()),
            "finished" => said.finished.extend(ids()),
            _ => continue,
        }
        said.calls_returned += usize::from(matches!(what, "submitted" | "finished"));
        heard += 1;
        if heard == lines {
            victim.kill().unwrap();
        }
    }
    let status = victim.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "it must not end by itself: {status}");
    said
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_kill() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("queue.db");
    let (mut submitted, mut finished) = (HashSet::new(), HashSet::new());
    let mut killed_inside_a_call = 0;
    let mut dice = u64::from(std::process::id());
    for round in 0..ROUNDS {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let said = run_and_kill(&database, 3 + (dice >> 33) % 120);
        killed_inside_a_call += u64::from(said.calls_begun > said.calls_returned);
        for id in &said.submitted {
            assert!(submitted.insert(*id), "round {round}: id {id} was given twice");
        }
        finished.extend(said.finished);

        let queue = SqliteQueue::open(&database).unwrap();
        let live: BTreeSet<_> =
            queue.list(&ListFilter::default(), ActionId(0), usize::MAX).unwrap().iter().map(|e| e.id).collect();
        let results: BTreeSet<_> =
            queue.finished(ActionId(u64::MAX), usize::MAX).unwrap().iter().map(|f| f.id).collect();
        assert!(live.is_disjoint(&results), "round {round}: live and finished at once");
        for id in &submitted {
            assert!(live.contains(id) || results.contains(id), "round {round}: {id} was accepted and is lost");
        }
        for id in &finished {
            assert!(results.contains(id), "round {round}: {id} was finished and has no result");
        }
        // Each counted once, and whole batches only.
        let (totals, request) = (queue.totals().unwrap(), queue.request(RequestId(1)).unwrap().unwrap_or_default());
        assert_eq!(totals.failed, results.len() as u64, "round {round}");
        assert_eq!(totals.live.iter().map(|l| l.3).sum::<u64>(), live.len() as u64, "round {round}");
        assert_eq!((request.total, request.failed), ((live.len() + results.len()) as u64, totals.failed));
        assert_eq!(request.total % BATCH, 0, "round {round}: a torn batch");
    }
    assert!(!submitted.is_empty() && !finished.is_empty());
    assert!(killed_inside_a_call >= ROUNDS / 2, "work was in flight in {killed_inside_a_call} of {ROUNDS} rounds only");
}
