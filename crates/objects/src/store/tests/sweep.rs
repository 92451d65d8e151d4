//! P7: uploads that nobody will complete are found and removed, and no others.

use super::ServerBed;
use super::rgw::{BUCKET, settings};
use super::suite::{Bed as _, Calls as _, described, expected, id, manifest, object};
use crate::{Bucket, ObjectStore, SweptUploads};
use std::process::Command;
use std::time::Duration;
use testkit::services::Rgw;
use transfer::{Encoding, PutOptions, Store as _, Unwatched};

const ENDPOINT: &str = "SIFAKA_TEST_CRASHES_AT";
const LARGE: usize = 20 << 20;

/// Stages a large file, says so, and waits to be killed.
fn crash(endpoint: String) {
    let store = ObjectStore::new(Bucket::open(&settings(endpoint)).unwrap());
    let scratch = testkit::Scratch::new("crash");
    std::fs::write(scratch.join("source"), vec![7; LARGE]).unwrap();
    let source = transfer::OpenFile::for_reading(scratch.join("source")).unwrap();
    std::fs::remove_dir_all(scratch.path()).unwrap();
    let staged = store.stage(&id("abcdef"), &source, described(Encoding::Raw), &Unwatched);
    assert!(staged.is_ok());
    // Not an end in order: nothing of this process runs any more.
    let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
}

/// A process that is killed in the middle of an upload.
fn crashed(server: &Rgw) {
    let name = "store::tests::sweep::p7_what_a_killed_process_left_is_removed_and_no_more";
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", name, "--test-threads=1"]).env(ENDPOINT, server.endpoint());
    let status = child.output().unwrap().status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
}

#[test]
fn p7_what_a_killed_process_left_is_removed_and_no_more() {
    if let Ok(endpoint) = std::env::var(ENDPOINT) {
        return crash(endpoint);
    }
    let bed = ServerBed::<Rgw>::new();
    crashed(&bed.server);
    // Somebody else's, beside our prefix and in its name.
    for key in ["site/a%20prefix.old/objects/x", "site/a%20prefix/other"] {
        bed.server.request("POST", &format!("/{BUCKET}/{key}?uploads="), None, &[]).ok();
    }
    let others = ["site/a prefix.old/objects/x".to_owned(), "site/a prefix/other".to_owned()];
    let uploads = || {
        let mut uploads = bed.server.uploads(BUCKET);
        uploads.sort();
        uploads
    };
    assert_eq!(uploads().len(), 3);
    // This process is in the middle of one too.
    let source = bed.file("source", &vec![8; LARGE]);
    let staged = bed.store.stage(&id("bcdefg"), &source, described(Encoding::Raw), &Unwatched).unwrap();
    assert_eq!(bed.store.sweep(Duration::from_secs(3600)).unwrap(), SweptUploads { uploads: 0 });
    assert_eq!(bed.store.sweep(Duration::ZERO).unwrap(), SweptUploads { uploads: 1 });
    assert_eq!(bed.store.sweep(Duration::ZERO).unwrap(), SweptUploads { uploads: 0 });
    let (tell, told) = std::sync::mpsc::channel();
    bed.store.commit(staged, Box::new(move |result| tell.send(result).unwrap()));
    let stored = told.recv().unwrap().unwrap();
    bed.store.verify(&stored.id, expected(&stored), &Unwatched).unwrap();
    assert_eq!(uploads(), others);
}

#[test]
fn p7_a_repeated_attempt_removes_what_the_one_before_it_left() {
    let bed = ServerBed::<Rgw>::new();
    crashed(&bed.server);
    assert_eq!(bed.server.uploads(BUCKET), ["site/a prefix/objects/abcdef"]);
    let source = bed.file("source", &vec![7; LARGE]);
    let again = PutOptions { repeated: true, ..described(Encoding::Zstd) };
    let stored = bed.put(&id("abcdef"), &source, again).unwrap();
    bed.holds(vec![object(&stored.id), manifest(&stored.id)]);
}

/// There are services on which an upload is listed for a while after it has become an object, and is aborted with the object's content.
#[test]
fn p7_an_upload_that_may_have_become_an_object_is_left_until_that_is_gone() {
    let bed = ServerBed::<Rgw>::new();
    crashed(&bed.server);
    let stored = bed.put(&id("abcdef"), &bed.file("source", &vec![7; LARGE]), described(Encoding::Raw)).unwrap();
    assert_eq!(bed.store.sweep(Duration::ZERO).unwrap(), SweptUploads { uploads: 0 });
    bed.remove(&stored.id).unwrap();
    assert_eq!(bed.store.sweep(Duration::ZERO).unwrap(), SweptUploads { uploads: 1 });
    bed.holds(Vec::new());
}

#[test]
fn a_service_that_lists_no_uploads_has_none() {
    let store = ObjectStore::new(Bucket::open(&crate::Settings::memory()).unwrap());
    assert_eq!(store.sweep(Duration::ZERO).unwrap(), SweptUploads::default());
}
