//! Everything of a file but its content: owner, mode, extended attributes with ACLs and capabilities, times.
//!
//! Left behind are the attributes in which Sifaka, Lemur and Lustre keep what is true of one file in one place.

use crate::failure::Failure;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use sys::file::{FileStamp, Moment};
use sys::xattr;

/// Permission bits, with set-uid, set-gid and sticky.
const PERMISSIONS: u32 = 0o7777;
/// Names, or their beginnings where they end in a dot or underscore, of what is not part of a file.
const PLACES: [&[u8]; 13] = [
    b"trusted.hsm",
    b"trusted.lhsm_",
    b"trusted.sifaka",
    b"lustre.",
    b"trusted.lov",
    b"trusted.lma",
    b"trusted.lmv",
    b"trusted.link",
    b"trusted.fid",
    b"trusted.som",
    b"trusted.dmv",
    b"trusted.overlay.",
    // XFS shows ACLs once more by these names.
    b"trusted.SGI_ACL_",
];

/// An attribute that a file could not be given: its filesystem has no such, or no room. The file is better without it than not there.
#[derive(Debug)]
pub(crate) struct Unset(pub(crate) String);

/// Who this process is, which decides what it may keep of owners.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Myself {
    uid: u32,
    gid: u32,
}

impl Myself {
    pub(crate) fn now() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    pub(crate) fn is_root(self) -> bool {
        self.uid == 0
    }

    /// Whether a file may be one that this process has just made.
    pub(crate) fn owns(self, stamp: &FileStamp) -> bool {
        stamp.uid == self.uid
    }

    /// Whether what this process makes has this owner and group by itself.
    pub(crate) fn makes(self, stamp: &FileStamp) -> bool {
        stamp.uid == self.uid && stamp.gid == self.gid
    }

    /// Gives a file its owner and group. Who is not root keeps the group where it may, and no owner.
    fn give(
        self,
        stamp: &FileStamp,
        chown: impl Fn(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
    ) -> io::Result<()> {
        let gid = Some(Gid::from_raw(stamp.gid));
        if self.is_root() {
            return Ok(chown(Some(Uid::from_raw(stamp.uid)), gid)?);
        }
        match chown(None, gid) {
            Err(Errno::PERM) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// The attributes that a file takes along.
pub(crate) fn names(source: impl AsFd) -> Result<Vec<CString>, Failure> {
    listed(xattr::list(source)).map_err(Failure::source("list the attributes of"))
}

fn listed(names: io::Result<Vec<CString>>) -> io::Result<Vec<CString>> {
    let mut names = match names {
        Ok(names) => names,
        Err(error) if is_unsupported(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    names.retain(|name| belongs(name));
    Ok(names)
}

fn belongs(name: &CStr) -> bool {
    let name = name.to_bytes();
    !PLACES.iter().any(|place| name.starts_with(place))
}

fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw_os_error) == Some(Errno::NOTSUP)
}

/// The mode that a file which is made for `stamp` has until it has its owner and attributes: nobody may do more with it than with the source.
pub(crate) fn first_mode(stamp: &FileStamp, names: &[CString]) -> u32 {
    // Set-uid bits count for the owner, and an ACL's mask looks like the group's permissions.
    let plain = names.is_empty() && stamp.mode & 0o7000 == 0;
    if plain { stamp.mode & 0o777 | 0o600 } else { 0o600 }
}

/// Gives a file that was just made with `mode`, or a directory, all that `stamp` and the source's attributes say, times last.
pub(crate) fn give(
    myself: Myself,
    source: BorrowedFd<'_>,
    stamp: &FileStamp,
    names: &[CString],
    target: BorrowedFd<'_>,
    mode: u32,
) -> Result<Option<Unset>, Failure> {
    if !myself.makes(stamp) {
        let owned = myself.give(stamp, |uid, gid| rustix::fs::fchown(target, uid, gid));
        owned.map_err(Failure::destination("set the owner of"))?;
    }
    let unset = give_attributes(source, names, target)?;
    if mode != stamp.mode & PERMISSIONS {
        set_mode(target, stamp)?;
    }
    give_times(target, stamp)?;
    Ok(unset)
}

/// Makes a file that was there before agree with the source in all but its content. Whether there was anything to do.
pub(crate) fn align(
    myself: Myself,
    source: BorrowedFd<'_>,
    stamp: &FileStamp,
    target: BorrowedFd<'_>,
) -> Result<(bool, Option<Unset>), Failure> {
    let found = sys::file::stamp(target).map_err(Failure::destination("read attributes of"))?;
    let mut changed = false;
    let owner_differs = if myself.is_root() { found.uid != stamp.uid } else { false };
    if owner_differs || found.gid != stamp.gid {
        let owned = myself.give(stamp, |uid, gid| rustix::fs::fchown(target, uid, gid));
        owned.map_err(Failure::destination("set the owner of"))?;
        changed = myself.is_root();
    }
    let (aligned, unset) = align_attributes(source, target)?;
    changed |= aligned;
    if changed || found.mode & PERMISSIONS != stamp.mode & PERMISSIONS {
        set_mode(target, stamp)?;
        changed = true;
    }
    Ok((changed, unset))
}

fn set_mode(target: BorrowedFd<'_>, stamp: &FileStamp) -> Result<(), Failure> {
    let mode = Mode::from_raw_mode(stamp.mode & PERMISSIONS);
    rustix::fs::fchmod(target, mode).map_err(Failure::destination("set the mode of"))
}

/// Access and change of content, as the source has them.
pub(crate) fn give_times(target: BorrowedFd<'_>, stamp: &FileStamp) -> Result<(), Failure> {
    rustix::fs::futimens(target, &times(stamp)).map_err(Failure::destination("set the times of"))
}

fn times(stamp: &FileStamp) -> Timestamps {
    let spec = |(seconds, nanos): Moment| Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: spec(stamp.atime), last_modification: spec(stamp.mtime) }
}

fn give_attributes(
    source: BorrowedFd<'_>,
    names: &[CString],
    target: BorrowedFd<'_>,
) -> Result<Option<Unset>, Failure> {
    let mut unset = None;
    for name in names {
        let value = xattr::get(source, name.as_c_str()).map_err(Failure::source("read attributes of"))?;
        // Gone since it was listed, then.
        let Some(value) = value else { continue };
        if let Err(error) = xattr::set(target, name.as_c_str(), &value) {
            unset.get_or_insert(cannot("set", name, &error));
        }
    }
    Ok(unset)
}

/// Whether something was changed, and what could not be.
fn align_attributes(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(bool, Option<Unset>), Failure> {
    let (wanted, found) = (names(source)?, listed(xattr::list(target)));
    let found = found.map_err(Failure::destination("list the attributes of"))?;
    let (mut changed, mut unset) = (false, None);
    for name in found.iter().filter(|name| !wanted.contains(name)) {
        // The kernel's security modules give files theirs, and take it badly if they are taken away.
        if name.to_bytes().starts_with(b"security.") && name.to_bytes() != b"security.capability" {
            continue;
        }
        match xattr::remove(target, name.as_c_str()) {
            Ok(removed) => changed |= removed,
            Err(error) => {
                unset.get_or_insert(cannot("remove", name, &error));
            }
        }
    }
    for name in &wanted {
        let value = xattr::get(source, name.as_c_str()).map_err(Failure::source("read attributes of"))?;
        let Some(value) = value else { continue };
        if found.contains(name) && xattr::get(target, name.as_c_str()).ok().flatten().as_ref() == Some(&value) {
            continue;
        }
        match xattr::set(target, name.as_c_str(), &value) {
            Ok(()) => changed = true,
            Err(error) => {
                unset.get_or_insert(cannot("set", name, &error));
            }
        }
    }
    Ok((changed, unset))
}

fn cannot(doing: &str, name: &CStr, error: &io::Error) -> Unset {
    Unset(format!("cannot {doing} its attribute {}: {error}", name.to_string_lossy()))
}

/// As [`give`], of what has no content and cannot be opened: a link, a pipe, a device. Both descriptors are `O_PATH`.
pub(crate) fn give_node(
    myself: Myself,
    source: BorrowedFd<'_>,
    stamp: &FileStamp,
    target: BorrowedFd<'_>,
) -> Result<Option<Unset>, Failure> {
    if !myself.makes(stamp) {
        let owned = myself.give(stamp, |uid, gid| rustix::fs::chownat(target, c"", uid, gid, AtFlags::EMPTY_PATH));
        owned.map_err(Failure::destination("set the owner of"))?;
    }
    let unset = give_attributes(source, &names(source)?, target)?;
    if FileType::from_raw_mode(stamp.mode) != FileType::Symlink {
        let path = format!("/proc/self/fd/{}", target.as_raw_fd());
        let mode = Mode::from_raw_mode(stamp.mode & PERMISSIONS);
        let set = rustix::fs::chmodat(CWD, path, mode, AtFlags::empty());
        set.map_err(Failure::destination("set the mode of"))?;
    }
    rustix::fs::utimensat(target, c"", &times(stamp), AtFlags::EMPTY_PATH)
        .map_err(Failure::destination("set the times of"))?;
    Ok(unset)
}
