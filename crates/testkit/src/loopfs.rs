//! Real filesystems on loop devices, made and removed by the test that wants one.
//!
//! Not here: private mounts and handles (that is `sys`, the thing under test). Everything is done with `mkfs`,
//! `mount` and `umount`, as an administrator would, so that a fault of `sys` cannot hide itself.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use tempfile::TempDir;

use crate::tool;

/// Names the directories, so that those of killed tests are recognised.
const PREFIX: &str = "sifaka-loopfs-";
const MIB: u64 = 1 << 20;
/// `mount -o loop` picks a free device and then takes it; somebody else may have been faster.
const MOUNT_ATTEMPTS: u32 = 50;

/// The filesystems that Sifaka's promises are tested on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FsKind {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl FsKind {
    /// Each of them, for tests that go through all.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// The kernel's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The smallest size that its `mkfs` accepts; [`LoopFs::new`] rounds up to it.
    pub fn min_size_mib(self) -> u64 {
        match self {
            Self::Ext4 => 4,
            Self::Xfs => 300,
            Self::Btrfs => 128,
        }
    }

    fn mkfs(self, image: &Path) {
        let (program, package, args): (_, _, &[&str]) = match self {
            // Without lazy initialisation: a kernel thread that goes on writing for minutes disturbs measurements.
            Self::Ext4 => {
                ("mkfs.ext4", "e2fsprogs", &["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            }
            Self::Xfs => ("mkfs.xfs", "xfsprogs", &["-q", "-f"]),
            Self::Btrfs => ("mkfs.btrfs", "btrfs-progs", &["-q", "-f"]),
        };
        tool::run(package, Command::new(program).args(args).arg(image));
    }
}

impl fmt::Display for FsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A mounted filesystem of its own. Dropping it unmounts (lazily when something still uses it) and removes it.
///
/// What a killed test left behind is removed by the next [`LoopFs::new`] of any test.
#[derive(Debug)]
pub struct LoopFs {
    kind: FsKind,
    dir: TempDir,
    /// Held locked as long as we live: how others see that this one is in use. Never read.
    _lock: OwnedFd,
}

impl LoopFs {
    /// Makes and mounts a filesystem on a sparse image of `size_mib` MiB, or of [`FsKind::min_size_mib`] if that is more.
    ///
    /// # Panics
    /// When it cannot, saying what is missing: privileges, a package, a kernel module.
    #[track_caller]
    pub fn new(kind: FsKind, size_mib: u64) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "tests on real filesystems mount loop devices: run them as root (`sudo make test`)"
        );
        remove_leftovers(&std::env::temp_dir());
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir().expect("make a directory for a filesystem image");
        let lock = lock(dir.path()).expect("lock the directory of a new filesystem image");
        let fs = Self { kind, dir, _lock: lock };
        let image = File::create_new(fs.image()).expect("create a filesystem image");
        image.set_len(size_mib.max(kind.min_size_mib()) * MIB).expect("size a filesystem image");
        kind.mkfs(&fs.image());
        fs::create_dir(fs.path()).expect("make a mount point");
        fs.mount();
        fs
    }

    /// Which filesystem it is.
    pub fn kind(&self) -> FsKind {
        self.kind
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// The file that holds its blocks.
    pub fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// The block device it is mounted from, such as `/dev/loop3`.
    pub fn device(&self) -> PathBuf {
        let mounts = mounts_below(&self.path());
        let own = mounts.into_iter().find(|mount| mount.point == self.path()).expect("the filesystem is mounted");
        own.source
    }

    /// Bytes in use, as `df` counts them.
    pub fn used_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("statvfs of a loop filesystem");
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }

    /// Bytes that can still be written.
    pub fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("statvfs of a loop filesystem");
        stat.f_bavail * stat.f_frsize
    }

    /// Unmounts and mounts again: what is read afterwards comes from the image, and not from a cache.
    ///
    /// # Panics
    /// When something still uses the filesystem.
    #[track_caller]
    pub fn remount(&self) {
        tool::run("util-linux", Command::new("umount").arg(self.path()));
        self.mount();
    }

    fn mount(&self) {
        let mut command = Command::new("mount");
        command.args(["-t", self.kind.name(), "-o", "loop"]).arg(self.image()).arg(self.path());
        let mut attempt = 1;
        loop {
            let output = tool::output("util-linux", &mut command);
            if output.status.success() {
                return;
            }
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let lost_race = text.contains("loop device") || text.contains("busy");
            assert!(
                lost_race && attempt < MOUNT_ATTEMPTS,
                "mount of {} (attempt {attempt}): {}\nIf the kernel does not know the filesystem, `modprobe {}`.",
                self.kind,
                text.trim(),
                self.kind
            );
            // There is no event for "a loop device became free".
            std::thread::sleep(Duration::from_millis(20 * u64::from(attempt)));
            attempt += 1;
        }
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        unmount_below(self.dir.path());
    }
}

/// A line of `/proc/self/mountinfo`.
struct Mount {
    point: PathBuf,
    source: PathBuf,
}

/// Unmounts everything mounted at or below `dir`, in the reverse order of mounting; lazily when it is in use.
pub(crate) fn unmount_below(dir: &Path) {
    for mount in mounts_below(dir).iter().rev() {
        let plain = Command::new("umount").arg(&mount.point).output();
        if !plain.is_ok_and(|output| output.status.success()) {
            let _ = Command::new("umount").arg("-l").arg(&mount.point).output();
        }
    }
}

fn mounts_below(dir: &Path) -> Vec<Mount> {
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
    let file = File::options().create(true).append(true).open(dir.join("lock")).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file.into())
}

/// Removes what tests left that were killed before they could clean up.
fn remove_leftovers(parent: &Path) {
    // A younger one may be between its creation and its lock.
    let long_ago = SystemTime::now() - Duration::from_secs(60);
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes());
        let old = fs::metadata(path.join("lock")).and_then(|lock| lock.modified()).is_ok_and(|made| made < long_ago);
        if ours
            && old
            && let Some(_lock) = lock(&path)
        {
            unmount_below(&path);
            let _ = fs::remove_dir_all(&path);
        }
    }
}
