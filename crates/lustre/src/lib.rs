//! The agent on Lustre: [`LustreSource`] takes what the coordinator of an MDT wants done, and answers it.
//!
//! The queue of requests, the state of files and the readers of released files are Lustre's. What is here: a registration that
//! is kept alive, a journal of what was received and not answered, begin and end around what movers do, and the file's
//! attributes that name its object.
//!
//! An item goes: received and written down (`receiver`); in its lane until its archive has room (`lanes`); begun
//! (`begin`); with a mover; ended (`finish`), or kept until it is tried again; its end written down (`timer`). An archived version gets its snapshot after that (`snapshots`). Whatever
//! fails on the way, each item gets one end, and its place in the agent comes back.
//!
//! Besides the agent: what is done to files of one Lustre filesystem, each function on one file, for many threads that share a [`Work`]:
//! `mirrors` adds mirrors, brings stale ones up to date, compares and removes them; `rebalance` moves files from fuller OSTs to emptier ones; [`restripe`] gives one other stripes.
//! `changelog` is a feed of what happened on an MDT.
//!
//! Not here: mounting, which mover gets an action (`agent`), and what users ask Lustre for.

mod aligned;
mod begin;
pub mod changelog;
mod config;
mod control;
mod delivered;
mod detect;
mod entry;
mod file;
mod finish;
mod guarded;
mod lanes;
pub mod mirrors;
mod object;
mod outcome;
mod place;
mod progress;
pub mod rebalance;
mod receiver;
mod removal;
mod restripe;
mod retry;
mod shape;
mod snapshots;
mod source;
mod state;
mod timer;
mod work;
mod workers;

pub use config::{LustreConfig, Patience};
pub use control::LustreControl;
pub use detect::{Filesystem, filesystem_at};
pub use outcome::{Difference, Outcome, Trouble};
pub use place::Place;
pub use restripe::{ALL_OSTS, Striping, restripe};
pub use shape::{Mirror, PoolError, fsname, mirrors_of, pool_osts};
pub use source::{LustreSource, StartError};
pub use work::Work;
