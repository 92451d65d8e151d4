//! The tree that a bucket is copied into: directories that are made on the way, and files that take their names when they are whole.
//!
//! Every path is opened below the root, nothing is followed, and names of unfinished files are the same in each run: what a killed run left is
//! made anew by the next one.

use super::Trouble;
use super::about::About;
use crate::failure::{Failure, JobError};
use rustix::fs::{AtFlags, Gid, Uid};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use sys::file::FileStamp;
use sys::{Mode, OFlags};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);
/// Of FUSE, whose servers hear of a sync of one file, and of none of all.
const FUSE: i64 = 0x6573_5546;
/// What names of unfinished files begin with.
const PREFIX: &str = ".sifaka-bucket-";

/// The root.
pub(super) struct Target {
    root: OwnedFd,
    /// Other filesystems below it are entered.
    cross: bool,
    umask: u32,
    /// Who the objects say they are of, those they are given to.
    owners: bool,
    /// Of the filesystem; `None`: what is written there is made durable file by file.
    together: Option<u64>,
}

/// Directories that are open, for one thread.
#[derive(Default)]
pub(super) struct OpenDirectories(HashMap<String, Arc<OwnedFd>>);

/// A file that has not its name yet. Removed when it is dropped before.
pub(super) struct Unfinished {
    directory: Arc<OwnedFd>,
    aside: String,
    kept: bool,
}

impl Target {
    /// Makes the directory if it is not there; `None`: it would be, but this is a dry run.
    pub(super) fn open(path: &Path, cross: bool, owners: bool, dry: bool) -> Result<Option<Self>, JobError> {
        // Modes are given to each file by itself; this one is what a user wants for what says nothing.
        let umask = rustix::process::umask(Mode::empty());
        if let Err(error) = rustix::fs::stat(path) {
            match error {
                Errno::NOENT if dry => return Ok(None),
                Errno::NOENT => {
                    let made = rustix::fs::mkdir(path, Mode::from_raw_mode(0o777 & !umask.as_raw_mode()));
                    made.map_err(JobError::io("make the directory", path))?;
                }
                error => return Err(JobError::io("find", path)(error)),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(JobError::io("open the directory", path))?;
        let is_fuse = rustix::fs::fstatfs(&root).map_or(true, |found| found.f_type == FUSE);
        let found = sys::file::stamp(&root).map_err(JobError::io("find", path))?;
        let together = (!is_fuse).then_some(found.dev);
        Ok(Some(Self { root, cross, umask: umask.as_raw_mode(), owners, together }))
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Whether a sync of all that is in the root's filesystem makes this file durable.
    pub(super) fn syncs_together(&self, file: &File) -> io::Result<bool> {
        Ok(self.together.is_some() && self.together == Some(sys::file::stamp(file)?.dev))
    }

    fn open_at(&self, directory: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
        let open = if self.cross { sys::file::open_beneath } else { sys::file::open_within };
        open(directory, Path::new(path), DIRECTORY, Mode::empty())
    }

    /// A directory that is there.
    pub(super) fn existing(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        match self.open_at(&self.root, path) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a directory, making what is missing of the way to it. `told` says what an object says of each that is made.
    pub(super) fn directory<E: From<Failure>>(
        &self,
        open: &mut OpenDirectories,
        path: &str,
        mut told: impl FnMut(&str) -> Result<About, E>,
    ) -> Result<Arc<OwnedFd>, E> {
        if let Some(fd) = open.0.get(path) {
            return Ok(Arc::clone(fd));
        }
        let failed = |error: io::Error| E::from(Failure::destination("open the directory")(error));
        let mut at = Arc::new(self.root.try_clone().map_err(failed)?);
        let mut done = 0;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            done += name.len() + usize::from(done > 0);
            at = Arc::new(match self.open_at(&at, name) {
                Ok(fd) => fd,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let about = told(path.get(..done).unwrap_or(path))?;
                    self.make(&at, name, &about).map_err(Failure::destination("make the directory"))?
                }
                Err(error) => return Err(failed(error)),
            });
        }
        open.0.insert(path.to_owned(), Arc::clone(&at));
        Ok(at)
    }

    /// Another thread may be about it at the same time.
    fn make(&self, at: &OwnedFd, name: &str, about: &About) -> io::Result<OwnedFd> {
        match rustix::fs::mkdirat(at, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => return self.open_at(at, name),
            Err(error) => return Err(error.into()),
        }
        let made = self.open_at(at, name)?;
        self.own(&made, about)?;
        // Its owner has to work in it until all is there.
        let mode = self.mode(about, 0o777) | 0o700;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
        Ok(made)
    }

    /// Whoever may write to the bucket gives nobody rights: no set-user-id, set-group-id and sticky bits are taken from there.
    pub(super) fn mode(&self, about: &About, usual: u32) -> u32 {
        about.mode.map_or(usual & !self.umask, |mode| mode & 0o777)
    }

    fn own(&self, file: &OwnedFd, about: &About) -> io::Result<()> {
        if self.owners && (about.uid.is_some() || about.gid.is_some()) {
            rustix::fs::fchown(file, about.uid.map(Uid::from_raw), about.gid.map(Gid::from_raw))?;
        }
        Ok(())
    }

    /// Whether a file that is there has the owner and mode that its object says.
    pub(super) fn fits(&self, found: &FileStamp, about: &About) -> bool {
        let same = |found: u32, wanted: Option<u32>| !self.owners || wanted.is_none_or(|wanted| wanted == found);
        let mode = about.mode.is_none_or(|mode| mode & 0o777 == found.mode & 0o7777);
        mode && same(found.uid, about.uid) && same(found.gid, about.gid)
    }

    /// Gives a file or directory its owner, attributes of users, mode and time, in this order. The first attribute that it cannot have.
    pub(super) fn dress(
        &self,
        file: &OwnedFd,
        about: &About,
        usual: u32,
        mtime: Option<(i64, u32)>,
    ) -> io::Result<Option<String>> {
        self.own(file, about)?;
        let mut unset = None;
        for (name, value) in about.users_xattrs() {
            if let Err(error) = sys::xattr::set(file, name.as_c_str(), &value) {
                unset.get_or_insert_with(|| format!("cannot set its attribute {}: {error}", name.to_string_lossy()));
            }
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode(about, usual)))?;
        if let Some(mtime) = mtime {
            sys::file::set_times(file, None, mtime)?;
        }
        Ok(unset)
    }

    /// A link, which is all that it will be.
    pub(super) fn link(
        &self,
        directory: &Arc<OwnedFd>,
        name: &str,
        to: &Path,
        about: &About,
        mtime: Option<(i64, u32)>,
    ) -> io::Result<Unfinished> {
        let unfinished = Unfinished::clear(directory, name)?;
        rustix::fs::symlinkat(to, directory, unfinished.aside.as_str())?;
        if self.owners && (about.uid.is_some() || about.gid.is_some()) {
            let (uid, gid) = (about.uid.map(Uid::from_raw), about.gid.map(Gid::from_raw));
            rustix::fs::chownat(directory, unfinished.aside.as_str(), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some((seconds, nanos)) = mtime {
            let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(directory, unfinished.aside.as_str(), &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(unfinished)
    }
}

impl Unfinished {
    /// Whether a name is one of these.
    pub(super) fn is_meant(name: &str) -> bool {
        name.starts_with(PREFIX)
    }

    fn clear(directory: &Arc<OwnedFd>, name: &str) -> io::Result<Self> {
        let mut hasher = DefaultHasher::new();
        hasher.write(name.as_bytes());
        let aside = format!("{PREFIX}{:016x}", hasher.finish());
        match rustix::fs::unlinkat(directory, aside.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self { directory: Arc::clone(directory), aside, kept: false })
    }

    /// A file that is to be called `name`.
    pub(super) fn file(directory: &Arc<OwnedFd>, name: &str) -> io::Result<(Self, File)> {
        let unfinished = Self::clear(directory, name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(directory, unfinished.aside.as_str(), flags, Mode::RUSR | Mode::WUSR)?;
        Ok((unfinished, made.into()))
    }

    /// Gives it its name; over what is there only if that may be replaced.
    pub(super) fn publish(self, name: &str, replace: bool) -> Result<(), Trouble> {
        match self.renamed(name, replace) {
            Err(error)
                if [Errno::EXIST, Errno::ISDIR]
                    .map(|errno| Some(errno.raw_os_error()))
                    .contains(&error.raw_os_error()) =>
            {
                Err(Trouble::Unfit(
                    "something else came to its place meanwhile: of two keys, say, that are one name there",
                ))
            }
            renamed => Ok(renamed.map_err(Failure::destination("give its name to"))?),
        }
    }

    fn renamed(mut self, name: &str, replace: bool) -> io::Result<()> {
        let renamed = if replace {
            rustix::fs::renameat(&self.directory, self.aside.as_str(), &self.directory, name).map_err(io::Error::from)
        } else {
            match sys::file::rename_noreplace(&self.directory, &self.aside, &self.directory, name) {
                // A filesystem that does not know it.
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    rustix::fs::linkat(&self.directory, self.aside.as_str(), &self.directory, name, AtFlags::empty())?;
                    return Ok(());
                }
                other => other,
            }
        };
        self.kept = renamed.is_ok();
        renamed
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = rustix::fs::unlinkat(self.directory.as_fd(), self.aside.as_str(), AtFlags::empty())
            && error != Errno::NOENT
        {
            tracing::warn!(name = self.aside, %error, "cannot remove an unfinished copy");
        }
    }
}
