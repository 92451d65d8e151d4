//! What became of each thing, and how many of each there were.

use serde::Serialize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// What something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, socket or device.
    Special,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Did {
    /// Content and all else is at the destination now.
    Copied,
    /// It became another name of a file that is there.
    Linked,
    /// Only owner, mode, times or attributes were brought in line.
    Updated,
    /// Nothing was to be done.
    Same,
    /// Something else is there, which may not be replaced.
    Refused,
    /// It changed each time that it was copied. What is at the destination may be of several moments.
    Changed,
    /// It was removed before it could be copied.
    Vanished,
    /// A filter leaves it out.
    Filtered,
    /// It lies on another filesystem, which is not entered.
    Elsewhere,
    /// The destination has nothing of its kind: a bucket has no pipes, sockets and devices.
    Skipped,
    /// It was removed from the destination, since the source has it no more.
    Deleted,
    /// It could not be done.
    Failed,
}

impl Did {
    /// Whether somebody has to look at it.
    pub fn is_problem(self) -> bool {
        matches!(self, Self::Refused | Self::Changed | Self::Failed)
    }
}

/// One thing, and what became of it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Relative to the root.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// What became of it.
    pub did: Did,
    /// Content that was moved.
    pub bytes: u64,
    /// Why it could not be done, or what is not as it was.
    pub why: Option<String>,
}

/// Who is told, from whichever thread.
pub trait Watcher: Sync {
    /// Whether it wants to know of everything, and not only of what somebody has to look at.
    fn wants_all(&self) -> bool;
    /// See the trait.
    fn tell(&self, event: &Event);
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn wants_all(&self) -> bool {
        false
    }

    fn tell(&self, _: &Event) {}
}

/// Counts, kept while the job runs.
#[derive(Debug, Default)]
pub struct Tally {
    files: AtomicU64,
    directories: AtomicU64,
    symlinks: AtomicU64,
    specials: AtomicU64,
    linked: AtomicU64,
    updated: AtomicU64,
    same: AtomicU64,
    refused: AtomicU64,
    changed: AtomicU64,
    vanished: AtomicU64,
    filtered: AtomicU64,
    elsewhere: AtomicU64,
    skipped: AtomicU64,
    deleted: AtomicU64,
    failed: AtomicU64,
    incomplete: AtomicU64,
    bytes: AtomicU64,
    resumed: AtomicU64,
    verified: AtomicU64,
}

/// What a [`Tally`] says at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Regular files that were copied.
    pub files: u64,
    /// Directories that were made.
    pub directories: u64,
    /// Symbolic links that were made.
    pub symlinks: u64,
    /// Pipes, sockets and devices that were made.
    pub specials: u64,
    /// Names that became further names of files.
    pub linked: u64,
    /// See [`Did::Updated`].
    pub updated: u64,
    /// See [`Did::Same`].
    pub same: u64,
    /// See [`Did::Refused`].
    pub refused: u64,
    /// See [`Did::Changed`].
    pub changed: u64,
    /// See [`Did::Vanished`].
    pub vanished: u64,
    /// See [`Did::Filtered`].
    pub filtered: u64,
    /// See [`Did::Elsewhere`].
    pub elsewhere: u64,
    /// See [`Did::Skipped`].
    pub skipped: u64,
    /// See [`Did::Deleted`].
    pub deleted: u64,
    /// See [`Did::Failed`].
    pub failed: u64,
    /// Of what is at the destination, as many lack an extended attribute.
    pub incomplete: u64,
    /// Content that was moved.
    pub bytes: u64,
    /// Directories that an interrupted run had finished.
    pub resumed: u64,
    /// Files that were read again on both sides, and are equal.
    pub verified: u64,
}

impl Totals {
    /// Whether all is at the destination.
    pub fn is_complete(&self) -> bool {
        self.refused + self.changed + self.failed + self.incomplete == 0
    }

    /// Everything that was looked at.
    pub fn seen(&self) -> u64 {
        self.files + self.symlinks + self.specials + self.linked + self.updated + self.same + self.refused + self.failed
    }
}

impl Tally {
    /// One more.
    pub fn count(&self, kind: Kind, did: Did) {
        let which = match (did, kind) {
            (Did::Copied, Kind::File) => &self.files,
            (Did::Copied, Kind::Directory) => &self.directories,
            (Did::Copied, Kind::Symlink) => &self.symlinks,
            (Did::Copied, Kind::Special) => &self.specials,
            (Did::Linked, _) => &self.linked,
            (Did::Updated, _) => &self.updated,
            (Did::Same, _) => &self.same,
            (Did::Refused, _) => &self.refused,
            (Did::Changed, _) => &self.changed,
            (Did::Vanished, _) => &self.vanished,
            (Did::Filtered, _) => &self.filtered,
            (Did::Elsewhere, _) => &self.elsewhere,
            (Did::Skipped, _) => &self.skipped,
            (Did::Deleted, _) => &self.deleted,
            (Did::Failed, _) => &self.failed,
        };
        which.fetch_add(1, Ordering::Relaxed);
    }

    /// So much content more was moved.
    pub fn moved(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Something is there but for an attribute.
    pub fn incomplete(&self) {
        self.incomplete.fetch_add(1, Ordering::Relaxed);
    }

    /// A directory more was finished before.
    pub fn resumed(&self) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }

    /// A file more was verified.
    pub fn verified(&self) {
        self.verified.fetch_add(1, Ordering::Relaxed);
    }

    /// As of now.
    pub fn totals(&self) -> Totals {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            files: of(&self.files),
            directories: of(&self.directories),
            symlinks: of(&self.symlinks),
            specials: of(&self.specials),
            linked: of(&self.linked),
            updated: of(&self.updated),
            same: of(&self.same),
            refused: of(&self.refused),
            changed: of(&self.changed),
            vanished: of(&self.vanished),
            filtered: of(&self.filtered),
            elsewhere: of(&self.elsewhere),
            skipped: of(&self.skipped),
            deleted: of(&self.deleted),
            failed: of(&self.failed),
            incomplete: of(&self.incomplete),
            bytes: of(&self.bytes),
            resumed: of(&self.resumed),
            verified: of(&self.verified),
        }
    }
}
