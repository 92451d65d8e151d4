//! What an interrupted run of this job left at the destination, told from what somebody else has put there or changed: that stays.
//!
//! A copy has its times last. So a file that came about since the job began is a copy of ours, whole and not touched since, if its time of change lies
//! before the job's begin. If it does not, the file may be half written, or somebody may have worked on it: then it counts as ours only if all
//! that is in it is in the source, too.

use super::Migration;
use super::file::{DIRECT_BYTES, open_target};
use super::spot::Spot;
use crate::content::is_part;
use crate::failure::Failure;
use rustix::fs::{AtFlags, StatxFlags};
use std::os::fd::AsFd;
use std::path::Path;
use sys::file::{FileStamp, Moment, stamp};

impl Migration<'_> {
    /// Whether it came about while the job ran. A directory also counts if nobody knows when it came about and nobody else may enter it.
    pub(super) fn may_be_ours(&self, directory: impl AsFd, name: &Path, existing: &FileStamp) -> bool {
        let Some(earlier) = &self.earlier else { return false };
        let is_directory = super::file::is_directory(existing);
        if existing.ctime < earlier.started || existing.nlink != 1 && !is_directory {
            return false;
        }
        match born(directory, name) {
            Some(born) => born >= earlier.started,
            None => !is_directory || existing.mode & 0o7777 == 0o700 && self.myself.owns(existing),
        }
    }

    /// Whether an interrupted run has made what has the name, and nothing is lost when it is replaced.
    pub(super) fn is_leftover(
        &self,
        spot: Spot<'_>,
        source: &FileStamp,
        existing: &FileStamp,
    ) -> Result<bool, Failure> {
        let (Some(earlier), Some(directory)) = (&self.earlier, spot.place().fd()) else { return Ok(false) };
        if !existing.is_regular || !self.may_be_ours(directory, spot.name(), existing) {
            return Ok(false);
        }
        if existing.mtime < earlier.started && born(directory, spot.name()).is_some() {
            return Ok(true);
        }
        if !source.is_regular || existing.size > DIRECT_BYTES {
            return Ok(false);
        }
        let target = open_target(spot)?;
        let found = stamp(&target).map_err(Failure::destination("read attributes of"))?;
        Ok((found.dev, found.ino) == (existing.dev, existing.ino) && is_part(&target, &self.open_source(spot)?)?)
    }
}

/// When it came about; `None` where the filesystem does not say.
fn born(directory: impl AsFd, name: &Path) -> Option<Moment> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let found = rustix::fs::statx(directory, name, flags, StatxFlags::BTIME).ok()?;
    (found.stx_mask & StatxFlags::BTIME.bits() != 0).then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec))
}
