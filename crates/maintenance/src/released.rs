//! Makes released files: of the size and with the attributes that they should have, naming an object, and without content.
//!
//! A file is made without a name (`O_TMPFILE`), so nobody can reach it, and a crash leaves nothing. Everything is set, RELEASED
//! last; guards are made to watch it (see `observers`); it is made durable, together with others; and only then it gets its name.
//! So whoever finds the name finds a released file, at every moment and after any crash, and what exists is never replaced.

use crate::{MaintenanceError, observers};
use coordinator::{FileState, handle_of, stamp_of};
use model::{ArchiveRecord, HsmFlags, HsmState, Identity, xattr};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use sys::{Mode, OFlags};

/// Below this many files, each is synced by itself: `syncfs` waits for everybody's writes.
const SYNC_EACH: usize = 4;

/// What a released file names, and how large it seems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// In bytes, of the archived content.
    pub size: u64,
    /// Where the object is.
    pub archive_id: u32,
    /// Which object.
    pub identity: Identity,
    /// Other files may name the object too: then it is not removed when this file goes, as long as nothing proves that none does.
    pub shared: bool,
}

/// Where the file is to be.
#[derive(Debug, Clone)]
pub struct Place {
    /// The directory; not an `O_PATH` descriptor.
    pub dir: Arc<OwnedFd>,
    /// A plain name.
    pub name: OsString,
    /// The whole path, for messages.
    pub shown: PathBuf,
}

/// A released file without a name. Dropped, it is gone.
#[derive(Debug)]
pub struct Unnamed {
    fd: OwnedFd,
    place: Place,
}

impl Unnamed {
    /// Makes one for `place`. `dress` gives it its owner, mode, attributes and times, in whatever order it needs.
    pub fn make(
        place: Place,
        released: &Released,
        dress: impl FnOnce(BorrowedFd<'_>) -> Result<(), MaintenanceError>,
    ) -> Result<Self, MaintenanceError> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&place.dir, ".", flags, Mode::RUSR | Mode::WUSR);
        let fd = fd.map_err(|e| MaintenanceError::io("make a file for", &place.shown)(e.into()))?;
        rustix::fs::ftruncate(&fd, released.size)
            .map_err(|e| MaintenanceError::io("set the size of", &place.shown)(e.into()))?;
        dress(fd.as_fd())?;
        let failed = MaintenanceError::io("look at", &place.shown);
        // What the filesystem made of the times it was given.
        let (inode, stamp) = handle_of(&fd).and_then(|h| Ok((h, sys::file::stamp(&fd)?))).map_err(failed)?;
        let flags = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED).with(HsmFlags::RELEASED);
        let state = FileState {
            hsm: HsmState { flags, archive_id: u64::from(released.archive_id), archive_version: 1, compat: 0 },
            identity: released.identity.clone(),
            record: Some(ArchiveRecord { size: released.size, mtime: stamp_of(&stamp).mtime, inode }),
        };
        if released.shared {
            sys::xattr::set(&fd, xattr::SHARED, released.identity.uuid.as_bytes())
                .map_err(MaintenanceError::io("set an attribute of", &place.shown))?;
        }
        state.write(&fd).map_err(MaintenanceError::state(&place.shown))?;
        Ok(Self { fd, place })
    }
}

impl AsFd for Unnamed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Gives each file its name; the results are in the order of the files. What the files are is durable when they get their
/// names; the names themselves are so after the next sync of the filesystem.
///
/// # Errors
/// Of all at once: a guard could not be reached, or the sync failed. Then none has a name.
pub fn publish(files: Vec<Unnamed>) -> Result<Vec<Result<(), MaintenanceError>>, MaintenanceError> {
    let Some(first) = files.first() else { return Ok(Vec::new()) };
    observers::unmark(&files)?;
    if files.len() > SYNC_EACH {
        sys::file::sync_fs(first).map_err(MaintenanceError::io("sync the filesystem of", &first.place.shown))?;
    } else {
        files
            .iter()
            .try_for_each(|file| sys::file::sync_all(file).map_err(MaintenanceError::io("sync", &file.place.shown)))?;
    }
    Ok(files.into_iter().map(name).collect())
}

fn name(file: Unnamed) -> Result<(), MaintenanceError> {
    let Unnamed { fd, place } = file;
    sys::file::link_fd(fd, &place.dir, &place.name).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => MaintenanceError::Exists { path: place.shown },
        _ => MaintenanceError::io("make", &place.shown)(error),
    })
}
