//! HSM as users see it: file identities, states and requests.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd};
use std::os::raw::c_int;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::ptr;

use model::{Extent, Fid, HsmFlags, Timestamp};

use super::one_root::OneRoot;
use super::{Library, abi, argument, check, path_argument};

/// The most items one call to the kernel gets here. It takes 52 without data.
pub const MAX_REQUEST_ITEMS: usize = 50;

/// The kernel refuses requests of this size and above, data included (`MDS_MAXREQSIZE / 3`).
const MAX_REQUEST_BYTES: usize = 5 * 1024 / 3;

/// The FID of what is at `path`, which is not followed when it is a symbolic link. Tells whether it is on Lustre: `ENOTTY` elsewhere.
pub fn path2fid(library: &Library, path: &Path) -> io::Result<Fid> {
    let path = path_argument(path)?;
    let mut fid = abi::LuFid::default();
    // SAFETY: a string and room for one FID.
    check(unsafe { (library.hsm().path2fid)(path.as_ptr(), &mut fid) })?;
    Ok(fid.into())
}

/// A path of the file, relative to the filesystem's root; its `link`-th when it has several, counted from 0. `mount` is the mount point or
/// the filesystem's name. `ENOENT` when there is no such file; it may have no path and live.
pub fn fid2path(library: &Library, mount: &Path, fid: Fid, link: u32) -> io::Result<PathBuf> {
    let mount = path_argument(mount)?;
    let text = argument(fid.to_string().as_bytes())?;
    let mut link = c_int::try_from(link).map_err(|_| invalid())?;
    let mut buffer = vec![0_u8; libc::PATH_MAX as usize];
    let room = c_int::try_from(buffer.len()).map_err(|_| invalid())?;
    let mut record = -1;
    let _here = OneRoot::enter(&mount);
    // SAFETY: two strings, a buffer with its size, and two numbers that the library reads and writes.
    let code = unsafe {
        let buffer = buffer.as_mut_ptr().cast();
        (library.hsm().fid2path)(mount.as_ptr(), text.as_ptr(), buffer, room, &mut record, &mut link)
    };
    check(code)?;
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    buffer.truncate(end);
    Ok(std::ffi::OsString::from_vec(buffer).into())
}

/// The MDT a file is on. `fd` is any open file of the filesystem.
pub fn mdt_index_by_fid(library: &Library, fd: impl AsFd, fid: Fid) -> io::Result<u32> {
    let mut index = -1;
    let fid = abi::LuFid::from(fid);
    // SAFETY: an open descriptor, a FID, and room for a number.
    check(unsafe { (library.hsm().get_mdt_index_by_fid)(fd.as_fd().as_raw_fd(), &fid, &mut index) })?;
    u32::try_from(index).map_err(|_| io::Error::other(format!("the library gave the MDT index {index}")))
}

/// What is flushed before a file's data version is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Nothing: the version may not count what clients have not written yet.
    Nothing,
    /// What clients have written and not sent (`LL_DV_RD_FLUSH`).
    Dirty,
    /// All that clients have cached (`LL_DV_WR_FLUSH`).
    All,
}

/// A number that is another one after each change of the file's content.
pub fn data_version(library: &Library, fd: impl AsFd, flush: Flush) -> io::Result<u64> {
    let flags = match flush {
        Flush::Nothing => 0,
        Flush::Dirty => 1,
        Flush::All => 2,
    };
    let mut version = 0;
    // SAFETY: an open descriptor and room for a number.
    check(unsafe { (library.hsm().get_data_version)(fd.as_fd().as_raw_fd(), &mut version, flags) })?;
    Ok(version)
}

/// A file's HSM state. What is under way is not in it: see [`current_action`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserState {
    /// Its flags.
    pub flags: HsmFlags,
    /// Its archive; 0 when it was never archived.
    pub archive_id: u32,
}

/// The HSM state of the file at `path`. Opens it without restoring it.
pub fn state(library: &Library, path: &Path) -> io::Result<UserState> {
    let path = path_argument(path)?;
    let mut state = abi::HsmUserState::default();
    // SAFETY: a string and room for one state.
    check(unsafe { (library.hsm().state_get)(path.as_ptr(), &mut state) })?;
    Ok(UserState { flags: HsmFlags::from_bits(state.states), archive_id: state.archive_id })
}

/// Sets and clears flags of the file at `path`. `archive_id` 0 leaves the archive as it is.
pub fn state_set(library: &Library, path: &Path, set: HsmFlags, clear: HsmFlags, archive_id: u32) -> io::Result<()> {
    let path = path_argument(path)?;
    // SAFETY: a string and numbers.
    check(unsafe { (library.hsm().state_set)(path.as_ptr(), set.bits().into(), clear.bits().into(), archive_id) })
}

/// What users ask for (`enum hsm_user_action`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UserAction {
    /// Copy to the archive.
    Archive,
    /// Bring back.
    Restore,
    /// Free the file's space.
    Release,
    /// Remove from the archive.
    Remove,
    /// Give up what is under way.
    Cancel,
}

impl UserAction {
    fn to_wire(self) -> u32 {
        match self {
            Self::Archive => 10,
            Self::Restore => 11,
            Self::Release => 12,
            Self::Remove => 13,
            Self::Cancel => 14,
        }
    }

    fn from_wire(number: u32) -> Option<Self> {
        [Self::Archive, Self::Restore, Self::Release, Self::Remove, Self::Cancel]
            .into_iter()
            .find(|action| action.to_wire() == number)
    }
}

/// A request for any number of files.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// What to do.
    pub action: UserAction,
    /// In which archive; 0 for the file's own, or the default one.
    pub archive_id: u32,
    /// Bit 0: force.
    pub flags: u64,
    /// Which files, and which part of each: cancel by [`Extent::WHOLE`].
    pub items: &'a [(Fid, Extent)],
    /// For the mover; given with each item.
    pub data: &'a [u8],
}

/// A request that was not accepted, or not all of it.
#[derive(Debug, thiserror::Error)]
#[error("{source} (after {accepted} of the request's items were accepted)")]
pub struct RequestError {
    /// How many items, from the first on, are in requests that were accepted. Of the rest some may have been done
    /// too: the kernel releases one after the other, and stops at the first it cannot release.
    pub accepted: usize,
    /// Why the next part was refused.
    pub source: io::Error,
}

/// Sends a request through the mount point `mount` (any path on the filesystem will do), in parts that the kernel takes.
///
/// It is accepted, not done, when this returns; a release is done.
pub fn request(library: &Library, mount: &Path, request: &Request<'_>) -> Result<(), RequestError> {
    let mut accepted = 0;
    let path = path_argument(mount).map_err(|source| RequestError { accepted, source })?;
    for items in request.items.chunks(items_in_one(request.data.len())) {
        send(library, &path, request, items).map_err(|source| RequestError { accepted, source })?;
        accepted += items.len();
    }
    Ok(())
}

/// How many items go with so much data. At least one: what the kernel does not take it shall refuse itself.
fn items_in_one(data: usize) -> usize {
    let room = MAX_REQUEST_BYTES.saturating_sub(1 + size_of::<abi::HsmUserRequest>() + data);
    (room / size_of::<abi::HsmUserItem>()).clamp(1, MAX_REQUEST_ITEMS)
}

fn send(library: &Library, path: &CStr, request: &Request<'_>, items: &[(Fid, Extent)]) -> io::Result<()> {
    let bytes = encode(request, items).ok_or_else(invalid)?;
    let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
    // SAFETY: the target has at least as many bytes, and the two do not overlap.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), aligned.as_mut_ptr().cast(), bytes.len()) };
    let _here = OneRoot::enter(path);
    // SAFETY: a string, and a request with as many items and data as it says, aligned as the struct is.
    check(unsafe { (library.hsm().request)(path.as_ptr(), aligned.as_ptr().cast()) })
}

/// The request as the kernel reads it. `None` when the data are too many to be counted.
fn encode(request: &Request<'_>, items: &[(Fid, Extent)]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(size_of::<abi::HsmUserRequest>() + size_of_val(items) + request.data.len());
    bytes.extend_from_slice(&request.action.to_wire().to_le_bytes());
    bytes.extend_from_slice(&request.archive_id.to_le_bytes());
    bytes.extend_from_slice(&request.flags.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(items.len()).ok()?.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(request.data.len()).ok()?.to_le_bytes());
    for (fid, extent) in items {
        bytes.extend_from_slice(&fid.seq.to_le_bytes());
        bytes.extend_from_slice(&fid.oid.to_le_bytes());
        bytes.extend_from_slice(&fid.ver.to_le_bytes());
        bytes.extend_from_slice(&extent.offset.to_le_bytes());
        bytes.extend_from_slice(&extent.length.to_le_bytes());
    }
    bytes.extend_from_slice(request.data);
    Some(bytes)
}

/// What the coordinator does with a file at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CurrentAction {
    /// What; `None` when there is nothing.
    pub action: Option<UserAction>,
    /// How far it is (`enum hsm_progress_states`: 1 waiting, 2 running, 3 done).
    pub state: u32,
    /// Which part of the file is done, once it runs; before, which part was asked for. See [`bytes_done`](Self::bytes_done).
    pub extent: Extent,
}

/// `HPS_RUNNING`.
const RUNNING: u32 = 2;

impl CurrentAction {
    /// Whether a copytool is at work, as far as the MDT knows.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == RUNNING
    }

    /// How many bytes are done. An MDT that was restarted tells the whole file's extent of what runs, which says nothing.
    #[must_use]
    pub fn bytes_done(&self) -> u64 {
        if self.is_running() && self.extent.length != u64::MAX { self.extent.length } else { 0 }
    }
}

/// What is under way for the file at `path`. Each answer costs the MDT a look through all actions it remembers, ended ones too:
/// not for many files, nor often.
pub fn current_action(library: &Library, path: &Path) -> io::Result<CurrentAction> {
    let path = path_argument(path)?;
    let mut action = abi::HsmCurrentAction::default();
    // SAFETY: a string and room for one answer.
    check(unsafe { (library.hsm().current_action)(path.as_ptr(), &mut action) })?;
    Ok(CurrentAction {
        action: UserAction::from_wire(action.action),
        state: action.state,
        extent: action.location.into(),
    })
}

/// A file to make that is in the archive already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Import<'a> {
    /// In which archive.
    pub archive_id: u32,
    /// Its size in bytes.
    pub size: u64,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permissions, without the bits of the file's type.
    pub permissions: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change.
    pub mtime: Timestamp,
    /// The pool its objects shall be in once it is restored.
    pub pool: Option<&'a str>,
    /// Over how many OSTs they shall be then: 0 for the default, -1 for all.
    pub stripe_count: i32,
    /// Bytes a stripe: 0 for the default.
    pub stripe_size: u64,
}

/// Makes a released file at `path`. Its FID is new. When this fails there is no file there that was not before.
///
/// `EEXIST` when there is anything at `path`, a dangling link too. This is looked at before, because the library opens without `O_EXCL`: it
/// would take over what has no layout yet, make the file that a link points to, and take a directory's default layout away. Between look and
/// open others can still make something; then what was made is not at `path`, and the error says so (`ESTALE`).
pub fn import(library: &Library, path: &Path, file: &Import<'_>) -> io::Result<Fid> {
    match path.symlink_metadata() {
        Ok(_) => return Err(io::Error::from_raw_os_error(libc::EEXIST)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let fid = import_new(library, path, file)?;
    if path2fid(library, path)? != fid {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
    let special = file.permissions & 0o7000;
    if special != 0
        && let Err(error) = add_mode_bits(path, file.permissions & 0o7777)
    {
        // The error that matters is the first.
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(fid)
}

/// The library keeps the nine lower bits alone. `EPERM` when the kernel keeps others away as well.
fn add_mode_bits(path: &Path, mode: u32) -> io::Result<()> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), Permissions::from_mode(mode))?;
    let has = file.metadata()?.permissions().mode() & 0o7777;
    if has == mode { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn import_new(library: &Library, path: &Path, file: &Import<'_>) -> io::Result<Fid> {
    let path = path_argument(path)?;
    let archive = c_int::try_from(file.archive_id).map_err(|_| invalid())?;
    let mut pool =
        file.pool.map(|pool| argument(pool.as_bytes())).transpose()?.map(std::ffi::CString::into_bytes_with_nul);
    // SAFETY: a struct of numbers.
    let mut stat: libc::stat = unsafe { zeroed() };
    stat.st_size = i64::try_from(file.size).map_err(|_| invalid())?;
    stat.st_uid = file.uid;
    stat.st_gid = file.gid;
    stat.st_mode = libc::S_IFREG | (file.permissions & 0o777);
    (stat.st_atime, stat.st_atime_nsec) = (file.atime.seconds, file.atime.nanos.into());
    (stat.st_mtime, stat.st_mtime_nsec) = (file.mtime.seconds, file.mtime.nanos.into());
    let mut fid = abi::LuFid::default();
    // Any OST may be the first (-1); the pattern is the default one (0).
    // SAFETY: two strings (the pool's in memory that may be written, or null), a stat, numbers, and room for one FID.
    check(unsafe {
        let pool = pool.as_mut().map_or(ptr::null_mut(), |pool| pool.as_mut_ptr().cast());
        (library.hsm().import)(
            path.as_ptr(),
            archive,
            &stat,
            file.stripe_size,
            -1,
            file.stripe_count,
            0,
            pool,
            &mut fid,
        )
    })?;
    Ok(fid.into())
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_split_so_that_each_part_is_below_the_kernel_s_limit() {
        for data in 0..4000 {
            let items = items_in_one(data);
            let bytes = 24 + 32 * items + data;
            assert!(bytes < MAX_REQUEST_BYTES || items == 1, "{data} bytes of data and {items} items");
        }
        assert_eq!(items_in_one(0), 50);
        assert_eq!(items_in_one(usize::MAX / 2), 1);
    }

    #[test]
    fn a_request_s_layout_is_that_of_the_table() {
        let fid = Fid { seq: 0x2_0000_0401, oid: 3, ver: 0 };
        let items = [(fid, Extent::WHOLE); 2];
        let request =
            Request { action: UserAction::Release, archive_id: 7, flags: 1, items: &items, data: b"{\"a\":1}" };
        let bytes = encode(&request, &items).unwrap();
        assert_eq!(bytes.len(), 24 + 2 * 32 + 7);
        assert_eq!(bytes[0..8], [12, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(bytes[16..24], [2, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(bytes[24 + 32..24 + 40], 0x2_0000_0401_u64.to_le_bytes());
        assert_eq!(bytes[24 + 56..24 + 64], [0xff; 8]);
        assert!(bytes.ends_with(b"{\"a\":1}"));
    }
}
