//! An MDT's changelog: what happened on its part of the filesystem, in order.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::raw::{c_longlong, c_uint, c_void};
use std::ptr::{self, NonNull};

use super::changelog_record::{HEADER, Record, length};
use super::copytool::{close_on_exec, no_handle};
use super::{Library, argument, check, result};

/// `CHANGELOG_FLAG_FOLLOW`: go on after the end.
const FOLLOW: c_uint = 0x1;
/// `CHANGELOG_FLAG_JOBID | CHANGELOG_FLAG_EXTRA_FLAGS`: the library wants them asked for.
const EXTENDED: c_uint = 0x4 | 0x8;
/// `CHANGELOG_EXTRA_FLAG_UIDGID`.
const OWNER: c_uint = 0x1;

/// A reader; closes the log when dropped.
///
/// The log keeps every record until all registered users have cleared it: clear what is durably processed, or the MDT fills.
#[derive(Debug)]
pub struct Changelog {
    library: Library,
    raw: NonNull<c_void>,
    /// The library's, closed by it alone.
    fd: RawFd,
}

// SAFETY: the library keeps nothing of a thread in the handle; all calls that write to it need `&mut self`.
unsafe impl Send for Changelog {}
// SAFETY: with a shared reference nothing is called.
unsafe impl Sync for Changelog {}

impl Changelog {
    /// Opens the log of `mdt` (as `lustre-MDT0000`) from record `from` on; 0 for the oldest there is. With `follow`, its end is not an end:
    /// there, [`recv`](Self::recv) waits.
    pub fn start(library: &Library, mdt: &str, from: u64, follow: bool) -> io::Result<Self> {
        let functions = library.changelog()?;
        let mdt = argument(mdt.as_bytes())?;
        let from = record_number(from)?;
        let flags = EXTENDED | if follow { FOLLOW } else { 0 };
        let mut raw = ptr::null_mut();
        // SAFETY: room for a handle, a string, numbers.
        check(unsafe { (functions.start)(&mut raw, flags, mdt.as_ptr(), from) })?;
        let raw = NonNull::new(raw).ok_or_else(no_handle)?;
        let mut log = Self { library: library.clone(), raw, fd: -1 };
        // SAFETY: the handle is open, here and below.
        log.fd = result(unsafe { (functions.get_fd)(raw.as_ptr()) })?;
        close_on_exec(log.fd)?;
        // SAFETY: as above.
        check(unsafe { (functions.set_xflags)(raw.as_ptr(), OWNER) })?;
        Ok(log)
    }

    /// The next record; `None` at the end of the log, where a reader that does not follow stays: start another one from the next number on. So
    /// does one that follows with a client of 2.12.0, which knows no following: pause before that.
    ///
    /// Waits for the MDT. A reader that follows is to be asked when [`buffered`](Self::buffered) or [`AsFd`] says that there is something.
    /// A record that is damaged is no error, see [`Record::damage`].
    pub fn recv(&mut self) -> io::Result<Option<Record>> {
        let functions = self.library.changelog()?;
        let mut raw = ptr::null_mut();
        // SAFETY: the handle is open, and room for a pointer.
        let code = result(unsafe { (functions.recv)(self.raw.as_ptr(), &mut raw) })?;
        // Without memory the library gives none, and says nothing.
        let Some(record) = NonNull::new(raw) else {
            return if code == 1 { Ok(None) } else { Err(io::Error::from_raw_os_error(libc::ENOMEM)) };
        };
        let start = record.as_ptr().cast::<u8>();
        let mut size = HEADER;
        let parsed = loop {
            // SAFETY: the library allocates for a record at least as much as its own flags and length say; `size` is the header's, and
            // then what these say, at most the largest a record can have.
            let bytes = unsafe { std::slice::from_raw_parts(start, size) };
            let needed = length(bytes);
            if needed <= size {
                break Record::parse(bytes);
            }
            size = needed;
        };
        // SAFETY: the record came from the library and is not used any more.
        unsafe { (functions.free)(&mut raw) };
        parsed.map(Some).ok_or_else(|| io::Error::other("a changelog record without a header"))
    }

    /// Whether the next [`recv`](Self::recv) has a record without asking the kernel. A library of 2.12.0 does not tell: `false`.
    pub fn buffered(&mut self) -> io::Result<bool> {
        let Some(functions) = self.library.changelog_buffer() else { return Ok(false) };
        // SAFETY: the handle is open.
        Ok(result(unsafe { (functions.in_buf)(self.raw.as_ptr()) })? > 0)
    }

    /// Tells the MDT that `user` (as `cl1`, registered with `lctl changelog_register`) has no use any more for
    /// the records up to and with `to`.
    /// 0 means all there are. `ENOENT` for a user that is not registered.
    pub fn clear(library: &Library, mdt: &str, user: &str, to: u64) -> io::Result<()> {
        let (mdt, user) = (argument(mdt.as_bytes())?, argument(user.as_bytes())?);
        // SAFETY: two strings and a number.
        check(unsafe { (library.changelog()?.clear)(mdt.as_ptr(), user.as_ptr(), record_number(to)?) })
    }
}

impl AsFd for Changelog {
    /// For waiting until there are records; hung up at the end of the log.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the library closes it when `self` is dropped.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Drop for Changelog {
    fn drop(&mut self) {
        if let Ok(functions) = self.library.changelog() {
            let mut raw: *mut c_void = self.raw.as_ptr();
            // SAFETY: the handle is open; the library frees it.
            unsafe { (functions.fini)(&mut raw) };
        }
    }
}

fn record_number(number: u64) -> io::Result<c_longlong> {
    c_longlong::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}
