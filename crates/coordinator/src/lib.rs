//! HSM for stock Linux filesystems: file state, events, release, restore, scheduling, and the guard.
//!
//! Not here: moving bytes (movers do), talking to movers (the agent does), and what is left of a request after it was
//! accepted (the queue keeps that).

mod changes;
mod commit;
mod copies;
mod engine;
mod filesystem;
mod gate;
pub mod guard;
mod journal;
mod mapping_probe;
mod named;
mod newfile;
mod pool;
mod prepare;
mod ranges;
mod record;
mod release;
mod requests;
mod shared;
mod snapshots;
mod state;

pub use copies::known as further_copies;
pub use engine::{
    Dispatch, Engine, EngineConfig, EngineError, FlagChange, RangeConfig, Refusal, ReleaseReport, Running, Selection,
    Target, Thawing,
};
pub use filesystem::{Filesystem, handle_of, stamp_of};
pub use named::{Make, NewName, Source};
pub use record::Entry;
pub use requests::{Accepted, Request};
pub use state::{FileState, StateError};
