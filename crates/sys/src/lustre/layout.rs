//! Layouts: on which OSTs a file's objects are, or shall be.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::raw::{c_int, c_uint};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::library::LayoutReading;
use super::{Library, abi, argument, path_argument};

/// What the name of a volatile file begins with: Lustre makes a file without a name of it.
const VOLATILE: &str = ".\x0c\x13\x14\x12:VOLATILE";

/// No file has more stripes (`LOV_MAX_STRIPE_COUNT`). Larger counts are Lustre's ways to say "default" and "all".
const MAX_STRIPES: u64 = 2000;
/// `LLAPI_LAYOUT_WIDE`.
const WIDE: u64 = 0x1000_0000_0000_0003;
/// More components than fit in a layout's attribute of 64 KiB.
const MAX_COMPONENTS: usize = 2048;

/// `enum llapi_layout_comp_use`.
const FIRST: c_uint = 1;
const NEXT: c_uint = 3;

/// `LCME_FL_STALE`.
const STALE: u32 = 0x1;
/// `LCME_FL_PARITY`: of erasure coding, newer than 2.17. Its bytes are not the file's.
const PARITY: u32 = 0x80;
/// `LCME_FL_INIT`.
const INITIALISED: u32 = 0x10;

/// A layout; freed when dropped.
#[derive(Debug)]
pub struct Layout {
    library: Library,
    pub(super) raw: NonNull<abi::LayoutPrivate>,
}

// SAFETY: a layout is memory of the library's that nothing else refers to.
unsafe impl Send for Layout {}

/// A part of a layout: a range of the file in one mirror. A plain file has one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Component {
    /// Its id; 0 in a plain layout.
    pub id: u32,
    /// Its mirror's id; 0 when the file has no mirrors.
    pub mirror: u32,
    /// Whether its content is out of date.
    pub stale: bool,
    /// Whether it has objects. One without gets them at the first write to its range.
    pub initialised: bool,
    /// The range's first byte.
    pub start: u64,
    /// The byte after its last; all ones for the file's end.
    pub end: u64,
    /// Bytes a stripe.
    pub stripe_size: u64,
    /// The pool it was made in, empty for none.
    pub pool: String,
    /// The OSTs its objects are on, in order.
    pub osts: Vec<u32>,
}

impl Layout {
    /// Lustre's default, to be changed with the methods below.
    pub fn new(library: &Library) -> io::Result<Self> {
        // SAFETY: takes nothing.
        let raw = unsafe { (library.layouts()?.alloc)() };
        Self::owned(library, raw)
    }

    /// That of an open file.
    pub fn of(library: &Library, file: impl AsFd) -> io::Result<Self> {
        // SAFETY: an open descriptor and no flags.
        let raw = unsafe { (library.layouts()?.get_by_fd)(file.as_fd().as_raw_fd(), 0) };
        Self::owned(library, raw)
    }

    fn owned(library: &Library, raw: *mut abi::LayoutPrivate) -> io::Result<Self> {
        let raw = NonNull::new(raw).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { library: library.clone(), raw })
    }

    /// Over how many OSTs.
    pub fn set_stripe_count(&mut self, count: u32) -> io::Result<()> {
        // SAFETY: the layout is ours, here and below.
        errno(unsafe { (self.library.layouts()?.stripe_count_set)(self.raw.as_ptr(), count.into()) })
    }

    /// Over all OSTs, or all of the pool.
    pub fn set_stripe_on_all(&mut self) -> io::Result<()> {
        // SAFETY: as above.
        errno(unsafe { (self.library.layouts()?.stripe_count_set)(self.raw.as_ptr(), WIDE) })
    }

    /// Bytes a stripe, a multiple of 64 KiB.
    pub fn set_stripe_size(&mut self, bytes: u64) -> io::Result<()> {
        // SAFETY: as above.
        errno(unsafe { (self.library.layouts()?.stripe_size_set)(self.raw.as_ptr(), bytes) })
    }

    /// In which pool of the filesystem; only its own name, without the filesystem's.
    pub fn set_pool(&mut self, pool: &str) -> io::Result<()> {
        let pool = argument(pool.as_bytes())?;
        // SAFETY: as above, and a string.
        errno(unsafe { (self.library.layouts()?.pool_name_set)(self.raw.as_ptr(), pool.as_ptr()) })
    }

    /// On which OST the stripe is, counted from 0. All are to be set, or only the first.
    pub fn set_ost(&mut self, stripe: u32, ost: u32) -> io::Result<()> {
        let stripe = c_int::try_from(stripe).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: as above.
        errno(unsafe { (self.library.layouts()?.ost_index_set)(self.raw.as_ptr(), stripe, ost.into()) })
    }

    /// Makes it one of components, of which there is a single one with all of the file: only what has such a layout can become a mirror.
    pub fn set_composite(&mut self) -> io::Result<()> {
        // SAFETY: as above.
        errno(unsafe { (self.library.layouts()?.comp_extent_set)(self.raw.as_ptr(), 0, u64::MAX) })
    }

    /// Makes a new file with the layout, readable and writable. `EEXIST` when there is one.
    pub fn create(&self, path: &Path, mode: u32) -> io::Result<File> {
        let path = path_argument(path)?;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: a string, numbers, and a layout that is only read.
        let fd = unsafe { (self.library.layouts()?.file_open)(path.as_ptr(), flags, mode, self.raw.as_ptr()) };
        errno(fd)?;
        // SAFETY: the library opened it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
    }

    /// Makes a file without a name in `directory` that has the layout and lives as long as it is open.
    pub fn create_volatile(&self, directory: &Path, mdt_index: Option<u32>) -> io::Result<File> {
        // The name is never seen; two at a time must not be the same.
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed) ^ std::process::id() << 16;
        let mdt = mdt_index.map(|index| format!("{index:04X}")).unwrap_or_default();
        self.create(&directory.join(format!("{VOLATILE}:{mdt}:{serial:08X}")), 0o600)
    }

    /// Its components, in order: those of the first mirror, then the next one's. Those of parities are left out.
    pub fn components(&mut self) -> io::Result<Vec<Component>> {
        let library = self.library.clone();
        let functions = library.layout_reading()?;
        let mut components = Vec::new();
        let mut position = FIRST;
        // SAFETY: the layout is ours. 1 says that there is no next one.
        while self.more(unsafe { (functions.comp_use)(self.raw.as_ptr(), position) })? {
            if components.len() >= MAX_COMPONENTS {
                return Err(io::Error::from_raw_os_error(libc::EOVERFLOW));
            }
            components.extend(self.component(functions)?);
            position = NEXT;
        }
        Ok(components)
    }

    fn more(&self, code: c_int) -> io::Result<bool> {
        errno(code).map(|()| code == 0)
    }

    fn component(&self, functions: &LayoutReading) -> io::Result<Option<Component>> {
        let raw = self.raw.as_ptr();
        let (mut id, mut mirror, mut flags) = (0, 0, 0);
        let (mut start, mut end) = (0, u64::MAX);
        let (mut stripes, mut stripe_size) = (0, 0);
        let mut pool = [0_u8; 64];
        // SAFETY: the layout is ours; room for what each writes, for the pool with its size.
        unsafe {
            unless_plain((functions.comp_id_get)(raw, &mut id))?;
            unless_plain((functions.mirror_id_get)(raw, &mut mirror))?;
            unless_plain((functions.comp_flags_get)(raw, &mut flags))?;
            unless_plain((functions.comp_extent_get)(raw, &mut start, &mut end))?;
            errno((functions.stripe_count_get)(raw, &mut stripes))?;
            errno((functions.stripe_size_get)(raw, &mut stripe_size))?;
            errno((functions.pool_name_get)(raw, pool.as_mut_ptr().cast(), pool.len() - 1))?;
        }
        // Only components of a composite layout have ids and flags.
        let initialised = id == 0 || flags & INITIALISED != 0;
        let mut osts = Vec::new();
        for stripe in 0..if initialised && stripes <= MAX_STRIPES { stripes } else { 0 } {
            let mut ost = u64::MAX;
            // A released file has stripes and no objects.
            // SAFETY: as above.
            unless_plain(unsafe { (functions.ost_index_get)(raw, stripe, &mut ost) })?;
            osts.extend(u32::try_from(ost).ok());
        }
        let pool = pool.split(|byte| *byte == 0).next().unwrap_or_default();
        let pool = String::from_utf8_lossy(pool).into_owned();
        let stale = flags & STALE != 0;
        let component = Component { id, mirror, stale, initialised, start, end, stripe_size, pool, osts };
        Ok((flags & PARITY == 0).then_some(component))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        if let Ok(functions) = self.library.layouts() {
            // SAFETY: the layout is ours and not used any more.
            unsafe { (functions.free)(self.raw.as_ptr()) };
        }
    }
}

/// The convention of the layout functions: -1, and errno.
fn errno(code: c_int) -> io::Result<()> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Older libraries refuse with `EINVAL` to tell of a plain layout what only components have; what was there stays then.
fn unless_plain(code: c_int) -> io::Result<()> {
    match errno(code) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        result => result,
    }
}
