//! Lemur's layouts, by what is in the bucket: what it wrote is read, and what we write it would read.

use super::ServerBed;
use super::rgw::{BUCKET, settings};
use super::suite::{Bed as _, Calls as _, described, expected, id, plain};
use crate::{Layout, Settings};
use model::{ErrorKind, Extent};
use std::ops::ControlFlow;
use testkit::services::Rgw;
use transfer::{DigestKind, Encoding, Expected, Store as _, Stored, TransferError, Unwatched};

const LARGE: usize = 20 << 20;

fn s3() -> ServerBed<Rgw> {
    let server = Rgw::start();
    server.create_bucket(BUCKET);
    let settings = Settings { prefix: "hsm/a b".to_owned(), layout: Layout::LemurS3, ..settings(server.endpoint()) };
    ServerBed::with(server, &settings)
}

#[test]
fn in_s3_an_object_is_the_content_below_o_whatever_is_asked_for() {
    let bed = s3();
    let known = id("0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0aa");
    let stored = Stored { id: known.clone(), bytes: 0, digest: None, at: None };
    let identity = bed.store.identity(&stored);
    assert_eq!(identity.uuid, known.as_str());
    assert_eq!(identity.url, format!("s3://{BUCKET}/hsm/a%20b/o/{known}"));
    let key = format!("hsm/a b/o/{known}");
    for size in [0, 5000, LARGE] {
        let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let source = bed.file("source", &content);
        // Neither compressed, nor described, nor packed.
        for options in [plain(Encoding::Raw, Some(DigestKind::Blake3)), described(Encoding::Zstd)] {
            let stored = bed.put(&known, &source, options).unwrap();
            assert_eq!(stored.id, known);
            assert_eq!(bed.server.keys(BUCKET), std::slice::from_ref(&key));
            let found = bed.server.request("GET", &format!("/{BUCKET}/hsm/a%20b/o/{known}"), None, &[]).ok();
            assert!(found.body == content, "{size}");
            let (restored, found) = bed.get_over(&known, b"stale", expected(&stored)).unwrap();
            assert!(found == content && restored.digest == stored.digest);
            assert_eq!(bed.store.head(&known).unwrap().unwrap().stored_bytes, size as u64);
            assert_eq!(bed.store.attempts(&known, 1).unwrap(), std::slice::from_ref(&known));
            bed.remove(&known).unwrap();
            assert!(bed.server.keys(BUCKET).is_empty() && bed.server.uploads(BUCKET).is_empty());
        }
    }
}

#[test]
fn what_lemur_wrote_to_s3_is_listed_read_and_removed_but_not_written_over() {
    let bed = s3();
    let content: Vec<u8> = (0..LARGE).map(|n| (n % 241) as u8).collect();
    // An id that looks like an encoding is none.
    for name in ["0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0ab", "an-id-of-a-policy.gz"] {
        let path = format!("/{BUCKET}/hsm/a%20b/o/{name}");
        bed.server.request("PUT", &path, Some(&content), &[]).ok();
        let mut listed = Vec::new();
        let mut collect = |id| {
            listed.push(id);
            ControlFlow::Continue(())
        };
        bed.store.list(&mut collect).unwrap();
        assert_eq!(listed, [id(name)]);
        // Lemur kept no hash; the size is what there is to compare.
        let size = Expected { size: Some(LARGE as u64), digest: None };
        let (_, found) = bed.get_over(&id(name), b"stale", size).unwrap();
        assert!(found == content);
        let wrong = Expected { size: Some(7), digest: None };
        assert!(matches!(bed.get_over(&id(name), b"", wrong), Err(TransferError::Damaged { .. })));
        let target = transfer::OpenFile::for_writing(bed.base().join("restored")).unwrap();
        let part = bed.store.get_range(&id(name), &target, Extent::WHOLE, size, &Unwatched);
        assert!(matches!(part, Err(TransferError::NoManifest { .. })), "{part:?}");
        assert_eq!(bed.store.manifest(&id(name)).unwrap(), None);
        let error = bed.put(&id(name), &bed.file("source", b"another"), plain(Encoding::Raw, None)).unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Permanent, 17), "{error}");
        bed.remove(&id(name)).unwrap();
        assert!(bed.server.keys(BUCKET).is_empty());
    }
}
