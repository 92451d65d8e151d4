//! Object stores behind [`transfer::Store`]: S3 and what speaks it, Azure Blob, Google Cloud Storage, and memory.
//!
//! For: movers, and whatever maintains an archive. Not for: files, HSM state or actions.
//!
//! - [`Settings`]: where a bucket is and how to get in; nothing here reads a configuration file.
//! - [`Bucket`]: an open bucket. Requests with time limits and bounded retries; errors by kind.
//! - [`ObjectStore`]: objects and their manifests in it.
//! - [`foreign`]: what somebody else put there.
//! - [`plain`]: objects under keys that somebody chose, for bulk jobs.
//!
//! **Threads.** The methods block, as those of [`transfer::Store`] do; requests run on a runtime that the bucket owns, and so do the callbacks
//! that end commits and removals. OpenDAL speaks the services' protocols; the HTTP under it is `transport`, because a request without
//! a limit on its silence is one that never ends.

mod bucket;
mod engine;
mod fault;
pub mod foreign;
mod retry;
mod secret;
mod settings;
mod signed;
mod store;
mod thaw;
mod transport;
mod uploads;

pub use bucket::Bucket;
pub use secret::Secret;
pub use settings::{
    Azure, AzureCredentials, Encryption, Gcs, GcsCredentials, Layout, Limits, S3, S3Credentials, Service, Settings,
    SettingsError, SseKey,
};
pub use store::{ObjectStore, Repacked, Staged, SweptUploads, plain};
pub use thaw::{AzureTier, Thaw, ThawTier};
