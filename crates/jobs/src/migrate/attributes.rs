//! Everything of a file but its content: owner, mode, extended attributes with ACLs and capabilities, times.
//!
//! Left behind are the attributes in which Sifaka, Lemur and Lustre keep what is true of one file in one place.

use crate::failure::Failure;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::Path;
use sys::file::{FileStamp, Moment};
use sys::xattr;

/// Permission bits, with set-uid, set-gid and sticky.
pub(crate) const PERMISSIONS: u32 = 0o7777;
const ACL: &CStr = c"system.posix_acl_access";
const DEFAULT_ACL: &CStr = c"system.posix_acl_default";
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

    /// Gives a file its owner and group. Who is not root keeps the group where it may, and no owner. Gives the mode that it may have then: set-uid and
    /// set-gid bits were meant for the owner and group of the source.
    fn give(self, stamp: &FileStamp, target: BorrowedFd<'_>) -> Result<u32, Failure> {
        let gid = Some(Gid::from_raw(stamp.gid));
        let uid = self.is_root().then(|| Uid::from_raw(stamp.uid));
        let mut mode = stamp.mode & PERMISSIONS;
        match rustix::fs::chownat(target, c"", uid, gid, AtFlags::EMPTY_PATH) {
            Err(Errno::PERM) if !self.is_root() => {
                if FileType::from_raw_mode(stamp.mode) != FileType::Directory {
                    mode &= !0o2000;
                }
            }
            other => other.map_err(Failure::destination("set the owner of"))?,
        }
        if !self.is_root() && stamp.uid != self.uid {
            mode &= !0o4000;
        }
        Ok(mode)
    }
}

/// The attributes that a file takes along.
pub(crate) fn names(source: impl AsFd) -> Result<Vec<CString>, Failure> {
    listed(xattr::list(source)).map_err(Failure::source("list the attributes of"))
}

/// Of all attributes those that a file takes along; none where there are no such things.
pub(crate) fn listed(names: io::Result<Vec<CString>>) -> io::Result<Vec<CString>> {
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

/// How a file came about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    /// That was asked for.
    pub(crate) mode: u32,
    /// In a directory that may give what is made in it another group than the process's, and an ACL.
    pub(crate) inherits: bool,
}

impl Made {
    /// A file in such a place.
    pub(crate) fn for_file(stamp: &FileStamp, names: &[CString], is_fresh: bool) -> Self {
        Self { mode: if is_fresh { first_mode(stamp, names) } else { 0o600 }, inherits: !is_fresh }
    }
}

/// Takes from a directory that this process has just made what it has from the one above it: nobody else may enter it, and nothing goes on to what is
/// made in it.
pub(crate) fn strip(myself: Myself, directory: BorrowedFd<'_>) -> Result<(), Failure> {
    for name in [ACL, DEFAULT_ACL] {
        // There are none, or none on this filesystem.
        let _ = xattr::remove(directory, name);
    }
    let found = sys::file::stamp(directory).map_err(Failure::destination("read attributes of"))?;
    if found.gid != myself.gid {
        match rustix::fs::fchown(directory, None, Some(Gid::from_raw(myself.gid))) {
            Err(Errno::PERM) => {}
            other => other.map_err(Failure::destination("set the owner of"))?,
        }
    }
    if found.mode & PERMISSIONS != 0o700 { set_mode(directory, 0o700) } else { Ok(()) }
}

/// The mode that a file which is made for `stamp` has until it has its owner and attributes: nobody may do more with it than with the source.
fn first_mode(stamp: &FileStamp, names: &[CString]) -> u32 {
    // Set-uid bits count for the owner, and an ACL's mask looks like the group's permissions.
    let plain = names.is_empty() && stamp.mode & 0o7000 == 0;
    if plain { stamp.mode & 0o777 | 0o600 } else { 0o600 }
}

/// Gives a file that was just made, or a directory, all that `stamp` and the source's attributes say, times last.
pub(crate) fn give(
    myself: Myself,
    source: BorrowedFd<'_>,
    stamp: &FileStamp,
    names: &[CString],
    target: BorrowedFd<'_>,
    made: Made,
) -> Result<Option<Unset>, Failure> {
    let (mode, unset) = give_all(myself, source, stamp, names, target, made)?;
    if made.inherits || made.mode != mode {
        set_mode(target, mode)?;
    }
    give_times(target, stamp)?;
    Ok(unset)
}

/// All but mode and times. Gives the mode that is right.
fn give_all(
    myself: Myself,
    source: BorrowedFd<'_>,
    stamp: &FileStamp,
    names: &[CString],
    target: BorrowedFd<'_>,
    made: Made,
) -> Result<(u32, Option<Unset>), Failure> {
    let mut mode = stamp.mode & PERMISSIONS;
    if made.inherits || !myself.makes(stamp) {
        mode = myself.give(stamp, target)?;
    }
    if made.inherits && !names.iter().any(|name| name.as_c_str() == ACL) {
        // There is none, or none on this filesystem.
        let _ = xattr::remove(target, ACL);
    }
    Ok((mode, give_attributes(source, names, target)))
}

/// Makes a file that was there before agree with the source in all but its content. Whether there was anything to do. The descriptors may be `O_PATH`.
pub(crate) fn align(
    myself: Myself,
    source: BorrowedFd<'_>,
    stamp: &FileStamp,
    target: BorrowedFd<'_>,
) -> Result<(bool, Option<Unset>), Failure> {
    let found = sys::file::stamp(target).map_err(Failure::destination("read attributes of"))?;
    let (mut changed, mut mode) = (false, stamp.mode & PERMISSIONS);
    if (found.uid, found.gid) != (stamp.uid, stamp.gid) {
        mode = myself.give(stamp, target)?;
        changed = myself.is_root();
    }
    let (aligned, unset) = align_attributes(source, target)?;
    changed |= aligned;
    if changed || found.mode & PERMISSIONS != mode {
        set_mode(target, mode)?;
        changed = true;
    }
    Ok((changed, unset))
}

/// Whether [`align`] would find nothing to do, as far as that shows without opening either one: with attributes, it does not.
pub(crate) fn are_plainly_the_same(
    (source, stamp): (BorrowedFd<'_>, &FileStamp),
    (target, found): (BorrowedFd<'_>, &FileStamp),
    name: &Path,
) -> bool {
    let has_none = |directory| listed(xattr::list_at(directory, name)).is_ok_and(|names| names.is_empty());
    (stamp.uid, stamp.gid, stamp.mode) == (found.uid, found.gid, found.mode) && has_none(source) && has_none(target)
}

/// Of any descriptor, also one that is `O_PATH`.
fn set_mode(target: BorrowedFd<'_>, mode: u32) -> Result<(), Failure> {
    let mode = Mode::from_raw_mode(mode);
    let set = match rustix::fs::fchmod(target, mode) {
        Err(Errno::BADF) => {
            let path = format!("/proc/self/fd/{}", target.as_raw_fd());
            rustix::fs::chmodat(CWD, path, mode, AtFlags::empty())
        }
        other => other,
    };
    set.map_err(Failure::destination("set the mode of"))
}

/// Access and change of content, as the source has them.
pub(crate) fn give_times(target: BorrowedFd<'_>, stamp: &FileStamp) -> Result<(), Failure> {
    rustix::fs::futimens(target, &times(stamp)).map_err(Failure::destination("set the times of"))
}

fn times(stamp: &FileStamp) -> Timestamps {
    let spec = |(seconds, nanos): Moment| Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: spec(stamp.atime), last_modification: spec(stamp.mtime) }
}

fn give_attributes(source: BorrowedFd<'_>, names: &[CString], target: BorrowedFd<'_>) -> Option<Unset> {
    let mut unset = None;
    for name in names {
        match xattr::get(source, name.as_c_str()) {
            Ok(Some(value)) => {
                if let Err(error) = xattr::set(target, name.as_c_str(), &value) {
                    unset.get_or_insert(cannot("set", name, &error));
                }
            }
            // Gone since it was listed.
            Ok(None) => {}
            Err(error) => {
                unset.get_or_insert(cannot("read", name, &error));
            }
        }
    }
    unset
}

/// Whether something was changed, and what could not be.
fn align_attributes(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(bool, Option<Unset>), Failure> {
    let (wanted, found) = (names(source)?, listed(xattr::list(target)));
    let found = found.map_err(Failure::destination("list the attributes of"))?;
    let (mut changed, mut unset) = (false, None);
    for name in found.iter().filter(|name| !wanted.contains(name)) {
        if comes_by_itself(name) {
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
        let value = match xattr::get(source, name.as_c_str()) {
            Ok(Some(value)) => value,
            Ok(None) => continue,
            Err(error) => {
                unset.get_or_insert(cannot("read", name, &error));
                continue;
            }
        };
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

/// The kernel's security modules give files theirs, and take it badly if they are taken away. NFS shows every file's mode as ACLs.
fn comes_by_itself(name: &CStr) -> bool {
    let bytes = name.to_bytes();
    bytes.starts_with(b"security.") && bytes != b"security.capability" || bytes.starts_with(b"system.nfs4_")
}

/// Whether [`align`] would have anything to do. The descriptors may be `O_PATH`.
pub(crate) fn differ(source: BorrowedFd<'_>, stamp: &FileStamp, target: BorrowedFd<'_>) -> Result<bool, Failure> {
    let found = sys::file::stamp(target).map_err(Failure::destination("read attributes of"))?;
    let plain = |stamp: &FileStamp| (stamp.uid, stamp.gid, stamp.mode & PERMISSIONS);
    if plain(&found) != plain(stamp) {
        return Ok(true);
    }
    let (wanted, found) = (names(source)?, listed(xattr::list(target)));
    let found = found.map_err(Failure::destination("list the attributes of"))?;
    if found.iter().any(|name| !wanted.contains(name) && !comes_by_itself(name)) {
        return Ok(true);
    }
    let differs = |name: &CString| {
        let value = |file| xattr::get(file, name.as_c_str()).ok().flatten();
        value(source).is_some_and(|value_there| value(target) != Some(value_there))
    };
    Ok(wanted.iter().any(differs))
}

/// As [`differ`], for this process: of owners, who is not root would change nothing. Groups are not tried.
pub(crate) fn would_differ(
    myself: Myself,
    source: BorrowedFd<'_>,
    stamp: &FileStamp,
    target: BorrowedFd<'_>,
) -> Result<bool, Failure> {
    if myself.is_root() {
        return differ(source, stamp, target);
    }
    let found = sys::file::stamp(target).map_err(Failure::destination("read attributes of"))?;
    let mode = if stamp.uid == myself.uid { stamp.mode } else { stamp.mode & !0o4000 };
    differ(source, &FileStamp { uid: found.uid, gid: found.gid, mode, ..*stamp }, target)
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
    made: Made,
) -> Result<Option<Unset>, Failure> {
    let (mode, unset) = give_all(myself, source, stamp, &names(source)?, target, made)?;
    if FileType::from_raw_mode(stamp.mode) != FileType::Symlink {
        set_mode(target, mode)?;
    }
    rustix::fs::utimensat(target, c"", &times(stamp), AtFlags::EMPTY_PATH)
        .map_err(Failure::destination("set the times of"))?;
    Ok(unset)
}
