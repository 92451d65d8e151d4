//! Opening files, and copies of them that are proven to be of one moment.
//!
//! A copy goes into a file without a name, under a lease that writers break, between two looks at the data version. It
//! vanishes when it is closed, however this process ends; only what is done with it under the same lease makes it the file's.

use crate::outcome::{Outcome, Stop, Trouble};
use crate::shape::{Mirror, mirrors_of};
use crate::work::Work;
use model::HsmFlags;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;
use sys::OFlags;
use sys::file::{FileStamp, set_times, stamp};
use sys::lustre::{Flush, Layout, LayoutLease, LeaseMode, data_version, flush, mdt_index_by_fid, path2fid, state};
use transfer::copy::copy_file;
use transfer::{OpenFile, TransferError};

/// What there is to know of a file before anything is done to it.
pub(crate) struct Seen {
    pub(crate) stamp: FileStamp,
    pub(crate) mirrors: Vec<Mirror>,
}

impl Seen {
    /// Whether it has, or had, several mirrors.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.mirrors.len() > 1
    }
}

/// Looks at a file without holding it open. `Err(outcome)` when nothing can be done with it.
pub(crate) fn look(work: &Work, path: &Path) -> Result<Result<Seen, Outcome>, Trouble> {
    let metadata = std::fs::symlink_metadata(path).map_err(Trouble::io("find", path))?;
    if !metadata.is_file() {
        return Ok(Err(Outcome::Unsuited("is no regular file")));
    }
    let hsm = state(work.library(), path).map_err(Trouble::io("read the HSM state of", path))?;
    if hsm.flags.contains(HsmFlags::RELEASED) {
        return Ok(Err(Outcome::Unsuited("is released: restore it first")));
    }
    let file = open(path, Access::Read)?;
    let stamp = stamp(&file).map_err(Trouble::io("read attributes of", path))?;
    let mirrors = mirrors(work, &file, path)?;
    if mirrors.iter().all(|mirror| mirror.components.iter().all(|component| component.osts.is_empty())) {
        return Ok(Err(Outcome::Unsuited("has no objects on OSTs")));
    }
    Ok(Ok(Seen { stamp, mirrors }))
}

pub(crate) fn mirrors(work: &Work, file: impl AsFd, path: &Path) -> Result<Vec<Mirror>, Trouble> {
    let components = Layout::of(work.library(), file).and_then(|mut layout| layout.components());
    components.map(mirrors_of).map_err(Trouble::io("read the layout of", path))
}

/// For what a file is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// Reading single mirrors.
    ReadDirect,
    /// What changes layouts needs it, though nothing is written by it.
    Write,
    /// Writing single mirrors.
    WriteDirect,
}

/// Opens a regular file, never what a link points to. Reading does not move its atime where we may say so.
pub(crate) fn open(path: &Path, access: Access) -> Result<File, Trouble> {
    let (write, direct) = match access {
        Access::Read => (false, OFlags::empty()),
        Access::ReadDirect => (false, OFlags::DIRECT),
        Access::Write => (true, OFlags::empty()),
        Access::WriteDirect => (true, OFlags::DIRECT),
    };
    // A pipe that has taken its place does not hold us up.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | direct;
    let open = |more: OFlags| {
        OpenOptions::new().read(true).write(write).custom_flags((flags | more).bits().cast_signed()).open(path)
    };
    let file = match open(OFlags::NOATIME) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => open(OFlags::empty()),
        other => other,
    };
    let file = file.map_err(Trouble::io("open", path))?;
    let is_regular = stamp(&file).is_ok_and(|stamp| stamp.is_regular);
    let changed = || std::io::Error::other("it is no regular file any more");
    if is_regular { Ok(file) } else { Err(Trouble::io("open", path)(changed())) }
}

/// Takes a lease.
pub(crate) fn lease(work: &Work, path: &Path, access: Access, mode: LeaseMode) -> Result<LayoutLease<File>, Stop> {
    let file = open(path, access)?;
    LayoutLease::acquire(work.library(), file, mode).map_err(Stop::unless_busy("take a lease on", path))
}

/// The MDT that an open file is on: what is to share its layout has to be there too.
pub(crate) fn mdt_of(work: &Work, file: impl AsFd, path: &Path) -> Result<u32, Trouble> {
    let fid = path2fid(work.library(), path).map_err(Trouble::io("find the FID of", path))?;
    mdt_index_by_fid(work.library(), file, fid).map_err(Trouble::io("find the MDT of", path))
}

/// A directory on the file's filesystem in which files can be made: the one it is in, if it is named by its path.
pub(crate) fn directory_of(path: &Path) -> &Path {
    // A file by its FID, `MOUNT/.lustre/fid/[…]`.
    let parent = path.parent();
    if let Some(mount) =
        parent.filter(|parent| parent.ends_with(".lustre/fid")).and_then(|fids| fids.ancestors().nth(2))
    {
        return mount;
    }
    parent.filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The content of a file in a file without a name, and the lease under which that is proven.
pub(crate) struct Copy {
    pub(crate) lease: LayoutLease<File>,
    pub(crate) file: File,
    /// What the file's data version is.
    pub(crate) version: u64,
    pub(crate) bytes: u64,
}

impl Copy {
    /// The file gets the copy's objects, if nobody has used it meanwhile; its own go with the copy.
    pub(crate) fn take_its_place(self, work: &Work, path: &Path) -> Result<Outcome, Stop> {
        let copied = data_version(work.library(), &self.file, Flush::Dirty)
            .map_err(Trouble::io("read the data version of the copy of", path))?;
        self.lease.swap(&self.file, self.version, copied).map_err(Stop::unless_busy("give other objects to", path))?;
        Ok(Outcome::Done { bytes: self.bytes })
    }
}

/// Copies a file into one with the layout `into`, with its owner and times.
pub(crate) fn copy(work: &Work, path: &Path, into: &Layout) -> Result<Copy, Stop> {
    let library = work.library();
    let lease = lease(work, path, Access::Write, LeaseMode::Read)?;
    let was = stamp(lease.as_fd()).map_err(Trouble::io("read attributes of", path))?;
    let version =
        data_version(library, lease.as_fd(), Flush::Dirty).map_err(Trouble::io("read the data version of", path))?;
    let mdt = mdt_of(work, lease.as_fd(), path)?;
    let file = into
        .create_volatile(directory_of(path), Some(mdt))
        .map_err(Trouble::io("make a file without a name in the directory of", path))?;
    // Its objects count for their owner's quota.
    fchown(&file, Some(was.uid), Some(was.gid)).map_err(Trouble::io("give an owner to the copy of", path))?;
    let bytes = copy_content(work, path, lease.as_fd(), &file)?;
    flush(library, lease.as_fd()).map_err(Trouble::io("flush", path))?;
    flush(library, &file).map_err(Trouble::io("flush the copy of", path))?;
    sys::file::sync_data(&file).map_err(Trouble::io("flush the copy of", path))?;
    set_times(&file, Some(was.atime), was.mtime).map_err(Trouble::io("set the times of the copy of", path))?;
    // Whoever writes after this look breaks the lease, and nothing is done with the copy.
    let now =
        data_version(library, lease.as_fd(), Flush::Dirty).map_err(Trouble::io("read the data version of", path))?;
    let held = lease.still_held().map_err(Stop::unless_busy("look after the lease on", path))?;
    if now != version || !held {
        return Err(Stop::Busy);
    }
    Ok(Copy { lease, file, version, bytes })
}

fn copy_content(work: &Work, path: &Path, from: impl AsFd, to: &File) -> Result<u64, Stop> {
    // Further names of the same open files: to open them again would break the lease.
    let from = from.as_fd().try_clone_to_owned().map_err(Trouble::io("open", path))?;
    let to = to.try_clone().map_err(Trouble::io("open the copy of", path))?;
    let (from, to) = (OpenFile::new(from.into(), path), OpenFile::new(to, path));
    match copy_file(&from, &to, None, work) {
        Ok(copied) => Ok(copied.bytes),
        Err(TransferError::Changed { .. }) => Err(Stop::Busy),
        Err(TransferError::Cancelled) => Err(Trouble::Stopped { path: path.to_owned() }.into()),
        Err(source) => Err(Trouble::Copy { path: path.to_owned(), source }.into()),
    }
}
