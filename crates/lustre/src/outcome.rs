//! How a file came out.

use std::io;
use std::path::{Path, PathBuf};
use transfer::TransferError;

/// The end of the work on one file. Whatever it is, no data are lost and the file is usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, and so many bytes were copied or compared.
    Done {
        /// How many.
        bytes: u64,
    },
    /// It would have been done: this was a dry run.
    Would {
        /// How many bytes would have been copied or compared.
        bytes: u64,
    },
    /// The file is as it should be.
    Already(&'static str),
    /// The file cannot be worked on, and is as it was. To be read after its name.
    Unsuited(&'static str),
    /// Somebody used it at each of so many tries. It is as it was.
    Busy {
        /// How many.
        tries: u32,
    },
    /// Mirrors that count as being in sync have different content.
    Differs(Difference),
}

/// The first byte that differs, and in which mirrors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Its place in the file.
    pub offset: u64,
    /// The mirror that was compared with.
    pub mirror: u32,
    /// The other one.
    pub other: u32,
}

/// Why the work on a file failed. The file is as it was, unless the text says something else.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A call failed.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// What was being done, to be read after "cannot".
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the kernel or Lustre's library said.
        source: io::Error,
    },
    /// Copying its content failed.
    #[error("cannot copy {path}: {source}", path = path.display())]
    Copy {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TransferError,
    },
    /// Somebody asked to stop.
    #[error("{path}: stopped before it was done; it is as it was", path = path.display())]
    Stopped {
        /// The file.
        path: PathBuf,
    },
    /// Not all mirrors could be written.
    #[error("{path}: {failed} of {all} stale components could not be brought up to date: {source}", path = path.display())]
    Partly {
        /// The file.
        path: PathBuf,
        /// How many are still stale.
        failed: usize,
        /// Of how many.
        all: usize,
        /// What the library said of the first.
        source: io::Error,
    },
}

impl Trouble {
    /// The same of a file that is known by another name: what was opened by its FID is told by its path.
    #[must_use]
    pub fn of(mut self, name: &Path) -> Self {
        match &mut self {
            Self::Io { path, .. } | Self::Copy { path, .. } | Self::Stopped { path } | Self::Partly { path, .. } => {
                name.clone_into(path);
            }
        }
        self
    }

    /// For `map_err`: `doing` is read after "cannot".
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}

/// Why one try ended without an outcome.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Somebody used the file: another try may do.
    Busy,
    /// It cannot be done with this file, as [`Outcome::Unsuited`].
    Unsuited(&'static str),
    Trouble(Trouble),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// What leases, merges and swaps answer when somebody else uses the file: `EBUSY`, `EAGAIN`, `ESTALE`, and `ENOLCK` when a lease is gone.
const IN_USE: [i32; 4] = [16, 11, 116, 37];

impl Stop {
    /// For `map_err` of calls that need a lease.
    pub(crate) fn unless_busy(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.raw_os_error() {
            Some(errno) if IN_USE.contains(&errno) => Self::Busy,
            _ => Self::Trouble(Trouble::io(doing, path)(source)),
        }
    }
}
