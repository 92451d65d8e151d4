//! The wire between an agent and the hosts whose movers work for it: what `proto/cluster.proto` says, checked.
//!
//! Every number and length is looked at here, once. Not for: what the messages mean (crate `cluster`), how they travel.

mod bounds;
mod host;
mod lead;
mod work;

pub use bounds::{
    MAX_ASK_ITEMS, MAX_EPOCH, MAX_GROUPS, MAX_HELD, MAX_MESSAGE_BYTES, MAX_NAME_BYTES, MAX_SERVED, MessageError,
};
pub use host::{Announce, Answer, Ask, HostId, Served, Tell};
pub use lead::{Leader, Member};
pub use work::{Group, Lane, Pool, Work};

/// The version of the protocol that this program speaks.
pub const VERSION: u32 = 1;

#[cfg(test)]
mod tests;
