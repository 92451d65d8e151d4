//! Why maintenance could not be done.

use coordinator::StateError;
use model::ObjectIdError;
use std::io;
use std::path::{Path, PathBuf};
use transfer::TransferError;

/// What went wrong, where, and what to do about it. Nothing here is tried again by itself.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// A system call failed.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// What was being done, to be read after "cannot".
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The name is taken.
    #[error("{path} exists already: it was left as it is", path = path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// A file's attributes could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    State {
        /// Whose.
        path: PathBuf,
        /// Why.
        source: StateError,
    },
    /// The archive said no.
    #[error("{0}")]
    Archive(#[from] TransferError),
    /// The archive as a whole has ceased to answer: nothing else in it would be found either.
    #[error(
        "the archive does not answer any more: {0}. What was done until then stays; run it again when the archive is back"
    )]
    Unreachable(TransferError),
    /// An archive in which nobody else can have objects.
    #[error("the archive is not in a bucket")]
    NoBucket,
    /// The archive has no such object.
    #[error(
        "archive {archive_id} has no object {id}: a file made for it could never be restored. Check the id and the archive's number"
    )]
    NoObject {
        /// In which archive.
        archive_id: u32,
        /// Which.
        id: String,
    },
    /// It was there a moment ago.
    #[error("the manifest of {id} was removed meanwhile")]
    ManifestGone {
        /// Of what.
        id: String,
    },
    /// The agent's queue could not be read.
    #[error("{0}")]
    Queue(#[from] queue::QueueError),
    /// A scrub's state file is none.
    #[error("{path} is not the state of a scrub: {why}. Begin anew with --restart", path = path.display())]
    ScrubState {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The database for comparing failed.
    #[error(
        "the temporary database failed: {0}. It is in $TMPDIR, /var/tmp or /tmp, and needs some hundred bytes for each file and object"
    )]
    Scratch(#[from] rusqlite::Error),
    /// A text that is no object id.
    #[error("{0}")]
    Id(#[from] ObjectIdError),
    /// A guard is there, and could not be made to watch the new file.
    #[error(
        "a guard (process {pid}) watches accesses to files, and cannot be told of the new one: {source}. Run this as root, in the guard's process namespace"
    )]
    Guard {
        /// The guard, or another process that holds its group.
        pid: i32,
        /// Why not.
        source: io::Error,
    },
}

impl MaintenanceError {
    /// For `map_err`: `doing` is read after "cannot".
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.as_ref().to_owned(), source }
    }

    /// For `map_err`.
    pub(crate) fn state(path: impl AsRef<Path>) -> impl FnOnce(StateError) -> Self {
        move |source| Self::State { path: path.as_ref().to_owned(), source }
    }
}
