//! A mover whose archives are in buckets of S3, Azure Blob Storage or Google Cloud Storage.
//!
//! This module starts it, also in the places of Lemur's movers for buckets; `settings` says to `objects` what the configuration says. The actions are those of `archive`.

mod settings;

use crate::archive::{Kind, MoverError, Unusable};
use config::archive::Archive;
use config::lemur::{Az, S3};
use config::object::{Bucket as Place, ObjectArchive};
use objects::{Bucket, ObjectStore};
use plugin::Environment;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often uploads that nobody will complete are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);
/// How often packs with removed members are looked for: that lists all packs, and requests are paid for. One that loses its last member goes at once.
const REPACK_INTERVAL: Duration = Duration::from_secs(3600);
/// How fast packs with removed members are written anew.
const REPACK_BYTES_PER_S: u64 = 32 << 20;
/// An upload that was begun so long ago belongs to nobody any more: Azure and Google forget theirs after as long.
const ABANDONED_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Serves until the process is asked to end (SIGTERM).
///
/// # Errors
/// The configuration is wrong; a bucket is not there or does not let us in; the agent cannot be reached, refuses, or is gone
/// (then end the process at once).
pub fn run(environment: Environment, file: &Path) -> Result<(), MoverError> {
    let open = |archive: &ObjectArchive| open(&archive.place);
    Kind { name: "object", open, sweep: now_and_then }.run(environment, file)
}

/// Serves likewise, in place of Lemur's mover for S3, out of that one's configuration.
///
/// # Errors
/// As for [`run`].
pub fn run_s3(environment: Environment, file: &Path) -> Result<(), MoverError> {
    let open = |archive: &Archive<S3>| open(&archive.place.0);
    Kind { name: "s3", open, sweep: now_and_then }.run(environment, file)
}

/// Serves likewise, in place of Lemur's mover for Azure, out of that one's configuration.
///
/// # Errors
/// As for [`run`].
pub fn run_az(environment: Environment, file: &Path) -> Result<(), MoverError> {
    let open = |archive: &Archive<Az>| open(&archive.place.0);
    Kind { name: "az", open, sweep: now_and_then }.run(environment, file)
}

/// Opens an archive as the mover does, for whoever looks at it as a whole.
///
/// # Errors
/// The bucket is not there or does not let us in, or a key's file cannot be used.
pub fn open(place: &Place) -> Result<ObjectStore, Unusable> {
    let bucket = Bucket::open(&settings::of(place)?)?;
    bucket.check()?;
    Ok(ObjectStore::new(bucket))
}

/// Opens a bucket for what is no archive's. Asks the service nothing.
///
/// # Errors
/// A key's file cannot be used, or the settings make no sense.
pub fn bucket(place: &Place) -> Result<Arc<Bucket>, Unusable> {
    Ok(Bucket::open(&settings::of(place)?)?)
}

fn now_and_then(stores: &[Arc<ObjectStore>], ended: &Receiver<()>) {
    let mut repacked = Instant::now();
    sweep_every(SWEEP_INTERVAL, ended, || {
        stores.iter().for_each(|store| sweep(store));
        if repacked.elapsed() >= REPACK_INTERVAL {
            stores.iter().for_each(|store| repack(store, ended));
            repacked = Instant::now();
        }
    });
}

/// The first time after part of the interval: the movers of many hosts, started together, do not ask together.
fn sweep_every(interval: Duration, ended: &Receiver<()>, mut sweep: impl FnMut()) {
    let part = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    let mut wait = interval.mul_f64(part);
    while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        sweep();
        wait = interval;
    }
}

fn sweep(store: &ObjectStore) {
    let bucket = store.bucket().name();
    match store.sweep(ABANDONED_AFTER) {
        Ok(swept) if swept.uploads > 0 => {
            tracing::info!(bucket, uploads = swept.uploads, "aborted uploads that a crashed mover left");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(bucket, %error, "cannot look for uploads that crashes left"),
    }
}

/// Slowly: what people wait for comes first. Ends its pauses when the mover does.
fn repack(store: &ObjectStore, ended: &Receiver<()>) {
    let bucket = store.bucket().name();
    let mut pause = |bytes: u64| {
        let _ = ended.recv_timeout(Duration::from_millis(bytes * 1000 / REPACK_BYTES_PER_S));
    };
    match store.repack(&mut pause) {
        Ok(done) if done.rewritten + done.removed > 0 => tracing::info!(
            bucket,
            rewritten = done.rewritten,
            removed = done.removed,
            freed_bytes = done.freed_bytes,
            "took removed members out of packs"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(bucket, %error, "cannot look for packs with removed members"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::ObjectConfig;
    use std::sync::mpsc::channel;
    use testkit::fault_proxy::{Fault, FaultProxy, Reply, When};

    /// A bucket with one upload of this prefix that was begun long ago, and one of today.
    const LISTED: &str = "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>\
        <Upload><Key>p/objects/abcdef</Key><UploadId>old</UploadId><Initiated>2020-01-02T03:04:05.678Z</Initiated></Upload>\
        <Upload><Key>p/objects/bcdefg</Key><UploadId>new</UploadId><Initiated>2999-01-02T03:04:05.678Z</Initiated></Upload>\
        </ListMultipartUploadsResult>";

    #[test]
    fn p7_uploads_that_nobody_completes_are_aborted_again_and_again_while_the_mover_serves() {
        // Nobody is behind it: it answers everything itself.
        let service = FaultProxy::start("127.0.0.1:1");
        service.add(When::method("GET").parameter("uploads"), Fault::Answer(Reply::status(200).body(LISTED)));
        service.add(When::method("DELETE"), Fault::status(204));
        // The bucket is there, and nothing in it.
        service.add(When::method("HEAD"), Fault::status(404));
        let empty = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
        service.add(When::method("GET"), Fault::Answer(Reply::status(200).body(empty)));
        let text = format!(
            "archive \"a\" {{ id = 1 url = \"s3://b/p\" endpoint = \"{}\" credentials {{ anonymous = true }} }}",
            service.url()
        );
        let archive = ObjectConfig::parse(&text, "f").unwrap().0.archives.remove(0);
        let bucket = Bucket::open(&settings::of(&archive.place).unwrap()).unwrap();
        let store = Arc::new(ObjectStore::new(bucket));
        let (serving, ended) = channel();
        let sweeper = std::thread::spawn(move || sweep_every(Duration::from_millis(20), &ended, || sweep(&store)));
        let aborted = |id: &str| service.count(|r| r.method == "DELETE" && r.parameter("uploadId") == Some(id));
        testkit::wait_until(Duration::from_secs(20), "the third sweep", || aborted("old") >= 5);
        drop(serving);
        sweeper.join().unwrap();
        assert_eq!(aborted("new"), 0);
    }
}
