//! A file's HSM state: the extended attributes, read and written together.
//!
//! Not here: who may change it when (the engine's locks), and when it is durable (the callers sync, in groups).

use model::{ArchiveRecord, Digest, FileHandle, HsmState, Identity, xattr};
use std::io;
use std::os::fd::AsFd;

/// What the attributes of one file say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FileState {
    /// Flags, archive id, version.
    pub hsm: HsmState,
    /// Which object.
    pub identity: Identity,
    /// Which content, of which inode.
    pub record: Option<ArchiveRecord>,
}

/// Attributes that cannot be read or make no sense.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refused.
    #[error("cannot {what} attribute {name}: {source}")]
    Io {
        /// Read, set, or remove.
        what: &'static str,
        /// Which attribute.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The value is none that Sifaka or Lemur writes.
    #[error(
        "attribute {name} is damaged: {why}. Look at it with `getfattr -e hex -n {name}`; without it the file counts as never archived"
    )]
    Damaged {
        /// Which attribute.
        name: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl StateError {
    /// The errno behind it, EIO if there is none.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(5),
            Self::Damaged { .. } => 5,
        }
    }
}

pub(crate) fn get(fd: impl AsFd, name: &'static str) -> Result<Option<Vec<u8>>, StateError> {
    sys::xattr::get(fd, name).map_err(|source| StateError::Io { what: "read", name, source })
}

fn text(fd: impl AsFd, name: &'static str) -> Result<String, StateError> {
    let bytes = get(fd, name)?.unwrap_or_default();
    String::from_utf8(bytes).map_err(|e| StateError::Damaged { name, why: e.to_string() })
}

pub(crate) fn set(fd: impl AsFd, name: &'static str, value: &[u8]) -> Result<(), StateError> {
    sys::xattr::set(fd, name, value).map_err(|source| StateError::Io { what: "set", name, source })
}

pub(crate) fn clear(fd: impl AsFd, name: &'static str) -> Result<(), StateError> {
    sys::xattr::remove(fd, name).map(drop).map_err(|source| StateError::Io { what: "remove", name, source })
}

/// The flags alone: the one read that every access decision needs.
pub(crate) fn read_hsm(fd: impl AsFd) -> Result<HsmState, StateError> {
    let damaged = |e: model::HsmStateError| StateError::Damaged { name: xattr::HSM, why: e.to_string() };
    get(fd, xattr::HSM)?.map_or(Ok(HsmState::default()), |bytes| HsmState::decode(&bytes).map_err(damaged))
}

/// Changes the flags alone.
pub(crate) fn write_hsm(fd: impl AsFd, hsm: &HsmState) -> Result<(), StateError> {
    set(fd, xattr::HSM, &hsm.encode())
}

impl FileState {
    /// All attributes. A file without any has the default state.
    pub fn read(fd: impl AsFd) -> Result<Self, StateError> {
        let fd = fd.as_fd();
        let Some(hsm) = get(fd, xattr::HSM)? else {
            return Ok(Self::default());
        };
        let damaged = |name| move |why: String| StateError::Damaged { name, why };
        let hsm = HsmState::decode(&hsm).map_err(|e| damaged(xattr::HSM)(e.to_string()))?;
        let hash = text(fd, xattr::HASH)?;
        let hash = if hash.is_empty() {
            None
        } else {
            Some(Digest::from_hex(&hash).map_err(|e| damaged(xattr::HASH)(e.to_string()))?)
        };
        let record = get(fd, xattr::RECORD)?.map(|bytes| ArchiveRecord::decode(&bytes));
        Ok(Self {
            hsm,
            identity: Identity { uuid: text(fd, xattr::UUID)?, hash, url: text(fd, xattr::URL)? },
            record: record.transpose().map_err(|e| damaged(xattr::RECORD)(e.to_string()))?,
        })
    }

    /// The archive's id as movers and requests know it; `None` for what no archive can have.
    #[must_use]
    pub fn archive_id(&self) -> Option<u32> {
        u32::try_from(self.hsm.archive_id).ok().filter(|id| *id != 0)
    }

    /// Writes all attributes, the flags last: until they are there, the others mean nothing. Not durable by itself.
    pub fn write(&self, fd: impl AsFd) -> Result<(), StateError> {
        let fd = fd.as_fd();
        match &self.identity.hash {
            Some(hash) => set(fd, xattr::HASH, hash.to_string().as_bytes())?,
            None => clear(fd, xattr::HASH)?,
        }
        if self.identity.url.is_empty() {
            clear(fd, xattr::URL)?;
        } else {
            set(fd, xattr::URL, self.identity.url.as_bytes())?;
        }
        set(fd, xattr::UUID, self.identity.uuid.as_bytes())?;
        match &self.record {
            Some(record) => set(fd, xattr::RECORD, &record.encode())?,
            None => clear(fd, xattr::RECORD)?,
        }
        set(fd, xattr::HSM, &self.hsm.encode())
    }

    /// Takes the identity away and leaves the administrator's flags. Flags first: a file must not claim a copy that it
    /// cannot name.
    pub fn detach(fd: impl AsFd, keep: HsmState) -> Result<(), StateError> {
        let fd = fd.as_fd();
        if keep == HsmState::default() {
            clear(fd, xattr::HSM)?;
        } else {
            set(fd, xattr::HSM, &keep.encode())?;
        }
        [xattr::UUID, xattr::HASH, xattr::URL, xattr::RECORD, xattr::COPIES]
            .into_iter()
            .try_for_each(|name| clear(fd, name))
    }

    /// Whether the state was made for this inode and not copied here with the attributes of another. States without a record
    /// (Lemur's) bind to nothing and are believed.
    #[must_use]
    pub fn belongs_to(&self, handle: &FileHandle) -> bool {
        self.record.as_ref().is_none_or(|record| record.inode == *handle)
    }
}
