//! Where commands write what they restore, and where the lists of batches are.
//!
//! Each mover has a session, a directory of its own in the staging directory, locked as long as it lives; the next mover removes those that
//! nobody has locked (P7). The staging directory has to be on a local filesystem, and not on the one that is managed.

use super::error::CommandError;
use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use sys::{Mode, OFlags};
use transfer::{OpenFile, TransferError};
use uuid::Uuid;

const SESSION: &str = ".sifaka-command-";

/// A mover's directory. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Staging {
    session: PathBuf,
    _lock: File,
}

impl Staging {
    /// Makes a session in `root`, which has to exist, and removes those of movers that are gone.
    pub(super) fn open(root: &Path) -> Result<Self, TransferError> {
        sweep(root).map_err(TransferError::io("look for what crashes left in", root))?;
        loop {
            let session = root.join(format!("{SESSION}{}", Uuid::new_v4()));
            DirBuilder::new().mode(0o700).create(&session).map_err(TransferError::io("create", &session))?;
            let locked = File::open(&session).and_then(|lock| Ok((sys::file::try_lock_exclusive(&lock)?, lock)));
            match locked {
                // Between the two calls another mover may have taken it for one that nobody has.
                Ok((true, lock)) if is_still(&lock, &session) => return Ok(Self { session, _lock: lock }),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(TransferError::io("lock", &session)(error)),
            }
        }
    }

    /// Removes the session, when nothing is to be begun any more. What it cannot remove the next mover does.
    pub(super) fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.session);
    }

    /// A new directory for one command.
    pub(super) fn work_dir(&self) -> Result<WorkDir, TransferError> {
        let path = self.session.join(Uuid::new_v4().to_string());
        DirBuilder::new().mode(0o700).create(&path).map_err(TransferError::io("create", &path))?;
        let members = path.join("members");
        let dir = WorkDir { path, members };
        DirBuilder::new().mode(0o700).create(&dir.members).map_err(TransferError::io("create", &dir.members))?;
        Ok(dir)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.remove();
    }
}

fn is_still(lock: &File, path: &Path) -> bool {
    let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((lock.metadata(), std::fs::symlink_metadata(path)), (Ok(a), Ok(b)) if same(&a, &b))
}

fn sweep(root: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let is_session = entry.file_name().as_bytes().starts_with(SESSION.as_bytes()) && entry.file_type()?.is_dir();
        if !is_session {
            continue;
        }
        let path = entry.path();
        let removed = File::open(&path).and_then(|lock| {
            let is_left = sys::file::try_lock_exclusive(&lock)?;
            if is_left { std::fs::remove_dir_all(&path).map(|()| true) } else { Ok(false) }
        });
        match removed {
            Ok(true) => tracing::info!(session = %path.display(), "removed what a crashed mover left"),
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(session = %path.display(), %error, "cannot remove what a crashed mover left"),
        }
    }
    Ok(())
}

/// One command's directory. Dropping it removes it with all that is in it.
#[derive(Debug)]
pub(super) struct WorkDir {
    path: PathBuf,
    members: PathBuf,
}

impl WorkDir {
    /// `{dir}`: what is archived by names, or is to be restored into.
    pub(super) fn members(&self) -> &Path {
        &self.members
    }

    /// Has `name` in `{dir}` stand for an open file of this process.
    pub(super) fn link(&self, name: &str, file: &Path) -> Result<(), CommandError> {
        let link = self.members.join(name);
        Ok(std::os::unix::fs::symlink(file, &link).map_err(TransferError::io("create", &link))?)
    }

    /// Writes `{list}` and `{list_paths}`, and gives their paths. Names hold neither newlines nor slashes.
    pub(super) fn lists<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Result<[PathBuf; 2], CommandError> {
        let write = |file: &str, lines: &mut dyn Iterator<Item = Vec<u8>>| {
            let path = self.path.join(file);
            let written = File::create_new(&path).and_then(|file| {
                let mut file = io::BufWriter::new(file);
                for line in lines {
                    file.write_all(&line)?;
                    file.write_all(b"\n")?;
                }
                file.flush()
            });
            written.map_err(TransferError::io("write", &path))?;
            Ok::<_, CommandError>(path)
        };
        let list = write("list", &mut names.clone().map(|name| name.as_bytes().to_vec()))?;
        let members = self.members.as_os_str().as_bytes();
        let paths = write("list_paths", &mut names.map(|name| [members, b"/", name.as_bytes()].concat()))?;
        Ok([list, paths])
    }

    /// What a command wrote under this name: a regular file and no link. `None` when there is nothing.
    pub(super) fn written(&self, name: &str) -> Result<Option<OpenFile>, TransferError> {
        let path = self.members.join(name);
        let dir = File::open(&self.members).map_err(TransferError::io("open", &self.members))?;
        // A FIFO would wait for its other end.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        match sys::file::open_beneath(dir, OsStr::new(name), flags, Mode::empty()) {
            Ok(file) => {
                let file = OpenFile::new(file.into(), &path);
                if file.stamp()?.is_regular { Ok(Some(file)) } else { Err(TransferError::NotRegular { path }) }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TransferError::io("open", &path)(error)),
        }
    }

    /// Makes room before the next one: what is in the target already needs no second place.
    pub(super) fn forget(&self, name: &str) {
        let _ = std::fs::remove_file(self.members.join(name));
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(root: &Path) -> usize {
        std::fs::read_dir(root).unwrap().count()
    }

    #[test]
    fn p7_sessions_of_the_living_stay_and_those_of_the_dead_go() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("mine")).unwrap();
        let dead = root.path().join(format!("{SESSION}dead"));
        std::fs::create_dir_all(dead.join("work/members")).unwrap();
        std::os::unix::fs::symlink("/etc", dead.join("work/link")).unwrap();
        let living = Staging::open(root.path()).unwrap();
        let work = living.work_dir().unwrap();
        assert!(!dead.exists() && root.path().join("mine").exists() && Path::new("/etc/passwd").exists());
        let other = Staging::open(root.path()).unwrap();
        assert_eq!(sessions(root.path()), 3);
        assert!(work.members().exists());
        drop((work, living, other));
        assert_eq!(sessions(root.path()), 1);
    }

    #[test]
    fn only_files_that_were_written_are_taken() {
        let root = tempfile::tempdir().unwrap();
        let staging = Staging::open(root.path()).unwrap();
        let work = staging.work_dir().unwrap();
        assert!(work.written("nothing").unwrap().is_none());
        std::fs::write(work.members().join("file"), b"x").unwrap();
        assert!(work.written("file").unwrap().is_some());
        std::os::unix::fs::symlink("/etc/passwd", work.members().join("link")).unwrap();
        std::fs::create_dir(work.members().join("dir")).unwrap();
        std::process::Command::new("mkfifo").arg(work.members().join("fifo")).status().unwrap();
        for wrong in ["link", "dir", "fifo", "../list"] {
            assert!(work.written(wrong).is_err(), "{wrong}");
        }
        let [list, paths] = work.lists(["a", "b"].into_iter()).unwrap();
        assert_eq!(std::fs::read_to_string(list).unwrap(), "a\nb\n");
        let members = work.members().display().to_string();
        assert_eq!(std::fs::read_to_string(paths).unwrap(), format!("{members}/a\n{members}/b\n"));
    }
}
