//! `llapi_hsm_action_…`: what an agent says of an action it carries out.

use std::ffi::c_int;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use crate::abi::{ActionItem, Copy, Extent, Fid, action};
use crate::boundary::{Errno, Result, misuse, negative, put};
use crate::completion::{self, Begun, End};
use crate::copytool::{self, Copytool};
use crate::file::{find, open_inheritable};
use crate::root::Root;
use crate::state::Session;

const LIVE: u64 = 0x4143_5449_4c49_5645;
const DEAD: u64 = 0x4143_5449_4445_4144;

/// `struct hsm_copyaction_private`, which users see the address of alone.
pub struct CopyAction {
    magic: AtomicU64,
    root: Root,
    copy: Copy,
    is_error: bool,
    volatile: Option<(Fid, File)>,
}

/// As [`copytool::live`].
///
/// # Safety
/// `handle` is null or was filled by `llapi_hsm_action_begin`.
unsafe fn live<'a>(handle: *const CopyAction) -> Result<&'a CopyAction> {
    // SAFETY: null, or from begin, whose memory is never freed.
    let action = unsafe { handle.as_ref() }.ok_or(Errno(libc::EINVAL))?;
    match action.magic.load(Ordering::SeqCst) {
        LIVE => Ok(action),
        DEAD => misuse("an action was used after its end: end frees the handle also when it fails"),
        _ => Err(Errno(libc::EINVAL)),
    }
}

impl CopyAction {
    fn begin(copytool: &Copytool, item: ActionItem, is_error: bool) -> Result<CopyAction> {
        let root = copytool.root.clone();
        root.fault("llapi_hsm_action_begin")?;
        let begun = if is_error {
            Begun { data_version: 0, volatile: None }
        } else {
            completion::begin(&mut Session::begin(&root)?, &item)?
        };
        let copy = Copy { data_version: begun.data_version, item, ..Copy::default() };
        Ok(CopyAction { magic: AtomicU64::new(LIVE), root, copy, is_error, volatile: begun.volatile })
    }

    /// Where the data go to.
    fn data_fid(&self) -> Fid {
        self.volatile.as_ref().map_or(self.copy.item.fid, |(fid, _)| *fid)
    }

    fn descriptor(&self) -> Result<OwnedFd> {
        self.root.fault("llapi_hsm_action_get_fd")?;
        match (&self.volatile, self.copy.item.action) {
            (Some((_, file)), _) => Ok(rustix::io::dup(file)?),
            (None, action::ARCHIVE) => {
                let path = find(&self.root, self.copy.item.fid)?;
                let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                Ok(open_inheritable(&path, flags)?.into())
            }
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    fn end(&self, flags: c_int, errno: c_int) -> Result<()> {
        let flags = u16::try_from(flags).map_err(|_| Errno(libc::EINVAL))?;
        if errno < 0 {
            return Err(Errno(libc::EINVAL));
        }
        self.root.fault("llapi_hsm_action_end")?;
        let data_fid = if self.is_error { self.copy.item.fid } else { self.data_fid() };
        let data_version = self.copy.data_version;
        let report = End { item: &self.copy.item, data_fid, data_version, flags, errno };
        completion::end(&mut Session::begin(&self.root)?, &report)
    }
}

/// Begins an action, or, with `is_error`, the report that it cannot begin.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_action_begin(
    handle: *mut *mut CopyAction,
    copytool: *const Copytool,
    item: *const ActionItem,
    _restore_mdt_index: c_int,
    _restore_open_flags: c_int,
    is_error: bool,
) -> c_int {
    negative((|| {
        if handle.is_null() || item.is_null() {
            return Err(Errno(libc::EINVAL));
        }
        // SAFETY: as the caller promises.
        let copytool = unsafe { copytool::live(copytool) }?;
        // SAFETY: not null; an item in a list need not be aligned.
        let item = unsafe { item.read_unaligned() };
        let action = Box::into_raw(Box::new(CopyAction::begin(copytool, item, is_error)?));
        // SAFETY: not null.
        unsafe { put(handle, action) }?;
        Ok(0)
    })())
}

/// The FID the data go to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_action_get_dfid(handle: *const CopyAction, fid: *mut Fid) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let action = unsafe { live(handle) }?;
        action.root.fault("llapi_hsm_action_get_dfid")?;
        // SAFETY: as the caller promises.
        unsafe { put(fid, action.data_fid()) }?;
        Ok(0)
    })())
}

/// A descriptor of the data, which is the caller's to close.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_action_get_fd(handle: *const CopyAction) -> c_int {
    // SAFETY: as the caller promises.
    negative(unsafe { live(handle) }.and_then(CopyAction::descriptor).map(IntoRawFd::into_raw_fd))
}

/// Reports that a part is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_action_progress(
    handle: *mut CopyAction,
    extent: *const Extent,
    _total: u64,
    hp_flags: c_int,
) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let action = unsafe { live(handle) }?;
        if extent.is_null() || u16::try_from(hp_flags).is_err() {
            return Err(Errno(libc::EINVAL));
        }
        action.root.fault("llapi_hsm_action_progress")?;
        // SAFETY: not null, and valid as the caller promises.
        let extent = unsafe { extent.read_unaligned() };
        let mut session = Session::begin(&action.root)?;
        completion::progress(&mut session, &action.copy.item, action.data_fid(), extent)?;
        Ok(0)
    })())
}

/// Reports the end, and frees the handle whatever the result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_action_end(
    handle: *mut *mut CopyAction,
    extent: *const Extent,
    hp_flags: c_int,
    errval: c_int,
) -> c_int {
    negative((|| {
        // SAFETY: null, or a place that begin has filled.
        let slot = unsafe { handle.as_mut() }.ok_or(Errno(libc::EINVAL))?;
        // SAFETY: as above.
        let action = unsafe { live(*slot) }?;
        let result = if extent.is_null() { Err(Errno(libc::EINVAL)) } else { action.end(hp_flags, errval) };
        action.magic.store(DEAD, Ordering::SeqCst);
        // SAFETY: nobody else may use it during its end; what it holds is given back, its memory is kept to be recognised.
        let action = unsafe { &mut **slot };
        if let Some((fid, file)) = action.volatile.take() {
            debug_assert!(file.as_raw_fd() >= 0);
            // It may have been removed with the filesystem.
            let _ = fs::remove_file(fid.path(&action.root));
        }
        *slot = std::ptr::null_mut();
        result.map(|()| 0)
    })())
}
