//! The wire between agent and movers: Lemur's `pdm` protocol, compatibly extended, and its translation to and from
//! the words of [`model`]; and the one between an agent and other hosts' movers ([`cluster`]).
//!
//! Everything that arrives is checked here once (lengths, signs, digests, unknown numbers); nothing behind this crate
//! sees a raw message. Not for: connections, flow control, retries.

/// Code generated from `proto/pdm.proto`; a test compares it with the source.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
pub mod pdm {
    include!("generated/pdm.rs");
}

/// Code generated from `proto/cluster.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
mod sifaka_cluster_v1 {
    include!("generated/sifaka.cluster.v1.rs");
}

pub mod cluster;
mod convert;

pub use convert::{Capabilities, Instruction, Report, ReportBody, Task, WireError};
