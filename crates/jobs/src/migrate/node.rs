//! What has no content: symbolic links, pipes, sockets, devices.

use super::Migration;
use super::attributes;
use super::file::{Done, Verdict, is_directory, take_place};
use super::options::Existing;
use super::spot::{Spot, node, unlink};
use crate::failure::Failure;
use crate::report::Did;
use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use sys::Mode;
use sys::file::{FileStamp, stamp};

/// What it is made of.
#[derive(PartialEq, Eq)]
enum Making {
    Link(CString),
    Node(FileType, u64),
}

impl Migration<'_> {
    /// Does what is to be done about one of them. `None`: later.
    pub(super) fn node(&self, spot: Spot<'_>) -> Result<Option<Done>, Failure> {
        let source = node(spot.source(), spot.name()).map_err(Failure::source("open"))?;
        let seen = stamp(&source).map_err(Failure::source("read attributes of"))?;
        let making = Making::of(source.as_fd(), &seen).map_err(Failure::source("read"))?;
        let existing = match spot.place().is_fresh {
            true => None,
            false => spot.find().map_err(Failure::destination("find"))?,
        };
        if seen.nlink < 2 {
            return self.node_made(spot, &source, &seen, &making, existing.as_ref()).map(Some);
        }
        self.one_of_several_names(spot, &seen, existing.as_ref(), || {
            self.node_made(spot, &source, &seen, &making, existing.as_ref())
        })
    }

    fn node_made(
        &self,
        spot: Spot<'_>,
        source: &OwnedFd,
        seen: &FileStamp,
        making: &Making,
        existing: Option<&FileStamp>,
    ) -> Result<Done, Failure> {
        if let Some(existing) = existing {
            match self.judge_node(spot, seen, making, existing)? {
                Verdict::Same => return Ok(Done::plain(Did::Same)),
                Verdict::Refuse(why) => return Ok(Done::with_note(Did::Refused, why)),
                Verdict::Replace => {}
            }
        }
        let Some(directory) = spot.place().fd() else { return Ok(Done::plain(Did::Copied)) };
        if self.options.dry_run {
            return Ok(Done::plain(Did::Copied));
        }
        // Its owner and times come after it: what replaces something does so when it has them.
        let name = if existing.is_some() { self.temporary() } else { spot.name().to_owned() };
        making.make(directory, &name).map_err(Failure::destination("make"))?;
        let inherits = !spot.place().is_fresh;
        let finished = self.node_finished(source, seen, directory, &name, inherits).and_then(|unset| {
            if existing.is_some_and(is_directory) {
                self.remove_tree(spot.directory, spot.bytes)?;
            }
            if existing.is_some() {
                self.keep_old(spot.directory, spot.bytes)?;
                take_place(directory, &name, spot.name(), true)?;
            }
            Ok(unset)
        });
        if finished.is_err() {
            // The error is told; what could not be finished is not to stay.
            let _ = unlink(directory, &name);
        }
        Ok(self.done(Did::Copied, 0, finished?))
    }

    fn node_finished(
        &self,
        source: &OwnedFd,
        seen: &FileStamp,
        directory: BorrowedFd<'_>,
        name: &Path,
        inherits: bool,
    ) -> Result<Option<attributes::Unset>, Failure> {
        let made = node(directory, name).map_err(Failure::destination("open"))?;
        let found = stamp(&made).map_err(Failure::destination("read attributes of"))?;
        // Whoever may write into the directory may have put something else there.
        if (found.mode ^ seen.mode) & 0o170_000 != 0 || found.nlink != 1 || !self.myself.owns(&found) {
            return Err(Failure::destination("make")(Errno::BUSY));
        }
        let how = attributes::Made { mode: 0o600, inherits };
        attributes::give_node(self.myself, source.as_fd(), seen, made.as_fd(), how)
    }

    fn judge_node(
        &self,
        spot: Spot<'_>,
        seen: &FileStamp,
        making: &Making,
        existing: &FileStamp,
    ) -> Result<Verdict, Failure> {
        if (existing.mode ^ seen.mode) & 0o170_000 == 0
            && let Some(directory) = spot.place().fd()
        {
            let found = node(directory, spot.name()).map_err(Failure::destination("open"))?;
            let same_owner = !self.myself.is_root() || (existing.uid, existing.gid) == (seen.uid, seen.gid);
            let same_time = self.granularity.same(seen.mtime, existing.mtime);
            if Making::of(found.as_fd(), existing).map_err(Failure::destination("read"))? == *making {
                let policy = self.options.existing;
                let same = same_owner && same_time && existing.mode == seen.mode;
                if same && policy != Existing::Overwrite {
                    return Ok(Verdict::Same);
                }
                // An interrupted run made it, and had not come to its owner and times.
                if self.may_be_ours(directory, spot.name(), existing) {
                    return Ok(Verdict::Replace);
                }
                if policy == Existing::Keep {
                    return Ok(Verdict::Same);
                }
            }
        }
        self.judge_other(spot, seen, existing)
    }
}

impl Making {
    /// `fd` is `O_PATH`. Something else than a node or link is told as `ELOOP`.
    fn of(fd: BorrowedFd<'_>, stamp: &FileStamp) -> std::io::Result<Self> {
        match FileType::from_raw_mode(stamp.mode) {
            FileType::Symlink => Ok(Self::Link(rustix::fs::readlinkat(fd, c"", Vec::new())?)),
            kind @ (FileType::Fifo | FileType::Socket) => Ok(Self::Node(kind, 0)),
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                let found = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
                Ok(Self::Node(kind, rustix::fs::makedev(found.stx_rdev_major, found.stx_rdev_minor)))
            }
            FileType::RegularFile | FileType::Directory | FileType::Unknown => Err(Errno::LOOP.into()),
        }
    }

    fn make(&self, directory: BorrowedFd<'_>, name: &Path) -> rustix::io::Result<()> {
        match self {
            Self::Link(target) => rustix::fs::symlinkat(target.as_c_str(), directory, name),
            Self::Node(kind, device) => rustix::fs::mknodat(directory, name, *kind, Mode::RUSR | Mode::WUSR, *device),
        }
    }
}
