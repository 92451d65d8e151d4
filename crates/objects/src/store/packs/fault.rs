//! What can go wrong with a pack in a bucket.

use crate::fault::Fault;
use std::path::PathBuf;
use transfer::TransferError;
use transfer::pack::PackError;

/// Why a pack, or a member, cannot be had.
#[derive(Debug, Clone)]
pub(in crate::store) enum PackFault {
    /// The service gives it not.
    Service(Fault),
    /// It is there, and not what was written.
    Damaged(String),
}

impl PackFault {
    pub(in crate::store) fn is_cold(&self) -> bool {
        matches!(self, Self::Service(fault) if fault.is_cold())
    }

    /// `doing` is read after "cannot".
    pub(in crate::store) fn into_error(self, doing: &'static str, path: PathBuf) -> TransferError {
        match self {
            Self::Service(fault) => fault.into_error(doing, path),
            Self::Damaged(why) => TransferError::Damaged { path, why },
        }
    }
}

impl From<Fault> for PackFault {
    fn from(fault: Fault) -> Self {
        Self::Service(fault)
    }
}

impl From<PackError> for PackFault {
    /// Only what is in memory is read as a pack: there is no other input or output that fails.
    fn from(error: PackError) -> Self {
        Self::Damaged(error.to_string())
    }
}
