//! A released file that is made complete before anybody can see it.
//!
//! It has no name until everything is on it and on disk: a crash at any point leaves either nothing or the whole file, and no
//! temporary name to clean up. Its name never replaces another.

use crate::copies;
use crate::filesystem::{Filesystem, handle_of};
use crate::prepare::{ENOENT, attribute, system};
use crate::shared;
use crate::state::FileState;
use model::{ArchiveRecord, Copy, Failure, FileHandle, HsmFlags, HsmState, Identity, Timestamp};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use sys::fanotify::PreContentGroup;
use sys::{Mode, OFlags};

/// What `linkat` says when the name is taken.
pub(crate) const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENAMETOOLONG: i32 = 36;
const MAX_NAME_BYTES: usize = 255;

/// What the file is to be.
#[derive(Debug, Clone)]
pub(crate) struct Blueprint {
    pub(crate) identity: Identity,
    pub(crate) archive_id: u32,
    pub(crate) size: u64,
    /// Permission bits, set-id bits and the sticky bit; others are left out.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) atime: Option<Timestamp>,
    pub(crate) mtime: Timestamp,
    /// Further copies of the content.
    pub(crate) copies: Vec<Copy>,
}

/// A file without a name yet. Gone when dropped before [`NewFile::link`].
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    directory: OwnedFd,
    pub(crate) handle: FileHandle,
}

impl NewFile {
    /// Makes the file with its size, owner, mode and times, and with the attributes of `like` that are not ours. Not yet released.
    pub(crate) fn create(
        fs: &Filesystem,
        directory: &FileHandle,
        plan: &Blueprint,
        like: Option<&OwnedFd>,
    ) -> Result<Self, Failure> {
        let directory = fs.open_directory(directory).map_err(|e| match e.raw_os_error() {
            Some(116) => Failure::permanent(ENOENT, "its directory does not exist"),
            _ => system("opening its directory", &e),
        })?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&directory, ".", flags, Mode::RUSR | Mode::WUSR).map_err(io::Error::from);
        let file = File::from(made.map_err(|e| system("making the file", &e))?);
        let metadata = || -> io::Result<()> {
            file.set_len(plan.size)?;
            std::os::unix::fs::fchown(&file, Some(plan.uid), Some(plan.gid))?;
            file.set_permissions(std::fs::Permissions::from_mode(plan.mode & 0o7777))?;
            like.map_or(Ok(()), |like| copy_attributes(like, &file))?;
            let moment = |t: Timestamp| (t.seconds, t.nanos);
            sys::file::set_times(&file, plan.atime.map(moment), moment(plan.mtime))
        };
        metadata().map_err(|e| system("setting its size, owner, mode and times", &e))?;
        let handle = handle_of(&file).map_err(|e| system("naming the file", &e))?;
        Ok(Self { file, directory, handle })
    }

    /// Makes it a released file that names the object, marked as shared. Not durable by itself.
    pub(crate) fn release(&self, plan: &Blueprint, group: Option<&PreContentGroup>) -> Result<(), Failure> {
        let flags = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED).with(HsmFlags::RELEASED);
        let hsm = HsmState { compat: 0, flags, archive_id: u64::from(plan.archive_id), archive_version: 1 };
        let record = ArchiveRecord { size: plan.size, mtime: plan.mtime, inode: self.handle.clone() };
        let state = FileState { hsm, identity: plan.identity.clone(), record: Some(record) };
        if !plan.copies.is_empty() {
            copies::write(&self.file, &plan.identity.uuid, plan.copies.clone()).map_err(|e| attribute(&e))?;
        }
        shared::mark(&self.file, &plan.identity.uuid).map_err(|e| system("marking it", &e))?;
        state.write(&self.file).map_err(|e| attribute(&e))?;
        // A guard that was just started, and did not know us yet, may have let us in as into a resident file.
        let unmarked = group.map_or(Ok(()), |group| group.unignore_inode(&self.file));
        unmarked.map_err(|e| system("putting it under guard", &e))
    }

    pub(crate) fn sync(&self) -> Result<(), Failure> {
        sys::file::sync_all(&self.file).map_err(|e| system("syncing it", &e))
    }

    /// Gives it its name; EEXIST when that is taken. The name is durable when the directory is synced.
    pub(crate) fn link(&self, name: &[u8]) -> Result<(), Failure> {
        check_name(name)?;
        sys::file::link_fd(&self.file, &self.directory, Path::new(OsStr::from_bytes(name))).map_err(|e| {
            match e.raw_os_error() {
                Some(EEXIST) => Failure::permanent(EEXIST, "there is a file of that name already"),
                _ => system("giving it its name", &e),
            }
        })
    }

    pub(crate) fn sync_directory(&self) -> Result<(), Failure> {
        sys::file::sync_all(&self.directory).map_err(|e| system("syncing its directory", &e))
    }
}

/// A name in one directory, and nothing that leads out of it.
pub(crate) fn check_name(name: &[u8]) -> Result<(), Failure> {
    if name.len() > MAX_NAME_BYTES {
        return Err(Failure::permanent(ENAMETOOLONG, format!("a name has at most {MAX_NAME_BYTES} bytes")));
    }
    let strange = name.is_empty() || name == b"." || name == b".." || name.iter().any(|b| matches!(b, 0 | b'/'));
    if strange { Err(Failure::permanent(EINVAL, "it is no name of a file")) } else { Ok(()) }
}

/// All attributes that are not HSM state: users' own, access control lists, capabilities.
fn copy_attributes(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    for name in sys::xattr::list(from)? {
        let Ok(name) = name.to_str() else { continue };
        let ours = name == model::xattr::HSM || name.starts_with("trusted.lhsm") || name.starts_with("trusted.sifaka");
        let Some(value) = (if ours { None } else { sys::xattr::get(from, name)? }) else { continue };
        match sys::xattr::set(to, name, &value) {
            // A label that the system's policy gives by itself.
            Err(_) if name.starts_with("security.") => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_its_directory() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b", &[b'x'; 256]] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in [&b"a"[..], b"...", b"\xff\n", &[b'x'; 255]] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }
}
