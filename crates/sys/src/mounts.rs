//! Mounts: private copies of them, Lustre clients, and what `/proc/self/mountinfo` tells.
//!
//! Not here: mounting a local filesystem from a device; that is the administrator's.

use std::ffi::{OsString, c_int, c_uint};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::{Mode, OFlags};

/// What a path is on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FsInfo {
    /// The type by its kernel name: ext4, xfs, btrfs, tmpfs, lustre.
    pub kind: String,
    /// What is mounted: a device path, a server's export.
    pub source: OsString,
    /// Where the mount that holds the path is attached.
    pub mount_point: PathBuf,
    /// Device number as `stat(2)` gives it for the path.
    pub dev: u64,
    /// Which filesystem it is: the same after each mount, on whatever device, and another one after `mkfs`. As `statfs(2)` gives it,
    /// except on XFS, whose UUID it comes from.
    pub fsid: [u8; 8],
    /// As `statfs(2)` gives it, and the kernel's events. Sure to be the same only as long as the filesystem is mounted.
    pub kernel_fsid: [u8; 8],
    /// The device as mountinfo names it (`major:minor`): the same for all mounts of the filesystem, while `dev` differs
    /// between btrfs subvolumes.
    pub device: String,
}

/// A line of `/proc/self/mountinfo`, as far as we use it.
struct Mount {
    id: u64,
    mount_point: PathBuf,
    kind: String,
    source: OsString,
    device: String,
}

/// Whether any mount of the filesystem with this [`FsInfo::device`] is attached where this process can see it.
pub fn is_mounted(device: &str) -> io::Result<bool> {
    Ok(read_mounts()?.iter().any(|mount| mount.device == device))
}

/// The root of the mount that holds the directory `path`, as an `O_PATH` descriptor.
///
/// `ENOTDIR` when `path` is no directory; `ENOENT` when the mount's root is out of reach (covered by another mount).
pub fn open_mount(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let fd = open_directory(path.as_ref())?;
    let (mount_id, is_root) = mount_of(fd.as_fd())?;
    if is_root {
        return Ok(fd);
    }
    let mount = find(mount_id)?;
    let root = open_directory(&mount.mount_point)?;
    let (root_id, _) = mount_of(root.as_fd())?;
    if root_id == mount_id { Ok(root) } else { Err(not_found()) }
}

/// A detached copy of the mount, without what is mounted below it, that no mount event propagates to or from.
///
/// It is gone when the descriptor closes, unless it was attached.
pub fn clone_private(mount: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let fd = rustix::mount::open_tree(mount, c"", flags)?;
    make_private(fd.as_fd())?;
    Ok(fd)
}

/// Attaches a detached mount at the directory `target`. It outlives the descriptor: undo it with [`unmount`], after closing the
/// descriptor, which keeps it busy.
///
/// Where the mount below `target` is shared, other namespaces get a copy too; the mount itself stays private.
pub fn attach(mount: impl AsFd, target: impl AsRef<Path>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount.as_fd(), c"", CWD, target.as_ref(), flags)?;
    // Arriving below a shared mount makes it shared again.
    make_private(mount.as_fd())
}

/// Mounts a Lustre filesystem at the directory `target`, privately. `device` is `nid[,nid][:nid]:/fsname`; `options` are those of
/// `mount -t lustre`, without `device`. Access times are strict.
///
/// `ENODEV`: the kernel has no Lustre client.
pub fn mount_lustre(device: &str, target: impl AsRef<Path>, options: &[String]) -> io::Result<()> {
    let mut data: Vec<String> = Vec::new();
    for option in options.iter().cloned().chain([format!("device={device}")]) {
        if !data.contains(&option) {
            data.push(option);
        }
    }
    let data = std::ffi::CString::new(data.join(",")).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let target = target.as_ref();
    rustix::mount::mount(device, target, c"lustre", rustix::mount::MountFlags::STRICTATIME, data.as_c_str())?;
    let made_private = open_directory(target).and_then(|root| make_private(root.as_fd()));
    if made_private.is_err() {
        // The first error counts.
        let _ = unmount(target, true);
    }
    made_private
}

/// Unmounts what is on top at `path`. `EBUSY` when in use, unless `lazily`: then it goes from sight at once, and for good with its
/// last user. `EINVAL` when nothing is mounted there. A symbolic link is not followed.
pub fn unmount(path: impl AsRef<Path>, lazily: bool) -> io::Result<()> {
    let detach = if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    Ok(rustix::mount::unmount(path.as_ref(), UnmountFlags::NOFOLLOW | detach)?)
}

/// As [`unmount`] with `lazily`, and asks the filesystem to give up what it waits for: its servers are not spoken to any more, by anybody, and what was
/// not written is lost. Whoever has another mount of the same superblock loses it, too.
pub fn unmount_by_force(path: impl AsRef<Path>) -> io::Result<()> {
    let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH | UnmountFlags::FORCE;
    Ok(rustix::mount::unmount(path.as_ref(), flags)?)
}

/// Writes out what the filesystem at the directory `path` has, and asks it how full it is: those that have servers ask them. So this takes as long as they
/// do, which may be for ever.
pub fn write_out_and_ask(path: impl AsRef<Path>) -> io::Result<()> {
    let root = rustix::fs::open(path.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::syncfs(&root)?;
    rustix::fs::fstatfs(&root)?;
    Ok(())
}

/// Whether `path` is the root of a mount. A symbolic link is not.
pub fn is_mount_point(path: impl AsRef<Path>) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(CWD, path.as_ref(), flags, StatxFlags::empty())?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// All mount points at and below `path` (taken as it is: absolute, no symbolic links), the last mounted first: an order to unmount
/// in. A path with several mounts on top of each other comes as often.
pub fn mounts_under(path: impl AsRef<Path>) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<_> = read_mounts()?
        .into_iter()
        .map(|mount| mount.mount_point)
        .filter(|mount_point| mount_point.starts_with(path.as_ref()))
        .collect();
    found.reverse();
    Ok(found)
}

/// The mounts of filesystems of this kind whose mount points are above `path` (taken as it is, and not counted itself), each with what is mounted there.
pub fn mounts_above(path: impl AsRef<Path>, kind: &str) -> io::Result<Vec<(PathBuf, OsString)>> {
    let path = path.as_ref();
    let is_above =
        |mount: &Mount| mount.kind == kind && mount.mount_point != path && path.starts_with(&mount.mount_point);
    Ok(read_mounts()?.into_iter().filter(is_above).map(|mount| (mount.mount_point, mount.source)).collect())
}

/// What filesystem `path` is on. A symbolic link is followed. Opens nothing but names and directories.
///
/// On XFS some directory of it has to be readable for the caller: the one at `path`, the one that holds it, or the mount's root.
pub fn filesystem_of(path: impl AsRef<Path>) -> io::Result<FsInfo> {
    let fd = rustix::fs::open(path.as_ref(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (mount_id, _) = mount_of(fd.as_fd())?;
    let mount = find(mount_id)?;
    let kernel_fsid = crate::fsid::of_kernel(&fd)?;
    let own = if mount.kind == "xfs" { crate::fsid::of_xfs(fd.as_fd(), &mount.mount_point)? } else { None };
    Ok(FsInfo {
        kind: mount.kind,
        source: mount.source,
        mount_point: mount.mount_point,
        dev: crate::file::stamp(&fd)?.dev,
        fsid: own.unwrap_or(kernel_fsid),
        kernel_fsid,
        device: mount.device,
    })
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The mount's number, and whether the descriptor is on its root.
fn mount_of(fd: BorrowedFd<'_>) -> io::Result<(u64, bool)> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok((stat.stx_mnt_id, stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)))
}

/// `mount_setattr(2)`, one mount, propagation private.
fn make_private(mount: BorrowedFd<'_>) -> io::Result<()> {
    /// `struct mount_attr`, version 0.
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr { attr_set: 0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // SAFETY: the path is a C string, `attr` has the layout and length that are passed with it; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH as c_uint,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    crate::check(result as c_int).map(drop)
}

fn find(id: u64) -> io::Result<Mount> {
    read_mounts()?.into_iter().find(|mount| mount.id == id).ok_or_else(not_found)
}

fn not_found() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

fn read_mounts() -> io::Result<Vec<Mount>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse_mount).collect())
}

/// `36 35 98:0 /root /mount/point options [optional fields] - type source super-options` (proc_pid_mountinfo(5)).
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = std::str::from_utf8(fields.nth(1)?).ok()?.to_owned();
    let mount_point = PathBuf::from(unescape(fields.nth(1)?));
    fields.find(|field| *field == b"-")?;
    let kind = unescape(fields.next()?).to_string_lossy().into_owned();
    let source = unescape(fields.next()?);
    Some(Mount { id, mount_point, kind, source, device })
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_mountinfo_line_is_taken_apart() {
        let line = br"36 35 98:0 /mnt1 /mnt/a\040b\134c rw,noatime shared:1 master:2 - ext3 /dev/my\011root rw";
        let mount = parse_mount(line).unwrap();
        assert_eq!(mount.id, 36);
        assert_eq!(mount.mount_point.as_os_str().as_bytes(), br"/mnt/a b\c");
        assert_eq!(mount.kind, "ext3");
        assert_eq!(mount.source, "/dev/my\troot");
        assert!(parse_mount(b"").is_none());
        assert!(parse_mount(b"36 35 98:0 /").is_none());
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape(br"\8\04\0400"), OsString::from(r"\8\04 0"));
    }
}
