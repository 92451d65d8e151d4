//! Mirrors of one file: reading and writing each by itself, and finding those that are out of date.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::raw::c_int;

use super::layout::Layout;
use super::{Library, abi, check};

/// More components than fit in a layout's attribute.
const MAX_COMPONENTS: usize = 2048;

/// A component of a mirror that is out of date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StaleComponent {
    /// Its id, for [`LayoutLease::finish_resync`](super::LayoutLease::finish_resync).
    pub id: u32,
    /// Its mirror.
    pub mirror: u32,
    /// The range's first byte.
    pub start: u64,
    /// The byte after its last; all ones for the file's end.
    pub end: u64,
}

/// The components that are out of date: of the mirrors given, or, if none is, of all but those that are never to be resynced.
pub fn find_stale(library: &Library, layout: &mut Layout, mirrors: &[u16]) -> io::Result<Vec<StaleComponent>> {
    let find = library.mirrors()?.find_stale;
    let mut found = vec![abi::ResyncComp::default(); MAX_COMPONENTS];
    let mut mirrors = mirrors.to_vec();
    let ids = c_int::try_from(mirrors.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the layout is ours; room for as many components as said, as many ids as said.
    let count = unsafe { find(layout.raw.as_ptr(), found.as_mut_ptr(), found.len(), mirrors.as_mut_ptr(), ids) };
    let count = usize::try_from(count).map_err(|_| mixed(count.into()))?;
    Ok(found.into_iter().take(count).map(StaleComponent::from_abi).collect())
}

impl StaleComponent {
    fn from_abi(c: abi::ResyncComp) -> Self {
        Self { id: c.id, mirror: c.mirror_id, start: c.start, end: c.end }
    }
}

/// An open file whose mirrors are read and written one by one. The descriptor is turned to a mirror for each call: use it for nothing else
/// meanwhile.
///
/// Open it with `O_DIRECT`, and hold a lease.
#[derive(Debug)]
pub struct MirrorFile<F: AsFd> {
    library: Library,
    file: F,
}

impl<F: AsFd> MirrorFile<F> {
    /// The file. Mirrors are named by id, from 1 on.
    pub fn new(library: &Library, file: F) -> io::Result<Self> {
        library.mirrors()?;
        Ok(Self { library: library.clone(), file })
    }

    /// Reads from one mirror; less than asked for only at the end. `offset` and `buffer` aligned to pages for `O_DIRECT`.
    pub fn read(&mut self, mirror: u32, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = signed(offset)?;
        let read = self.library.mirrors()?.read;
        // SAFETY: an open descriptor and a buffer with its size.
        count(unsafe { read(self.fd(), mirror, buffer.as_mut_ptr().cast(), buffer.len(), offset) })
    }

    /// Writes all of `data` to one mirror. `EINVAL` unless it and `offset` are aligned to pages in memory and file; the end may be
    /// any only at the file's end.
    pub fn write(&mut self, mirror: u32, data: &[u8], offset: u64) -> io::Result<usize> {
        let offset = signed(offset)?;
        let write = self.library.mirrors()?.write;
        // SAFETY: an open descriptor and a buffer with its size, which is only read.
        count(unsafe { write(self.fd(), mirror, data.as_ptr().cast(), data.len(), offset) })
    }

    /// Where the next data of a mirror begin, from `offset` on, and how many there are before a hole or the end. With a library of 2.12, which
    /// does not tell, all is data.
    pub fn next_data(&mut self, mirror: u32, offset: u64) -> io::Result<(u64, usize)> {
        let offset = signed(offset)?;
        let mut size = MaybeUninit::new(0_usize);
        let Some(holes) = self.library.mirror_holes() else { return self.all_is_data(offset) };
        let seek = holes.data_seek;
        // SAFETY: an open descriptor and room for a number.
        let at = unsafe { seek(self.fd(), mirror, offset, size.as_mut_ptr()) };
        // SAFETY: it was initialised with 0.
        let size = unsafe { size.assume_init() };
        Ok((u64::try_from(at).map_err(|_| mixed(at))?, size))
    }

    fn all_is_data(&self, offset: i64) -> io::Result<(u64, usize)> {
        let size = crate::file::stamp(&self.file)?.size;
        let offset = u64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // At the end there is nothing, as `lseek(2)` says it.
        let left = size.checked_sub(offset).filter(|left| *left > 0);
        let left = left.ok_or_else(|| io::Error::from_raw_os_error(libc::ENXIO))?;
        Ok((offset, usize::try_from(left).unwrap_or(usize::MAX)))
    }

    /// Turns the descriptor to one mirror for what follows, or with `None` back to any.
    pub fn turn_to(&mut self, mirror: Option<u32>) -> io::Result<()> {
        let functions = self.library.mirrors()?;
        check(match mirror {
            // SAFETY: an open descriptor and a number.
            Some(id) => unsafe { (functions.set)(self.fd(), id) },
            // SAFETY: as above.
            None => unsafe { (functions.clear)(self.fd()) },
        })
    }

    fn fd(&self) -> c_int {
        self.file.as_fd().as_raw_fd()
    }
}

impl<F: AsFd> AsFd for MirrorFile<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn signed(offset: u64) -> io::Result<libc::off_t> {
    offset.try_into().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn count(code: isize) -> io::Result<usize> {
    usize::try_from(code).map_err(|_| mixed(i64::try_from(code).unwrap_or(-1)))
}

/// These functions mostly return negative error numbers, and sometimes -1 with errno, from a layout function they call.
fn mixed(code: i64) -> io::Error {
    match i32::try_from(code) {
        Ok(code) if code < -1 => io::Error::from_raw_os_error(code.saturating_neg()),
        _ => io::Error::last_os_error(),
    }
}
