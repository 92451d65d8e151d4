//! How much of anything a message may hold, and what is wrong with one that makes no sense.

use crate::WireError;
use model::limits::MAX_CREDITS;
use prost::{DecodeError, Message};

/// The longest message, in bytes: what a NATS server takes by default.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// The most claims, and the most statuses, of one [`super::Ask`].
pub const MAX_ASK_ITEMS: usize = 4096;
/// The most works that a host may have.
pub const MAX_HELD: usize = MAX_CREDITS as usize;
/// The most archives that a host may serve.
pub const MAX_SERVED: usize = 1024;
/// The most groups, and the most labels, of a host.
pub const MAX_GROUPS: usize = 64;
/// The longest name or label, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// The highest epoch: one that nobody gets to by counting.
pub const MAX_EPOCH: u64 = 1 << 53;

/// A message that is to be ignored, or got rid of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not of this protocol.
    #[error("not a message of this protocol: {0}")]
    Decode(#[from] DecodeError),
    /// Nothing of ours is so long.
    #[error("{0} bytes, at most {MAX_MESSAGE_BYTES} are taken")]
    Size(usize),
    /// More of something than there can be.
    #[error("{count} {what}, at most {limit} are taken")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// What came.
        count: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A field that has no meaning.
    #[error("{0} makes no sense")]
    Field(&'static str),
    /// The action in it.
    #[error(transparent)]
    Action(#[from] WireError),
}

/// Decodes what is not too long.
pub(super) fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, MessageError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(MessageError::Size(bytes.len()));
    }
    Ok(M::decode(bytes)?)
}

pub(super) fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), MessageError> {
    if count > limit { Err(MessageError::TooMany { what, count, limit }) } else { Ok(()) }
}

pub(super) fn sense(holds: bool, field: &'static str) -> Result<(), MessageError> {
    if holds { Ok(()) } else { Err(MessageError::Field(field)) }
}

/// A name that people can read in one line.
pub(super) fn name(text: &str, field: &'static str) -> Result<(), MessageError> {
    sense(text.len() <= MAX_NAME_BYTES && !text.chars().any(char::is_control), field)
}

/// An epoch that there can be; 0 is none.
pub(super) fn epoch(epoch: u64) -> Result<u64, MessageError> {
    sense(epoch <= MAX_EPOCH, "epoch")?;
    Ok(epoch)
}
