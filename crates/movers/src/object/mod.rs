//! A mover whose archives are in buckets of S3, Azure Blob Storage or Google Cloud Storage.
//!
//! This module starts it; `settings` says to `objects` what the configuration says. The actions are those of `archive`.

mod settings;

use crate::archive::{Kind, MoverError, Unusable};
use config::object::ObjectArchive;
use objects::{Bucket, ObjectStore};
use plugin::Environment;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// Serves until the process is asked to end (SIGTERM).
///
/// # Errors
/// The configuration is wrong; a bucket is not there or does not let us in; the agent cannot be reached, refuses, or is gone
/// (then end the process at once).
pub fn run(environment: Environment, file: &Path) -> Result<(), MoverError> {
    Kind { name: "object", open, sweep }.run(environment, file)
}

/// Opens an archive as the mover does, for whoever looks at it as a whole.
///
/// # Errors
/// The bucket is not there or does not let us in, or a key's file cannot be used.
pub fn open(archive: &ObjectArchive) -> Result<ObjectStore, Unusable> {
    let bucket = Bucket::open(&settings::of(&archive.place)?)?;
    bucket.check()?;
    Ok(ObjectStore::new(bucket))
}

fn sweep(_: &[Arc<ObjectStore>], ended: &Receiver<()>) {
    let _ = ended.recv();
}
