//! `llapi_layout_…`: looking at layouts, and making files with one.

use std::ffi::{c_char, c_int};
use std::fs::{self, OpenOptions};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::boundary::{self, Errno, Result, minus_one, put, set_errno};
use crate::file::{fid_of, make_volatile, path_to_fid};
use crate::layout::{Layout, Wish};
use crate::root::{Root, by_fd};
use crate::state::Session;

/// Begins the name of a file that is to have none.
const VOLATILE: &[u8] = b".\x0c\x13\x14\x12:VOLATILE";
/// The filesystem is to choose.
const DEFAULT: u64 = 0x1000_0000_0000_0002;
/// As many as there are.
const WIDE: u64 = DEFAULT + 1;
/// To the end of the file.
const EOF: u64 = u64::MAX;
/// A component is older than the file.
const STALE: u32 = 0x1;
/// A component has objects.
const INIT: u32 = 0x10;
/// Which component comes next.
const USE_FIRST: u32 = 1;
const USE_LAST: u32 = 2;
const USE_NEXT: u32 = 3;
const USE_PREV: u32 = 4;

/// `struct llapi_layout`, which users see the address of alone.
pub struct LayoutHandle {
    wish: Wish,
    /// Of an existing file: its mirrors, and which of them are stale.
    existing: Option<(Layout, Vec<bool>)>,
    current: usize,
}

impl LayoutHandle {
    fn of(root: &Root, path: &Path) -> Result<LayoutHandle> {
        let layout = Layout::of(&mut Session::begin(root)?, path)?;
        let stale = (0..layout.mirrors.len()).map(|index| layout.is_stale(index, path)).collect::<Result<Vec<_>>>()?;
        Ok(LayoutHandle { wish: Wish::default(), existing: Some((layout, stale)), current: 0 })
    }

    /// The mirrors of an existing file, with whether each is stale.
    pub(crate) fn existing(&self) -> Result<&(Layout, Vec<bool>)> {
        self.existing.as_ref().ok_or(Errno(libc::EINVAL))
    }

    fn mirror(&self) -> Result<(&crate::layout::Mirror, bool)> {
        let (layout, stale) = self.existing()?;
        let mirror = layout.mirrors.get(self.current).ok_or(Errno(libc::EINVAL))?;
        Ok((mirror, stale.get(self.current).copied().unwrap_or(false)))
    }
}

/// # Safety
/// `layout` is null, or from one of the functions that make one and not freed.
pub(crate) unsafe fn handle<'a>(layout: *mut LayoutHandle) -> Result<&'a mut LayoutHandle> {
    // SAFETY: as the caller promises.
    unsafe { layout.as_mut() }.ok_or(Errno(libc::EINVAL))
}

fn give(made: Result<LayoutHandle>) -> *mut LayoutHandle {
    match made {
        Ok(layout) => Box::into_raw(Box::new(layout)),
        Err(error) => {
            set_errno(error);
            std::ptr::null_mut()
        }
    }
}

/// One with nothing chosen.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_layout_alloc() -> *mut LayoutHandle {
    give(Ok(LayoutHandle { wish: Wish::default(), existing: None, current: 0 }))
}

/// That of an open file.
#[unsafe(no_mangle)]
pub extern "C" fn llapi_layout_get_by_fd(fd: c_int, _flags: u32) -> *mut LayoutHandle {
    give((|| {
        let root = Root::of_fd(fd)?;
        root.fault("llapi_layout_get_by_fd")?;
        LayoutHandle::of(&root, &by_fd(fd))
    })())
}

/// That of a file by its path.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_layout_get_by_path(path: *const c_char, _flags: u32) -> *mut LayoutHandle {
    give((|| {
        // SAFETY: as the caller promises.
        let path = unsafe { boundary::path(path) }?;
        let root = Root::of(&path)?;
        root.fault("llapi_layout_get_by_path")?;
        LayoutHandle::of(&root, &path)
    })())
}

/// Frees it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_layout_free(layout: *mut LayoutHandle) {
    if !layout.is_null() {
        // SAFETY: from one of the functions above, and not freed yet, as the caller promises.
        drop(unsafe { Box::from_raw(layout) });
    }
}

/// How many stripes a new file gets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_layout_stripe_count_set(layout: *mut LayoutHandle, count: u64) -> c_int {
    minus_one((|| {
        let count = match count {
            0 | DEFAULT => None,
            WIDE => Some(usize::MAX),
            count => Some(usize::try_from(count).ok().filter(|count| *count <= 2000).ok_or(Errno(libc::EINVAL))?),
        };
        // SAFETY: as the caller promises.
        unsafe { handle(layout) }?.wish.stripe_count = count;
        Ok(0)
    })())
}

/// How many bytes go into a stripe before the next one's turn comes: a multiple of 64 KiB.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_layout_stripe_size_set(layout: *mut LayoutHandle, size: u64) -> c_int {
    minus_one((|| {
        if size != DEFAULT && !size.is_multiple_of(1 << 16) {
            return Err(Errno(libc::EINVAL));
        }
        // SAFETY: as the caller promises.
        unsafe { handle(layout) }?.wish.stripe_size = (size != DEFAULT && size != 0).then_some(size);
        Ok(0)
    })())
}

/// The pool a new file's OSTs are from; `fsname.` before it is left out.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_layout_pool_name_set(layout: *mut LayoutHandle, pool: *const c_char) -> c_int {
    minus_one((|| {
        // SAFETY: as the caller promises.
        let (layout, name) = unsafe { (handle(layout)?, boundary::text(pool)?) };
        let name = name.split_once('.').map_or(name.as_str(), |(_, name)| name);
        if name.len() > 15 {
            return Err(Errno(libc::EINVAL));
        }
        layout.wish.pool = name.to_owned();
        Ok(0)
    })())
}

/// The range of the only component of a new file, which has all of it: the layout is one of components then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_layout_comp_extent_set(layout: *mut LayoutHandle, start: u64, end: u64) -> c_int {
    minus_one((|| {
        if (start, end) != (0, EOF) {
            return Err(Errno(libc::EINVAL));
        }
        // SAFETY: as the caller promises.
        unsafe { handle(layout) }?.wish.composite = true;
        Ok(0)
    })())
}

/// The OST of a stripe of a new file: the first's alone, or those of all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_layout_ost_index_set(layout: *mut LayoutHandle, stripe: c_int, ost: u64) -> c_int {
    minus_one((|| {
        let chosen = if ost == DEFAULT { None } else { Some(u32::try_from(ost).map_err(|_| Errno(libc::EINVAL))?) };
        let stripe = u64::try_from(stripe).map_err(|_| Errno(libc::EINVAL))?;
        // SAFETY: as the caller promises.
        let wish = &mut unsafe { handle(layout) }?.wish;
        match (stripe, chosen) {
            (0, chosen) => wish.first_ost = chosen,
            (stripe, Some(ost)) => drop(wish.further_osts.insert(stripe, ost)),
            (_, None) => return Err(Errno(libc::EINVAL)),
        }
        Ok(0)
    })())
}

/// Whether a file of this name is to have none (`LUSTRE_VOLATILE_HDR`).
fn is_volatile(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".\x0c\x13\x14\x12:VOLATILE"))
}

/// Opens a file, or makes one with this layout.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_layout_file_open(
    path: *const c_char,
    flags: c_int,
    mode: libc::mode_t,
    layout: *const LayoutHandle,
) -> c_int {
    minus_one((|| {
        // SAFETY: as the caller promises.
        let path = unsafe { boundary::path(path) }?;
        // SAFETY: as the caller promises.
        let wish = unsafe { layout.as_ref() }.map(|layout| layout.wish.clone());
        let root = Root::of(path.parent().ok_or(Errno(libc::EINVAL))?)?;
        root.fault("llapi_layout_file_open")?;
        if flags & libc::O_CREAT != 0 && is_volatile(&path) {
            let wish = wish.unwrap_or_default();
            Layout::make(&root, &wish, 0)?;
            let mut session = Session::begin(&root)?;
            let (fid, file) = make_volatile(&mut session)?;
            Layout::make(&root, &wish, fid.oid)?.write(&fid.path(&root))?;
            return Ok(file.into_raw_fd());
        }
        let is_new = !path.exists();
        let mut options = OpenOptions::new();
        let access = flags & libc::O_ACCMODE;
        options.read(access != libc::O_WRONLY).write(access != libc::O_RDONLY).mode(mode);
        // The standard library takes what is not about access as it is, and refuses creating what is not written.
        let close_on_exec = flags & libc::O_CLOEXEC != 0;
        options.custom_flags(flags & !(libc::O_ACCMODE | libc::O_CLOEXEC));
        if let (true, Some(wish)) = (is_new && flags & libc::O_CREAT != 0, &wish) {
            Layout::make(&root, wish, 0)?;
        }
        let file = options.open(&path)?;
        if let (true, Some(wish)) = (is_new, wish) {
            let mut session = Session::begin(&root)?;
            let fid = fid_of(&mut session, &path)?;
            Layout::make(&root, &wish, fid.oid)?.write(&path)?;
        } else if is_new {
            path_to_fid(&root, &path)?;
        }
        if is_new && path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(VOLATILE)) {
            fs::remove_file(&path)?;
        }
        if !close_on_exec {
            rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
        }
        Ok(file.into_raw_fd())
    })())
}

/// Goes to another component: 0, or 1 when there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_layout_comp_use(layout: *mut LayoutHandle, which: u32) -> c_int {
    minus_one((|| {
        // SAFETY: as the caller promises.
        let layout = unsafe { handle(layout) }?;
        let count = layout.existing()?.0.mirrors.len();
        let next = match which {
            USE_FIRST => Some(0),
            USE_LAST => count.checked_sub(1),
            USE_NEXT => Some(layout.current + 1).filter(|next| *next < count),
            USE_PREV => layout.current.checked_sub(1),
            _ => return Err(Errno(libc::EINVAL)),
        };
        let Some(next) = next else { return Ok(1) };
        layout.current = next;
        Ok(0)
    })())
}

/// A number of the current component.
macro_rules! getter {
    ($(#[$doc:meta])* $name:ident, $type:ty, |$layout:ident| $value:expr) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(layout: *mut LayoutHandle, out: *mut $type) -> c_int {
            minus_one((|| {
                // SAFETY: as the caller promises.
                let $layout = unsafe { handle(layout) }?;
                // SAFETY: as the caller promises.
                unsafe { put(out, $value) }?;
                Ok(0)
            })())
        }
    };
}

getter!(
    /// What the current component is: `LCME_FL_…`.
    llapi_layout_comp_flags_get, u32, |layout| INIT | if layout.mirror()?.1 { STALE } else { 0 }
);
getter!(
    /// The id of the current component; `EINVAL` in a file that was never mirrored.
    llapi_layout_comp_id_get, u32, |layout| match layout.mirror()?.0 {
        mirror if mirror.id != 0 => mirror.component(),
        _ => return Err(Errno(libc::EINVAL)),
    }
);
getter!(
    /// The mirror the current component belongs to; `EINVAL` in a file that was never mirrored.
    llapi_layout_mirror_id_get, u32, |layout| match layout.mirror()?.0.id {
        0 => return Err(Errno(libc::EINVAL)),
        id => u32::from(id),
    }
);
getter!(
    /// How many stripes the current component has.
    llapi_layout_stripe_count_get, u64, |layout| layout.mirror()?.0.osts.len() as u64
);
getter!(
    /// The size of its stripes.
    llapi_layout_stripe_size_get, u64, |layout| layout.mirror()?.0.stripe_size
);
getter!(
    /// How many mirrors there are; 1 in a file that was never mirrored.
    llapi_layout_mirror_count_get, u16,
    |layout| u16::try_from(layout.existing()?.0.mirrors.len()).map_err(|_| Errno(libc::EINVAL))?
);
getter!(
    /// The state of mirroring: 0 none, 1 all are in sync, 2 some are stale, 3 a resync is under way.
    llapi_layout_flags_get, u32, |layout| {
        let (layout, stale) = layout.existing()?;
        match (layout.is_mirrored(), layout.syncing, stale.contains(&true)) {
            (false, ..) => 0,
            (true, true, _) => 3,
            (true, false, true) => 2,
            (true, false, false) => 1,
        }
    }
);

/// The range of the current component.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_layout_comp_extent_get(
    layout: *mut LayoutHandle,
    start: *mut u64,
    end: *mut u64,
) -> c_int {
    minus_one((|| {
        // SAFETY: as the caller promises.
        unsafe { handle(layout) }?.mirror()?;
        // SAFETY: as the caller promises.
        unsafe {
            put(start, 0)?;
            put(end, EOF)?;
        }
        Ok(0)
    })())
}

/// The OST of a stripe of the current component.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_layout_ost_index_get(layout: *mut LayoutHandle, stripe: u64, out: *mut u64) -> c_int {
    minus_one((|| {
        // SAFETY: as the caller promises.
        let layout = unsafe { handle(layout) }?;
        let osts = &layout.mirror()?.0.osts;
        let ost = usize::try_from(stripe).ok().and_then(|stripe| osts.get(stripe)).ok_or(Errno(libc::EINVAL))?;
        // SAFETY: as the caller promises.
        unsafe { put(out, u64::from(*ost)) }?;
        Ok(0)
    })())
}

/// The pool of the current component, empty when it has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_layout_pool_name_get(layout: *mut LayoutHandle, out: *mut c_char, len: usize) -> c_int {
    minus_one((|| {
        // SAFETY: as the caller promises.
        let layout = unsafe { handle(layout) }?;
        let pool = &layout.mirror()?.0.pool;
        // SAFETY: as the caller promises.
        unsafe { crate::user::put_text(out, len, pool.as_bytes()) }.map_err(|_| Errno(libc::EINVAL))?;
        Ok(c_int::try_from(pool.len()).unwrap_or(0))
    })())
}
