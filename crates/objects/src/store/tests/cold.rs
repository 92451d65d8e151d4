//! Objects in cold storage classes: seen as such, thawed once, and their manifests never among them.

use super::ServerBed;
use super::azurite;
use super::rgw::{BUCKET, settings};
use super::suite::{Calls as _, described, expected, id};
use crate::{AzureTier, Encryption, S3, Service, Settings, SseKey, Thaw, ThawTier};
use model::{ErrorKind, Extent};
use std::time::Duration;
use testkit::fault_proxy::{Fault, FaultProxy, Freezer, Reply, Request, When};
use testkit::services::Rgw;
use transfer::{Encoding, OpenFile, PutOptions, Store as _, TransferError, Unwatched};

const SMALL: usize = 5000;
const LARGE: usize = 20 << 20;
const AGAIN: Duration = Duration::from_secs(7);

fn behind_a_proxy(change: impl FnOnce(Settings) -> Settings) -> (FaultProxy, ServerBed<Rgw>) {
    let server = Rgw::start();
    server.create_bucket(BUCKET);
    let proxy = FaultProxy::start(&server.server().authority());
    let usual = settings(proxy.url());
    let thaw = Thaw { days: 5, tier: ThawTier::Bulk, check_interval: AGAIN, azure_tier: AzureTier::Hot };
    let bed = ServerBed::with(server, &change(Settings { thaw, ..usual }));
    (proxy, bed)
}

fn for_writing<S>(bed: &ServerBed<S>, size: usize) -> OpenFile {
    let path = bed.scratch.path().join("target");
    std::fs::write(&path, vec![0; size]).unwrap();
    OpenFile::for_writing(path).unwrap()
}

#[track_caller]
fn is_thawing(result: Result<transfer::Restored, TransferError>) {
    let error = result.unwrap_err();
    assert!(matches!(error, TransferError::Cold { ask_again: Some(AGAIN), .. }), "{error}");
    let failure = error.into_failure("cannot restore f");
    assert_eq!((failure.kind, failure.thaw.map(|thaw| thaw.again_s)), (ErrorKind::Temporary, Some(7)), "{failure}");
}

#[test]
fn a_cold_object_is_thawed_once_and_read_then() {
    let (proxy, bed) = behind_a_proxy(|settings| settings);
    for size in [SMALL, LARGE] {
        let content = vec![3; size];
        let stored = bed.put(&id("abcdef"), &bed.file("source", &content), described(Encoding::Raw)).unwrap();
        let target = for_writing(&bed, size);
        let key = if size == LARGE { "objects/abcdef" } else { "small/abcdef" };
        let freezer = Freezer::put(&proxy, key);

        // Who only looks has nothing thawed.
        let error = bed.store.verify(&stored.id, expected(&stored), &Unwatched).unwrap_err();
        assert!(matches!(error, TransferError::Cold { ask_again: None, .. }), "{error}");
        assert!(bed.store.head(&stored.id).unwrap().is_some() && bed.store.manifest(&stored.id).unwrap().is_some());
        assert_eq!(freezer.thaws(&proxy), 0);

        let part = Extent { offset: 0, length: 10 };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| is_thawing(bed.store.get(&stored.id, &target, expected(&stored), &Unwatched)));
                scope.spawn(|| {
                    is_thawing(bed.store.get_range(&stored.id, &target, part, expected(&stored), &Unwatched));
                });
            }
        });
        is_thawing(bed.store.get(&stored.id, &target, expected(&stored), &Unwatched));
        assert_eq!(freezer.thaws(&proxy), 1);
        assert_eq!(
            proxy.count(|request| request.method == "POST"
                && request.parameter("restore").is_some()
                && request.path.contains(key)),
            1
        );

        freezer.thaw();
        bed.store.get(&stored.id, &target, expected(&stored), &Unwatched).unwrap();
        assert!(std::fs::read(target.path()).unwrap() == content);
        bed.remove(&stored.id).unwrap();
    }
}

#[test]
fn who_looks_tells_the_key_of_the_customer() {
    let (proxy, bed) = behind_a_proxy(|usual| {
        let Service::S3(s3) = usual.service.clone() else { panic!("settings of S3") };
        let encryption = Some(Encryption::Customer(SseKey([7; 32])));
        Settings { service: Service::S3(S3 { encryption, ..s3 }), ..usual }
    });
    // The server takes no such keys without TLS: what lies there is not read in this test.
    let with_key = |request: &Request| {
        let told = |name: &str| request.headers.get(format!("x-amz-server-side-encryption-customer-{name}"));
        let signed = request.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        told("algorithm").is_some_and(|algorithm| algorithm == "AES256")
            && told("key").is_some_and(|key| key == "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")
            && told("key-md5").is_some_and(|md5| md5.to_str().is_ok_and(|md5| md5.len() == 24))
            && signed.contains("x-amz-server-side-encryption-customer-key-md5")
    };
    let looks = proxy.add(When::method("HEAD").and(with_key), Fault::status(200));
    let freezer = Freezer::put(&proxy, "objects/");
    for _ in 0..2 {
        let cold = || TransferError::Cold { path: bed.store.bucket().path("objects/abcdef"), ask_again: None };
        is_thawing(bed.store.bucket().thawed(|| Err(cold())));
    }
    assert_eq!((freezer.thaws(&proxy), proxy.hits(looks)), (1, 2));
}

/// It was refused to the reader, and thawed before anybody looked.
#[test]
fn a_thaw_that_ends_between_two_requests_is_seen_at_once() {
    let (proxy, bed) = behind_a_proxy(|settings| settings);
    let stored = bed.put(&id("abcdef"), &bed.file("source", b"content"), described(Encoding::Raw)).unwrap();
    let target = for_writing(&bed, 0);
    let get = || bed.store.get(&stored.id, &target, expected(&stored), &Unwatched);
    let warm = || Fault::SetHeader("x-amz-restore", "ongoing-request=\"false\"".to_owned());
    let cold = Reply::status(403).body("<Error><Code>InvalidObjectState</Code></Error>");
    proxy.add(When::method("GET").times(1), Fault::Answer(cold.clone()));
    proxy.add(When::method("HEAD").path("small/abcdef").times(1), warm());
    get().unwrap();
    assert!(std::fs::read(target.path()).unwrap() == b"content");
    // One that never comes is no thaw to be waited for.
    proxy.add(When::method("GET"), Fault::Answer(cold));
    proxy.add(When::method("HEAD").path("small/abcdef"), warm());
    let error = get().unwrap_err();
    assert!(error.kind() == ErrorKind::Temporary && !matches!(error, TransferError::Cold { .. }), "{error}");
}

#[test]
fn a_thaw_that_is_refused_is_an_error_for_good_and_one_that_fails_for_now_is_not() {
    let (proxy, bed) = behind_a_proxy(|settings| settings);
    let stored = bed.put(&id("abcdef"), &bed.file("source", b"content"), described(Encoding::Raw)).unwrap();
    let target = for_writing(&bed, 0);
    let get = || bed.store.get(&stored.id, &target, expected(&stored), &Unwatched).unwrap_err();
    let asked = || When::method("POST").parameter("restore");
    let refusal = |status, code: &str| {
        Fault::Answer(Reply::status(status).body(format!("<Error><Code>{code}</Code><Message>words</Message></Error>")))
    };
    let _freezer = {
        proxy.add(asked().times(1), refusal(403, "AccessDenied"));
        proxy.add(asked().times(1), refusal(400, "InvalidArgument"));
        proxy.add(asked().times(1), refusal(503, "GlacierExpeditedRetrievalNotAvailable"));
        proxy.add(asked().times(1), refusal(403, "InvalidAccessKeyId"));
        proxy.add(When::method("HEAD").times(1), Fault::status(404));
        proxy.add(When::method("HEAD").times(1), Fault::status(403));
        Freezer::put(&proxy, "small/abcdef")
    };
    let error = get();
    assert!(matches!(error, TransferError::Missing { .. }), "it went between the two requests: {error}");
    let error = get();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Temporary, 13), "credentials may just have expired: {error}");
    let error = get();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Permanent, 13), "{error}");
    assert!(error.to_string().contains("s3:RestoreObject"), "{error}");
    let error = get();
    assert_eq!(error.kind(), ErrorKind::Permanent, "{error}");
    assert!(error.to_string().contains("InvalidArgument"), "{error}");
    is_thawing(Err(get()));
    let error = get();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Temporary, 13), "{error}");
    is_thawing(bed.store.get(&stored.id, &target, expected(&stored), &Unwatched));
}

#[test]
fn only_content_goes_into_the_class() {
    let server = Rgw::start();
    server.add_storage_class("GLACIER");
    server.create_bucket(BUCKET);
    let usual = settings(server.endpoint());
    let bed = ServerBed::with(server, &Settings { storage_class: Some("GLACIER".to_owned()), ..usual });
    bed.put(&id("abcdef"), &bed.file("source", &vec![3; LARGE]), described(Encoding::Raw)).unwrap();
    let class = |key: &str| {
        let found = bed.server.request("HEAD", &format!("/{BUCKET}/site/a%20prefix/{key}"), None, &[]).ok();
        found.header("x-amz-storage-class").map(str::to_owned)
    };
    assert_eq!(class("objects/abcdef").as_deref(), Some("GLACIER"));
    assert!(matches!(class("manifests/abcdef").as_deref(), None | Some("STANDARD")));

    // Files that come together would share a pack in any other class.
    std::thread::scope(|scope| {
        for seed in 0..20u8 {
            let bed = &bed;
            scope.spawn(move || {
                let id = id(&format!("0e2f9a7c-5ad1-4f6e-8b1a-0000000000{seed:02}"));
                let options = PutOptions { pack_up_to_bytes: 1 << 20, ..described(Encoding::Raw) };
                bed.put(&id, &bed.file(&format!("source{seed}"), &[seed; 1000]), options).unwrap();
            });
        }
    });
    let keys = bed.server.keys(BUCKET);
    assert_eq!(keys.iter().filter(|key| key.contains("/small/")).count(), 20, "{keys:?}");
}

#[test]
fn azure_moves_an_archived_object_to_another_tier() {
    let (server, settings) = azurite::start();
    let thaw = Thaw { azure_tier: AzureTier::Cool, ..Thaw::default() };
    let bed = ServerBed::with(server, &Settings { thaw, ..settings });
    for size in [SMALL, LARGE] {
        let content = vec![3; size];
        let stored = bed.put(&id("abcdef"), &bed.file("source", &content), described(Encoding::Raw)).unwrap();
        let key = if size == LARGE { "objects/abcdef" } else { "small/abcdef" };
        let path = format!("/archive/site/a%20prefix/{key}");
        bed.server.request("PUT", &format!("{path}?comp=tier"), None, &["x-ms-access-tier: Archive"]).ok();
        let target = for_writing(&bed, 0);
        let error = bed.store.verify(&stored.id, expected(&stored), &Unwatched).unwrap_err();
        assert!(matches!(error, TransferError::Cold { ask_again: None, .. }), "{error}");
        let error = bed.store.get(&stored.id, &target, expected(&stored), &Unwatched).unwrap_err();
        assert!(matches!(error, TransferError::Cold { ask_again: Some(_), .. }), "{error}");
        // This server has no patience: it is there at once.
        bed.store.get(&stored.id, &target, expected(&stored), &Unwatched).unwrap();
        assert!(std::fs::read(target.path()).unwrap() == content);
        let found = bed.server.request("HEAD", &path, None, &[]).ok();
        assert_eq!(found.header("x-ms-access-tier"), Some("Cool"));
        bed.remove(&stored.id).unwrap();
    }
}
