//! `llapi_changelog_…`: reading the changelog.

use std::collections::HashSet;
use std::ffi::{c_char, c_int, c_longlong, c_void};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd};
use rustix::fs::inotify;

use crate::abi::{ChangelogRecord, Fid};
use crate::boundary::{self, Errno, Result, misuse, negative, put};
use crate::changelog::{self, Entry};
use crate::root::Root;
use crate::state::Session;

/// `CHANGELOG_FLAG_…`.
const FOLLOW: c_int = 1;
const BLOCK: c_int = 2;
const JOBID: c_int = 4;
const EXTRA_FLAGS: c_int = 8;
/// What extensions a record has.
const CLF_VERSION: u16 = 0x1000;
const CLF_RENAME: u16 = 0x2000;
const CLF_JOBID: u16 = 0x4000;
const CLF_EXTRA_FLAGS: u16 = 0x8000;
/// What extra extensions it has, of those asked for: user and group, and the client's address.
const CLFE_UIDGID: u64 = 1;
const CLFE_NID: u64 = 2;
const JOB_SIZE: usize = 32;

const LIVE: u64 = 0x434c_4f47_4c49_5645;
const DEAD: u64 = 0x434c_4f47_4445_4144;

/// What the private pointer of a changelog points to.
struct Reader {
    magic: u64,
    root: Root,
    flags: c_int,
    extra: u64,
    from: u64,
    /// What was given: numbers need not be in order in the log.
    given: HashSet<u64>,
    descriptors: Option<Descriptors>,
}

struct Descriptors {
    /// Says when the log's file, or anything beside it, has changed.
    watch: OwnedFd,
    /// Readable while there is something to read.
    more: OwnedFd,
    /// Both.
    poll: OwnedFd,
}

impl Descriptors {
    fn open(root: &Root) -> Result<Descriptors> {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK)?;
        let events = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::MODIFY;
        inotify::add_watch(&watch, root.inside(""), events)?;
        let more = eventfd(0, EventfdFlags::NONBLOCK)?;
        let poll = epoll::create(epoll::CreateFlags::empty())?;
        for (number, source) in [(0, watch.as_fd()), (1, more.as_fd())] {
            epoll::add(&poll, source, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        }
        Ok(Descriptors { watch, more, poll })
    }

    /// From here on, what comes is noticed.
    fn forget_events(&self) {
        let mut events = [0; 4096];
        while rustix::io::read(&self.watch, &mut events).is_ok_and(|len| len > 0) {}
    }

    fn show_more(&self, more: bool) -> Result<()> {
        let mut count = [0; 8];
        // Empty is as good as emptied.
        let _ = rustix::io::read(&self.more, &mut count);
        if more {
            rustix::io::write(&self.more, &1_u64.to_ne_bytes())?;
        }
        Ok(())
    }
}

impl Reader {
    fn start(name: &str, flags: c_int, from: c_longlong) -> Result<Reader> {
        let root = Root::named(name)?;
        root.fault("llapi_changelog_start")?;
        if !name.ends_with("-MDT0000") {
            return Err(Errno(libc::ENODEV));
        }
        let from = u64::try_from(from).map_err(|_| Errno(libc::EINVAL))?;
        let descriptors = Descriptors::open(&root)?;
        descriptors.show_more(!changelog::entries(&root, from)?.is_empty())?;
        Ok(Reader { magic: LIVE, root, flags, extra: 0, from, given: HashSet::new(), descriptors: Some(descriptors) })
    }

    /// The next record; `None` at the end of the log.
    fn receive(&mut self) -> Result<Option<Entry>> {
        self.root.fault("llapi_changelog_recv")?;
        let descriptors = self.descriptors.as_ref().ok_or(Errno(libc::EBADF))?;
        loop {
            descriptors.forget_events();
            let entries = changelog::entries(&self.root, self.from)?;
            let mut entries = entries.into_iter().filter(|entry| !self.given.contains(&entry.index));
            let first = entries.next();
            descriptors.show_more(entries.next().is_some())?;
            if let Some(entry) = first {
                drop(entries);
                self.given.insert(entry.index);
                return Ok(Some(entry));
            }
            if self.flags & FOLLOW == 0 {
                return Ok(None);
            }
            if self.flags & BLOCK == 0 {
                return Err(Errno(libc::EAGAIN));
            }
            rustix::event::poll(&mut [PollFd::new(&descriptors.watch, PollFlags::IN)], None)?;
        }
    }

    /// A record as the real library gives it: with room for a rename always, with the rest if it was asked for.
    fn encode(&self, entry: &Entry) -> Vec<u8> {
        let mut name = entry.name.clone();
        if entry.source.is_some() {
            name.push(0);
            name.extend(&entry.source_name);
        }
        let mut flags = entry.flags | CLF_VERSION | CLF_RENAME;
        flags |= if self.flags & JOBID != 0 { CLF_JOBID } else { 0 };
        flags |= if self.flags & EXTRA_FLAGS != 0 { CLF_EXTRA_FLAGS } else { 0 };
        let mut out = Vec::with_capacity(size_of::<ChangelogRecord>() + name.len() + 128);
        out.extend(u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend(flags.to_le_bytes());
        out.extend(entry.kind.to_le_bytes());
        for number in [entry.index, 0, entry.time] {
            out.extend(number.to_le_bytes());
        }
        let mut put_fid = |fid: Fid| {
            out.extend(fid.seq.to_le_bytes());
            out.extend(fid.oid.to_le_bytes());
            out.extend(fid.ver.to_le_bytes());
        };
        put_fid(entry.tfid);
        put_fid(entry.pfid);
        let (file, parent) = entry.source.unwrap_or_default();
        put_fid(file);
        put_fid(parent);
        if flags & CLF_JOBID != 0 {
            let start = out.len();
            out.extend(entry.job.bytes().take(JOB_SIZE - 1));
            out.resize(start + JOB_SIZE, 0);
        }
        if flags & CLF_EXTRA_FLAGS != 0 {
            let extra = self.extra & (CLFE_UIDGID | CLFE_NID);
            out.extend(extra.to_le_bytes());
            let sizes = [(CLFE_UIDGID, 16), (CLFE_NID, 24)];
            let size: usize = sizes.iter().filter(|(flag, _)| extra & flag != 0).map(|(_, size)| size).sum();
            out.resize(out.len() + size, 0);
        }
        out.extend(name);
        out.push(0);
        out
    }
}

/// # Safety
/// `handle` is null or was filled by `llapi_changelog_start`.
unsafe fn live<'a>(handle: *mut c_void) -> Result<&'a mut Reader> {
    // SAFETY: null, or from start, whose memory is never freed; one thread at a time uses it.
    let reader = unsafe { handle.cast::<Reader>().as_mut() }.ok_or(Errno(libc::EINVAL))?;
    match reader.magic {
        LIVE => Ok(reader),
        DEAD => misuse("a changelog was used after llapi_changelog_fini"),
        _ => Err(Errno(libc::EINVAL)),
    }
}

/// Begins to read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_changelog_start(
    handle: *mut *mut c_void,
    flags: c_int,
    mdt: *const c_char,
    startrec: c_longlong,
) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let name = unsafe { boundary::text(mdt) }?;
        if handle.is_null() {
            return Err(Errno(libc::EINVAL));
        }
        let reader = Box::into_raw(Box::new(Reader::start(&name, flags, startrec)?));
        // SAFETY: not null.
        unsafe { put(handle, reader.cast()) }?;
        Ok(0)
    })())
}

/// The next record, or 1 at the end of the log.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_changelog_recv(handle: *mut c_void, record: *mut *mut ChangelogRecord) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let reader = unsafe { live(handle) }?;
        if record.is_null() {
            return Err(Errno(libc::EINVAL));
        }
        let Some(entry) = reader.receive()? else { return Ok(1) };
        let bytes = reader.encode(&entry);
        // SAFETY: no argument of malloc's is invalid.
        let memory: *mut u8 = unsafe { libc::malloc(bytes.len()) }.cast();
        if memory.is_null() {
            return Err(Errno(libc::ENOMEM));
        }
        // SAFETY: there is room for them; `record` is not null.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len());
            put(record, memory.cast())?;
        }
        Ok(0)
    })())
}

/// Frees a record.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_changelog_free(record: *mut *mut ChangelogRecord) -> c_int {
    negative((|| {
        // SAFETY: null, or a place that recv has filled.
        let slot = unsafe { record.as_mut() }.ok_or(Errno(libc::EINVAL))?;
        // SAFETY: from malloc, or null.
        unsafe { libc::free((*slot).cast()) };
        *slot = std::ptr::null_mut();
        Ok(0)
    })())
}

/// Ends reading.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_changelog_fini(handle: *mut *mut c_void) -> c_int {
    negative((|| {
        // SAFETY: null, or a place that start has filled.
        let slot = unsafe { handle.as_mut() }.ok_or(Errno(libc::EINVAL))?;
        // SAFETY: as the caller promises.
        let reader = unsafe { live(*slot) }?;
        reader.magic = DEAD;
        // The memory stays, to be recognised; the descriptors go.
        reader.descriptors = None;
        *slot = std::ptr::null_mut();
        Ok(0)
    })())
}

/// The descriptor to poll.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_changelog_get_fd(handle: *mut c_void) -> c_int {
    // SAFETY: as the caller promises.
    let reader = unsafe { live(handle) };
    let descriptors = reader.and_then(|reader| reader.descriptors.as_ref().ok_or(Errno(libc::EBADF)));
    negative(descriptors.map(|descriptors| descriptors.poll.as_raw_fd()))
}

/// Whether a record was received already and not given out: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_changelog_in_buf(handle: *mut c_void) -> c_int {
    // SAFETY: as the caller promises.
    negative(unsafe { live(handle) }.map(|_| 0))
}

/// Says what extra extensions are wanted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_changelog_set_xflags(handle: *mut c_void, flags: c_int) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let reader = unsafe { live(handle) }?;
        reader.root.fault("llapi_changelog_set_xflags")?;
        reader.extra = u64::try_from(flags).map_err(|_| Errno(libc::EINVAL))?;
        Ok(0)
    })())
}

/// A user has done with all records up to `endrec`; 0 is all there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_changelog_clear(mdt: *const c_char, user: *const c_char, endrec: c_longlong) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let (name, user) = unsafe { (boundary::text(mdt)?, boundary::text(user)?) };
        let root = Root::named(&name)?;
        root.fault("llapi_changelog_clear")?;
        let end = u64::try_from(endrec).map_err(|_| Errno(libc::EINVAL))?;
        changelog::clear(&mut Session::begin(&root)?, &user, end).map(|()| 0)
    })())
}
