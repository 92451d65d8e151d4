//! The coordinator's turn: takes in what users ask for, gives out what agents have room for.
//!
//! Whoever calls into the library takes it. What agents answer is in [`crate::completion`].

use std::fs::{self, File};
use std::io::Write;

use rustix::fs::OFlags;

use crate::abi::{ActionItem, Extent, Fid, HAL_FLAG_BLOCKED, LIST_MAX, action, align8, state};
use crate::boundary::{Errno, Result};
use crate::file::{Hsm, find, open_inheritable};
use crate::root::Root;
use crate::state::{Client, Request, Session, State, Status, now};

/// The header of a message in an agent's pipe: magic, transport, flags, type, length (with itself).
pub(crate) const MESSAGE_HEADER: usize = 8;
/// How it begins.
pub(crate) const MESSAGE_MAGIC: u16 = 0x191c;
/// So much must be free in a pipe before a list goes into it: a list is never written in part.
const PIPE_SIZE: usize = 1 << 20;
const LIST_HEADER: usize = 32;
const ITEM: usize = size_of::<ActionItem>();

/// `HSM_FORCE_ACTION`: the file's state does not matter for whether there is anything to do.
const FORCE: u64 = 1;

/// What a user asks for, for each of the files.
pub(crate) struct Asked<'a> {
    pub(crate) action: u32,
    pub(crate) archive: u32,
    pub(crate) flags: u64,
    pub(crate) data: &'a [u8],
}

/// Takes in one action on one file. Returns its cookie; `None` when there is nothing to do.
pub(crate) fn submit(
    session: &mut Session,
    asked: &Asked<'_>,
    compound: u64,
    fid: Fid,
    extent: Extent,
) -> Result<Option<u64>> {
    let hsm = match find(&session.root, fid) {
        Ok(path) => Some(Hsm::read(&path)?),
        Err(Errno(libc::ENOENT)) if matches!(asked.action, action::REMOVE | action::CANCEL) => None,
        Err(error) => return Err(error),
    };
    if let Some(hsm) = hsm {
        if !is_needed(asked, &hsm) {
            return Ok(None);
        }
        if !is_allowed(asked, &hsm) {
            return Err(Errno(libc::EPERM));
        }
    }
    let same_file = |request: &&Request| request.fid == fid && request.is_open();
    let cookie = if asked.action == action::CANCEL {
        let running = session.state.requests.iter().filter(same_file);
        let Some(running) = running.clone().find(|request| request.action != action::CANCEL) else { return Ok(None) };
        let asked_already = |request: &Request| request.action == action::CANCEL && request.is_of(running);
        if session.state.requests.iter().any(|request| asked_already(request) && request.is_open()) {
            return Ok(None);
        }
        running.cookie
    } else {
        let running = session.state.requests.iter().filter(same_file);
        // Any other action that is asked for twice is there twice.
        let is_restore = |request: &&Request| request.action == action::RESTORE && asked.action == action::RESTORE;
        if let Some(running) = running.clone().find(is_restore) {
            return Ok(Some(running.cookie));
        }
        session.state.last_cookie += 1;
        // Each MDT counts for itself: requests are of files on all of them by turns.
        session.state.last_cookie.div_ceil(session.root.number("mdts")?.max(1))
    };
    let own = hsm.filter(|hsm| hsm.archive != 0 && hsm.has(state::EXISTS)).map(|hsm| hsm.archive);
    let default = session.root.number("default_archive_id")?;
    let archive = match (asked.archive, own) {
        (0, Some(own)) => own,
        (0, None) => u32::try_from(default).map_err(|_| Errno(libc::EINVAL))?,
        (given, _) => given,
    };
    session.state.requests.push(Request {
        cookie,
        compound,
        action: asked.action,
        fid,
        dfid: None,
        extent,
        archive,
        flags: asked.flags,
        data: asked.data.to_vec(),
        status: Status::Waiting,
        errno: 0,
        known: true,
        client: None,
        updated: now(),
        canceled: false,
        progress: Vec::new(),
    });
    Ok(Some(cookie))
}

fn is_needed(asked: &Asked<'_>, hsm: &Hsm) -> bool {
    match asked.action {
        _ if asked.flags & FORCE != 0 => true,
        action::ARCHIVE => !hsm.has(state::ARCHIVED) || hsm.has(state::DIRTY),
        action::RESTORE => hsm.has(state::RELEASED),
        action::REMOVE => hsm.has(state::ARCHIVED | state::EXISTS),
        _ => true,
    }
}

/// Force changes nothing here.
fn is_allowed(asked: &Asked<'_>, hsm: &Hsm) -> bool {
    match asked.action {
        action::ARCHIVE => {
            let elsewhere = hsm.has(state::EXISTS) && asked.archive != 0 && asked.archive != hsm.archive;
            let worth_it = hsm.has(state::DIRTY) || !hsm.has(state::ARCHIVED);
            !hsm.has(state::NOARCHIVE) && worth_it && !elsewhere
        }
        action::RESTORE => hsm.has(state::ARCHIVED) && !hsm.has(state::DIRTY | state::LOST),
        action::REMOVE => !hsm.has(state::RELEASED),
        _ => true,
    }
}

/// Asks for a restore in the name of a reader who is blocked until it is done. Returns its cookie.
pub(crate) fn restore_for_reader(session: &mut Session, fid: Fid) -> Result<Option<u64>> {
    let asked = Asked { action: action::RESTORE, archive: 0, flags: HAL_FLAG_BLOCKED, data: &[] };
    session.state.last_compound += 1;
    let compound = session.state.last_compound;
    submit(session, &asked, compound, fid, Extent::ALL)
}

/// Fails while the coordinator is stopped.
pub(crate) fn running(root: &Root) -> Result<()> {
    match root.knob("hsm_control")?.as_str() {
        "shutdown" | "stopped" => Err(Errno(libc::EAGAIN)),
        _ => Ok(()),
    }
}

/// Takes a turn, and saves.
pub(crate) fn turn(session: &mut Session) -> Result<()> {
    match session.root.knob("hsm_control")?.as_str() {
        "shutdown" | "stopped" => stop(&mut session.state),
        "purge" => {
            purge(&mut session.state);
            fs::write(session.root.inside("control/hsm_control"), "enabled")?;
        }
        _ => {}
    }
    bury_the_dead(session)?;
    give_up_the_silent(session)?;
    if session.root.knob("hsm_control")? == "enabled" {
        give_out(session)?;
    }
    session.save()
}

/// All agents are forgotten, and what they had: it stays recorded as started, but nobody can go on with it.
fn stop(state: &mut State) {
    state.clients.clear();
    forget_running(state);
}

/// What a restarted MDT does not know any more.
pub(crate) fn forget_running(state: &mut State) {
    for request in state.requests.iter_mut().filter(|request| request.status == Status::Started) {
        request.known = false;
    }
}

fn purge(state: &mut State) {
    let mut cancels = Vec::new();
    for request in state.requests.iter_mut().filter(|request| request.is_open()) {
        if request.status == Status::Waiting || !request.known {
            request.set(Status::Canceled, libc::ECANCELED);
        } else if !request.canceled && request.action != action::CANCEL {
            let cancel = Request { action: action::CANCEL, status: Status::Waiting, ..request.clone() };
            cancels.push(cancel);
        }
    }
    state.requests.extend(cancels);
}

/// From 2.17 on, an agent whose last descriptor is closed is no agent any more. Its requests stay started.
fn bury_the_dead(session: &mut Session) -> Result<()> {
    let old = session.root.is_old()?;
    let root = &session.root;
    for client in &mut session.state.clients {
        client.pipes.retain(|pipe| {
            let path = pipe_path(root, *pipe);
            let lives = open_inheritable(&path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC).is_ok();
            if !lives {
                // It may be gone already: the copytool that unregisters removes it.
                let _ = fs::remove_file(&path);
            }
            lives
        });
    }
    session.state.clients.retain(|client| old || !client.pipes.is_empty());
    Ok(())
}

fn give_up_the_silent(session: &mut Session) -> Result<()> {
    let patience = session.root.number("active_request_timeout")?.saturating_mul(1000);
    for request in session.state.requests.iter_mut().filter(|request| request.status == Status::Started) {
        if now().saturating_sub(request.updated) > patience {
            request.set(Status::Canceled, libc::ECANCELED);
        }
    }
    Ok(())
}

/// The FIFO of a copytool.
pub(crate) fn pipe_path(root: &Root, pipe: u64) -> std::path::PathBuf {
    root.inside("pipes").join(pipe.to_string())
}

/// One list in the making: indices of the requests in it.
struct List {
    client: u64,
    archive: u32,
    flags: u64,
    size: usize,
    requests: Vec<usize>,
}

fn give_out(session: &mut Session) -> Result<()> {
    let max = usize::try_from(session.root.number("max_requests")?).unwrap_or(usize::MAX);
    let fsname = session.root.fsname()?;
    let start = LIST_HEADER + align8(fsname.len() + 1);
    let state = &mut session.state;
    let mut slots = max.saturating_sub(state.requests.iter().filter(|request| request.holds_slot()).count());
    let mut lists: Vec<List> = Vec::new();
    for index in 0..state.requests.len() {
        let request = &state.requests[index];
        if request.status != Status::Waiting {
            continue;
        }
        let is_cancel = request.action == action::CANCEL;
        if !is_cancel && slots == 0 {
            continue;
        }
        let client = choose(state, request);
        if is_cancel && !settle_cancel(state, index, client.is_some()) {
            continue;
        }
        let Some(client) = client else { continue };
        slots -= usize::from(!is_cancel);
        let request = &mut state.requests[index];
        request.set(Status::Started, 0);
        request.client = Some(client);
        let (archive, flags, size) = (request.archive, request.flags, align8(ITEM + request.data.len()));
        let fits = |list: &&mut List| {
            (list.client, list.archive, list.flags) == (client, archive, flags) && list.size + size <= LIST_MAX
        };
        match lists.iter_mut().rev().find(fits) {
            Some(list) => {
                list.size += size;
                list.requests.push(index);
            }
            None => lists.push(List { client, archive, flags, size: start + size, requests: vec![index] }),
        }
    }
    for list in lists {
        let sent = send(session, &list, &fsname)?;
        for index in list.requests {
            let request = &mut session.state.requests[index];
            let (key, is_cancel) = ((request.cookie, request.fid), request.action == action::CANCEL);
            if !sent {
                request.set(Status::Waiting, 0);
            } else if is_cancel {
                let of_it = |other: &&mut Request| (other.cookie, other.fid) == key && other.action != action::CANCEL;
                if let Some(original) = session.state.requests.iter_mut().find(of_it) {
                    original.canceled = true;
                }
            }
        }
    }
    Ok(())
}

/// The client for a request: a cancel goes where its action went; anything else to the least busy.
fn choose(state: &State, request: &Request) -> Option<u64> {
    let serves = |client: &&Client| client.archives.is_empty() || client.archives.contains(&request.archive);
    if request.action == action::CANCEL {
        let of_it = |other: &&Request| other.is_of(request) && other.action != action::CANCEL;
        let sent_to = state.requests.iter().find(of_it).and_then(|original| original.client);
        if let Some(client) = state.clients.iter().find(|client| Some(client.mount) == sent_to) {
            return Some(client.mount);
        }
    }
    let load = |mount: u64| {
        state.requests.iter().filter(|other| other.client == Some(mount) && other.status == Status::Started).count()
    };
    state.clients.iter().filter(serves).min_by_key(|client| load(client.mount)).map(|client| client.mount)
}

/// Whether the cancel at `index` is to be sent. If not, it waits for its action to be sent, or is over.
fn settle_cancel(state: &mut State, index: usize, has_client: bool) -> bool {
    let key = (state.requests[index].cookie, state.requests[index].fid);
    let of_it = |other: &&mut Request| (other.cookie, other.fid) == key && other.action != action::CANCEL;
    let original = state.requests.iter_mut().find(of_it);
    match original {
        Some(original) if original.status == Status::Started => has_client,
        Some(original) if original.status == Status::Waiting => {
            // Nobody has it, and with nobody there to get it, it can be over at once.
            if !has_client {
                original.set(Status::Canceled, libc::ECANCELED);
                state.requests[index].set(Status::Succeeded, 0);
            }
            false
        }
        _ => {
            state.requests[index].set(Status::Failed, libc::ENOENT);
            false
        }
    }
}

/// Writes a list into the pipes of its client. False when one of them has no room; a client without pipes loses it.
fn send(session: &Session, list: &List, fsname: &str) -> Result<bool> {
    let message = encode(&session.state, list, fsname);
    let client = session.state.clients.iter().find(|client| client.mount == list.client);
    let paths = client.into_iter().flat_map(|client| &client.pipes).map(|pipe| pipe_path(&session.root, *pipe));
    // One that cannot be opened died this moment: what is sent to it now is lost.
    let open = |path: std::path::PathBuf| open_inheritable(&path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC);
    let pipes: Vec<File> = paths.filter_map(|path| open(path).ok()).collect();
    for pipe in &pipes {
        rustix::pipe::fcntl_setpipe_size(pipe, PIPE_SIZE)?;
        let unread = usize::try_from(rustix::io::ioctl_fionread(pipe)?).unwrap_or(usize::MAX);
        if unread > PIPE_SIZE / 4 {
            return Ok(false);
        }
    }
    for mut pipe in pipes {
        match pipe.write(&message) {
            Ok(len) if len == message.len() => {}
            Ok(_) => return Err(Errno(libc::EPROTO)),
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// A message: its header, then the list.
fn encode(state: &State, list: &List, fsname: &str) -> Vec<u8> {
    let mut out = vec![0; MESSAGE_HEADER];
    let compound = list.requests.first().map_or(0, |index| state.requests[*index].compound);
    out.extend(1_u32.to_le_bytes());
    out.extend(u32::try_from(list.requests.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(compound.to_le_bytes());
    out.extend(list.flags.to_le_bytes());
    out.extend(list.archive.to_le_bytes());
    out.extend([0; 4]);
    out.extend(fsname.as_bytes());
    out.resize(MESSAGE_HEADER + LIST_HEADER + align8(fsname.len() + 1), 0);
    for index in &list.requests {
        let request = &state.requests[*index];
        out.extend(u32::try_from(ITEM + request.data.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(request.action.to_le_bytes());
        for fid in [request.fid, request.fid] {
            out.extend(fid.seq.to_le_bytes());
            out.extend(fid.oid.to_le_bytes());
            out.extend(fid.ver.to_le_bytes());
        }
        for number in [request.extent.offset, request.extent.length, request.cookie, 0] {
            out.extend(number.to_le_bytes());
        }
        out.extend(&request.data);
        out.resize(align8(out.len()), 0);
    }
    let len = u16::try_from(out.len()).unwrap_or(u16::MAX);
    out[..2].copy_from_slice(&MESSAGE_MAGIC.to_le_bytes());
    out[2] = 1;
    out[6..8].copy_from_slice(&len.to_le_bytes());
    out
}
