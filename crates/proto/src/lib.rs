//! The wire between agent and movers: Lemur's `pdm` protocol, compatibly extended, and its translation to and from
//! the words of [`model`].
//!
//! Everything that arrives is checked here once (lengths, signs, digests, unknown numbers); nothing behind this crate
//! sees a raw message. Not for: connections, flow control, retries.

/// Code generated from `proto/pdm.proto`; a test compares it with the source.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
pub mod pdm {
    include!("generated/pdm.rs");
}

mod convert;

pub use convert::{Capabilities, Instruction, Report, ReportBody, Task, WireError};
