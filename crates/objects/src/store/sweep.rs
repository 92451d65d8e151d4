//! Uploads that nobody will complete: of processes that crashed.

use super::ObjectStore;
use crate::Bucket;
use crate::fault::Fault;
use crate::uploads::{Unfinished, Uploads};
use model::ObjectId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use transfer::TransferError;

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SweptUploads {
    /// Uploads that were begun and never completed.
    pub uploads: u64,
}

/// The keys that this process uploads to.
#[derive(Debug, Clone, Default)]
pub(super) struct Underway(Arc<Mutex<HashMap<String, usize>>>);

/// A key is uploaded to as long as this lives.
#[derive(Debug)]
pub(super) struct Uploading {
    underway: Underway,
    key: String,
}

impl Underway {
    pub(super) fn begin(&self, key: &str) -> Uploading {
        *self.0.lock().entry(key.to_owned()).or_default() += 1;
        Uploading { underway: self.clone(), key: key.to_owned() }
    }

    fn contains(&self, key: &str) -> bool {
        self.0.lock().contains_key(key)
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        let mut keys = self.underway.0.lock();
        if let Some(count) = keys.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

impl ObjectStore {
    /// Frees memory that is not needed any more, and aborts uploads that were begun at least `age` ago and never completed, but for those of this process. Nothing tells whether another
    /// process, perhaps on another host, still works on one: `age` has to be longer than the longest upload takes. Days are usual.
    ///
    /// Only S3 has any: Azure and Google remove what was not completed after a week by themselves, and list none of it. A service that cannot
    /// list them has none, as far as this can tell.
    ///
    /// Where an object was made under the same key meanwhile, an upload is left: some services keep one for a while that has become that object, and
    /// would abort it with the object's content.
    pub fn sweep(&self, age: Duration) -> Result<SweptUploads, TransferError> {
        self.packs.forget_unused();
        let Some(uploads) = self.bucket.uploads() else { return Ok(SweptUploads::default()) };
        let (underway, bucket) = (self.underway.clone(), self.bucket.clone());
        let swept = self.bucket.engine().wait(async move {
            let mut swept = SweptUploads::default();
            for prefix in bucket.layout().uploads() {
                swept.uploads += abort_old((&bucket, &uploads), prefix, age, &underway).await?;
            }
            Ok::<_, Fault>(swept)
        });
        match swept {
            Err(fault) if fault.told == opendal::ErrorKind::Unsupported => Ok(SweptUploads::default()),
            swept => swept
                .map_err(|fault| fault.of_bucket().into_error("list the unfinished uploads in", self.bucket.path(""))),
        }
    }
}

async fn abort_old(
    (bucket, uploads): (&Bucket, &Uploads),
    prefix: &str,
    age: Duration,
    underway: &Underway,
) -> Result<u64, Fault> {
    let aborted = Mutex::new(0);
    let visit = |found: Vec<Unfinished>| async {
        for upload in found.into_iter().filter(|upload| upload.is_older_than(age)) {
            let Some(key) = upload.key.strip_prefix(uploads.root()).filter(|key| !underway.contains(key)) else {
                continue;
            };
            let made = bucket.stat(key).await?.and_then(|found| found.last_modified()).map(SystemTime::from);
            // It is told in whole seconds.
            if made.is_some_and(|made| upload.is_of_before(made + Duration::from_secs(1))) {
                continue;
            }
            uploads.abort(&upload).await?;
            *aborted.lock() += 1;
        }
        Ok(())
    };
    uploads.each(prefix, visit).await?;
    Ok(aborted.into_inner())
}

/// Aborts what is unfinished of an object that was just completed, in any form, and was begun before: of its attempts only one runs at a time,
/// and this one is done.
pub(super) async fn abort_of(
    (bucket, uploads): (&Bucket, &Uploads),
    id: &ObjectId,
    before: SystemTime,
) -> Result<(), Fault> {
    let layout = bucket.layout();
    let forms: Vec<ObjectId> = layout.other_forms(id).chain([id.clone()]).collect();
    let root = uploads.root();
    let of_it: Vec<String> = forms
        .iter()
        .flat_map(|id| [layout.object(id), layout.manifest(id)])
        .map(|key| format!("{root}{key}"))
        .collect();
    // The shortest form is what the others begin with.
    let Some(base) = forms.iter().min_by_key(|id| id.as_str().len()) else { return Ok(()) };
    for prefix in [layout.object(base), layout.manifest(base)] {
        let visit = |found: Vec<Unfinished>| async {
            for upload in found.into_iter().filter(|upload| of_it.contains(&upload.key) && upload.is_of_before(before))
            {
                uploads.abort(&upload).await?;
            }
            Ok(())
        };
        uploads.each(&prefix, visit).await?;
    }
    Ok(())
}
