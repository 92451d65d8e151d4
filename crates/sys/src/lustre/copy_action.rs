//! One action of the coordinator, from its begin to its end.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::raw::c_int;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use model::{Extent, Fid};

use super::action_list::Item;
use super::copytool::{Handle, Registration, close_on_exec, no_handle};
use super::{abi, check, result};

/// `O_LOV_DELAY_CREATE`: the file gets no layout before somebody sets one or writes.
pub(super) const DELAY_LAYOUT: c_int = 0x2100;

/// How a restore's file is made; of no account for other actions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Begin {
    /// On which MDT; none leaves it to Lustre. Give the file's own ([`mdt_index_by_fid`](super::mdt_index_by_fid)) when there are several.
    pub mdt_index: Option<u32>,
    /// Makes the file without a layout, so that the file's old one can be given to it: set `lustre.lov` on
    /// [`CopyAction::fd`] with `XATTR_CREATE` before the first write. Otherwise it gets that of the file's present directory.
    pub delay_layout: bool,
}

/// How an action ended, besides its error number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProgressFlags {
    /// Asks the coordinator to send it again later. Ignored under its default policy (no retry).
    pub retry: bool,
}

impl ProgressFlags {
    fn bits(self) -> c_int {
        c_int::from(self.retry) * 2
    }
}

/// An action that has begun and is owed an end. Dropped without one, it ends with `EIO`: a slot of the coordinator is never
/// kept by mistake.
///
/// Can be moved to any thread. Its file of a restore is gone with it.
#[derive(Debug)]
pub struct CopyAction {
    registration: Arc<Registration>,
    /// `None` after the end.
    raw: Option<NonNull<abi::CopyActionPrivate>>,
}

// SAFETY: the library keeps nothing of a thread in the handle.
unsafe impl Send for CopyAction {}
// SAFETY: with a shared reference only `fd` and `dfid` are called, which read the handle.
unsafe impl Sync for CopyAction {}

impl CopyAction {
    /// Begins: opens the file (archive), makes the file that the content is to be written to (restore), and tells the coordinator.
    ///
    /// `ENOENT`: the file is gone (fine for remove, which begins all the same). `ECANCELED`: canceled meanwhile. `EINVAL` on restore: an
    /// earlier process began it and reported progress. In each case [`fail`](Self::fail) it. `EAGAIN`: the coordinator is stopped.
    pub fn begin(copytool: &Handle, item: &Item, options: Begin) -> io::Result<Self> {
        let mdt_index = match options.mdt_index.map(c_int::try_from) {
            None => -1,
            Some(Ok(index)) => index,
            Some(Err(_)) => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        let flags = if options.delay_layout { DELAY_LAYOUT } else { 0 };
        Self::start(copytool, item, mdt_index, flags, false)
    }

    /// Begins an action only to report an error: opens and tells nothing. What follows can only be [`end`](Self::end).
    pub fn begin_failed(copytool: &Handle, item: &Item) -> io::Result<Self> {
        Self::start(copytool, item, -1, 0, true)
    }

    /// Answers an action that could not begin with an error number.
    pub fn fail(copytool: &Handle, item: &Item, errno: i32, flags: ProgressFlags) -> io::Result<()> {
        Self::begin_failed(copytool, item)?.end(item.extent(), flags, errno)
    }

    fn start(copytool: &Handle, item: &Item, mdt_index: c_int, flags: c_int, failed: bool) -> io::Result<Self> {
        let registration = Arc::clone(copytool.registration());
        // The whole item, in memory aligned as the struct is.
        let mut aligned = vec![0_u64; item.as_bytes().len().div_ceil(8)];
        for (word, bytes) in aligned.iter_mut().zip(item.as_bytes().chunks(8)) {
            let mut padded = [0; 8];
            for (to, from) in padded.iter_mut().zip(bytes) {
                *to = *from;
            }
            *word = u64::from_ne_bytes(padded);
        }
        let mut raw = ptr::null_mut();
        let begin = registration.library.hsm().action_begin;
        // SAFETY: both handles are valid; an item has at least the struct's size, and is only read during the call.
        let code =
            unsafe { begin(&mut raw, registration.raw.as_ptr(), aligned.as_ptr().cast(), mdt_index, flags, failed) };
        check(code)?;
        Ok(Self { registration, raw: Some(NonNull::new(raw).ok_or_else(no_handle)?) })
    }

    /// The file to read (archive) or to write (restore), by a descriptor of its own; close-on-exec. `EINVAL` for other
    /// actions.
    pub fn fd(&self) -> io::Result<OwnedFd> {
        // SAFETY: the handle has not ended.
        let fd = result(unsafe { (self.registration.library.hsm().action_get_fd)(self.raw()?) })?;
        // SAFETY: the library gives a duplicate, which is ours.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        close_on_exec(fd)?;
        Ok(owned)
    }

    /// The FID of the file that [`fd`](Self::fd) opens: of a restore's file until the end.
    pub fn dfid(&self) -> io::Result<Fid> {
        let mut fid = abi::LuFid::default();
        // SAFETY: the handle has not ended; the library writes one FID.
        check(unsafe { (self.registration.library.hsm().action_get_dfid)(self.raw()?, &mut fid) })?;
        Ok(fid.into())
    }

    /// Tells the coordinator that `extent` is done, of `total` bytes. Reporting a part twice does no harm.
    ///
    /// `ECANCELED`: stop, and [`end`](Self::end) with that number. `ENOENT`: the coordinator has lost the action.
    ///
    /// An action that a new process took over cannot be restored any more once progress was reported.
    pub fn progress(&mut self, extent: Extent, total: u64, flags: ProgressFlags) -> io::Result<()> {
        let extent = abi::HsmExtent::from(extent);
        let progress = self.registration.library.hsm().action_progress;
        // SAFETY: the handle has not ended, and is not used by another thread meanwhile (`&mut self`).
        check(unsafe { progress(self.raw()?, &extent, total, flags.bits()) })
    }

    /// Ends it: `errno` 0 for success, or the reason. It is over also when this fails; there is no second try.
    ///
    /// **A restore that ends with 0 is believed**: what was not written is cut off. Check size and content first, and **sync [`fd`](Self::fd)**: the library
    /// does so, too, but tells the coordinator alone when that fails, and this gives `Ok`.
    ///
    /// `EBUSY`: the file was modified while it was archived; the request has failed, the file is dirty.
    /// `ENOENT`: the coordinator has lost it.
    pub fn end(mut self, extent: Extent, flags: ProgressFlags, errno: i32) -> io::Result<()> {
        self.finish(extent, flags, errno)
    }

    /// Leaves it as it is, for the process that runs next: [`begin`](Self::begin) takes it over there. The coordinator is not told. What the
    /// library has for it stays until this process ends.
    pub fn abandon(mut self) {
        self.raw = None;
    }

    fn finish(&mut self, extent: Extent, flags: ProgressFlags, errno: i32) -> io::Result<()> {
        let Some(raw) = self.raw.take() else { return Ok(()) };
        let mut raw = raw.as_ptr();
        let extent = abi::HsmExtent::from(extent);
        // SAFETY: the handle has not ended and never comes here again: the library frees it, whatever it answers.
        check(unsafe { (self.registration.library.hsm().action_end)(&mut raw, &extent, flags.bits(), errno) })
    }

    fn raw(&self) -> io::Result<*mut abi::CopyActionPrivate> {
        self.raw.map(NonNull::as_ptr).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }
}

impl Drop for CopyAction {
    fn drop(&mut self) {
        // Nobody is left who could be told of an error.
        let _ = self.finish(Extent { offset: 0, length: 0 }, ProgressFlags::default(), libc::EIO);
    }
}
