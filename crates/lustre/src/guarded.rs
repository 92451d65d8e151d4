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
use sys::file::{FileStamp, is_encrypted, set_times, stamp};
use sys::lustre::{Flush, Layout, LayoutLease, LeaseMode, data_version, flush, mdt_index_by_fid, path2fid, state};
use transfer::copy::copy_file;
use transfer::{OpenFile, TransferError};

/// The file has no layout.
const ENODATA: i32 = 61;

/// What there is to know of a file before anything is done to it.
pub(crate) struct Seen {
    pub(crate) stamp: FileStamp,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) is_encrypted: bool,
}

/// Why a file has no copies made of it: what is read of it would be encrypted for the copy, or not at all, and no one could read it in the file.
pub(crate) const ENCRYPTED: &str = "is encrypted: its content can lie in no other objects";
const RELEASED: &str = "is released: restore it first";

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
        return Ok(Err(Outcome::Unsuited(RELEASED)));
    }
    let file = open(path, Access::Read)?;
    let stamp = stamp(&file).map_err(Trouble::io("read attributes of", path))?;
    let is_encrypted = is_encrypted(&file).map_err(Trouble::io("read attributes of", path))?;
    let mirrors = match mirrors(work, &file, path) {
        // It was made without, and nothing was written yet.
        Err(Trouble::Io { source, .. }) if source.raw_os_error() == Some(ENODATA) => Vec::new(),
        mirrors => mirrors?,
    };
    if mirrors.iter().all(|mirror| mirror.components.iter().all(|component| component.osts.is_empty())) {
        return Ok(Err(Outcome::Unsuited("has no objects on OSTs")));
    }
    Ok(Ok(Seen { stamp, mirrors, is_encrypted }))
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

/// Copies a file into one with the layout `into`, with its owner, project and times.
pub(crate) fn copy(work: &Work, path: &Path, into: &Layout) -> Result<Copy, Stop> {
    let library = work.library();
    let lease = lease(work, path, Access::Write, LeaseMode::Read)?;
    if is_encrypted(lease.as_fd()).map_err(Trouble::io("read attributes of", path))? {
        return Err(Stop::Unsuited(ENCRYPTED));
    }
    // Reading would restore it. While the lease is held nobody releases it.
    let hsm = state(library, path).map_err(Trouble::io("read the HSM state of", path))?;
    if hsm.flags.contains(HsmFlags::RELEASED) {
        return Err(Stop::Unsuited(RELEASED));
    }
    let was = stamp(lease.as_fd()).map_err(Trouble::io("read attributes of", path))?;
    let version =
        data_version(library, lease.as_fd(), Flush::Dirty).map_err(Trouble::io("read the data version of", path))?;
    let mdt = mdt_of(work, lease.as_fd(), path)?;
    let file = into
        .create_volatile(directory_of(path), Some(mdt))
        .map_err(Trouble::io("make a file without a name in the directory of", path))?;
    same_quotas(lease.as_fd(), &was, &file, path)?;
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

/// What is written to the copy is to count for whom the file's content does, from the first byte. Lustre refuses to swap files of different owners; of
/// projects it knows nothing, and a new file has its directory's.
fn same_quotas(file: impl AsFd, was: &FileStamp, copy: &File, path: &Path) -> Result<(), Trouble> {
    fchown(copy, Some(was.uid), Some(was.gid)).map_err(Trouble::io("give an owner to the copy of", path))?;
    match sys::project::of(file).map_err(Trouble::io("find the project of", path))? {
        Some(project) => sys::project::set(copy, project).map_err(Trouble::io("give a project to the copy of", path)),
        None => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use testkit::{FsKind, LoopFs};

    #[test]
    fn a_copy_counts_for_the_quotas_that_its_file_counts_for() {
        let fs = LoopFs::new(FsKind::Xfs, 0);
        let path = fs.path().join("f");
        let (file, copy) = (File::create(&path).unwrap(), File::create(fs.path().join("copy")).unwrap());
        fchown(&file, Some(7), Some(8)).unwrap();
        sys::project::set(&file, 4711).unwrap();
        same_quotas(&file, &stamp(&file).unwrap(), &copy, &path).unwrap();
        assert_eq!(sys::project::of(&copy).unwrap(), Some(4711));
        let found = copy.metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (7, 8));
    }
}
