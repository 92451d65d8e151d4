//! Stores: where objects are kept.
//!
//! A [`Store`] knows objects by id and nothing of files' names, HSM state or actions.

mod directories;
mod group;
mod posix;
mod root;
mod session;

pub use posix::{PosixStore, StagedFile};
pub use session::Swept;

use crate::{DigestKind, Encoding, Monitor, OpenFile, TransferError};
use model::{Digest, ObjectId};
use std::ops::ControlFlow;

/// How a commit ends. Called exactly once, from any thread, and has to be quick.
pub type Done = Box<dyn FnOnce(Result<Stored, TransferError>) + Send>;

/// Objects by id. Every method may be called from any thread, and blocks.
pub trait Store: Send + Sync {
    /// Content that was written and is not an object yet. Dropped, it leaves nothing.
    type Staged: Send;

    /// Reads the source's content into the store. The object's id will be `id` without any encoding's suffix, plus the suffix of
    /// the encoding used. After an error or a cancel nothing is left.
    fn stage(
        &self,
        id: &ObjectId,
        source: &OpenFile,
        options: PutOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self::Staged, TransferError>;

    /// Makes staged content an object. Replaces one of the same id atomically, and removes those of the same id in other encodings.
    ///
    /// `done` is called with success once content and name are durable (P1), or with the error; then nothing is left.
    fn commit(&self, staged: Self::Staged, done: Done);

    /// Writes the content of an object into `target`, over whatever that holds, and makes it durable. The encoding is read from the id.
    ///
    /// After an error the target holds part of the content. It gets the content's size only after everything was found right.
    fn get(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError>;

    /// Reads an object through as [`Store::get`] does, writing nothing.
    fn verify(&self, id: &ObjectId, expected: Expected, monitor: &dyn Monitor) -> Result<Restored, TransferError>;

    /// Removes an object. `done` is called once that is durable; an object that is not there counts as removed.
    ///
    /// An id with an encoding's suffix names that object only. One without names it in every encoding: an agent that proposed
    /// an id and never heard what became of it can still remove what is there. So an id must not be proposed a second time
    /// for other content.
    fn remove(&self, id: &ObjectId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>);

    /// What is known of an object without reading it; `None` when there is none.
    fn head(&self, id: &ObjectId) -> Result<Option<Head>, TransferError>;

    /// Visits every object in no order, until told to stop. Objects that come or go meanwhile may be missed.
    fn list(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), TransferError>;
}

/// How to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutOptions {
    /// Which hash to compute, if any.
    pub digest: Option<DigestKind>,
    /// Whether to compress.
    pub compression: Compression,
}

/// Whether to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Store the content as it is.
    Off,
    /// Compress.
    On(Encoding),
    /// Compress if a sample shrinks enough.
    Auto(Encoding),
}

/// An object that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its id, with the suffix of its encoding.
    pub id: ObjectId,
    /// Size of the content.
    pub bytes: u64,
    /// Hash of the content, if one was asked for.
    pub digest: Option<Digest>,
}

/// What an object's content has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expected {
    /// Its size, when known. Bounds what is decompressed.
    pub size: Option<u64>,
    /// Its hash, when it is to be compared.
    pub digest: Option<Digest>,
}

/// Content that was read from an object and found to be what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Its size.
    pub bytes: u64,
    /// Its hash, if one was expected.
    pub digest: Option<Digest>,
}

/// An object, from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How it is stored.
    pub encoding: Encoding,
    /// Bytes it has in the archive, compressed or not.
    pub stored_bytes: u64,
}
