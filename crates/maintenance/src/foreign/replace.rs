//! One released file in the place of another, when its object is another version now.
//!
//! The new file is there first, under a name of its own beside the old one; then the two names are exchanged, and the old file goes. From before the
//! exchange until it is gone nobody has the old file open (a lease proves it): who wrote to it would write to a file without a name. Whatever is not as it
//! was expected to be is put back and left.
//!
//! A guard that is to open a file with a lease on it sleeps until that is gone: so nothing here waits for anybody while it holds one.

use crate::import::Attributes;
use crate::observers::Guards;
use coordinator::{FileState, handle_of, stamp_of};
use model::{FileHandle, ObjectUrl, xattr};
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::lease::WriteLease;
use sys::{Mode, OFlags};

/// What names begin with that an import makes for itself, for moments.
pub(super) const OWN_NAMES: &str = ".sifaka-import-";
/// What a file has of an import and of the agent: the new file has its own.
const OWN_ATTRIBUTES: [&str; 8] = [
    xattr::HSM,
    xattr::UUID,
    xattr::HASH,
    xattr::URL,
    xattr::RECORD,
    xattr::COPIES,
    xattr::SHARED,
    crate::fsck::RESIDENT,
];

/// What was given to the content that was there, and which the kernel takes away from who writes another into a file.
const OF_CONTENT: [&str; 3] = ["security.capability", "security.evm", "security.ima"];
/// Likewise: all but set-user-id and set-group-id.
const KEPT_MODE: u32 = 0o1777;

/// A file that is to be replaced.
pub(super) struct Old {
    /// As a name.
    pub(super) fd: OwnedFd,
    /// What the new file is called until then.
    pub(super) aside: String,
    /// The new file.
    pub(super) new: FileHandle,
}

/// The name of what replaces, or was replaced by, a file: the same in each run, so that what a crash leaves is found.
pub(super) fn aside(name: &str) -> String {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    format!("{OWN_NAMES}{:016x}", hasher.finish())
}

/// Puts the new file in the place of the old one. `false`: somebody has that open, or changed it meanwhile, and it stays. The new file is gone then.
pub(super) fn replace(guards: &Guards, dir: &OwnedFd, name: &str, old: &Old) -> io::Result<bool> {
    let replaced = try_replace(guards, dir, name, old);
    if !matches!(replaced, Ok(true)) {
        // Only that: somebody may have moved another file here meanwhile.
        match at(dir, &old.aside)? {
            Some(there) if handle_of(&there)? == old.new => rustix::fs::unlinkat(dir, &old.aside, AtFlags::empty())?,
            Some(_) => {
                let why = format!("it was renamed meanwhile: look at it, and at {} beside it", old.aside);
                return Err(io::Error::other(why));
            }
            None => {}
        }
    }
    replaced
}

fn try_replace(guards: &Guards, dir: &OwnedFd, name: &str, old: &Old) -> io::Result<bool> {
    let Some(lease) = hold(guards, &old.fd)? else { return Ok(false) };
    if !is_untouched(&old.fd)? {
        return Ok(false);
    }
    let swap = || rustix::fs::renameat_with(dir, &old.aside, dir, name, RenameFlags::EXCHANGE);
    swap()?;
    let take_away = || {
        let is_it = at(dir, &old.aside)?.map(handle_of).transpose()? == Some(handle_of(&old.fd)?);
        // Asked last: who waits for the lease has the file, under whatever name.
        let may_go = is_it && is_untouched(&old.fd)? && lease.still_held();
        if may_go {
            rustix::fs::unlinkat(dir, &old.aside, AtFlags::empty())?;
        }
        Ok(may_go)
    };
    let taken = take_away();
    if !matches!(taken, Ok(true)) {
        swap()?;
    }
    taken
}

/// Removes what an import that was killed left under such a name; `false` when something else is there, or what somebody uses: that stays.
pub(super) fn remove_leftover(guards: &Guards, dir: &OwnedFd, name: &str) -> io::Result<bool> {
    let Some(there) = at(dir, name)? else { return Ok(true) };
    if !sys::file::stamp(&there)?.is_regular {
        return Ok(false);
    }
    let Ok(state) = FileState::read(&there) else { return Ok(false) };
    if !ObjectUrl::is_meant(&state.identity.uuid) {
        return Ok(false);
    }
    let Some(lease) = hold(guards, &there)? else { return Ok(false) };
    let may_go = is_untouched(&there)? && lease.still_held();
    if may_go {
        rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
    }
    Ok(may_go)
}

/// Whether the name is taken, as far as can be seen.
pub(super) fn is_there(dir: &OwnedFd, name: &str) -> bool {
    !matches!(at(dir, name), Ok(None))
}

fn at(dir: &OwnedFd, name: &str) -> io::Result<Option<OwnedFd>> {
    match sys::file::open_within(dir, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(there) => Ok(Some(there)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps everybody from opening a file; `None` when somebody has it open, or runs it.
fn hold(guards: &Guards, file: &OwnedFd) -> io::Result<Option<WriteLease>> {
    match guards.open_unasked(file, OFlags::WRONLY | OFlags::NONBLOCK) {
        Ok(fd) => WriteLease::take(fd),
        Err(error) if error.raw_os_error() == Some(Errno::TXTBSY.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a released file is as it was made, as far as its content is concerned, and has no other name.
pub(super) fn is_untouched(fd: impl AsFd) -> io::Result<bool> {
    let fd = fd.as_fd();
    let (handle, found) = (handle_of(fd)?, sys::file::stamp(fd)?);
    let stamp = stamp_of(&found);
    let Ok(state) = FileState::read(fd) else { return Ok(false) };
    let as_recorded = state.record.as_ref().is_some_and(|r| r.size == stamp.size && r.mtime == stamp.mtime);
    Ok(state.hsm.is_released() && state.belongs_to(&handle) && as_recorded && found.nlink == 1)
}

/// Owner and mode of the old file: whoever has changed them meant it. The content is another now, so it does not run with its owner's rights.
pub(super) fn kept(old: &OwnedFd, new: &Attributes) -> io::Result<Attributes> {
    let stamp = sys::file::stamp(old)?;
    Ok(Attributes { uid: stamp.uid, gid: stamp.gid, mode: stamp.mode & KEPT_MODE, ..new.clone() })
}

/// Gives the new file the extended attributes and the ACL of the old one, which is all that it is to have of those.
pub(super) fn bequeath(old: &OwnedFd, new: BorrowedFd<'_>) -> io::Result<()> {
    let is_own =
        |name: &std::ffi::CStr| OWN_ATTRIBUTES.iter().chain(&OF_CONTENT).any(|own| own.as_bytes() == name.to_bytes());
    // What does not fit is this file's trouble and not the disk's, though the kernel calls it by one name.
    let failed = |name: &std::ffi::CStr, error: &io::Error| {
        io::Error::other(format!("its attribute {} cannot be kept: {error}", name.to_string_lossy()))
    };
    let names = sys::xattr::list(old)?;
    for name in names.iter().filter(|name| !is_own(name)) {
        let (value, has) = (sys::xattr::get(old, name.as_c_str())?, sys::xattr::get(new, name.as_c_str())?);
        if let Some(value) = value.filter(|value| has.as_ref() != Some(value)) {
            sys::xattr::set(new, name.as_c_str(), &value).map_err(|error| failed(name, &error))?;
        }
    }
    for name in sys::xattr::list(new)?.iter().filter(|name| !is_own(name) && !names.contains(name)) {
        sys::xattr::remove(new, name.as_c_str()).map_err(|error| failed(name, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::dress;
    use crate::released::{Place, Released, Unnamed, publish};
    use model::Identity;
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;
    use testkit::{FsKind, LoopFs};

    const ATTRIBUTES: Attributes = Attributes { uid: 0, gid: 0, mode: 0o644, mtime: (9, 9), atime: None };

    fn make(dir: &Arc<OwnedFd>, name: &str, size: u64) -> FileHandle {
        let identity = Identity { uuid: "s3://b/k".to_owned(), hash: None, url: String::new() };
        let released = Released { size, archive_id: 1, identity, shared: false };
        let place = Place { dir: Arc::clone(dir), name: name.into(), shown: name.into() };
        let file = Unnamed::make(place, &released, |fd| dress(fd, &ATTRIBUTES, name.as_ref())).unwrap();
        let handle = handle_of(&file).unwrap();
        publish(vec![file]).unwrap().remove(0).unwrap();
        handle
    }

    #[test]
    fn p3_another_content_has_not_the_rights_of_the_one_before() {
        for kind in FsKind::ALL {
            let fs = LoopFs::new(kind, 0);
            let dir = Arc::new(OwnedFd::from(File::open(fs.path()).unwrap()));
            make(&dir, "old", 100);
            make(&dir, "new", 200);
            let (old, new) = (at(&dir, "old").unwrap().unwrap(), File::open(fs.path().join("new")).unwrap());
            // Version 2, effective: all that is permitted is CAP_SETUID.
            let capability = [1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            sys::xattr::set(&old, "security.capability", &capability).unwrap();
            sys::xattr::set(&old, "user.note", b"kept").unwrap();
            std::fs::set_permissions(fs.path().join("old"), std::fs::Permissions::from_mode(0o6751)).unwrap();
            bequeath(&old, new.as_fd()).unwrap();
            assert_eq!(sys::xattr::get(&new, "security.capability").unwrap(), None, "{kind:?}");
            assert_eq!(sys::xattr::get(&new, "user.note").unwrap().as_deref(), Some(&b"kept"[..]), "{kind:?}");
            assert_eq!(kept(&old, &ATTRIBUTES).unwrap().mode, 0o751, "{kind:?}");
        }
    }

    #[test]
    fn p1_what_somebody_has_open_or_has_moved_here_stays() {
        for kind in FsKind::ALL {
            let fs = LoopFs::new(kind, 0);
            let dir = Arc::new(OwnedFd::from(File::open(fs.path()).unwrap()));
            let path = fs.path().join("f");
            make(&dir, "f", 100);
            let guards = Guards(Vec::new());
            let old =
                || Old { fd: at(&dir, "f").unwrap().unwrap(), aside: aside("f"), new: make(&dir, &aside("f"), 200) };
            let is_alone = || std::fs::symlink_metadata(fs.path().join(aside("f"))).is_err();
            let size = || std::fs::metadata(&path).unwrap().len();

            for open in [File::options().write(true).open(&path), File::open(&path)] {
                assert!(!replace(&guards, &dir, "f", &old()).unwrap(), "{kind:?}");
                assert!(size() == 100 && is_alone(), "{kind:?}");
                drop(open);
            }
            // Between the look and the exchange.
            let before = old();
            std::fs::rename(&path, fs.path().join("moved")).unwrap();
            std::fs::write(&path, "a user's").unwrap();
            assert!(!replace(&guards, &dir, "f", &before).unwrap(), "{kind:?}");
            assert!(std::fs::read(&path).unwrap() == b"a user's" && is_alone(), "{kind:?}");
            std::fs::rename(fs.path().join("moved"), &path).unwrap();
            assert!(replace(&guards, &dir, "f", &old()).unwrap(), "{kind:?}");
            assert!(size() == 200 && is_alone(), "{kind:?}");
        }
    }
}
