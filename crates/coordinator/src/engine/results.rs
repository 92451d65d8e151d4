//! What movers and committers report, and what the queue is told of it: an end, or another attempt later.

use super::brain::Brain;
use super::job::{Job, Purpose};
use super::{Msg, removal};
use crate::commit::{Done, Item, Step};
use crate::release::punch_again;
use crate::snapshots::Snapshot;
use model::{ActionId, Command, ErrorKind, Extent, Failure, Identity, Outcome};
use queue::{Change, NewAction, SyncedStamp};
use std::time::{Duration, Instant};

const EOPNOTSUPP: i32 = 95;

impl Brain {
    pub(super) fn progress(&mut self, key: u64, moved: Extent) {
        if let Some(running) = self.shared.running.lock().get_mut(&key) {
            let (_, length) = moved.within(running.size);
            running.bytes_done = running.bytes_done.saturating_add(length).min(running.size.max(running.bytes_done));
        }
    }

    pub(super) fn result(&mut self, key: u64, outcome: Outcome) {
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
        let (archive_id, proposed) = (job.action.archive_id, job.action.identity.uuid.clone());
        let _ = committer.send(Item { key, file, archive_id, proposed, step });
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

    pub(super) fn committed(&mut self, done: Done) {
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
                if job.action.command == Command::Restore {
                    self.forget_retry(job.action.file.as_ref());
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
        let may_wait = job.action.command == Command::Restore;
        if let Some(thaw) = failure.thaw.filter(|_| may_wait) {
            return self.entry_waits_for_thaw(id, job, failure, thaw);
        }
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

    /// An object under an id of the mover's own, stored by an attempt that failed after all: no retry will overwrite it. Not what the file names
    /// already, when its commit failed only after that was written.
    fn foreign_object(&self, job: &Job, now_ms: u64) -> Option<Change> {
        let stored = &job.identity;
        let own = job.action.command == Command::Archive
            && !stored.uuid.is_empty()
            && !stored.uuid.starts_with(&job.action.identity.uuid)
            && !job.file.as_ref().is_some_and(|file| crate::copies::may_name(&*file.fd, stored));
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

    pub(super) fn record_then(&mut self, changes: Vec<Change>, then: Msg) {
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
}
