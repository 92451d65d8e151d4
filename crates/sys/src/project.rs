//! The project whose quota a file's space counts for.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

/// `struct fsxattr` of the kernel's `fs.h`: flags, extent size hint, extents, project, another hint, and eight bytes of nothing.
type Attributes = [u32; 7];
/// The project in it.
const PROJECT: usize = 3;
/// `FS_IOC_FSGETXATTR`.
const GET: Opcode = opcode::read::<Attributes>(b'X', 31);
/// `FS_IOC_FSSETXATTR`.
const SET: Opcode = opcode::write::<Attributes>(b'X', 32);

/// That of an open file; `None` on filesystems without projects.
pub fn of(file: impl AsFd) -> io::Result<Option<u32>> {
    Ok(attributes(file)?.and_then(|attributes| attributes.get(PROJECT).copied()))
}

/// Gives an open file another one, if it is not its own already. The space that the file takes moves with it.
///
/// # Errors
/// `EPERM` for whoever may not, `EOPNOTSUPP` when the filesystem has no projects; nothing is changed then.
pub fn set(file: impl AsFd, project: u32) -> io::Result<()> {
    let Some(mut attributes) = attributes(file.as_fd())? else { return Err(Errno::OPNOTSUPP.into()) };
    match attributes.get_mut(PROJECT) {
        Some(present) if *present != project => *present = project,
        _ => return Ok(()),
    }
    // SAFETY: the kernel reads one `fsxattr`, whose size is in the number of the call.
    Ok(unsafe { ioctl(file, Setter::<SET, Attributes>::new(attributes)) }?)
}

fn attributes(file: impl AsFd) -> io::Result<Option<Attributes>> {
    // SAFETY: the kernel writes one `fsxattr`, whose size is in the number of the call, and any bytes are one.
    match unsafe { ioctl(file, Getter::<GET, Attributes>::new()) } {
        Ok(attributes) => Ok(Some(attributes)),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
