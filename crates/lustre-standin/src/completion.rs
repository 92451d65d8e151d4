//! What agents answer: begin, progress and end of an action, and what the file becomes by it.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::SeekFrom;

use crate::abi::{ActionItem, Extent, Fid, HP_FLAG_RETRY, action, state};
use crate::boundary::{Errno, Result};
use crate::changelog::{self, HsmEvent};
use crate::coordinator::{running, turn};
use crate::file::{Hsm, data_version, find, make_volatile, modification, set_times};
use crate::root::Root;
use crate::state::{Request, Session, Status, now};

/// What an action has once it has begun.
pub(crate) struct Begun {
    pub(crate) data_version: u64,
    pub(crate) volatile: Option<(Fid, File)>,
}

/// The end of an action, as an agent reports it.
pub(crate) struct End<'a> {
    pub(crate) item: &'a ActionItem,
    /// The file it is about, or the volatile one a restore has written.
    pub(crate) data_fid: Fid,
    pub(crate) data_version: u64,
    pub(crate) flags: u16,
    pub(crate) errno: i32,
}

/// The request of an item, if an agent may report on it.
fn started<'a>(session: &'a mut Session, item: &ActionItem) -> Result<&'a mut Request> {
    let of_it = |request: &&mut Request| {
        (request.cookie, request.fid) == (item.cookie, item.fid)
            && request.action != action::CANCEL
            && request.status == Status::Started
            && request.known
    };
    session.state.requests.iter_mut().find(of_it).ok_or(Errno(libc::ENOENT))
}

/// Of a removal the coordinator is told nothing at its begin: the library opens the file if it is there, and that is all.
pub(crate) fn begin(session: &mut Session, item: &ActionItem) -> Result<Begun> {
    if item.action == action::REMOVE {
        return Ok(Begun { data_version: 0, volatile: None });
    }
    running(&session.root)?;
    turn(session)?;
    let request = started(session, item)?;
    if request.canceled {
        return Err(Errno(libc::ECANCELED));
    }
    request.updated = now();
    let archive = request.archive;
    let mut begun = Begun { data_version: 0, volatile: None };
    match item.action {
        action::ARCHIVE => {
            let path = find(&session.root, item.fid)?;
            begun.data_version = data_version(&path)?;
            let hsm = Hsm::read(&path)?;
            if !hsm.has(state::EXISTS) {
                Hsm { flags: hsm.flags | state::EXISTS, archive, ..hsm }.write(&path)?;
                changelog::log_hsm(session, item.fid, HsmEvent::State, 0)?;
            }
        }
        action::RESTORE => {
            find(&session.root, item.fid)?;
            begun.volatile = Some(make_volatile(session)?);
        }
        _ => {}
    }
    session.save()?;
    Ok(begun)
}

pub(crate) fn progress(session: &mut Session, item: &ActionItem, data_fid: Fid, extent: Extent) -> Result<()> {
    running(&session.root)?;
    let request = started(session, item)?;
    belongs(request, data_fid)?;
    if request.canceled {
        return Err(Errno(libc::ECANCELED));
    }
    if extent.offset.checked_add(extent.length).is_none() {
        return Err(Errno(libc::EINVAL));
    }
    if data_fid != request.fid {
        request.dfid = Some(data_fid);
    }
    request.updated = now();
    merge(&mut request.progress, extent);
    session.save()
}

/// A restore that has made progress into one volatile file cannot go on with another.
fn belongs(request: &Request, data_fid: Fid) -> Result<()> {
    let other = request.dfid.is_some_and(|dfid| dfid != data_fid);
    if data_fid != request.fid && (other || request.action != action::RESTORE) {
        return Err(Errno(libc::EINVAL));
    }
    Ok(())
}

fn merge(done: &mut Vec<Extent>, new: Extent) {
    let end = |extent: &Extent| extent.offset.saturating_add(extent.length);
    let (mut from, mut to) = (new.offset, end(&new));
    done.retain(|old| {
        let apart = end(old) < from || old.offset > to;
        if !apart {
            (from, to) = (from.min(old.offset), to.max(end(old)));
        }
        apart
    });
    done.push(Extent { offset: from, length: to - from });
}

/// Records the end. An error says that the report was not taken, or that the action has failed by it (`EBUSY`).
pub(crate) fn end(session: &mut Session, report: &End<'_>) -> Result<()> {
    running(&session.root)?;
    let request = started(session, report.item)?;
    belongs(request, report.data_fid)?;
    let (kind, fid, archive, canceled) = (request.action, request.fid, request.archive, request.canceled);
    let retry = report.errno != 0 && report.flags & HP_FLAG_RETRY != 0 && !canceled;
    if retry && !forbids_retries(&session.root)? {
        let request = started(session, report.item)?;
        request.set(Status::Waiting, 0);
        (request.client, request.dfid) = (None, None);
        request.progress.clear();
        return turn(session);
    }
    let result = if report.errno == 0 { take_effect(session, kind, fid, archive, report) } else { Ok(()) };
    let errno = match result {
        Ok(()) => report.errno,
        Err(Errno(errno)) => errno,
    };
    let status = match errno {
        libc::ENOSYS => Status::Failed,
        _ if canceled => Status::Canceled,
        libc::ECANCELED => Status::Canceled,
        0 => Status::Succeeded,
        _ => Status::Failed,
    };
    started(session, report.item)?.set(status, errno);
    let key = (report.item.cookie, fid);
    let cancels = |request: &&mut Request| request.action == action::CANCEL && (request.cookie, request.fid) == key;
    for cancel in session.state.requests.iter_mut().filter(cancels).filter(|request| request.is_open()) {
        if errno == libc::ENOSYS { cancel.set(Status::Failed, errno) } else { cancel.set(Status::Succeeded, 0) }
    }
    let event = match kind {
        _ if status == Status::Canceled => HsmEvent::Cancel,
        action::ARCHIVE => HsmEvent::Archive,
        action::RESTORE => HsmEvent::Restore,
        _ => HsmEvent::Remove,
    };
    changelog::log_hsm(session, fid, event, errno)?;
    if errno == 0 {
        changelog::log_hsm(session, fid, HsmEvent::State, 0)?;
    }
    turn(session)?;
    result
}

fn forbids_retries(root: &Root) -> Result<bool> {
    let policy = root.knob("policy")?;
    Ok(policy.split_whitespace().any(|word| word == "NRA" || word == "+NRA"))
}

/// What a file becomes when an agent says that its action is done. It believes the agent, as Lustre does.
fn take_effect(session: &Session, kind: u32, fid: Fid, archive: u32, report: &End<'_>) -> Result<()> {
    let path = match find(&session.root, fid) {
        Ok(path) => path,
        Err(Errno(libc::ENOENT)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let hsm = Hsm::read(&path)?;
    match kind {
        action::ARCHIVE => {
            let version = data_version(&path)?;
            if version != report.data_version {
                Hsm { flags: hsm.flags | state::EXISTS | state::DIRTY, archive, ..hsm }.write(&path)?;
                return Err(Errno(libc::EBUSY));
            }
            Hsm::settled(&path)?;
            let flags = (hsm.flags | state::EXISTS | state::ARCHIVED) & !(state::DIRTY | state::LOST);
            Hsm { flags, archive, version }.write(&path)
        }
        action::RESTORE => {
            if report.data_fid != fid {
                take_data(&session.root, &path, report.data_fid)?;
            }
            Hsm::settled(&path)?;
            let version = modification(&fs::metadata(&path)?);
            Hsm { flags: hsm.flags & !(state::RELEASED | state::DIRTY), version, ..hsm }.write(&path)
        }
        _ => {
            let gone = state::EXISTS | state::ARCHIVED | state::DIRTY | state::LOST;
            Hsm { flags: hsm.flags & !gone, archive: 0, version: 0 }.write(&path)
        }
    }
}

/// The file gets what the volatile one has, and all of that: also its length. Its times stay.
fn take_data(root: &Root, path: &Path, volatile: Fid) -> Result<()> {
    let from = File::open(volatile.path(root))?;
    let to = fs::OpenOptions::new().write(true).open(path)?;
    let was = to.metadata()?;
    copy_sparse(&from, &to)?;
    set_times(&to, &was)
}

/// Makes `to` the same as `from`, holes included.
pub(crate) fn copy_sparse(from: &File, to: &File) -> Result<()> {
    let len = from.metadata()?.len();
    to.set_len(0)?;
    let mut position = 0;
    while position < len {
        let mut data = match rustix::fs::seek(from, SeekFrom::Data(position)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?;
        while data < hole {
            let (mut source, mut target) = (data, data);
            let room = usize::try_from(hole - data).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), room)? {
                0 => return Err(Errno(libc::EIO)),
                copied => data += copied as u64,
            }
        }
        position = hole;
    }
    Ok(to.set_len(len)?)
}
