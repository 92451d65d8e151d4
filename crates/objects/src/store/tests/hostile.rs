//! A network and a server that do what they should not, between the store and Ceph's gateway: nothing is lost, nothing wrong is served, nothing
//! is left behind, and nothing goes on for ever.

use super::ServerBed;
use super::rgw::{BUCKET, settings};
use super::suite::{Calls as _, described, expected, id, manifest, object};
use crate::{Limits, Settings};
use model::{ErrorKind, Extent};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use testkit::Random;
use testkit::fault_proxy::{Fault, FaultProxy, Reply, When};
use testkit::services::Rgw;
use transfer::{Encoding, Monitor, OpenFile, Store as _, Stored, TransferError, Unwatched};

const LARGE: usize = 20 << 20;
const SMALL: usize = 5000;

struct Spoiled {
    bed: ServerBed<Rgw>,
    proxy: FaultProxy,
}

impl Spoiled {
    fn new() -> Self {
        let limits = Limits { attempts: 3, idle_timeout: Duration::from_secs(1), ..Limits::default() };
        Self::with(limits)
    }

    fn with(limits: Limits) -> Self {
        let server = Rgw::start();
        server.create_bucket(BUCKET);
        let proxy = FaultProxy::start(&server.server().authority());
        let settings = Settings { limits, ..settings(proxy.url()) };
        Self { bed: ServerBed::with(server, &settings), proxy }
    }

    fn source(&self, size: usize) -> (OpenFile, Vec<u8>) {
        let mut content = vec![0; size];
        Random::new(9).fill(&mut content);
        (self.bed.file("source", &content), content)
    }

    fn put(&self, size: usize) -> Result<Stored, TransferError> {
        self.bed.put(&id("abcdef"), &self.source(size).0, described(Encoding::Raw))
    }

    /// That it is there, whole, once, and nothing else.
    fn is_right(&self, stored: &Stored) {
        self.proxy.heal();
        self.bed.holds(vec![object(&stored.id), manifest(&stored.id)]);
        self.bed.store.verify(&stored.id, expected(stored), &Unwatched).unwrap();
        self.bed.remove(&stored.id).unwrap();
    }

    fn target(&self, size: usize) -> (OpenFile, PathBuf) {
        let path = self.bed.scratch.join("target");
        std::fs::write(&path, vec![0xa5; size]).unwrap();
        (OpenFile::for_writing(&path).unwrap(), path)
    }
}

fn whole_put() -> When {
    When::method("PUT").path("/small/").no_parameter("partNumber")
}

fn completion() -> When {
    When::method("POST").parameter("uploadId")
}

#[test]
fn p7_an_object_whose_creation_was_never_answered_is_recognised() {
    let spoiled = Spoiled::new();
    let lost =
        [Fault::ResetAfter, Fault::ReplaceAnswer(Reply::status(500)), Fault::DelayAnswer(Duration::from_secs(2))];
    for fault in lost {
        for (size, when) in [(SMALL, whole_put()), (LARGE, completion())] {
            let rule = spoiled.proxy.add(when.times(1), fault.clone());
            let stored = spoiled.put(size).unwrap_or_else(|e| panic!("{fault:?} of {size}: {e}"));
            assert_eq!(spoiled.proxy.hits(rule), 1);
            spoiled.is_right(&stored);
        }
    }
}

#[test]
fn what_fails_for_a_while_is_tried_again() {
    let spoiled = Spoiled::new();
    for fault in [Fault::status(500), Fault::status(503), Fault::ResetBefore, Fault::Hang] {
        let parts = When::method("PUT").parameter("partNumber").skip(1).times(1);
        let begin = When::method("POST").parameter("uploads").times(1);
        for (size, when) in
            [(SMALL, whole_put().times(2)), (LARGE, parts), (LARGE, begin), (LARGE, completion().times(2))]
        {
            let rule = spoiled.proxy.add(when, fault.clone());
            let stored = spoiled.put(size).unwrap_or_else(|e| panic!("{fault:?} of {size}: {e}"));
            assert!(spoiled.proxy.hits(rule) > 0);
            if matches!(fault, Fault::Hang) {
                // The upload of which nobody heard the id, if any, is for the sweep.
                spoiled.bed.store.sweep(Duration::ZERO).unwrap();
            }
            spoiled.is_right(&stored);
        }
    }
}

#[test]
fn what_keeps_failing_ends_as_temporary_and_leaves_nothing() {
    let spoiled = Spoiled::new();
    for size in [SMALL, LARGE] {
        for when in [When::method("PUT"), When::method("PUT").path("/manifests/"), completion()] {
            let before = spoiled.proxy.requests().len();
            let rule = spoiled.proxy.add(when, Fault::status(500));
            let put = spoiled.put(size);
            // A small object is never completed.
            if spoiled.proxy.hits(rule) == 0 {
                spoiled.is_right(&put.unwrap());
                continue;
            }
            let error = put.unwrap_err();
            assert_eq!((error.kind(), error.errno()), (ErrorKind::Temporary, 5), "{error}");
            let requests = spoiled.proxy.requests().len() - before;
            assert!(requests < 60, "{requests} requests");
            spoiled.proxy.heal();
            spoiled.bed.holds(Vec::new());
        }
    }
}

#[test]
fn a_service_that_says_when_to_come_again_is_left_alone_until_then() {
    let spoiled = Spoiled::new();
    let rule = spoiled.proxy.add(whole_put().times(1), Fault::busy(Duration::from_secs(2)));
    let begun = Instant::now();
    let stored = spoiled.put(SMALL).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(2) && spoiled.proxy.hits(rule) == 1);
    spoiled.is_right(&stored);
}

#[test]
fn p5_no_spoiled_answer_is_served() {
    let spoiled = Spoiled::new();
    for size in [SMALL, LARGE] {
        let stored = spoiled.put(size).unwrap();
        let content = spoiled.source(size).1;
        let gets = || {
            When::method("GET").no_parameter("list-type").and(|request| !request.path.contains("/manifests/")).times(1)
        };
        let (cut, slow) = (Fault::CutBody(100), Fault::SlowBody(1 << 20, Duration::from_millis(100)));
        let passing = [cut, slow, Fault::ResetBefore, Fault::ResetAfter, Fault::status(503), Fault::Hang];
        for fault in passing {
            let rule = spoiled.proxy.add(gets(), fault.clone());
            let (target, path) = spoiled.target(size);
            let restored = spoiled.bed.store.get(&stored.id, &target, expected(&stored), &Unwatched);
            restored.unwrap_or_else(|e| panic!("{fault:?} of {size}: {e}"));
            assert!(std::fs::read(path).unwrap() == content && spoiled.proxy.hits(rule) == 1, "{fault:?}");
        }
        for fault in
            [Fault::CorruptBody(1234), Fault::ShortBody(1234), Fault::ReplaceAnswer(Reply::status(200).body("no"))]
        {
            spoiled.proxy.add(gets(), fault.clone());
            let (target, path) = spoiled.target(size);
            let error = spoiled.bed.store.get(&stored.id, &target, expected(&stored), &Unwatched).unwrap_err();
            let found = std::fs::read(path).unwrap();
            let served = found.iter().zip(&content).all(|(found, right)| found == right || *found == 0xa5);
            assert!(served && error.errno() == 5, "{fault:?}: {error}");
            spoiled.proxy.heal();
        }
        spoiled.is_right(&stored);
    }
}

#[test]
fn a_part_that_is_acknowledged_without_a_tag_is_not_taken_for_one() {
    let spoiled = Spoiled::new();
    let rule = spoiled.proxy.add(When::method("PUT").parameter("partNumber"), Fault::RemoveHeader("etag"));
    let error = spoiled.put(LARGE).unwrap_err();
    assert!(spoiled.proxy.hits(rule) > 0 && error.errno() == 5, "{error}");
    spoiled.proxy.heal();
    spoiled.bed.holds(Vec::new());
}

/// Cancels from a moment on.
struct From(Instant);

impl Monitor for From {
    fn cancelled(&self) -> bool {
        Instant::now() >= self.0
    }

    fn advanced(&self, _: Extent) {}
}

#[test]
fn p4_a_cancel_does_not_wait_for_a_server_that_hangs() {
    // Nothing times out while this test lasts.
    let spoiled = Spoiled::with(Limits::default());
    let stored = spoiled.put(LARGE).unwrap();
    spoiled.proxy.add(When::any(), Fault::Hang);
    let source = spoiled.source(64 << 20).0;
    let (target, _) = spoiled.target(LARGE);
    let store = &spoiled.bed.store;
    let cancelled = |work: &dyn Fn(&From) -> Result<(), TransferError>| {
        let at = Instant::now() + Duration::from_millis(500);
        let error = work(&From(at)).unwrap_err();
        assert!(matches!(error, TransferError::Cancelled), "{error}");
        assert!(at.elapsed() < Duration::from_secs(1), "{:?} after the cancel", at.elapsed());
    };
    cancelled(&|monitor| store.stage(&id("bcdefg"), &source, described(Encoding::Raw), monitor).map(drop));
    cancelled(&|monitor| store.get(&stored.id, &target, expected(&stored), monitor).map(drop));
    cancelled(&|monitor| store.get_range(&stored.id, &target, Extent::WHOLE, expected(&stored), monitor).map(drop));
}

#[test]
fn p4_a_commit_that_is_given_up_does_not_wait_for_a_server_that_hangs() {
    let spoiled = Spoiled::with(Limits::default());
    for (size, hangs) in [(SMALL, whole_put()), (LARGE, completion())] {
        let rule = spoiled.proxy.add(hangs, Fault::Hang);
        let source = spoiled.source(size).0;
        let staged = spoiled.bed.store.stage(&id("abcdef"), &source, described(Encoding::Raw), &Unwatched).unwrap();
        let cancelled = Arc::new(AtomicBool::new(false));
        let asked = cancelled.clone();
        let given_up = Box::new(move || asked.load(Ordering::Relaxed));
        let (tell, told) = channel();
        spoiled.bed.store.commit_unless(given_up, staged, Box::new(move |result| tell.send(result).unwrap()));
        testkit::wait_until(Duration::from_secs(20), "the request that hangs", || spoiled.proxy.hits(rule) > 0);
        assert!(told.try_recv().is_err());
        cancelled.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let ended = told.recv_timeout(Duration::from_secs(20)).expect("an end");
        assert!(
            matches!(ended, Err(TransferError::Cancelled)) && begun.elapsed() < Duration::from_secs(2),
            "{ended:?}"
        );
        spoiled.proxy.heal();
    }
    // What was begun is aborted, nothing is there, and the same can be stored after that.
    let unfinished = || spoiled.bed.server.uploads(BUCKET).len();
    testkit::wait_until(Duration::from_secs(20), "the upload to be aborted", || unfinished() == 0);
    let stored = spoiled.put(LARGE).unwrap();
    spoiled.is_right(&stored);
}

/// Whoever waits for a commit hears of it although the store is gone meanwhile.
#[test]
fn p3_a_commit_ends_with_a_word_after_the_store_is_dropped() {
    let Spoiled { bed, proxy } = Spoiled::new();
    let source = bed.file("source", b"content");
    proxy.add(whole_put().times(1), Fault::Delay(Duration::from_millis(500)));
    let staged = bed.store.stage(&id("abcdef"), &source, described(Encoding::Raw), &Unwatched).unwrap();
    let (tell, told) = channel();
    bed.store.commit(staged, Box::new(move |result| tell.send(result).unwrap()));
    let ServerBed { store, server: _server, scratch: _scratch } = bed;
    drop(store);
    assert_eq!(told.recv().unwrap().unwrap().id, id("abcdef"));
}

/// The agent takes a mover that reports nothing for hung: retries do not go on for ever, however many there may be.
#[test]
fn p3_a_commit_ends_although_the_server_only_times_out() {
    let limits = Limits { attempts: 1000, idle_timeout: Duration::from_millis(300), ..Limits::default() };
    let spoiled = Spoiled::with(limits);
    spoiled.proxy.add(whole_put(), Fault::Hang);
    let begun = Instant::now();
    let error = spoiled.put(SMALL).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Temporary, 5), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

/// A service that has lost its answer is not told a second time: some spoil what they made then.
#[test]
fn p1_an_upload_whose_completion_was_not_answered_is_not_completed_again() {
    let spoiled = Spoiled::new();
    for fault in [Fault::ResetAfter, Fault::ReplaceAnswer(Reply::status(500)), Fault::ReplaceAnswer(Reply::status(503))]
    {
        let before = spoiled.proxy.count(|r| r.method == "POST" && r.parameter("uploadId").is_some());
        spoiled.proxy.add(completion().times(1), fault.clone());
        let stored = spoiled.put(LARGE).unwrap();
        let completions = spoiled.proxy.count(|r| r.method == "POST" && r.parameter("uploadId").is_some()) - before;
        assert_eq!(completions, 1, "{fault:?}");
        // Nor is anything aborted that might be it.
        assert_eq!(spoiled.proxy.count(|r| r.method == "DELETE" && r.parameter("uploadId").is_some()), 0);
        spoiled.is_right(&stored);
    }
}

/// It is there, of the right length, and there is nothing behind it.
#[test]
fn p1_an_object_whose_content_cannot_be_read_is_not_acknowledged() {
    let spoiled = Spoiled::new();
    spoiled.proxy.add(completion().times(1), Fault::ResetAfter);
    spoiled.proxy.add(When::method("GET").path("/objects/"), Fault::status(404));
    let error = spoiled.put(LARGE).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Temporary, 5), "{error}");
}

/// All parts that are under way fail at the same moment, as when a gateway starts again.
#[test]
fn an_upload_survives_that_all_its_parts_fail_at_once() {
    let spoiled = Spoiled::with(Limits { attempts: 2, idle_timeout: Duration::from_secs(1), ..Limits::default() });
    let rule = spoiled.proxy.add(When::method("PUT").parameter("partNumber").times(5), Fault::ResetBefore);
    let stored = spoiled.put(48 << 20).unwrap();
    assert_eq!(spoiled.proxy.hits(rule), 5);
    spoiled.is_right(&stored);
}

/// Uploads hold every place that they may have, and none of them gets on: restores go on all the same.
#[test]
fn p5_who_waits_for_a_file_does_not_wait_for_what_is_stored() {
    let spoiled = Spoiled::with(Limits { requests: 4, ..Limits::default() });
    let stored = spoiled.put(SMALL).unwrap();
    let rule = spoiled.proxy.add(When::method("PUT"), Fault::Hang);
    let source = spoiled.source(SMALL).0;
    for n in 0..20 {
        let staged =
            spoiled.bed.store.stage(&id(&format!("{n:04}-object")), &source, described(Encoding::Raw), &Unwatched);
        spoiled.bed.store.commit(staged.unwrap(), Box::new(|_| {}));
    }
    testkit::wait_until(Duration::from_secs(10), "uploads have their places", || spoiled.proxy.hits(rule) == 3);
    let (target, _) = spoiled.target(SMALL);
    let begun = Instant::now();
    spoiled.bed.store.get(&stored.id, &target, expected(&stored), &Unwatched).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// What is on its way counts, until it has arrived: also after the file was read.
#[test]
fn p6_memory_is_given_back_when_the_content_was_sent_and_not_before() {
    let limits = Limits { upload_memory_bytes: 40 << 20, part_bytes: 8 << 20, ..Limits::default() };
    let spoiled = Spoiled::with(limits);
    let stage = |name: &str, cancel: Instant| {
        spoiled.bed.store.stage(&id(name), &spoiled.source(LARGE).0, described(Encoding::Raw), &From(cancel))
    };
    let soon = || Instant::now() + Duration::from_secs(3);
    let later = || Instant::now() + Duration::from_secs(600);
    // Each takes more than half of it.
    let first = stage("first1", later()).unwrap();
    assert!(matches!(stage("second", soon()), Err(TransferError::Cancelled)));
    let (tell, told) = channel();
    spoiled.bed.store.commit(first, Box::new(move |result| tell.send(result).unwrap()));
    told.recv().unwrap().unwrap();
    assert!(stage("second", later()).is_ok());
}

/// With memory for three parts: what fails while everybody waits for room ends all the same.
#[test]
fn p6_a_file_that_cannot_be_read_on_does_not_keep_the_others_waiting_for_memory() {
    let limits = Limits { upload_memory_bytes: 20 << 20, part_bytes: 5 << 20, ..Limits::default() };
    let spoiled = Spoiled::with(limits);
    let is_part = || When::method("PUT").parameter("partNumber");
    spoiled.proxy.add(is_part(), Fault::Delay(Duration::from_millis(300)));
    let (source, _) = spoiled.source(64 << 20);
    let path = spoiled.bed.scratch.join("source");
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let staged = spoiled.bed.store.stage(&id("abcdef"), &source, described(Encoding::Raw), &Unwatched);
            tell.send(staged.map(drop)).unwrap();
        });
        let parts = || spoiled.proxy.count(|request| request.method == "PUT");
        testkit::wait_until(Duration::from_secs(20), "two parts on their way", || parts() >= 2);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(21 << 20).unwrap();
        let ended = told.recv_timeout(Duration::from_secs(30)).expect("an end");
        assert!(matches!(ended, Err(TransferError::Changed { .. })), "{ended:?}");
    });
    // And what is whole goes up with as little.
    spoiled.proxy.heal();
    let stored = spoiled.put(LARGE).unwrap();
    spoiled.is_right(&stored);
}
