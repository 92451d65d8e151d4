//! The changelog: what is written into it, and `llapi_changelog_…`.
//!
//! Records are written while somebody is registered, and kept until everybody registered has cleared them. What programs do by
//! system calls is not seen; tests write such records with [`crate::control::log`].

use std::fs::{self, OpenOptions};
use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::abi::{Fid, state};
use crate::boundary::{Errno, Result};
use crate::file::{Hsm, find};
use crate::root::Root;
use crate::state::{Session, now};

/// `CL_HSM`.
pub const KIND_HSM: u32 = 16;

/// What happened to a file in HSM; bits 7 to 9 of a record's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HsmEvent {
    Archive = 0,
    Restore = 1,
    Cancel = 2,
    Release = 3,
    Remove = 4,
    State = 5,
}

/// One line of the log's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) index: u64,
    pub(crate) kind: u32,
    /// The lower twelve bits.
    pub(crate) flags: u16,
    /// As in the record.
    pub(crate) time: u64,
    pub(crate) tfid: Fid,
    pub(crate) pfid: Fid,
    pub(crate) name: Vec<u8>,
    /// The old file and directory of a rename.
    pub(crate) source: Option<(Fid, Fid)>,
    pub(crate) source_name: Vec<u8>,
    pub(crate) job: String,
}

impl Entry {
    pub(crate) fn new(kind: u32, flags: u16, tfid: Fid) -> Entry {
        let milliseconds = now();
        let time = ((milliseconds / 1000) << 30) | ((milliseconds % 1000) * 1_000_000);
        let (pfid, name, source, source_name, job) = Default::default();
        Entry { index: 0, kind, flags, time, tfid, pfid, name, source, source_name, job }
    }
}

/// Appends a record, if anybody reads. Its number is given here.
pub(crate) fn append(session: &mut Session, mut entry: Entry) -> Result<()> {
    if session.state.users.is_empty() {
        return Ok(());
    }
    session.state.last_record += 1;
    entry.index = session.state.last_record;
    put(session, &entry)?;
    session.save()
}

/// Appends a record as it is. Numbers need not be in order.
pub(crate) fn put(session: &Session, entry: &Entry) -> Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    let mut file = OpenOptions::new().append(true).create(true).open(session.root.inside("changelog.jsonl"))?;
    Ok(file.write_all(&line)?)
}

/// Appends a record of HSM's.
pub(crate) fn log_hsm(session: &mut Session, fid: Fid, event: HsmEvent, errno: i32) -> Result<()> {
    let dirty = match find(&session.root, fid) {
        Ok(path) => Hsm::read(&path)?.has(state::DIRTY),
        Err(_) => false,
    };
    let error = u16::try_from(errno.clamp(0, 127)).unwrap_or(127);
    append(session, Entry::new(KIND_HSM, error | ((event as u16) << 7) | (u16::from(dirty) << 10), fid))
}

/// Everything from record `from` on that is still there.
pub(crate) fn entries(root: &Root, from: u64) -> Result<Vec<Entry>> {
    let bytes = fs::read(root.inside("changelog.jsonl"))?;
    // The last line may be half written.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let lines = bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let entries = lines.map(serde_json::from_slice).collect::<std::result::Result<Vec<Entry>, _>>()?;
    Ok(entries.into_iter().filter(|entry| entry.index >= from).collect())
}

/// A user has done with all records up to `end`; 0 is all there are.
pub(crate) fn clear(session: &mut Session, user: &str, end: u64) -> Result<()> {
    let last = session.state.last_record;
    if end > last {
        return Err(Errno(libc::EINVAL));
    }
    let end = if end == 0 { last } else { end };
    let user = session.state.users.iter_mut().find(|known| known.id == user).ok_or(Errno(libc::ENOENT))?;
    if end < user.cleared {
        return Err(Errno(libc::EINVAL));
    }
    user.cleared = end;
    prune(session)?;
    session.save()
}

/// Removes what nobody wants any more.
pub(crate) fn prune(session: &Session) -> Result<()> {
    let wanted = session.state.users.iter().map(|user| user.cleared + 1).min();
    let mut kept = Vec::new();
    for entry in entries(&session.root, wanted.unwrap_or(u64::MAX))? {
        serde_json::to_writer(&mut kept, &entry)?;
        kept.push(b'\n');
    }
    let next = session.root.inside("changelog.jsonl.next");
    fs::write(&next, kept)?;
    Ok(fs::rename(next, session.root.inside("changelog.jsonl"))?)
}
