//! Why a pack could not be read or written.

use std::io;

/// What is wrong with a pack. Whoever knows its name adds it.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Reading or writing failed; it may be that nothing is wrong with the pack.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Its bytes are not what was written.
    #[error("{0}")]
    Damaged(String),
    /// A pack takes no (more) such member.
    #[error("{0}")]
    TooLarge(&'static str),
}

impl PackError {
    pub(super) fn damaged(why: impl Into<String>) -> Self {
        Self::Damaged(why.into())
    }
}
