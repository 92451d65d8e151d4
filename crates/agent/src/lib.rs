//! The agent: takes actions from a source, gives them to movers, hands back exactly one result for each; starts and watches
//! the movers, and tells how it is doing.
//!
//! File bytes never pass through here; what a file's state is and when it changes is the source's business.

pub mod admin;
pub mod source;

pub use source::{ActionSource, MemorySource, SourceError, Work};
