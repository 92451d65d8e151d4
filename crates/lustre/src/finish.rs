//! The end of an action: what the mover said becomes what the file says, and the coordinator is told, once.

use crate::begin::{failure_of, says_forgotten};
use crate::entry::{Entry, now_ms};
use crate::file::{FileError, LustreFile};
use crate::retry::{Bounds, History, counts, pause};
use crate::snapshots::{Snapshot, is_snapshot};
use crate::source::Shared;
use crate::state::{Prepared, State, Stop};
use model::{Class, Command, Digest, ErrorKind, Extent, Failure, Fid, Identity, Outcome};
use queue::NewItem;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sys::lustre::{CopyAction, Flush, ProgressFlags, data_version};

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENXIO: i32 = 6;
const EBUSY: i32 = 16;
const ETIMEDOUT: i32 = 110;

/// Between attempts to make a file name its object.
const NAME_PAUSES: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_millis(400), Duration::from_millis(800), Duration::from_millis(1600)];

/// An action that a worker took out of the state to end it.
struct Ending {
    entry: Arc<Entry>,
    prepared: Prepared,
    action: Option<CopyAction>,
    stop: Option<Stop>,
    /// There may be an object that nobody told of.
    may_have_left: bool,
}

impl Shared {
    /// Ends an action, or has it tried again: [`Job::Finish`](crate::workers::Job).
    pub(crate) fn finish(&self, id: u64, outcome: Outcome) {
        let outcome = self.checked(id, outcome);
        if matches!(outcome, Outcome::Failed(_)) {
            self.empty_target(id);
        }
        let mut ending = {
            let mut state = self.state.lock();
            let stopping = state.stopping;
            let may_have_left = state.may_have_left(id, &outcome);
            let Some(active) = state.active.get_mut(&id) else { return };
            if active.stop.is_none()
                && let Outcome::Failed(failure) = &outcome
                && let Some(until) = self.next_attempt(active, failure)
            {
                if stopping {
                    return self.abandon(&mut state, id);
                }
                tracing::info!(action = %active.entry, "failed for now: {failure}");
                active.last_failure = Some(failure.clone());
                return state.wait(id, until);
            }
            Ending {
                entry: Arc::clone(&active.entry),
                prepared: active.prepared.clone(),
                action: active.action.take(),
                stop: active.stop,
                may_have_left,
            }
        };
        let Some(ended) = self.settle(&mut ending, outcome) else {
            // It is answered when there is a registration.
            return self.state.lock().put_back(id);
        };
        let failure = ended.err();
        // After the coordinator was told: it is not tried again then, under the same id.
        if ending.may_have_left {
            self.owe_attempts(&ending.entry);
        }
        match &failure {
            None => tracing::info!(action = %ending.entry, path = ending.prepared.shown, "done"),
            Some(failure) => tracing::warn!(action = %ending.entry, path = ending.prepared.shown, "failed: {failure}"),
        }
        self.state.lock().conclude(id, failure);
    }

    /// What a mover said, unless what it restored is not what it should be: then a failure, and perhaps another attempt.
    fn checked(&self, id: u64, outcome: Outcome) -> Outcome {
        let Outcome::Restored(digest) = outcome else { return outcome };
        match self.with_target(id, |prepared, action| self.restored(prepared, action, digest)) {
            Some(Err(failure)) => Outcome::Failed(failure),
            Some(Ok(())) | None => outcome,
        }
    }

    /// What a failed restore wrote is not to be taken for a part of the next attempt's.
    fn empty_target(&self, id: u64) {
        // The size is compared in any case.
        let _ = self.with_target(id, |_, action| action.fd().map(std::fs::File::from).and_then(|file| file.set_len(0)));
    }

    /// Does something with the library's handle of a restore that ends, and that nobody else uses therefore.
    fn with_target<T>(&self, id: u64, work: impl FnOnce(&Prepared, &CopyAction) -> T) -> Option<T> {
        let taken = |state: &mut State| {
            let active = state.active.get_mut(&id).filter(|active| active.entry.is_restore())?;
            Some((active.prepared.clone(), active.action.take()?))
        };
        let (prepared, action) = taken(&mut self.state.lock())?;
        let done = work(&prepared, &action);
        match self.state.lock().active.get_mut(&id) {
            Some(active) => active.action = Some(action),
            // A stop left it to the next process meanwhile.
            None => action.abandon(),
        }
        Some(done)
    }

    fn next_attempt(&self, active: &mut crate::state::Active, failure: &Failure) -> Option<Instant> {
        let since = *active.failing_since.get_or_insert_with(Instant::now);
        active.attempts += u32::from(counts(failure));
        let age = Duration::from_millis(now_ms().saturating_sub(active.entry.created_ms));
        let history = History {
            class: active.entry.class,
            owed: active.entry.item.is_none(),
            failed: active.attempts,
            failing: since.elapsed(),
            age,
        };
        let settings = *self.settings.lock();
        let bounds =
            Bounds { backoff: settings.backoff, hold: self.config.patience.hold, reader: settings.reader_timeout };
        pause(history, failure, bounds).map(|pause| Instant::now() + pause)
    }

    /// Tells the file and the coordinator. `None` when the coordinator cannot be told now.
    fn settle(&self, ending: &mut Ending, outcome: Outcome) -> Option<Result<(), Failure>> {
        let outcome = match (outcome, ending.stop) {
            (Outcome::Failed(_), Some(stop)) => Outcome::Failed(stopped(stop)),
            (outcome, _) => outcome,
        };
        match (ending.action.take(), &ending.entry.item, outcome) {
            (Some(action), _, outcome) => Some(self.end_begun(ending, action, outcome)),
            // It never began.
            (None, Some(item), Outcome::Failed(failure)) => {
                let handle = self.state.lock().handle.clone()?;
                self.fail_item(&ending.entry, item, &handle, &failure);
                Some(Err(failure))
            }
            // Nobody but us waits for what is owed.
            (None, _, Outcome::Failed(failure)) => Some(Err(failure)),
            (None, _, _) => Some(Ok(())),
        }
    }

    fn end_begun(&self, ending: &Ending, action: CopyAction, outcome: Outcome) -> Result<(), Failure> {
        let entry = &*ending.entry;
        let mut snapshot = None;
        let done = match outcome {
            Outcome::Failed(failure) => Err(failure),
            Outcome::Archived(identity) => self.archived(ending, identity).map(|wanted| snapshot = wanted),
            Outcome::Restored(_) => ending.stop.map_or(Ok(()), |stop| Err(stopped(stop))),
            // Also when it was canceled meanwhile: the object is gone, and the file must not claim it.
            Outcome::Removed => self.removed(entry),
            Outcome::Verified(_) => Err(Failure::permanent(EIO, "the mover hashed the file: nobody asked for that")),
        };
        match done {
            Err(failure) => {
                self.end_action(entry, action, &failure);
                Err(failure)
            }
            Ok(()) => match action.end(Extent::WHOLE, ProgressFlags::default(), 0) {
                Ok(()) => {
                    snapshot.into_iter().for_each(|snapshot| self.snapshots.make(snapshot));
                    Ok(())
                }
                Err(error) => Err(self.end_failed(entry, &error)),
            },
        }
    }

    /// The coordinator took no success.
    fn end_failed(&self, entry: &Entry, error: &io::Error) -> Failure {
        if error.raw_os_error() == Some(EBUSY) && entry.command == Command::Archive {
            return Failure::permanent(EBUSY, "it was modified while it was archived: it is dirty");
        }
        let failure = failure_of("tell the coordinator of the end", error);
        self.end_refused(entry, error, &failure);
        failure
    }

    /// Tells the coordinator of a failure. It is over whatever it answers.
    pub(crate) fn end_action(&self, entry: &Entry, action: CopyAction, failure: &Failure) {
        let retry = failure.kind == ErrorKind::Temporary;
        let nothing = Extent { offset: 0, length: 0 };
        if let Err(error) = action.end(nothing, ProgressFlags { retry }, failure.errno.max(1)) {
            self.end_refused(entry, &error, failure);
        }
    }

    /// An end was not taken, and the library's handle is gone with it. What the coordinator knows at all is answered once more, with the
    /// failure, so that it keeps no slot.
    fn end_refused(&self, entry: &Entry, error: &io::Error, failure: &Failure) {
        tracing::warn!(action = %entry, %error, "the coordinator did not take the end");
        self.suspect(error);
        let handle = self.state.lock().handle.clone();
        let forgotten = error.raw_os_error() == Some(ENOENT);
        let (Some(item), Some(handle), false) = (&entry.item, handle, forgotten) else { return };
        if let Err(error) = CopyAction::fail(&handle, item, failure.errno.max(1), ProgressFlags::default()) {
            tracing::warn!(action = %entry, %error, "nor that it failed: its slot is held until the coordinator gives it up");
        }
    }

    /// The file names its new object. What it named before stays in the archive: another file may name it. Gives the snapshot that is to
    /// be made when the coordinator has taken the end.
    fn archived(&self, ending: &Ending, identity: Identity) -> Result<Option<Snapshot>, Failure> {
        let entry = &*ending.entry;
        let (Some(fid), None) = (entry.fid(), ending.stop) else {
            self.owe(entry, identity);
            return ending.stop.map_or(Ok(None), |stop| Err(stopped(stop)));
        };
        let mut touched = false;
        let mut named = self.name(ending, fid, &identity, &mut touched);
        // All of it is in the archive: worth a few seconds, when the MDT is only away.
        for pause in NAME_PAUSES {
            if !matches!(&named, Err(failure) if failure.kind == ErrorKind::Temporary) {
                break;
            }
            std::thread::sleep(pause);
            named = self.name(ending, fid, &identity, &mut touched);
        }
        match named {
            Ok(Some(snapshot)) => Ok(snapshot),
            // Unlinked meanwhile: the coordinator takes that for a success, and its object goes.
            Ok(None) => {
                self.owe(entry, identity);
                Ok(None)
            }
            Err(failure) => {
                if touched {
                    self.owe_unless_named(entry, identity)
                } else {
                    self.owe(entry, identity)
                }
                Err(failure)
            }
        }
    }

    /// One attempt to make the file name its object, and its snapshot; `None` when the file is gone. `touched` when attributes may have been set.
    fn name(
        &self,
        ending: &Ending,
        fid: Fid,
        identity: &Identity,
        touched: &mut bool,
    ) -> Result<Option<Option<Snapshot>>, Failure> {
        let Some(file) = LustreFile::open(&self.root, fid)? else { return Ok(None) };
        let _alone = self.naming.lock();
        *touched = true;
        file.set_identity(identity)?;
        Ok(Some(self.snapshot_of(ending, fid, &file, identity)))
    }

    /// `None` when none is wanted, or when it could not be made safely. The file is as it was archived if the coordinator takes the end,
    /// because it compares the data's version with that of the beginning. It is marked before anybody can have the object removed.
    fn snapshot_of(&self, ending: &Ending, fid: Fid, file: &LustreFile, identity: &Identity) -> Option<Snapshot> {
        let shown = &ending.prepared.shown;
        if !self.settings.lock().snapshots || is_snapshot(Path::new(shown)) {
            return None;
        }
        let acl = match file.share(&identity.uuid).and_then(|()| file.acl()) {
            Ok(acl) => acl,
            Err(error) => {
                tracing::warn!(path = shown, %error, "no snapshot of the archived version was made");
                return None;
            }
        };
        Some(Snapshot {
            fid,
            shown: shown.clone(),
            archive_id: ending.entry.archive_id,
            identity: identity.clone(),
            stamp: file.stamp,
            layout: file.saved_layout(),
            acl,
        })
    }

    /// Whether what a mover restored may become the file's content. Written through the mover's client: what that has not sent yet is
    /// asked for, and written out, before the size is looked at, because the coordinator would believe a restore that is cut or has holes.
    /// A mover of ours has synced it itself, and would know better than we what its client has lost.
    fn restored(&self, prepared: &Prepared, action: &CopyAction, digest: Option<Digest>) -> Result<(), Failure> {
        let fd = action.fd().map_err(|e| failure_of("look at the restored file", &e))?;
        let written = data_version(&self.library, &fd, Flush::Dirty).and_then(|_| sys::file::sync_data(&fd));
        written.map_err(|e| failure_of("write the restored file out", &e))?;
        let size = sys::file::stamp(&fd).map_err(|e| failure_of("look at the restored file", &e))?.size;
        if let Some(expected) = prepared.expected_size
            && size != expected
        {
            let message =
                format!("the restored file has {size} bytes, and the released one {expected}: it stays released");
            return Err(Failure::permanent(EIO, message));
        }
        compared(prepared, digest)
    }

    fn removed(&self, entry: &Entry) -> Result<(), Failure> {
        let Some(fid) = entry.fid() else { return Ok(()) };
        match LustreFile::open(&self.root, fid)? {
            Some(file) => {
                let _alone = self.naming.lock();
                Ok(file.clear_identity()?)
            }
            None => Ok(()),
        }
    }

    /// Has removed what attempts of an archive that has failed for good may have left, of which nobody told: their mover died, or their agent.
    pub(crate) fn owe_attempts(&self, entry: &Entry) {
        if entry.command != Command::Archive {
            return;
        }
        self.owe_unless_named(entry, entry.identity.clone());
    }

    fn owe_unless_named(&self, entry: &Entry, identity: Identity) {
        match self.names(entry, &identity.uuid) {
            Ok(false) => self.owe(entry, identity),
            Ok(true) => {}
            Err(error) => {
                tracing::warn!(action = %entry, object = identity.uuid, %error, "it may be in the archive, and stays there: its file may name it");
            }
        }
    }

    /// Whether the file of an archive names an object of that id, or of one made of it.
    fn names(&self, entry: &Entry, uuid: &str) -> Result<bool, FileError> {
        let Some(fid) = entry.fid() else { return Ok(false) };
        let file = LustreFile::open(&self.root, fid)?;
        file.map_or(Ok(false), |file| Ok(is_made_of(&file.identity()?.uuid, uuid)))
    }

    /// An object that no file will name is to be removed; written down before it is forgotten.
    ///
    /// Only what has the id that was proposed for it: another id (Lemur's plugins have paths) may be that of an object that a file names.
    fn owe(&self, entry: &Entry, identity: Identity) {
        if !is_made_of(&identity.uuid, &entry.identity.uuid) {
            tracing::warn!(action = %entry, object = identity.uuid, "no file names it, and it stays in the archive: its id is not ours");
            return;
        }
        let item = NewItem {
            cookie: 0,
            fid: None,
            class: Class::Remove,
            command: Command::Remove,
            archive_id: entry.archive_id,
            flags: 0,
            // Nothing of it is older.
            created_ms: entry.created_ms,
            identity,
            bytes: Vec::new(),
        };
        if let Err(error) = self.enter_items(vec![item]) {
            tracing::error!(action = %entry, %error, "an object stays in the archive that no file names");
        }
    }

    /// Leaves an action to the next process; what the coordinator knows of it stays.
    pub(crate) fn abandon(&self, state: &mut State, id: u64) {
        if let Some(active) = state.leave(id) {
            tracing::debug!(action = %active.entry, "left to the agent that is started next");
            if let Some(action) = active.action {
                action.abandon();
            }
        }
    }

    /// An error may say that the coordinator forgot this agent.
    pub(crate) fn suspect(&self, error: &io::Error) {
        if says_forgotten(error) {
            self.state.lock().suspect = true;
            self.wake();
        }
    }
}

/// Whether an id is the proposed one, or what a mover made of it: with the suffix of an encoding, or of a pack.
fn is_made_of(uuid: &str, proposed: &str) -> bool {
    !proposed.is_empty() && uuid.starts_with(proposed)
}

/// The reason that an action ended which was not its mover's.
pub(crate) fn stopped(stop: Stop) -> Failure {
    match stop {
        Stop::NoArchive => Failure::permanent(ENXIO, "no mover serves its archive any more"),
        Stop::TimedOut => Failure::permanent(ETIMEDOUT, "its reader waited for longer than restore.timeout_s"),
        Stop::Lost => Failure::permanent(EIO, "the coordinator knows nothing of it any more"),
        Stop::Cancelled => Failure::cancelled(),
    }
}

/// What the mover said of the content against what is known of it.
fn compared(prepared: &Prepared, digest: Option<Digest>) -> Result<(), Failure> {
    let comparable = |wanted: Digest, got: Digest| wanted.as_bytes().len() == got.as_bytes().len();
    match (prepared.identity.hash, digest) {
        (_, None) if prepared.needs_hash => {
            let message = "the request named the object, and the mover told no hash of it: it stays released";
            Err(Failure::permanent(EIO, message))
        }
        (Some(wanted), Some(got)) if wanted != got && (prepared.needs_hash || comparable(wanted, got)) => {
            let message =
                format!("the restored content has the hash {got}, and the archived one {wanted}: it stays released");
            Err(Failure::permanent(EIO, message))
        }
        _ => Ok(()),
    }
}
