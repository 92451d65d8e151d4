//! Restoring ranges: released files of which only those chunks are fetched that somebody reads.
//!
//! Why no reader sees a hole (P5):
//! * An access is let through only when every chunk that it touches was fetched, verified by the mover, and is in the file.
//! * Whoever maps the file waits for all of it: mremap(2) and remap_file_pages(2) make a mapping reach further, and nobody is asked.
//! * Nothing that is there goes away: nothing is punched out of a file in parts while anybody has it open, since what was handed out is in
//!   use. The mark on the file (`residency`) keeps it so when the agent that knew is gone.
//! * Only reads are let through. While a file is there in parts nobody gets it open for writing: such opens wait until all is
//!   there, and when somebody had it open before, no access can be told from a write, and every one waits for
//!   all of it. truncate(2), which needs no open, says a count of 0 or of one page; then its caller is looked at. So size and content
//!   stay what was archived until the file is an ordinary one. (If the size changes all the same, nothing is known any more.)
//! * The guard lets through by itself only what it was told is there, and an answer of ours for a released file only if it was
//!   told before. It forgets with the agent's end and with each hold; we say `forget` before this state goes.
//! * An event is owned by exactly one list. Dropped unanswered, it is EIO to its reader.
//!
//! Jobs of the same inode exclude ranges and the other way round by the inode's holder. Events never wait for a holder here,
//! only for chunks.

mod end;
mod fetches;

use super::Msg;
use super::brain::Brain;
use super::job::{Blocked, Holder, Job, Purpose};
use super::parts::{Fetch, OpenedParts, Parts, Phase, Reader, open_parts};
use super::readers::owner_of;
use crate::commit::{Item, Step};
use crate::guard::PendingEvent;
use crate::ranges::{CHUNK, Run, chunks_touched, residency};
use crate::state::FileState;
use model::{ActionId, Class, Command, Digest, ErrorKind, Failure, FileHandle};
use queue::QueuedAction;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sys::caller::Calls;

/// Files in parts with nothing going on that are kept in memory; what is known of others is on the file.
const MAX_IDLE: usize = 256;
const IDLE: Duration = Duration::from_secs(30);
/// What came is written down, which takes a sync, when nothing more came for so long: a reader in order is not held up by the disk.
const RECORD_AFTER: Duration = Duration::from_secs(3);
/// But at the latest after this time. A crash of the machine costs a second fetch of what came within it.
const RECORD_WITHIN: Duration = Duration::from_secs(30);
/// The guard is told of what is there in blocks of so many chunks: each block is asked about once, which shows us where readers are.
const TOLD: u64 = 4;

const O_ACCMODE: i32 = 3;
const O_TRUNC: i32 = 0o1000;

impl Brain {
    // ---- opens and accesses ----

    /// Whether the answer to an event of a released file depends on what its process is about.
    pub(super) fn caller_matters(&self, event: &PendingEvent, file: &FileHandle) -> bool {
        let known = self.inodes.get(file).is_some_and(|inode| inode.parts.is_some());
        event.is_open || known && event.range.is_some_and(|(_, count)| count > 0)
    }

    /// Whether a released file may be opened as it is, because its accesses can be served in parts: for reading only, and not by a
    /// program that looks for holes.
    pub(super) fn opens_in_parts(&self, event: &PendingEvent, file: &FileHandle, state: &FileState) -> bool {
        let known = self.inodes.get(file).is_some_and(|inode| inode.parts.is_some());
        let Some(config) = self.config.ranges.as_ref() else { return false };
        if !(known && self.ranges_work() || self.can_be_in_parts(event, file, state)) {
            return false;
        }
        let reads = |flags: i32| flags & O_ACCMODE == 0 && flags & O_TRUNC == 0;
        event.calls.and_then(|calls| calls.open_flags).is_some_and(reads) && !config.is_for_whole(event.pid)
    }

    /// Whether a file that is not yet may begin to be there in parts.
    pub(super) fn can_be_in_parts(&self, event: &PendingEvent, file: &FileHandle, state: &FileState) -> bool {
        let Some(config) = &self.config.ranges else { return false };
        let free = self.inodes.get(file).is_none_or(|inode| inode.holder.is_none() && inode.retry.is_none());
        let size = sys::file::stamp(&event.file).map_or(0, |stamp| stamp.size);
        free && self.ranges_work()
            && size >= config.threshold.max(1)
            && state.record.as_ref().is_some_and(|record| record.size == size)
            && matches!(state.identity.hash, Some(Digest::Blake3(_)))
            && !state.identity.uuid.is_empty()
            && state.archive_id().is_some()
    }

    /// Whether the kernel says the ranges of all accesses, and the guard takes answers for parts.
    fn ranges_work(&self) -> bool {
        self.shared.mappings_announced && self.guard.as_ref().is_some_and(|guard| guard.knows_ranges())
    }

    /// Begins to restore a file in parts. Nobody else may hold its inode.
    pub(super) fn begin_parts(&mut self, file: &FileHandle, path: String, owner: u32) {
        let inode = self.inodes.entry(file.clone()).or_default();
        inode.parts = Some(Box::new(Parts::opening(path, owner)));
        inode.holder = Some(Holder::Parts);
        let (shared, messages, file) = (Arc::clone(&self.shared), self.messages.clone(), file.clone());
        self.parts_pool.run(move || {
            let opened = Box::new(open_parts(&shared.fs, &file));
            let _ = messages.send(Msg::PartsOpened(file, opened));
        });
    }

    /// Somebody opens a file that is there in parts in a way that needs all of it, or accesses it so. That goes for opens that truncate
    /// it, too: until the truncation is done, nobody could say what is there.
    pub(super) fn wait_for_all(&mut self, event: PendingEvent, file: &FileHandle) {
        let waiting = self.blocked(event, file);
        if let Some(parts) = self.parts(file) {
            parts.owner = owner_of(&waiting.event);
            parts.whole.push(waiting);
        }
        self.pump(file);
    }

    /// Somebody accesses a file that is there in parts.
    pub(super) fn access_part(&mut self, event: PendingEvent, file: &FileHandle) {
        let told = self.ranges_work();
        let limit = self.config.ranges.as_ref().map_or(0, |config| config.readahead / CHUNK);
        let Some(parts) = self.parts(file) else { return };
        // Everything is there while it is committed, and nobody who only reads it has to wait for the sync.
        let committing = parts.phase == Phase::Committing;
        let served = committing || parts.phase == Phase::Ready;
        let Some(size) = parts.file.as_ref().filter(|_| served).map(|f| f.size) else {
            return self.block(file, event);
        };
        match sys::file::stamp(&event.file) {
            Ok(stamp) if stamp.size == size && committing => {}
            _ if committing => return self.block(file, event),
            Ok(stamp) if stamp.size == size => {
                let mtime = crate::filesystem::stamp_of(&stamp).mtime;
                if parts.fetches.is_empty() && parts.mtime != mtime {
                    // Nobody of ours moved it: the user did.
                    parts.mtime = mtime;
                    parts.unrecorded = true;
                }
            }
            _ => {
                parts.phase = Phase::Broken;
                self.block(file, event);
                return self.pump(file);
            }
        }
        parts.used = Instant::now();
        let (offset, count) = event.range.unwrap_or_default();
        let a_page = rustix::param::page_size() as u64;
        let needs_all = |calls: Calls| calls.maps || count <= a_page && calls.truncate;
        if parts.writers || !told || count == 0 || event.calls.is_none_or(needs_all) {
            return if committing { self.block(file, event) } else { self.wait_for_all(event, file) };
        }
        let touched = chunks_touched(offset, count, size);
        if !touched.is_empty() {
            let ahead = parts.streams.access(&touched, limit);
            if !ahead.is_empty() {
                parts.ahead.push(ahead);
            }
        }
        if parts.resident.contains(&touched) {
            self.let_through(event, file, &touched);
        } else {
            let waiting = self.blocked(event, file);
            self.queue_reader(file, waiting, touched);
        }
        self.pump(file);
    }

    fn queue_reader(&mut self, file: &FileHandle, waiting: Blocked, touched: Run) {
        let Some(parts) = self.parts(file) else { return };
        parts.owner = owner_of(&waiting.event);
        let missing = parts.resident.gaps(&touched);
        let comes_later = |f: &&mut Fetch| !f.demanded && missing.touches(&f.run);
        let late: Vec<u64> = parts
            .fetches
            .iter_mut()
            .filter(comes_later)
            .map(|f| {
                f.demanded = true;
                f.key
            })
            .collect();
        parts.readers.push(Reader { waiting, touched, missing });
        for key in late {
            // Fetched ahead, and not begun: now somebody waits for it.
            if let Some(mut work) = self.shared.outbox.withdraw(key) {
                work.class = Class::Reader;
                self.shared.outbox.put(work);
            }
        }
    }

    /// Allows an access to chunks that are there, and tells the guard, which believes no answer without that.
    fn let_through(&mut self, event: PendingEvent, file: &FileHandle, touched: &Run) {
        let guard = self.guard.clone();
        if let Some(parts) = self.parts(file)
            && let (Some(guard), Some(f)) = (guard, &parts.file)
        {
            let mut known = touched.clone();
            if !touched.is_empty()
                && let Some(there) = parts.resident.around(touched.start)
                && there.end >= touched.end
            {
                known.start = there.start.max(touched.start / TOLD * TOLD);
                known.end = there.end.min(touched.end.next_multiple_of(TOLD)).max(touched.end);
            }
            guard.resident(f.inode, f.size, &(known.start * CHUNK..known.end.saturating_mul(CHUNK).min(f.size)));
        }
        event.allow();
    }

    // ---- opened; what is to be done next ----

    pub(super) fn parts_opened(&mut self, file: &FileHandle, opened: Result<OpenedParts, Failure>) {
        let Some(inode) = self.inodes.get_mut(file) else { return };
        let Some(parts) = inode.parts.as_mut() else { return };
        match opened {
            Ok(OpenedParts::Ready { file: f, mtime, resident, writers, used_before }) => {
                parts.phase = Phase::Ready;
                parts.file = Some(f);
                parts.durable.clone_from(&resident);
                (parts.mtime, parts.resident, parts.writers) = (mtime, resident, writers);
                parts.used_before = used_before;
                let early = std::mem::take(&mut inode.blocked);
                self.count_blocked(-i64::try_from(early.len()).unwrap_or(0));
                for waiting in early {
                    self.event(waiting.event, file.clone());
                }
                self.pump(file);
            }
            Ok(OpenedParts::Whole) => self.restore_whole(file),
            Ok(OpenedParts::Changed) => {
                self.dissolve(file);
                self.free_parts(file);
            }
            Err(failure) => {
                self.dissolve(file);
                if let Some(inode) = self.inodes.get_mut(file) {
                    inode.holder = None;
                }
                self.reader_failed(file, 0, &failure);
                self.free_parts(file);
            }
        }
    }

    /// Fetches what is wanted and not there; finishes the file when all is there; lets others have the inode when nothing is under way.
    pub(super) fn pump(&mut self, file: &FileHandle) {
        let Some(inode) = self.inodes.get_mut(file) else { return };
        let Some(parts) = inode.parts.as_mut() else { return };
        parts.entries.retain(|entry| !self.cancelled.remove(&entry.id));
        let ours = matches!(inode.holder, None | Some(Holder::Parts));
        match parts.phase {
            Phase::Unfit if parts.fetches.is_empty() && !parts.recording && ours => return self.restore_whole(file),
            Phase::Broken if parts.fetches.is_empty() && !parts.recording && ours => {
                let path = parts.path.clone();
                tracing::error!(
                    path,
                    "the size of a file that is there in parts was changed: what was fetched of it is not used"
                );
                if let Some(f) = &parts.file
                    && let Err(error) = residency::write(
                        &*f.fd,
                        &residency::Residency { mtime: parts.mtime, name: f.name, ..Default::default() },
                        f.size,
                    )
                {
                    tracing::warn!(path, %error, "cannot write down that nothing is known of what is there");
                }
                self.dissolve(file);
                return self.free_parts(file);
            }
            Phase::Ready if ours => {
                let done = parts.resident.contains(&parts.all()) && parts.fetches.is_empty();
                let waits = parts.retry_at.is_some();
                if done && !parts.recording && !waits {
                    self.finish_parts(file);
                } else if !done && !waits {
                    self.fetch(file);
                }
            }
            _ => {}
        }
        let Some(inode) = self.inodes.get_mut(file) else { return };
        let busy = inode.parts.as_ref().is_some_and(|parts| parts.is_busy());
        match inode.holder {
            None if busy => inode.holder = Some(Holder::Parts),
            Some(Holder::Parts) if !busy => self.free_parts(file),
            _ => {}
        }
    }

    // ---- all of it ----

    /// An action asks for all of the file.
    pub(super) fn entry_needs_all(&mut self, entry: QueuedAction, file: &FileHandle) {
        if let Some(parts) = self.parts(file) {
            parts.entries.push(entry);
        }
        self.pump(file);
    }

    /// An action found that the file is there in parts.
    pub(super) fn take_over(&mut self, key: u64) {
        let Some(job) = self.take_job(key) else { return };
        let Some(file) = job.action.file.clone() else { return };
        self.begin_parts(&file, job.action.path.clone(), job.action.owner);
        if job.purpose == Purpose::Queued {
            let entry = QueuedAction {
                id: ActionId(key),
                action: job.action,
                attempts: job.attempts,
                last_failure: job.last_failure,
            };
            self.entry_needs_all(entry, &file);
        }
    }

    fn finish_parts(&mut self, file: &FileHandle) {
        let key = self.ephemeral_key();
        let now_ms = self.shared.now_ms();
        let Some(parts) = self.parts(file) else { return };
        let Some((mut opened, f)) = parts.opened(file).zip(parts.file.clone()) else { return };
        parts.phase = Phase::Committing;
        let path = parts.path.clone();
        let action = Self::ephemeral_action(file, Class::Reader, Command::Restore, f.archive_id, 0, path, now_ms);
        self.jobs.insert(key, Job::new(Purpose::Part, action, 0));
        match FileState::read(&*f.fd) {
            Ok(state) => opened.state = state,
            Err(error) => return self.parts_committed(key, Err(crate::prepare::attribute(&error)), Vec::new()),
        }
        let step = Step::Restored(opened.state.identity.clone(), None);
        let item = Item { key, file: opened, archive_id: f.archive_id, proposed: String::new(), step };
        let _ = self.commit_restores.send(item);
    }

    pub(super) fn parts_committed(&mut self, key: u64, result: Result<(), Failure>, changes: Vec<queue::Change>) {
        let Some(file) = self.take_job(key).and_then(|job| job.action.file) else { return };
        let Some(parts) = self.parts(&file) else { return };
        let (whole, entries) = (std::mem::take(&mut parts.whole), std::mem::take(&mut parts.entries));
        match result {
            Ok(()) => {
                self.record(changes, Vec::new());
                // Before anybody can write to it or run it, this state and its descriptor are gone.
                self.dissolve(&file);
                self.count_blocked(-i64::try_from(whole.len()).unwrap_or(0));
                whole.into_iter().for_each(|waiting| waiting.event.allow());
                self.end_entries(entries, &Ok(()));
                self.free_parts(&file);
            }
            Err(failure) if failure.kind == ErrorKind::Temporary => {
                tracing::warn!(path = parts.path, %failure, "all parts of a file are there, and it cannot be made an ordinary file yet: what may be lost is fetched again");
                (parts.whole, parts.entries) = (whole, entries);
                parts.phase = Phase::Ready;
                self.distrust(&file);
                self.part_waits(&file, &failure);
                self.hold_off(&file, Duration::from_secs(1));
            }
            Err(failure) => {
                tracing::error!(path = parts.path, %failure, "all parts of a file are there, and it cannot be made an ordinary file again");
                parts.phase = Phase::Ready;
                self.distrust(&file);
                self.count_blocked(-i64::try_from(whole.len()).unwrap_or(0));
                whole.into_iter().for_each(|waiting| waiting.event.deny(failure.errno));
                self.end_entries(entries, &Err(failure));
                self.hold_off(&file, Duration::from_secs(60));
            }
        }
    }

    /// The commit failed: it is not tried again at once, whoever waits or not. Meanwhile all parts can be read.
    fn hold_off(&mut self, file: &FileHandle, pause: Duration) {
        let at = Instant::now() + pause;
        if let Some(parts) = self.parts(file) {
            parts.retry_at = Some(parts.retry_at.map_or(at, |retry| retry.max(at)));
        }
        self.due(at);
        self.reconsider_early(file);
        self.pump(file);
    }

    /// Events that came while the file was opened or finished, or about to be restored whole.
    fn reconsider_early(&mut self, file: &FileHandle) {
        let early = self.inodes.get_mut(file).map(|inode| std::mem::take(&mut inode.blocked)).unwrap_or_default();
        self.count_blocked(-i64::try_from(early.len()).unwrap_or(0));
        for waiting in early {
            self.event(waiting.event, file.clone());
        }
    }

    pub(super) fn end_entries(&mut self, entries: Vec<QueuedAction>, result: &Result<(), Failure>) {
        for entry in entries {
            if self.cancelled.remove(&entry.id) {
                continue;
            }
            let (key, bytes) = (entry.id.0, 0);
            self.jobs.insert(key, Job::queued(entry));
            match result {
                Ok(()) => self.succeeded(key, bytes, Vec::new()),
                Err(failure) => self.failed(key, failure.clone()),
            }
        }
    }

    // ---- small things ----

    fn parts(&mut self, file: &FileHandle) -> Option<&mut Parts> {
        self.inodes.get_mut(file)?.parts.as_deref_mut()
    }
}
