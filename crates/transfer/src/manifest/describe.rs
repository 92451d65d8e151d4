//! From an inode to its description.

use super::{
    Attribute, Content, Inode, Kind, MAX_ATTRIBUTE_BYTES, MAX_CONTENT_BYTES, Manifest, ManifestError, codec::is_path,
};
use crate::{OpenFile, TransferError};
use model::{FileHandle, ObjectId, Timestamp};
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use sys::{Mode, OFlags};

/// What an inode is, before it has a place in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Size in bytes, of a regular file.
    pub size: u64,
    /// Allocated, in units of 512 bytes.
    pub blocks: u64,
    /// See [`Manifest::inode`].
    pub inode: Inode,
    /// See [`Manifest::path`].
    pub path: Vec<u8>,
    /// See [`Manifest::attributes`].
    pub attributes: Vec<Attribute>,
    /// See [`Manifest::attributes_incomplete`].
    pub attributes_incomplete: bool,
}

impl Description {
    /// The manifest of an object with this content.
    #[must_use]
    pub fn with_content(self, object: ObjectId, content: Content) -> Manifest {
        self.with_kind(object, Kind::File(content))
    }

    /// The manifest of something that has only a manifest.
    #[must_use]
    pub fn with_kind(self, object: ObjectId, kind: Kind) -> Manifest {
        let Self { inode, path, attributes, attributes_incomplete, .. } = self;
        Manifest { object, kind, inode, path, attributes, attributes_incomplete, made: now() }
    }

    /// Whether its content can have a manifest.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.size <= MAX_CONTENT_BYTES
    }
}

/// Describes an open file: one `statx(2)`, one listing of attributes, the handle. `path` is where it is in the filesystem `fsid`, as far as
/// that is known; one that is too long to be kept, or no path beneath a root, is left out.
pub fn describe(file: &OpenFile, path: &[u8], fsid: [u8; 8]) -> Result<Description, TransferError> {
    let stat = statx(file.file().as_fd()).map_err(file.failed("read attributes of"))?;
    describe_stat(file.file().as_fd(), &stat, path, fsid).map_err(file.failed("read attributes of"))
}

/// As [`describe`], of a file of at most `largest` bytes: `None` for a larger one, at the cost of one `statx(2)`.
pub(crate) fn describe_small(
    file: &OpenFile,
    path: &[u8],
    fsid: [u8; 8],
    largest: u64,
) -> Result<Option<Description>, TransferError> {
    let stat = statx(file.file().as_fd()).map_err(file.failed("read attributes of"))?;
    if stat.stx_size > largest {
        return Ok(None);
    }
    describe_stat(file.file().as_fd(), &stat, path, fsid).map(Some).map_err(file.failed("read attributes of"))
}

/// Describes what `path` beneath `root` names, without following symbolic links anywhere on the way, and without opening it: no event is raised
/// and nothing is waited for. The empty path is `root` itself. A regular file is described as a hard link, by its inode.
///
/// # Errors
/// `EXDEV` and `ELOOP` (as I/O errors) when the path leads out of `root` or over a link; `ENOENT` when nothing is there.
pub fn describe_beneath(root: impl AsFd, path: &[u8], fsid: [u8; 8]) -> Result<(Description, Kind), TransferError> {
    let shown = Path::new(OsStr::from_bytes(path));
    let failed = |doing| TransferError::io(doing, shown);
    let step = if path.is_empty() { Path::new(".") } else { shown };
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let fd = sys::file::open_beneath(root, step, flags, Mode::empty()).map_err(failed("find"))?;
    let stat = statx(fd.as_fd()).map_err(failed("read attributes of"))?;
    let device = (stat.stx_rdev_major, stat.stx_rdev_minor);
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Kind::HardLink,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&fd, c"", Vec::new()).map_err(io::Error::from);
            Kind::Symlink(target.map_err(failed("read the link"))?.into_bytes())
        }
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice(device.0, device.1),
        FileType::BlockDevice => Kind::BlockDevice(device.0, device.1),
        FileType::Unknown => return Err(failed("describe")(Errno::INVAL.into())),
    };
    let description = describe_stat(fd.as_fd(), &stat, path, fsid).map_err(failed("read attributes of"))?;
    Ok((description, kind))
}

/// Describes what a descriptor is of, which may be a name only (`O_PATH`): no event is raised. `path` and `fsid` as for [`describe`].
pub fn describe_name(fd: impl AsFd, path: &[u8], fsid: [u8; 8]) -> io::Result<Description> {
    describe_stat(fd.as_fd(), &statx(fd.as_fd())?, path, fsid)
}

fn statx(fd: BorrowedFd<'_>) -> io::Result<Statx> {
    Ok(rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?)
}

fn describe_stat(fd: BorrowedFd<'_>, stat: &Statx, path: &[u8], fsid: [u8; 8]) -> io::Result<Description> {
    let handle = match sys::handle::name_to_handle(fd) {
        Ok(raw) => Some(FileHandle { kind: raw.kind, bytes: raw.bytes.into_iter().collect() }),
        // The filesystem has none.
        Err(e) if e.kind() == io::ErrorKind::Unsupported => None,
        Err(e) => return Err(e),
    };
    let inode = Inode {
        mode: stat.stx_mode.into(),
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        links: stat.stx_nlink.into(),
        atime: timestamp(&stat.stx_atime),
        mtime: timestamp(&stat.stx_mtime),
        ctime: timestamp(&stat.stx_ctime),
        btime: (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| timestamp(&stat.stx_btime)),
        fsid,
        handle,
    };
    let is_link = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Symlink;
    let (attributes, attributes_incomplete) = if is_link { (Vec::new(), false) } else { attributes(fd)? };
    let path = if is_path(path) { path.to_vec() } else { Vec::new() };
    Ok(Description { size: stat.stx_size, blocks: stat.stx_blocks, inode, path, attributes, attributes_incomplete })
}

/// All but our own; and whether some had to be left out.
fn attributes(fd: BorrowedFd<'_>) -> io::Result<(Vec<Attribute>, bool)> {
    let names = match sys::xattr::list(fd) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok((Vec::new(), false)),
        Err(e) => return Err(e),
    };
    let (mut attributes, mut bytes, mut incomplete) = (Vec::new(), 0, false);
    for name in names.iter().filter(|name| !is_own(name)) {
        // Gone since it was listed, then.
        let Some(value) = sys::xattr::get(fd, name.as_c_str())? else { continue };
        let attribute = Attribute { name: name.to_bytes().to_vec(), value };
        if bytes + attribute.bytes() > MAX_ATTRIBUTE_BYTES {
            incomplete = true;
            continue;
        }
        bytes += attribute.bytes();
        attributes.push(attribute);
    }
    Ok((attributes, incomplete))
}

/// What Sifaka and Lemur say about a file is not part of the file; on another one it would be a lie.
fn is_own(name: &CStr) -> bool {
    let name = name.to_bytes();
    name == model::xattr::HSM.as_bytes()
        || name.starts_with(b"trusted.lhsm_")
        || name.starts_with(model::xattr::RECORD.as_bytes())
}

fn timestamp(time: &StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanos: time.tv_nsec }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

impl From<ManifestError> for io::Error {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Io(error) => error,
            other => Self::other(other),
        }
    }
}
