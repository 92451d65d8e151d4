//! The data plane: how bytes get from a file into an archive, back, and how we know that they are the same bytes.
//!
//! For: movers. Not for: the agent (file bytes never flow through the daemon), nor for deciding what is moved when.
//!
//! **Everything here blocks.** There is no async runtime: call it from threads that may sleep in the kernel. Work that
//! ends later (a group of small files is synced together) ends by calling back from the syncer's thread.
//!
//! - [`copy`]: the engine. A source of data and holes, a digest, a sink; in two threads when the file is large.
//! - [`Digester`]: BLAKE3, and SHA-1 for what Lemur archived.
//! - [`Encoding`]: raw, gzip, zstd.
//! - [`manifest`]: what the archive knows of a file besides its bytes, and the hash of each chunk of them.
//! - [`Store`], [`PosixStore`]: objects in a directory tree with Lemur's layout. [`TierStore`]: in several of them.
//! - [`pack`]: many small files in one object.
//! - [`Limiter`]: a limit on bytes a second, for those who watch a transfer.
//! - [`Durability`]: the calls that make things durable, as a trait so that tests can count them and make them fail.

mod compress;
pub mod copy;
mod digest;
mod durability;
mod error;
mod limiter;
pub mod manifest;
mod monitor;
mod open_file;
pub mod pack;
mod store;

pub use compress::{Encoding, shrinks};
pub use digest::{DigestKind, Digester};
pub use durability::{Durability, KernelDurability};
pub use error::TransferError;
pub use limiter::Limiter;
pub use monitor::{Monitor, Unwatched};
pub use open_file::OpenFile;
pub use store::{
    Compression, Done, Expected, ForeignObject, GivenUp, Head, MovesWatcher, Origin, Part, PosixStore, PutOptions,
    Rebalance, Rebalanced, Repacked, Restored, RootFill, StagedFile, Store, Stored, StoredAt, Swept, TierStaged,
    TierStore, forms, packing,
};
