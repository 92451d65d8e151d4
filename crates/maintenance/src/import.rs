//! One released file for one object, described by whoever asks.

use crate::released::{Place, Released, Unnamed, publish};
use crate::{Holdings, MaintenanceError};
use model::ObjectId;
use rustix::fs::{Gid, Uid};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use sys::file::Moment;
use sys::{Mode, OFlags};

/// What the file is to be besides its size and object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits, with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Last change of the content.
    pub mtime: Moment,
    /// Last read; as mtime if not given.
    pub atime: Option<Moment>,
}

/// Makes a released file at `path`, which must not exist, in a directory that does. Durable when this returns.
pub fn one(path: &Path, released: &Released, attributes: &Attributes) -> Result<(), MaintenanceError> {
    let place = place(path)?;
    let dir = Arc::clone(&place.dir);
    if rustix::fs::statat(&place.dir, &place.name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(MaintenanceError::Exists { path: path.to_owned() });
    }
    let file = Unnamed::make(place, released, |fd| dress(fd, attributes, path))?;
    publish(vec![file])?.into_iter().collect::<Result<(), _>>()?;
    sys::file::sync_all(&*dir).map_err(MaintenanceError::io("sync the directory of", path))
}

/// Looks whether a file for this object could be restored.
pub fn check(holdings: &dyn Holdings, released: &Released) -> Result<(), MaintenanceError> {
    let id = ObjectId::parse(&released.identity.uuid)?;
    match holdings.head(&id)? {
        Some(_) => Ok(()),
        None => Err(MaintenanceError::NoObject { archive_id: released.archive_id, id: id.to_string() }),
    }
}

fn place(path: &Path) -> Result<Place, MaintenanceError> {
    let failed = MaintenanceError::io("make", path);
    let Some(name) = path.file_name() else {
        return Err(failed(rustix::io::Errno::ISDIR.into()));
    };
    let parent = path.parent().filter(|parent| *parent != OsStr::new("")).unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir: OwnedFd = rustix::fs::open(parent, flags, Mode::empty())
        .map_err(|e| MaintenanceError::io("open the directory", parent)(e.into()))?;
    Ok(Place { dir: Arc::new(dir), name: name.to_owned(), shown: PathBuf::from(path) })
}

/// The owner first: changing it takes set-user-id bits away.
pub(crate) fn dress(fd: impl AsFd, attributes: &Attributes, path: &Path) -> Result<(), MaintenanceError> {
    let fd = fd.as_fd();
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    rustix::fs::fchown(fd, Some(uid), Some(gid))
        .map_err(|e| MaintenanceError::io("set the owner of", path)(e.into()))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(attributes.mode & 0o7777))
        .map_err(|e| MaintenanceError::io("set the mode of", path)(e.into()))?;
    let atime = attributes.atime.unwrap_or(attributes.mtime);
    sys::file::set_times(fd, Some(atime), attributes.mtime).map_err(MaintenanceError::io("set the times of", path))
}
