//! Points in time of a replica: what it was, kept for a while in its control directory.
//!
//! `points/TIME` is the tree as it was when the replica stood for the source at that moment, without the control directory; `points/TIME.json` says how it
//! came about. A point is made under another name (`make`), and gets its own when it is whole and on stable storage: whatever happens meanwhile, what has the
//! name of a moment is whole, and the rest is removed by the next run.
//!
//! How it is made depends on the destination ([`Method`]), and so does what may be done to the replica afterwards: where points have the
//! replica's own files by further names, none of those is changed in place any more ([`Points::names_outside`]).

mod make;

use super::control::{self, Control};
use crate::failure::JobError;
use crate::migrate::{names_in, remove_tree};
use crate::moment::{format, parse};
use crate::walk::as_path;
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use sys::{Mode, OFlags};

/// Of the directory.
pub(super) const NAME: &str = "points";
/// Ends the name of a point's record.
const RECORD: &str = ".json";
/// Begins the name of a point that is being made, and of one that is being removed.
const NEW: &str = ".new-";
const GONE: &str = ".gone-";
const FORMAT: u32 = 1;

/// How points come about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A snapshot of the replica, which is a subvolume of btrfs.
    Snapshot,
    /// A tree of files that share their blocks with the replica's.
    Reflinks,
    /// A tree in which the replica's files have further names. They are never changed in place.
    Links,
}

/// A point in time of a replica. Times are seconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Point {
    /// Of its directory, from the root of the replica.
    pub path: String,
    /// All that was changed at the source before this is in it.
    pub synced_to: u64,
    /// Nothing is in it that was changed at the source after this.
    pub until: Option<u64>,
    /// It is what the source was at one moment. Otherwise, what was changed at the source between those two is in it, or not, or in part.
    pub exact: bool,
    /// `None`: it does not say.
    pub method: Option<Method>,
}

/// How often points are taken, and for how long they are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// From the moment that a point stands for. The newest one stays all the same.
    pub keep: Duration,
    /// From one to the next.
    pub every: Duration,
}

/// What the replica stands for when a point is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) synced_to: u64,
    pub(super) until: u64,
    pub(super) exact: bool,
}

/// `TIME.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    synced_to: u64,
    until: u64,
    exact: bool,
    method: Method,
}

/// See the module. Of whoever has the replica's lock, or only looks.
pub(super) struct Points {
    store: Control,
    /// Points that may have the replica's files by further names.
    linked: AtomicU64,
}

impl Points {
    /// Those of a replica, of which there need not be any.
    pub(super) fn open(control: &Control) -> Result<Self, JobError> {
        let points = Self { store: control.below(NAME)?, linked: AtomicU64::new(0) };
        points.count_linked()?;
        Ok(points)
    }

    /// What there is, the oldest first. Things of other names are not looked at.
    pub(super) fn list(&self) -> Result<Vec<Point>, JobError> {
        let path = self.store.path();
        let mut points = Vec::new();
        for name in names_in(self.store.fd()).map_err(JobError::io("list", path))? {
            if let Some(text) = self.is_point(&name) {
                points.push(self.point(text));
            }
        }
        points.sort_by_key(|point| point.synced_to);
        Ok(points)
    }

    fn is_point<'a>(&self, name: &'a [u8]) -> Option<&'a str> {
        let text = str::from_utf8(name).ok().filter(|text| parse(text).is_some())?;
        let found = rustix::fs::statat(self.store.fd(), text, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (FileType::from_raw_mode(found.st_mode) == FileType::Directory).then_some(text)
    }

    fn point(&self, name: &str) -> Point {
        let synced_to = parse(name).unwrap_or_default();
        let read = self.store.read::<Record>(&format!("{name}{RECORD}")).unwrap_or_else(|error| {
            tracing::warn!(%error, "a point in time does not say how it came about");
            None
        });
        let record = read.filter(|record| record.format == FORMAT && record.synced_to == synced_to);
        Point {
            path: format!("{}/{NAME}/{name}", control::NAME),
            synced_to,
            until: record.as_ref().map(|record| record.until),
            exact: record.as_ref().is_some_and(|record| record.exact),
            method: record.map(|record| record.method),
        }
    }

    /// What nobody knows is taken for what asks for the most care.
    fn count_linked(&self) -> Result<(), JobError> {
        let points = self.list()?;
        let linked = points.iter().filter(|point| !matches!(point.method, Some(Method::Snapshot | Method::Reflinks)));
        self.linked.store(linked.count() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// So many names may a file of the replica have in points, where it may have any: then it is not changed in place.
    pub(super) fn names_outside(&self) -> Option<u64> {
        Some(self.linked.load(Ordering::Relaxed)).filter(|linked| *linked > 0)
    }

    /// A point of what is in the replica now, which nobody changes meanwhile. `None`: there is one of this moment.
    ///
    /// # Errors
    /// As text for people. Nothing is left but what [`sweep`](Self::sweep) removes.
    pub(super) fn take(
        &self,
        target: &Path,
        state: &Path,
        moment: Moment,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Point>, String> {
        let name = format(moment.synced_to);
        if self.is_point(name.as_bytes()).is_some() {
            return Ok(None);
        }
        let new = format!("{NEW}{name}");
        let taken = (|| {
            let method = make::method(target, self.store.fd())?;
            make::make(method, target, &self.store, &new, state, stop)?;
            let Moment { synced_to, until, exact } = moment;
            let record = Record { format: FORMAT, synced_to, until, exact, method };
            self.store.write(&format!("{name}{RECORD}"), &record).map_err(|error| error.to_string())?;
            let named = sys::file::rename_noreplace(self.store.fd(), &new, self.store.fd(), &name)
                .and_then(|()| sys::file::sync_all(self.store.fd()));
            named.map_err(|error| format!("cannot give it its name: {error}"))
        })();
        if taken.is_err()
            && let Err(error) = self.sweep(&|| stop())
        {
            tracing::warn!(%error, "cannot remove what is left of a point in time that could not be made");
        }
        let counted = self.count_linked().map_err(|error| error.to_string());
        taken.and(counted).map(|()| Some(self.point(&name)))
    }

    /// Removes what is left of points that were being made, or removed.
    pub(super) fn sweep(&self, stop: &dyn Fn() -> bool) -> io::Result<()> {
        for name in names_in(self.store.fd())? {
            if [NEW, GONE].iter().any(|prefix| name.starts_with(prefix.as_bytes())) {
                self.remove(&name, stop)?;
            } else if self.is_orphan(&name)? {
                rustix::fs::unlinkat(self.store.fd(), as_path(&name), AtFlags::empty())?;
            }
        }
        Ok(())
    }

    /// A record of a point that is not there, or an unfinished one.
    fn is_orphan(&self, name: &[u8]) -> io::Result<bool> {
        let Ok(text) = str::from_utf8(name) else { return Ok(false) };
        let point = text.strip_suffix(".new").unwrap_or(text).strip_suffix(RECORD);
        let Some(point) = point.filter(|point| parse(point).is_some()) else { return Ok(false) };
        if text.ends_with(".new") {
            return Ok(true);
        }
        match rustix::fs::statat(self.store.fd(), point, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(false),
            Err(Errno::NOENT) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what is left of unfinished points and, where there is a limit, those that have been kept for long enough, all but the newest. How many.
    pub(super) fn expire(&self, keep: Option<Duration>, now: u64, stop: &dyn Fn() -> bool) -> Result<u64, JobError> {
        let failed = || JobError::io("remove points in time from", self.store.path());
        let mut points = self.list()?;
        points.pop();
        let mut removed = 0;
        let is_old = |point: &&Point| keep.is_some_and(|keep| point.synced_to.saturating_add(keep.as_secs()) < now);
        for point in points.iter().filter(is_old) {
            let name = format(point.synced_to);
            let gone = format!("{GONE}{name}");
            let renamed = sys::file::rename_noreplace(self.store.fd(), &name, self.store.fd(), &gone);
            renamed.map_err(failed())?;
            removed += 1;
            self.remove(gone.as_bytes(), stop).map_err(failed())?;
        }
        self.sweep(stop).map_err(failed())?;
        self.count_linked()?;
        Ok(removed)
    }

    fn remove(&self, name: &[u8], stop: &dyn Fn() -> bool) -> io::Result<()> {
        let directory = match open(self.store.fd(), name) {
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Ok(rustix::fs::unlinkat(self.store.fd(), as_path(name), AtFlags::empty())?);
            }
            other => other?,
        };
        if sys::btrfs::is_subvolume(&directory)? {
            drop(directory);
            return sys::btrfs::destroy(self.store.fd(), name);
        }
        remove_tree(self.store.fd(), name, stop)
    }
}

fn open(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, as_path(name), flags, Mode::empty())
}

/// How the next point of a replica would be made.
pub(super) fn method(target: &Path, points: &Points) -> Result<Method, String> {
    make::method(target, points.store.fd().as_fd())
}
