//! What lies below a prefix, in pages, in the order in which the service lists it: by key.

use crate::Bucket;
use crate::fault::Fault;
use crate::retry::Retry;
use opendal::options::ListOptions;
use opendal::raw::oio::{self, Entry, List as _};
use opendal::raw::{OpList, Service as _};

/// Entries that are handed over at a time while a listing goes on.
const BATCH: usize = 1000;

/// A listing that goes on where it was.
pub(super) struct Listing {
    lister: oio::Lister,
}

/// Some of what is listed.
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
    pub(super) is_last: bool,
}

impl Listing {
    /// Of all keys below `prefix`, from behind `after` on where the service can begin there.
    pub(super) fn of(bucket: &Bucket, prefix: &str, after: Option<String>) -> Result<Self, Fault> {
        let operator = bucket.operator();
        let service = operator.service();
        let start_after = after.filter(|_| service.capability().list_with_start_after);
        let options = OpList::from(ListOptions { recursive: true, start_after, ..ListOptions::default() });
        let lister = service.list(operator.context(), prefix, options).map_err(|e| Fault::new(&e))?;
        Ok(Self { lister })
    }

    pub(super) async fn next_batch(&mut self, bucket: &Bucket) -> Result<Batch, Fault> {
        let mut entries = Vec::new();
        let mut retry = Retry::new(bucket.limits().attempts);
        while entries.len() < BATCH {
            match self.lister.next().await {
                Ok(Some(entry)) => {
                    entries.push(entry);
                    retry = Retry::new(bucket.limits().attempts);
                }
                Ok(None) => return Ok(Batch { entries, is_last: true }),
                // It goes on where it was.
                Err(error) => retry.after(&error).await?,
            }
        }
        Ok(Batch { entries, is_last: false })
    }
}
