//! What is in the bucket, for whoever looks into it; what is not ours; and a bucket that is not to be had.

use super::ServerBed;
use super::rgw::{BUCKET, settings};
use super::suite::{Bed as _, Calls as _, described, expected, id};
use crate::{Bucket, Encryption, ObjectStore, S3, S3Credentials, Secret, Service, Settings};
use model::{Digest, ErrorKind};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::time::{Duration, UNIX_EPOCH};
use testkit::fault_proxy::{Fault, FaultProxy, Reply, When};
use testkit::services::Rgw;
use testkit::services::plain::Answer;
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

#[test]
fn a_bucket_that_is_not_there_is_unavailable_and_nothing_in_it_is_gone() {
    let server = Rgw::start();
    let store = ObjectStore::new(Bucket::open(&settings(server.endpoint())).unwrap());
    let bed = ServerBed { store, scratch: testkit::Scratch::new("objects"), server };
    let source = bed.file("source", b"content");
    let unavailable = |what: &str, error: TransferError| {
        assert!(matches!(error, TransferError::Unavailable { .. }), "{what}: {error}");
        assert_eq!(error.kind(), ErrorKind::Temporary);
    };
    let any = id("abcdef");
    unavailable("check", bed.store.bucket().check().unwrap_err());
    unavailable("put", bed.put(&any, &source, described(Encoding::Raw)).unwrap_err());
    unavailable("head", bed.store.head(&any).map(|_| ()).unwrap_err());
    unavailable("manifest", bed.store.manifest(&any).map(|_| ()).unwrap_err());
    unavailable("get", bed.get_over(&any, b"", Expected::default()).map(|_| ()).unwrap_err());
    let small = Expected { size: Some(7), digest: Some(Digest::Blake3([1; 32])) };
    unavailable("get", bed.get_over(&any, b"", small).map(|_| ()).unwrap_err());
    unavailable("remove", bed.remove(&any).unwrap_err());
    unavailable("list", bed.store.list(&mut |_| std::ops::ControlFlow::Continue(())).unwrap_err());
    unavailable("sweep", bed.store.sweep(Duration::ZERO).map(|_| ()).unwrap_err());
}

#[test]
fn wrong_keys_are_a_permanent_error_that_does_not_show_them() {
    let server = Rgw::start();
    server.create_bucket(BUCKET);
    let usual = settings(server.endpoint());
    let credentials =
        S3Credentials::Keys { id: Rgw::ACCESS_KEY.to_owned(), secret: Secret::new("hunter2hunter2"), token: None };
    let service = Service::S3(S3 { region: Some(Rgw::REGION.to_owned()), credentials, ..S3::default() });
    let bed = ServerBed::with(server, &Settings { service, ..usual });
    let error = bed.put(&id("abcdef"), &bed.file("source", b"content"), described(Encoding::Raw)).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Permanent, 13), "{error}");
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
