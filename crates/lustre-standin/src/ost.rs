//! OSTs and pools: how full they are, and which belongs where.

use std::ffi::{c_char, c_int};

use crate::boundary::{self, Errno, Result, negative, put};
use crate::layout::{ost_state, osts, pool, usage};
use crate::root::Root;
use crate::state::Session;

/// Of `llapi_obd_statfs`: MDTs, OSTs.
const METADATA: u32 = 1;
const OBJECTS: u32 = 2;
const BLOCK: u64 = 4096;

/// `struct obd_statfs`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ObdStatfs {
    /// Of filesystem.
    pub kind: u64,
    /// All.
    pub blocks: u64,
    /// Free.
    pub bfree: u64,
    /// Free for users.
    pub bavail: u64,
    /// All objects.
    pub files: u64,
    /// Free objects.
    pub ffree: u64,
    /// Id.
    pub fsid: [u8; 40],
    /// Bytes in a block.
    pub bsize: u32,
    /// Longest name.
    pub namelen: u32,
    /// Longest file.
    pub maxbytes: u64,
    /// Flags; 0 is healthy.
    pub state: u32,
    /// Objects made in advance.
    pub fprecreated: u32,
    /// Promised to clients.
    pub granted: u32,
    /// Unused.
    pub spare: [u32; 7],
}

fn statfs(root: &Root, index: u32) -> Result<ObdStatfs> {
    let all = osts(root)?;
    let Some((size, other)) = all.get(&index).copied() else {
        // Behind the last one; or one that is missing in between.
        let last = all.last_key_value().is_none_or(|(last, _)| index > *last);
        return Err(Errno(if last { libc::ENODEV } else { libc::ENODATA }));
    };
    let used = usage(&mut Session::begin(root)?)?.get(&index).copied().unwrap_or(0) + other;
    let free = size.saturating_sub(used) / BLOCK;
    Ok(ObdStatfs {
        kind: 0xef53,
        blocks: size / BLOCK,
        bfree: free,
        bavail: free,
        files: 1 << 20,
        ffree: 1 << 19,
        fsid: [0; 40],
        bsize: 4096,
        namelen: 255,
        maxbytes: 1 << 44,
        state: ost_state(root, index)?,
        fprecreated: 0,
        granted: 0,
        spare: [0; 7],
    })
}

fn uuid(root: &Root, index: u32) -> Result<String> {
    Ok(format!("{}-OST{index:04x}_UUID", root.fsname()?))
}

/// How full a target is. `ENODEV` behind the last one, `ENODATA` for a gap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_obd_statfs(
    path: *mut c_char,
    kind: u32,
    index: u32,
    out: *mut ObdStatfs,
    uuid_out: *mut [u8; 40],
) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let path = unsafe { boundary::path(path) }?;
        let root = Root::of(&path)?;
        root.fault("llapi_obd_statfs")?;
        let (statfs, name) = match kind & (METADATA | OBJECTS) {
            OBJECTS => (statfs(&root, index)?, uuid(&root, index)?),
            METADATA | OBJECTS.. => return Err(Errno(if index == 0 { libc::EAGAIN } else { libc::ENODEV })),
            _ => return Err(Errno(libc::EINVAL)),
        };
        let mut text = [0; 40];
        let len = name.len().min(39);
        text[..len].copy_from_slice(&name.as_bytes()[..len]);
        // SAFETY: as the caller promises.
        unsafe {
            put(out, statfs)?;
            if !uuid_out.is_null() {
                put(uuid_out, text)?;
            }
        }
        Ok(0)
    })())
}

/// The OSTs of a pool (`fsname.pool`) by their names; how many. `EOVERFLOW` when there is no room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_get_poolmembers(
    name: *const c_char,
    members: *mut *mut c_char,
    list_size: c_int,
    buffer: *mut c_char,
    buffer_size: c_int,
) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let name = unsafe { boundary::text(name) }?;
        let (fsname, pool_name) = name.split_once('.').ok_or(Errno(libc::EINVAL))?;
        let root = Root::named(fsname)?;
        root.fault("llapi_get_poolmembers")?;
        let found = pool(&root, pool_name)?;
        let (slots, mut left) = (usize::try_from(list_size).unwrap_or(0), usize::try_from(buffer_size).unwrap_or(0));
        if found.len() > slots || members.is_null() || buffer.is_null() {
            return Err(Errno(libc::EOVERFLOW));
        }
        let mut at = buffer;
        for (slot, index) in found.iter().enumerate() {
            let text = uuid(&root, *index)?;
            // SAFETY: `slot` is below the number of places; the text goes where room for it is left.
            unsafe {
                crate::user::put_text(at, left, text.as_bytes()).map_err(|_| Errno(libc::EOVERFLOW))?;
                members.add(slot).write(at);
                at = at.add(text.len() + 1);
            }
            left -= text.len() + 1;
        }
        Ok(c_int::try_from(found.len()).unwrap_or(c_int::MAX))
    })())
}
