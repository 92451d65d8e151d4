//! Actions on their way from the queue to a mover: taken, prepared, handed out.

use super::brain::Brain;
use super::job::{Holder, Job, Parked};
use super::objects::is_held;
use super::outbox::Dispatch;
use super::sources::{Sources, unserved};
use super::{Running, may_be_left_since_ms};
use crate::commit::{Item, Step, known_of};
use crate::copies;
use crate::prepare::Prepared;
use model::{ActionId, Command, ErrorKind, Failure};
use queue::{Change, QueuedAction};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const EBUSY: i32 = 16;

impl Brain {
    pub(super) fn start_entries(&mut self) {
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

    pub(super) fn start(&mut self, entry: QueuedAction) {
        if self.cancelled.remove(&entry.id) {
            return;
        }
        // A restore may find another copy, once its file was looked at.
        let may_go_elsewhere = entry.action.command == Command::Restore && entry.action.file.is_some();
        if !self.served.contains(&entry.action.archive_id) && !may_go_elsewhere {
            let archive_id = entry.action.archive_id;
            let id = entry.id;
            let mut job = Job::queued(entry);
            job.maybe_begun |= job.action.created_ms < self.started_ms;
            self.jobs.insert(id.0, job);
            self.failed(id.0, unserved(archive_id));
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
        let id = entry.id;
        let mut job = Job::queued(entry);
        job.maybe_begun |= job.action.created_ms < self.started_ms;
        self.run_job(id.0, job);
    }

    /// Prepares a job whose inode is locked for it, if it has one.
    pub(super) fn run_job(&mut self, key: u64, mut job: Job) {
        let action = job.action.clone();
        job.began_held = is_held(&self.held, &action);
        self.jobs.insert(key, job);
        self.outgoing.prepare(key, action);
    }

    pub(super) fn prepared(&mut self, key: u64, prepared: Prepared) {
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
                let (archive_id, step) = (job.action.archive_id, Step::Detach);
                let item = Item { key, file, archive_id, proposed: String::new(), step };
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
}
