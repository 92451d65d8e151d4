//! The source alone, against a library that behaves as Lustre's: a test plays agent and movers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

use agent::{ActionSource, Work};
use lustre_standin::{Root, Status, control};
use model::{Backoff, Command, Extent, Failure, Identity, Outcome};
use sifaka_lustre::{LustreConfig, LustreSource, Patience};
use std::path::PathBuf;
use std::time::Duration;
use sys::lustre::{Library, Request, UserAction, path2fid, request};
use testkit::wait_until;

const LONG: Duration = Duration::from_secs(20);

struct Site {
    root: Root,
    library: Library,
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("fs");
        std::fs::create_dir(&top).unwrap();
        let root = Root::make_unique(&top).unwrap();
        Self { root, library: Library::load_from(&lustre_standin::shared_object()).unwrap(), directory }
    }

    fn top(&self) -> PathBuf {
        self.directory.path().join("fs")
    }

    fn start(&self, reader_timeout: Option<Duration>, patience: Patience) -> LustreSource {
        let config = LustreConfig {
            mount: self.top(),
            shown: self.top(),
            fsname: Some(self.root.fsname().unwrap()),
            journal: self.directory.path().join("lustre.db"),
            backoff: Backoff { max_delay_ms: 100, max_attempts: 0 },
            reader_timeout,
            patience: Patience { settled: Duration::from_millis(50), ..patience },
        };
        let source = LustreSource::start(self.library.clone(), config).unwrap();
        source.archives_changed(&[(1, 8)]);
        wait_until(LONG, "it is registered", || !self.pipes().is_empty());
        source
    }

    fn pipes(&self) -> Vec<u64> {
        control::clients(&self.root).unwrap().into_iter().flat_map(|client| client.pipes).collect()
    }

    fn ask(&self, action: UserAction, names: &[String]) {
        let path = |name: &String| {
            let path = self.top().join(name);
            if !path.exists() {
                std::fs::write(&path, name).unwrap();
            }
            (path2fid(&self.library, &path).unwrap(), Extent::WHOLE)
        };
        let items: Vec<_> = names.iter().map(path).collect();
        let asked = Request { action, archive_id: 1, flags: 0, items: &items, data: b"" };
        request(&self.library, &self.top(), &asked).unwrap();
    }

    /// In the journal, and not over.
    fn waiting(&self, command: Command) -> u64 {
        let journal = queue::ItemJournal::open(self.directory.path().join("lustre.db")).unwrap();
        let counts = journal.counts().unwrap();
        counts.iter().filter(|count| count.command == command).map(|count| count.count).sum()
    }

    fn statuses(&self) -> Vec<Status> {
        control::requests(&self.root).unwrap().into_iter().map(|request| request.status).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.root.unlink_name();
    }
}

/// What a mover would say.
fn success(work: &Work) -> Outcome {
    match work.command {
        Command::Archive => Outcome::Archived(Identity { uuid: work.identity.uuid.clone(), ..Identity::default() }),
        Command::Restore => Outcome::Restored(None),
        _ => Outcome::Removed,
    }
}

async fn next(source: &LustreSource) -> Vec<Work> {
    tokio::time::timeout(LONG, source.next(100)).await.expect("works come").unwrap()
}

async fn finish(source: &LustreSource, count: usize) {
    let mut done = 0;
    while done < count {
        let works = next(source).await;
        done += works.len();
        source.complete(works.iter().map(|work| (work.key, success(work))).collect());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_that_was_dropped_silently_registers_anew() {
    let site = Site::new();
    let source = site.start(None, Patience { idle: Duration::from_millis(500), ..Patience::default() });
    control::set(&site.root, "hsm_control", "shutdown").unwrap();
    control::set(&site.root, "hsm_control", "enabled").unwrap();
    assert!(site.pipes().is_empty());
    wait_until(LONG, "it is registered again", || !site.pipes().is_empty());
    site.ask(UserAction::Archive, &["f".to_owned()]);
    finish(&source, 1).await;
    wait_until(LONG, "it is archived", || site.statuses() == [Status::Succeeded]);
}

/// While something runs it cannot register anew; what is asked for meanwhile stays with the coordinator.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_pipe_is_hung_up_while_something_runs() {
    let site = Site::new();
    let source = site.start(None, Patience::default());
    site.ask(UserAction::Archive, &["f".to_owned()]);
    let work = next(&source).await.remove(0);
    control::fail(&site.root, "llapi_hsm_copytool_recv", 71, Some(1)).unwrap();
    site.ask(UserAction::Archive, &["in-the-pipe".to_owned()]);
    wait_until(LONG, "it hung up", || {
        control::take_turn(&site.root).unwrap();
        site.pipes().is_empty()
    });
    site.ask(UserAction::Archive, &["later".to_owned()]);
    assert_eq!(site.statuses()[2], Status::Waiting);
    source.complete(vec![(work.key, success(&work))]);
    finish(&source, 2).await;
    wait_until(LONG, "all are archived", || site.statuses() == [Status::Succeeded; 3]);
}

/// Requests that come while it registers anew, again and again, are all done: what is in the pipe at the end is read.
#[tokio::test(flavor = "multi_thread")]
async fn p3_nothing_is_lost_between_two_registrations() {
    const COUNT: usize = 300;
    let site = Site::new();
    control::set(&site.root, "max_requests", "1000").unwrap();
    let source = site.start(None, Patience { idle: Duration::ZERO, ..Patience::default() });
    let first = site.pipes()[0];
    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            for n in 0..COUNT {
                site.ask(UserAction::Archive, &[format!("f{n}")]);
            }
        });
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(finish(&source, COUNT)));
        asking.join()
    });
    asked.unwrap();
    wait_until(LONG, "all are archived", || site.statuses().iter().all(|status| *status == Status::Succeeded));
    wait_until(LONG, "it registered often", || site.pipes().first().is_some_and(|last| *last > first + 10));
}

/// Coordinators count for themselves, from the second they started: the first requests of all MDTs have the same cookies.
#[tokio::test(flavor = "multi_thread")]
async fn equal_cookies_of_two_mdts_are_two_actions() {
    let site = Site::new();
    control::set(&site.root, "mdts", "2").unwrap();
    let source = site.start(None, Patience::default());
    site.ask(UserAction::Archive, &["one".to_owned()]);
    let one = next(&source).await.remove(0);
    site.ask(UserAction::Archive, &["other".to_owned()]);
    let other = next(&source).await.remove(0);
    let requests = control::requests(&site.root).unwrap();
    assert_eq!(requests[0].cookie, requests[1].cookie);
    // A cancel is of one of them.
    site.ask(UserAction::Cancel, &["one".to_owned()]);
    assert_eq!(tokio::time::timeout(LONG, source.next_cancels()).await.unwrap(), [one.key]);
    source.complete(vec![(one.key, Outcome::Failed(Failure::cancelled())), (other.key, success(&other))]);
    wait_until(LONG, "both are over", || site.statuses()[..2] == [Status::Canceled, Status::Succeeded]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_waits_and_is_sent_again_is_done_once() {
    let site = Site::new();
    let source = site.start(None, Patience::default());
    let names = ["f".to_owned(), "g".to_owned()];
    site.ask(UserAction::Archive, &names);
    finish(&source, 2).await;
    wait_until(LONG, "both are archived", || site.statuses() == [Status::Succeeded; 2]);
    site.ask(UserAction::Release, &names);
    source.archives_changed(&[(1, 1)]);
    site.ask(UserAction::Restore, &names);
    let first = next(&source).await.remove(0);
    let restores = || site.waiting(Command::Restore);
    wait_until(LONG, "both are received", || restores() == 2);
    control::replay_restores(&site.root).unwrap();
    // What comes after them was received after them.
    site.ask(UserAction::Archive, &["h".to_owned()]);
    wait_until(LONG, "it is received, too", || site.waiting(Command::Archive) == 1);
    assert_eq!(restores(), 2);
    let mut work = first;
    loop {
        if work.command == Command::Restore {
            std::fs::write(site.top().join(&work.write_path), "x").unwrap();
        }
        source.complete(vec![(work.key, success(&work))]);
        if work.command == Command::Archive {
            break;
        }
        work = next(&source).await.remove(0);
    }
    wait_until(LONG, "all is done", || site.statuses() == [Status::Succeeded; 5]);
}

/// Where the coordinator retries, it sends an action again the moment it ends.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_coordinator_sends_again_is_done_again() {
    let site = Site::new();
    control::set(&site.root, "policy", "").unwrap();
    let source = site.start(None, Patience::default());
    source.reconfigure(Backoff { max_delay_ms: 100, max_attempts: 1 }, None);
    site.ask(UserAction::Archive, &["f".to_owned()]);
    for _ in 0..20 {
        let work = next(&source).await.remove(0);
        source.complete(vec![(work.key, Outcome::Failed(Failure::temporary(5, "not now")))]);
    }
    finish(&source, 1).await;
    wait_until(LONG, "it is archived", || site.statuses() == [Status::Succeeded]);
}

/// More than a lane keeps in memory, in their order, also after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn p6_what_does_not_fit_in_memory_waits_in_the_journal() {
    const COUNT: usize = 1100;
    let site = Site::new();
    control::set(&site.root, "max_requests", "10000").unwrap();
    let source = site.start(None, Patience { stop: Duration::from_millis(50), ..Patience::default() });
    let names: Vec<_> = (0..COUNT).map(|n| format!("f{n}")).collect();
    site.ask(UserAction::Archive, &names);
    let given = next(&source).await;
    assert!(given.len() <= 8, "what the movers take at once");
    wait_until(LONG, "all are received", || site.statuses().iter().all(|status| *status == Status::Started));
    drop(source);
    let source = site.start(None, Patience::default());
    finish(&source, COUNT).await;
    wait_until(LONG, "all are archived", || site.statuses().iter().all(|status| *status == Status::Succeeded));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_no_longer_than_he_may() {
    let site = Site::new();
    let source = site.start(Some(Duration::from_millis(700)), Patience::default());
    let names = ["f".to_owned()];
    site.ask(UserAction::Archive, &names);
    finish(&source, 1).await;
    wait_until(LONG, "it is archived", || site.statuses() == [Status::Succeeded]);
    site.ask(UserAction::Release, &names);
    let path = site.top().join("f");
    let reader = tokio::task::spawn_blocking(move || control::read(&path, LONG));
    let work = next(&source).await.remove(0);
    assert!(work.reader_waits && work.expected_size == Some(1));
    let cancelled = tokio::time::timeout(LONG, source.next_cancels()).await.unwrap();
    assert_eq!(cancelled, [work.key]);
    source.complete(vec![(work.key, Outcome::Failed(Failure::cancelled()))]);
    assert_eq!(reader.await.unwrap().map_err(|errno| errno.0), Err(61));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_hears_that_a_long_action_lives() {
    let site = Site::new();
    let source = site.start(None, Patience { heartbeat: Duration::from_millis(200), ..Patience::default() });
    site.ask(UserAction::Archive, &["f".to_owned()]);
    let work = next(&source).await.remove(0);
    let updated = || control::requests(&site.root).unwrap()[0].updated;
    let before = updated();
    wait_until(LONG, "a heartbeat", || updated() > before + 300);
    source.complete(vec![(work.key, success(&work))]);
    wait_until(LONG, "it is archived", || site.statuses() == [Status::Succeeded]);
}
