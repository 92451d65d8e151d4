//! Temporary files that nothing outlives (P7).
//!
//! Each open store has a session: a directory of its own in `<root>/.sifaka-tmp`, locked with `flock(2)` as long as the process
//! lives. A temporary file unlinks itself when dropped; what a crash left lies in a directory that nobody holds a lock on,
//! and [`sweep`] removes it. One lock a session, and not one a file: a lock costs as much as creating a file.

use super::root::{Root, place, unlink};
use crate::{Durability, OpenFile, TransferError, manifest};
use model::ObjectId;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Dir};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use sys::{Mode, OFlags};

/// Where the sessions' directories are.
const TEMPORARY: &str = ".sifaka-tmp";

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Directories of processes that are gone.
    pub sessions: u64,
    /// Files in them.
    pub files: u64,
}

/// A locked directory for temporary files.
#[derive(Debug)]
struct Session {
    root: Arc<Root>,
    /// The lock goes with this descriptor.
    dir: File,
    name: String,
    next: AtomicU64,
}

impl Session {
    fn open(root: Arc<Root>) -> Result<Self, TransferError> {
        let path = root.path().join(TEMPORARY);
        let (dir, name) = Self::make(&root).map_err(TransferError::io("make a directory in", path))?;
        Ok(Self { root, dir, name, next: AtomicU64::new(0) })
    }

    fn make(root: &Root) -> io::Result<(File, String)> {
        let parent = root.ensure_dir(Path::new(TEMPORARY))?;
        for attempt in 0u64.. {
            let name = format!("{}-{attempt}", std::process::id());
            match rustix::fs::mkdirat(&parent, &name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(e) => return Err(e.into()),
            }
            // Between making and locking it, a sweep of somebody else may take it for a dead one: then again.
            let dir = match open_dir(&parent, &name) {
                Ok(dir) => dir,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            match sys::file::try_lock_exclusive(&dir) {
                Ok(true) if is_still(&parent, &name, &dir) => return Ok((dir, name)),
                Ok(_) => {}
                // Lustre without the mount option `flock`, say. Sweeps cannot lock either, and so remove nothing there.
                Err(error) => {
                    tracing::warn!(root = %root.path().display(), %error, "no file locks: what a crash leaves will stay");
                    return Ok((dir, name));
                }
            }
        }
        Err(Errno::EXIST.into())
    }

    /// A new, empty file, named after what it is to become.
    fn create(self: &Arc<Self>, purpose: &impl fmt::Display) -> Result<TempFile, TransferError> {
        let name = format!("{purpose}.{}", self.next.fetch_add(1, Ordering::Relaxed));
        let path = self.root.path().join(TEMPORARY).join(&self.name).join(&name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        // Before anything can be written to it.
        let failed_syncs = self.root.failed_syncs();
        let file = sys::file::open_beneath(&self.dir, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(TransferError::io("create", &path))?;
        let file = OpenFile::new(file.into(), path);
        Ok(TempFile { session: self.clone(), name, file, failed_syncs, placed: false })
    }
}

/// The session of an open store, and a new one when somebody removed its directory.
#[derive(Debug)]
pub(super) struct Sessions {
    root: Arc<Root>,
    current: Mutex<Arc<Session>>,
}

impl Sessions {
    pub(super) fn open(root: Arc<Root>) -> Result<Self, TransferError> {
        let current = Mutex::new(Arc::new(Session::open(root.clone())?));
        Ok(Self { root, current })
    }

    /// A new, empty file, named after what it is to become.
    pub(super) fn create(&self, purpose: &impl fmt::Display) -> Result<TempFile, TransferError> {
        let session = self.current.lock().clone();
        match session.create(purpose) {
            Err(TransferError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut current = self.current.lock();
        if Arc::ptr_eq(&current, &session) {
            *current = Arc::new(Session::open(self.root.clone())?);
        }
        let session = current.clone();
        drop(current);
        session.create(purpose)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Ok(parent) = self.root.open_dir(Path::new(TEMPORARY)) {
            // Files that could not be unlinked keep it, for a sweep.
            let _ = rustix::fs::unlinkat(&parent, &self.name, AtFlags::REMOVEDIR);
        }
    }
}

/// A file that is unlinked when dropped, unless it was placed.
#[derive(Debug)]
pub(super) struct TempFile {
    session: Arc<Session>,
    name: String,
    file: OpenFile,
    /// How many syncs of the filesystem had failed when it was made.
    failed_syncs: u64,
    placed: bool,
}

impl TempFile {
    pub(super) fn file(&self) -> &OpenFile {
        &self.file
    }

    /// Gives it its name, and says whether it replaced something.
    pub(super) fn place(mut self, dir: &File, name: &str) -> io::Result<bool> {
        let replaced = place(&self.session.dir, &self.name, dir, name)?;
        self.placed = true;
        Ok(replaced)
    }
}

/// What is to get its place in one step: an object with or without a manifest, or a manifest alone.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) manifest: Option<TempFile>,
    pub(super) object: Option<TempFile>,
}

impl Written {
    /// Makes data and attributes durable, not the names.
    pub(super) fn sync(&self, durability: &dyn Durability) -> Result<(), (io::Error, &OpenFile)> {
        let mut files = self.object.iter().chain(&self.manifest).map(TempFile::file);
        files.try_for_each(|file| durability.sync_all(file.file()).map_err(|e| (e, file)))
    }

    /// Whether a sync of the whole filesystem has failed since something of it was made. It may have failed for data of this: then the kernel
    /// has told of it, takes the data for written, and the next `syncfs(2)` says nothing. The files' own descriptors do, which are older.
    pub(super) fn may_have_failed(&self, root: &Root) -> bool {
        let now = root.failed_syncs();
        self.object.iter().chain(&self.manifest).any(|file| file.failed_syncs != now)
    }

    /// Makes it the object `id`, and says whether it replaced one. The manifest comes first: where there is an object, its manifest is there.
    /// After an error nothing of it is left, unless it replaced something.
    pub(super) fn place(self, root: &Root, id: &ObjectId) -> io::Result<bool> {
        let dir = root.ensure_dir(&Root::fan_out(id))?;
        let name = manifest::name_of(id);
        let with_manifest = self.manifest.is_some();
        let replaced_manifest = self.manifest.map_or(Ok(false), |manifest| manifest.place(&dir, &name))?;
        match self.object.map_or(Ok(false), |object| object.place(&dir, id.as_str())) {
            Ok(replaced) => Ok(replaced || replaced_manifest),
            Err(e) => {
                if with_manifest && !replaced_manifest {
                    let _ = unlink(&dir, &name);
                }
                Err(e)
            }
        }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.placed
            && let Err(e) = unlink(&self.session.dir, &self.name)
        {
            tracing::warn!(file = %self.file.path().display(), error = %e, "cannot remove a temporary file; the next sweep will");
        }
    }
}

/// Removes what dead sessions left. Those of living processes, on this host or (where the filesystem's locks reach) another,
/// are left alone, as is anything that is no session's.
pub(super) fn sweep(root: &Root) -> Result<Swept, TransferError> {
    let path = root.path().join(TEMPORARY);
    let parent = match root.open_dir(Path::new(TEMPORARY)) {
        Ok(parent) => parent,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Swept::default()),
        Err(e) => return Err(TransferError::io("open", path)(e)),
    };
    let mut swept = Swept::default();
    for name in names(&parent).map_err(TransferError::io("list", &path))? {
        // Not a directory, a link, or gone by now.
        let Ok(dir) = open_dir(&parent, &name) else { continue };
        match sys::file::try_lock_exclusive(&dir) {
            Ok(true) if is_still(&parent, &name, &dir) => {}
            _ => continue,
        }
        for file in names(&dir).map_err(TransferError::io("list", path.join(&name)))? {
            match rustix::fs::unlinkat(&dir, &file, AtFlags::empty()) {
                Ok(()) => swept.files += 1,
                Err(e) => tracing::warn!(file = %path.join(&name).join(&file).display(), error = %e, "cannot remove"),
            }
        }
        if rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR).is_ok() {
            swept.sessions += 1;
        }
    }
    Ok(swept)
}

fn open_dir(parent: &File, name: impl AsRef<Path>) -> io::Result<File> {
    sys::file::open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).map(File::from)
}

/// Whether the name still is that of the open directory.
fn is_still(parent: &File, name: impl AsRef<Path>, dir: &File) -> bool {
    match (sys::file::stamp_at(parent, name), sys::file::stamp(dir)) {
        (Ok(named), Ok(open)) => named.ino == open.ino,
        _ => false,
    }
}

/// The names in a directory. Both kinds of directory here are as small as the work in flight.
fn names(dir: &File) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(PathBuf::from(OsStr::from_bytes(name)));
        }
    }
    Ok(names)
}
