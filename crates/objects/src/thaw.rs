//! Objects in cold storage classes: S3's GLACIER and DEEP_ARCHIVE and the archive tiers of its Intelligent-Tiering, Azure's Archive. They are there, and their content
//! cannot be read before somebody asked the service to thaw it, which takes minutes to days.
//!
//! Who wants to read one asks here. The service is asked how far the object is first, so that nobody pays for a second thaw: not for another reader, nor
//! after the death of a mover. Nothing is remembered but what is being asked at this moment.
//!
//! S3 makes a copy for some days, and the object stays in its class; Azure moves the object to another tier.

use crate::Bucket;
use crate::fault::Fault;
use crate::signed::{Ask, Signed, encoded};
use http::{HeaderName, HeaderValue, Method};
use model::ErrorKind;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use transfer::TransferError;

const EACCES: i32 = 13;

/// How objects are thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thaw {
    /// For how many days S3 keeps the thawed copy.
    pub days: u32,
    /// How fast it is to be.
    pub tier: ThawTier,
    /// How long after each look the next one is worth it.
    pub check_interval: Duration,
    /// Where Azure puts thawed objects.
    pub azure_tier: AzureTier,
}

/// How fast a thaw is, and how dear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ThawTier {
    /// Hours.
    #[default]
    Standard,
    /// S3: half a day or more, and the cheapest. Azure knows no such, and takes it for [`Self::Standard`].
    Bulk,
    /// Minutes, or an hour. S3 has it for GLACIER alone.
    Expedited,
}

/// A tier of Azure from which objects can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AzureTier {
    /// Hot.
    #[default]
    Hot,
    /// Cool.
    Cool,
    /// Cold: the name is Azure's, it can be read at once.
    Cold,
}

impl Default for Thaw {
    fn default() -> Self {
        Self {
            days: 3,
            tier: ThawTier::default(),
            check_interval: Duration::from_secs(300),
            azure_tier: AzureTier::default(),
        }
    }
}

/// Asks for thaws in one bucket.
pub(crate) struct Thaws {
    requests: Arc<Signed>,
    thaw: Thaw,
    /// Keys of which somebody is asking right now.
    asking: Mutex<HashSet<String>>,
}

/// How far an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Cold {
        /// Of S3's Intelligent-Tiering: thawed objects stay thawed until nobody reads them for months.
        for_good: bool,
    },
    Thawing,
    /// It can be read.
    Warm,
}

/// A key is nobody's any more when this goes, also when the work is given up.
struct Asking<'t> {
    thaws: &'t Thaws,
    key: &'t str,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.thaws.asking.lock().remove(self.key);
    }
}

impl Thaws {
    pub(crate) fn new(requests: Arc<Signed>, thaw: Thaw) -> Self {
        Self { requests, thaw, asking: Mutex::default() }
    }

    /// Has the service thaw what it refused to give, unless it does so already. `key` is whole, with the prefix of everything. Says whether it is on its way;
    /// if not, it can be read.
    async fn ask(&self, key: &str) -> Result<bool, Fault> {
        if !self.asking.lock().insert(key.to_owned()) {
            // Whoever is first hears what is wrong, if anything is.
            return Ok(true);
        }
        let _asking = Asking { thaws: self, key };
        match self.look(key).await? {
            State::Warm => Ok(false),
            State::Thawing => Ok(true),
            State::Cold { for_good } => {
                let asked = self.requests.send(&self.wanted(key, for_good)).await;
                match asked {
                    Ok(_) => {}
                    Err(fault) if matches!(fault.code(), "RestoreAlreadyInProgress" | "BlobBeingRehydrated") => {}
                    Err(fault) => return Err(fault),
                }
                tracing::info!(key, "the service was asked to thaw an object");
                Ok(true)
            }
        }
    }

    async fn look(&self, key: &str) -> Result<State, Fault> {
        if !self.requests.can_look() {
            // S3 says then that it is on its way already.
            return Ok(State::Cold { for_good: false });
        }
        let path = format!("/{}", encoded(key, true));
        let answer = self.requests.send(&Ask { method: Method::HEAD, path, ..Ask::default() }).await?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ok(if self.requests.is_azure() {
            azure_state(header("x-ms-access-tier"), header("x-ms-archive-status"))
        } else {
            s3_state(header("x-amz-storage-class"), header("x-amz-restore"))
        })
    }

    fn wanted(&self, key: &str, for_good: bool) -> Ask {
        let path = format!("/{}", encoded(key, true));
        let Thaw { days, tier, azure_tier, .. } = self.thaw;
        if self.requests.is_azure() {
            let to = match azure_tier {
                AzureTier::Hot => "Hot",
                AzureTier::Cool => "Cool",
                AzureTier::Cold => "Cold",
            };
            let priority = if tier == ThawTier::Expedited { "High" } else { "Standard" };
            let headers = [("x-ms-access-tier", to), ("x-ms-rehydrate-priority", priority)];
            let header = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
            let headers = headers.into_iter().map(header).collect();
            return Ask { method: Method::PUT, path, query: "comp=tier".to_owned(), headers, ..Ask::default() };
        }
        let tier = match tier {
            ThawTier::Standard => "Standard",
            ThawTier::Bulk => "Bulk",
            ThawTier::Expedited => "Expedited",
        };
        let days = if for_good { String::new() } else { format!("<Days>{days}</Days>") };
        let body = format!(
            "<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{days}\
             <GlacierJobParameters><Tier>{tier}</Tier></GlacierJobParameters></RestoreRequest>"
        );
        Ask { method: Method::POST, path, query: "restore=".to_owned(), body, ..Ask::default() }
    }
}

fn s3_state(class: &str, restore: &str) -> State {
    if restore.contains("ongoing-request=\"true\"") {
        State::Thawing
    } else if restore.contains("ongoing-request=\"false\"") {
        State::Warm
    } else {
        // It was refused: whatever its class is called, it is one that has to be thawed.
        State::Cold { for_good: class == "INTELLIGENT_TIERING" }
    }
}

fn azure_state(tier: &str, status: &str) -> State {
    match (tier, status) {
        (_, "") if tier != "Archive" => State::Warm,
        (_, "") => State::Cold { for_good: true },
        // `rehydrate-pending-to-hot`, and whatever else may be pending.
        _ => State::Thawing,
    }
}

impl Bucket {
    /// What becomes of an error: where it says that an object is cold, that is being thawed then.
    pub(crate) fn thawed<T>(self: &Arc<Self>, result: Result<T, TransferError>) -> Result<T, TransferError> {
        match result {
            Err(TransferError::Cold { path, ask_again: None }) => Err(self.ask_for_thaw(path)),
            other => other,
        }
    }

    fn ask_for_thaw(self: &Arc<Self>, path: PathBuf) -> TransferError {
        let key = path.to_str().and_then(|path| self.whole_key(path)).map(str::to_owned);
        let (Some(thaws), Some(key)) = (self.thaws(), key) else {
            return TransferError::Cold { path, ask_again: None };
        };
        let (bucket, interval) = (self.clone(), thaws.thaw.check_interval);
        let asked = self.engine().wait(async move { bucket.in_time(thaws.ask(&key), |late| late).await });
        match asked {
            Ok(true) => TransferError::Cold { path, ask_again: Some(interval) },
            Ok(false) => {
                let why = "the service says that it is thawed, and does not give it".to_owned();
                TransferError::Service { doing: "read", path, why, kind: ErrorKind::Temporary, errno: 11 }
            }
            Err(fault) => refused(fault, path),
        }
    }
}

/// To wait for somebody to give a permission, while readers are blocked, is no use here: who may read and may not thaw has been given just that.
fn refused(fault: Fault, path: PathBuf) -> TransferError {
    const DOING: &str = "ask for the thaw of";
    if !fault.is_forbidden() {
        return fault.into_error(DOING, path);
    }
    let why = format!("{}; it needs s3:RestoreObject on S3, and the right to set tiers on Azure", fault.why());
    TransferError::Service { doing: DOING, path, why, kind: ErrorKind::Permanent, errno: EACCES }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_how_far_it_is() {
        assert_eq!(s3_state("DEEP_ARCHIVE", ""), State::Cold { for_good: false });
        assert_eq!(s3_state("INTELLIGENT_TIERING", "garbage"), State::Cold { for_good: true });
        assert_eq!(s3_state("GLACIER", "ongoing-request=\"true\""), State::Thawing);
        let there = "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2029 00:00:00 GMT\"";
        assert_eq!(s3_state("GLACIER", there), State::Warm);
        assert_eq!(azure_state("Archive", ""), State::Cold { for_good: true });
        assert_eq!(azure_state("Archive", "rehydrate-pending-to-hot"), State::Thawing);
        assert_eq!(azure_state("Hot", ""), State::Warm);
    }
}
