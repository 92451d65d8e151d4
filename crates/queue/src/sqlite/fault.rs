//! From what SQLite says to what the agent does about it: wait, stop, or begin a new database.

use crate::QueueError;
use model::{ErrorKind, errno_kind};
use rusqlite::ErrorCode;
use std::io;
use std::path::Path;

/// Why an operation failed, before it is known which one of which database.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite's word.
    Sql(rusqlite::Error),
    /// A row or the schema is not what this program writes.
    Damage(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sql(e)
    }
}

/// What an SQLite error means for the queue.
enum Meaning {
    Damaged,
    Storage(ErrorKind),
}

fn meaning(e: &rusqlite::Error) -> Meaning {
    let code = match e {
        rusqlite::Error::SqliteFailure(error, _) => error.code,
        rusqlite::Error::SqlInputError { error, .. } => error.code,
        // What is left are values of a type or range that our statements never store.
        _ => return Meaning::Damaged,
    };
    match code {
        ErrorCode::DatabaseCorrupt
        | ErrorCode::NotADatabase
        | ErrorCode::ConstraintViolation
        | ErrorCode::TypeMismatch => Meaning::Damaged,
        ErrorCode::DiskFull
        | ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::OutOfMemory
        | ErrorCode::OperationInterrupted
        | ErrorCode::OperationAborted => Meaning::Storage(ErrorKind::Temporary),
        _ => Meaning::Storage(ErrorKind::Permanent),
    }
}

impl Fault {
    /// At any time but opening.
    pub(super) fn into_error(self, what: &'static str, path: &Path) -> QueueError {
        let shown = path.display().to_string();
        match self {
            Self::Damage(why) => QueueError::Corrupt { path: shown, why },
            Self::Sql(e) => match meaning(&e) {
                Meaning::Damaged => QueueError::Corrupt { path: shown, why: e.to_string() },
                Meaning::Storage(kind) => QueueError::Storage { what, path: shown, why: e.to_string(), kind },
            },
        }
    }

    /// While opening, after it was checked that the file and its directory can be written: what then is permanent
    /// (a file that SQLite takes for read-only, SQL that does not fit the tables) is the content's fault.
    pub(super) fn into_open_error(self, path: &Path) -> QueueError {
        match self.into_error("open", path) {
            QueueError::Storage { path, why, kind: ErrorKind::Permanent, .. } => QueueError::Corrupt { path, why },
            other => other,
        }
    }
}

/// An error of a system call on the database's file or directory.
pub(super) fn storage(what: &'static str, path: &Path, e: &io::Error) -> QueueError {
    let kind = e.raw_os_error().map_or(ErrorKind::Permanent, errno_kind);
    QueueError::Storage { what, path: path.display().to_string(), why: e.to_string(), kind }
}
