//! An agent at the coordinator: it registers, and receives what there is to do.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::raw::c_int;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::action_list::ActionList;
use super::wire::u16_at;
use super::{Library, abi, check, path_argument, result};
use crate::children::{Wanted, wait_ready};

/// The library's buffer: no list is longer.
const MAX_LIST: usize = 1 << 20;

/// `KUC_MAGIC`, and the size of `struct kuc_hdr`.
const KUC_MAGIC: u16 = 0x191c;
const KUC_HEADER: usize = 8;

/// So long the rest of a message may take that the kernel has begun to write.
const PART_PAUSE: Duration = Duration::from_millis(20);
/// How long it looks at nothing but the pipe while it is unregistered.
const LEAVE_PAUSE: Duration = Duration::from_secs(1);

/// One registration: lists arrive until it is dropped.
///
/// **One agent a mount.** A second registration through the same mount gets every action too, and the end of either
/// ends both. So before registering anew, end every [`CopyAction`](super::CopyAction) of the old registration, and drop it
/// and its handles.
///
/// **Read on a thread of its own**, always: while nobody reads, the MDT's call to us blocks, and so does whoever waits for that.
///
/// Nothing tells an agent that the coordinator forgot it (`hsm_control` off and on does that): look now and then whether
/// it is listed. An MDT that restarts, on the other hand, gets the registration again from the client's kernel.
#[derive(Debug)]
pub struct Copytool {
    registration: Arc<Registration>,
    /// The pipe; the library's, so closed by it alone.
    pipe: RawFd,
}

/// What actions need of a copytool; cheap to clone, usable from any thread while another one receives.
///
/// Keeps the library's handle alive, without which no action can be ended: the agent is unregistered when the last of the
/// [`Copytool`], its handles and its actions is dropped.
#[derive(Debug, Clone)]
pub struct Handle {
    registration: Arc<Registration>,
}

/// The library's handle. Dropping it unregisters.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) library: Library,
    pub(super) raw: NonNull<abi::CopytoolPrivate>,
}

// SAFETY: the library keeps nothing of a thread in the handle.
unsafe impl Send for Registration {}
// SAFETY: with a shared reference only actions are begun and carried on, which only read the handle's descriptors, its path and
// nothing that receiving writes. Receiving writes to the handle's buffer; it needs `&mut Copytool`, of which there is one.
// Unregistering needs the last owner.
unsafe impl Sync for Registration {}

impl Copytool {
    /// Registers for the archives given, all if none is, through the Lustre client mounted at `mount`. Never waits for lists:
    /// [`recv`](Self::recv) is for when [`AsFd`] says that there is something.
    ///
    /// The descriptors that the library opens for it are made close-on-exec at once. A program that another thread starts
    /// in between gets them, unless it is started with [`inherit_nothing`](crate::children::inherit_nothing).
    ///
    /// `EINVAL` for an archive id above `i32::MAX` or a path with NUL.
    pub fn register(library: &Library, mount: &Path, archives: &[u32]) -> io::Result<Self> {
        // The library takes 0 for all.
        let archives = if archives.contains(&0) { &[] } else { archives };
        let ids: Result<Vec<c_int>, _> = archives.iter().map(|id| c_int::try_from(*id)).collect();
        let mut ids = ids.map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let count = c_int::try_from(ids.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let path = path_argument(mount)?;
        // Others' descriptors would be taken for the library's.
        static REGISTERING: Mutex<()> = Mutex::new(());
        let lock = REGISTERING.lock().unwrap_or_else(PoisonError::into_inner);
        let before = inheritable_descriptors()?;
        let mut raw = ptr::null_mut();
        // SAFETY: all pointers are valid for the call; the library copies the path and the ids, of which there are `count`.
        let code = unsafe {
            (library.hsm().copytool_register)(&mut raw, path.as_ptr(), count, ids.as_mut_ptr(), libc::O_NONBLOCK)
        };
        check(code)?;
        let raw = NonNull::new(raw).ok_or_else(no_handle)?;
        // From here on an error unregisters.
        let registration = Arc::new(Registration { library: library.clone(), raw });
        // SAFETY: the handle is registered.
        let pipe = result(unsafe { (library.hsm().copytool_get_fd)(raw.as_ptr()) })?;
        close_on_exec(pipe)?;
        for fd in inheritable_descriptors()? {
            if !before.contains(&fd) && is_of_registration(fd, mount) {
                // An error says that it was another thread's, and is closed.
                let _ = close_on_exec(fd);
            }
        }
        drop(lock);
        Ok(Self { registration, pipe })
    }

    /// For beginning actions, from any thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { registration: Arc::clone(&self.registration) }
    }

    /// The next list, if one is there.
    ///
    /// A list that is damaged is no error: see [`ActionList::damage`]. After `EPROTO` (a list that came in parts; Lustre 2.15
    /// and older) the pipe's content has no beginning any more: [hang up](Self::hang_up), and register anew. `ESHUTDOWN` says
    /// that the kernel ended it.
    pub fn recv(&mut self) -> io::Result<Option<ActionList>> {
        let mut list = ptr::null_mut();
        let mut size = 0;
        let recv = self.registration.library.hsm().copytool_recv;
        // SAFETY: the handle is registered; nobody else receives (`&mut self`).
        let code = unsafe { recv(self.registration.raw.as_ptr(), &mut list, &mut size) };
        match check(code) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_LIST);
        let (false, Some(size)) = (list.is_null(), size) else {
            return Err(io::Error::other(format!("the library gave an action list of {size:?} bytes at {list:?}")));
        };
        // SAFETY: the library says that so many bytes are there, in a buffer of its handle that is as large as the largest
        // size accepted. They stay until the next call, and are read before that.
        let bytes = unsafe { std::slice::from_raw_parts(list.cast::<u8>(), size) };
        Ok(Some(ActionList::parse(bytes)))
    }
}

impl Copytool {
    /// Ends the registration and gives the lists that came in until then, so that nothing is lost between the last
    /// [`recv`](Self::recv) and the end. What is cut off at its end is left out.
    ///
    /// Gives the copytool back while a [`Handle`] or an action of it is left.
    pub fn leave(self) -> Result<Vec<ActionList>, Self> {
        if Arc::strong_count(&self.registration) > 1 {
            return Err(self);
        }
        // Ours lives on when the library closes its own.
        let rest = self.as_fd().try_clone_to_owned().map(fs::File::from);
        let (Ok(rest), Ok((over, ended))) = (rest, UnixStream::pair()) else {
            drop(self);
            return Ok(Vec::new());
        };
        // The kernel cannot unregister while it writes, and cannot write while the pipe is full: so somebody reads.
        let bytes = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_while(&rest, &over));
            drop(self);
            drop(ended);
            reader.join().unwrap_or_default()
        });
        Ok(messages(&bytes).map(ActionList::parse).collect())
    }

    /// Hangs up at once, while actions still run: to the kernel it is as if the process had died, so that what the coordinator has
    /// for this agent stays with it instead of in a pipe that nobody reads. Gives the lists that are there, as far as they
    /// are whole, also behind one of which only a part is left. There is nothing to [receive](Self::recv) any more.
    pub fn hang_up(&mut self) -> Vec<ActionList> {
        let mut bytes = Vec::new();
        if let Ok(rest) = self.as_fd().try_clone_to_owned().map(fs::File::from) {
            // A list that is being written comes to its end as soon as there is room.
            while read_what_is_there(&rest, &mut bytes)
                && wait_ready(&[(rest.as_fd(), Wanted::Read)], PART_PAUSE).is_ok_and(|ready| ready == [true])
            {
            }
        }
        self.close_pipe();
        messages(&bytes).map(ActionList::parse).collect()
    }

    /// Closes our end of the pipe and keeps the number, which the library closes later. The kernel then sees nobody there, as
    /// when a process dies.
    fn close_pipe(&mut self) {
        if let Ok(null) = fs::File::open("/dev/null") {
            // SAFETY: two open descriptors; nobody else uses the pipe's (`&mut self`).
            let _ = unsafe { libc::dup3(null.as_raw_fd(), self.pipe, libc::O_CLOEXEC) };
        }
    }
}

/// Reads a pipe until `over` has hung up and nothing is left.
fn read_while(rest: &fs::File, over: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let wanted = [(over.as_fd(), Wanted::Read), (rest.as_fd(), Wanted::Read)];
        let ready = wait_ready(&wanted, LEAVE_PAUSE).unwrap_or_default();
        let more = read_what_is_there(rest, &mut bytes);
        if !more || ready.first() != Some(&false) {
            return bytes;
        }
    }
}

/// All that a pipe has now; whether there may be more later. The pipe does not block.
fn read_what_is_there(mut rest: &fs::File, bytes: &mut Vec<u8>) -> bool {
    let before = bytes.len();
    let end = rest.by_ref().take((MAX_LIST - before.min(MAX_LIST)) as u64).read_to_end(bytes);
    bytes.len() < MAX_LIST && end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// The lists in what was read from the pipe. What is no message is skipped up to where the next one begins.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        // The first may be the rest of a message.
        while u16_at(bytes, 0)? != KUC_MAGIC {
            bytes = bytes.get(1..).filter(|rest| !rest.is_empty())?;
            while !begins_list(bytes) {
                bytes = bytes.get(1..).filter(|rest| !rest.is_empty())?;
            }
        }
        let (message, rest) = bytes.split_at_checked(usize::from(u16_at(bytes, 6)?))?;
        bytes = rest;
        message.get(KUC_HEADER..)
    })
}

/// Whether a message begins here: `struct kuc_hdr` (magic 0x191c at 0, 1 for HSM at 2, the message's length with its header at 6),
/// and a list's version, 1.
fn begins_list(bytes: &[u8]) -> bool {
    let at = |offset| u16_at(bytes, offset);
    at(0) == Some(KUC_MAGIC) && bytes.get(2) == Some(&1) && (at(8), at(10)) == (Some(1), Some(0))
}

impl AsFd for Copytool {
    /// The pipe, for waiting until there is a list.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the library closes it when it unregisters, which is not before `self` is gone.
        unsafe { BorrowedFd::borrow_raw(self.pipe) }
    }
}

impl Drop for Copytool {
    /// While actions still run, hangs up: nobody would read what the coordinator sends, and it would block.
    fn drop(&mut self) {
        if Arc::strong_count(&self.registration) > 1 {
            self.close_pipe();
        }
    }
}

impl Handle {
    pub(super) fn registration(&self) -> &Arc<Registration> {
        &self.registration
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut raw = self.raw.as_ptr();
        // An error would say that it is no handle.
        // SAFETY: this is the handle's last owner; the library frees it.
        let _ = unsafe { (self.library.hsm().copytool_unregister)(&mut raw) };
    }
}

/// What a library answers that breaks its own contract.
pub(super) fn no_handle() -> io::Error {
    io::Error::other("the library reported success and gave no handle")
}

pub(super) fn close_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes integers; a number that is no descriptor gives EBADF.
    crate::check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }).map(|_| ())
}

/// Those that a program would inherit. The one that lists them is none.
fn inheritable_descriptors() -> io::Result<Vec<RawFd>> {
    let mut descriptors = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let fd = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        // SAFETY: takes an integer; -1, for a number that is no descriptor any more, has the flag set.
        descriptors.extend(fd.filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } & libc::FD_CLOEXEC == 0));
    }
    Ok(descriptors)
}

/// Whether a new descriptor can be the library's: the mount, something in it, or a pipe. Another thread's that comes in between may
/// look the same; close-on-exec does it no harm, as the standard library has it on all of its own.
fn is_of_registration(fd: RawFd, mount: &Path) -> bool {
    let target = fs::read_link(Path::new("/proc/self/fd").join(fd.to_string())).unwrap_or_default();
    let mount: PathBuf = mount.canonicalize().unwrap_or_else(|_| mount.to_owned());
    target.starts_with(mount) || target.as_os_str().as_bytes().starts_with(b"pipe:")
}
