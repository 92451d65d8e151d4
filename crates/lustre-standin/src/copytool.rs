//! `llapi_hsm_copytool_…`: registering as an agent, and receiving what there is to do.
//!
//! The real library hands the kernel the writing end of a pipe. Here it is a FIFO, into which whoever plays the
//! coordinator writes; its being open for reading is what shows that the agent lives, as with the real one.

use std::ffi::{c_char, c_int};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Mode, OFlags};

use crate::abi::ActionListHeader;
use crate::boundary::{self, Errno, Result, misuse, negative, put};
use crate::coordinator::{MESSAGE_HEADER, MESSAGE_MAGIC, pipe_path, running, turn};
use crate::file::open_inheritable;
use crate::root::Root;
use crate::state::{Client, Session};

const LIVE: u64 = 0x4350_5449_4c49_5645;
const DEAD: u64 = 0x4350_5449_4445_4144;

/// `struct hsm_copytool_private`, which users see the address of alone.
pub struct Copytool {
    magic: u64,
    pub(crate) root: Root,
    mount: u64,
    pipe_number: u64,
    pipe: Option<File>,
    blocking: bool,
    /// Where lists are received into: one place, and each overwrites the last. Of `u64`, for the alignment.
    buffer: Vec<u64>,
    _descriptors: Vec<File>,
}

/// What a handle points to. A handle that was given back ends the process: the real library would use freed memory.
///
/// # Safety
/// `handle` is null or was filled by `llapi_hsm_copytool_register`.
pub(crate) unsafe fn live<'a>(handle: *const Copytool) -> Result<&'a Copytool> {
    // SAFETY: null, or from register, whose memory is never freed.
    let copytool = unsafe { handle.as_ref() }.ok_or(Errno(libc::EINVAL))?;
    match copytool.magic {
        LIVE => Ok(copytool),
        DEAD => misuse("a copytool was used after it was unregistered"),
        _ => Err(Errno(libc::EINVAL)),
    }
}

fn register(mount: &Path, archives: &[c_int], flags: c_int) -> Result<Copytool> {
    let root = Root::of(mount)?;
    root.fault("llapi_hsm_copytool_register")?;
    running(&root)?;
    let archives = archives.iter().map(|id| u32::try_from(*id)).collect::<std::result::Result<Vec<_>, _>>();
    let mut archives = archives.map_err(|_| Errno(libc::EINVAL))?;
    if archives.contains(&0) {
        archives.clear();
    }
    let mount_id = Root::mount_id(mount)?;
    let directory = OFlags::RDONLY | OFlags::DIRECTORY;
    let descriptors = vec![open_inheritable(mount, directory)?, open_inheritable(&root.fids(), directory)?];
    let mut session = Session::begin(&root)?;
    session.state.last_pipe += 1;
    let number = session.state.last_pipe;
    let path = pipe_path(&root, number);
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    // For writing, too: without a writer it would be at its end instead of empty.
    let blocking = flags & libc::O_NONBLOCK == 0;
    let mode = if blocking { OFlags::RDWR } else { OFlags::RDWR | OFlags::NONBLOCK };
    let pipe = open_inheritable(&path, mode)?;
    match session.state.clients.iter_mut().find(|client| client.mount == mount_id) {
        // To the coordinator, one client; its kernel gives everything to each of them.
        Some(client) => {
            client.pipes.push(number);
            let any = client.archives.is_empty() || archives.is_empty();
            client.archives.extend(&archives);
            if any {
                client.archives.clear();
            }
        }
        None => session.state.clients.push(Client { mount: mount_id, archives, pipes: vec![number] }),
    }
    turn(&mut session)?;
    Ok(Copytool {
        magic: LIVE,
        root,
        mount: mount_id,
        pipe_number: number,
        pipe: Some(pipe),
        blocking,
        buffer: vec![0; 8192],
        _descriptors: descriptors,
    })
}

impl Copytool {
    /// Receives one list; how long it is.
    fn receive(&mut self) -> Result<usize> {
        self.root.fault("llapi_hsm_copytool_recv")?;
        turn(&mut Session::begin(&self.root)?)?;
        let old = self.root.is_old()?;
        let pipe = self.pipe.as_ref().ok_or(Errno(libc::EBADF))?;
        let mut header = [0; MESSAGE_HEADER];
        read_whole(pipe, &mut header, self.blocking, old)?;
        let magic = u16::from_le_bytes([header[0], header[1]]);
        let len = usize::from(u16::from_le_bytes([header[6], header[7]]));
        let body = len.checked_sub(MESSAGE_HEADER).filter(|_| magic == MESSAGE_MAGIC).ok_or(Errno(libc::EPROTO))?;
        let mut list = vec![0; body];
        if let Err(error) = self.root.fault("short_read") {
            // What came is gone; the rest of the list stays.
            read_whole(pipe, &mut list[..body / 2], true, old)?;
            return Err(error);
        }
        read_whole(pipe, &mut list, true, old)?;
        // What was there is gone now, all of it.
        self.buffer.fill(0xdddd_dddd_dddd_dddd);
        for (word, bytes) in self.buffer.iter_mut().zip(list.chunks(8)) {
            let mut whole = [0xdd; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        Ok(body)
    }

    /// What the kernel does when one of a mount's copytools goes: it unregisters the mount.
    fn unregister(&mut self) -> Result<()> {
        let mut session = Session::begin(&self.root)?;
        session.state.clients.retain(|client| client.mount != self.mount);
        self.pipe = None;
        // Whoever buries the dead may have been faster.
        let _ = std::fs::remove_file(pipe_path(&self.root, self.pipe_number));
        turn(&mut session)
    }
}

/// Fills `buffer`. Nothing there: `EAGAIN`, or waits. Only a part there: waits, or `EPROTO` in old versions.
fn read_whole(mut pipe: &File, buffer: &mut [u8], wait: bool, old: bool) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match pipe.read(&mut buffer[done..]) {
            Ok(0) => return Err(Errno(libc::EPROTO)),
            Ok(len) => done += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) if done == 0 && !wait => return Err(Errno(libc::EAGAIN)),
            Err(_) if old => return Err(Errno(libc::EPROTO)),
            Err(_) => {
                rustix::event::poll(&mut [PollFd::new(&pipe, PollFlags::IN)], None)?;
            }
        }
    }
    Ok(())
}

/// Registers an agent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_copytool_register(
    handle: *mut *mut Copytool,
    mount: *const c_char,
    archive_count: c_int,
    archives: *const c_int,
    rfd_flags: c_int,
) -> c_int {
    negative((|| {
        let count = usize::try_from(archive_count).map_err(|_| Errno(libc::EINVAL))?;
        if handle.is_null() || (count > 0 && archives.is_null()) {
            return Err(Errno(libc::EINVAL));
        }
        // SAFETY: not null, and the caller vouches for the count.
        let archives = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(archives, count) } };
        // SAFETY: the caller passes a string.
        let mount = unsafe { boundary::path(mount) }?;
        let copytool = Box::into_raw(Box::new(register(&mount, archives, rfd_flags)?));
        // SAFETY: the caller passes a place for it.
        unsafe { put(handle, copytool) }?;
        Ok(0)
    })())
}

/// Unregisters an agent, and all others of its mount.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_copytool_unregister(handle: *mut *mut Copytool) -> c_int {
    negative((|| {
        // SAFETY: null, or a place that register has filled.
        let slot = unsafe { handle.as_mut() }.ok_or(Errno(libc::EINVAL))?;
        // SAFETY: from register; checked for whether it is in use.
        unsafe { live(*slot) }?;
        // SAFETY: as above; nobody else uses a handle that is being given back.
        let copytool = unsafe { &mut **slot };
        let fault = copytool.root.fault("llapi_hsm_copytool_unregister");
        let result = copytool.unregister();
        copytool.magic = DEAD;
        copytool._descriptors.clear();
        *slot = std::ptr::null_mut();
        fault.and(result).map(|()| 0)
    })())
}

/// The descriptor to poll.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_copytool_get_fd(handle: *mut Copytool) -> c_int {
    use std::os::fd::AsRawFd;
    negative((|| {
        // SAFETY: as the caller promises.
        let copytool = unsafe { live(handle) }?;
        copytool.root.fault("llapi_hsm_copytool_get_fd")?;
        copytool.pipe.as_ref().map(AsRawFd::as_raw_fd).ok_or(Errno(libc::EBADF))
    })())
}

/// Receives a list of actions, which is valid until the next call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_copytool_recv(
    handle: *mut Copytool,
    list: *mut *mut ActionListHeader,
    size: *mut c_int,
) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        unsafe { live(handle) }?;
        // SAFETY: checked just now; one thread receives.
        let copytool = unsafe { &mut *handle };
        let len = copytool.receive()?;
        // SAFETY: the caller passes places for both.
        unsafe {
            put(list, copytool.buffer.as_mut_ptr().cast())?;
            put(size, c_int::try_from(len).unwrap_or(c_int::MAX))?;
        }
        Ok(0)
    })())
}
