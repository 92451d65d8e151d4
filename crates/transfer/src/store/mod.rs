//! Stores: where objects are kept.
//!
//! A [`Store`] knows objects by id and nothing of files' names, HSM state or actions.

mod directories;
pub mod forms;
mod group;
mod hold;
mod intake;
mod members;
pub mod packing;
mod packs;
mod posix;
mod root;
mod session;
mod tier;

pub use members::Part;
pub use packs::Repacked;
pub use posix::{PosixStore, StagedFile};
pub use session::Swept;
pub use tier::{MovesWatcher, Rebalance, Rebalanced, RootFill, TierStaged, TierStore};

use crate::manifest::Manifest;
use crate::{DigestKind, Encoding, Monitor, OpenFile, TransferError, shrinks};
use model::{Digest, Extent, Identity, ObjectId, ObjectUrl, ObjectUrlError};
use std::ops::ControlFlow;

/// How a commit ends. Called exactly once, from any thread, and has to be quick.
pub type Done = Box<dyn FnOnce(Result<Stored, TransferError>) + Send>;

/// Whether what is being done is not wanted any more (P4). Asked now and then, from any thread.
pub type GivenUp = Box<dyn Fn() -> bool + Send + Sync>;

/// Objects by id. Every method may be called from any thread, and blocks.
pub trait Store: Send + Sync {
    /// Content that was written and is not an object yet. Dropped, it leaves nothing.
    type Staged: Send;

    /// Reads the source's content into the store. The object's id will be `id` without any encoding's suffix, plus the suffix of
    /// the encoding used, or of the pack that holds it. After an error or a cancel nothing is left.
    fn stage(
        &self,
        id: &ObjectId,
        source: &OpenFile,
        options: PutOptions<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Self::Staged, TransferError>;

    /// Makes staged content an object. Replaces one of the same id atomically, and removes those of the same id in other encodings if
    /// [`PutOptions::repeated`] said that there may be any.
    ///
    /// `done` is called with success once content and name are durable (P1), or with the error; then nothing is left.
    fn commit(&self, staged: Self::Staged, done: Done);

    /// As [`Store::commit`], but it may be given up: then it ends with [`TransferError::Cancelled`] at some point, and whether there is an object is not
    /// known. A store whose commits do not wait for others need not ask.
    fn commit_unless(&self, given_up: GivenUp, staged: Self::Staged, done: Done) {
        let _ = given_up;
        self.commit(staged, done);
    }

    /// What a file is to carry whose content was stored so, without the hash: the object's id and no URL, but where an archive that others
    /// read too wants more, or something else.
    fn identity(&self, stored: &Stored) -> Identity {
        Identity { uuid: stored.id.to_string(), ..Identity::default() }
    }

    /// Writes the content of an object into `target`, over whatever that holds, and makes it durable. The encoding is read from the id.
    ///
    /// With a manifest and the hash in `expected`, nothing is written that was not verified before; else everything is compared at the end.
    /// After an error the target holds part of the content. It gets the content's size only after everything was found right.
    fn get(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError>;

    /// Writes the chunks of an object that touch `extent` into `target`, each after it was verified; nothing else of it. A hole of the original is made
    /// one again. The target keeps its size: what would lie past its end is not written. Nothing is made durable.
    ///
    /// Needs the hash in `expected`. After an error some of the chunks may be there, whole; those that the monitor heard of are.
    ///
    /// # Errors
    /// [`TransferError::NoManifest`] when there is nothing to verify a part with: then get the whole. [`TransferError::DamagedChunk`] says
    /// which one is not what was archived.
    fn get_range(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        extent: Extent,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError>;

    /// Reads an object through as [`Store::get`] does, writing nothing.
    fn verify(&self, id: &ObjectId, expected: Expected, monitor: &dyn Monitor) -> Result<Restored, TransferError>;

    /// Keeps a manifest that describes no content, under [`Manifest::object`]. Replaces one atomically. `done` as for [`Store::commit`].
    fn put_record(&self, record: &Manifest, done: Done);

    /// The manifest of an object, or a record; `None` when there is none.
    ///
    /// # Errors
    /// [`TransferError::NoManifest`] when it is damaged.
    fn manifest(&self, id: &ObjectId) -> Result<Option<Manifest>, TransferError>;

    /// The object that an identity names where files are known by their paths; `None` in all other archives. It is had by
    /// [`Store::get_foreign`], and removed by [`Store::remove_named`].
    fn named(&self, _identity: &Identity) -> Option<Result<ForeignObject, TransferError>> {
        None
    }

    /// Removes an object that [`Store::named`] gave, if it is the one that was meant: of its [`ForeignObject::mark`], or without a mark if it has none.
    /// Another one, which came to be called the same, stays, and it counts as done. `done` as for [`Store::remove`].
    fn remove_named(&self, object: &ForeignObject, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        done(object.unknown_here());
    }

    /// Writes an object that Sifaka did not make into `target`, whole, or reads it through if there is none; never another version than the one that is
    /// named, or a mixture. Gives back its hash, also if none is expected.
    ///
    /// # Errors
    /// [`TransferError::Replaced`] when it is another version now; [`TransferError::Foreign`] when it is not in this store's bucket.
    fn get_foreign(
        &self,
        object: &ForeignObject,
        _target: Option<&OpenFile>,
        _expected: Expected,
        _monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        object.unknown_here()
    }

    /// Asks whether such an object is there, and is the version that is named. Errors as for [`Store::get_foreign`].
    fn check_foreign(&self, object: &ForeignObject) -> Result<(), TransferError> {
        object.unknown_here()
    }

    /// Removes an object and its manifest, or a record. `done` is called once that is durable; an object that is not there counts as removed.
    ///
    /// An id with an encoding's suffix names that object only. One without names it in every encoding: an agent that proposed
    /// an id and never heard what became of it can still remove what is there. So an id must not be proposed a second time
    /// for other content.
    fn remove(&self, id: &ObjectId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>);

    /// Removes likewise what attempts that nobody heard of may have left under an id. Where others may have put something of theirs under it, which
    /// is then why they failed, that is left.
    fn remove_attempt(&self, id: &ObjectId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        self.remove(id, done);
    }

    /// The ids under which content, or a record, that was proposed as `proposed` is stored: as an object in any encoding, and in packs that an attempt
    /// may have written since that time (milliseconds since 1970). A repeated attempt finds so what an earlier one left that
    /// nobody heard of, and whoever removes by a proposed id finds it all.
    fn attempts(&self, proposed: &ObjectId, since_ms: u64) -> Result<Vec<ObjectId>, TransferError>;

    /// What is known of an object without reading it; `None` when there is none.
    fn head(&self, id: &ObjectId) -> Result<Option<Head>, TransferError>;

    /// Visits every object in no order, until told to stop. Objects that come or go meanwhile may be missed. Manifests are no objects.
    ///
    /// # Errors
    /// [`TransferError::Damaged`] when a pack, or its index, cannot be read: everything that can be found was visited then.
    fn list(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), TransferError>;

    /// Visits the id of everything that has a manifest, likewise: objects, and records.
    fn list_manifests(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), TransferError>;
}

/// An object that Sifaka did not make, in a bucket of somebody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignObject {
    /// Which one.
    pub url: ObjectUrl,
    /// Which version of it, as its service told when a file came to name it; `None` for whichever is there.
    pub version: Option<String>,
    /// Whether its content is compared with what the service knows of it.
    pub compare: bool,
    /// The mark of the attempt that stored it, as the object carries it, where ids are used again: see [`Store::named`].
    pub mark: Option<String>,
}

impl ForeignObject {
    /// From an identity that is a URL, and the URL that goes with it.
    pub fn parse(identity: &Identity) -> Result<Self, TransferError> {
        let unusable = |e: ObjectUrlError| TransferError::Foreign { url: identity.uuid.clone(), why: e.to_string() };
        let url = ObjectUrl::parse(&identity.uuid).map_err(unusable)?;
        let version = url.version(&identity.url).map_err(unusable)?;
        Ok(Self { url, version, compare: true, mark: None })
    }

    fn unknown_here<T>(&self) -> Result<T, TransferError> {
        let why =
            "this archive's objects are not in a bucket; the mover of the bucket's archive can give it".to_owned();
        Err(TransferError::Foreign { url: self.url.to_string(), why })
    }
}

/// How to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutOptions<'a> {
    /// Which hash to compute, if any.
    pub digest: Option<DigestKind>,
    /// Whether to compress.
    pub compression: Compression,
    /// Whether to keep a manifest, and what is to stand in it. Only with BLAKE3: there is none for other hashes.
    pub origin: Option<Origin<'a>>,
    /// Files of up to so many bytes (at most 1 MiB; 0: none) share packs: those that get a manifest, under an id that is a UUID.
    pub pack_up_to_bytes: u64,
    /// Whether an earlier attempt may have stored something under this id: then a store looks for it, which costs a request where each one
    /// counts.
    pub repeated: bool,
}

/// Where a file is, as far as whoever archives it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Relative to its filesystem's root; may be empty.
    pub path: &'a [u8],
    /// The filesystem, as [`sys::mounts::FsInfo::fsid`] names it; zeros when not known.
    pub fsid: [u8; 8],
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

impl Compression {
    /// What it comes to for this file.
    pub fn encoding_of(self, source: &OpenFile) -> Result<Encoding, TransferError> {
        Ok(match self {
            Self::Off => Encoding::Raw,
            Self::On(encoding) => encoding,
            Self::Auto(encoding) if shrinks(source, encoding)? => encoding,
            Self::Auto(_) => Encoding::Raw,
        })
    }
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
    /// Where it is, in an archive whose files go by that: see [`Store::identity`].
    pub at: Option<StoredAt>,
}

/// Where an object was put whose key says nothing of its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAt {
    /// Below the archive's prefix.
    pub key: String,
    /// What tells it from whatever else comes to lie there.
    pub mark: String,
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
    /// When it was stored, in milliseconds since 1970, by the store's clock; `u64::MAX` when it does not say.
    pub stored_ms: u64,
}
