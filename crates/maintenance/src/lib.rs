//! What is done to an archive and its filesystem as a whole: files made from what the archive holds, and the two compared.
//!
//! For: administrators, on the machine that has the filesystem. Not for: anything a user's request does (the agent does
//! that), and not for moving content: a file that is made here is released, and its content comes when it is read.
//!
//! Archives are [`Holdings`]: in directories, or in buckets.
//!
//! **Everything here blocks**, works with and without an agent, and beside a guard that runs on the filesystem.
//!
//! - [`released`]: makes released files, such that no crash and no reader ever finds zeros in their place.
//! - [`import`]: one file for one object.
//! - [`foreign`]: a tree of files for somebody else's objects in a bucket.
//! - [`rebuild`]: a whole tree, from the archive's manifests.
//! - [`scrub`]: the archive read through, every chunk verified.
//! - [`verify`]: a tree of files compared with the archive.
//! - [`fsck`]: filesystem, queue and archive compared, and repaired.

mod error;
pub mod foreign;
pub mod fsck;
mod holdings;
pub mod import;
mod observers;
pub mod rebuild;
pub mod released;
pub mod report;
mod scratch;
pub mod scrub;
pub mod verify;
mod walk;

pub use error::MaintenanceError;
pub use holdings::{Damage, Holdings};
pub use observers::is_guarded;
