//! Files by descriptor: state, holes, times, and the calls that move data without copying it through us.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    Advice, AtFlags, FallocateFlags, FileType, FlockOperation, RenameFlags, ResolveFlags, SeekFrom, Statx, StatxFlags,
    StatxTimestamp, Timespec, Timestamps,
};
use rustix::io::Errno;

use crate::{Mode, OFlags};

/// A moment: whole seconds since 1970 (may be negative) and nanoseconds (0 to 999,999,999).
pub type Moment = (i64, u32);

/// Punching rounds up to this, so that the last blocks go whatever the block size (or XFS real-time extent) is.
const PUNCH_ROUNDING_BYTES: u64 = 1 << 20;

/// XFS allocates ahead of writers, past the end of the file, up to one extent of 2^21 blocks (8 GiB of 4 KiB blocks), and gives
/// that back only some time after the last close. Punching the file alone would leave it.
const PUNCH_PAST_END_BYTES: u64 = 8 << 30;

/// What tells one state of a file from another, and the rest of `statx(2)` that we use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileStamp {
    /// In bytes.
    pub size: u64,
    /// Last change of the data.
    pub mtime: Moment,
    /// Last change of data or inode; only the kernel sets it.
    pub ctime: Moment,
    /// Last read, as far as the mount options keep it.
    pub atime: Moment,
    /// Inode number.
    pub ino: u64,
    /// Device number as `stat(2)` encodes it.
    pub dev: u64,
    /// Hard links.
    pub nlink: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Allocated, in units of 512 bytes.
    pub blocks: u64,
    /// Neither directory, link, device, socket nor pipe.
    pub is_regular: bool,
}

/// The state of the open file; works on `O_PATH` descriptors too (a symbolic link is not followed).
///
/// On filesystems with multigrain timestamps (ext4, XFS, btrfs; Linux 6.13) having asked here makes the next change visible in
/// ctime, however soon it comes.
pub fn stamp(fd: impl AsFd) -> io::Result<FileStamp> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    Ok(FileStamp::from(&stat))
}

/// As [`stamp`], of `path` relative to `dir`; a final symbolic link is not followed.
pub fn stamp_at(dir: impl AsFd, path: impl AsRef<Path>) -> io::Result<FileStamp> {
    let stat = rustix::fs::statx(dir, path.as_ref(), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    Ok(FileStamp::from(&stat))
}

/// Whether the filesystem keeps its content encrypted, with a key of its own (`fs/crypto`): in another inode the same bytes mean nothing.
pub fn is_encrypted(fd: impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    Ok(stat.stx_attributes.contains(rustix::fs::StatxAttributes::ENCRYPTED))
}

impl From<&Statx> for FileStamp {
    fn from(stat: &Statx) -> Self {
        let moment = |time: &StatxTimestamp| (time.tv_sec, time.tv_nsec);
        let mode = u32::from(stat.stx_mode);
        Self {
            size: stat.stx_size,
            mtime: moment(&stat.stx_mtime),
            ctime: moment(&stat.stx_ctime),
            atime: moment(&stat.stx_atime),
            ino: stat.stx_ino,
            dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            nlink: u64::from(stat.stx_nlink),
            mode,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            blocks: stat.stx_blocks,
            is_regular: FileType::from_raw_mode(mode) == FileType::RegularFile,
        }
    }
}

/// Frees all blocks of a file of `size` bytes and keeps the size. The data is gone when this returns.
///
/// That includes what is allocated up to 8 GiB past the end. Moves mtime and ctime: see [`set_times`].
pub fn punch_all(fd: impl AsFd, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    let near = size.checked_next_multiple_of(PUNCH_ROUNDING_BYTES).unwrap_or(size);
    match punch(fd.as_fd(), 0, near.saturating_add(PUNCH_PAST_END_BYTES)) {
        // The file is near the largest the filesystem can have, and may not be rounded up either.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EFBIG | libc::EINVAL)) => punch(fd, 0, size),
        other => other,
    }
}

/// Frees the whole blocks in the range and zeroes the rest of it; the size stays. `EINVAL` when `length` is 0.
pub fn punch(fd: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(retry(|| rustix::fs::fallocate(fd.as_fd(), flags, offset, length))?)
}

/// Allocates the range and, when it ends past the end of the file, grows the file to its end. `EINVAL` when `length` is 0.
pub fn allocate(fd: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    Ok(retry(|| rustix::fs::fallocate(fd.as_fd(), FallocateFlags::empty(), offset, length))?)
}

/// Sets mtime, and atime if given; moves ctime. Any descriptor but `O_PATH` will do; only the owner and root may.
pub fn set_times(fd: impl AsFd, atime: Option<Moment>, mtime: Moment) -> io::Result<()> {
    let timespec = |(seconds, nanoseconds): Moment| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let omitted = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let times = Timestamps { last_access: atime.map_or(omitted, timespec), last_modification: timespec(mtime) };
    Ok(rustix::fs::futimens(fd, &times)?)
}

/// Writes back everything of the filesystem that `fd` is on.
pub fn sync_fs(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fd)?)
}

/// Makes the data durable, and as much of the inode as reading it back needs.
pub fn sync_data(fd: impl AsFd) -> io::Result<()> {
    Ok(retry(|| rustix::fs::fdatasync(fd.as_fd()))?)
}

/// Makes data and inode durable; for a directory, its entries.
pub fn sync_all(fd: impl AsFd) -> io::Result<()> {
    Ok(retry(|| rustix::fs::fsync(fd.as_fd()))?)
}

/// Where the next data at or after `offset` begins; `None` when there is none. Moves the descriptor's own offset.
pub fn next_data(fd: impl AsFd, offset: u64) -> io::Result<Option<u64>> {
    none_past_end(rustix::fs::seek(fd, SeekFrom::Data(offset)))
}

/// Where the next hole at or after `offset` begins (the end of the file counts as one); `None` at or past the end.
/// Moves the descriptor's own offset.
pub fn next_hole(fd: impl AsFd, offset: u64) -> io::Result<Option<u64>> {
    none_past_end(rustix::fs::seek(fd, SeekFrom::Hole(offset)))
}

fn none_past_end(found: Result<u64, Errno>) -> io::Result<Option<u64>> {
    match found {
        Ok(offset) => Ok(Some(offset)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `copy_file_range(2)`: copies up to `length` bytes inside the kernel and says how many; 0 at the end of the source.
///
/// `EXDEV`, `EOPNOTSUPP` or `EINVAL` mean that this pair of files cannot do it: read and write instead.
pub fn copy_range(
    from: impl AsFd,
    mut from_offset: u64,
    to: impl AsFd,
    mut to_offset: u64,
    length: usize,
) -> io::Result<usize> {
    Ok(rustix::fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), length)?)
}

/// Makes `destination` share all blocks of `source` (`FICLONE`). `EOPNOTSUPP` or `EXDEV` where that cannot be.
pub fn reflink(source: impl AsFd, destination: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(destination, source)?)
}

/// Tells the kernel that the whole file will be read from front to back.
pub fn advise_sequential(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fadvise(fd, 0, None, Advice::Sequential)?)
}

/// Drops the range's clean pages from the page cache; `length` 0 means to the end.
pub fn advise_dontneed(fd: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    Ok(rustix::fs::fadvise(fd, offset, NonZeroU64::new(length), Advice::DontNeed)?)
}

/// Opens `path` below `dir` and nowhere else: `..` past `dir` and absolute paths give `EXDEV`, any symbolic link on the way `ELOOP`.
/// `mode` counts only with `O_CREAT`. The descriptor is always close-on-exec.
pub fn open_beneath(dir: impl AsFd, path: impl AsRef<Path>, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    open_resolving(dir.as_fd(), path.as_ref(), flags, mode, ResolveFlags::empty())
}

/// As [`open_beneath`], and on the mount of `dir` only: `EXDEV` also where something is mounted on the way or at its end.
pub fn open_within(dir: impl AsFd, path: impl AsRef<Path>, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    open_resolving(dir.as_fd(), path.as_ref(), flags, mode, ResolveFlags::NO_XDEV)
}

/// Opens once more what `fd`, which may be an `O_PATH` descriptor, is of: the same inode, whatever it is called by now.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

fn open_resolving(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    besides: ResolveFlags,
) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | besides;
    // EAGAIN: a rename somewhere made the kernel unsure about a "..", and it asks to be asked again.
    for _ in 0..16 {
        match rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Renames; `EEXIST` when the new name is taken.
pub fn rename_noreplace(
    from_dir: impl AsFd,
    from: impl AsRef<Path>,
    to_dir: impl AsFd,
    to: impl AsRef<Path>,
) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(from_dir, from.as_ref(), to_dir, to.as_ref(), RenameFlags::NOREPLACE)?)
}

/// Gives the open file (made with `O_TMPFILE`, say) the name `name` in `dir`; `EEXIST` when it is taken.
pub fn link_fd(fd: impl AsFd, dir: impl AsFd, name: impl AsRef<Path>) -> io::Result<()> {
    // By way of /proc and not AT_EMPTY_PATH, which asks for CAP_DAC_READ_SEARCH.
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    Ok(rustix::fs::linkat(rustix::fs::CWD, path, dir, name.as_ref(), AtFlags::SYMLINK_FOLLOW)?)
}

/// Takes the file's `flock(2)` for this open file description; `false` when another one has it. Closing releases it.
pub fn try_lock_exclusive(fd: impl AsFd) -> io::Result<bool> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// As [`try_lock_exclusive`], shared with others who take it so.
pub fn try_lock_shared(fd: impl AsFd) -> io::Result<bool> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// As [`try_lock_shared`], and waits for those who have it exclusively.
pub fn lock_shared(fd: impl AsFd) -> io::Result<()> {
    Ok(retry(|| rustix::fs::flock(fd.as_fd(), FlockOperation::LockShared))?)
}

/// As [`try_lock_exclusive`], and waits for those who have it. Whoever takes it shared is not kept from it meanwhile.
pub fn lock_exclusive(fd: impl AsFd) -> io::Result<()> {
    Ok(retry(|| rustix::fs::flock(fd.as_fd(), FlockOperation::LockExclusive))?)
}

fn retry<T>(call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    rustix::io::retry_on_intr(call)
}
