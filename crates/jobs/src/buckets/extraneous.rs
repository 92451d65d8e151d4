//! What the bucket has below the prefix and the source does not: removed where that was asked for.

use super::key::path_of;
use super::upload::Upload;
use super::{Done, Trouble};
use crate::failure::Failure;
use crate::report::{Did, Kind};
use objects::foreign::Listed;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use sys::{Mode, OFlags};
use transfer::TransferError;

impl Upload<'_> {
    /// To be called when all of the source was walked without trouble.
    pub(super) fn remove_extraneous(&self, root: &OwnedFd) -> Result<(), TransferError> {
        self.plain.list(&self.prefix, &mut |listed| {
            let gone: Vec<Listed> = listed.into_iter().filter(|listed| self.may_go(root, &listed.key)).collect();
            if !gone.is_empty() {
                self.remove_all(&gone);
            }
            if self.run.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    /// What no filter lets through is not the job's: it stays.
    fn may_go(&self, root: &OwnedFd, key: &str) -> bool {
        if key == self.prefix {
            // The marker of the root itself.
            return false;
        }
        let relative = key.strip_prefix(&self.prefix).unwrap_or(key);
        let told = |trouble: Trouble| self.run.failed(Kind::File, trouble, || relative.into());
        let (path, is_directory) = match path_of(key, &self.prefix) {
            Ok(found) => found,
            Err(why) => {
                told(Trouble::Unfit(why));
                return false;
            }
        };
        if !self.run.options.filter.wants_path(path.as_bytes(), is_directory) {
            return false;
        }
        match tree_has(root, path, is_directory, self.run.options.cross) {
            Ok(has) => !has,
            Err(error) => {
                told(Failure::source("find")(error).into());
                false
            }
        }
    }

    fn remove_all(&self, gone: &[Listed]) {
        let keys: Vec<String> = gone.iter().map(|listed| listed.key.clone()).collect();
        let removed = if self.run.options.dry_run { Ok(()) } else { self.plain.remove(&keys) };
        let failed = removed.err().map(|error| error.to_string());
        for key in keys {
            let kind = if key.ends_with('/') { Kind::Directory } else { Kind::File };
            let done = match &failed {
                None => Done::plain(Did::Deleted),
                Some(why) => Done::with_note(Did::Failed, why.clone()),
            };
            let path = || key.strip_prefix(&self.prefix).unwrap_or(&key).trim_end_matches('/').into();
            self.run.told(kind, done, path);
        }
    }
}

/// Whether a tree has what a key stands for. What lies on another filesystem it has, unless those are entered.
pub(super) fn tree_has(root: &OwnedFd, path: &str, is_directory: bool, cross: bool) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let open = if cross { sys::file::open_beneath } else { sys::file::open_within };
    let found = match open(root, path, flags, Mode::empty()) {
        Ok(found) => sys::file::stamp(&found)?,
        Err(error) => {
            return match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(false),
                // Other filesystems are not the job's.
                Some(Errno::XDEV) => Ok(true),
                _ => Err(error),
            };
        }
    };
    Ok(match FileType::from_raw_mode(found.mode) {
        FileType::Directory => is_directory,
        FileType::RegularFile | FileType::Symlink => !is_directory,
        _ => false,
    })
}
