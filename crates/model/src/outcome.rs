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
    /// Nothing is wrong: the archive's object lies in a cold storage class, and is being thawed. Such a failure is temporary, and counts as no attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thaw: Option<Thaw>,
}

/// A thaw that was asked for and takes its time: minutes to days.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Thaw {
    /// Since when it is waited for, in milliseconds since 1970; 0 when whoever says so does not know.
    pub since_ms: u64,
    /// After so many seconds it is worth to ask again; 0 when that is not known (any more).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub again_s: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

const EAGAIN: i32 = 11;

impl Failure {
    /// A failure that may pass.
    pub fn temporary(errno: i32, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Temporary, errno, message: message.into(), thaw: None }
    }

    /// A failure that will not pass by itself.
    pub fn permanent(errno: i32, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Permanent, errno, message: message.into(), thaw: None }
    }

    /// The object is being thawed: ask again after so many seconds.
    pub fn thawing(message: impl Into<String>, again_s: u32) -> Self {
        Self { thaw: Some(Thaw { since_ms: 0, again_s }), ..Self::temporary(EAGAIN, message) }
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
