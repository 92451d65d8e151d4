//! What somebody else put into the bucket.

use super::{azurite, gcs, rgw};
use crate::foreign::version_of;
use crate::{Bucket, ObjectStore, Settings};
use model::{Digest, Extent, ObjectUrl, Scheme};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use testkit::Scratch;
use testkit::fault_proxy::{Fault, FaultProxy, Reply, When};
use testkit::services::Rgw;
use transfer::{Expected, ForeignObject, Monitor, OpenFile, Restored, Store, TransferError, Unwatched};

/// More than a few windows.
const LARGE: usize = 50 << 20;

struct Bed {
    store: ObjectStore,
    scheme: Scheme,
    scratch: Scratch,
}

impl Bed {
    fn new(settings: &Settings) -> Self {
        let store = ObjectStore::new(Bucket::open(settings).unwrap());
        let scheme = store.bucket().place().unwrap().0;
        Self { store, scheme, scratch: Scratch::new("foreign") }
    }

    /// As another program would: anywhere in the bucket, without texts.
    fn put(&self, key: &str, content: Vec<u8>) -> ForeignObject {
        let bucket = self.store.bucket().whole();
        let (asked, is_google) = (key.to_owned(), self.scheme == Scheme::Google);
        let version = self.store.bucket().engine().wait(async move {
            bucket.operator().write(&asked, content).await.unwrap();
            Ok::<_, crate::fault::Fault>(version_of(&bucket.stat(&asked).await?.unwrap(), is_google))
        });
        ForeignObject {
            url: ObjectUrl::new(self.scheme, "archive", key).unwrap(),
            version: version.unwrap(),
            compare: true,
            mark: None,
        }
    }

    fn target(&self) -> (PathBuf, OpenFile) {
        let path = self.scratch.path().join("target");
        std::fs::write(&path, b"what was there before").unwrap();
        let file = OpenFile::for_writing(path.clone()).unwrap();
        (path, file)
    }

    fn get(&self, object: &ForeignObject, expected: Expected) -> Result<(Restored, Vec<u8>), TransferError> {
        let (path, target) = self.target();
        let restored = self.store.get_foreign(object, Some(&target), expected, &Unwatched)?;
        let read = self.store.get_foreign(object, None, expected, &Unwatched).unwrap();
        assert_eq!(read, restored);
        Ok((restored, std::fs::read(path).unwrap()))
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 7 / 1000 % 251).unwrap()).collect()
}

fn reads_whole_and_only_what_was_meant(settings: &Settings) {
    let bed = Bed::new(settings);
    for (key, length) in [("a/plain.bin", 10_000), ("ä ö/ü#?%41+&=.txt", 300), ("empty", 0), ("site/large", 20 << 20)]
    {
        let bytes = content(length);
        let object = bed.put(key, bytes.clone());
        assert!(object.version.is_some(), "{key}");
        let hash = Digest::Blake3(*blake3::hash(&bytes).as_bytes());
        let all = [
            Expected::default(),
            Expected { size: Some(length as u64), digest: None },
            Expected { size: Some(length as u64), digest: Some(hash) },
        ];
        for expected in all {
            let (restored, found) = bed.get(&object, expected).unwrap();
            assert!(found == bytes, "{key}");
            assert_eq!(restored, Restored { bytes: length as u64, digest: Some(hash) });
        }
        bed.store.check_foreign(&object).unwrap();
        let unversioned = ForeignObject { version: None, ..object.clone() };
        assert!(bed.get(&unversioned, Expected::default()).unwrap().1 == bytes);

        let size = Expected { size: Some(length as u64 + 1), digest: None };
        assert!(matches!(bed.get(&object, size), Err(TransferError::Replaced { .. })));
        let digest = Expected { size: None, digest: Some(Digest::Blake3([7; 32])) };
        assert!(matches!(bed.get(&object, digest), Err(TransferError::Mismatch { .. })));
    }

    let old = bed.put("a/plain.bin", content(9_999));
    let new = bed.put("a/plain.bin", vec![1; 9_999]);
    assert_ne!(old.version, new.version);
    let error = bed.get(&old, Expected::default()).unwrap_err();
    assert!(
        matches!(error, TransferError::Replaced { .. }) && error.to_string().contains("import it again"),
        "{error}"
    );
    assert_eq!(error.kind(), model::ErrorKind::Permanent);
    assert!(matches!(bed.store.check_foreign(&old), Err(TransferError::Replaced { .. })));
    assert!(bed.get(&new, Expected::default()).unwrap().1 == [1; 9_999]);

    let at = |bucket: &str, key: &str| ForeignObject {
        url: ObjectUrl::new(bed.scheme, bucket, key).unwrap(),
        version: None,
        compare: true,
        mark: None,
    };
    let missing = at("archive", "a/nothing");
    assert!(matches!(bed.get(&missing, Expected::default()), Err(TransferError::Missing { .. })));
    for strange in [
        at("another", "a/plain.bin"),
        at("archive", "a/../x"),
        at("archive", "a//b"),
        at("archive", " x"),
        at("archive", "d/"),
    ] {
        let error = bed.get(&strange, Expected::default()).unwrap_err();
        assert!(matches!(error, TransferError::Foreign { .. }), "{error}");
    }
}

#[test]
fn foreign_objects_of_s3_are_read_whole_and_only_in_the_version_that_was_meant() {
    let (_server, settings) = rgw::start();
    reads_whole_and_only_what_was_meant(&settings);
}

#[test]
fn foreign_objects_of_azure_are_read_whole_and_only_in_the_version_that_was_meant() {
    let (_server, settings) = azurite::start();
    reads_whole_and_only_what_was_meant(&settings);
}

#[test]
fn foreign_objects_of_google_are_read_whole_and_only_in_the_version_that_was_meant() {
    let (_server, settings) = gcs::start();
    reads_whole_and_only_what_was_meant(&settings);
}

/// Replaces the object after a few chunks.
struct Meddler<'a> {
    bed: &'a Bed,
    length: usize,
    seen: AtomicU64,
}

impl Monitor for Meddler<'_> {
    fn cancelled(&self) -> bool {
        false
    }

    fn advanced(&self, extent: Extent) {
        if self.seen.fetch_add(extent.length, Ordering::Relaxed) == 0 {
            self.bed.put("large", vec![3; self.length]);
        }
    }
}

#[test]
fn what_is_replaced_while_it_is_read_is_never_a_mixture() {
    let (_server, settings) = rgw::start();
    let bed = Bed::new(&settings);
    let object = bed.put("large", content(LARGE));
    let (_, target) = bed.target();
    for version in [object.version.clone(), None] {
        bed.put("large", content(LARGE));
        let object = ForeignObject { version: version.clone(), ..object.clone() };
        let meddler = Meddler { bed: &bed, length: LARGE, seen: AtomicU64::new(0) };
        let error = bed.store.get_foreign(&object, Some(&target), Expected::default(), &meddler).unwrap_err();
        assert!(matches!(error, TransferError::Replaced { .. }), "{version:?}: {error}");
    }
}

/// By way of a proxy.
fn spoiled() -> (Rgw, FaultProxy, Bed) {
    let server = Rgw::start();
    server.create_bucket(rgw::BUCKET);
    let proxy = FaultProxy::start(&server.server().authority());
    let bed = Bed::new(&rgw::settings(proxy.url()));
    (server, proxy, bed)
}

#[test]
fn content_is_compared_with_the_tag_unless_that_says_nothing_of_it() {
    let (_server, proxy, bed) = spoiled();
    let object = bed.put("a", content(1000));
    proxy.add(When::method("GET").path("/archive/a"), Fault::CorruptBody(7));
    let error = bed.get(&object, Expected::default()).unwrap_err();
    assert!(matches!(error, TransferError::Damaged { .. }), "{error}");
    // Then nobody can tell.
    let uncompared = ForeignObject { compare: false, ..object.clone() };
    assert!(bed.get(&uncompared, Expected::default()).unwrap().1 != content(1000));
    let sealed = Fault::SetHeader("x-amz-server-side-encryption", "aws:kms".to_owned());
    proxy.add(When::method("HEAD").path("/archive/a"), sealed);
    assert!(bed.get(&object, Expected::default()).is_ok());
}

#[test]
fn p2_another_version_is_told_though_the_service_looks_at_no_condition() {
    let (_server, proxy, bed) = spoiled();
    let (old, new) = (content(1000), vec![1; 1000]);
    let object = bed.put("a", old);
    bed.put("a", new.clone());
    let object = ForeignObject { compare: false, ..object };
    // Replaced between the look and the read.
    let before = Fault::SetHeader("etag", format!("\"{}\"", object.version.as_ref().unwrap()));
    proxy.add(When::method("HEAD").path("/archive/a").times(1), before);
    let reply = Reply::status(206).header("content-range", "bytes 0-999/1000").body(new);
    let unconditional = proxy.add(When::method("GET").path("/archive/a"), Fault::Answer(reply));
    let (_, target) = bed.target();
    let error = bed.store.get_foreign(&object, Some(&target), Expected::default(), &Unwatched).unwrap_err();
    assert!(matches!(error, TransferError::Replaced { .. }), "{error}");
    assert_eq!(proxy.hits(unconditional), 1);

    // Nothing to tell versions by.
    proxy.heal();
    let object = ForeignObject { version: None, ..bed.put("large", content(LARGE)) };
    proxy.add(When::method("HEAD").path("/archive/large"), Fault::RemoveHeader("etag"));
    let meddler = Meddler { bed: &bed, length: LARGE + 1, seen: AtomicU64::new(0) };
    let error = bed.store.get_foreign(&object, Some(&target), Expected::default(), &meddler).unwrap_err();
    assert!(matches!(error, TransferError::Replaced { .. }), "{error}");
}

#[test]
fn what_google_has_compressed_comes_as_it_is_stored() {
    let (server, settings) = gcs::start();
    let proxy = FaultProxy::start(&server.server().authority());
    let bed = Bed::new(&Settings { endpoint: Some(proxy.url()), ..settings });
    // "content", by gzip.
    let stored = b"\x1f\x8b\x08\0\0\0\0\0\x02\xffK\xce\xcf+I\xcd+\x01\0\xa90\xc5\xfe\x07\0\0\0".to_vec();
    let bucket = bed.store.bucket().whole();
    let content = stored.clone();
    bed.store
        .bucket()
        .engine()
        .wait(async move {
            bucket.operator().write_with("a.gz", content).content_encoding("gzip").await.unwrap();
            Ok::<_, crate::fault::Fault>(())
        })
        .unwrap();
    let path = "/storage/v1/b/archive/o/a.gz?alt=media";
    assert_eq!(server.request("GET", path, None, &[]).ok().body, b"content", "for who does not say that he can");
    let object = ForeignObject {
        url: ObjectUrl::new(Scheme::Google, "archive", "a.gz").unwrap(),
        version: None,
        compare: true,
        mark: None,
    };
    let size = Expected { size: Some(stored.len() as u64), digest: None };
    assert!(bed.get(&object, size).unwrap().1 == stored);
    // Whatever else is asked for, nobody would decompress.
    let can = |request: &testkit::fault_proxy::Request| request.headers.contains_key("accept-encoding");
    assert!(proxy.count(|request| can(request) != (request.parameter("alt") == Some("media"))) == 0);
}

#[test]
fn the_md5_of_what_is_changed_in_place_is_none() {
    let (server, settings) = azurite::start();
    let bed = Bed::new(&settings);
    let bytes = content(1000);
    let kind = |kind: &str| format!("x-ms-blob-type: {kind}");
    server.request("PUT", "/archive/block", Some(&bytes), &[&kind("BlockBlob")]).ok();
    server.request("PUT", "/archive/append", None, &[&kind("AppendBlob")]).ok();
    server.request("PUT", "/archive/append?comp=appendblock", Some(&bytes), &[]).ok();
    for key in ["block", "append"] {
        let wrong = ["x-ms-blob-content-md5: 1B2M2Y8AsgTpgAmY7PhCfg=="];
        server.request("PUT", &format!("/archive/{key}?comp=properties"), None, &wrong).ok();
    }
    let get = |key: &str| {
        let url = ObjectUrl::new(Scheme::Azure, "archive", key).unwrap();
        let (path, target) = bed.target();
        let object = ForeignObject { url, version: None, compare: true, mark: None };
        bed.store
            .get_foreign(&object, Some(&target), Expected::default(), &Unwatched)
            .map(|_| std::fs::read(path).unwrap())
    };
    assert!(get("append").unwrap() == bytes);
    let error = get("block").unwrap_err();
    assert!(matches!(error, TransferError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("disable_compare_on_restore"), "{error}");
}

/// Cancelled from this time on.
struct From(Instant);

impl Monitor for From {
    fn cancelled(&self) -> bool {
        Instant::now() >= self.0
    }

    fn advanced(&self, _: Extent) {}
}

#[test]
fn p4_a_cancel_does_not_wait_for_a_foreign_object_that_does_not_come() {
    let (_server, proxy, bed) = spoiled();
    let object = bed.put("a", content(1000));
    let (_, target) = bed.target();
    for hangs in ["GET", "HEAD"] {
        proxy.add(When::method(hangs).path("/archive/a"), Fault::Hang);
        let at = Instant::now() + Duration::from_millis(500);
        let error = bed.store.get_foreign(&object, Some(&target), Expected::default(), &From(at)).unwrap_err();
        assert!(matches!(error, TransferError::Cancelled), "{error}");
        assert!(at.elapsed() < Duration::from_secs(1), "{:?} after the cancel", at.elapsed());
    }
}
