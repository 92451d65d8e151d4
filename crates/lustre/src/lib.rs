//! The agent on Lustre: [`LustreSource`] takes what the coordinator of an MDT wants done, and answers it.
//!
//! The queue of requests, the state of files and the readers of released files are Lustre's. What is here: a registration that
//! is kept alive, a journal of what was received and not answered, begin and end around what movers do, and the file's
//! attributes that name its object.
//!
//! An item goes: received and written down ([`receiver`]); in its lane until its archive has room ([`lanes`]); begun
//! ([`begin`]); with a mover; ended ([`finish`]), or kept until it is tried again; its end written down ([`timer`]). Whatever
//! fails on the way, each item gets one end, and its place in the agent comes back.
//!
//! Not here: mounting, which mover gets an action (`agent`), and what users ask Lustre for.

mod begin;
mod config;
mod control;
mod detect;
mod entry;
mod file;
mod finish;
mod lanes;
mod progress;
mod receiver;
mod retry;
mod source;
mod state;
mod timer;
mod workers;

pub use config::{LustreConfig, Patience};
pub use control::LustreControl;
pub use detect::{Filesystem, filesystem_at};
pub use source::{LustreSource, StartError};
