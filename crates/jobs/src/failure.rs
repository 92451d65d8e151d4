//! Why something was not done.

use rustix::io::Errno;
use std::io;
use transfer::TransferError;

/// Which of the two trees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// What is read.
    Source,
    /// What is written.
    Destination,
}

/// What was being done to one file, and what the kernel said.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {side}: {error}", side = match side { Side::Source => "the source", Side::Destination => "the destination" })]
pub struct Failure {
    /// To be read after "cannot".
    pub doing: &'static str,
    /// Where.
    pub side: Side,
    /// Why.
    pub error: io::Error,
}

impl Failure {
    /// For `map_err`.
    pub fn source<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self { doing, side: Side::Source, error: error.into() }
    }

    /// For `map_err`.
    pub fn destination<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self { doing, side: Side::Destination, error: error.into() }
    }

    /// Of the kernel; `None` if the error is none of its.
    pub fn errno(&self) -> Option<Errno> {
        self.error.raw_os_error().map(Errno::from_raw_os_error)
    }

    /// Whether the source was removed meanwhile.
    pub fn is_vanished(&self) -> bool {
        self.side == Side::Source && self.errno() == Some(Errno::NOENT)
    }

    /// Whether a server knows the source no more. It may have been removed, or nothing may be there any more of a whole filesystem: only another
    /// look by its name tells.
    pub(crate) fn is_stale(&self) -> bool {
        self.side == Side::Source && self.errno() == Some(Errno::STALE)
    }

    /// Whether the source is something else than it was when it was listed.
    pub(crate) fn is_other_kind(&self) -> bool {
        let errnos = [Errno::LOOP, Errno::ISDIR, Errno::NXIO, Errno::NODEV, Errno::INVAL, Errno::NOTDIR, Errno::MLINK];
        self.side == Side::Source && self.errno().is_some_and(|errno| errnos.contains(&errno))
    }
}

/// What the copy engine says. It names the file itself, so the side is in its text.
impl From<TransferError> for Failure {
    fn from(error: TransferError) -> Self {
        Self { doing: "copy the content of", side: Side::Source, error: error.into_io() }
    }
}

/// What ends a whole job.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A system call on what the job as a whole needs.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// To be read after "cannot".
        doing: &'static str,
        /// Of what.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A bucket that the job needs as a whole.
    #[error(transparent)]
    Bucket(#[from] TransferError),
    /// The command makes no sense.
    #[error("{0}")]
    Senseless(String),
    /// The job's own notes.
    #[error("cannot {doing} the job's state in {path}: {source}", path = path.display())]
    State {
        /// To be read after "cannot".
        doing: &'static str,
        /// The database.
        path: std::path::PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// Another process has the job's state.
    #[error("{} is in use: the same job runs already", path.display())]
    Running {
        /// The database.
        path: std::path::PathBuf,
    },
}

impl JobError {
    /// For `map_err`.
    pub fn io<E: Into<io::Error>>(doing: &'static str, path: &std::path::Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { doing, path, source: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_lost_everything_is_not_a_file_that_was_removed() {
        let source = |errno: Errno| Failure::source("open")(errno);
        assert!(source(Errno::NOENT).is_vanished() && !source(Errno::NOENT).is_stale());
        assert!(!source(Errno::STALE).is_vanished() && source(Errno::STALE).is_stale());
        let destination = Failure::destination("open")(Errno::NOENT);
        assert!(!destination.is_vanished() && !destination.is_stale());
    }
}
