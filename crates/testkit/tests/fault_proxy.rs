//! The proxy that spoils requests, in front of a real server: what it does, and what the server has of it.

#![allow(clippy::unwrap_used, reason = "the lint does not see that functions beside tests belong to them")]

use std::time::{Duration, Instant};

use sifaka_testkit::FaultProxy;
use sifaka_testkit::fault_proxy::{Fault, Reply, Request, When};
use sifaka_testkit::services::plain::Answer;
use sifaka_testkit::services::{FakeGcs, Rgw};

// Exit codes of curl.
const PARTIAL: i32 = 18;
const TIMEOUT: i32 = 28;
const RESET: i32 = 56;

/// A server with an object, and a proxy before it.
struct Place {
    rgw: Rgw,
    proxy: FaultProxy,
    data: Vec<u8>,
}

impl Place {
    fn new() -> Self {
        let rgw = Rgw::start();
        let proxy = FaultProxy::start(&rgw.server().authority());
        rgw.create_bucket("bucket");
        let data: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
        rgw.request("PUT", "/bucket/key", Some(&data), &[]).ok();
        Self { rgw, proxy, data }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Answer, i32> {
        self.rgw.request_at(&self.proxy.url(), method, path, body, &[])
    }

    fn get(&self) -> Result<Answer, i32> {
        self.ask("GET", "/bucket/key", None)
    }

    /// What is under a key, past the proxy.
    fn stored(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.rgw.request("GET", &format!("/bucket/{key}"), None, &[]);
        (answer.status != 404).then(|| answer.ok().body)
    }
}

#[test]
fn requests_pass_as_they_are_and_are_noted() {
    let place = Place::new();
    // The signature covers `Host`: this would be refused if it were changed.
    let answer = place.get().unwrap().ok();
    assert!(answer.body == place.data);
    let head = place.ask("HEAD", "/bucket/key", None).unwrap().ok();
    assert_eq!((head.header("content-length"), head.header("etag")), (Some("200000"), answer.header("etag")));
    place.ask("PUT", "/bucket/other", Some(&place.data)).unwrap().ok();
    assert!(place.stored("other").unwrap() == place.data);
    assert_eq!(place.ask("GET", "/bucket/none", None).unwrap().status, 404);
    assert!(place.ask("GET", "/bucket?list-type=2", None).unwrap().ok().text().contains("<Key>other</Key>"));

    let seen = place.proxy.requests();
    let lines: Vec<String> = seen.iter().map(|r| format!("{} {}?{}", r.method, r.path, r.query)).collect();
    let expected =
        ["GET /bucket/key?", "HEAD /bucket/key?", "PUT /bucket/other?", "GET /bucket/none?", "GET /bucket?list-type=2"];
    assert_eq!(lines, expected);
    assert_eq!(format!("http://{}", seen[0].headers["host"].to_str().unwrap()), place.proxy.url());
    assert_eq!(place.proxy.count(|request| request.parameter("list-type") == Some("2")), 1);
}

#[test]
fn a_rule_takes_what_it_says_and_no_more() {
    let place = Place::new();
    let second = place.proxy.add(When::method("GET").path("/key").skip(1).times(1), Fault::status(500));
    let later = place.proxy.add(When::method("GET").no_parameter("list-type"), Fault::busy(Duration::from_secs(7)));
    // The older rule skips the first, which the younger one takes; and takes the second.
    let statuses = |count: usize| (0..count).map(|_| place.get().unwrap().status).collect::<Vec<_>>();
    assert_eq!(statuses(3), [503, 500, 503]);
    assert_eq!(place.get().unwrap().header("retry-after"), Some("7"));
    assert_eq!(place.ask("GET", "/bucket?list-type=2", None).unwrap().status, 200);
    assert_eq!(place.ask("HEAD", "/bucket/key", None).unwrap().status, 200);
    assert_eq!((place.proxy.hits(second), place.proxy.hits(later)), (1, 3));
    place.proxy.heal();
    assert_eq!(place.get().unwrap().status, 200);
}

#[test]
fn answers_are_spoilt_in_their_bodies_and_heads() {
    let place = Place::new();
    let with = |fault: Fault| {
        place.proxy.add(When::any().times(1), fault);
        place.get()
    };
    assert_eq!(with(Fault::CutBody(1000)), Err(PARTIAL));
    assert_eq!(with(Fault::ShortBody(1000)).unwrap().ok().body, place.data[..1000]);
    let corrupt = with(Fault::CorruptBody(1001)).unwrap().ok().body;
    let wrong: Vec<usize> = (0..place.data.len()).filter(|&at| corrupt[at] != place.data[at]).collect();
    assert_eq!((corrupt.len(), wrong), (place.data.len(), vec![1001]));
    let other = with(Fault::SetHeader("etag", "\"wrong\"".to_owned())).unwrap().ok();
    assert_eq!((other.header("etag"), other.body == place.data), (Some("\"wrong\""), true));
    assert_eq!(with(Fault::RemoveHeader("etag")).unwrap().ok().header("etag"), None);
    let made = with(Fault::Answer(Reply::status(200).header("x-a", "b").body("made up"))).unwrap();
    assert_eq!((made.text(), made.header("x-a")), ("made up".to_owned(), Some("b")));

    let started = Instant::now();
    assert!(with(Fault::SlowBody(50_000, Duration::from_millis(100))).unwrap().ok().body == place.data);
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    for fault in [Fault::Delay(Duration::from_millis(300)), Fault::DelayAnswer(Duration::from_millis(300))] {
        let started = Instant::now();
        assert!(with(fault).unwrap().ok().body == place.data);
        assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    }
    assert!(place.get().unwrap().ok().body == place.data);
}

#[test]
fn what_was_not_asked_is_not_done_and_what_was_asked_is_though_the_answer_is_lost() {
    let place = Place::new();
    let with = |key: &str, fault: Fault| {
        let path = format!("/bucket/{key}");
        place.proxy.add(When::method("PUT").path(&path).times(1), fault);
        let answer = place.ask("PUT", &path, Some(b"data"));
        (answer.map(|answer| answer.status), place.stored(key).is_some())
    };
    assert_eq!(with("a", Fault::status(500)), (Ok(500), false));
    assert_eq!(with("b", Fault::ReplaceAnswer(Reply::status(500))), (Ok(500), true));
    assert_eq!(with("c", Fault::ResetBefore), (Err(RESET), false));
    assert_eq!(with("d", Fault::ResetAfter), (Err(RESET), true));
}

#[test]
fn a_large_upload_is_refused_and_reset() {
    let place = Place::new();
    let large = vec![7; 8 << 20];
    let put = || place.ask("PUT", "/bucket/large", Some(&large)).map(|answer| answer.status);
    place.proxy.add(When::method("PUT").times(1), Fault::busy(Duration::ZERO));
    assert_eq!(put(), Ok(503));
    place.proxy.add(When::method("PUT").times(1), Fault::ResetBefore);
    assert!(put().is_err());
    assert_eq!(place.stored("large"), None);
    assert_eq!(put(), Ok(200));
    assert!(place.stored("large").unwrap() == large);
}

#[test]
fn a_completion_whose_answer_is_lost_has_happened() {
    let place = Place::new();
    let text = place.ask("POST", "/bucket/large?uploads=", Some(b"")).unwrap().ok().text();
    let id = text.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let part = place.ask("PUT", &format!("/bucket/large?partNumber=1&uploadId={id}"), Some(b"only part"));
    let tag = part.unwrap().ok().header("etag").unwrap().to_owned();
    let list = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{tag}</ETag></Part></CompleteMultipartUpload>"
    );
    let rule = place.proxy.add(When::method("POST").parameter("uploadId").times(1), Fault::ResetAfter);
    let complete = || place.ask("POST", &format!("/bucket/large?uploadId={id}"), Some(list.as_bytes()));
    assert_eq!(complete(), Err(RESET));
    assert_eq!(place.proxy.hits(rule), 1);
    assert_eq!(place.stored("large").unwrap(), b"only part");
    assert!(place.rgw.uploads("bucket").is_empty());
    // The client asks again, and the upload is gone; or the server remembers.
    assert!([200, 404].contains(&complete().unwrap().status));
    let completions = |request: &Request| request.method == "POST" && request.parameter("uploadId").is_some();
    assert_eq!(place.proxy.count(completions), 2);
}

#[test]
fn a_client_that_waits_in_vain_gives_up_and_others_are_served() {
    let gcs = FakeGcs::start();
    let proxy = FaultProxy::start(&gcs.server().authority());
    let ask = |seconds: &str| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "--max-time", seconds]).arg(proxy.url()).status().unwrap().code().unwrap()
    };
    proxy.add(When::any().times(1), Fault::Hang);
    assert_eq!(ask("1"), TIMEOUT);
    assert_eq!(ask("30"), 0);
    // A dead server is a reset.
    gcs.server().kill();
    assert_eq!(ask("30"), RESET);
    gcs.server().restart();
    assert_eq!(ask("30"), 0);
}
