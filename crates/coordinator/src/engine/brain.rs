//! The brain: one thread that owns all that is going on and takes every decision.
//!
//! Nothing here blocks on a disk, except reading attributes that the guard has just read.

use super::callers::Callers;
use super::job::{Holder, Inode, Job, Parked, Ticket};
use super::lanes::Lanes;
use super::outgoing::Outgoing;
use super::{EngineConfig, Msg, ObjectKey, Shared};
use crate::commit::Item;
use crate::guard::GuardLink;
use crate::pool::Pool;
use crate::snapshots::Snapshots;
use model::{ActionId, Class, Command, FileHandle, Identity};
use queue::NewAction;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// Messages heard before what comes of them is sent on.
const ROUND: usize = 1024;
/// How long the end waits for what is being committed. What is not is done again in the next life.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

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
    pub(super) commit_others: Sender<Item>,
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
    pub(super) looked_ahead: bool,
    /// No new actions any more; until when commits are waited for.
    pub(super) stopping: Option<Instant>,
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
            self.thaw_is_over(file);
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
        let waiting = self.blocked(event, file);
        self.inodes.entry(file.clone()).or_default().blocked.push(waiting);
    }
}
