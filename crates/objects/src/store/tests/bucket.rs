//! What is in the bucket, for whoever looks into it; what is not ours; and a bucket that is not to be had.

use super::ServerBed;
use super::rgw::{BUCKET, settings};
use super::suite::{Bed as _, Calls as _, described, expected, id};
use crate::store::place::Place;
use crate::{Bucket, Encryption, ObjectStore, S3, S3Credentials, Secret, Service, Settings};
use model::{Digest, ErrorKind};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::time::{Duration, UNIX_EPOCH};
use testkit::fault_proxy::{Fault, FaultProxy, Reply, When};
use testkit::services::Rgw;
use testkit::services::plain::Answer;
use transfer::manifest::ReadAt as _;
use transfer::{Encoding, Expected, Store as _, TransferError, Unwatched};

const LARGE: usize = 20 << 20;

fn head(server: &Rgw, key: &str) -> Answer {
    server.request("HEAD", &format!("/{BUCKET}/site/a%20prefix/{key}"), None, &[]).ok()
}

#[test]
fn other_tools_find_owner_mode_and_times_and_the_hash_of_what_is_small() {
    let bed = ServerBed::<Rgw>::new();
    for size in [5000, LARGE] {
        let source = bed.file("source", &vec![b'x'; size]);
        fs::set_permissions(source.path(), fs::Permissions::from_mode(0o640)).unwrap();
        chown(source.path(), Some(1234), Some(567)).unwrap();
        let times = fs::FileTimes::new().set_modified(UNIX_EPOCH + Duration::new(1_500_000_000, 42));
        fs::File::options().write(true).open(source.path()).unwrap().set_times(times).unwrap();
        assert_eq!(fs::metadata(source.path()).unwrap().mtime_nsec(), 42);
        let stored = bed.put(&id("abcdef"), &source, described(Encoding::Raw)).unwrap();
        let found = head(&bed.server, if size < LARGE { "small/abcdef" } else { "objects/abcdef" });
        let text = |name: &str| found.header(&format!("x-amz-meta-{name}")).map(str::to_owned);
        assert_eq!(text("mode").as_deref(), Some("100640"));
        assert_eq!((text("uid").as_deref(), text("gid").as_deref()), (Some("1234"), Some("567")));
        assert_eq!(text("mtime").as_deref(), Some("1500000000.000000042"));
        let hash = stored.digest.as_ref().map(Digest::to_string).filter(|_| size < LARGE);
        assert_eq!(text("blake3"), hash);
        assert!(text("sifaka").is_some());
        bed.remove(&stored.id).unwrap();
    }
}

#[test]
fn what_the_settings_ask_for_is_sent() {
    let server = Rgw::start();
    server.create_bucket(BUCKET);
    let proxy = FaultProxy::start(&server.server().authority());
    let usual = settings(proxy.url());
    let Service::S3(s3) = usual.service.clone() else { panic!("settings of S3") };
    let service = Service::S3(S3 { encryption: Some(Encryption::Service), ..s3 });
    let bed = ServerBed::with(server, &Settings { service, storage_class: Some("COLD".to_owned()), ..usual });
    let sent = |size: usize| {
        let before = proxy.requests().len();
        // The server has no such class, and no keys. Nothing hangs on its answer.
        let _ = bed.put(&id("abcdef"), &bed.file("source", &vec![7; size]), described(Encoding::Raw));
        proxy.requests().split_off(before)
    };
    let requests = sent(5000);
    let put = requests.iter().find(|request| request.method == "PUT" && request.path.contains("/small/")).unwrap();
    let value = |name: &str| put.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(value("x-amz-storage-class").as_deref(), Some("COLD"));
    assert_eq!(value("x-amz-server-side-encryption").as_deref(), Some("AES256"));
    assert_eq!(value("if-none-match").as_deref(), Some("*"));
    assert!(value("x-amz-checksum-crc32c").is_some() && value("user-agent").unwrap().starts_with("sifaka/"));
    let requests = sent(LARGE);
    let begin = requests.iter().find(|request| request.parameter("uploads").is_some()).unwrap();
    assert_eq!(begin.headers.get("x-amz-storage-class").unwrap(), "COLD");
    assert_eq!(begin.headers.get("x-amz-server-side-encryption").unwrap(), "AES256");
    let keys = |request: &testkit::fault_proxy::Request| !format!("{request:?}").contains(Rgw::SECRET_KEY);
    assert!(proxy.requests().iter().all(keys));
}

#[test]
fn what_sifaka_did_not_make_is_left_alone() {
    let bed = ServerBed::<Rgw>::new();
    for (size, directory) in [(5000, "small"), (LARGE, "objects")] {
        let key = format!("/{BUCKET}/site/a%20prefix/{directory}/abcdef");
        bed.server.request("PUT", &key, Some(b"somebody else's"), &[]).ok();
        let source = bed.file("source", &vec![b'x'; size]);
        let error = bed.put(&id("abcdef"), &source, described(Encoding::Raw)).unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Permanent, 17), "{error}");
        assert!(error.to_string().contains("did not make"), "{error}");
        assert_eq!(bed.server.request("GET", &key, None, &[]).ok().text(), "somebody else's");
        assert_eq!(bed.server.keys(BUCKET), [format!("site/a prefix/{directory}/abcdef")]);
        bed.server.request("DELETE", &key, None, &[]).ok();
    }
}

/// A listing goes on where it was when a page fails, and is longer than one.
#[test]
fn a_long_listing_survives_a_page_that_fails() {
    let server = Rgw::start();
    server.create_bucket(BUCKET);
    let proxy = FaultProxy::start(&server.server().authority());
    let bed = ServerBed::with(server, &settings(proxy.url()));
    let source = bed.file("source", b"x");
    let options = super::suite::plain(Encoding::Raw, None);
    let (tell, told) = std::sync::mpsc::channel();
    for n in 0..1100 {
        let staged = bed.store.stage(&id(&format!("{n:04}-object")), &source, options, &Unwatched).unwrap();
        let tell = tell.clone();
        bed.store.commit(staged, Box::new(move |result| tell.send(result.map(drop)).unwrap()));
    }
    drop(tell);
    assert!(told.iter().all(|result| result.is_ok()));
    let is_list = || When::method("GET").parameter("list-type");
    proxy.add(is_list().skip(1).times(1), Fault::status(503));
    proxy.add(is_list().times(1), Fault::ResetBefore);
    let mut listed = Vec::new();
    let mut collect = |id: model::ObjectId| {
        listed.push(id);
        std::ops::ControlFlow::Continue(())
    };
    bed.store.list(&mut collect).unwrap();
    assert_eq!(listed.len(), 1100);
    listed.dedup();
    assert_eq!(listed.len(), 1100);
}

#[test]
fn an_answer_that_is_longer_than_what_was_asked_for_is_cut_off() {
    let server = Rgw::start();
    server.create_bucket(BUCKET);
    let proxy = FaultProxy::start(&server.server().authority());
    let bed = ServerBed::with(server, &settings(proxy.url()));
    let stored = bed.put(&id("abcdef"), &bed.file("source", b"content"), described(Encoding::Raw)).unwrap();
    let huge = Reply::status(200).body(vec![b' '; 33 << 20]);
    proxy.add(When::method("GET"), Fault::Answer(huge));
    let error = bed.store.verify(&stored.id, expected(&stored), &Unwatched).unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
    assert!(bed.store.list(&mut |_| std::ops::ControlFlow::Continue(())).is_err());
}

type Removed = Box<dyn FnOnce(Result<(), TransferError>) + Send>;

/// Nothing of it can be done, and nothing is said to be gone.
fn is_unavailable<S>(bed: &ServerBed<S>) {
    let unavailable = |what: &str, error: TransferError| {
        assert!(matches!(error, TransferError::Unavailable { .. }), "{what}: {error}");
        assert_eq!(error.kind(), ErrorKind::Temporary);
    };
    let any = id("abcdef");
    let target = || {
        let path = bed.scratch.join("target");
        fs::write(&path, "").unwrap();
        transfer::OpenFile::for_writing(&path).unwrap()
    };
    unavailable("check", bed.store.bucket().check().unwrap_err());
    unavailable("head", bed.store.head(&any).map(|_| ()).unwrap_err());
    unavailable("manifest", bed.store.manifest(&any).map(|_| ()).unwrap_err());
    unavailable("attempts", bed.store.attempts(&any, 1).map(|_| ()).unwrap_err());
    unavailable("get", bed.store.get(&any, &target(), Expected::default(), &Unwatched).map(|_| ()).unwrap_err());
    let small = Expected { size: Some(7), digest: Some(Digest::Blake3([1; 32])) };
    unavailable("get", bed.store.get(&any, &target(), small, &Unwatched).map(|_| ()).unwrap_err());
    unavailable("list", bed.store.list(&mut |_| std::ops::ControlFlow::Continue(())).unwrap_err());
    let removed = |remove: &dyn Fn(Removed)| {
        let (tell, told) = std::sync::mpsc::channel();
        remove(Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap().unwrap_err()
    };
    unavailable("remove", removed(&|done| bed.store.remove(&any, done)));
    unavailable("remove", removed(&|done| bed.store.remove_exactly(&any, done)));
    unavailable("remove an attempt", removed(&|done| bed.store.remove_attempt(&any, done)));
}

#[test]
fn a_bucket_that_is_not_there_is_unavailable_and_nothing_in_it_is_gone() {
    let server = Rgw::start();
    let settings = settings(server.endpoint());
    let bed = ServerBed::with(server, &settings);
    is_unavailable(&bed);
    let unavailable = |error: TransferError| assert!(matches!(error, TransferError::Unavailable { .. }), "{error}");
    let source = bed.file("source", b"content");
    unavailable(bed.put(&id("abcdef"), &source, described(Encoding::Raw)).unwrap_err());
    unavailable(bed.store.sweep(Duration::ZERO).map(|_| ()).unwrap_err());
}

#[test]
fn p1_a_container_of_azure_that_is_away_is_not_taken_for_an_empty_one() {
    let (server, settings) = super::azurite::start();
    is_unavailable(&ServerBed::with(server, &Settings { bucket: "another".to_owned(), ..settings }));
}

#[test]
fn p1_a_bucket_of_google_that_is_away_is_not_taken_for_an_empty_one() {
    let (server, settings) = super::gcs::start();
    is_unavailable(&ServerBed::with(server, &Settings { bucket: "another".to_owned(), ..settings }));
}

/// Everything is gone, says whoever stands before the service; that is not believed.
#[test]
fn p1_a_gateway_that_finds_nothing_at_all_is_not_believed() {
    let server = Rgw::start();
    server.create_bucket(BUCKET);
    let proxy = FaultProxy::start(&server.server().authority());
    proxy.add(When::any(), Fault::Answer(Reply::status(404).body("no such route")));
    let bed = ServerBed::with(server, &settings(proxy.url()));
    is_unavailable(&bed);
}

#[test]
fn a_removal_of_several_that_fails_as_a_whole_is_done_one_by_one() {
    let server = Rgw::start();
    server.create_bucket(BUCKET);
    let proxy = FaultProxy::start(&server.server().authority());
    let bed = ServerBed::with(server, &settings(proxy.url()));
    let refusals = [Reply::status(501), Reply::status(400).body("<Error><Code>MalformedXML</Code></Error>")];
    for refusal in refusals {
        let stored = bed.put(&id("abcdef"), &bed.file("source", b"content"), described(Encoding::Raw)).unwrap();
        let rule = proxy.add(When::method("POST").parameter("delete"), Fault::Answer(refusal));
        bed.remove(&stored.id).unwrap();
        assert!(proxy.hits(rule) > 0 && bed.server.keys(BUCKET).is_empty());
        proxy.heal();
    }
}

/// A file of hundreds of GiB has a manifest that is not taken at once.
#[test]
fn a_manifest_that_is_longer_than_any_answer_is_read_in_pieces() {
    let bed = ServerBed::<Rgw>::new();
    let mut manifest = vec![b'm'; 40 << 20];
    manifest.extend_from_slice(b"its end");
    bed.server.request("PUT", &format!("/{BUCKET}/site/a%20prefix/manifests/abcdef"), Some(&manifest), &[]).ok();
    let found = bed.store.fetch_manifest(&id("abcdef"), &Unwatched).unwrap().unwrap();
    assert_eq!(found.size(), manifest.len() as u64);
    let mut end = [0; 7];
    assert_eq!(found.read_full_at(&mut end, found.size() - 7).unwrap(), 7);
    assert_eq!(&end, b"its end");
}

/// An attempt that fails because something is there already does not take that away when it is cleaned up.
#[test]
fn what_sifaka_did_not_make_survives_the_removal_of_an_attempt() {
    let bed = ServerBed::<Rgw>::new();
    let stored = bed.put(&id("abcdef"), &bed.file("source", b"ours"), described(Encoding::Raw)).unwrap();
    let theirs = format!("/{BUCKET}/site/a%20prefix/objects/abcdef");
    bed.server.request("PUT", &theirs, Some(b"somebody else's"), &[]).ok();
    let (tell, told) = std::sync::mpsc::channel();
    bed.store.remove_attempt(&stored.id, Box::new(move |result| tell.send(result).unwrap()));
    told.recv().unwrap().unwrap();
    assert_eq!(bed.server.keys(BUCKET), ["site/a prefix/objects/abcdef"]);
    assert_eq!(bed.server.request("GET", &theirs, None, &[]).ok().text(), "somebody else's");
}

/// What a later attempt put under the same key is not taken back by an earlier one, nor its manifest.
#[test]
fn p1_an_attempt_takes_back_only_what_it_made() {
    let bed = ServerBed::<Rgw>::new();
    let stored = bed.put(&id("abcdef"), &bed.file("source", b"content"), described(Encoding::Raw)).unwrap();
    let key = format!("small/{}", stored.id);
    let take_back = |place: Place| {
        let bucket = bed.store.bucket().clone();
        bed.store.bucket().engine().wait(async move { place.take_back(&bucket).await }).unwrap();
    };
    take_back(Place::new(key.clone()));
    assert_eq!(bed.server.keys(BUCKET), ["site/a prefix/small/abcdef"]);
    let own = Place::new(format!("manifests/{}", stored.id));
    let (bucket, manifest) = (bed.store.bucket().clone(), own.clone());
    let put = async move { manifest.put_over(&bucket, "manifest".into()).await };
    bed.store.bucket().engine().wait(put).unwrap();
    assert_eq!(bed.server.keys(BUCKET).len(), 2);
    take_back(own);
    assert_eq!(bed.server.keys(BUCKET), ["site/a prefix/small/abcdef"]);
}

#[test]
fn wrong_keys_are_an_error_that_may_pass_and_does_not_show_them() {
    let server = Rgw::start();
    server.create_bucket(BUCKET);
    let usual = settings(server.endpoint());
    let credentials =
        S3Credentials::Keys { id: Rgw::ACCESS_KEY.to_owned(), secret: Secret::new("hunter2hunter2"), token: None };
    let service = Service::S3(S3 { region: Some(Rgw::REGION.to_owned()), credentials, ..S3::default() });
    let bed = ServerBed::with(server, &Settings { service, ..usual });
    let error = bed.put(&id("abcdef"), &bed.file("source", b"content"), described(Encoding::Raw)).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Temporary, 13), "{error}");
    let shown = format!("{error} {error:?} {:?}", bed.store.bucket());
    assert!(!shown.contains("hunter2") && !shown.to_lowercase().contains("authorization"), "{shown}");
}

#[test]
fn a_service_that_is_not_there_is_a_temporary_error() {
    let port = testkit::services::Port::claim();
    let limits = crate::Limits { attempts: 2, ..crate::Limits::default() };
    let settings = Settings { limits, ..settings(format!("http://127.0.0.1:{}", port.number())) };
    let store = ObjectStore::new(Bucket::open(&settings).unwrap());
    let error = store.head(&id("abcdef")).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Temporary, 5), "{error}");
    assert!(error.to_string().contains("s3://archive/site/a prefix/objects/abcdef"), "{error}");
}
