//! How an action ended.

use crate::{Digest, ErrorKind, Identity};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why an action failed, in a form that can be stored, sent and shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Whether trying again may help.
    pub kind: ErrorKind,
    /// Linux errno (positive), what a blocked reader is told; 5 (EIO) when nothing better is known.
    pub errno: i32,
    /// What, where, why, and what to do, for a person.
    pub message: String,
}

impl Failure {
    /// A failure that may pass.
    pub fn temporary(errno: i32, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Temporary, errno, message: message.into() }
    }

    /// A failure that will not pass by itself.
    pub fn permanent(errno: i32, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Permanent, errno, message: message.into() }
    }

    /// The end of a cancelled action (ECANCELED).
    #[must_use]
    pub fn cancelled() -> Self {
        Self::permanent(125, "cancelled")
    }

    /// Whether this is the end of a cancelled action.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.errno == 125
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ErrorKind::Temporary => "temporary",
            ErrorKind::Permanent => "permanent",
        };
        write!(f, "{} ({kind}, errno {})", self.message, self.errno)
    }
}

/// What a mover reported at the end of an action.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The content is durable in the archive under this identity.
    Archived(Identity),
    /// The content is durable in the file. The digest is that of the bytes written, where the mover computed it.
    Restored(Option<Digest>),
    /// The object is gone.
    Removed,
    /// The hash of the file's present content.
    Verified(Digest),
    /// It did not work.
    Failed(Failure),
}
