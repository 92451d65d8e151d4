//! How finely a filesystem keeps times.

use rustix::fs::{AtFlags, Timespec, Timestamps};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::PREFIX;
use sys::file::{Moment, stamp};
use sys::{Mode, OFlags};

/// The smallest step of times of change that a filesystem keeps, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Granularity(u64);

/// Has a digit other than zero everywhere.
const PROBE: (i64, u32) = (1_234_567_891, 123_456_789);
const SECOND: u64 = 1_000_000_000;

impl Granularity {
    /// As fine as times are.
    pub(crate) const FINEST: Self = Self(1);

    /// Finds it out with a file without a name.
    ///
    /// # Errors
    /// The filesystem makes no such files (`EOPNOTSUPP`, among others).
    pub(crate) fn of(directory: impl AsFd) -> io::Result<Self> {
        let file = unnamed(directory)?;
        let time = Timespec { tv_sec: PROBE.0, tv_nsec: PROBE.1.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(&file, c"", &times, AtFlags::EMPTY_PATH)?;
        Ok(Self::kept_as(stamp(&file)?.mtime))
    }

    fn kept_as(kept: Moment) -> Self {
        let steps = [1, 100, 1_000, 1_000_000, SECOND];
        let same = |step: &u64| Self(*step).cut(PROBE) == kept;
        // FAT keeps every second second.
        Self(steps.into_iter().find(same).unwrap_or(2 * SECOND))
    }

    fn cut(self, (seconds, nanos): Moment) -> Moment {
        if self.0 > SECOND {
            return (seconds - seconds.rem_euclid(2), 0);
        }
        let nanos = u64::from(nanos) / self.0 * self.0;
        (seconds, u32::try_from(nanos % SECOND).unwrap_or(0))
    }

    /// Whether a file that was given the time `source` would show `kept`.
    pub(crate) fn same(self, source: Moment, kept: Moment) -> bool {
        self.cut(source) == kept || source == kept
    }
}

/// A file without a name, which vanishes when it is closed.
pub(crate) fn unnamed(directory: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let directory = directory.as_fd();
    match rustix::fs::openat(directory, c".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file),
        // NFS and FAT, among others, know no such files.
        Err(_) => soon_unnamed(directory),
    }
}

fn soon_unnamed(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let name = format!("{PREFIX}time-{:016x}", RandomState::new().hash_one(std::process::id()));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, &name, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::unlinkat(directory, &name, AtFlags::empty())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_filesystem_keeps_is_recognized() {
        for (kept, step) in [
            (PROBE, 1),
            ((PROBE.0, 123_456_700), 100),
            ((PROBE.0, 123_456_000), 1_000),
            ((PROBE.0, 123_000_000), 1_000_000),
            ((PROBE.0, 0), SECOND),
            ((PROBE.0 - 1, 0), 2 * SECOND),
        ] {
            let found = Granularity::kept_as(kept);
            assert_eq!(found, Granularity(step));
            assert!(found.same(PROBE, kept) && !found.same((PROBE.0 + 2, PROBE.1), kept));
        }
        assert!(!Granularity::FINEST.same((5, 7), (5, 0)), "a change within the second shows");
        let here = Granularity::of(std::fs::File::open(std::env::temp_dir()).unwrap()).unwrap();
        assert!(here.0 <= SECOND);
    }

    #[test]
    fn a_filesystem_without_unnamed_files_has_one_that_loses_its_name() {
        let scratch = testkit::Scratch::new("unnamed");
        let directory = std::fs::File::open(scratch.path()).unwrap();
        let file = soon_unnamed(directory.as_fd()).unwrap();
        assert_eq!(stamp(&file).unwrap().nlink, 0);
        let mut names = std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.all(|name| !name.to_str().unwrap().starts_with(PREFIX)));
    }
}
