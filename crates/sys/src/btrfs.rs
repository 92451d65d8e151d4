//! Subvolumes of btrfs: snapshots made, made read-only, and removed.
//!
//! Numbers and layouts are those of the kernel's `linux/btrfs.h`.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, Updater, ioctl, opcode};

/// `BTRFS_SUPER_MAGIC`.
const MAGIC: u64 = 0x9123_683e;
/// `BTRFS_FIRST_FREE_OBJECTID`: the number of the root directory of every subvolume.
const ROOT_INODE: u64 = 256;
/// `BTRFS_SUBVOL_RDONLY`.
const READ_ONLY: u64 = 1 << 1;
/// `BTRFS_MAX_ROOTREF_BUFFER_NUM`.
const REFERENCES: usize = 255;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Named {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
#[derive(Clone, Copy)]
struct NamedAnew {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_get_subvol_rootref_args`.
#[repr(C)]
#[derive(Clone, Copy)]
struct References {
    from: u64,
    /// Of each subvolume its number and that of the directory it lies in.
    found: [[u64; 2]; REFERENCES],
    count: u8,
    padding: [u8; 7],
}

const _: () = assert!(size_of::<Named>() == 4096 && size_of::<NamedAnew>() == 4096 && size_of::<References>() == 4096);

const DESTROY: Opcode = opcode::write::<Named>(0x94, 15);
const SNAPSHOT: Opcode = opcode::write::<NamedAnew>(0x94, 23);
const GET_FLAGS: Opcode = opcode::read::<u64>(0x94, 25);
const SET_FLAGS: Opcode = opcode::write::<u64>(0x94, 26);
const GET_REFERENCES: Opcode = opcode::read_write::<References>(0x94, 61);

/// Whether a directory is the root of a subvolume.
pub fn is_subvolume(directory: impl AsFd) -> io::Result<bool> {
    let (filesystem, found) = (rustix::fs::fstatfs(&directory)?, rustix::fs::fstat(&directory)?);
    Ok(filesystem.f_type.cast_unsigned() == MAGIC && found.st_ino == ROOT_INODE)
}

/// Makes a snapshot of a subvolume, which can be written to, as `name` in `directory` of the same filesystem. Subvolumes in it are empty directories there.
///
/// # Errors
/// `EEXIST`; `EINVAL` for a name that is none; `ENOSPC`.
pub fn snapshot(subvolume: impl AsFd, directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    let fd = i64::from(subvolume.as_fd().as_raw_fd());
    let args = NamedAnew { fd, transaction: 0, flags: 0, unused: [0; 4], name: terminated(name)? };
    // SAFETY: the kernel reads one `btrfs_ioctl_vol_args_v2`, whose size is in the number of the call; the descriptor in it is open until this returns.
    Ok(unsafe { ioctl(directory, Setter::<SNAPSHOT, NamedAnew>::new(args)) }?)
}

/// From now on nothing in the subvolume can be changed.
pub fn make_read_only(subvolume: impl AsFd) -> io::Result<()> {
    // SAFETY: the kernel writes one u64, and any bytes are one.
    let flags = unsafe { ioctl(subvolume.as_fd(), Getter::<GET_FLAGS, u64>::new()) }?;
    // SAFETY: the kernel reads one u64.
    Ok(unsafe { ioctl(subvolume, Setter::<SET_FLAGS, u64>::new(flags | READ_ONLY)) }?)
}

/// Removes the subvolume `name` in `directory` with all in it, read-only or not. Only root may, unless it is mounted with `user_subvol_rm_allowed`.
pub fn destroy(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    let args = Named { fd: 0, name: terminated(name)? };
    // SAFETY: the kernel reads one `btrfs_ioctl_vol_args`, whose size is in the number of the call.
    Ok(unsafe { ioctl(directory, Setter::<DESTROY, Named>::new(args)) }?)
}

/// The numbers of the directories of a subvolume in which other subvolumes lie, once for each of those.
pub fn places_of_subvolumes(subvolume: impl AsFd) -> io::Result<Vec<u64>> {
    let mut places = Vec::new();
    let mut args = References { from: 0, found: [[0; 2]; REFERENCES], count: 0, padding: [0; 7] };
    loop {
        // SAFETY: the kernel reads and writes one `btrfs_ioctl_get_subvol_rootref_args`, and any bytes are one.
        let asked = unsafe { ioctl(subvolume.as_fd(), Updater::<GET_REFERENCES, References>::new(&mut args)) };
        match asked {
            Ok(()) | Err(Errno::OVERFLOW) => {
                places.extend(args.found.iter().take(args.count.into()).map(|found| found[1]))
            }
            Err(error) => return Err(error.into()),
        }
        // More than fit: the kernel has moved `from` behind the last of them.
        if asked.is_ok() || args.count == 0 {
            return Ok(places);
        }
        args.count = 0;
    }
}

fn terminated<const ROOM: usize>(name: &[u8]) -> io::Result<[u8; ROOM]> {
    let mut room = [0; ROOM];
    match room.get_mut(..name.len()) {
        Some(place) if name.len() < ROOM && !name.contains(&0) => place.copy_from_slice(name),
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(room)
}
