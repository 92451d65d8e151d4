//! `llapi_mirror_…`, swaps of layouts, and files without a name.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};

use crate::abi::{O_LOV_DELAY_CREATE, ResyncComponent};
use crate::boundary::{self, Errno, Result, negative, put};
use crate::file::make_volatile;
use crate::layout::Layout;
use crate::layout_api::{LayoutHandle, handle};
use crate::lease::{end_for_swap, keep_through};
use crate::mirror;
use crate::root::Root;
use crate::state::Session;

/// What a descriptor was before it was turned to a mirror.
static TURNED: LazyLock<Mutex<HashMap<RawFd, OwnedFd>>> = LazyLock::new(Mutex::default);

fn turned() -> MutexGuard<'static, HashMap<RawFd, OwnedFd>> {
    TURNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Safety
/// `fd` is not closed while the result is used.
unsafe fn borrow<'a>(fd: RawFd) -> Result<BorrowedFd<'a>> {
    // SAFETY: as the caller promises; -1 is excluded.
    if fd < 0 { Err(Errno(libc::EBADF)) } else { Ok(unsafe { BorrowedFd::borrow_raw(fd) }) }
}

/// Puts `new` in the place of `fd`.
fn replace(new: &OwnedFd, fd: RawFd) -> Result<()> {
    // SAFETY: both are numbers of open descriptors; the caller of the library means `fd` to be replaced.
    let result = unsafe { libc::dup3(new.as_raw_fd(), fd, libc::O_CLOEXEC) };
    if result < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}

fn turn_to(fd: RawFd, id: u32) -> Result<()> {
    turn_back(fd)?;
    let root = Root::of_fd(fd)?;
    root.fault("llapi_mirror_set")?;
    // SAFETY: the caller's descriptor, open during its call.
    let borrowed = unsafe { borrow(fd) }?;
    let flags = rustix::fs::fcntl_getfl(borrowed)?;
    if !flags.contains(OFlags::DIRECT) {
        return Err(Errno(libc::EINVAL));
    }
    if let Some(path) = mirror::data_of(&root, fd, id)? {
        let data = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?;
        let before = rustix::io::fcntl_dupfd_cloexec(borrowed, 0)?;
        replace(&data, fd)?;
        turned().insert(fd, before);
    }
    Ok(())
}

fn turn_back(fd: RawFd) -> Result<()> {
    let before = turned().remove(&fd);
    before.map_or(Ok(()), |before| replace(&before, fd))
}

/// Reads and writes of `fd` go to one mirror from now on. The descriptor must be for direct access.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_mirror_set(fd: c_int, id: u32) -> c_int {
    negative(turn_to(fd, id).map(|()| 0))
}

/// They go to the file again.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_mirror_clear(fd: c_int) -> c_int {
    negative(turn_back(fd).map(|()| 0))
}

/// Does something with `fd` turned to a mirror.
fn through<T>(fd: RawFd, id: u32, what: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
    turn_to(fd, id)?;
    // SAFETY: the caller's descriptor, open during its call.
    let result = unsafe { borrow(fd) }.and_then(what);
    turn_back(fd)?;
    result
}

fn long(result: Result<i64>) -> i64 {
    result.unwrap_or_else(|Errno(errno)| -i64::from(errno))
}

/// Reads from one mirror.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_mirror_read(fd: c_int, id: u32, buffer: *mut c_void, len: usize, at: i64) -> isize {
    let read = through(fd, id, |file| {
        // Of all mirrors, or of one.
        let root = Root::of_fd(file.as_raw_fd())?;
        root.fault("llapi_mirror_read")?;
        root.fault(&format!("llapi_mirror_read_{id}"))?;
        // SAFETY: there is room for `len` bytes, as the caller promises.
        let done = unsafe { libc::pread(file.as_raw_fd(), buffer, len, at) };
        if done < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(done as i64) }
    });
    long(read) as isize
}

/// Writes into one mirror, which does not make the others stale.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_mirror_write(fd: c_int, id: u32, buffer: *const c_void, len: usize, at: i64) -> isize {
    let mut done = 0;
    let written = keep_through(fd, || {
        done = through(fd, id, |file| {
            Root::of_fd(file.as_raw_fd())?.fault("llapi_mirror_write")?;
            // SAFETY: there are `len` bytes, as the caller promises.
            let done = unsafe { libc::pwrite(file.as_raw_fd(), buffer, len, at) };
            if done < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(done as i64) }
        })?;
        Ok(())
    });
    long(written.map(|()| done)) as isize
}

/// Cuts or extends one mirror.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_mirror_truncate(fd: c_int, id: u32, len: i64) -> c_int {
    negative(through(fd, id, |file| {
        rustix::fs::ftruncate(file, u64::try_from(len).map_err(|_| Errno(libc::EINVAL))?)?;
        Ok(0)
    }))
}

/// Where the next data of one mirror are, from `at` on, and how many bytes: 0 of them, and the end, when there are no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_mirror_data_seek(fd: c_int, id: u32, at: i64, size: *mut usize) -> i64 {
    use rustix::fs::{SeekFrom, seek};
    long(through(fd, id, |file| {
        let at = u64::try_from(at).map_err(|_| Errno(libc::EINVAL))?;
        let data = match seek(file, SeekFrom::Data(at)) {
            // Behind the last data: the file's end, and that there are none.
            Err(rustix::io::Errno::NXIO) => {
                // SAFETY: as the caller promises.
                unsafe { put(size, 0) }?;
                return i64::try_from(seek(file, SeekFrom::End(0))?).map_err(|_| Errno(libc::EOVERFLOW));
            }
            data => data?,
        };
        let hole = seek(file, SeekFrom::Hole(data))?;
        // SAFETY: as the caller promises.
        unsafe { put(size, usize::try_from(hole - data).unwrap_or(usize::MAX)) }?;
        i64::try_from(data).map_err(|_| Errno(libc::EOVERFLOW))
    }))
}

/// The stale components of a layout, of the given mirrors or of all: how many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_mirror_find_stale(
    layout: *mut LayoutHandle,
    components: *mut ResyncComponent,
    room: usize,
    mirror_ids: *const u16,
    ids: c_int,
) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let (layout, stale) = unsafe { handle(layout) }?.existing()?;
        let count = usize::try_from(ids).unwrap_or(0);
        // SAFETY: there are as many, as the caller promises.
        let wanted = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(mirror_ids, count) } };
        let mut found = 0;
        for (mirror, _) in layout.mirrors.iter().zip(stale).filter(|(_, stale)| **stale) {
            if if wanted.is_empty() { mirror.nosync } else { !wanted.contains(&mirror.id) } {
                continue;
            }
            if found == room || components.is_null() {
                return Err(Errno(libc::EINVAL));
            }
            let (mirror_id, id) = (mirror.id.into(), mirror.component());
            let component = ResyncComponent { start: 0, end: u64::MAX, mirror_id, id, synced: true };
            // SAFETY: there is room for it.
            unsafe { components.add(found).write(component) };
            found += 1;
        }
        Ok(c_int::try_from(found).unwrap_or(c_int::MAX))
    })())
}

/// Swaps the data and layouts of two files.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_fswap_layouts(first: c_int, second: c_int, dv1: u64, dv2: u64, flags: u64) -> c_int {
    negative((|| {
        let root = Root::of_fd(first)?;
        root.fault("llapi_fswap_layouts")?;
        if flags & mirror::CLOSE != 0 {
            end_for_swap(first)?;
        }
        mirror::swap(&root, (first, second), (dv1, dv2), flags).map(|()| 0)
    })())
}

/// As [`llapi_fswap_layouts`], under a group lock. Nobody is blocked by that here.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_fswap_layouts_grouplock(
    first: c_int,
    second: c_int,
    dv1: u64,
    dv2: u64,
    group: c_int,
    flags: u64,
) -> c_int {
    negative((|| {
        let root = Root::of_fd(first)?;
        root.fault("llapi_fswap_layouts_grouplock")?;
        if group == 0 {
            return Err(Errno(libc::EINVAL));
        }
        mirror::swap(&root, (first, second), (dv1, dv2), flags).map(|()| 0)
    })())
}

/// Writes out what is cached of a file.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_file_flush(fd: c_int) -> c_int {
    negative((|| {
        Root::of_fd(fd)?.fault("llapi_file_flush")?;
        // SAFETY: the caller's descriptor, open during its call.
        rustix::fs::fsync(unsafe { borrow(fd) }?)?;
        Ok(0)
    })())
}

/// A file without a name, in the layout of a directory, or without one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_create_volatile_idx(directory: *const c_char, _mdt: c_int, flags: c_int) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let directory = unsafe { boundary::path(directory) }?;
        let root = Root::of(&directory)?;
        root.fault("llapi_create_volatile_idx")?;
        let mut session = Session::begin(&root)?;
        let (fid, file) = make_volatile(&mut session)?;
        if flags & O_LOV_DELAY_CREATE != O_LOV_DELAY_CREATE {
            Layout::of(&mut session, &fid.path(&root))?;
        }
        Ok(file.into_raw_fd())
    })())
}
