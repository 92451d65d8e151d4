//! The database's file in its directory: made with the right mode and durably, checked, moved away when damaged.
//!
//! Nothing here opens an existing database file: closing a descriptor of it would drop the locks that SQLite holds
//! on it elsewhere in this process (POSIX record locks; see "How To Corrupt An SQLite Database File", section 2.2).

use super::fault::storage;
use crate::QueueError;
use rustix::fs::{Access, access};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

const MODE: u32 = 0o600;

/// SQLite's smallest page: no database is shorter.
const SMALLEST_BYTES: u64 = 512;

/// Makes sure that there is a regular file in a directory, both writable, and gives the file's size in bytes. A new
/// file is on stable storage, its name too. An empty one is taken as new.
pub(super) fn prepare(path: &Path) -> Result<u64, QueueError> {
    let failed = |e: io::Error| storage("open", path, &e);
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path).map_err(failed)?;
            file.sync_all().and_then(|()| sync_directory(path)).map_err(failed)?;
            Ok(0)
        }
        Err(e) => Err(failed(e)),
        Ok(found) => {
            if !found.is_file() {
                return Err(failed(io::Error::other("not a regular file")));
            }
            access(path, Access::READ_OK | Access::WRITE_OK).map_err(|e| failed(e.into()))?;
            access(directory(path), Access::WRITE_OK | Access::EXEC_OK).map_err(|e| failed(e.into()))?;
            if (1..SMALLEST_BYTES).contains(&found.len()) {
                // SQLite would take it for empty, remove the log beside it and begin anew.
                let why = format!("it has only {} bytes", found.len());
                return Err(QueueError::Corrupt { path: path.display().to_string(), why });
            }
            if found.len() == 0 {
                fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(failed)?;
                sync_directory(path).map_err(failed)?;
            }
            Ok(found.len())
        }
    }
}

/// Moves the database and SQLite's files beside it to the first free `<path>.damaged-<n>`, from where SQLite's own
/// tools can still open it. The names are on stable storage when this returns.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let beside = ["", "-wal", "-shm", "-journal"];
    let taken = |base: &Path| beside.iter().any(|suffix| fs::symlink_metadata(with_suffix(base, suffix)).is_ok());
    let target = (1u32..)
        .map(|n| with_suffix(path, &format!(".damaged-{n}")))
        .find(|t| !taken(t))
        .ok_or_else(|| io::Error::other("every name for a damaged database is taken"))?;
    // The database first: what a crash leaves of the others belongs to no database, and SQLite removes it.
    fs::rename(path, &target)?;
    for suffix in beside.iter().skip(1) {
        match fs::rename(with_suffix(path, suffix), with_suffix(&target, suffix)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    sync_directory(path)?;
    Ok(target)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}
