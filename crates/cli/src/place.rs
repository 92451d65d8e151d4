//! From a path that may lead to nothing to what the agent is told: its directory by handle, and the name in it.

use agent::admin::api::{FileRef, fsid_text};
use agent::admin::objects::PlaceRef;
use model::FileHandle;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

fn open(path: &Path, flags: sys::OFlags) -> io::Result<(File, FileHandle, String)> {
    let flags = (sys::OFlags::PATH | flags).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let raw = sys::handle::name_to_handle(&file)?;
    let here = sys::mounts::filesystem_of(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok((file, FileHandle { kind: raw.kind, bytes: raw.bytes.into() }, fsid_text(here.fsid)))
}

fn shown(path: &Path) -> io::Result<String> {
    Ok(std::path::absolute(path)?.to_string_lossy().into_owned())
}

/// A file that is there; a symbolic link is not followed.
pub(crate) fn file(path: &Path) -> io::Result<FileRef> {
    let (_, handle, fsid) = open(path, sys::OFlags::NOFOLLOW)?;
    Ok(FileRef { handle, fsid, path: shown(path)? })
}

/// A directory that is there.
pub(crate) fn directory(path: &Path) -> io::Result<PlaceRef> {
    let (_, directory, fsid) = open(path, sys::OFlags::DIRECTORY)?;
    Ok(PlaceRef { directory, fsid, name: Vec::new(), path: shown(path)? })
}

/// A name in a directory that is there.
pub(crate) fn place(path: &Path) -> io::Result<PlaceRef> {
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is no name of a file"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = directory(parent)
        .map_err(|why| io::Error::new(why.kind(), format!("its directory cannot be opened: {why}")))?;
    Ok(PlaceRef { name: name.as_bytes().to_vec(), path: shown(path)?, ..found })
}
