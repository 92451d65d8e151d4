//! A directory of a test's own that does not outlive the test: not its files, not the mounts made in it, and not the
//! processes that were started for it.
//!
//! A test that is killed cleans nothing up. So each directory holds a file that its owner keeps locked, and whoever
//! makes the next one removes those that nobody holds any more.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use tempfile::TempDir;

use crate::remains::end_processes_of;

/// Begins the name of each, so that those of killed tests are recognised.
const PREFIX: &str = "sifaka-test-";
const LOCK_FILE: &str = ".lock";

/// The directory. Dropping it kills the processes whose command line or environment names it, unmounts what is mounted
/// in it (lazily when it is in use) and removes it.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    /// Held locked as long as we live; never read.
    _lock: OwnedFd,
}

impl Scratch {
    /// Makes one; `purpose` becomes part of its name.
    ///
    /// # Panics
    /// When the directory cannot be made.
    #[track_caller]
    pub fn new(purpose: &str) -> Self {
        remove_leftovers(&std::env::temp_dir());
        let prefix = format!("{PREFIX}{purpose}-");
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir().expect("make a temporary directory");
        let lock = lock(dir.path()).expect("lock a new temporary directory");
        Self { dir, _lock: lock }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path of `name` in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        end_processes_of(self.dir.path());
        unmount_below(self.dir.path());
    }
}

/// A line of `/proc/self/mountinfo`.
pub(crate) struct Mount {
    pub(crate) point: PathBuf,
    pub(crate) source: PathBuf,
}

/// What is mounted at or below `dir`, in the order of mounting.
pub(crate) fn mounts_below(dir: &Path) -> Vec<Mount> {
    let text = fs::read("/proc/self/mountinfo").expect("read /proc/self/mountinfo");
    let mounts = text.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let point = unescape(fields.nth(4)?);
        // Optional fields end with a lone dash; then the type, then the source.
        let source = unescape(fields.skip_while(|&field| field != b"-").nth(2)?);
        Some(Mount { point, source })
    });
    mounts.filter(|mount| mount.point.starts_with(dir)).collect()
}

/// Unmounts everything mounted at or below `dir`, in the reverse order of mounting; lazily when it is in use.
fn unmount_below(dir: &Path) {
    for mount in mounts_below(dir).iter().rev() {
        let plain = Command::new("umount").arg(&mount.point).output();
        if !plain.is_ok_and(|output| output.status.success()) {
            let _ = Command::new("umount").arg("-l").arg(&mount.point).output();
        }
    }
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        match (first, octal) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

fn lock(dir: &Path) -> Option<OwnedFd> {
    let file = File::options().create(true).append(true).open(dir.join(LOCK_FILE)).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file.into())
}

/// Removes what tests left that were killed.
fn remove_leftovers(parent: &Path) {
    // A younger one may be between its creation and its lock.
    let long_ago = SystemTime::now() - Duration::from_secs(60);
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes());
        let old = || fs::metadata(path.join(LOCK_FILE)).and_then(|lock| lock.modified()).is_ok_and(|at| at < long_ago);
        if ours
            && old()
            && let Some(_lock) = lock(&path)
        {
            end_processes_of(&path);
            unmount_below(&path);
            let _ = fs::remove_dir_all(&path);
        }
    }
}
