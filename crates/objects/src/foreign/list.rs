//! What there is in a bucket, whoever put it there.

use super::slashes::Marks;
use super::{Foreign, version_of};
use crate::Bucket;
use crate::fault::Fault;
use crate::retry::Retry;
use model::Scheme;
use opendal::options::ListOptions;
use opendal::raw::oio::{self, List as _};
use opendal::raw::{OpList, Service as _};
use std::collections::HashMap;
use std::ops::ControlFlow;
use transfer::TransferError;

/// Objects that are handed over at a time.
const BATCH: usize = 500;

/// An object as a listing tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The whole key, as the service has it.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// What its version is told by: see [`transfer::ForeignObject`].
    pub version: Option<String>,
    /// When it was stored, in seconds since 1970, and nanoseconds.
    pub modified: Option<(i64, u32)>,
}

/// What the service tells of one object that is asked for by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// In bytes.
    pub size: u64,
    /// As in [`Listed`].
    pub version: Option<String>,
    /// The texts that whoever stored it gave it; their names in small letters.
    pub texts: HashMap<String, String>,
}

impl Described {
    /// Whether it is an object of an archive of Sifaka's.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.texts.contains_key(crate::store::MARK)
    }
}

impl Foreign {
    /// Visits everything whose key begins with `prefix`, which is empty or ends in a slash, a few hundred at a time; in the order in which the service
    /// tells of it, until told to stop.
    pub fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Vec<Listed>) -> ControlFlow<()>,
    ) -> Result<(), TransferError> {
        let failed = |fault: Fault| fault.of_bucket().into_error("list", self.whole.path(prefix));
        let operator = self.whole.operator();
        let options = OpList::from(ListOptions { recursive: true, ..ListOptions::default() });
        // An empty path is not one that OpenDAL knows.
        let path = if prefix.is_empty() { "/" } else { prefix };
        let (marks, context) = (Marks::new(), operator.context());
        let context = context.with_http_transport(marks.clone().over(context.http_transport().clone()));
        let lister = operator.service().list(&context, path, options);
        let mut lister = lister.map_err(|e| failed(Fault::new(&e)))?;
        loop {
            let (bucket, marks) = (self.whole.clone(), marks.clone());
            let next = async move {
                let batch = bucket.in_time(next_batch(&bucket, &mut lister, &marks), |late| late).await?;
                Ok((lister, batch))
            };
            let (next, (batch, is_last)) = self.whole.engine().wait(next).map_err(failed)?;
            if (!batch.is_empty() && visit(batch).is_break()) || is_last {
                return Ok(());
            }
            lister = next;
        }
    }

    /// Asks for one object; `None` when it is not there.
    pub fn describe(&self, key: &str) -> Result<Option<Described>, TransferError> {
        let (bucket, asked) = (self.whole.clone(), key.to_owned());
        let look = async move { bucket.in_time(bucket.stat(&asked), |late: Fault| late).await };
        let found =
            self.whole.engine().wait(look).map_err(|fault| fault.into_error("look for", self.whole.path(key)))?;
        Ok(found.map(|found| {
            let texts = found.user_metadata().into_iter().flatten();
            let texts = texts.map(|(name, text)| (name.to_ascii_lowercase(), text.to_owned())).collect();
            Described { size: found.content_length(), version: version_of(&found, self.is_google()), texts }
        }))
    }
}

async fn next_batch(bucket: &Bucket, lister: &mut oio::Lister, marks: &Marks) -> Result<(Vec<Listed>, bool), Fault> {
    let is_google = bucket.place().is_some_and(|(scheme, _)| scheme == Scheme::Google);
    let mut batch = Vec::new();
    let mut retry = Retry::new(bucket.limits().attempts);
    while batch.len() < BATCH {
        match lister.next().await {
            Ok(Some(entry)) => {
                let found = entry.metadata();
                let modified = found.last_modified().map(|time| {
                    let time = time.into_inner();
                    (time.as_second(), u32::try_from(time.subsec_nanosecond()).unwrap_or(0))
                });
                let (size, version) = (found.content_length(), version_of(found, is_google));
                batch.push(Listed { key: marks.take_off(entry.path()), size, version, modified });
                retry = Retry::new(bucket.limits().attempts);
            }
            Ok(None) => return Ok((batch, true)),
            // It goes on where it was.
            Err(error) => retry.after(&error).await?,
        }
    }
    Ok((batch, false))
}
