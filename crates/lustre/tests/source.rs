//! The source alone, against a library that behaves as Lustre's: a test plays agent and movers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

use agent::admin::Control;
use agent::admin::api::{ActionsQuery, CancelRequest, FinishedQuery};
use agent::{ActionSource, Work};
use lustre_standin::{Root, Status, control};
use model::{ActionData, Backoff, Command, Digest, Extent, Failure, Fid, Identity, Outcome};
use sifaka_lustre::{LustreConfig, LustreControl, LustreSource, Patience};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use sys::lustre::{Action, Item, Library, Request, UserAction, path2fid, request};
use testkit::{FsKind, LoopFs, faults, wait_until};

const LONG: Duration = Duration::from_secs(20);

struct Site {
    root: Root,
    library: Library,
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        Self::in_directory(tempfile::tempdir().unwrap())
    }

    fn in_directory(directory: tempfile::TempDir) -> Self {
        let top = directory.path().join("fs");
        std::fs::create_dir(&top).unwrap();
        let root = Root::make_unique(&top).unwrap();
        Self { root, library: Library::load_from(&lustre_standin::shared_object()).unwrap(), directory }
    }

    fn top(&self) -> PathBuf {
        self.directory.path().join("fs")
    }

    fn start(&self, reader_timeout: Option<Duration>, patience: Patience) -> LustreSource {
        self.start_for(1, reader_timeout, patience)
    }

    fn start_for(&self, archive: u32, reader_timeout: Option<Duration>, patience: Patience) -> LustreSource {
        let fsname = self.root.fsname().unwrap();
        self.start_as(&fsname, archive, reader_timeout, patience)
    }

    fn start_as(
        &self,
        fsname: &str,
        archive: u32,
        reader_timeout: Option<Duration>,
        patience: Patience,
    ) -> LustreSource {
        let config = LustreConfig {
            mount: self.top(),
            shown: self.top(),
            fsname: Some(fsname.to_owned()),
            journal: self.directory.path().join("lustre.db"),
            backoff: Backoff { max_delay_ms: 100, max_attempts: 0 },
            reader_timeout,
            snapshots: false,
            patience: Patience { settled: Duration::from_millis(50), ..patience },
        };
        let source = LustreSource::start(self.library.clone(), config).unwrap();
        source.archives_changed(&[(archive, 8)]);
        source.movers_started();
        wait_until(LONG, "it is registered", || !self.pipes().is_empty());
        source
    }

    fn pipes(&self) -> Vec<u64> {
        control::clients(&self.root).unwrap().into_iter().flat_map(|client| client.pipes).collect()
    }

    fn ask(&self, action: UserAction, names: &[String]) {
        self.ask_with(action, names, b"").unwrap();
    }

    fn ask_with(&self, action: UserAction, names: &[String], data: &[u8]) -> std::io::Result<()> {
        let path = |name: &String| {
            let path = self.top().join(name);
            if !path.exists() {
                std::fs::write(&path, name).unwrap();
            }
            (path2fid(&self.library, &path).unwrap(), Extent::WHOLE)
        };
        let items: Vec<_> = names.iter().map(path).collect();
        let asked = Request { action, archive_id: 1, flags: 0, items: &items, data };
        request(&self.library, &self.top(), &asked).map_err(|error| error.source)
    }

    /// Archived, and named by what a file has for it.
    async fn archived(&self, source: &LustreSource, name: &str) -> PathBuf {
        self.ask(UserAction::Archive, &[name.to_owned()]);
        finish(source, 1).await;
        wait_until(LONG, "it is archived", || self.statuses().iter().all(|status| *status == Status::Succeeded));
        self.top().join(name)
    }

    /// The object that a file names.
    fn uuid(&self, path: &Path) -> String {
        let file = std::fs::File::open(path).unwrap();
        String::from_utf8(sys::xattr::get(&file, model::xattr::UUID).unwrap().unwrap_or_default()).unwrap()
    }

    fn unlink(&self, name: &str) {
        let path = self.top().join(name);
        let fid = path2fid(&self.library, &path).unwrap();
        std::fs::remove_file(&path).unwrap();
        // The stand-in keeps a name there.
        std::fs::remove_file(self.top().join(format!(".lustre/fid/{fid}"))).unwrap();
    }

    #[track_caller]
    fn wait_for_failure(&self, request: usize, errno: i32) {
        wait_until(LONG, "it fails", || self.statuses()[request] == Status::Failed);
        assert_eq!(control::requests(&self.root).unwrap()[request].errno, errno);
    }

    /// The coordinator gives up what is under way.
    fn give_up(&self) {
        control::set(&self.root, "active_request_timeout", "0").unwrap();
        wait_until(LONG, "it is given up", || {
            control::take_turn(&self.root).unwrap();
            !self.statuses().contains(&Status::Started)
        });
        control::set(&self.root, "active_request_timeout", "3600").unwrap();
    }

    fn is_registered_for(&self, archive: u32) -> bool {
        control::clients(&self.root).unwrap().iter().any(|client| client.archives.contains(&archive))
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

/// Its restore would be written into another inode, with another key.
#[tokio::test]
async fn p1_an_encrypted_file_is_not_archived() {
    let fs = LoopFs::with_encryption(64);
    let site = Site::in_directory(tempfile::tempdir_in(fs.path()).unwrap());
    fs.encrypted_directory(&site.top().join("d"));
    let _source = site.start(None, Patience::default());
    site.ask(UserAction::Archive, &["d/f".to_owned()]);
    site.wait_for_failure(0, 95);
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

/// One coordinator may have dropped it while another one gives it work. The stand-in has one; so here, its work is what tells nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_renewed_now_and_then_between_actions() {
    let site = Site::new();
    let source = site.start(None, Patience { renew: Duration::from_millis(500), ..Patience::default() });
    let first = site.pipes()[0];
    site.ask(UserAction::Archive, &["f".to_owned()]);
    let work = next(&source).await.remove(0);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(site.pipes(), [first], "not while something is under way");
    source.complete(vec![(work.key, success(&work))]);
    wait_until(LONG, "it is renewed", || site.pipes().first().is_some_and(|pipe| *pipe > first));
    site.ask(UserAction::Archive, &["g".to_owned()]);
    finish(&source, 1).await;
    wait_until(LONG, "both are archived", || site.statuses() == [Status::Succeeded; 2]);
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

/// What cannot be refused because the registration has just ended is refused by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_while_it_registers_anew_has_its_answer() {
    const COUNT: usize = 300;
    let site = Site::new();
    control::set(&site.root, "max_requests", "1000").unwrap();
    let _source = site.start_as("other", 1, None, Patience { idle: Duration::ZERO, ..Patience::default() });
    let first = site.pipes()[0];
    for n in 0..COUNT {
        site.ask(UserAction::Archive, &[format!("f{n}")]);
    }
    wait_until(LONG, "all are answered", || site.statuses() == [Status::Failed; COUNT]);
    wait_until(LONG, "it registered often", || site.pipes().first().is_some_and(|last| *last > first + 10));
}

/// Nobody takes what comes next: were it begun, the agent would never be without anything under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_archive_is_registered_although_there_is_work() {
    let site = Site::new();
    let source = site.start(None, Patience::default());
    site.ask(UserAction::Archive, &["running".to_owned()]);
    let work = next(&source).await.remove(0);
    source.archives_changed(&[(1, 1), (2, 1)]);
    site.ask(UserAction::Archive, &["next".to_owned()]);
    wait_until(LONG, "it is received", || site.waiting(Command::Archive) == 2);
    source.complete(vec![(work.key, success(&work))]);
    wait_until(LONG, "it is registered for both", || site.is_registered_for(2));
    finish(&source, 1).await;
    wait_until(LONG, "both are archived", || site.statuses() == [Status::Succeeded; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_be_tried_again_does_not_keep_a_new_archive_away() {
    let site = Site::new();
    let source = site.start(None, Patience::default());
    site.ask(UserAction::Archive, &["f".to_owned()]);
    let work = next(&source).await.remove(0);
    // Its mover is gone for long.
    source.archives_changed(&[]);
    source.complete(vec![(work.key, Outcome::Failed(Failure::temporary(107, "no mover")))]);
    source.archives_changed(&[(2, 1)]);
    wait_until(LONG, "it is registered for both", || site.is_registered_for(2));
    source.archives_changed(&[(1, 1), (2, 1)]);
    let again = next(&source).await.remove(0);
    assert_eq!((again.key, &again.identity.uuid), (work.key, &work.identity.uuid));
    source.complete(vec![(again.key, success(&again))]);
    wait_until(LONG, "it is archived", || site.statuses() == [Status::Succeeded]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_answers_what_was_left_for_an_archive_that_is_gone() {
    let site = Site::new();
    let source = site.start(None, Patience { stop: Duration::from_millis(50), ..Patience::default() });
    site.ask(UserAction::Archive, &["f".to_owned()]);
    next(&source).await;
    drop(source);
    let patience = Patience { orphans: Duration::from_millis(700), ..Patience::default() };
    let _source = site.start_for(2, None, patience);
    wait_until(LONG, "it has its answer", || site.statuses() == [Status::Failed]);
}

/// What waits for a mover that is away cannot begin: the agent is as good as idle.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_dropped_registers_anew_also_when_something_waits_for_a_mover() {
    let site = Site::new();
    let source = site.start(None, Patience { idle: Duration::from_millis(500), ..Patience::default() });
    source.archives_changed(&[]);
    site.ask(UserAction::Archive, &["f".to_owned()]);
    wait_until(LONG, "it waits", || site.waiting(Command::Archive) == 1);
    control::set(&site.root, "hsm_control", "shutdown").unwrap();
    control::set(&site.root, "hsm_control", "enabled").unwrap();
    wait_until(LONG, "it is registered again", || !site.pipes().is_empty());
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
    source.reconfigure(Backoff { max_delay_ms: 100, max_attempts: 1 }, None, false);
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

/// The failures of what ended, newest first.
async fn ended(source: &Arc<LustreSource>, site: &Site) -> Vec<Option<Failure>> {
    let control = LustreControl::new(Arc::clone(source), String::new(), site.top(), || serde_json::Value::Null);
    let ended = control.finished(FinishedQuery::default()).await.unwrap();
    ended.into_iter().map(|ended| ended.error).collect()
}

/// The coordinator gave it up while no agent ran, and the file was released since: the object is its only content.
#[tokio::test(flavor = "multi_thread")]
async fn p1_a_removal_that_was_given_up_is_not_carried_out() {
    let site = Site::new();
    let source = site.start(None, Patience { stop: Duration::from_millis(50), ..Patience::default() });
    let path = site.archived(&source, "f").await;
    let object = site.uuid(&path);
    site.ask(UserAction::Remove, &["f".to_owned()]);
    assert_eq!(next(&source).await.len(), 1);
    tokio::task::block_in_place(|| drop(source));
    site.give_up();
    site.ask(UserAction::Release, &["f".to_owned()]);
    let source = Arc::new(site.start(None, Patience::default()));
    let settled = async {
        while ended(&source, &site).await.len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    let given = tokio::select! {
        () = settled => Vec::new(),
        works = next(&source) => works,
    };
    assert!(given.is_empty(), "{given:?}");
    assert_eq!(ended(&source, &site).await[0].as_ref().map(|failure| failure.errno), Some(2));
    assert_eq!(site.uuid(&path), object);
}

/// Nothing keeps a user from releasing what is to be removed, before the removal begins.
#[tokio::test(flavor = "multi_thread")]
async fn p1_what_was_released_meanwhile_is_not_removed() {
    let site = Site::new();
    let source = site.start(None, Patience::default());
    let path = site.archived(&source, "f").await;
    let object = site.uuid(&path);
    source.archives_changed(&[]);
    site.ask(UserAction::Remove, &["f".to_owned()]);
    wait_until(LONG, "the agent has it", || site.statuses()[1] == Status::Started);
    site.ask(UserAction::Release, &["f".to_owned()]);
    source.archives_changed(&[(1, 8)]);
    site.wait_for_failure(1, 1);
    assert_eq!(site.uuid(&path), object);
}

/// As long as the coordinator does not answer, nothing is removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_begins_when_the_coordinator_has_confirmed_it() {
    let site = Site::new();
    let source = site.start(None, Patience::default());
    let path = site.archived(&source, "f").await;
    control::fail(&site.root, "llapi_hsm_action_progress", 11, None).unwrap();
    site.ask(UserAction::Remove, &["f".to_owned()]);
    let early = tokio::time::timeout(Duration::from_millis(1500), source.next(1)).await;
    assert!(early.is_err(), "{early:?}");
    control::heal(&site.root, "llapi_hsm_action_progress").unwrap();
    finish(&source, 1).await;
    wait_until(LONG, "it is removed", || site.statuses()[1] == Status::Succeeded);
    assert_eq!(site.uuid(&path), "");
}

/// A restore whose file cannot be made for now waits, and is cancelled or given up all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_begin_is_answered_when_it_is_cancelled_or_given_up() {
    for (hold, cancel) in [(Duration::from_secs(1000), true), (Duration::from_millis(300), false)] {
        let site = Site::new();
        let source = site.start(None, Patience { hold, ..Patience::default() });
        site.archived(&source, "f").await;
        site.ask(UserAction::Release, &["f".to_owned()]);
        control::fail(&site.root, "make_volatile", 28, None).unwrap();
        site.ask(UserAction::Restore, &["f".to_owned()]);
        wait_until(LONG, "the agent has it", || site.statuses()[1] == Status::Started);
        if cancel {
            let source = Arc::new(source);
            while !has_failed_for_now(&source, &site).await {
                tokio::task::yield_now().await;
            }
            site.ask(UserAction::Cancel, &["f".to_owned()]);
            wait_until(LONG, "both are over", || site.statuses()[1..] == [Status::Canceled, Status::Succeeded]);
        } else {
            site.wait_for_failure(1, 28);
        }
    }
}

/// Whether an open action failed for now.
async fn has_failed_for_now(source: &Arc<LustreSource>, site: &Site) -> bool {
    let control = LustreControl::new(Arc::clone(source), String::new(), site.top(), || serde_json::Value::Null);
    control.actions(ActionsQuery::default()).await.unwrap().iter().any(|view| view.last_error.is_some())
}

/// A mover that does not come back holds no slot of the coordinator's for ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_mover_that_stays_away_fails_in_the_end() {
    let site = Site::new();
    let source = site.start(None, Patience { hold: Duration::from_millis(300), ..Patience::default() });
    site.ask(UserAction::Archive, &["f".to_owned()]);
    let work = next(&source).await.remove(0);
    source.archives_changed(&[]);
    source.complete(vec![(work.key, Outcome::Failed(Failure::temporary(107, "its mover died")))]);
    site.wait_for_failure(0, 107);
}

/// Anybody may ask for the restore of any file, and say of which object: the file's hash decides.
#[tokio::test(flavor = "multi_thread")]
async fn p1_a_request_does_not_decide_what_a_file_s_content_becomes() {
    let site = Site::new();
    let source = site.start(None, Patience::default());
    let names = ["f".to_owned()];
    let other = ActionData { file_id: b"other".to_vec(), mover_data: Vec::new() }.to_json();
    let hash = |digit: &str| Some(Digest::from_hex(&digit.repeat(64)).unwrap());
    for (own, got, errno) in
        [(None, None, 1), (hash("a"), None, 5), (hash("a"), hash("b"), 5), (hash("a"), hash("a"), 0)]
    {
        std::fs::write(site.top().join("f"), b"1").unwrap();
        site.ask(UserAction::Archive, &names);
        let work = next(&source).await.remove(0);
        let identity = Identity { hash: own, ..work.identity.clone() };
        source.complete(vec![(work.key, Outcome::Archived(identity))]);
        let last = || site.statuses().last().copied();
        wait_until(LONG, "it is archived", || last() == Some(Status::Succeeded));
        site.ask(UserAction::Release, &names);
        site.ask_with(UserAction::Restore, &names, other.as_bytes()).unwrap();
        let number = site.statuses().len() - 1;
        if own.is_some() {
            let work = next(&source).await.remove(0);
            assert_eq!((work.identity.uuid.as_str(), work.identity.hash), ("other", own));
            std::fs::write(site.top().join(&work.write_path), b"2").unwrap();
            source.complete(vec![(work.key, Outcome::Restored(got))]);
        }
        if errno == 0 {
            wait_until(LONG, "it is restored", || last() == Some(Status::Succeeded));
        } else {
            site.wait_for_failure(number, errno);
            site.ask(UserAction::Restore, &names);
            let work = next(&source).await.remove(0);
            std::fs::write(site.top().join(&work.write_path), b"1").unwrap();
            source.complete(vec![(work.key, Outcome::Restored(own))]);
            wait_until(LONG, "its own is restored", || last() == Some(Status::Succeeded));
        }
    }
}

/// The coordinator takes a file whose removal succeeded for one that is not archived: another object than its own is not removed through it.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_names_another_object_than_the_file_removes_none() {
    let site = Site::new();
    let source = site.start(None, Patience::default());
    let path = site.archived(&source, "f").await;
    let object = site.uuid(&path);
    let data = |id: &str| ActionData { file_id: id.into(), mover_data: Vec::new() }.to_json();
    site.ask_with(UserAction::Remove, &["f".to_owned()], data("an older one").as_bytes()).unwrap();
    site.wait_for_failure(1, 22);
    assert_eq!(site.uuid(&path), object);
    site.ask_with(UserAction::Remove, &["f".to_owned()], data(&object).as_bytes()).unwrap();
    let work = next(&source).await.remove(0);
    assert_eq!((work.command, &work.identity.uuid), (Command::Remove, &object));
    source.complete(vec![(work.key, success(&work))]);
    wait_until(LONG, "it is removed", || site.statuses()[2] == Status::Succeeded);
}

/// An object that no file names is removed when its id was proposed for it; another id may be that of an object that a file names.
#[tokio::test(flavor = "multi_thread")]
async fn only_an_object_of_our_own_id_is_owed() {
    let site = Site::new();
    let source = site.start(None, Patience::default());
    let mut removed = Vec::new();
    for name in ["theirs", "ours"] {
        site.ask(UserAction::Archive, &[name.to_owned()]);
        let work = next(&source).await.remove(0);
        site.unlink(name);
        let proposed = work.identity.uuid.clone();
        // Compressed, it has a suffix.
        let uuid = if name == "ours" { proposed + ".zst" } else { "dir/f".to_owned() };
        removed.push(uuid.clone());
        source.complete(vec![(work.key, Outcome::Archived(Identity { uuid, ..Identity::default() }))]);
        wait_until(LONG, "it is over", || !site.statuses().contains(&Status::Started));
    }
    let works = next(&source).await;
    let given: Vec<_> = works.iter().map(|work| (work.command, &work.identity.uuid)).collect();
    assert_eq!(given, [(Command::Remove, &removed[1])]);
    // It waits for its mover without keeping the agent from registering for an archive that is new.
    let pipes = site.pipes();
    source.archives_changed(&[(2, 8)]);
    source.complete(vec![(works[0].key, Outcome::Failed(Failure::temporary(107, "its mover died")))]);
    wait_until(LONG, "it registers anew", || site.pipes().iter().any(|pipe| !pipes.contains(pipe)));
    source.archives_changed(&[(1, 8), (2, 8)]);
    let work = next(&source).await.remove(0);
    assert_eq!(work.identity.uuid, removed[1]);
    source.complete(vec![(work.key, success(&work))]);
}

/// What waits for its turn begins before the coordinator gives it up, and is told of from then on; its turn comes when it would have come.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_long_for_its_turn_is_not_given_up() {
    let site = Site::new();
    control::set(&site.root, "max_requests", "10").unwrap();
    let source = site.start(None, Patience { keep: Duration::from_millis(400), ..Patience::default() });
    source.archives_changed(&[(1, 1)]);
    site.ask(UserAction::Archive, &["first".to_owned()]);
    let first = next(&source).await.remove(0);
    let names: Vec<String> = (0..3).map(|n| format!("later{n}")).collect();
    for name in &names {
        site.ask(UserAction::Archive, std::slice::from_ref(name));
        wait_until(LONG, "it is received", || !site.statuses().contains(&Status::Waiting));
    }
    let updated = || control::requests(&site.root).unwrap()[1..].iter().map(|request| request.updated).min().unwrap();
    let before = updated();
    wait_until(LONG, "they begin, and are told of again", || updated() > before + 900);
    let early = tokio::time::timeout(Duration::from_millis(300), source.next(10)).await;
    assert!(early.is_err(), "it is not their turn: {early:?}");
    let mut work = first;
    for name in names {
        source.complete(vec![(work.key, success(&work))]);
        work = next(&source).await.remove(0);
        assert!(work.file_path.ends_with(&name), "{}", work.file_path);
    }
    source.complete(vec![(work.key, success(&work))]);
    wait_until(LONG, "all are archived", || site.statuses() == [Status::Succeeded; 4]);
}

/// It was confirmed long before its turn came: it is looked at again.
#[tokio::test(flavor = "multi_thread")]
async fn p1_what_was_released_while_its_removal_waited_for_its_turn_is_not_removed() {
    let site = Site::new();
    let source = site.start(None, Patience { keep: Duration::from_millis(300), ..Patience::default() });
    let path = site.archived(&source, "f").await;
    let object = site.uuid(&path);
    source.archives_changed(&[(1, 1)]);
    site.ask(UserAction::Archive, &["g".to_owned()]);
    let busy = next(&source).await.remove(0);
    site.ask(UserAction::Remove, &["f".to_owned()]);
    let updated = || control::requests(&site.root).unwrap()[2].updated;
    let before = updated();
    wait_until(LONG, "it is confirmed", || updated() > before + 250);
    site.ask(UserAction::Release, &["f".to_owned()]);
    source.complete(vec![(busy.key, success(&busy))]);
    site.wait_for_failure(2, 1);
    assert_eq!(site.uuid(&path), object);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_began_fails_when_its_mover_stays_away() {
    let site = Site::new();
    let short = Duration::from_millis(300);
    let source = site.start(None, Patience { hold: short, keep: short, ..Patience::default() });
    source.archives_changed(&[]);
    site.ask(UserAction::Archive, &["f".to_owned()]);
    site.wait_for_failure(0, 107);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_whose_restore_never_began_has_a_limit() {
    let site = Site::new();
    let source = site.start(Some(Duration::from_millis(700)), Patience::default());
    site.archived(&source, "f").await;
    site.ask(UserAction::Release, &["f".to_owned()]);
    source.archives_changed(&[]);
    let path = site.top().join("f");
    let read = tokio::task::spawn_blocking(move || control::read(&path, LONG)).await.unwrap();
    assert_eq!(read.map_err(|errno| errno.0), Err(61));
}

/// Whoever was told may not have had the action yet.
#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_told_again_of_a_cancel() {
    let site = Site::new();
    let source = site.start(None, Patience::default());
    site.ask(UserAction::Archive, &["f".to_owned()]);
    let work = next(&source).await.remove(0);
    site.ask(UserAction::Cancel, &["f".to_owned()]);
    for _ in 0..2 {
        assert_eq!(tokio::time::timeout(LONG, source.next_cancels()).await.unwrap(), [work.key]);
    }
    source.complete(vec![(work.key, Outcome::Failed(Failure::cancelled()))]);
    wait_until(LONG, "it is over", || site.statuses() == [Status::Canceled, Status::Succeeded]);
}

/// The end of the old registration would be that of the new one, too: to the coordinator they are one client.
#[tokio::test(flavor = "multi_thread")]
async fn it_registers_anew_when_the_old_registration_is_over_and_not_before() {
    let site = Site::new();
    let source = site.start(None, Patience { idle: Duration::from_millis(500), ..Patience::default() });
    control::hang(&site.root, "llapi_hsm_action_end").unwrap();
    let first = site.pipes()[0];
    // Of another filesystem: it is refused, and the refusal hangs.
    let fid = Fid { seq: 0x2_0000_0401, oid: 1, ver: 0 };
    let item = Item::new(Action::Archive, fid, fid, Extent::WHOLE, 5, 0, b"").unwrap();
    let numbers = [1_u32, 1, 0, 0, 0, 0, 1, 0].map(u32::to_le_bytes);
    let list = [numbers.as_flattened(), b"other\0\0\0", item.as_bytes()].concat();
    control::inject(&site.root, &list).unwrap();
    let pipes = || {
        control::take_turn(&site.root).unwrap();
        site.pipes()
    };
    wait_until(LONG, "it hung up", || !pipes().contains(&first));
    for _ in 0..15 {
        std::thread::sleep(Duration::from_millis(100));
        assert!(pipes().is_empty(), "the old one is not over");
    }
    control::heal(&site.root, "llapi_hsm_action_end").unwrap();
    wait_until(LONG, "it is registered again", || !pipes().is_empty());
    site.ask(UserAction::Archive, &["f".to_owned()]);
    finish(&source, 1).await;
    wait_until(LONG, "it is archived", || site.statuses() == [Status::Succeeded]);
}

/// A call to an MDT that does not answer comes back when it answers; the agent ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_an_mdt_that_hangs() {
    let site = Site::new();
    let source = site.start(None, Patience { stop: Duration::from_millis(100), ..Patience::default() });
    site.ask(UserAction::Archive, &["f".to_owned()]);
    let work = next(&source).await.remove(0);
    let hanging = ["llapi_hsm_action_end", "llapi_hsm_copytool_unregister"];
    hanging.iter().for_each(|function| control::hang(&site.root, function).unwrap());
    source.complete(vec![(work.key, success(&work))]);
    let (ended, stopped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(source);
        let _ = ended.send(());
    });
    tokio::task::block_in_place(|| stopped.recv_timeout(LONG)).expect("it stops");
    assert_eq!(site.statuses(), [Status::Started]);
    assert_eq!(site.waiting(Command::Archive), 1, "the next process has it");
    hanging.iter().for_each(|function| control::heal(&site.root, function).unwrap());
    wait_until(LONG, "the answer arrives", || site.statuses() == [Status::Succeeded]);
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

/// Told that a file is released no more, the coordinator gives its only copy up. A mover's word is not enough for that: what it wrote may be in the cache of a client
/// alone, or nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn p1_no_restore_ends_well_whose_content_was_not_written_out() {
    let backing = LoopFs::new(FsKind::Ext4, 64);
    let thin = LoopFs::thin_on(&backing);
    let site = Site::in_directory(tempfile::tempdir_in(thin.path()).unwrap());
    let source = site.start(None, Patience::default());
    let path = site.archived(&source, "f").await;
    site.ask(UserAction::Release, &["f".to_owned()]);
    site.ask(UserAction::Restore, &["f".to_owned()]);
    let restored = |work: &Work| {
        assert!(work.command == Command::Restore && work.sync_target);
        std::fs::write(site.top().join(&work.write_path), "f").unwrap();
        source.complete(vec![(work.key, Outcome::Restored(None))]);
    };
    // The servers cannot have the mover's client send what it has: tried again.
    control::fail(&site.root, "llapi_get_data_version", 5, Some(1)).unwrap();
    restored(&next(&source).await[0]);
    let again = next(&source).await.remove(0);
    assert_eq!(site.statuses()[1], Status::Started);
    assert_eq!(std::fs::metadata(site.top().join(&again.write_path)).unwrap().len(), 0);
    // They have it, and cannot write it.
    let ballast = faults::fill(&backing, 0);
    restored(&again);
    let last = next(&source).await.remove(0);
    drop(ballast);
    assert_eq!(site.statuses()[1], Status::Started);
    restored(&last);
    wait_until(LONG, "it is restored", || site.statuses()[1] == Status::Succeeded);
    assert_eq!(std::fs::read(&path).unwrap(), b"f");
}

/// Of an object that a mover stored and did not tell of, nobody would hear again.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_archive_that_failed_may_have_left_is_removed() {
    let site = Site::new();
    let patience =
        Patience { hold: Duration::from_millis(300), stop: Duration::from_millis(50), ..Patience::default() };
    let source = site.start(None, patience);
    let is_owed = |work: &Work, left: &Work| {
        assert_eq!((work.command, &work.identity), (Command::Remove, &left.identity));
        assert!(work.attempted_since_ms > 0, "its mover has to look in packs, too");
        (work.key, success(work))
    };
    // Its mover died, and no other came.
    site.ask(UserAction::Archive, &["f".to_owned()]);
    let left = next(&source).await.remove(0);
    assert_eq!(left.attempted_since_ms, 0);
    source.archives_changed(&[]);
    source.complete(vec![(left.key, Outcome::Failed(Failure::temporary(107, "its mover died")))]);
    site.wait_for_failure(0, 107);
    source.archives_changed(&[(1, 8)]);
    source.complete(vec![is_owed(&next(&source).await[0], &left)]);
    // A mover that says itself that it failed leaves nothing.
    site.ask(UserAction::Archive, &["g".to_owned()]);
    let failed = next(&source).await.remove(0);
    source.complete(vec![(failed.key, Outcome::Failed(Failure::permanent(5, "no")))]);
    site.wait_for_failure(1, 5);
    // Its agent died, and it was cancelled before the next one came.
    site.ask(UserAction::Archive, &["h".to_owned()]);
    let left = next(&source).await.remove(0);
    assert_eq!(left.command, Command::Archive);
    tokio::task::block_in_place(|| drop(source));
    site.ask(UserAction::Cancel, &["h".to_owned()]);
    let source = site.start(None, patience);
    source.complete(vec![is_owed(&next(&source).await[0], &left)]);
    wait_until(LONG, "nothing is left", || site.waiting(Command::Remove) == 0);
}

/// The agent was killed between the end of an archive and writing that down. The file is gone since, but another file may name its object: a clone, a snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn p1_what_may_have_ended_well_leaves_its_object() {
    let site = Site::new();
    let source = site.start(None, Patience::default());
    let journal = || queue::ItemJournal::open(site.directory.path().join("lustre.db")).unwrap();
    site.ask(UserAction::Archive, &["f".to_owned()]);
    let work = next(&source).await.remove(0);
    let item = journal().get(work.key).unwrap().unwrap().item;
    source.complete(vec![(work.key, success(&work))]);
    wait_until(LONG, "it is archived", || site.statuses() == [Status::Succeeded]);
    tokio::task::block_in_place(|| drop(source));
    assert_eq!(site.waiting(Command::Archive), 0);
    journal().accept(&[item]).unwrap();
    site.unlink("f");
    let source = site.start(None, Patience::default());
    wait_until(LONG, "it is over", || site.waiting(Command::Archive) == 0);
    assert_eq!(site.waiting(Command::Remove), 0);
    drop(source);
}

/// No file can be opened until the limit is given back.
struct NoDescriptors;

impl NoDescriptors {
    fn take() -> Self {
        let pid = std::process::id().to_string();
        let limited = std::process::Command::new("prlimit").args(["--nofile=3:", "--pid", &pid]).status();
        assert!(limited.expect("prlimit of util-linux is there").success());
        Self
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        sys::process::raise_nofile_limit();
    }
}

/// Neither an action nor what a mover has stored is given up because a file cannot be looked at for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_looked_at_for_now_is_looked_at_again() {
    let site = Site::new();
    let source = Arc::new(site.start(None, Patience::default()));
    source.archives_changed(&[]);
    site.ask(UserAction::Archive, &["f".to_owned()]);
    wait_until(LONG, "it waits", || site.waiting(Command::Archive) == 1);
    let none = NoDescriptors::take();
    source.archives_changed(&[(1, 8)]);
    let failed = tokio::time::timeout(LONG, async {
        while !has_failed_for_now(&source, &site).await {
            tokio::task::yield_now().await;
        }
    });
    failed.await.expect("it failed for now");
    drop(none);
    let work = next(&source).await.remove(0);
    let none = NoDescriptors::take();
    source.complete(vec![(work.key, success(&work))]);
    let ended = tokio::time::timeout(Duration::from_millis(300), async {
        while ended(&source, &site).await.is_empty() {
            tokio::task::yield_now().await;
        }
    });
    assert!(ended.await.is_err(), "it was given up");
    drop(none);
    wait_until(LONG, "it is archived", || site.statuses() == [Status::Succeeded]);
    assert_eq!(site.uuid(&site.top().join("f")), work.identity.uuid);
}

/// One that the coordinator does not cancel keeps no other from being cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn all_are_cancelled_but_what_the_coordinator_refuses() {
    const COUNT: usize = 70;
    let site = Site::new();
    control::set(&site.root, "max_requests", "1000").unwrap();
    let source = Arc::new(site.start(None, Patience::default()));
    source.archives_changed(&[]);
    let names: Vec<_> = (0..COUNT).map(|n| format!("f{n}")).collect();
    site.ask(UserAction::Archive, &names);
    wait_until(LONG, "all are received", || site.waiting(Command::Archive) == COUNT as u64);
    let refused = path2fid(&site.library, &site.top().join("f3")).unwrap();
    control::fail(&site.root, &format!("item-{refused}"), 1, None).unwrap();
    let control = LustreControl::new(Arc::clone(&source), String::new(), site.top(), || serde_json::Value::Null);
    let error = control.cancel(CancelRequest::All(true)).await.unwrap_err();
    for part in ["69 cancelled, 1 refused", &refused.to_string()] {
        assert!(error.message.contains(part), "{part}: {error:?}");
    }
    let is = |status: Status| site.statuses()[..COUNT].iter().filter(|found| **found == status).count();
    wait_until(LONG, "all others are cancelled", || is(Status::Canceled) == COUNT - 1);
    wait_until(LONG, "the agent has one", || site.waiting(Command::Archive) == 1);
    assert_eq!(site.statuses()[3], Status::Started);
}
