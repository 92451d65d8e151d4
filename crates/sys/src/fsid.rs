//! Which filesystem something is on: eight bytes that it keeps wherever it is mounted, and that a filesystem made anew on the
//! same device does not have.
//!
//! `f_fsid` of `statfs(2)` is that on ext4 and btrfs, which make it from their UUID. XFS gives the number of the device there
//! (`xfs_fs_statfs`), and after the next boot another disk may have that one. So XFS is asked for its UUID.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::ioctl::{Getter, Opcode, ioctl, opcode};

use crate::{Mode, OFlags};

/// `f_fsid` of `statfs(2)`, in the order in which the kernel's events have it.
pub(crate) fn of_kernel(fd: impl AsFd) -> io::Result<[u8; 8]> {
    // rustix joins the two words, low first.
    let fsid = rustix::fs::fstatvfs(fd)?.f_fsid;
    let mut bytes = [0; 8];
    let (low, high) = bytes.split_at_mut(4);
    low.copy_from_slice(&(fsid as u32).to_ne_bytes());
    high.copy_from_slice(&((fsid >> 32) as u32).to_ne_bytes());
    Ok(bytes)
}

/// The halves of an XFS filesystem's UUID, one over the other. `fd` may be a bare name (`O_PATH`) of anything on it, and
/// `mount_point` is where it is mounted.
///
/// Asking takes a directory that is really open. An error if none can be opened: another number would be taken for another filesystem.
/// `None` for a filesystem without a UUID.
pub(crate) fn of_xfs(fd: BorrowedFd<'_>, mount_point: &Path) -> io::Result<Option<[u8; 8]>> {
    let uuid = xfs_uuid(open_directory(fd, mount_point)?)?;
    let mut folded = [0; 8];
    for (index, byte) in uuid.into_iter().enumerate() {
        if let Some(place) = folded.get_mut(index % 8) {
            *place ^= byte;
        }
    }
    Ok((folded != [0; 8]).then_some(folded))
}

/// Some directory of the filesystem: the one that `fd` names, or that holds it, or the mount's root. Never a file: opening one
/// may have to wait for its content.
fn open_directory(fd: BorrowedFd<'_>, mount_point: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = match rustix::fs::openat(fd, ".", flags, Mode::empty()) {
        Ok(own) => return Ok(own),
        Err(error) => io::Error::from(error),
    };
    let device = crate::file::stamp(fd)?.dev;
    let holds = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    let holds = holds.as_deref().and_then(Path::parent);
    [Some(mount_point), holds]
        .into_iter()
        .flatten()
        .filter_map(|path| rustix::fs::openat(CWD, path, flags, Mode::empty()).ok())
        // Something else may be mounted over it.
        .find(|directory| crate::file::stamp(directory).is_ok_and(|stamp| stamp.dev == device))
        .ok_or(own)
}

/// `struct xfs_fsop_geom_v1` of the kernel's `xfs_fs.h`: 112 bytes, the UUID behind the first 64.
type Geometry = [u64; 14];
/// `XFS_IOC_FSGEOMETRY_V1`: unlike `FS_IOC_GETFSUUID`, in every kernel.
const GEOMETRY: Opcode = opcode::read::<Geometry>(b'X', 100);

fn xfs_uuid(directory: OwnedFd) -> io::Result<[u8; 16]> {
    // SAFETY: the kernel writes one `xfs_fsop_geom_v1`, whose size is in the number of the call, and any bytes are a `Geometry`.
    // Filesystems other than XFS do not know the call, or fail it: the caller has seen that this is XFS.
    let geometry: Geometry = unsafe { ioctl(directory, Getter::<GEOMETRY, Geometry>::new()) }?;
    let [_, _, _, _, _, _, _, _, first, second, ..] = geometry;
    let mut uuid = [0; 16];
    let (front, back) = uuid.split_at_mut(8);
    front.copy_from_slice(&first.to_ne_bytes());
    back.copy_from_slice(&second.to_ne_bytes());
    Ok(uuid)
}
