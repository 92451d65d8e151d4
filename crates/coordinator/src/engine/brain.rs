//! The brain: one thread that owns all that is going on and takes every decision.
//!
//! Nothing here blocks on a disk, except reading attributes that the guard has just read.

use super::callers::Callers;
use super::job::{Holder, Inode, Job, Parked, Purpose, Ticket};
use super::lanes::Lanes;
use super::outbox::Dispatch;
use super::outgoing::Outgoing;
use super::sources::{Sources, unserved};
use super::{EngineConfig, Msg, ObjectKey, Running, Shared, may_be_left_since_ms, removal};
use crate::commit::{Done, Item, Step, known_of};
use crate::copies;
use crate::guard::GuardLink;
use crate::pool::Pool;
use crate::prepare::Prepared;
use crate::release::punch_again;
use crate::snapshots::{Snapshot, Snapshots};
use model::{ActionId, Class, Command, ErrorKind, Extent, Failure, FileHandle, Identity, Outcome};
use queue::{Change, NewAction, QueuedAction, SyncedStamp};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

const EBUSY: i32 = 16;
/// Messages heard before what comes of them is sent on.
const ROUND: usize = 1024;
/// How long the end waits for what is being committed. What is not is done again in the next life.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

const EOPNOTSUPP: i32 = 95;

pub(super) struct Brain {
    pub(super) shared: Arc<Shared>,
    pub(super) config: EngineConfig,
    pub(super) guard: Option<Arc<GuardLink>>,
    pub(super) outgoing: Outgoing,
    pub(super) messages: Sender<Msg>,
    pub(super) callers: Callers,
    pub(super) release_pool: Pool,
    pub(super) parts_pool: Pool,
    pub(super) record_pool: Pool,
    pub(super) commit_restores: Sender<Item>,
    commit_others: Sender<Item>,
    pub(super) snapshots: Option<Snapshots>,
    /// Objects of which no removal is started, with how often that was asked for.
    pub(super) held: HashMap<ObjectKey, usize>,
    pub(super) jobs: HashMap<u64, Job>,
    pub(super) inodes: HashMap<FileHandle, Inode>,
    pub(super) lanes: Lanes,
    /// Entries in memory that were cancelled before they started.
    pub(super) cancelled: HashSet<ActionId>,
    /// Entries that have ended, and of which the queue does not know that yet.
    pub(super) finished: HashSet<ActionId>,
    pub(super) served: BTreeSet<u32>,
    pub(super) tickets: HashMap<u64, Ticket>,
    pub(super) next_ephemeral: u64,
    pub(super) next_ticket: u64,
    /// What was accepted before this was accepted by an agent before this one: a mover may have begun it.
    pub(super) started_ms: u64,
    next_due: Option<Instant>,
    /// See [`Self::gone_tick`].
    pub(super) looked_for_gone: Instant,
    /// Entries that wait for an inode: they take room like others, however many there are for one file.
    pub(super) parked: usize,
    /// The queue was asked when its next entry is due, and nothing has come since.
    looked_ahead: bool,
    /// No new actions any more; until when commits are waited for.
    stopping: Option<Instant>,
}

impl Brain {
    #[allow(clippy::too_many_arguments, reason = "called once, with everything the engine is made of")]
    pub(super) fn new(
        shared: Arc<Shared>,
        config: EngineConfig,
        guard: Option<Arc<GuardLink>>,
        outgoing: Outgoing,
        messages: Sender<Msg>,
        callers: Callers,
        release_pool: Pool,
        parts_pool: Pool,
        record_pool: Pool,
        commit_restores: Sender<Item>,
        commit_others: Sender<Item>,
        snapshots: Option<Snapshots>,
    ) -> Self {
        Self {
            started_ms: shared.now_ms(),
            shared,
            config,
            guard,
            outgoing,
            messages,
            callers,
            release_pool,
            parts_pool,
            record_pool,
            commit_restores,
            commit_others,
            snapshots,
            held: HashMap::new(),
            jobs: HashMap::new(),
            inodes: HashMap::new(),
            lanes: Lanes::default(),
            cancelled: HashSet::new(),
            finished: HashSet::new(),
            served: BTreeSet::new(),
            tickets: HashMap::new(),
            next_ephemeral: super::job::EPHEMERAL,
            next_ticket: 1,
            next_due: None,
            looked_for_gone: Instant::now(),
            parked: 0,
            looked_ahead: false,
            stopping: None,
        }
    }

    pub(super) fn run(mut self, incoming: &Receiver<Msg>) {
        loop {
            let wait =
                self.next_due.map_or(Duration::from_secs(1), |due| due.saturating_duration_since(Instant::now()));
            let first = match incoming.recv_timeout(wait.min(Duration::from_secs(1))) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let idle = first.is_none();
            for message in first.into_iter().chain(incoming.try_iter()).take(ROUND) {
                self.hear(message);
            }
            if self.stopping.is_some_and(|deadline| self.is_quiet() || deadline <= Instant::now()) {
                return self.outgoing.send();
            }
            if idle || self.next_due.is_some_and(|due| due <= Instant::now()) {
                self.tick();
            }
            self.start_entries();
            self.outgoing.send();
        }
    }

    /// Whether all that is left are works that nobody fetched.
    fn is_quiet(&self) -> bool {
        self.jobs.len() <= self.shared.outbox.len()
    }

    fn hear(&mut self, message: Msg) {
        match message {
            Msg::Event(event, handle) => self.event(event, handle),
            Msg::Refill => {}
            Msg::Reconfigure(config) => self.config = config,
            Msg::Stop => self.stopping = Some(Instant::now() + STOP_PATIENCE),
            Msg::Submitted { class, owner, not_before_ms } => {
                self.lanes.rewind(class, owner, not_before_ms);
                self.looked_ahead = false;
            }
            Msg::Prepared(prepared) => prepared.into_iter().for_each(|(key, prepared)| self.prepared(key, prepared)),
            Msg::Results(results) => results.into_iter().for_each(|(key, outcome)| self.result(key, outcome)),
            Msg::Progress(key, moved) => self.progress(key, moved),
            Msg::Committed(done) => done.into_iter().for_each(|done| self.committed(done)),
            Msg::Recorded(ids) => {
                for id in ids {
                    self.lanes.forget(id);
                    self.finished.remove(&id);
                }
            }
            Msg::Served(served) => {
                self.served = served.into_iter().collect();
                self.lanes.look_again();
                self.looked_ahead = false;
            }
            Msg::Release(targets, reply) => self.release(targets, reply),
            Msg::Released(ticket, files, results) => self.released(ticket, &files, results),
            Msg::Proven(ticket, file) => self.proof(ticket, Some(file), Ok(())),
            Msg::Cancel(selection, reply) => {
                let counts = self.cancel(selection);
                // When it is in the queue, so that who asked sees it there.
                self.outgoing.when_recorded(move || {
                    let _ = reply.send(counts);
                });
            }
            Msg::Changed(files) => files.into_iter().for_each(|file| self.changed(&file)),
            // The archive that has just ended may be on its way into the queue, and with it the object's name.
            Msg::Deleted(files) => self.record_then(Vec::new(), Msg::Gone(files)),
            Msg::Gone(files) => self.deleted(files),
            Msg::SetFlags(change, reply) => drop(reply.send(self.set_flags(&change))),
            Msg::Hold(objects, reply) => drop(reply.send(self.hold(objects))),
            Msg::LetGo(objects) => self.let_go(&objects),
            Msg::Snapshot(snapshot) => self.snapshots.iter().for_each(|snapshots| snapshots.make(snapshot.clone())),
            Msg::PartsOpened(file, opened) => self.parts_opened(&file, *opened),
            Msg::PartDone(key, result) => self.part_done(key, result),
            Msg::PartsRecorded(file, result) => self.parts_recorded(&file, result),
        }
    }

    /// Time passed.
    fn tick(&mut self) {
        self.next_due = None;
        self.looked_ahead = false;
        self.lanes.look_again();
        self.readers_tick();
        self.truncations_tick();
        self.cancels_tick();
        self.parts_tick();
        self.gone_tick();
    }

    /// Something is to be done then.
    pub(super) fn due(&mut self, at: Instant) {
        self.next_due = Some(self.next_due.map_or(at, |due| due.min(at)));
    }

    // ---- taking entries from the queue ----

    fn start_entries(&mut self) {
        // Before any mover is there, everything would come back at once.
        if self.served.is_empty() || self.outgoing.is_stuck() || self.stopping.is_some() {
            return;
        }
        let mut room = self.shared.outbox.room().saturating_sub(self.preparing()).saturating_sub(self.parked);
        // They are not in the outbox before they are prepared.
        let mut begun_of: HashMap<u32, usize> = HashMap::new();
        while room > 0 {
            let now_ms = self.shared.now_ms();
            // What waits for a slow archive leaves room for the others.
            let (outbox, archives) = (&self.shared.outbox, self.served.len());
            let has_room = |archive_id: u32| {
                outbox.room_of(archive_id, archives) > begun_of.get(&archive_id).copied().unwrap_or(0)
            };
            if let Err(error) = self.lanes.refill(self.shared.queue.as_ref(), now_ms, has_room) {
                tracing::error!(%error, "cannot read the queue");
                return;
            }
            let Some(entry) = self.lanes.pop(has_room) else {
                self.plan_next_look(now_ms);
                return;
            };
            *begun_of.entry(entry.action.archive_id).or_default() += 1;
            room -= 1;
            self.start(entry);
        }
    }

    fn preparing(&self) -> usize {
        // Everything that is a job is prepared, ready, running or being committed; only the first counts against the room.
        self.jobs.len().saturating_sub(self.shared.running.lock().len())
    }

    fn plan_next_look(&mut self, now_ms: u64) {
        if std::mem::replace(&mut self.looked_ahead, true) {
            return;
        }
        if let Ok(Some(due_ms)) = self.shared.queue.next_ready_ms(now_ms) {
            self.due(Instant::now() + Duration::from_millis(due_ms.saturating_sub(now_ms).max(1)));
        }
    }

    fn start(&mut self, entry: QueuedAction) {
        if self.cancelled.remove(&entry.id) {
            return;
        }
        // A restore may find another copy, once its file was looked at.
        let may_go_elsewhere = entry.action.command == Command::Restore && entry.action.file.is_some();
        if !self.served.contains(&entry.action.archive_id) && !may_go_elsewhere {
            let archive_id = entry.action.archive_id;
            let mut job = Job::new(Purpose::Queued, entry.action, entry.attempts);
            job.maybe_begun |= job.action.created_ms < self.started_ms;
            self.jobs.insert(entry.id.0, job);
            self.failed(entry.id.0, unserved(archive_id));
            return;
        }
        if let Some(file) = entry.action.file.clone() {
            let inode = self.inodes.entry(file.clone()).or_default();
            if inode.parts.is_some() && entry.action.command == Command::Restore {
                return self.entry_needs_all(entry, &file);
            }
            if inode.holder.is_some() || inode.truncation.is_some() {
                inode.parked.push_back(Parked::Entry(Box::new(entry)));
                self.parked += 1;
                return;
            }
            inode.holder = Some(Holder::Job(entry.id.0));
        }
        let mut job = Job::new(Purpose::Queued, entry.action, entry.attempts);
        job.maybe_begun |= job.action.created_ms < self.started_ms;
        self.run_job(entry.id.0, job);
    }

    fn prepared(&mut self, key: u64, prepared: Prepared) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        if job.cancelled {
            return self.failed(key, Failure::cancelled());
        }
        match prepared {
            Prepared::Run(None, _) if job.began_held => {
                self.failed(key, Failure::temporary(EBUSY, "a file that names the object is being made"));
            }
            Prepared::Run(Some(file), identity) if job.action.command == Command::Restore => {
                let sources = copies::sources(&file.state, &file.copies, job.action.archive_id, &identity);
                job.sources = Sources::new(sources);
                job.identity = identity;
                job.file = Some(file);
                self.restore_from_next(key);
            }
            Prepared::Run(file, identity) => {
                job.file = file;
                job.identity = identity;
                self.dispatch(key);
            }
            Prepared::Record(stamp, tree_path) => {
                job.record = Some(stamp);
                job.identity = job.action.identity.clone();
                job.action.data = tree_path;
                self.dispatch(key);
            }
            Prepared::Parts => self.take_over(key),
            Prepared::Detach(file) => {
                job.identity = file.state.identity.clone();
                let item = Item { key, file, archive_id: job.action.archive_id, step: Step::Detach };
                let _ = self.commit_others.send(item);
            }
            Prepared::Done(_) if job.detached => self.object_settled(key),
            Prepared::DoneBefore(file) => self.succeeded(key, 0, known_of(&file)),
            Prepared::Done(named) => {
                // Another action may have archived the file after an attempt of this one had stored its object.
                let proposed = &job.action.identity;
                let orphan =
                    job.action.command == Command::Archive && job.maybe_begun && !named.starts_with(&proposed.uuid);
                let action = orphan.then(|| job.action.clone());
                let changes = action.and_then(|action| self.removal_of_attempts(ActionId(key), &action));
                self.succeeded(key, 0, changes.into_iter().collect());
            }
            Prepared::Failed(failure) => {
                if job.detached && failure.kind == ErrorKind::Permanent {
                    // The object stays for `sifaka fsck`: the next start would find out no more.
                    let (archive_id, uuid) = (job.action.archive_id, job.identity.uuid.clone());
                    self.record(vec![Change::SettleOrphanCheck { archive_id, uuid }], Vec::new());
                }
                self.failed(key, failure);
            }
        }
    }

    pub(super) fn dispatch(&mut self, key: u64) {
        if let Some(file) = self.jobs.get(&key).and_then(|job| job.action.file.clone()) {
            self.hurry(&file);
        }
        let Some(job) = self.jobs.get_mut(&key) else { return };
        let action = &job.action;
        let file = job.file.as_ref();
        let size = file.map_or(0, |f| f.before.size);
        let attempted_since_ms = may_be_left_since_ms(action, job.maybe_begun);
        job.maybe_begun = true;
        let (class, owner) = job.turn();
        let action = &job.action;
        let running = Running {
            id: ActionId(key),
            command: action.command,
            class,
            archive_id: job.archive_id,
            path: action.path.clone(),
            bytes_done: 0,
            size: job.extent.within(size).1,
        };
        self.shared.running.lock().insert(key, running);
        let work = Dispatch {
            key,
            archive_id: job.archive_id,
            class,
            owner,
            command: action.command,
            path: file.map(crate::prepare::Opened::path).unwrap_or_default(),
            extent: job.extent,
            data: if job.record.is_some() { Vec::new() } else { action.data.clone() },
            identity: job.identity.clone(),
            file_path: action.path.clone(),
            expected_size: (action.command == Command::Restore).then_some(size),
            tree_path: match job.record {
                Some(_) => action.data.clone(),
                None => file.map(|f| f.tree_path.clone()).unwrap_or_default(),
            },
            attempted_since_ms,
            metadata_only: job.record.is_some(),
            size: job.extent.within(size).1,
            file: file.map(|f| Arc::clone(&f.fd)),
        };
        self.shared.outbox.put(work);
    }

    // ---- what movers and committers report ----

    fn progress(&mut self, key: u64, moved: Extent) {
        if let Some(running) = self.shared.running.lock().get_mut(&key) {
            let (_, length) = moved.within(running.size);
            running.bytes_done = running.bytes_done.saturating_add(length).min(running.size.max(running.bytes_done));
        }
    }

    fn result(&mut self, key: u64, outcome: Outcome) {
        let Some(job) = self.jobs.get_mut(&key) else {
            tracing::warn!(key, "a result for an action that is not running; ignored");
            return;
        };
        if job.purpose == Purpose::Part {
            return self.part_result(key, outcome);
        }
        let step = match outcome {
            Outcome::Failed(failure) => return self.failed(key, failure),
            Outcome::Removed => return self.object_removed(key),
            Outcome::Archived(identity) if job.record.is_some() => return self.recorded(key, &identity),
            Outcome::Archived(identity) if job.makes_further_copy() => Step::Copied(identity, job.action.archive_id),
            Outcome::Archived(identity) => Step::Archived(identity, job.action.archive_id),
            Outcome::Restored(digest) => Step::Restored(job.identity.clone(), digest),
            Outcome::Verified(digest) => Step::Verified(digest),
        };
        let Some(file) = job.file.clone() else {
            return self.failed(key, Failure::permanent(22, "the mover's answer does not fit the action"));
        };
        if let Step::Archived(identity, _) | Step::Copied(identity, _) = &step {
            job.identity = identity.clone();
        }
        let committer = if matches!(step, Step::Restored(..)) { &self.commit_restores } else { &self.commit_others };
        let _ = committer.send(Item { key, file, archive_id: job.action.archive_id, step });
    }

    /// The archive has a record. An older one under another name goes.
    fn recorded(&mut self, key: u64, identity: &Identity) {
        let Some(Job { action, record: Some(stamp), .. }) = self.jobs.get(&key) else { return };
        let Some(change) = crate::record::recorded(action, *stamp, identity) else {
            return self.succeeded(key, 0, Vec::new());
        };
        let mut changes = Vec::new();
        if let Change::SetStamp { file, .. } = &change
            && let Ok(Some(SyncedStamp { object: Some(old), .. })) = self.shared.queue.stamp(file)
            && (old.archive_id, &old.uuid) != (action.archive_id, &identity.uuid)
        {
            let path = format!("older record of {}", action.path);
            let object = Identity { uuid: old.uuid, hash: None, url: old.url };
            changes.push(removal(old.archive_id, object, path, self.shared.now_ms()));
        }
        changes.push(change);
        self.succeeded(key, 0, changes);
    }

    fn committed(&mut self, done: Done) {
        let Some(job) = self.jobs.get_mut(&done.key) else { return };
        if job.purpose == Purpose::Part {
            return self.parts_committed(done.key, done.result, done.changes);
        }
        match done.result {
            Err(failure) => self.failed(done.key, failure),
            Ok(()) if job.action.command == Command::Remove => {
                // Only the file's half is done: now the object.
                job.detached = true;
                self.record(done.changes, Vec::new());
                self.remove_detached(done.key);
            }
            Ok(()) => self.succeeded(done.key, done.bytes, done.changes),
        }
    }

    pub(super) fn succeeded(&mut self, key: u64, bytes: u64, mut changes: Vec<Change>) {
        let Some(job) = self.take_job(key) else { return };
        match job.purpose {
            Purpose::Part => {}
            Purpose::Queued => {
                let finished_ms = self.shared.now_ms();
                changes.push(Change::Finish { id: ActionId(key), result: Ok(()), bytes, finished_ms });
                self.record(changes, vec![ActionId(key)]);
                if self.snapshots.is_some()
                    && job.action.command == Command::Archive
                    && let Some(file) = job.file
                {
                    // Once it is recorded: before that, a crash would have the object written again.
                    let snapshot = Snapshot { file: file.handle, tree_path: file.tree_path };
                    self.record_then(Vec::new(), Msg::Snapshot(snapshot));
                }
                self.free(job.action.file.as_ref(), key);
            }
            Purpose::Reader => {
                self.record(changes, Vec::new());
                self.readers_go_on(&job, Ok(()));
                self.free(job.action.file.as_ref(), key);
            }
            Purpose::Proof(ticket) => {
                // The release reads the proof from the queue.
                if let Some(file) = job.action.file.clone() {
                    self.record_then(changes, Msg::Proven(ticket, file));
                }
                self.free(job.action.file.as_ref(), key);
            }
        }
    }

    /// An attempt failed: again later, or for good.
    pub(super) fn failed(&mut self, key: u64, failure: Failure) {
        if self.jobs.get(&key).is_some_and(|job| job.record.is_some()) && failure.errno == EOPNOTSUPP {
            // Lemur's plugins and Lemur's format keep no records. Nothing is missing that was there before.
            return self.succeeded(key, 0, Vec::new());
        }
        if !self.tries_another_copy(key, &failure) {
            self.ended(key, failure);
        }
    }

    /// An attempt failed, and there is nothing else to be tried at once.
    pub(super) fn ended(&mut self, key: u64, failure: Failure) {
        let Some(job) = self.take_job(key) else { return };
        if job.action.command == Command::Restore
            && let Some(file) = &job.file
            && job.maybe_begun
        {
            // The file stays released; what was written of it is not served.
            punch_again(&file.fd, file.before.size, file.mtime);
        }
        match job.purpose {
            Purpose::Part => {}
            Purpose::Queued => self.entry_failed(key, &job, failure),
            Purpose::Reader => self.readers_go_on(&job, Err(failure)),
            Purpose::Proof(ticket) => self.proof(ticket, job.action.file.clone(), Err(failure)),
        }
        self.free(job.action.file.as_ref(), key);
    }

    fn entry_failed(&mut self, key: u64, job: &Job, failure: Failure) {
        let id = ActionId(key);
        let now = self.shared.now_ms();
        let failure = if job.cancelled { Failure::cancelled() } else { failure };
        let delay = self.config.backoff.delay_ms(job.attempts.saturating_add(1));
        if job.detached && (failure.kind == ErrorKind::Temporary || failure.is_cancelled()) {
            // The next attempt would find a file without an object.
            tracing::info!(action = key, path = job.action.path, %failure, "the file's part is done; its object is removed later");
            let (archive_id, uuid) = (job.action.archive_id, job.identity.uuid.clone());
            let name = format!("object of {}", job.action.path);
            let changes = vec![
                removal(archive_id, job.identity.clone(), name, now + delay.unwrap_or(0)),
                Change::SettleOrphanCheck { archive_id, uuid },
                Change::Finish { id, result: Ok(()), bytes: 0, finished_ms: now },
            ];
            return self.record(changes, vec![id]);
        }
        if failure.kind == ErrorKind::Temporary
            && let Some(delay) = delay
        {
            tracing::info!(action = key, path = job.action.path, %failure, delay_ms = delay, "will be tried again");
            let not_before_ms = now + delay;
            let (class, owner) = (job.action.class, job.action.owner);
            let mut changes = vec![Change::Retry { id, not_before_ms, failure }];
            changes.extend(self.foreign_object(job, now));
            self.record(changes, vec![id]);
            self.outgoing.record(Vec::new(), Msg::Submitted { class, owner, not_before_ms });
            self.due(Instant::now() + Duration::from_millis(delay));
            return;
        }
        if !failure.is_cancelled() {
            tracing::warn!(action = key, command = %job.action.command, path = job.action.path, %failure, "failed");
        }
        let mut changes = vec![Change::Finish { id, result: Err(failure), bytes: 0, finished_ms: now }];
        if job.maybe_begun {
            changes.extend(self.removal_of_attempts(id, &job.action));
        }
        changes.extend(self.foreign_object(job, now));
        self.record(changes, vec![id]);
    }

    /// An object under an id of the mover's own, stored by an attempt that failed after all: no retry will overwrite it.
    fn foreign_object(&self, job: &Job, now_ms: u64) -> Option<Change> {
        let stored = &job.identity;
        let own = job.action.command == Command::Archive
            && !stored.uuid.is_empty()
            && !stored.uuid.starts_with(&job.action.identity.uuid);
        own.then(|| {
            removal(
                job.action.archive_id,
                stored.clone(),
                format!("what is left of archiving {}", job.action.path),
                now_ms,
            )
        })
    }

    pub(super) fn take_job(&mut self, key: u64) -> Option<Job> {
        self.shared.running.lock().remove(&key);
        self.jobs.remove(&key)
    }

    /// Writes changes; the named actions may be read again from the queue after that.
    pub(super) fn record(&mut self, changes: Vec<Change>, ended: Vec<ActionId>) {
        if changes.is_empty() && ended.is_empty() {
            return;
        }
        let finished = |change: &Change| if let Change::Finish { id, .. } = change { Some(*id) } else { None };
        self.finished.extend(changes.iter().filter_map(finished));
        self.record_then(changes, Msg::Recorded(ended));
    }

    fn record_then(&mut self, changes: Vec<Change>, then: Msg) {
        // Removals that come of a result may lie before the place in the queue read so far.
        let submitted: Vec<Msg> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Submit(NewAction { class, owner, not_before_ms, .. }) => {
                    Some(Msg::Submitted { class: *class, owner: *owner, not_before_ms: *not_before_ms })
                }
                _ => None,
            })
            .collect();
        self.outgoing.record(changes, then);
        submitted.into_iter().for_each(|message| self.outgoing.record(Vec::new(), message));
    }

    // ---- inodes ----

    /// The inode is free: whoever waits for it goes on.
    pub(super) fn free(&mut self, file: Option<&FileHandle>, key: u64) {
        let Some(file) = file else { return };
        if let Some(inode) = self.inodes.get_mut(file)
            && inode.holder == Some(Holder::Job(key))
        {
            inode.holder = None;
        }
        self.unpark(file);
        self.reconsider_blocked(file);
        self.pump(file);
    }

    pub(super) fn unpark(&mut self, file: &FileHandle) {
        self.unpark_events(file);
        loop {
            let Some(inode) = self.inodes.get_mut(file) else { return };
            if inode.holder.is_some() || inode.truncation.is_some() {
                return;
            }
            let Some(parked) = inode.parked.pop_front() else { break };
            match parked {
                Parked::Entry(entry) => {
                    self.parked = self.parked.saturating_sub(1);
                    self.start(*entry);
                }
                Parked::Event(event) => self.event(event, file.clone()),
                Parked::Release(ticket) => self.release_file(ticket, file.clone()),
            }
        }
        if self.inodes.get(file).is_some_and(Inode::is_idle) {
            self.inodes.remove(file);
        }
    }

    // ---- for the other parts ----

    /// A name for an action that is in no queue.
    pub(super) fn ephemeral_key(&mut self) -> u64 {
        self.next_ephemeral += 1;
        self.next_ephemeral
    }

    /// An action on a file that is in no queue, done for the user `owner`.
    pub(super) fn ephemeral_action(
        file: &FileHandle,
        class: Class,
        command: Command,
        archive_id: u32,
        owner: u32,
        path: String,
        now_ms: u64,
    ) -> NewAction {
        NewAction {
            request: queue::RequestId(0),
            class,
            command,
            archive_id,
            owner,
            file: Some(file.clone()),
            path,
            identity: Identity::default(),
            data: Vec::new(),
            not_before_ms: now_ms,
            created_ms: now_ms,
        }
    }

    pub(super) fn serves(&self, archive_id: u32) -> bool {
        self.served.contains(&archive_id)
    }

    pub(super) fn count_blocked(&self, change: i64) {
        self.shared.blocked_readers.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
    }

    pub(super) fn blocked_readers(&self) -> u64 {
        self.shared.blocked_readers.load(Ordering::Relaxed)
    }

    pub(super) fn block(&mut self, file: &FileHandle, event: crate::guard::PendingEvent) {
        let waiting = self.blocked(event);
        self.inodes.entry(file.clone()).or_default().blocked.push(waiting);
    }
}
