//! Temporary files that nothing outlives (P7).
//!
//! A store that writes has a session: a directory of its own in `<root>/.sifaka-tmp`, made with its first file and locked as long as the
//! process lives. A temporary file unlinks itself when dropped; what a crash left lies in a directory that nobody holds a lock
//! on, and [`sweep`] removes it. One lock a session, and not one a file: a lock costs as much as creating a file.
//!
//! The lock is `flock(2)` on the file `lock` in the directory: on NFS such locks reach other hosts for regular files that are open for writing, and
//! never for directories. The directory itself is locked too, for programs of before there was that file; and a session without
//! it is one of theirs.

use super::root::{Root, none_if_missing, place, unlink};
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

/// What a session's lock is called. Temporary files have a dot in their names.
const LOCK: &str = "lock";

/// A locked directory for temporary files.
#[derive(Debug)]
struct Session {
    root: Arc<Root>,
    dir: File,
    /// The locks of the session go with this descriptor, and with that of the directory.
    lock: Option<File>,
    name: String,
    next: AtomicU64,
}

impl Session {
    fn open(root: Arc<Root>) -> Result<Self, TransferError> {
        let path = root.path().join(TEMPORARY);
        let (dir, lock, name) = Self::make(&root).map_err(TransferError::io("make a directory in", path))?;
        Ok(Self { root, dir, lock: Some(lock), name, next: AtomicU64::new(0) })
    }

    fn make(root: &Root) -> io::Result<(File, File, String)> {
        let parent = root.ensure_dir(Path::new(TEMPORARY))?;
        for attempt in 0u64.. {
            let name = format!("{}-{attempt}", std::process::id());
            match rustix::fs::mkdirat(&parent, &name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(e) => return Err(e.into()),
            }
            // Until it is locked, a sweep of somebody else may take it for a dead one: then again.
            let opened =
                open_dir(&parent, &name).and_then(|dir| Ok((open_lock(&dir, OFlags::CREATE | OFlags::EXCL)?, dir)));
            let (lock, dir) = match opened {
                Ok(opened) => opened,
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => continue,
                Err(e) => {
                    let _ = rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR);
                    return Err(e);
                }
            };
            match sys::file::try_lock_exclusive(&lock) {
                Ok(true) => {}
                Ok(false) => continue,
                // Lustre without the mount option `flock`, say. Sweeps cannot lock either, and so remove nothing there.
                Err(error) => {
                    tracing::warn!(root = %root.path().display(), %error, "no file locks: what a crash leaves will stay");
                }
            }
            // Where it cannot be locked, an older program cannot either.
            if let Ok(false) = sys::file::try_lock_exclusive(&dir) {
                continue;
            }
            if is_still(&parent, &name, &dir) && is_still(&dir, LOCK, &lock) {
                return Ok((dir, lock, name));
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

/// The session of an open store: none before there is something to write, so that an archive that is read needs no writing to; and a
/// new one when somebody removed its directory.
#[derive(Debug)]
pub(super) struct Sessions {
    root: Arc<Root>,
    current: Mutex<Option<Arc<Session>>>,
}

impl Sessions {
    pub(super) fn new(root: Arc<Root>) -> Self {
        Self { root, current: Mutex::new(None) }
    }

    /// A new, empty file, named after what it is to become.
    pub(super) fn create(&self, purpose: &impl fmt::Display) -> Result<TempFile, TransferError> {
        let session = self.session(None)?;
        match session.create(purpose) {
            Err(TransferError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.session(Some(&session))?.create(purpose)
            }
            other => other,
        }
    }

    /// The present session, or a new one if there is none, or this one that is gone.
    fn session(&self, gone: Option<&Arc<Session>>) -> Result<Arc<Session>, TransferError> {
        let mut current = self.current.lock();
        match &*current {
            Some(session) if gone.is_none_or(|gone| !Arc::ptr_eq(session, gone)) => Ok(session.clone()),
            _ => Ok(current.insert(Arc::new(Session::open(self.root.clone())?)).clone()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = unlink(&self.dir, LOCK);
        // Closed: NFS keeps an unlinked file that is open, under another name.
        self.lock = None;
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

    /// Gives it its name, if nothing has that; whether it did. Otherwise it goes.
    pub(super) fn place_new(mut self, dir: &File, name: &str) -> io::Result<bool> {
        match sys::file::rename_noreplace(&self.session.dir, &self.name, dir, name) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            // NFS and others cannot.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                if none_if_missing(sys::file::stamp_at(dir, name))?.is_some() {
                    return Ok(false);
                }
                rustix::fs::renameat(&self.session.dir, &self.name, dir, name)?;
            }
            Err(e) => return Err(e),
        }
        self.placed = true;
        Ok(true)
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
/// are left alone, as is anything that is no session's. What is mounted read-only is left as it is.
pub(super) fn sweep(root: &Root) -> Result<Swept, TransferError> {
    let path = root.path().join(TEMPORARY);
    let parent = match root.open_dir(Path::new(TEMPORARY)) {
        Ok(parent) => parent,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Swept::default()),
        Err(e) => return Err(TransferError::io("open", path)(e)),
    };
    let mut swept = Swept::default();
    for name in names(&parent).map_err(TransferError::io("list", &path))? {
        match sweep_session(&parent, &name, &mut swept) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => break,
            Err(e) => {
                tracing::warn!(session = %path.join(&name).display(), error = %e, "cannot remove what a crash left")
            }
        }
    }
    Ok(swept)
}

fn sweep_session(parent: &File, name: &Path, swept: &mut Swept) -> io::Result<()> {
    // Not a directory, a link, or gone by now.
    let Ok(dir) = open_dir(parent, name) else { return Ok(()) };
    // Held until everything is removed.
    let Some(_held) = lock_dead(&dir)? else { return Ok(()) };
    if !is_still(parent, name, &dir) {
        return Ok(());
    }
    let mut removed: io::Result<()> = Ok(());
    for file in names(&dir)?.iter().filter(|file| file.as_os_str() != LOCK) {
        match rustix::fs::unlinkat(&dir, file, AtFlags::empty()) {
            Ok(()) => swept.files += 1,
            Err(e) => removed = Err(e.into()),
        }
    }
    removed?;
    // Last: without it, it would be a session of an older program.
    unlink(&dir, LOCK)?;
    // On NFS the next sweep can.
    if rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).is_ok() {
        swept.sessions += 1;
    }
    Ok(())
}

/// The locks of a session that is to be removed: beside that of its directory that of its file, if it has one.
struct Held(#[expect(dead_code, reason = "closing it is what it is for")] Option<File>);

/// Locks the session whose directory this is, unless it lives, or it cannot be told.
fn lock_dead(dir: &File) -> io::Result<Option<Held>> {
    let own = sys::file::try_lock_exclusive(dir);
    if matches!(own, Ok(false)) {
        return Ok(None);
    }
    match open_lock(dir, OFlags::empty()) {
        Ok(lock) => {
            let dead = sys::file::try_lock_exclusive(&lock).unwrap_or(false) && is_still(dir, LOCK, &lock);
            Ok(dead.then_some(Held(Some(lock))))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(own.is_ok().then_some(Held(None))),
        Err(e) => Err(e),
    }
}

/// Open for writing: NFS makes of `flock(2)` a lock that is an exclusive one only then.
fn open_lock(dir: &File, how: OFlags) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | how;
    // openat2(2) takes a mode only for what it makes.
    let mode = if how.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
    sys::file::open_beneath(dir, LOCK, flags, mode).map(File::from)
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
