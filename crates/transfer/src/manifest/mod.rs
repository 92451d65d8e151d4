//! Manifests: what the archive knows of a file besides its bytes, so that nothing else is needed to get it back.
//!
//! A manifest has a descriptive part (where the file was, whose it was, its attributes and holes) and a table with the hash of
//! each chunk of the content, which lets one chunk be verified without the others. Beside an object it is a file of
//! its own, `<object id>.manifest`; things without content (directories, links) have a manifest only. `docs/formats.md` has the bytes.
//!
//! - [`Manifest`]: the descriptive part, to and from bytes.
//! - [`Shape`]: how content is cut into chunks and groups, and how their hashes join. Pure.
//! - [`ChunkTable`] reads and verifies the table one group at a time; [`TableBuilder`] makes it.
//! - [`describe`], [`describe_beneath`], [`describe_name`]: from an inode to its description. [`apply`]: the way back.
//!
//! Not here: where manifests are kept ([`crate::PosixStore`]), and making or naming the files that they describe.

mod apply;
mod codec;
mod describe;
mod holes;
mod read_at;
mod table;
mod tree;

pub use apply::{Unset, apply};
pub(crate) use describe::describe_small;
pub use describe::{Description, describe, describe_beneath, describe_name};
pub use read_at::{ReadAt, Window};
pub use table::{Block, Chunk, ChunkTable, Frame, Group, TableBuilder};
pub use tree::{CHUNKS_PER_GROUP, Shape, Value};

pub(crate) use holes::HoleMap;

use crate::Encoding;
use model::{Extent, FileHandle, ObjectId, Timestamp};
use std::io;

/// What a manifest's name ends in; the object's id comes before it.
pub const SUFFIX: &str = ".manifest";

/// The largest content that a manifest describes: 1 PiB. Bounds the table of groups, which is held in memory, at 32 MiB.
pub const MAX_CONTENT_BYTES: u64 = 1 << 50;

/// The most attributes' bytes that are kept, names and values. ext4 has less than a block, XFS no limit.
pub const MAX_ATTRIBUTE_BYTES: usize = 4 << 20;

/// The most holes that are kept of one file: 1 MiB of them.
pub const MAX_HOLES: usize = 1 << 16;

/// The longest path that is kept.
pub const MAX_PATH_BYTES: usize = 64 << 10;

/// What the archive knows of one name in a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Under what id it is in the archive.
    pub object: ObjectId,
    /// What it is, and what only that has.
    pub kind: Kind,
    /// Owner, mode, times and identity.
    pub inode: Inode,
    /// Where it was when this was made: relative to its filesystem's root, without `.`, `..` or a slash at either end. Empty when that is
    /// not known, and of the root itself.
    pub path: Vec<u8>,
    /// Extended attributes but our own, in no order. ACLs are `system.posix_acl_access` and `system.posix_acl_default`.
    pub attributes: Vec<Attribute>,
    /// Some attributes were left out, because there were too many bytes of them.
    pub attributes_incomplete: bool,
    /// When this was made.
    pub made: Timestamp,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, whose content is in the archive.
    File(Content),
    /// A directory.
    Directory,
    /// A symbolic link to these bytes.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device, by major and minor number.
    CharDevice(u32, u32),
    /// A block device, by major and minor number.
    BlockDevice(u32, u32),
    /// One more name of the inode whose handle is in [`Inode::handle`]; that inode's own manifest says what it is.
    HardLink,
}

/// A file's content, as archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its size.
    pub size: u64,
    /// Bytes that the object has in the archive.
    pub stored_bytes: u64,
    /// How it is stored; encoded content is one frame (zstd) or member (gzip) for each chunk.
    pub encoding: Encoding,
    /// The BLAKE3 hash of it: the root of the table of chunks.
    pub hash: Value,
    /// Where the original had holes, in order. At most [`MAX_HOLES`]; the smallest are left out first, and are zeros then.
    pub holes: Vec<Extent>,
}

/// What an inode is besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Type and permission bits, as `stat(2)` has them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub links: u64,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Birth, where the filesystem knows it.
    pub btime: Option<Timestamp>,
    /// The filesystem, as `sys::mounts::FsInfo::fsid` names it; zeros when that was not known.
    pub fsid: [u8; 8],
    /// Which inode of that filesystem; two manifests with the same handle are two names of one inode.
    pub handle: Option<FileHandle>,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// With its namespace, such as `user.` or `security.`.
    pub name: Vec<u8>,
    /// Any bytes.
    pub value: Vec<u8>,
}

/// Why bytes are no manifest, or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Reading failed.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    /// Something else lies there.
    #[error("it is no manifest: it does not begin as one")]
    Magic,
    /// Written by a newer Sifaka.
    #[error("it has version {0}, and this program knows version 1: use a newer one")]
    Version(u16),
    /// Cut short, or changed since it was written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// A description that no manifest can hold.
    #[error("it cannot be written down: {0}")]
    Unfit(&'static str),
}

impl Manifest {
    /// The content, of a regular file.
    #[must_use]
    pub fn content(&self) -> Option<&Content> {
        match &self.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }
}

/// The name of an object's manifest.
#[must_use]
pub fn name_of(object: &ObjectId) -> String {
    format!("{object}{SUFFIX}")
}

/// The object that a manifest's name belongs to; `None` for every other name.
#[must_use]
pub fn object_of(name: &str) -> Option<ObjectId> {
    ObjectId::parse(name.strip_suffix(SUFFIX)?).ok()
}
