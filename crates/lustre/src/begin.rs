//! From an item to something a mover can do: which object, which paths; and the coordinator is told that it begins.

use crate::entry::Entry;
use crate::file::{LustreFile, give_layout, path_of};
use crate::finish::stopped;
use crate::object::{self, Wanted};
use crate::source::Shared;
use crate::state::{Phase, Prepared, Stop};
use model::{ActionData, Command, ErrorKind, Failure, Fid, Outcome};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sys::lustre::{Begin, CopyAction, Handle, Item, ProgressFlags, fid2path, mdt_index_by_fid};

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;
const ECANCELED: i32 = 125;

/// How soon the coordinator is asked again that is stopped, or could not.
const STOPPED_PAUSE: Duration = Duration::from_secs(1);

/// What becomes of an item.
pub(crate) enum Begun {
    /// A mover is to work; the library's handle for all but what is owed.
    Ready(Prepared, Option<CopyAction>),
    /// Nothing is left to do but to end it.
    Done(Prepared, CopyAction),
    /// It is answered with a failure.
    Refused(Prepared, Failure),
    /// It has its answer, a failure.
    Answered(Prepared, Failure),
    /// It cannot begin for now. What the library has of it already is kept for the next time.
    Later(Failure, Option<CopyAction>),
}

impl Shared {
    /// Begins an action: [`Job::Begin`](crate::workers::Job).
    pub(crate) fn begin(&self, id: u64) {
        let (entry, handle, stop, given, mut kept) = {
            let mut state = self.state.lock();
            let handle = state.handle.clone();
            let Some(active) = state.active.get_mut(&id) else { return };
            (Arc::clone(&active.entry), handle, active.stop, active.given, active.action.take())
        };
        let begun = match (&entry.item, handle) {
            (None, _) => Begun::Ready(Prepared { identity: entry.identity.clone(), ..Prepared::default() }, None),
            (Some(item), Some(handle)) => {
                let begun = match stop {
                    Some(stop) => Begun::Refused(self.describe(item, None), stopped(stop)),
                    None => self.begin_item(&entry, item, &handle, &mut kept),
                };
                let begun = match (begun, kept) {
                    (Begun::Refused(prepared, failure), Some(action)) => {
                        self.answered(&entry, action, prepared, failure)
                    }
                    (Begun::Later(failure, None), kept) => Begun::Later(failure, kept),
                    (begun, _) => begun,
                };
                let taken = self.answer_at_once(&entry, item, &handle, &begun);
                // Where it has the request still, no earlier process can have ended it well.
                let is_ours = given > 0 || taken && entry.orphan && stop != Some(Stop::NoArchive);
                if is_ours && matches!(begun, Begun::Refused(..) | Begun::Answered(..)) {
                    self.owe_attempts(&entry);
                }
                begun
            }
            // The registration went: it waits for the next one.
            (Some(_), None) => {
                kept.into_iter().for_each(CopyAction::abandon);
                return self.state.lock().put_back(id);
            }
        };
        self.enter(id, &entry, begun);
    }

    fn enter(&self, id: u64, entry: &Entry, begun: Begun) {
        let mut state = self.state.lock();
        let stopping = state.stopping;
        let Some(active) = state.active.get_mut(&id) else {
            // A stop left it to the next process meanwhile.
            if let Begun::Ready(_, Some(action)) | Begun::Done(_, action) | Begun::Later(_, Some(action)) = begun {
                action.abandon();
            }
            return;
        };
        match begun {
            Begun::Ready(prepared, action) => {
                active.begun = true;
                tracing::debug!(action = %entry, path = prepared.shown, object = prepared.identity.uuid, "begun");
                (active.prepared, active.action) = (prepared, action);
                // Its reader waits since it was begun first.
                if active.failing_since.is_none() {
                    active.since = Instant::now();
                }
                active.reported = Instant::now();
                match active.stop {
                    Some(_) => state.outcome(id, Outcome::Failed(Failure::cancelled())),
                    None if stopping => self.abandon(&mut state, id),
                    None => state.give(id),
                }
            }
            Begun::Done(prepared, action) => {
                (active.prepared, active.action) = (prepared, Some(action));
                state.outcome(id, Outcome::Removed);
            }
            Begun::Refused(prepared, failure) | Begun::Answered(prepared, failure) => {
                active.prepared = prepared;
                state.conclude(id, Some(failure));
            }
            Begun::Later(failure, action) => {
                active.action = action;
                active.last_failure = Some(failure.clone());
                let since = *active.failing_since.get_or_insert_with(Instant::now);
                match active.stop {
                    Some(_) => state.outcome(id, Outcome::Failed(Failure::cancelled())),
                    None if stopping => self.abandon(&mut state, id),
                    None if since.elapsed() >= self.config.patience.hold => state.outcome(id, Outcome::Failed(failure)),
                    None => state.wait(id, Instant::now() + STOPPED_PAUSE),
                }
            }
        }
    }

    /// The pair of calls that answers an action that cannot begin. Whether there was one, and the coordinator took it.
    fn answer_at_once(&self, entry: &Entry, item: &Item, handle: &Handle, begun: &Begun) -> bool {
        let Begun::Refused(_, failure) = begun else { return false };
        if let Some(active) = self.state.lock().active.get_mut(&entry.id) {
            active.phase = Phase::Ending;
        }
        if !(entry.orphan && failure.errno == ENOENT) {
            tracing::warn!(action = %entry, "failed: {}", failure.message);
        }
        self.fail_item(entry, item, handle, failure)
    }

    /// Answers what has not begun, with a failure. It is over whatever the coordinator says to that; whether it took it.
    pub(crate) fn fail_item(&self, entry: &Entry, item: &Item, handle: &Handle, failure: &Failure) -> bool {
        let retry = failure.kind == ErrorKind::Temporary;
        let Err(error) = CopyAction::fail(handle, item, failure.errno.max(1), ProgressFlags { retry }) else {
            return true;
        };
        // What an earlier process ended and did not write down any more is known to nobody.
        if !entry.orphan || error.raw_os_error() != Some(ENOENT) {
            tracing::warn!(action = %entry, %error, "the coordinator did not take the answer");
        }
        self.suspect(&error);
        false
    }

    /// Ends what has begun already, with a failure.
    pub(crate) fn answered(&self, entry: &Entry, action: CopyAction, prepared: Prepared, failure: Failure) -> Begun {
        if let Some(active) = self.state.lock().active.get_mut(&entry.id) {
            active.phase = Phase::Ending;
        }
        tracing::warn!(action = %entry, "failed: {}", failure.message);
        self.end_action(entry, action, &failure);
        Begun::Answered(prepared, failure)
    }

    fn begin_item(&self, entry: &Entry, item: &Item, handle: &Handle, kept: &mut Option<CopyAction>) -> Begun {
        let file = match LustreFile::open(&self.root, item.fid()) {
            Ok(file) => file,
            Err(error) => return unseen(self.describe(item, None), error.into()),
        };
        let prepared = self.describe(item, file.as_ref());
        match entry.command {
            Command::Archive => self.begin_archive(entry, item, handle, file.as_ref(), prepared),
            Command::Restore => self.begin_restore(entry, item, handle, file.as_ref(), prepared),
            Command::Remove => self.begin_remove(entry, item, handle, file.as_ref(), prepared, kept),
            Command::Verify => Begun::Refused(prepared, Failure::permanent(EINVAL, "nobody asks for that on Lustre")),
        }
    }

    /// What all actions have in common.
    fn describe(&self, item: &Item, file: Option<&LustreFile>) -> Prepared {
        let path = file.and_then(|_| fid2path(&self.library, &self.config.mount, item.fid(), 0).ok());
        let shown =
            path.as_ref().map_or_else(String::new, |p| self.config.shown.join(p).to_string_lossy().into_owned());
        let stamp = file.map(|file| file.stamp);
        Prepared {
            primary_path: path_of(item.fid()),
            tree_path: path.map(|p| p.into_os_string().into_encoded_bytes()).unwrap_or_default(),
            shown,
            owner: stamp.map_or(0, |stamp| stamp.uid),
            size: stamp.map_or(0, |stamp| stamp.size),
            data: ActionData::parse(item.data()).mover_data,
            ..Prepared::default()
        }
    }

    fn begin_archive(
        &self,
        entry: &Entry,
        item: &Item,
        handle: &Handle,
        file: Option<&LustreFile>,
        prepared: Prepared,
    ) -> Begun {
        let Some(file) = file else { return gone(prepared, item.fid()) };
        if !file.stamp.is_regular {
            return Begun::Refused(prepared, Failure::permanent(EINVAL, format!("{} is no regular file", item.fid())));
        }
        // A restore writes into another inode, whose content becomes the file's: encrypted with another key, or not at all.
        match file.is_encrypted() {
            Ok(false) => {}
            Ok(true) => {
                let message = format!("{} is encrypted: it could not be read after its restore", item.fid());
                return Begun::Refused(prepared, Failure::permanent(EOPNOTSUPP, message));
            }
            Err(error) => return Begun::Refused(prepared, error.into()),
        }
        let prepared = Prepared { identity: entry.identity.clone(), ..prepared };
        self.start(entry, item, handle, Begin::default(), prepared)
    }

    fn begin_restore(
        &self,
        entry: &Entry,
        item: &Item,
        handle: &Handle,
        file: Option<&LustreFile>,
        prepared: Prepared,
    ) -> Begun {
        let Some(file) = file else { return gone(prepared, item.fid()) };
        if entry.progressed {
            let why = "an agent that is gone had begun to restore it; whoever needs it asks again";
            return Begun::Refused(prepared, Failure::temporary(EIO, why));
        }
        let object = file.identity().map_err(Failure::from).and_then(|own| object::to_restore(item, own));
        let Wanted { identity, needs_hash } = match object {
            Ok(wanted) => wanted,
            Err(failure) => return unseen(prepared, failure),
        };
        let layout = file.saved_layout();
        let options = Begin {
            // One MDT, or no answer: Lustre chooses.
            mdt_index: mdt_index_by_fid(&self.library, &self.root, item.fid()).ok(),
            delay_layout: layout.is_some(),
        };
        let prepared = Prepared { identity, needs_hash, expected_size: Some(prepared.size), ..prepared };
        let begun = self.start(entry, item, handle, options, prepared);
        let Begun::Ready(mut prepared, Some(action)) = begun else { return begun };
        let fd_and_path = || -> io::Result<String> {
            let fd = action.fd()?;
            if let Some(layout) = &layout
                && let Err(error) = give_layout(fd.as_fd(), layout)
            {
                tracing::warn!(action = %entry, %error, "the file's layout cannot be made again: it gets its directory's");
            }
            Ok(path_of(action.dfid()?))
        };
        match fd_and_path() {
            Ok(path) => {
                prepared.write_path = path;
                Begun::Ready(prepared, Some(action))
            }
            Err(error) => {
                self.answered(entry, action, prepared, failure_of("open the file that is restored into", &error))
            }
        }
    }

    pub(crate) fn start(
        &self,
        entry: &Entry,
        item: &Item,
        handle: &Handle,
        options: Begin,
        prepared: Prepared,
    ) -> Begun {
        let error = match CopyAction::begin(handle, item, options) {
            Ok(action) => return Begun::Ready(prepared, Some(action)),
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(ECANCELED) => Begun::Refused(prepared, Failure::cancelled()),
            Some(ENOENT) => {
                if !entry.orphan {
                    self.suspect(&error);
                }
                gone(prepared, item.fid())
            }
            Some(EINVAL) if entry.is_restore() => {
                let why = "another process had begun to restore it; whoever needs it asks again";
                Begun::Refused(prepared, Failure::temporary(EIO, why))
            }
            _ => {
                let failure = failure_of("begin", &error);
                if failure.kind == ErrorKind::Temporary {
                    Begun::Later(failure, None)
                } else {
                    Begun::Refused(prepared, failure)
                }
            }
        }
    }
}

/// What becomes of an action whose file could not be looked at, or is not fit for it.
pub(crate) fn unseen(prepared: Prepared, failure: Failure) -> Begun {
    if failure.kind == ErrorKind::Temporary { Begun::Later(failure, None) } else { Begun::Refused(prepared, failure) }
}

pub(crate) fn gone(prepared: Prepared, fid: Fid) -> Begun {
    Begun::Refused(prepared, Failure::permanent(ENOENT, format!("{fid} is gone, or the coordinator gave it up")))
}

/// The coordinator's or the system's word.
pub(crate) fn failure_of(what: &str, error: &io::Error) -> Failure {
    let errno = error.raw_os_error().unwrap_or(EIO);
    Failure { kind: model::errno_kind(errno), errno, message: format!("cannot {what}: {error}"), thaw: None }
}

/// Whether an error says that the coordinator knows nothing of an action, or of this agent.
pub(crate) fn says_forgotten(error: &io::Error) -> bool {
    const ENOTCONN: i32 = 107;
    const ESHUTDOWN: i32 = 108;
    matches!(error.raw_os_error(), Some(ENOENT | ENOTCONN | ESHUTDOWN))
}
