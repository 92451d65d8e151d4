//! The filesystem that is managed, seen through the agent's private mount.

use model::{FileHandle, Stamp, Timestamp};
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use sys::OFlags;
use sys::file::FileStamp;
use sys::handle::RawHandle;

/// Opens files by handle. Paths are never used: they may name another file by the time they are.
#[derive(Debug)]
pub struct Filesystem {
    root: OwnedFd,
    /// See [`sys::mounts::FsInfo::fsid`]; files of other filesystems are refused by it, and records named.
    pub fsid: [u8; 8],
    /// See [`sys::mounts::FsInfo::kernel_fsid`]; what lasts as long as a mount, a guard, is found by it.
    pub kernel_fsid: [u8; 8],
    /// Device number.
    pub device: u64,
    /// ext4, xfs, btrfs.
    pub kind: String,
    /// One at a time: the kernel tells of a failed write-back once for each open file, and `root` is one.
    syncing: Mutex<()>,
    failed_syncs: AtomicU64,
}

impl Filesystem {
    /// `mount` is where the filesystem is mounted. What is used is a mount of its own, attached nowhere: it makes no other
    /// mount busy, and nobody can unmount it.
    pub fn at(mount: &Path) -> io::Result<Self> {
        let info = sys::mounts::filesystem_of(mount)?;
        let detached = sys::mounts::clone_private(sys::mounts::open_mount(mount)?)?;
        // Handles are opened relative to a directory that is really open, not only named.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(detached, ".", flags, sys::Mode::empty())?;
        let sys::mounts::FsInfo { fsid, kernel_fsid, dev: device, kind, .. } = info;
        let (syncing, failed_syncs) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self { root, fsid, kernel_fsid, device, kind, syncing, failed_syncs })
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> impl AsFd + '_ {
        self.root.as_fd()
    }

    /// Opens a file. ESTALE when it is gone; EINVAL when it is no regular file.
    pub fn open(&self, handle: &FileHandle, flags: OFlags) -> io::Result<OwnedFd> {
        self.open_and_look(handle, flags).map(|(fd, _)| fd)
    }

    /// As [`Filesystem::open`], with what it was after it was opened.
    pub(crate) fn open_and_look(&self, handle: &FileHandle, flags: OFlags) -> io::Result<(OwnedFd, FileStamp)> {
        let raw = RawHandle { kind: handle.kind, bytes: handle.bytes.to_vec() };
        // Without O_NONBLOCK a lease of somebody else's would be waited for; without NOCTTY and NOFOLLOW surprises of file types.
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
        let fd = sys::handle::open_by_handle(&self.root, &raw, flags)?;
        let stamp = sys::file::stamp(&fd)?;
        if stamp.is_regular { Ok((fd, stamp)) } else { Err(io::Error::from_raw_os_error(22)) }
    }

    /// Opens a directory. ESTALE when it is gone; ENOTDIR when it is none.
    pub fn open_directory(&self, handle: &FileHandle) -> io::Result<OwnedFd> {
        let raw = RawHandle { kind: handle.kind, bytes: handle.bytes.to_vec() };
        sys::handle::open_by_handle(&self.root, &raw, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)
    }

    /// Where the directory with this handle is now, relative to the root: empty for the root itself. `None` when it is gone or elsewhere.
    #[must_use]
    pub fn path_of_directory(&self, handle: &FileHandle) -> Option<Vec<u8>> {
        self.directory_path(&self.open_directory(handle).ok()?).ok().flatten()
    }

    /// Where an open file is now, relative to the root, without a slash at the start; one of its names if it has several.
    /// `None` when the kernel does not know (the inode was found by its handle alone), or it has no name below the root any more.
    #[must_use]
    pub fn tree_path(&self, fd: impl AsFd) -> Option<Vec<u8>> {
        let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        let path = std::fs::read_link(link).ok()?.into_os_string().into_vec();
        // On a mount that is attached nowhere, paths begin at its root. That this is the file's path, and not what is left
        // of one ("(deleted)"), is seen by going there.
        let path = path.strip_prefix(b"/").filter(|path| !path.is_empty())?;
        let there = sys::file::stamp_at(&self.root, Path::new(OsStr::from_bytes(path))).ok()?;
        let own = sys::file::stamp(fd).ok()?;
        ((own.dev, own.ino) == (there.dev, there.ino)).then(|| path.to_vec())
    }

    /// Makes everything written to the filesystem so far durable, but for what an earlier call that failed may have been for: the
    /// kernel has told of that then, and takes it for written.
    pub fn sync(&self) -> io::Result<()> {
        // Held until a failure is counted: nobody whose own sync comes back well, because another one was told, misses it.
        let _one_at_a_time = self.syncing.lock();
        sys::file::sync_fs(&self.root).inspect_err(|_| {
            self.failed_syncs.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// How often [`Filesystem::sync`] has failed. Data that was being written when this was less has to be synced file by file, through a
    /// descriptor that is older than the writes.
    pub(crate) fn failed_syncs(&self) -> u64 {
        self.failed_syncs.load(Ordering::Relaxed)
    }
}

/// The handle of an open file.
pub fn handle_of(fd: impl AsFd) -> io::Result<FileHandle> {
    let raw = sys::handle::name_to_handle(fd)?;
    Ok(FileHandle { kind: raw.kind, bytes: raw.bytes.into_iter().collect() })
}

/// The kernel's times and size as the model has them.
#[must_use]
pub fn stamp_of(stamp: &sys::file::FileStamp) -> Stamp {
    Stamp { size: stamp.size, mtime: timestamp(stamp.mtime), ctime: timestamp(stamp.ctime) }
}

fn timestamp((seconds, nanos): (i64, u32)) -> Timestamp {
    Timestamp { seconds, nanos }
}
