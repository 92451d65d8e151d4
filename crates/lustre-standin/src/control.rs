//! What a test does to a stand-in that a user of Lustre could not: knobs, faults, blocked readers, restarts.
//!
//! The functions are there twice: for Rust, and with the C interface as `standin_…`, for whoever loads the library.

use std::ffi::{c_char, c_int};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags, inotify};

use crate::abi::{Fid, action, state};
use crate::boundary::{self, Errno, Result, negative};
use crate::changelog::{self, Entry};
use crate::coordinator::{MESSAGE_HEADER, MESSAGE_MAGIC, forget_running, pipe_path, restore_for_reader, turn};
use crate::file::{Hsm, fid_of, open_inheritable};
use crate::layout::Layout;
use crate::root::Root;
use crate::state::{ChangelogUser, Client, Request, Session, State, Status};
use crate::user::put_text;

/// Sets a knob and lets the coordinator notice.
pub fn set(root: &Root, knob: &str, value: &str) -> Result<()> {
    let path = root.inside("control").join(knob);
    if !path.is_file() {
        return Err(Errno(libc::ENOENT));
    }
    let mut session = Session::begin(root)?;
    fs::write(path, value)?;
    turn(&mut session)
}

/// Makes a function fail with `errno`: the next `count` times, or from now on. `short_read` is the receiving of a list that came
/// in parts: its first half is gone then.
pub fn fail(root: &Root, function: &str, errno: i32, count: Option<u32>) -> Result<()> {
    let text = count.map_or_else(|| errno.to_string(), |count| format!("{errno} {count}"));
    Ok(fs::write(root.inside("control/fail").join(function), text)?)
}

/// Makes a function hang, as when a server does not answer: whoever calls it is held until [`heal`].
pub fn hang(root: &Root, function: &str) -> Result<()> {
    let path = root.inside("control/fail").join(function);
    Ok(rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?)
}

/// Ends what [`fail`] or [`hang`] began.
pub fn heal(root: &Root, function: &str) -> Result<()> {
    let path = root.inside("control/fail").join(function);
    // Lets those in that wait for somebody to write; an error says that nobody does.
    let held = rustix::fs::open(&path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    fs::remove_file(path)?;
    drop(held);
    Ok(())
}

/// All requests the coordinator remembers, in the order they came.
pub fn requests(root: &Root) -> Result<Vec<Request>> {
    Ok(State::read(root)?.requests)
}

/// The mounts with copytools, as the coordinator knows them.
pub fn clients(root: &Root) -> Result<Vec<Client>> {
    Ok(State::read(root)?.clients)
}

/// Lets the coordinator take a turn, as any other call does.
pub fn take_turn(root: &Root) -> Result<()> {
    turn(&mut Session::begin(root)?)
}

/// The MDT restarts: agents are registered again by their kernels, but what they have at work is not known any more.
pub fn restart_mdt(root: &Root) -> Result<()> {
    let mut session = Session::begin(root)?;
    forget_running(&mut session.state);
    turn(&mut session)
}

/// The coordinator starts again and knows what it had: restores that are at work are sent once more, with the same cookies.
pub fn replay_restores(root: &Root) -> Result<()> {
    let mut session = Session::begin(root)?;
    let restores = |request: &&mut Request| request.holds_slot() && request.action == action::RESTORE;
    session.state.requests.iter_mut().filter(restores).for_each(|request| request.set(Status::Waiting, 0));
    turn(&mut session)
}

/// Reads a file as a user does: when it is released, that blocks until it was restored. `ENODATA` when that fails, `EINTR` when
/// it takes longer than `patience`.
pub fn read(path: &Path, patience: Duration) -> Result<Vec<u8>> {
    let root = Root::of(path)?;
    let deadline = Instant::now() + patience;
    let watch = watch(&root.inside(""))?;
    let mut asked = None;
    while Hsm::read(path)?.has(state::RELEASED) {
        if let Some(key) = asked {
            let requests = requests(&root)?;
            let request =
                requests.iter().find(|request| (request.cookie, request.fid) == key).ok_or(Errno(libc::ENODATA))?;
            if !request.is_open() {
                // It may have ended since we looked at the file. Released once more, it is asked for again.
                if request.status != Status::Succeeded && Hsm::read(path)?.has(state::RELEASED) {
                    return Err(Errno(libc::ENODATA));
                }
                asked = None;
                continue;
            }
        } else {
            let mut session = Session::begin(&root)?;
            let fid = fid_of(&mut session, path)?;
            asked = restore_for_reader(&mut session, fid)?.map(|cookie| (cookie, fid));
            turn(&mut session)?;
            continue;
        }
        wait(&watch, deadline)?;
    }
    Ok(fs::read(path)?)
}

/// Waits until `done` says so; looks whenever the coordinator has changed something. `ETIMEDOUT` after `patience`.
pub fn wait_for(root: &Root, patience: Duration, mut done: impl FnMut(&[Request]) -> bool) -> Result<()> {
    let deadline = Instant::now() + patience;
    let watch = watch(&root.inside(""))?;
    while !done(&requests(root)?) {
        wait(&watch, deadline).map_err(|_| Errno(libc::ETIMEDOUT))?;
    }
    Ok(())
}

fn watch(directory: &Path) -> Result<std::os::fd::OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, directory, inotify::WatchFlags::MOVED_TO)?;
    Ok(watch)
}

/// Until something was moved into the directory.
fn wait(watch: &std::os::fd::OwnedFd, deadline: Instant) -> Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(|_| Errno(libc::EINVAL))?;
    if rustix::event::poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&timeout))? == 0 {
        return Err(Errno(libc::EINTR));
    }
    let mut events = [0; 4096];
    while rustix::io::read(watch, &mut events).is_ok_and(|len| len > 0) {}
    Ok(())
}

/// Sends raw bytes in place of a list to all agents: lists that are cut short, unknown actions, garbage.
pub fn inject(root: &Root, list: &[u8]) -> Result<()> {
    let session = Session::begin(root)?;
    let len = u16::try_from(MESSAGE_HEADER + list.len()).map_err(|_| Errno(libc::E2BIG))?;
    let mut message = MESSAGE_MAGIC.to_le_bytes().to_vec();
    message.extend([1, 0, 0, 0]);
    message.extend(len.to_le_bytes());
    message.extend(list);
    for pipe in session.state.clients.iter().flat_map(|client| &client.pipes) {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        open_inheritable(&pipe_path(root, *pipe), flags)?.write_all(&message)?;
    }
    Ok(())
}

/// Registers a reader of the changelog, as `lctl changelog_register` does, and returns its name.
pub fn register_changelog_user(root: &Root) -> Result<String> {
    let mut session = Session::begin(root)?;
    session.state.last_user += 1;
    let id = format!("cl{}", session.state.last_user);
    let cleared = session.state.last_record;
    session.state.users.push(ChangelogUser { id: id.clone(), cleared });
    session.save()?;
    Ok(id)
}

/// Forgets a reader of the changelog, and the records that were kept for it.
pub fn deregister_changelog_user(root: &Root, id: &str) -> Result<()> {
    let mut session = Session::begin(root)?;
    session.state.users.retain(|user| user.id != id);
    changelog::prune(&session)?;
    session.save()
}

/// Takes the next number of a record, whose record is written later, or never: see [`log_late`].
pub fn take_record_number(root: &Root) -> Result<u64> {
    let mut session = Session::begin(root)?;
    session.state.last_record += 1;
    session.save()?;
    Ok(session.state.last_record)
}

/// As [`log`], of a file by its FID, whether it can be reached or not.
pub fn log_fid(root: &Root, fid: Fid, kind: u32) -> Result<()> {
    changelog::append(&mut Session::begin(root)?, Entry::new(kind, 0, fid))
}

/// As [`log`], with a number that was taken before: an MDT gives numbers and writes records at different times.
pub fn log_late(path: &Path, kind: u32, index: u64) -> Result<()> {
    let root = Root::of(path)?;
    let mut session = Session::begin(&root)?;
    let fid = fid_of(&mut session, path)?;
    changelog::put(&session, &Entry { index, ..Entry::new(kind, 0, fid) })
}

/// Writes a record into the changelog: what the kernel would do when `path` is made, written or unlinked.
pub fn log(path: &Path, kind: u32, flags: u16) -> Result<()> {
    let root = Root::of(path)?;
    let mut session = Session::begin(&root)?;
    let mut entry = Entry::new(kind, flags, fid_of(&mut session, path)?);
    if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
        entry.pfid = fid_of(&mut session, parent)?;
        entry.name = name.as_encoded_bytes().to_vec();
    }
    changelog::append(&mut session, entry)
}

/// As [`log`], of a file that was renamed from `old_name` in `old_parent`.
pub fn log_rename(path: &Path, old_parent: &Path, old_name: &[u8]) -> Result<()> {
    const RENAME: u32 = 8;
    let root = Root::of(path)?;
    let mut session = Session::begin(&root)?;
    // The target is what was replaced: nothing. The source is what was moved.
    let mut entry = Entry::new(RENAME, 0, Fid::default());
    let moved = fid_of(&mut session, path)?;
    entry.source = Some((moved, fid_of(&mut session, old_parent)?));
    entry.source_name = old_name.to_vec();
    if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
        entry.pfid = fid_of(&mut session, parent)?;
        entry.name = name.as_encoded_bytes().to_vec();
    }
    changelog::append(&mut session, entry)
}

/// Marks a mirror of a file as one that is not to be resynced, or as an ordinary one, as `lfs setstripe --comp-set --comp-flags=nosync` does.
pub fn set_nosync(path: &Path, mirror: u16, nosync: bool) -> Result<()> {
    let mut layout = Layout::known(path)?.ok_or(Errno(libc::ENODATA))?;
    let index = layout.position(mirror)?;
    layout.mirrors[index].nosync = nosync;
    layout.write(path)
}

/// Adds an OST of `size` bytes, of which something else than files takes `other`; or changes one.
pub fn set_ost(root: &Root, index: u32, size: u64, other: u64) -> Result<()> {
    Ok(fs::write(root.inside("ost").join(index.to_string()), format!("{size} {other}"))?)
}

/// As [`set_ost`], with what its statfs says of its state (`OS_STATFS_…`).
pub fn set_ost_state(root: &Root, index: u32, size: u64, other: u64, state: u32) -> Result<()> {
    Ok(fs::write(root.inside("ost").join(index.to_string()), format!("{size} {other} {state}"))?)
}

/// Makes a pool of OSTs, or changes one.
pub fn set_pool(root: &Root, name: &str, osts: &[u32]) -> Result<()> {
    let text: Vec<_> = osts.iter().map(u32::to_string).collect();
    Ok(fs::write(root.inside("pools").join(name), text.join(" "))?)
}

/// [`Root::make`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_make(top: *const c_char, fsname: *const c_char) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let (top, fsname) = unsafe { (boundary::path(top)?, boundary::text(fsname)?) };
        Root::make(&top, &fsname).map(|_| 0)
    })())
}

/// [`set`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_set(path: *const c_char, knob: *const c_char, value: *const c_char) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let (path, knob, value) = unsafe { (boundary::path(path)?, boundary::text(knob)?, boundary::text(value)?) };
        set(&Root::of(&path)?, &knob, &value).map(|()| 0)
    })())
}

/// [`fail`]; a count of 0 is "from now on".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_fail(
    path: *const c_char,
    function: *const c_char,
    errno: c_int,
    count: c_int,
) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let (path, function) = unsafe { (boundary::path(path)?, boundary::text(function)?) };
        let count = u32::try_from(count).ok().filter(|count| *count > 0);
        fail(&Root::of(&path)?, &function, errno, count).map(|()| 0)
    })())
}

/// [`read`]; how many bytes, at most `len`, were put into `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_read(
    path: *const c_char,
    buffer: *mut u8,
    len: usize,
    milliseconds: u64,
) -> libc::ssize_t {
    let result = (|| {
        // SAFETY: as the caller promises.
        let path = unsafe { boundary::path(path) }?;
        let data = read(&path, Duration::from_millis(milliseconds))?;
        let len = data.len().min(len);
        if len > 0 && buffer.is_null() {
            return Err(Errno(libc::EINVAL));
        }
        // SAFETY: there is room for `len` bytes, as the caller promises.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), buffer, len) };
        Ok(libc::ssize_t::try_from(len).unwrap_or(libc::ssize_t::MAX))
    })();
    result.unwrap_or_else(|Errno(errno)| -libc::ssize_t::try_from(errno).unwrap_or(1))
}

/// [`requests`] as JSON.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_requests(path: *const c_char, out: *mut c_char, len: usize) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let path = unsafe { boundary::path(path) }?;
        let text = serde_json::to_vec(&requests(&Root::of(&path)?)?)?;
        // SAFETY: as the caller promises.
        unsafe { put_text(out, len, &text) }?;
        Ok(0)
    })())
}

/// [`restart_mdt`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_restart_mdt(path: *const c_char) -> c_int {
    // SAFETY: as the caller promises.
    negative(unsafe { boundary::path(path) }.and_then(|path| restart_mdt(&Root::of(&path)?)).map(|()| 0))
}

/// [`log`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_log(path: *const c_char, kind: u32, flags: u32) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let path = unsafe { boundary::path(path) }?;
        log(&path, kind, u16::try_from(flags).map_err(|_| Errno(libc::EINVAL))?).map(|()| 0)
    })())
}
