//! OSTs: how full each is, and which are in a pool.

use std::ffi::CStr;
use std::io;
use std::mem::zeroed;
use std::path::Path;
use std::ptr;

use super::{Library, argument, path_argument, result};

/// `LL_STATFS_LOV`: of OSTs.
const OSTS: u32 = 2;

/// The highest index an OST can have (`LOV_ALL_STRIPES`).
const MAX_INDEX: u32 = 0xffff;

/// An OST that answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ost {
    /// Its index.
    pub index: u32,
    /// Its name, as `lustre-OST0000_UUID`.
    pub uuid: String,
    /// Its size in bytes.
    pub total: u64,
    /// Bytes not used.
    pub free: u64,
    /// Bytes that users can have of them.
    pub available: u64,
    /// Flags (`OS_STATFS_*`): 0x1 degraded, 0x2 read-only, 0x4 no more objects are made on it, 0x20 full, 0x40 no inodes.
    pub state: u32,
}

/// All OSTs of the filesystem that is mounted at `mount` and answer; those that are not connected are left out.
pub fn osts(library: &Library, mount: &Path) -> io::Result<Vec<Ost>> {
    let mut osts = Vec::new();
    for index in 0..MAX_INDEX {
        match ost(library, mount, index) {
            Ok(ost) => osts.push(ost),
            Err(error) => match error.raw_os_error() {
                // The last index was the one before.
                Some(libc::ENODEV) => break,
                Some(libc::EAGAIN | libc::ENODATA) => {}
                _ => return Err(error),
            },
        }
    }
    Ok(osts)
}

/// One OST. `ENODEV` past the last index, `EAGAIN` or `ENODATA` for one that is not connected or does not exist.
pub fn ost(library: &Library, mount: &Path, index: u32) -> io::Result<Ost> {
    let statfs = library.targets()?.statfs;
    let mut path = path_argument(mount)?.into_bytes_with_nul();
    // SAFETY: structs of numbers.
    let (mut numbers, mut uuid): (super::abi::ObdStatfs, super::abi::ObdUuid) = unsafe { (zeroed(), zeroed()) };
    // SAFETY: a string in memory that may be written, numbers, and room for both answers.
    result(unsafe { statfs(path.as_mut_ptr().cast(), OSTS, index, &mut numbers, &mut uuid) })?;
    let bytes = |blocks: u64| blocks.saturating_mul(numbers.bsize.into());
    let name = uuid.text.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Ost {
        index,
        uuid: String::from_utf8_lossy(name).into_owned(),
        total: bytes(numbers.blocks),
        free: bytes(numbers.bfree),
        available: bytes(numbers.bavail),
        state: numbers.state,
    })
}

/// The names ([`Ost::uuid`]) of the OSTs in a pool. `ENOENT` when there is no such pool.
pub fn pool_members(library: &Library, fsname: &str, pool: &str) -> io::Result<Vec<String>> {
    let get = library.targets()?.get_pool_members;
    let name = argument(format!("{fsname}.{pool}").as_bytes())?;
    let most = MAX_INDEX as usize;
    // Names have at most 39 bytes; a pool of all OSTs there can be fits.
    let mut members = vec![ptr::null_mut(); most];
    let mut text = vec![0_u8; most * 40];
    let (most, room) = (i32::try_from(most), i32::try_from(text.len()));
    let (Ok(most), Ok(room)) = (most, room) else { return Err(io::Error::from_raw_os_error(libc::EOVERFLOW)) };
    // SAFETY: a string, an array and a buffer, each with its size.
    let code = unsafe { get(name.as_ptr(), members.as_mut_ptr(), most, text.as_mut_ptr().cast(), room) };
    let count = usize::try_from(result(code)?).unwrap_or(0);
    let names = text.split_inclusive(|byte| *byte == 0).take(count);
    // The names are one after the other in the buffer, as the pointers to them are.
    let names = names.filter_map(|name| CStr::from_bytes_with_nul(name).ok());
    Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
}
