//! Real filesystems on loop devices, made and removed by the test that wants one.
//!
//! Not here: private mounts and handles (that is `sys`, the thing under test). Everything is done with `mkfs`,
//! `mount` and `umount`, as an administrator would, so that a fault of `sys` cannot hide itself.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::FallocateFlags;

use crate::scratch::{Scratch, mounts_below};
use crate::tool;

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

    fn mkfs(self, image: &Path, more: &[&str]) {
        let (program, package, args): (_, _, &[&str]) = match self {
            // Without lazy initialisation: a kernel thread that goes on writing for minutes disturbs measurements.
            Self::Ext4 => {
                ("mkfs.ext4", "e2fsprogs", &["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            }
            Self::Xfs => ("mkfs.xfs", "xfsprogs", &["-q", "-f"]),
            Self::Btrfs => ("mkfs.btrfs", "btrfs-progs", &["-q", "-f"]),
        };
        tool::run(package, Command::new(program).args(args).args(more).arg(image));
    }
}

impl fmt::Display for FsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A mounted filesystem of its own. Dropping it unmounts (lazily when something still uses it) and removes it.
#[derive(Debug)]
pub struct LoopFs {
    kind: FsKind,
    scratch: Scratch,
}

impl LoopFs {
    /// Makes and mounts a filesystem on a sparse image of `size_mib` MiB, or of [`FsKind::min_size_mib`] if that is more.
    ///
    /// # Panics
    /// When it cannot, saying what is missing: privileges, a package, a kernel module.
    #[track_caller]
    pub fn new(kind: FsKind, size_mib: u64) -> Self {
        let fs = Self::not_made(kind);
        fs.make(&fs.image(), size_mib, &[]);
        fs
    }

    /// An ext4 filesystem with so many inodes, or a few more: `mkfs` rounds up.
    ///
    /// # Panics
    /// As [`LoopFs::new`].
    #[track_caller]
    pub fn with_inodes(size_mib: u64, inodes: u64) -> Self {
        let fs = Self::not_made(FsKind::Ext4);
        fs.make(&fs.image(), size_mib, &["-N", &inodes.to_string()]);
        fs
    }

    /// An ext4 filesystem in which directories can be encrypted: see [`encrypted_directory`](Self::encrypted_directory).
    ///
    /// # Panics
    /// As [`LoopFs::new`].
    #[track_caller]
    pub fn with_encryption(size_mib: u64) -> Self {
        let fs = Self::not_made(FsKind::Ext4);
        fs.make(&fs.image(), size_mib, &["-O", "encrypt"]);
        fs
    }

    /// Damages the device where it holds these bytes, which have to lie on it in one piece: on btrfs, whoever reads them then gets `EIO`.
    ///
    /// # Panics
    /// When they are not there, or something uses the filesystem.
    #[track_caller]
    pub fn damage(&self, content: &[u8]) {
        self.unmounted(|image| {
            let file = File::options().read(true).write(true).open(image).expect("open a filesystem image");
            let mut buffer = vec![0; content.len()];
            let size = file.metadata().expect("look at a filesystem image").len();
            let mut found = false;
            for at in (0..size.saturating_sub(content.len() as u64)).step_by(4096) {
                file.read_exact_at(&mut buffer, at).expect("read a filesystem image");
                if buffer == content {
                    file.write_all_at(b"damaged", at).expect("write a filesystem image");
                    found = true;
                }
            }
            assert!(found, "the content is not on the device");
            file.sync_all().expect("sync a filesystem image");
        });
    }

    /// Makes a directory whose files are encrypted (`fs/crypto`), with a key that the kernel has until the filesystem is unmounted.
    #[track_caller]
    pub fn encrypted_directory(&self, path: &Path) {
        fs::create_dir(path).expect("make a directory");
        let key = self.scratch.path().join("key");
        fs::write(&key, [7; 64]).expect("write a key");
        let mut command = Command::new("xfs_io");
        command.args(["-c", "add_enckey"]).arg(self.path()).stdin(File::open(&key).expect("open a key"));
        let added = tool::run("xfsprogs", &mut command);
        let id = String::from_utf8_lossy(&added).split_whitespace().last().map(str::to_owned);
        let id = id.expect("xfs_io names the key");
        tool::run("xfsprogs", Command::new("xfs_io").args(["-c", &format!("set_encpolicy {id}")]).arg(path));
    }

    /// An ext4 filesystem of 100 MiB whose image is a sparse file on `backing`, to be dropped before that. While `backing` is full, what is
    /// written where nothing ever was cannot reach the device: the kernel finds that out when it writes it back. Inodes and bitmaps have
    /// their places, and there is no journal, whose failure would end everything.
    ///
    /// # Panics
    /// As [`LoopFs::new`].
    #[track_caller]
    pub fn thin_on(backing: &Self) -> Self {
        let fs = Self::not_made(FsKind::Ext4);
        let image = backing.path().join(".image");
        std::os::unix::fs::symlink(&image, fs.image()).expect("link to a filesystem image");
        // One group: superblock, descriptors, two bitmaps, 256 blocks of inodes; then data.
        let one_group = ["-b", "4096", "-N", "4096", "-I", "256", "-O", "^has_journal,^flex_bg,^resize_inode"];
        fs.make(&image, 100, &one_group);
        let file = File::options().write(true).open(&image).expect("open a filesystem image");
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 264 * 4096).expect("allocate a filesystem's inodes");
        fs
    }

    fn not_made(kind: FsKind) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "tests on real filesystems mount loop devices: run them as root (`sudo make test`)"
        );
        Self { kind, scratch: Scratch::new(kind.name()) }
    }

    fn make(&self, image: &Path, size_mib: u64, more: &[&str]) {
        let file = File::create_new(image).expect("create a filesystem image");
        file.set_len(size_mib.max(self.kind.min_size_mib()) * MIB).expect("size a filesystem image");
        self.kind.mkfs(image, more);
        fs::create_dir(self.path()).expect("make a mount point");
        self.mount();
    }

    /// Which filesystem it is.
    pub fn kind(&self) -> FsKind {
        self.kind
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.scratch.join("mnt")
    }

    /// The file that holds its blocks.
    pub fn image(&self) -> PathBuf {
        self.scratch.join("image")
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

    /// All inodes, in use or not.
    pub fn inodes(&self) -> u64 {
        rustix::fs::statvfs(self.path()).expect("statvfs of a loop filesystem").f_files
    }

    /// Takes it from its place, which is an empty directory then. Whoever has something open on it keeps that.
    ///
    /// # Panics
    /// When it cannot.
    #[track_caller]
    pub fn unmount(&self) {
        tool::run("util-linux", Command::new("umount").arg("-l").arg(self.path()));
    }

    /// Mounts it again after [`unmount`](Self::unmount): the same one, also if somebody still has it open.
    ///
    /// # Panics
    /// When it cannot.
    #[track_caller]
    pub fn mount_again(&self) {
        self.mount();
    }

    /// Unmounts and mounts again: what is read afterwards comes from the image, and not from a cache.
    ///
    /// # Panics
    /// When something uses the filesystem, and goes on using it.
    #[track_caller]
    pub fn remount(&self) {
        self.unmounted(|_| {});
    }

    #[track_caller]
    fn unmounted(&self, work: impl FnOnce(&Path)) {
        let mut command = Command::new("umount");
        command.arg(self.path());
        for attempt in 1.. {
            let output = tool::output("util-linux", &mut command);
            if output.status.success() {
                break;
            }
            // A process that was killed lets go of it a little later.
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(text.contains("busy") && attempt < MOUNT_ATTEMPTS, "umount (attempt {attempt}): {}", text.trim());
            std::thread::sleep(Duration::from_millis(20 * u64::from(attempt)));
        }
        work(&self.image());
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
