//! For tests only: file trees, loop-device filesystems, child processes, object stores, faults, a proxy that spoils requests.
//!
//! Everything here blocks, cleans up when dropped, and panics when something is wrong: a prerequisite that is missing
//! fails the test that needs it, with a message that says what to install. Not here: stand-ins for what is tested.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails, and this crate is used by tests alone"
)]

pub mod attributes;
pub mod fault_proxy;
pub mod faults;
pub mod lemur;
pub mod loopfs;
pub mod pdm_agent;
pub mod process;
pub mod random;
mod remains;
pub mod scratch;
pub mod services;
pub mod site;
pub mod tool;
pub mod tree;
pub mod wait;

pub use attributes::set_attribute;
pub use fault_proxy::FaultProxy;
pub use loopfs::{FsKind, LoopFs};
pub use process::Daemon;
pub use random::Random;
pub use scratch::Scratch;
pub use site::{Site, sifaka_binary};
pub use wait::wait_until;
