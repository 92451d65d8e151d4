//! Where released files are made: whole, and out of everybody's reach, before they get their names.
//!
//! The library follows links, takes over what it finds, and makes a file that names no object yet. So it makes it in a directory that nobody
//! else can write to; whoever made it says there which object it names, and links it to where it belongs.

use model::Fid;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use sys::file::{open_beneath, stamp};
use sys::lustre::{Import, Library, import};
use sys::{Mode, OFlags};

/// What the library makes.
const NEW: &str = "file";

/// A directory where only root can write, whoever owns the one it is in. Goes with what is in it; a crash leaves it.
#[derive(Debug)]
pub struct Place {
    parent: OwnedFd,
    name: String,
    inside: OwnedFd,
}

impl Place {
    /// In an open directory, under a name that begins with `.new-`.
    ///
    /// # Errors
    /// `PermissionDenied` for all but root, too.
    pub fn make(directory: impl AsFd) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!(".new-{}", uuid::Uuid::new_v4().simple());
        let parent = directory.as_fd().try_clone_to_owned()?;
        std::fs::DirBuilder::new().mode(0o700).create(within(&parent, &name))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let inside = open_beneath(&parent, &name, flags, Mode::empty())?;
        let found = stamp(&inside)?;
        // Whoever owns the directory can put another one there.
        if found.uid != 0 || found.mode & 0o077 != 0 {
            let _ = std::fs::remove_dir(within(&parent, &name));
            let why = "only root makes released files, in a directory of its own, and the one that is there is somebody else's";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        Ok(Self { parent, name, inside })
    }

    /// Makes the file, which names no object yet. It has a name that goes with the place: link it to where it shall stay.
    pub fn import(&self, library: &Library, file: &Import<'_>) -> io::Result<(Fid, OwnedFd)> {
        let fid = import(library, &within(&self.inside, NEW), file)?;
        Ok((fid, open_beneath(&self.inside, NEW, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match std::fs::remove_file(within(&self.inside, NEW)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the second name of a released file stays");
            }
            _ => {}
        }
        if let Err(error) = std::fs::remove_dir(within(&self.parent, &self.name)) {
            tracing::warn!(%error, name = self.name, "a directory for a released file stays");
        }
    }
}

/// For calls that take paths: the directory is the one that is open, whatever it is called by now.
fn within(directory: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}
