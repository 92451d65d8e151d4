//! What users call: requests, states, FIDs and paths.

use std::ffi::{c_char, c_int, c_longlong};
use std::fs;
use std::path::Path;

use rustix::fs::FallocateFlags;

use crate::abi::{
    CurrentAction, Extent, Fid, LIST_MAX, REQUEST_ITEMS_MAX, UserItem, UserRequest, UserState, action, state,
    user_action,
};
use crate::boundary::{self, Errno, Result, negative, put};
use crate::changelog::{self, HsmEvent};
use crate::coordinator::{Asked, running, submit, turn};
use crate::file::{Hsm, data_version_of_fd, fid_to_path, find, modification, path_to_fid, set_times};
use crate::root::{Root, by_fd};
use crate::state::{Request, Session, State, Status};

fn request(path: &Path, header: &UserRequest, items: &[UserItem], data: &[u8]) -> Result<()> {
    let root = Root::of(path)?;
    root.fault("llapi_hsm_request")?;
    let kind = match header.action {
        user_action::ARCHIVE => action::ARCHIVE,
        user_action::RESTORE => action::RESTORE,
        user_action::REMOVE => action::REMOVE,
        user_action::CANCEL => action::CANCEL,
        user_action::RELEASE => return release_all(&root, items),
        _ => return Err(Errno(libc::EINVAL)),
    };
    running(&root)?;
    let mut session = Session::begin(&root)?;
    session.state.last_compound += 1;
    let compound = session.state.last_compound;
    let asked = Asked { action: kind, archive: header.archive_id, flags: header.flags, data };
    // What went before a bad item is taken all the same.
    let submitted = items.iter().try_for_each(|item| {
        // One that is refused in the midst of others.
        root.fault(&format!("item-{}", item.fid))?;
        let extent = if item.extent.length == 0 { Extent::ALL } else { item.extent };
        submit(&mut session, &asked, compound, item.fid, extent).map(drop)
    });
    turn(&mut session)?;
    submitted
}

/// One after the other, up to the first that cannot be.
fn release_all(root: &Root, items: &[UserItem]) -> Result<()> {
    items.iter().try_for_each(|item| release(root, item.fid))
}

fn release(root: &Root, fid: Fid) -> Result<()> {
    let mut session = Session::begin(root)?;
    let path = find(root, fid)?;
    let hsm = Hsm::read(&path)?;
    if hsm.has(state::RELEASED) {
        return Ok(());
    }
    if !hsm.has(state::ARCHIVED) || hsm.has(state::DIRTY | state::NORELEASE | state::LOST) {
        return Err(Errno(libc::EPERM));
    }
    // The data version is compared with the archived one.
    if Hsm::was_moved(&path)? {
        return Err(Errno(libc::EPERM));
    }
    let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
    alone(&file)?;
    let was = file.metadata()?;
    if was.len() > 0 {
        // Of the last block, nothing may stay either.
        let whole = was.len().next_multiple_of(1 << 16);
        rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, whole)?;
        set_times(&file, &was)?;
    }
    Hsm { flags: hsm.flags | state::RELEASED, ..hsm }.write(&path)?;
    changelog::log_hsm(&mut session, fid, HsmEvent::Release, 0)?;
    session.save()
}

/// `EBUSY` when somebody else has the file open.
pub(crate) fn alone(file: &fs::File) -> Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: a descriptor of ours, and no memory is passed.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    if result == 0 {
        // SAFETY: as above. That there is no lease to give back cannot be.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
        return Ok(());
    }
    match std::io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EAGAIN) => Err(Errno(libc::EBUSY)),
        error => Err(error.into()),
    }
}

fn state_of(path: &Path) -> Result<UserState> {
    let hsm = Hsm::read(path)?;
    Ok(UserState { states: hsm.flags, archive_id: hsm.archive, ..UserState::default() })
}

fn set_state(root: &Root, path: &Path, set: u64, clear: u64, archive: u32) -> Result<()> {
    if (set | clear) & !u64::from(state::ALL) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let mut session = Session::begin(root)?;
    let fid = crate::file::fid_of(&mut session, path)?;
    let mut hsm = Hsm::read(path)?;
    let low = |bits: u64| u32::try_from(bits & u64::from(state::ALL)).unwrap_or(0);
    hsm.flags = (hsm.flags | low(set)) & !low(clear);
    if archive != 0 {
        // The MDT changes nothing then, and says that all is well.
        if !hsm.has(state::EXISTS) {
            return Ok(());
        }
        hsm.archive = archive;
    }
    let has = |flag| hsm.has(flag);
    if has(state::DIRTY) && (!has(state::EXISTS) || has(state::RELEASED))
        || (has(state::RELEASED) || has(state::LOST)) && !has(state::ARCHIVED)
    {
        return Err(Errno(libc::EINVAL));
    }
    // From now on it counts as what the user says it is.
    if !hsm.has(state::DIRTY) {
        hsm.version = modification(&fs::metadata(path)?);
    }
    hsm.write(path)?;
    changelog::log_hsm(&mut session, fid, HsmEvent::State, 0)?;
    session.save()
}

fn current_action(root: &Root, path: &Path) -> Result<CurrentAction> {
    let fid = path_to_fid(root, path)?;
    let state = State::read(root)?;
    let of_it = |request: &&Request| request.fid == fid && request.is_open() && request.action != action::CANCEL;
    let Some(request) = state.requests.iter().rev().find(of_it) else { return Ok(CurrentAction::default()) };
    let done = request.progress.iter().map(|extent| extent.length).fold(0, u64::saturating_add);
    // Before it is begun, what is told is what was asked for.
    let location = if request.status == Status::Waiting { request.extent } else { Extent { offset: 0, length: done } };
    Ok(CurrentAction {
        state: if request.status == Status::Waiting { 1 } else { 2 },
        action: match request.action {
            action::ARCHIVE => user_action::ARCHIVE,
            action::RESTORE => user_action::RESTORE,
            _ => user_action::REMOVE,
        },
        location,
    })
}

/// Memory for a request, which the caller frees with `free`.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_hsm_user_request_alloc(itemcount: c_int, data_len: c_int) -> *mut UserRequest {
    let (Ok(items), Ok(data)) = (usize::try_from(itemcount), usize::try_from(data_len)) else {
        return std::ptr::null_mut();
    };
    let size = size_of::<UserRequest>() + items * size_of::<UserItem>() + data;
    // SAFETY: no argument of calloc's is invalid.
    unsafe { libc::calloc(1, size) }.cast()
}

/// Asks for an action on some files.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_request(path: *const c_char, asked: *const UserRequest) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let path = unsafe { boundary::path(path) }?;
        // SAFETY: null, or a request as above.
        let header = unsafe { asked.as_ref() }.ok_or(Errno(libc::EINVAL))?;
        let (count, len) = (header.itemcount as usize, header.data_len as usize);
        if header.itemcount > REQUEST_ITEMS_MAX || len > LIST_MAX / 2 {
            return Err(Errno(libc::E2BIG));
        }
        // SAFETY: the items follow the request, as many as it says, and the data follow those.
        let (items, data) = unsafe {
            let items: *const UserItem = asked.add(1).cast();
            let data: *const u8 = items.add(count).cast();
            (std::slice::from_raw_parts(items, count), std::slice::from_raw_parts(data, len))
        };
        request(&path, header, items, data).map(|()| 0)
    })())
}

/// What a file is to HSM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_state_get(path: *const c_char, out: *mut UserState) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let path = unsafe { boundary::path(path) }?;
        Root::of(&path)?.fault("llapi_hsm_state_get")?;
        // SAFETY: as the caller promises.
        unsafe { put(out, state_of(&path)?) }?;
        Ok(0)
    })())
}

/// As [`llapi_hsm_state_get`], of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_state_get_fd(fd: c_int, out: *mut UserState) -> c_int {
    negative((|| {
        Root::of_fd(fd)?.fault("llapi_hsm_state_get_fd")?;
        // SAFETY: as the caller promises.
        unsafe { put(out, state_of(&by_fd(fd))?) }?;
        Ok(0)
    })())
}

/// Says what a file is to HSM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_state_set(path: *const c_char, set: u64, clear: u64, archive_id: u32) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let path = unsafe { boundary::path(path) }?;
        let root = Root::of(&path)?;
        root.fault("llapi_hsm_state_set")?;
        set_state(&root, &path, set, clear, archive_id).map(|()| 0)
    })())
}

/// As [`llapi_hsm_state_set`], of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_state_set_fd(fd: c_int, set: u64, clear: u64, archive_id: u32) -> c_int {
    negative((|| {
        let root = Root::of_fd(fd)?;
        root.fault("llapi_hsm_state_set_fd")?;
        set_state(&root, &by_fd(fd), set, clear, archive_id).map(|()| 0)
    })())
}

/// What is being done with a file, and how far it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_current_action(path: *const c_char, out: *mut CurrentAction) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let path = unsafe { boundary::path(path) }?;
        let root = Root::of(&path)?;
        root.fault("llapi_hsm_current_action")?;
        // SAFETY: as the caller promises.
        unsafe { put(out, current_action(&root, &path)?) }?;
        Ok(0)
    })())
}

/// The FID of a path.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_path2fid(path: *const c_char, out: *mut Fid) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let path = unsafe { boundary::path(path) }?;
        let root = Root::of(&path)?;
        root.fault("llapi_path2fid")?;
        // SAFETY: as the caller promises.
        unsafe { put(out, path_to_fid(&root, &path)?) }?;
        Ok(0)
    })())
}

/// The FID of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_fd2fid(fd: c_int, out: *mut Fid) -> c_int {
    negative((|| {
        let root = Root::of_fd(fd)?;
        root.fault("llapi_fd2fid")?;
        // SAFETY: as the caller promises.
        unsafe { put(out, path_to_fid(&root, &by_fd(fd))?) }?;
        Ok(0)
    })())
}

/// A path of a FID, below the root of the filesystem; `linkno` says which, and is counted up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_fid2path(
    device: *const c_char,
    fid: *const c_char,
    out: *mut c_char,
    len: c_int,
    _recno: *mut c_longlong,
    linkno: *mut c_int,
) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let (device, fid) = unsafe { (boundary::text(device)?, boundary::text(fid)?) };
        let root = Root::named(&device)?;
        root.fault("llapi_fid2path")?;
        let fid = Fid::parse(&fid).ok_or(Errno(libc::EINVAL))?;
        // SAFETY: null, or a number of the caller's.
        let mut number = unsafe { linkno.as_mut() };
        let wanted = number.as_deref().map_or(0, |number| usize::try_from(*number).unwrap_or(0));
        let path = fid_to_path(&root, fid, wanted)?.into_os_string().into_encoded_bytes();
        // SAFETY: as the caller promises.
        unsafe { put_text(out, usize::try_from(len).unwrap_or(0), &path) }?;
        if let Some(number) = &mut number {
            **number += 1;
        }
        Ok(0)
    })())
}

/// Writes a NUL-terminated string; `ERANGE` when there is no room.
///
/// # Safety
/// `out` is null or has room for `len` bytes.
pub(crate) unsafe fn put_text(out: *mut c_char, len: usize, text: &[u8]) -> Result<()> {
    if out.is_null() || text.len() >= len {
        return Err(Errno(libc::ERANGE));
    }
    // SAFETY: there is room for the text and the NUL.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), out, text.len());
        out.add(text.len()).write(0);
    }
    Ok(())
}

/// The MDT a file is on: there is one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_get_mdt_index_by_fid(fd: c_int, fid: *const Fid, out: *mut c_int) -> c_int {
    negative((|| {
        let root = Root::of_fd(fd)?;
        root.fault("llapi_get_mdt_index_by_fid")?;
        // SAFETY: null, or a FID of the caller's.
        let fid = unsafe { fid.as_ref() }.ok_or(Errno(libc::EINVAL))?;
        find(&root, *fid)?;
        // SAFETY: as the caller promises.
        unsafe { put(out, 0) }?;
        Ok(0)
    })())
}

/// A number that changes with a file's data.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_get_data_version(fd: c_int, out: *mut u64, _flags: u64) -> c_int {
    negative((|| {
        Root::of_fd(fd)?.fault("llapi_get_data_version")?;
        // SAFETY: as the caller promises.
        unsafe { put(out, data_version_of_fd(fd)?) }?;
        Ok(0)
    })())
}
