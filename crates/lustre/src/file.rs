//! A file by its FID: its attributes that name the object, and its layout.
//!
//! Through the descriptor of the root that was opened at the start, so that it works until the end, whatever happens to the
//! mount point. Nothing here opens a file's content: that would wait for a restore.

use model::{Digest, ErrorKind, Failure, Fid, Identity, errno_kind, xattr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::file::FileStamp;
use sys::{Mode, OFlags};

/// The file's layout, as the client shows it.
pub(crate) const LAYOUT: &str = "lustre.lov";
const ACL: &str = "system.posix_acl_access";
const EIO: i32 = 5;
const EOPNOTSUPP: i32 = 95;

/// The path of a file for whoever works in a mount of the filesystem.
pub(crate) fn path_of(fid: Fid) -> String {
    format!(".lustre/fid/{fid}")
}

/// What could not be done to which attribute of a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} of {fid}: {why}")]
pub(crate) struct FileError {
    what: String,
    fid: Fid,
    why: String,
    kind: ErrorKind,
    errno: i32,
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self { kind: error.kind, errno: error.errno, message: error.to_string(), thaw: None }
    }
}

/// A file that is there.
#[derive(Debug)]
pub(crate) struct LustreFile {
    fid: Fid,
    fd: OwnedFd,
    pub(crate) stamp: FileStamp,
}

impl LustreFile {
    /// `None` when there is no such file any more.
    pub(crate) fn open(root: impl AsFd, fid: Fid) -> Result<Option<Self>, FileError> {
        let failed = |e: io::Error| Self::unseen(fid, &e);
        let opened = sys::file::open_beneath(root, path_of(fid), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
        let fd = match opened {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        Self::of(fid, fd).map(Some)
    }

    /// The file that is open already; `O_PATH` will do.
    pub(crate) fn of(fid: Fid, fd: OwnedFd) -> Result<Self, FileError> {
        let stamp = sys::file::stamp(&fd).map_err(|e| Self::unseen(fid, &e))?;
        Ok(Self { fid, fd, stamp })
    }

    fn unseen(fid: Fid, error: &io::Error) -> FileError {
        let errno = error.raw_os_error().unwrap_or(EIO);
        FileError { what: "look at the state".into(), fid, why: error.to_string(), kind: errno_kind(errno), errno }
    }

    /// Whether its content is encrypted by the filesystem, with a key of this inode's.
    pub(crate) fn is_encrypted(&self) -> Result<bool, FileError> {
        sys::file::is_encrypted(&self.fd).map_err(|e| Self::unseen(self.fid, &e))
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The object it names; empty when it names none.
    pub(crate) fn identity(&self) -> Result<Identity, FileError> {
        let hash = self.text(xattr::HASH)?;
        let damaged = |e: model::DigestError| self.damaged(xattr::HASH, e.to_string());
        let hash = if hash.is_empty() { None } else { Some(Digest::from_hex(&hash).map_err(damaged)?) };
        Ok(Identity { uuid: self.text(xattr::UUID)?, hash, url: self.text(xattr::URL)? })
    }

    /// Makes it name an object; the id last, since whoever finds one believes the rest. The present layout is kept with it.
    ///
    /// After an error it names what it named before, as far as that can be written.
    pub(crate) fn set_identity(&self, identity: &Identity) -> Result<(), FileError> {
        let before = self.identity();
        self.save_layout();
        let put = self.put_identity(identity);
        if let (Err(_), Ok(before)) = (&put, before)
            && let Err(error) = self.put_identity(&before)
        {
            tracing::error!(%error, object = before.uuid, "its attributes are of two objects now");
        }
        put
    }

    fn put_identity(&self, identity: &Identity) -> Result<(), FileError> {
        let hash = identity.hash.map(|hash| hash.to_string()).unwrap_or_default();
        self.put(xattr::HASH, &hash)?;
        self.put(xattr::URL, &identity.url)?;
        self.put(xattr::UUID, &identity.uuid)
    }

    /// Says that other files may name the object too: its removal with this file would take it from them.
    pub(crate) fn share(&self, uuid: &str) -> Result<(), FileError> {
        self.put(xattr::SHARED, uuid)
    }

    /// Makes a new released file name an object that others name too, with the layout for its restore.
    pub(crate) fn name_shared(&self, identity: &Identity, layout: Option<&[u8]>) -> Result<(), FileError> {
        if let Some(layout) = layout {
            sys::xattr::set(&self.fd, xattr::LAYOUT, layout)
                .map_err(|e| self.failed("set attribute", xattr::LAYOUT, &e))?;
        }
        self.share(&identity.uuid)?;
        self.put_identity(identity)
    }

    /// Its access ACL; `None` when its mode says all.
    pub(crate) fn acl(&self) -> Result<Option<Vec<u8>>, FileError> {
        match sys::xattr::get(&self.fd, ACL) {
            Err(error) if error.raw_os_error() == Some(EOPNOTSUPP) => Ok(None),
            acl => acl.map_err(|e| self.failed("read attribute", ACL, &e)),
        }
    }

    /// Gives it that one, and no inherited one.
    pub(crate) fn set_acl(&self, acl: Option<&[u8]>) -> Result<(), FileError> {
        let set = match acl {
            Some(acl) => sys::xattr::set(&self.fd, ACL, acl),
            None => sys::xattr::remove(&self.fd, ACL).map(drop),
        };
        match set {
            Err(error) if acl.is_none() && error.raw_os_error() == Some(EOPNOTSUPP) => Ok(()),
            set => set.map_err(|e| self.failed("set attribute", ACL, &e)),
        }
    }

    /// Makes it name no object.
    pub(crate) fn clear_identity(&self) -> Result<(), FileError> {
        [xattr::UUID, xattr::HASH, xattr::URL, xattr::LAYOUT].iter().try_for_each(|name| self.put(name, ""))
    }

    /// Other files may name the object too.
    pub(crate) fn is_shared(&self, uuid: &str) -> Result<bool, FileError> {
        Ok(!uuid.is_empty() && self.text(xattr::SHARED)? == uuid)
    }

    /// Whether there is a layout to give to its restore.
    pub(crate) fn saved_layout(&self) -> Option<Vec<u8>> {
        sys::xattr::get(&self.fd, xattr::LAYOUT).ok().flatten().filter(|layout| !layout.is_empty())
    }

    /// Without it a restored file gets its directory's layout: no reason to fail.
    fn save_layout(&self) {
        let kept = match sys::xattr::get(&self.fd, LAYOUT) {
            Ok(Some(layout)) => sys::xattr::set(&self.fd, xattr::LAYOUT, &layout),
            // No layout (an empty file that nobody wrote), or no Lustre.
            Ok(None) | Err(_) => sys::xattr::remove(&self.fd, xattr::LAYOUT).map(drop),
        };
        if let Err(error) = kept {
            tracing::warn!(fid = %self.fid, %error, "the layout was not kept: a restore gives the file its directory's");
            let _ = sys::xattr::remove(&self.fd, xattr::LAYOUT);
        }
    }

    fn text(&self, name: &str) -> Result<String, FileError> {
        let bytes = sys::xattr::get(&self.fd, name).map_err(|e| self.failed("read attribute", name, &e))?;
        String::from_utf8(bytes.unwrap_or_default()).map_err(|e| self.damaged(name, e.to_string()))
    }

    /// Sets a text, or removes the attribute when it is empty.
    fn put(&self, name: &str, text: &str) -> Result<(), FileError> {
        let done = if text.is_empty() {
            sys::xattr::remove(&self.fd, name).map(drop)
        } else {
            sys::xattr::set(&self.fd, name, text.as_bytes())
        };
        done.map_err(|e| self.failed(if text.is_empty() { "remove attribute" } else { "set attribute" }, name, &e))
    }

    fn failed(&self, what: &str, name: &str, error: &io::Error) -> FileError {
        let errno = error.raw_os_error().unwrap_or(EIO);
        FileError {
            what: format!("{what} {name}"),
            fid: self.fid,
            why: error.to_string(),
            kind: errno_kind(errno),
            errno,
        }
    }

    /// What somebody has written there does not change by being read again.
    fn damaged(&self, name: &str, why: String) -> FileError {
        let what = format!("make sense of attribute {name}");
        FileError { what, fid: self.fid, why, kind: ErrorKind::Permanent, errno: EIO }
    }
}

/// Gives the file of a restore, which has none yet, a layout.
pub(crate) fn give_layout(file: BorrowedFd<'_>, layout: &[u8]) -> io::Result<()> {
    sys::xattr::create(file, LAYOUT, layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_given_an_object_names_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(directory.path().join("f")).unwrap();
        let file = LustreFile::of(Fid { seq: 1, oid: 2, ver: 0 }, file.into()).unwrap();
        let identity = |uuid: &str, digit: &str, url: String| {
            let hash = Some(Digest::from_hex(&digit.repeat(64)).unwrap());
            Identity { uuid: uuid.to_owned(), hash, url }
        };
        let before = identity("before", "a", String::new());
        file.set_identity(&before).unwrap();
        // After the hash, an attribute that is too long.
        let failed = file.set_identity(&identity("after", "b", "u".repeat(70_000))).unwrap_err();
        assert!(failed.to_string().contains(xattr::URL), "{failed}");
        assert_eq!(file.identity().unwrap(), before);
        sys::xattr::set(&file.fd, xattr::HASH, b"no hash").unwrap();
        assert_eq!(Failure::from(file.identity().unwrap_err()).kind, ErrorKind::Permanent);
    }
}
