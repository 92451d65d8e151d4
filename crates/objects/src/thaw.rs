//! Objects in cold storage classes: S3's GLACIER and DEEP_ARCHIVE and the archive tiers of its Intelligent-Tiering, Azure's Archive. They are there, and their content
//! cannot be read before somebody asked the service to thaw it, which takes minutes to days.
//!
//! Who wants to read one asks here. The service is asked how far the object is first, so that nobody pays for a second thaw: not for another reader, nor
//! after the death of a mover. Nothing is remembered but what is being asked at this moment.
//!
//! S3 makes a copy for some days, and the object stays in its class; Azure moves the object to another tier.

use crate::Bucket;
use crate::fault::Fault;
use crate::signed::{Ask, NO_CAPACITY, Signed, encoded};
use http::{HeaderName, HeaderValue, Method};
use model::ErrorKind;
use opendal::raw::Timestamp;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use transfer::TransferError;

const EAGAIN: i32 = 11;
const EACCES: i32 = 13;
const DOING: &str = "ask for the thaw of";

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
    async fn ask(&self, key: &str) -> Result<bool, Refused> {
        if !self.asking.lock().insert(key.to_owned()) {
            // Whoever is first hears what is wrong, if anything is.
            return Ok(true);
        }
        let _asking = Asking { thaws: self, key };
        match self.look(key).await.map_err(Refused::Otherwise)? {
            State::Warm => Ok(false),
            State::Thawing => Ok(true),
            State::Cold { for_good } => {
                let asked = self.requests.send(&self.wanted(key, for_good)).await;
                match asked {
                    Ok(_) => {}
                    Err(fault) if matches!(fault.code(), "RestoreAlreadyInProgress" | "BlobBeingRehydrated") => {}
                    Err(fault) if fault.code() == NO_CAPACITY => {
                        tracing::warn!(
                            key,
                            "the service has no capacity for expedited thaws now; it is asked again later"
                        );
                        return Ok(true);
                    }
                    Err(fault) => return Err(fault.into()),
                }
                tracing::info!(key, "the service was asked to thaw an object");
                Ok(true)
            }
        }
    }

    async fn look(&self, key: &str) -> Result<State, Fault> {
        let path = format!("/{}", encoded(key, true));
        let headers = self.requests.to_look();
        let answer = self.requests.send(&Ask { method: Method::HEAD, path, headers, ..Ask::default() }).await?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ok(if self.requests.is_azure() {
            azure_state(header("x-ms-access-tier"), header("x-ms-archive-status"))
        } else {
            s3_state(header("x-amz-storage-class"), header("x-amz-restore"), header("date"))
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

/// `date` is what the service says that it is now.
fn s3_state(class: &str, restore: &str, date: &str) -> State {
    if restore.contains("ongoing-request=\"true\"") {
        State::Thawing
    } else if restore.contains("ongoing-request=\"false\"") && !is_over(restore, date) {
        State::Warm
    } else {
        // It was refused: whatever its class is called, it is one that has to be thawed.
        State::Cold { for_good: class == "INTELLIGENT_TIERING" }
    }
}

/// Whether the thawed copy was to be kept no longer than until now, although the service still tells of it.
fn is_over(restore: &str, date: &str) -> bool {
    let until = restore.split_once("expiry-date=\"").and_then(|(_, rest)| rest.split_once('"'));
    let time = |text: &str| Timestamp::parse_rfc2822(text).ok();
    until.and_then(|(until, _)| time(until)).zip(time(date)).is_some_and(|(until, now)| until <= now)
}

fn azure_state(tier: &str, status: &str) -> State {
    match (tier, status) {
        (_, "") if tier != "Archive" => State::Warm,
        (_, "") => State::Cold { for_good: true },
        // `rehydrate-pending-to-hot`, and whatever else may be pending.
        _ => State::Thawing,
    }
}

/// Why a thaw could not be asked for.
enum Refused {
    /// Who we are may not have anything thawed.
    ToThaw(Fault),
    Otherwise(Fault),
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        if is_denied(&fault) { Self::ToThaw(fault) } else { Self::Otherwise(fault) }
    }
}

/// Not that credentials are of no use at this moment, which is another code.
fn is_denied(fault: &Fault) -> bool {
    let code = fault.code();
    let of_azure = code.starts_with("Authorization") || code == "InsufficientAccountPermissions";
    fault.is_forbidden() && (code == "AccessDenied" || of_azure)
}

impl Bucket {
    /// Reads something, and where that says that an object is cold, has it thawed.
    pub(crate) fn thawed<T>(
        self: &Arc<Self>,
        mut read: impl FnMut() -> Result<T, TransferError>,
    ) -> Result<T, TransferError> {
        let mut looked = false;
        loop {
            let path = match read() {
                Err(TransferError::Cold { path, ask_again: None }) => path,
                other => return other,
            };
            let path = self.ask_for_thaw(path)?;
            // The thaw may just have come to its end.
            if std::mem::replace(&mut looked, true) {
                return Err(not_given(path));
            }
        }
    }

    /// The path again, if the object can be read.
    fn ask_for_thaw(self: &Arc<Self>, path: PathBuf) -> Result<PathBuf, TransferError> {
        let key = path.to_str().and_then(|path| self.whole_key(path)).map(str::to_owned);
        let (Some(thaws), Some(key)) = (self.thaws(), key) else {
            return Err(TransferError::Cold { path, ask_again: None });
        };
        let (bucket, interval) = (self.clone(), thaws.thaw.check_interval);
        let asked = self.engine().wait(async move { bucket.in_time(thaws.ask(&key), Refused::Otherwise).await });
        match asked {
            Ok(true) => Err(TransferError::Cold { path, ask_again: Some(interval) }),
            Ok(false) => Ok(path),
            Err(Refused::ToThaw(fault)) => Err(refused(&fault, path)),
            Err(Refused::Otherwise(fault)) => Err(fault.into_error(DOING, path)),
        }
    }
}

fn not_given(path: PathBuf) -> TransferError {
    let why = "the service says that it is thawed, and does not give it".to_owned();
    TransferError::Service { doing: "read", path, why, kind: ErrorKind::Temporary, errno: EAGAIN }
}

/// To wait for somebody to give a permission, while readers are blocked, is no use here: who may read and may not thaw has been given just that.
fn refused(fault: &Fault, path: PathBuf) -> TransferError {
    let why = format!("{}; it needs s3:RestoreObject on S3, and the right to set tiers on Azure", fault.why());
    TransferError::Service { doing: DOING, path, why, kind: ErrorKind::Permanent, errno: EACCES }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_how_far_it_is() {
        let now = "Fri, 21 Dec 2029 00:00:00 GMT";
        assert_eq!(s3_state("DEEP_ARCHIVE", "", now), State::Cold { for_good: false });
        assert_eq!(s3_state("INTELLIGENT_TIERING", "garbage", now), State::Cold { for_good: true });
        assert_eq!(s3_state("GLACIER", "ongoing-request=\"true\"", now), State::Thawing);
        let there = |day: &str| format!("ongoing-request=\"false\", expiry-date=\"{day}\"");
        assert_eq!(s3_state("GLACIER", &there("Sat, 22 Dec 2029 00:00:00 GMT"), now), State::Warm);
        // The service has not noticed yet that the copy is no more.
        assert_eq!(s3_state("GLACIER", &there(now), now), State::Cold { for_good: false });
        for (day, now) in [("garbage", now), (now, "garbage"), ("", ""), (now, "")] {
            assert_eq!(s3_state("GLACIER", &there(day), now), State::Warm, "{day} {now}");
        }
        assert_eq!(azure_state("Archive", ""), State::Cold { for_good: true });
        assert_eq!(azure_state("Archive", "rehydrate-pending-to-hot"), State::Thawing);
        assert_eq!(azure_state("Hot", ""), State::Warm);
    }
}
