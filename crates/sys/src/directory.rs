//! Directories made as the parent's owner would have made them.

use crate::file::{open_beneath, stamp, sync_all};
use crate::{Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// `name` in `parent`, a directory; made if it is not there, with the parent's owner and mode, durably. Symbolic links lead nowhere (`ELOOP`).
///
/// Only what this call has made is given away: another directory that somebody put in its place meanwhile stays as it is. A crash may leave it
/// with nobody but root in it.
pub fn open_or_make(parent: impl AsFd, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let open = || open_beneath(parent.as_fd(), name, flags, Mode::empty());
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let wanted = stamp(parent.as_fd())?;
    match rustix::fs::mkdirat(parent.as_fd(), name, Mode::RWXU) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return open(),
        Err(error) => return Err(error.into()),
    }
    let made = open()?;
    let found = stamp(&made)?;
    if found.uid == rustix::process::geteuid().as_raw() && found.mode & 0o777 == 0o700 {
        std::os::unix::fs::fchown(&made, Some(wanted.uid), Some(wanted.gid))?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(wanted.mode & 0o7777))?;
        sync_all(parent)?;
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    #[test]
    fn a_directory_is_made_once_as_its_parent_is_and_links_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        chown(parent.path(), Some(1000), Some(1001)).unwrap();
        std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o2750)).unwrap();
        let fd = std::fs::File::open(parent.path()).unwrap();
        let first = stamp(open_or_make(&fd, Path::new("d")).unwrap()).unwrap();
        assert_eq!(stamp(open_or_make(&fd, Path::new("d")).unwrap()).unwrap().ino, first.ino);
        let made = parent.path().join("d").metadata().unwrap();
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1000, 1001, 0o2750));
        symlink("d", parent.path().join("link")).unwrap();
        assert!(open_or_make(&fd, Path::new("link")).is_err());
    }
}
