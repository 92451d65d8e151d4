//! Whether a path is on Lustre.

use std::ffi::{OsStr, OsString};
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
    if found.kind == LUSTRE
        && let Some(other) = asked_instead(&found.source, &sys::mounts::mounts_above(&found.mount_point, LUSTRE)?)
    {
        return Err(io::Error::other(format!(
            "{} is mounted below {}, which is another Lustre filesystem: the client library would ask that one. Mount it elsewhere",
            found.mount_point.display(),
            other.display()
        )));
    }
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

/// Which mount the client library would speak to in place of one of `source`: it takes the first in the table whose mount point begins the path (all
/// versions do, and since 2.16 the last one that was used before that). Of the same filesystem, it does not matter which.
fn asked_instead<'a>(source: &OsStr, above: &'a [(PathBuf, OsString)]) -> Option<&'a Path> {
    above.iter().find(|(_, other)| root_of(other) != root_of(source)).map(|(mount_point, _)| mount_point.as_path())
}

/// Of `nid:/fsname/directory`, what is before the directory.
fn root_of(source: &OsStr) -> &[u8] {
    let bytes = source.as_encoded_bytes();
    let name = bytes.windows(2).position(|at| at == b":/").map_or(0, |at| at + 2);
    let end = bytes.iter().skip(name).position(|byte| *byte == b'/').map_or(bytes.len(), |at| name + at);
    bytes.get(..end).unwrap_or(bytes)
}

fn filesystem(library: Library, found: FsInfo) -> Filesystem {
    let source = found.source.to_string_lossy();
    let fsname = source.rsplit_once(":/").map(|(_, name)| name.split('/').next().unwrap_or(name).to_owned());
    let fsname = fsname.filter(|name| found.kind == LUSTRE && !name.is_empty());
    let key = fsname.clone().unwrap_or_else(|| found.device.replace(':', "-"));
    Filesystem { library, mount_point: found.mount_point, fsname, key }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filesystem_below_another_one_would_not_be_asked() {
        let above = |source: &str| [(PathBuf::from("/mnt"), OsString::from(source))];
        for (own, other, asked) in [
            ("1@tcp:/a", "1@tcp:/b", true),
            ("1@tcp:/a", "2@tcp:/a", true),
            ("1@tcp:/a", "1@tcp:/a", false),
            ("1@tcp:/a/dir/ectory", "1@tcp:/a", false),
            ("1@tcp:2@tcp:/a", "1@tcp:2@tcp:/ab", true),
            ("", "none", true),
        ] {
            assert_eq!(asked_instead(own.as_ref(), &above(other)).is_some(), asked, "{own} below {other}");
        }
        assert_eq!(asked_instead("1@tcp:/a".as_ref(), &[]), None);
    }
}
