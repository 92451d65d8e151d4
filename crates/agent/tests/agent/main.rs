//! The agent with real sockets and real processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails, in its helpers too"
)]

mod cancel;
mod kit;
mod lifecycle;
mod limits;
mod monitor;
mod mounts;
mod protocol;
mod sharing;
