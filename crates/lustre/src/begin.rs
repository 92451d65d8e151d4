//! From an item to something a mover can do: which object, which paths; and the coordinator is told that it begins.

use crate::entry::Entry;
use crate::file::{LustreFile, give_layout, path_of};
use crate::finish::stopped;
use crate::source::Shared;
use crate::state::{Phase, Prepared};
use model::{ActionData, Command, ErrorKind, Failure, Fid, Identity, Outcome};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sys::lustre::{Begin, CopyAction, Handle, Item, ProgressFlags, fid2path, mdt_index_by_fid};

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EINVAL: i32 = 22;
const ENODATA: i32 = 61;
const ECANCELED: i32 = 125;

/// How soon the coordinator is asked again that is stopped, or could not.
const STOPPED_PAUSE: Duration = Duration::from_secs(1);

/// What becomes of an item.
enum Begun {
    /// A mover is to work; the library's handle for all but what is owed.
    Ready(Prepared, Option<CopyAction>),
    /// Nothing is left to do but to end it.
    Done(Prepared, CopyAction),
    /// It is answered with a failure.
    Refused(Prepared, Failure),
    /// It has its answer, a failure.
    Answered(Prepared, Failure),
    /// It cannot begin for now.
    Later(Failure),
}

impl Shared {
    /// Begins an action: [`Job::Begin`](crate::workers::Job).
    pub(crate) fn begin(&self, id: u64) {
        let (entry, handle, stop) = {
            let state = self.state.lock();
            let Some(active) = state.active.get(&id) else { return };
            (Arc::clone(&active.entry), state.handle.clone(), active.stop)
        };
        let begun = match (&entry.item, handle) {
            (None, _) => Begun::Ready(Prepared { identity: entry.identity.clone(), ..Prepared::default() }, None),
            (Some(item), Some(handle)) => {
                let begun = match stop {
                    Some(stop) => Begun::Refused(self.describe(item, None), stopped(stop)),
                    None => self.begin_item(&entry, item, &handle),
                };
                self.answer_at_once(&entry, item, &handle, &begun);
                begun
            }
            // The registration went: it waits for the next one.
            (Some(_), None) => return self.state.lock().put_back(id),
        };
        self.enter(id, &entry, begun);
    }

    fn enter(&self, id: u64, entry: &Entry, begun: Begun) {
        let mut state = self.state.lock();
        let stopping = state.stopping;
        let Some(active) = state.active.get_mut(&id) else { return };
        match begun {
            Begun::Ready(prepared, action) => {
                tracing::debug!(action = %entry, path = prepared.shown, object = prepared.identity.uuid, "begun");
                (active.prepared, active.action) = (prepared, action);
                active.since = Instant::now();
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
            Begun::Later(_) if stopping => self.abandon(&mut state, id),
            Begun::Later(failure) => {
                active.last_failure = Some(failure);
                let since = *active.failing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.config.patience.hold {
                    let failure = active.last_failure.clone();
                    state.conclude(id, failure);
                } else {
                    state.wait(id, Instant::now() + STOPPED_PAUSE);
                }
            }
        }
    }

    /// The pair of calls that answers an action that cannot begin.
    fn answer_at_once(&self, entry: &Entry, item: &Item, handle: &Handle, begun: &Begun) {
        let Begun::Refused(_, failure) = begun else { return };
        if let Some(active) = self.state.lock().active.get_mut(&entry.id) {
            active.phase = Phase::Ending;
        }
        if !(entry.orphan && failure.errno == ENOENT) {
            tracing::warn!(action = %entry, "failed: {}", failure.message);
        }
        let retry = failure.kind == ErrorKind::Temporary;
        if let Err(error) = CopyAction::fail(handle, item, failure.errno.max(1), ProgressFlags { retry }) {
            // What an earlier process ended and did not write down any more is known to nobody.
            if !entry.orphan || error.raw_os_error() != Some(ENOENT) {
                tracing::warn!(action = %entry, %error, "the coordinator did not take the answer");
            }
            self.suspect(&error);
        }
    }

    fn begin_item(&self, entry: &Entry, item: &Item, handle: &Handle) -> Begun {
        let file = match LustreFile::open(&self.root, item.fid()) {
            Ok(file) => file,
            Err(error) => return Begun::Refused(self.describe(item, None), error.into()),
        };
        let prepared = self.describe(item, file.as_ref());
        match entry.command {
            Command::Archive => self.begin_archive(entry, item, handle, file.as_ref(), prepared),
            Command::Restore => self.begin_restore(entry, item, handle, file.as_ref(), prepared),
            Command::Remove => self.begin_remove(entry, item, handle, file.as_ref(), prepared),
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
        let identity = match file.identity().map_err(Failure::from).and_then(|own| restored_from(item, own)) {
            Ok(identity) => identity,
            Err(failure) => return Begun::Refused(prepared, failure),
        };
        let layout = file.saved_layout();
        let options = Begin {
            // One MDT, or no answer: Lustre chooses.
            mdt_index: mdt_index_by_fid(&self.library, &self.root, item.fid()).ok(),
            delay_layout: layout.is_some(),
        };
        let prepared = Prepared { identity, expected_size: Some(prepared.size), ..prepared };
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
                let failure = failure_of("open the file that is restored into", &error);
                self.end_action(entry, action, &failure);
                Begun::Answered(prepared, failure)
            }
        }
    }

    fn begin_remove(
        &self,
        entry: &Entry,
        item: &Item,
        handle: &Handle,
        file: Option<&LustreFile>,
        prepared: Prepared,
    ) -> Begun {
        let found = match file {
            Some(file) => {
                let shared = |identity: Identity| Ok((file.is_shared(&identity.uuid)?, identity));
                file.identity().and_then(shared).map_err(Failure::from)
            }
            None => named_by_data(item).map(|identity| (false, identity)),
        };
        let (shared, identity) = match found {
            Ok(found) => found,
            Err(failure) => return Begun::Refused(prepared, failure),
        };
        if identity.uuid.is_empty() && identity.url.is_empty() {
            let message = format!(
                "{} names no archived object, and the request has no file_id either: nothing can be removed",
                item.fid()
            );
            return Begun::Refused(prepared, Failure::permanent(ENODATA, message));
        }
        let prepared = Prepared { identity, ..prepared };
        match self.start(entry, item, handle, Begin::default(), prepared) {
            Begun::Ready(prepared, Some(action)) if shared => {
                tracing::info!(action = %entry, object = prepared.identity.uuid, "other files may name the object: it stays");
                Begun::Done(prepared, action)
            }
            begun => begun,
        }
    }

    fn start(&self, entry: &Entry, item: &Item, handle: &Handle, options: Begin, prepared: Prepared) -> Begun {
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
                    Begun::Later(failure)
                } else {
                    Begun::Refused(prepared, failure)
                }
            }
        }
    }
}

fn gone(prepared: Prepared, fid: Fid) -> Begun {
    Begun::Refused(prepared, Failure::permanent(ENOENT, format!("{fid} is gone, or the coordinator gave it up")))
}

/// The coordinator's or the system's word.
pub(crate) fn failure_of(what: &str, error: &io::Error) -> Failure {
    let errno = error.raw_os_error().unwrap_or(EIO);
    Failure { kind: model::errno_kind(errno), errno, message: format!("cannot {what}: {error}"), thaw: None }
}

/// The object to restore: the file's own, or that which the request names.
fn restored_from(item: &Item, own: Identity) -> Result<Identity, Failure> {
    let named = named_in(item)?;
    if named.is_empty() || named == own.uuid {
        if own.uuid.is_empty() && own.url.is_empty() {
            let message = format!("{} names no archived object, and the request has no file_id either", item.fid());
            return Err(Failure::permanent(ENODATA, message));
        }
        return Ok(own);
    }
    Ok(Identity { uuid: named, ..Identity::default() })
}

fn named_by_data(item: &Item) -> Result<Identity, Failure> {
    Ok(Identity { uuid: named_in(item)?, ..Identity::default() })
}

/// The request's `file_id`; empty for none.
fn named_in(item: &Item) -> Result<String, Failure> {
    String::from_utf8(ActionData::parse(item.data()).file_id).map_err(|_| {
        Failure::permanent(EINVAL, format!("the request for {} has a file_id that is no text", item.fid()))
    })
}

/// Whether an error says that the coordinator knows nothing of an action, or of this agent.
pub(crate) fn says_forgotten(error: &io::Error) -> bool {
    const ENOTCONN: i32 = 107;
    const ESHUTDOWN: i32 = 108;
    matches!(error.raw_os_error(), Some(ENOENT | ENOTCONN | ESHUTDOWN))
}
