//! Whether a path is on Lustre.

use std::io;
use std::path::{Path, PathBuf};
use sys::lustre::{Library, path2fid};
use sys::mounts::FsInfo;

/// A Lustre filesystem that is mounted.
#[derive(Clone, Debug)]
pub struct Filesystem {
    /// The client library.
    pub library: Library,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Its name, where the mount tells: `nid:/fsname`.
    pub fsname: Option<String>,
    /// What is the same for all mounts of it, and of no other: the name, or else the kernel's number.
    pub key: String,
}

const LUSTRE: &str = "lustre";

/// The Lustre filesystem that `path` is on; `None` when it is on another one.
///
/// # Errors
/// The path cannot be looked at; or it is on Lustre, and there is no client library to speak to it.
pub fn filesystem_at(path: &Path) -> io::Result<Option<Filesystem>> {
    let found = sys::mounts::filesystem_of(path)?;
    let library = match Library::load() {
        Ok(library) => library,
        Err(error) if found.kind == LUSTRE => return Err(error.into()),
        Err(_) => return Ok(None),
    };
    if let Err(error) = path2fid(&library, path) {
        // What may not be read has no FID for us, and is on Lustre all the same.
        let closed = error.kind() == io::ErrorKind::PermissionDenied && found.kind == LUSTRE;
        if closed {
            return Ok(Some(filesystem(library, found)));
        }
        // Not the system's number: nobody may take this for another filesystem.
        let refused = || Err(io::Error::other(format!("the client does not tell its FID: {error}")));
        return if found.kind == LUSTRE { refused() } else { Ok(None) };
    }
    Ok(Some(filesystem(library, found)))
}

fn filesystem(library: Library, found: FsInfo) -> Filesystem {
    let source = found.source.to_string_lossy();
    let fsname = source.rsplit_once(":/").map(|(_, name)| name.split('/').next().unwrap_or(name).to_owned());
    let fsname = fsname.filter(|name| found.kind == LUSTRE && !name.is_empty());
    let key = fsname.clone().unwrap_or_else(|| found.device.replace(':', "-"));
    Filesystem { library, mount_point: found.mount_point, fsname, key }
}
