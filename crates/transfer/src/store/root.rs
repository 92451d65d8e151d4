//! The directory of an archive, and the only place that makes paths in it.
//!
//! Everything is opened relative to a descriptor of the root with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`: a symbolic link that
//! somebody planted in the archive leads nowhere. Names come from [`ObjectId`]s only.

use crate::TransferError;
use crate::manifest;
use model::ObjectId;
use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sys::{Mode, OFlags};

/// Where objects are.
pub(super) const OBJECTS: &str = "objects";
/// Directories belong to root alone, as Lemur's do.
const DIRECTORY_MODE: Mode = Mode::RWXU;

/// An open archive root.
#[derive(Debug)]
pub(super) struct Root {
    dir: File,
    path: PathBuf,
    identity: (u64, u64),
    failed_syncs: AtomicU64,
    /// Whether objects move between this root and others: see [`super::hold`].
    is_shared: AtomicBool,
}

impl Root {
    /// Opens an existing directory. Links in the path to the root itself are the administrator's, and followed.
    pub(super) fn open(path: &Path) -> Result<Self, TransferError> {
        let unavailable = |e: io::Error| TransferError::Unavailable { path: path.to_owned(), why: e.to_string() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from).map_err(unavailable)?;
        let stamp = sys::file::stamp(&dir).map_err(unavailable)?;
        let identity = (stamp.dev, stamp.ino);
        let (dir, path) = (File::from(dir), path.to_owned());
        let is_shared = AtomicBool::new(sys::file::stamp_at(&dir, super::tier::MARKER).is_ok());
        Ok(Self { dir, path, identity, failed_syncs: AtomicU64::new(0), is_shared })
    }

    /// The root, opened once more, for one thread's calls of `syncfs(2)`: that tells of each failed write-back once for each open file,
    /// so of two threads with the same one only the first would hear of it.
    pub(super) fn open_for_syncs(&self) -> io::Result<File> {
        self.open_dir(Path::new("."))
    }

    /// How often a sync of the whole filesystem has failed for the objects' files.
    pub(super) fn failed_syncs(&self) -> u64 {
        self.failed_syncs.load(Ordering::Relaxed)
    }

    /// One more has. To be called by the only thread that has such files synced so, before it goes on.
    pub(super) fn sync_has_failed(&self) {
        self.failed_syncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dir(&self) -> &File {
        &self.dir
    }

    /// Device and inode of the directory.
    pub(super) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Whether this is one of several roots of an archive.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed) || sys::file::stamp_at(&self.dir, super::tier::MARKER).is_ok()
    }

    /// From now on it is.
    pub(super) fn share(&self) {
        self.is_shared.store(true, Ordering::Relaxed);
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the root's path still names the directory that is open: not after something was unmounted from or mounted over it.
    pub(super) fn check(&self) -> Result<(), TransferError> {
        let unavailable = |why: String| TransferError::Unavailable { path: self.path.clone(), why };
        let now = std::fs::metadata(&self.path).map_err(|e| unavailable(e.to_string()))?;
        let now = (std::os::unix::fs::MetadataExt::dev(&now), std::os::unix::fs::MetadataExt::ino(&now));
        if now == self.identity {
            Ok(())
        } else {
            Err(unavailable("its root is another directory than when the mover started".to_owned()))
        }
    }

    /// Makes the directory of the objects in a new archive, durably, before anything is written. So what is left of a first
    /// attempt can be removed; and an archive without it, which may be an empty mount point, is left alone until then.
    pub(super) fn begin(&self) -> Result<(), TransferError> {
        let failed = |e: io::Error| {
            let why = format!("cannot make the directory {OBJECTS:?}: {e}");
            TransferError::Unavailable { path: self.path.clone(), why }
        };
        if !self.has_objects() {
            self.ensure_dir(Path::new(OBJECTS)).map_err(failed)?;
            sys::file::sync_all(&self.dir).map_err(failed)?;
        }
        Ok(())
    }

    /// Whether anything was ever archived here; an unmounted archive looks as if not.
    pub(super) fn check_objects(&self) -> Result<(), TransferError> {
        self.check()?;
        if !self.is_shared.load(Ordering::Relaxed) && self.is_shared() {
            let why =
                "it has become one of several roots of an archive, and this mover knows of one only: start it anew";
            return Err(TransferError::Unavailable { path: self.path.clone(), why: why.to_owned() });
        }
        if self.has_objects() {
            return Ok(());
        }
        match self.open_dir(Path::new(OBJECTS)) {
            Ok(_) => Ok(()),
            Err(e) => {
                let why = format!("it has no usable directory {OBJECTS:?}: {e}");
                Err(TransferError::Unavailable { path: self.path.clone(), why })
            }
        }
    }

    /// For every file: it costs a quarter of what opening the directory does.
    fn has_objects(&self) -> bool {
        let stamp = sys::file::stamp_at(&self.dir, OBJECTS);
        stamp.is_ok_and(|stamp| FileType::from_raw_mode(stamp.mode) == FileType::Directory)
    }

    /// For messages.
    pub(super) fn manifest_path(&self, id: &ObjectId) -> PathBuf {
        self.path.join(Self::fan_out(id)).join(manifest::name_of(id))
    }

    /// For messages.
    pub(super) fn object_path(&self, id: &ObjectId) -> PathBuf {
        self.path.join(Self::fan_out(id)).join(id.as_str())
    }

    /// The object's directory, relative to the root.
    pub(super) fn fan_out(id: &ObjectId) -> PathBuf {
        let (first, second) = id.fan_out();
        [OBJECTS, first, second].iter().collect()
    }

    pub(super) fn open_dir(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        sys::file::open_beneath(&self.dir, path, flags, Mode::empty()).map(File::from)
    }

    /// Opens a directory, making what is missing of the way to it.
    pub(super) fn ensure_dir(&self, path: &Path) -> io::Result<File> {
        match self.open_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::NOENT.into());
        };
        let made = if parent.as_os_str().is_empty() {
            rustix::fs::mkdirat(&self.dir, name, DIRECTORY_MODE)
        } else {
            rustix::fs::mkdirat(&self.ensure_dir(parent)?, name, DIRECTORY_MODE)
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => self.open_dir(path),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens an object for reading, if it is there. What is there may be no regular file: not checked.
    pub(super) fn open_object(&self, id: &ObjectId) -> io::Result<Option<File>> {
        self.open_beside(id, id.as_str())
    }

    /// Opens the manifest of an object, likewise.
    pub(super) fn open_manifest(&self, id: &ObjectId) -> io::Result<Option<File>> {
        self.open_beside(id, &manifest::name_of(id))
    }

    /// Whether there is an object, or a manifest, of this id.
    pub(super) fn has_object(&self, id: &ObjectId) -> io::Result<bool> {
        let Some(dir) = none_if_missing(self.open_dir(&Self::fan_out(id)))? else { return Ok(false) };
        let is_there = |name: &str| io::Result::Ok(none_if_missing(sys::file::stamp_at(&dir, name))?.is_some());
        Ok(is_there(id.as_str())? || is_there(&manifest::name_of(id))?)
    }

    fn open_beside(&self, id: &ObjectId, name: &str) -> io::Result<Option<File>> {
        let path = Self::fan_out(id).join(name);
        // NONBLOCK: a FIFO that somebody put there must not hang us. It means nothing for regular files on which nobody has a lease.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        none_if_missing(sys::file::open_beneath(&self.dir, path, flags, Mode::empty()).map(File::from))
    }

    /// Unlinks objects that share a directory, and their manifests: those of them that are there.
    pub(super) fn unlink_objects<'a>(&self, mut ids: impl Iterator<Item = &'a ObjectId>) -> io::Result<()> {
        let Some(first) = ids.next() else { return Ok(()) };
        let Some(dir) = none_if_missing(self.open_dir(&Self::fan_out(first)))? else { return Ok(()) };
        [first].into_iter().chain(ids).try_for_each(|id| {
            unlink(&dir, id.as_str())?;
            unlink(&dir, &manifest::name_of(id)).map(drop)
        })
    }

    /// Unlinks a manifest that no object belongs to.
    pub(super) fn unlink_manifest(&self, id: &ObjectId) -> io::Result<()> {
        let Some(dir) = none_if_missing(self.open_dir(&Self::fan_out(id)))? else { return Ok(()) };
        unlink(&dir, &manifest::name_of(id)).map(drop)
    }
}

/// Moves a file to its place and says whether it replaced one.
pub(super) fn place(from: &File, name: &str, to: &File, new_name: &str) -> io::Result<bool> {
    match sys::file::rename_noreplace(from, name, to, new_name) {
        Ok(()) => return Ok(false),
        // NFS and others cannot; then it is taken for a replacement, which is undone more carefully.
        Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::InvalidInput) => {}
        Err(e) => return Err(e),
    }
    rustix::fs::renameat(from, name, to, new_name)?;
    Ok(true)
}

/// Unlinks a file and says whether there was one.
pub(super) fn unlink(dir: &File, name: &str) -> io::Result<bool> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// `None` for a name that does not exist.
pub(super) fn none_if_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The names in a directory that are text, without `.` and `..`.
pub(super) fn entries(dir: &File) -> io::Result<impl Iterator<Item = io::Result<String>>> {
    Ok(Dir::read_from(dir)?.filter_map(|entry| match entry {
        Ok(entry) => {
            let name = entry.file_name().to_str().ok()?;
            (name != "." && name != "..").then(|| Ok(name.to_owned()))
        }
        Err(e) => Some(Err(e.into())),
    }))
}
