//! The movers: programs over `plugin` (the protocol) and `transfer` (the bytes).
//!
//! Each is a function that takes an [`plugin::Environment`] and a configuration file and returns when the process is to
//! end. Not for: choosing a mover by the name of the program, logging set-up and exit codes (the binary does that).

mod archive;
pub mod command;
pub mod noop;
pub mod object;
pub mod posix;

pub use archive::{MoverError, Unusable};
