//! Configuration files (HCL and JSON) as trees that know where each value stood, a typed reader over
//! them, and the configurations that more than one program reads: the agent's and those of movers with archives.
//!
//! The layers, each using only those above it:
//!
//! 1. [`tree`]: text to [`tree::Node`], with a line and a column on every value. [`hcl`] and [`json`] are
//!    the two syntaxes; [`tree::parse`] chooses between them.
//! 2. [`reader`]: a [`reader::Section`] is asked for keys by name and type. It collects every problem of a
//!    file instead of stopping at the first, and calls every key nobody asked for unknown.
//! 3. [`agent`]; [`archive`] and, for what is a mover's own, [`posix`], [`object`] and [`lemur`]; [`command`]: the validated values the programs work with.
//!
//! The crate is not for the configuration of other movers (those live with their mover and use the first two
//! layers), and it opens no sockets and changes no files: the only I/O is reading the one file that `load`
//! is given. Expressions, variables and templates of HCL are deliberately absent: a configuration is literals.

pub mod agent;
pub mod archive;
mod bytes;
pub mod command;
mod device;
mod error;
mod file;
pub mod hcl;
pub mod json;
pub mod lemur;
mod number;
pub mod object;
pub mod posix;
pub mod reader;
mod secret;
pub mod tree;

pub use agent::{AgentConfig, RestoreMode};
pub use bytes::{parse_rate, parse_size};
pub use command::CommandConfig;
pub use device::{ClientDevice, DeviceError};
pub use error::{ConfigError, Problem, Warning};
pub use lemur::{AzConfig, S3Config};
pub use object::ObjectConfig;
pub use posix::PosixConfig;
pub use secret::Secret;
