//! What the commands that move or look at whole trees share: their filters, how they are ended, where they keep notes, what they tell.

mod archived;
mod buckets;
mod filters;
mod interrupt;
mod notes;
mod telling;
mod textfile;

pub(crate) use buckets::{BucketArgs, End, ReachArgs};
pub(crate) use filters::{FilterArgs, age};
pub(crate) use interrupt::Interrupt;
pub(crate) use notes::state_file;
pub(crate) use telling::{Telling, TellingArgs};
pub(crate) use textfile::TextFile;

use crate::exit::{CliError, Exit};
use jobs::JobError;

/// What ended a job as a whole.
pub(crate) fn ended(error: &JobError) -> CliError {
    let exit = match error {
        JobError::Senseless(_) => Exit::Usage,
        JobError::Running { .. } => Exit::NotHere,
        JobError::Bucket(_) => Exit::NotHere,
        JobError::Io { .. } | JobError::State { .. } => Exit::SomeFailed,
    };
    CliError::new(exit, error.to_string())
}
