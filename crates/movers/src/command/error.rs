//! Why a command did not do what it was to do.

use model::{ErrorKind, Failure, ObjectIdError};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use transfer::TransferError;

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;
const ETIMEDOUT: i32 = 110;
const ESTALE: i32 = 116;

/// What a program's failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may pass.
    Temporary,
    /// It does not pass.
    Permanent,
    /// There is no such object.
    Missing,
}

/// Retry by [`CommandError::kind`], never by the text.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// The file could not be read, written or hashed; the content is not what was archived; it was cancelled.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The agent, or a file's attribute, names an object that there cannot be.
    #[error("{0}")]
    Id(#[from] ObjectIdError),
    /// A program named its object in a way that cannot be kept.
    #[error("`{program}` printed {text:?} for the object's id: {why}")]
    PrintedId { program: String, text: String, why: String },
    /// What would be put into a command line does not belong there.
    #[error("the command line of `{program}` cannot be made: {why}")]
    Word { program: String, why: String },
    /// It did not start.
    #[error("cannot start `{program}`: {source}; is it installed where the mover looks for it?")]
    Start { program: String, source: io::Error },
    /// Something around it did not work.
    #[error("cannot {doing}: {source}")]
    System { doing: &'static str, source: io::Error },
    /// It ended with a failure.
    #[error("`{program}` {how}{said}")]
    Failed { program: String, how: String, said: String, verdict: Verdict },
    /// It was killed, because it took too long.
    #[error("`{program}` was killed: it had not ended after {after:?} (timeout_s){said}")]
    TooLong { program: String, after: Duration, said: String },
    /// It was killed, because nothing came of it.
    #[error("`{program}` was killed: it had moved and said nothing for {after:?} (output_timeout_s){said}")]
    Silent { program: String, after: Duration, said: String },
    /// It said that all is well, and had not read all of its input.
    #[error("`{program}` ended with success and {left} bytes of the file not read")]
    NotRead { program: String, left: u64 },
    /// A command for many files told of this one that it failed.
    #[error("`{program}` says: {why}")]
    Told { program: String, why: String, verdict: Verdict },
    /// A command for many files ended well, and told nothing of this one.
    #[error("`{program}` ended with success and printed no line for {name}")]
    Untold { program: String, name: String },
    /// There is an object, and it is not as large as the file.
    #[error("the object {id} has {stored} bytes after it was stored, the file {size}")]
    WrongSize { id: String, stored: u64, size: u64 },
    /// A command said that it had stored the object, and it is not there.
    #[error("the object {id} is not there after it was stored: {why}")]
    NotStored { id: String, why: String },
    /// A command ended well, and the file that it was to write is not there.
    #[error("`{program}` ended with success and did not write {path}", path = path.display())]
    NotWritten { program: String, path: PathBuf },
    /// Nothing is mounted where the archive is.
    #[error("nothing is mounted at {path} (mount_point)", path = path.display())]
    NotMounted { path: PathBuf },
    /// What happened to a whole batch.
    #[error("{text}")]
    Batch { kind: ErrorKind, errno: i32, is_missing: bool, text: String },
    /// What this mover does not do.
    #[error("{0}")]
    Unsupported(&'static str),
}

impl CommandError {
    /// Whether somebody asked to stop.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Transfer(TransferError::Cancelled))
    }

    /// Whether there is no such object.
    pub(super) fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::Failed { verdict: Verdict::Missing, .. }
                | Self::Told { verdict: Verdict::Missing, .. }
                | Self::Batch { is_missing: true, .. }
        )
    }

    /// Whether trying again later may help.
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Transfer(error) => error.kind(),
            Self::Batch { kind, .. } => *kind,
            Self::Failed { verdict, .. } | Self::Told { verdict, .. } if *verdict != Verdict::Temporary => {
                ErrorKind::Permanent
            }
            Self::Id(_) | Self::Word { .. } | Self::PrintedId { .. } | Self::Unsupported(_) => ErrorKind::Permanent,
            _ => ErrorKind::Temporary,
        }
    }

    fn errno(&self) -> i32 {
        match self {
            Self::Transfer(error) => error.errno(),
            Self::Batch { errno, .. } => *errno,
            _ if self.is_missing() => ENOENT,
            Self::Id(_) | Self::Word { .. } => EINVAL,
            Self::Unsupported(_) => EOPNOTSUPP,
            Self::TooLong { .. } | Self::Silent { .. } => ETIMEDOUT,
            Self::NotMounted { .. } => ESTALE,
            Self::NotRead { .. } | Self::Untold { .. } | Self::NotWritten { .. } => EAGAIN,
            Self::Start { source, .. } | Self::System { source, .. } => source.raw_os_error().unwrap_or(EIO),
            _ => EIO,
        }
    }

    /// The same, for another file of the batch that it happened to.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Transfer(TransferError::Cancelled) => TransferError::Cancelled.into(),
            error => Self::Batch {
                kind: error.kind(),
                errno: error.errno(),
                is_missing: error.is_missing(),
                text: error.to_string(),
            },
        }
    }

    /// The form that is sent. `context` says which file and archive.
    pub(super) fn to_failure(&self, context: &str) -> Failure {
        if self.is_cancelled() {
            return Failure::cancelled();
        }
        Failure { kind: self.kind(), ..Failure::temporary(self.errno(), format!("{context}: {self}")) }
    }
}
