//! A filesystem, users and agents, in terms of the C interface.

use std::ffi::{CString, c_int};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::time::Duration;

use lustreapi_standin::abi::{ActionItem, ActionListHeader, Extent, Fid, UserItem, UserRequest, UserState, align8};
use lustreapi_standin::copyaction::{
    CopyAction, llapi_hsm_action_begin, llapi_hsm_action_end, llapi_hsm_action_get_fd, llapi_hsm_action_progress,
};
use lustreapi_standin::copytool::{
    Copytool, llapi_hsm_copytool_recv, llapi_hsm_copytool_register, llapi_hsm_copytool_unregister,
};
use lustreapi_standin::user::{llapi_hsm_request, llapi_hsm_state_get, llapi_hsm_user_request_alloc, llapi_path2fid};
use lustreapi_standin::{Request, Root, Status, control};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn c(path: impl AsRef<Path>) -> CString {
    CString::new(path.as_ref().as_os_str().as_bytes()).unwrap()
}

pub(crate) struct Site {
    pub(crate) root: Root,
    _directory: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::make_unique(directory.path()).unwrap();
        Site { root, _directory: directory }
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.root.top().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn fid(&self, path: &Path) -> Fid {
        let mut fid = Fid::default();
        // SAFETY: a string, and a place for the FID.
        assert_eq!(unsafe { llapi_path2fid(c(path).as_ptr(), &raw mut fid) }, 0);
        fid
    }

    pub(crate) fn states(&self, path: &Path) -> u32 {
        let mut state = UserState::default();
        // SAFETY: a string, and a place for the state.
        assert_eq!(unsafe { llapi_hsm_state_get(c(path).as_ptr(), &raw mut state) }, 0);
        state.states
    }

    pub(crate) fn ask(&self, action: u32, fids: &[Fid]) -> c_int {
        self.ask_with(action, fids, &[])
    }

    pub(crate) fn ask_with(&self, action: u32, fids: &[Fid], data: &[u8]) -> c_int {
        let (count, len) = (c_int::try_from(fids.len()).unwrap(), c_int::try_from(data.len()).unwrap());
        let request = llapi_hsm_user_request_alloc(count, len);
        assert!(!request.is_null());
        // SAFETY: it has room for the items and the data, and is freed once.
        unsafe {
            *request = UserRequest { action, archive_id: 0, flags: 0, itemcount: count as u32, data_len: len as u32 };
            let items: *mut UserItem = request.add(1).cast();
            for (index, fid) in fids.iter().enumerate() {
                items.add(index).write_unaligned(UserItem { fid: *fid, extent: Extent::ALL });
            }
            ptr::copy_nonoverlapping(data.as_ptr(), items.add(fids.len()).cast(), data.len());
            let result = llapi_hsm_request(c(self.root.top()).as_ptr(), request);
            libc::free(request.cast());
            result
        }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        control::requests(&self.root).unwrap()
    }

    pub(crate) fn statuses(&self) -> Vec<Status> {
        self.requests().iter().map(|request| request.status).collect()
    }

    pub(crate) fn set(&self, knob: &str, value: &str) {
        control::set(&self.root, knob, value).unwrap();
    }

    /// An archived file, by an agent that comes and goes.
    pub(crate) fn archived(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.file(name, content);
        let agent = Agent::register(self.root.top());
        assert_eq!(self.ask(10, &[self.fid(&path)]), 0);
        let items = agent.receive().unwrap();
        assert_eq!(agent.begin(&items[0]).unwrap().end(0), 0);
        path
    }

    /// Of which only the archive has the data.
    pub(crate) fn released(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.archived(name, content);
        assert_eq!(self.ask(12, &[self.fid(&path)]), 0);
        path
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.root.unlink_name();
    }
}

/// Whether it is more than one hole.
pub(crate) fn has_data(path: &Path) -> bool {
    let file = fs::File::open(path).unwrap();
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).is_ok()
}

/// Another mount of a site: another client.
pub(crate) struct Mount {
    pub(crate) point: tempfile::TempDir,
}

impl Mount {
    pub(crate) fn of(site: &Site) -> Mount {
        let point = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").arg("--bind").arg(site.root.top()).arg(point.path()).status().unwrap();
        assert!(mount.success());
        Mount { point }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.point.path()).status();
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) head: ActionItem,
    pub(crate) data: Vec<u8>,
    pub(crate) list_flags: u64,
}

pub(crate) struct Agent {
    pub(crate) handle: *mut Copytool,
}

impl Agent {
    pub(crate) fn register(mount: &Path) -> Agent {
        Agent::try_register(mount, &[]).unwrap()
    }

    pub(crate) fn try_register(mount: &Path, archives: &[c_int]) -> Result<Agent, c_int> {
        let mut handle = ptr::null_mut();
        let count = c_int::try_from(archives.len()).unwrap();
        // SAFETY: a place for the handle, a string, and as many numbers as said.
        let result = unsafe {
            llapi_hsm_copytool_register(&raw mut handle, c(mount).as_ptr(), count, archives.as_ptr(), libc::O_NONBLOCK)
        };
        if result == 0 { Ok(Agent { handle }) } else { Err(result) }
    }

    /// The next list as it lies in the library's buffer, with its length.
    pub(crate) fn receive_raw(&self) -> Result<(*const u8, usize), c_int> {
        let (mut list, mut size) = (ptr::null_mut::<ActionListHeader>(), 0);
        // SAFETY: a handle, and places for the result.
        match unsafe { llapi_hsm_copytool_recv(self.handle, &raw mut list, &raw mut size) } {
            0 => Ok((list.cast::<u8>().cast_const(), usize::try_from(size).unwrap())),
            error => Err(error),
        }
    }

    pub(crate) fn receive(&self) -> Result<Vec<Item>, c_int> {
        let (start, size) = self.receive_raw()?;
        // SAFETY: the library says that there is so much, until the next call.
        let bytes = unsafe { std::slice::from_raw_parts(start, size) }.to_vec();
        // SAFETY: there are enough bytes.
        let header = unsafe { bytes.as_ptr().cast::<ActionListHeader>().read_unaligned() };
        let name_len = bytes[32..].iter().position(|byte| *byte == 0).unwrap();
        let mut at = 32 + align8(name_len + 1);
        let mut items = Vec::new();
        for _ in 0..header.count {
            // SAFETY: an item has as many bytes, which the slice proves.
            let head = unsafe { bytes[at..at + 72].as_ptr().cast::<ActionItem>().read_unaligned() };
            let len = head.len as usize;
            items.push(Item { head, data: bytes[at + 72..at + len].to_vec(), list_flags: header.flags });
            at += align8(len);
        }
        assert_eq!(at, size);
        Ok(items)
    }

    /// Everything there is.
    pub(crate) fn drain(&self) -> Vec<Item> {
        std::iter::from_fn(|| self.receive().ok()).flatten().collect()
    }

    pub(crate) fn begin(&self, item: &Item) -> Result<Action, c_int> {
        self.begin_as(item, false)
    }

    pub(crate) fn begin_failed(&self, item: &Item) -> Result<Action, c_int> {
        self.begin_as(item, true)
    }

    fn begin_as(&self, item: &Item, is_error: bool) -> Result<Action, c_int> {
        let mut handle = ptr::null_mut();
        // SAFETY: handles and an item.
        let result =
            unsafe { llapi_hsm_action_begin(&raw mut handle, self.handle, &raw const item.head, -1, 0, is_error) };
        if result == 0 { Ok(Action { handle }) } else { Err(result) }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // SAFETY: a handle that nobody has given back.
        unsafe { llapi_hsm_copytool_unregister(&raw mut self.handle) };
    }
}

pub(crate) struct Action {
    pub(crate) handle: *mut CopyAction,
}

impl Action {
    pub(crate) fn progress(&self, offset: u64, length: u64) -> c_int {
        let extent = Extent { offset, length };
        // SAFETY: a handle and an extent.
        unsafe { llapi_hsm_action_progress(self.handle, &raw const extent, length, 0) }
    }

    /// Writes into the file a restore goes to.
    pub(crate) fn write(&self, content: &[u8]) {
        use std::os::unix::fs::FileExt;
        self.file().write_all_at(content, 0).unwrap();
    }

    pub(crate) fn file(&self) -> fs::File {
        use std::os::fd::FromRawFd;
        // SAFETY: a handle.
        let fd = unsafe { llapi_hsm_action_get_fd(self.handle) };
        assert!(fd >= 0, "get_fd: {fd}");
        // SAFETY: it is the caller's to close.
        unsafe { fs::File::from_raw_fd(fd) }
    }

    pub(crate) fn end(self, errno: c_int) -> c_int {
        self.end_with(0, errno)
    }

    pub(crate) fn end_with(mut self, flags: c_int, errno: c_int) -> c_int {
        let extent = Extent::ALL;
        // SAFETY: a handle and an extent.
        unsafe { llapi_hsm_action_end(&raw mut self.handle, &raw const extent, flags, errno) }
    }
}

/// Runs `body` in a process that then ends without giving anything back.
pub(crate) fn in_a_process_that_dies(body: impl FnOnce()) {
    // SAFETY: the child uses nothing that another thread may hold: libtest's main thread waits.
    match unsafe { libc::fork() } {
        0 => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(!done)) }
        }
        child => {
            let mut status = 0;
            // SAFETY: our child, and a place for its status.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0, "the child has failed");
        }
    }
}
