//! Small files that are whole, and wait for their names until their content is on stable storage: one sync for many of them.
//!
//! Whoever finds a file with its object's size and time takes it for whole, also after a power failure. So it gets its name, which is when that shows,
//! after its content is where no such failure takes it.

use super::target::Unfinished;
use super::{Done, Run};
use crate::failure::JobError;
use crate::report::Kind;
use parking_lot::Mutex;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// In one group, at most. Each may keep a directory open.
const FILES: u64 = 1000;
/// And of open files that are allowed, one in so many.
const OF_DESCRIPTORS: u64 = 8;
const BYTES: u64 = 128 << 20;
/// How long the first of them waits, if others come meanwhile.
const WAIT: Duration = Duration::from_secs(1);

/// One of them.
pub(super) struct Waiting {
    pub(super) unfinished: Unfinished,
    pub(super) name: String,
    pub(super) replace: bool,
    /// From the root of the destination.
    pub(super) path: PathBuf,
    /// What is told when it has its name.
    pub(super) done: Done,
}

/// See the module.
pub(super) struct Group {
    files: u64,
    waiting: Mutex<Gathered>,
    /// Held by who syncs: of what is lost only one sync hears, and none of what waited then is named. Whether that happened.
    lost: Mutex<bool>,
}

#[derive(Default)]
struct Gathered {
    files: Vec<Waiting>,
    bytes: u64,
    since: Option<Instant>,
}

impl Gathered {
    fn is_due(&self, files: u64) -> bool {
        self.files.len() as u64 >= files
            || self.bytes >= BYTES
            || self.since.is_some_and(|since| since.elapsed() >= WAIT)
    }
}

impl Group {
    pub(super) fn new() -> Self {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let files = FILES.min(descriptors / OF_DESCRIPTORS).max(1);
        Self { files, waiting: Mutex::default(), lost: Mutex::default() }
    }

    /// One more. Whoever finds that there are enough has them named, and all others wait then that have brought too many.
    pub(super) fn add(&self, run: &Run<'_>, root: &OwnedFd, waiting: Waiting) {
        let is_due = {
            let mut gathered = self.waiting.lock();
            gathered.bytes += waiting.done.bytes;
            gathered.since.get_or_insert_with(Instant::now);
            gathered.files.push(waiting);
            gathered.is_due(self.files)
        };
        if is_due {
            self.named(run, root, |gathered| gathered.is_due(self.files));
        }
    }

    /// Those that still wait get their names.
    pub(super) fn finish(&self, run: &Run<'_>, root: &OwnedFd) {
        self.named(run, root, |_| true);
    }

    fn named(&self, run: &Run<'_>, root: &OwnedFd, is_due: impl Fn(&Gathered) -> bool) {
        let mut lost = self.lost.lock();
        let files = {
            let mut gathered = self.waiting.lock();
            // Another one had them named meanwhile.
            if gathered.files.is_empty() || !is_due(&gathered) {
                return;
            }
            std::mem::take(&mut *gathered).files
        };
        if *lost {
            return;
        }
        if let Err(error) = sys::file::sync_fs(root) {
            *lost = true;
            return run.ends(JobError::io("make durable what was written into", Path::new("the destination"))(error));
        }
        drop(lost);
        for Waiting { unfinished, name, replace, path, done } in files {
            match unfinished.publish(&name, replace) {
                Ok(()) => run.told(Kind::File, done, || path),
                Err(trouble) => run.failed(Kind::File, trouble, || path),
            }
        }
    }
}
