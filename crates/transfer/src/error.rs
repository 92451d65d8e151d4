//! Why a transfer did not happen.

use model::{Digest, ErrorKind, Failure, ObjectId, ObjectIdError, errno_kind};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EIO: i32 = 5;
const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const EAGAIN: i32 = 11;
const EOPNOTSUPP: i32 = 95;
const ESTALE: i32 = 116;

/// What went wrong, where, and what to do. Retry by [`TransferError::kind`], never by the text.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
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
    /// A service that is asked over a network did not do it.
    #[error("cannot {doing} {path}: {why}", path = path.display())]
    Service {
        /// What was being done, to be read after "cannot".
        doing: &'static str,
        /// To which object, as people name it.
        path: PathBuf,
        /// What the service said, or why nothing was heard from it. Holds no secrets.
        why: String,
        /// Whether trying again later may help.
        kind: ErrorKind,
        /// What a blocked reader is told.
        errno: i32,
    },
    /// The object lies in a cold storage class, and cannot be read before it is thawed.
    #[error(
        "{path} lies in a cold storage class: {}", if ask_again.is_some() { "it is being thawed" } else { "it cannot be read before it is thawed" },
        path = path.display()
    )]
    Cold {
        /// The object.
        path: PathBuf,
        /// It is being thawed, and after this time it is worth to ask again. `None`: nobody was asked to thaw it.
        ask_again: Option<Duration>,
    },
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The source became shorter while it was read.
    #[error("{path} changed while it was read: {expected} bytes at first, it ended after {found}; it will be tried again", path = path.display())]
    Changed {
        /// The source.
        path: PathBuf,
        /// Size when it was opened.
        expected: u64,
        /// Where it ended.
        found: u64,
    },
    /// The archive's object is not a whole, well-formed one.
    #[error("archived object {path} is damaged: {why}; restore it from another copy of the archive", path = path.display())]
    Damaged {
        /// The object.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The object's content is not what was archived.
    #[error(
        "content of archived object {path} has hash {found}, but {expected} was archived: the object is damaged or not this file's; restore it from another copy of the archive", path = path.display()
    )]
    Mismatch {
        /// The object.
        path: PathBuf,
        /// What was archived.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// Part of the object's content is not what was archived. The rest may be.
    #[error(
        "archived object {path} is damaged from byte {offset} to byte {end}: {why}; restore it from another copy of the archive",
        path = path.display(), end = offset.saturating_add(*length)
    )]
    DamagedChunk {
        /// The object.
        path: PathBuf,
        /// Where the chunk begins in the content.
        offset: u64,
        /// Its length.
        length: u64,
        /// What is wrong with it.
        why: String,
    },
    /// There is nothing to verify a part of the object with; the whole can still be restored.
    #[error("manifest {path} cannot be used: {why}; the file can only be restored as a whole", path = path.display())]
    NoManifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An id that no object can have.
    #[error("object id {0} ends in \".manifest\", which only the descriptions of objects do")]
    Reserved(ObjectId),
    /// A name of which no record can be kept.
    #[error("{path} cannot be described in the archive: {why}", path = path.display())]
    Undescribed {
        /// What was to be described.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// There is no such object.
    #[error("there is no object {path} in the archive: check that the archive's root is right, and whether the object was removed", path = path.display())]
    Missing {
        /// Where it would be.
        path: PathBuf,
    },
    /// The archive's root is not the directory it was when the store was opened.
    #[error("archive {path} is not available: {why}; is its filesystem mounted?", path = path.display())]
    Unavailable {
        /// The root.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// Others do something in this root of the archive that does not go together with what was to be done.
    #[error("{path} cannot be used for this now: {why}", path = path.display())]
    Busy {
        /// The root.
        path: PathBuf,
        /// What is being done there.
        why: String,
    },
    /// An identity that is the URL of an object that cannot be had here.
    #[error("object {url} cannot be used: {why}")]
    Foreign {
        /// The identity.
        url: String,
        /// Why not.
        why: String,
    },
    /// Somebody else's object, and not what it was when a file came to name it.
    #[error("object {path} is not the one that was imported: {why}; import it again, or bring the earlier version back", path = path.display())]
    Replaced {
        /// The object.
        path: PathBuf,
        /// What differs.
        why: String,
    },
    /// A text that is no object id.
    #[error("{0}")]
    Id(#[from] ObjectIdError),
    /// Not a file that can be moved.
    #[error("{path} is not a regular file", path = path.display())]
    NotRegular {
        /// What was opened.
        path: PathBuf,
    },
    /// The sync of a whole group failed; each of its members gets this.
    #[error("cannot make {path} durable: {why}; it was not stored", path = path.display())]
    NotDurable {
        /// The object.
        path: PathBuf,
        /// What the kernel said.
        why: String,
        /// Its errno.
        errno: i32,
    },
}

impl TransferError {
    /// For `map_err`: `doing` is read after "cannot". An error of ours that came as an I/O error, through [`TransferError::into_io`], comes out
    /// as it was.
    pub fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| match Self::within(source) {
            Ok(error) => error,
            Err(source) => Self::Io { doing, path: path.as_ref().to_owned(), source },
        }
    }

    /// For what has to give an I/O error, such as a [`ReadAt`](crate::manifest::ReadAt): whoever asked gets this very error.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// The error that was hidden in an I/O error.
    pub(crate) fn within(error: io::Error) -> Result<Self, io::Error> {
        error.downcast::<Self>()
    }

    /// Whether trying again later may help.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => errno_kind(source.raw_os_error().unwrap_or(EIO)),
            Self::Changed { .. } | Self::Unavailable { .. } | Self::Busy { .. } | Self::Cold { .. } => {
                ErrorKind::Temporary
            }
            Self::NotDurable { errno, .. } => errno_kind(*errno),
            Self::Service { kind, .. } => *kind,
            Self::Cancelled
            | Self::Damaged { .. }
            | Self::DamagedChunk { .. }
            | Self::NoManifest { .. }
            | Self::Reserved(_)
            | Self::Undescribed { .. }
            | Self::Mismatch { .. }
            | Self::Missing { .. }
            | Self::Foreign { .. }
            | Self::Replaced { .. }
            | Self::Id(_)
            | Self::NotRegular { .. } => ErrorKind::Permanent,
        }
    }

    /// What a blocked reader would be told (positive).
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(EIO),
            Self::Cancelled => 125,
            Self::Changed { .. } | Self::Busy { .. } | Self::Cold { .. } => EAGAIN,
            Self::Damaged { .. } | Self::DamagedChunk { .. } | Self::Mismatch { .. } | Self::Replaced { .. } => EIO,
            Self::NoManifest { .. } => EOPNOTSUPP,
            Self::Missing { .. } => ENOENT,
            Self::Unavailable { .. } => ESTALE,
            Self::Id(_)
            | Self::Foreign { .. }
            | Self::Reserved(_)
            | Self::Undescribed { .. }
            | Self::NotRegular { .. } => EINVAL,
            Self::NotDurable { errno, .. } | Self::Service { errno, .. } => *errno,
        }
    }

    /// The form that is sent and stored. `context` says which file and archive, and comes first in the message.
    #[must_use]
    pub fn into_failure(self, context: &str) -> Failure {
        match self {
            Self::Cancelled => Failure::cancelled(),
            error => {
                let advice = match error.errno() {
                    28 | 122 => "; free space on that filesystem or raise the quota",
                    _ => "",
                };
                let message = format!("{context}: {error}{advice}");
                match error {
                    Self::Cold { ask_again: Some(pause), .. } => Failure::thawing(message, whole_seconds(pause)),
                    _ => Failure { kind: error.kind(), ..Failure::temporary(error.errno(), message) },
                }
            }
        }
    }
}

/// Not 0, which would say that nothing is known.
fn whole_seconds(pause: Duration) -> u32 {
    u32::try_from(pause.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}
