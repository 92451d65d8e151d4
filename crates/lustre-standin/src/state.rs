//! What the coordinator knows: agents, requests, and the numbers it counts.
//!
//! One file under one lock, read and replaced whole: any process that loads the library may play the coordinator, and may be
//! killed while it does. Files are not in here: what a file is to HSM is in the file (see [`crate::file`]).

use std::fs::{self, File};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::abi::{Extent, Fid, action};
use crate::boundary::Result;
use crate::root::Root;

/// How many requests that are over are remembered.
const FINISHED_KEPT: usize = 1000;

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// No agent has it.
    Waiting,
    /// An agent has it, or had it when it died.
    Started,
    /// Done.
    Succeeded,
    /// Given up.
    Failed,
    /// Given up because somebody asked for that.
    Canceled,
}

/// One action on one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Names it at its MDT; an action and its cancel have the same.
    pub cookie: u64,
    /// Of the user's request it came with.
    pub compound: u64,
    /// One of [`action`].
    pub action: u32,
    /// The file.
    pub fid: Fid,
    /// The volatile file a restore has made progress into.
    pub dfid: Option<Fid>,
    /// What part of it.
    pub extent: Extent,
    /// The archive.
    pub archive: u32,
    /// Of the list it is sent in.
    pub flags: u64,
    /// The user's data.
    pub data: Vec<u8>,
    /// Where it stands.
    pub status: Status,
    /// Why it failed.
    pub errno: i32,
    /// False once the coordinator was stopped: it stays recorded as started, but nobody can go on with it.
    pub known: bool,
    /// The client it was sent to.
    pub client: Option<u64>,
    /// When something was last heard of it, in milliseconds since 1970.
    pub updated: u64,
    /// Its cancel was sent.
    pub canceled: bool,
    /// What is done of it, merged.
    pub progress: Vec<Extent>,
}

impl Request {
    /// Neither done nor given up.
    pub fn is_open(&self) -> bool {
        matches!(self.status, Status::Waiting | Status::Started)
    }

    /// Whether both are the same action, or one is the other's cancel.
    pub(crate) fn is_of(&self, other: &Request) -> bool {
        (self.cookie, self.fid) == (other.cookie, other.fid)
    }

    /// Holds one of the `max_requests` slots.
    pub fn holds_slot(&self) -> bool {
        self.status == Status::Started && self.known && self.action != action::CANCEL
    }

    pub(crate) fn set(&mut self, status: Status, errno: i32) {
        (self.status, self.errno, self.updated) = (status, errno, now());
    }
}

/// A mount on which copytools are registered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Client {
    /// Names the mount.
    pub mount: u64,
    /// Empty: any.
    pub archives: Vec<u32>,
    /// One for each copytool on it; each gets everything.
    pub pipes: Vec<u64>,
}

/// One who reads the changelog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ChangelogUser {
    /// `cl1` and so on.
    pub(crate) id: String,
    /// What it has done with.
    pub(crate) cleared: u64,
}

/// All of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// The last one given out, of each kind.
    pub(crate) last_cookie: u64,
    /// See `last_cookie`.
    pub(crate) last_compound: u64,
    /// See `last_cookie`.
    pub(crate) last_object: u32,
    /// See `last_cookie`.
    pub(crate) last_pipe: u64,
    /// See `last_cookie`.
    pub(crate) last_record: u64,
    /// See `last_cookie`.
    pub(crate) last_user: u64,
    /// Mounts with copytools.
    pub(crate) clients: Vec<Client>,
    /// In the order they came.
    pub(crate) requests: Vec<Request>,
    /// Who reads the changelog.
    pub(crate) users: Vec<ChangelogUser>,
}

impl State {
    /// As it is now, without waiting for anybody.
    pub(crate) fn read(root: &Root) -> Result<State> {
        State::parse(&State::saved(root)?)
    }

    fn saved(root: &Root) -> Result<Vec<u8>> {
        match fs::read(root.inside("state.json")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            other => Ok(other?),
        }
    }

    fn parse(bytes: &[u8]) -> Result<State> {
        if bytes.is_empty() { Ok(State::default()) } else { Ok(serde_json::from_slice(bytes)?) }
    }
}

/// The state, held: nobody else sees or changes it until this is dropped. What was not saved is lost.
pub(crate) struct Session {
    /// Of which root.
    pub(crate) root: Root,
    /// What may be changed, and then [saved](Session::save).
    pub(crate) state: State,
    saved: Vec<u8>,
    _lock: File,
}

impl Session {
    /// Waits until it is ours.
    pub(crate) fn begin(root: &Root) -> Result<Session> {
        let lock = File::open(root.inside("lock"))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        let saved = State::saved(root)?;
        Ok(Session { state: State::parse(&saved)?, root: root.clone(), saved, _lock: lock })
    }

    /// Makes the changes, if any, everybody's. Goes by rename, which is what waiting processes watch for.
    pub(crate) fn save(&mut self) -> Result<()> {
        self.forget();
        let bytes = serde_json::to_vec(&self.state)?;
        if bytes == self.saved {
            return Ok(());
        }
        let next = self.root.inside("state.json.next");
        let mut file = File::create(&next)?;
        file.write_all(&bytes)?;
        fs::rename(&next, self.root.inside("state.json"))?;
        self.saved = bytes;
        Ok(())
    }

    fn forget(&mut self) {
        let finished = self.state.requests.iter().filter(|request| !request.is_open()).count();
        let mut surplus = finished.saturating_sub(FINISHED_KEPT);
        self.state.requests.retain(|request| {
            let goes = surplus > 0 && !request.is_open();
            surplus -= usize::from(goes);
            !goes
        });
    }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
