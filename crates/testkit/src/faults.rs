//! Storage that fails.
//!
//! What can be had without kernel options that stock kernels lack (fault injection, device-mapper's error target):
//! - ENOSPC: [`fill`] a small [`LoopFs`].
//! - EIO: [`shut_down`] an ext4 or XFS filesystem, which is also what a power failure leaves. Not btrfs: it has no such
//!   call before Linux 6.19. Not single blocks.
//! - A device that does not answer: [`freeze`] what a [`LoopFs::thin_on`] lies on.
//! - Data that is lost on its way from the page cache to the device: [`fill`] what a [`LoopFs::thin_on`] lies on.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::loopfs::{FsKind, LoopFs};
use crate::tool;

/// The space that [`fill`] has taken; dropping it gives the space back.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        // Before that, btrfs and XFS may still have to get to it.
        if let Some(root) = self.path.parent() {
            let _ = Command::new("sync").arg("-f").arg(root).status();
        }
    }
}

/// Takes the free space of `fs` but for about `leave_bytes`, with a file at its root that is allocated and not written.
///
/// # Panics
/// When the space cannot be taken.
#[track_caller]
pub fn fill(fs: &LoopFs, leave_bytes: u64) -> Ballast {
    let path = fs.path().join(".ballast");
    let file = File::create_new(&path).expect("create a file that takes space");
    let ballast = Ballast { path };
    let mut taken = 0;
    // By halves: metadata needs space too, so the last step cannot be computed.
    let mut step = fs.free_bytes();
    while step >= 4096 && fs.free_bytes() > leave_bytes {
        step = step.min(fs.free_bytes() - leave_bytes).max(4096);
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), taken, step) {
            Ok(()) => taken += step,
            Err(Errno::NOSPC) => step /= 2,
            Err(error) => panic!("allocate {step} bytes on {}: {error}", fs.kind()),
        }
        tool::run("coreutils", Command::new("sync").arg("-f").arg(fs.path()));
    }
    ballast
}

/// A filesystem that takes no writes; dropping it lets them go on.
#[derive(Debug)]
pub struct Frozen {
    path: PathBuf,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.path).status();
    }
}

/// From now on whoever writes to `fs` waits, and so does what is written to filesystems whose images lie on it. Reads go on. Dropping
/// what this gives ends it.
///
/// # Panics
/// When it cannot be frozen.
#[track_caller]
pub fn freeze(fs: &LoopFs) -> Frozen {
    tool::run("util-linux", Command::new("fsfreeze").arg("-f").arg(fs.path()));
    Frozen { path: fs.path() }
}

/// From now on every access to `fs` fails with EIO, and what was not synced is lost, the journal's buffers too.
/// After [`LoopFs::remount`] it works again, with the content that a power failure at this moment would have left.
///
/// # Panics
/// On btrfs, which cannot.
#[track_caller]
pub fn shut_down(fs: &LoopFs) {
    assert!(fs.kind() != FsKind::Btrfs, "btrfs cannot be shut down by Linux before 6.19: use ext4 or XFS");
    tool::run("xfsprogs", Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(fs.path()));
}

/// Changes one byte in the middle of a file, behind everybody's back; its times stay.
///
/// # Panics
/// When the file cannot be written, or is empty.
#[track_caller]
pub fn corrupt(path: &Path) {
    use std::os::unix::fs::FileExt;
    let file =
        File::options().read(true).write(true).open(path).unwrap_or_else(|error| panic!("open {path:?}: {error}"));
    let meta = file.metadata().expect("stat an open file");
    assert!(meta.len() > 0, "{path:?} has no byte to corrupt");
    let mut byte = [0];
    file.read_exact_at(&mut byte, meta.len() / 2).expect("read a byte");
    file.write_all_at(&[byte[0] ^ 0x40], meta.len() / 2).expect("write a byte");
    let times = std::fs::FileTimes::new().set_modified(meta.modified().expect("a time of modification"));
    file.set_times(times).expect("set a file's times");
}
