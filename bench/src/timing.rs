//! Taking times: what is done before, so that both sides find the same.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use testkit::tool;

/// What the page cache holds before a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cache {
    /// What earlier runs left in it.
    Warm,
    /// Nothing.
    Cold,
}

impl Cache {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }

    /// Everything earlier is written, so that nobody pays for another's work.
    pub(crate) fn settle(self) {
        tool::run("coreutils", &mut Command::new("sync"));
        if self == Self::Cold {
            fs::write("/proc/sys/vm/drop_caches", "3").expect("drop the caches (as root)");
        }
    }
}

/// Seconds that `work` takes.
pub(crate) fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// `sync` of one file or (with `-f`) of the filesystem that it is on.
pub(crate) fn sync(path: &Path, whole_filesystem: bool) {
    let flag: &[&str] = if whole_filesystem { &["-f"] } else { &[] };
    tool::run("coreutils", Command::new("sync").args(flag).arg(path));
}
