//! The end of a file's state in memory, and what happens by the clock: retries, writing down what is there, forgetting.

use super::super::brain::Brain;
use super::super::job::{Blocked, Holder, Parked};
use super::super::parts::{NotRecorded, Parts, Phase, record_parts};
use super::{IDLE, MAX_IDLE, RECORD_AFTER, RECORD_WITHIN};
use crate::engine::Msg;
use crate::prepare::EIO;
use crate::ranges::{Runs, residency};
use crate::state::FileState;
use model::{Failure, FileHandle, Thaw};
use std::sync::Arc;
use std::time::Instant;

impl Brain {
    // ---- the end of the state ----

    /// Its mover knows no ranges, or somebody writes to it, and nothing of it was handed out: it is restored as files always were.
    pub(in crate::engine) fn restore_whole(&mut self, file: &FileHandle) {
        let Some(parts) = self.parts(file) else { return };
        let (path, owner, fd) = (parts.path.clone(), parts.owner, parts.file.as_ref().map(|f| Arc::clone(&f.fd)));
        let unmarked = fd.as_ref().map_or(Ok(()), |fd| residency::forget(&**fd));
        let archive_id = fd.and_then(|fd| FileState::read(&*fd).ok()).and_then(|state| state.archive_id());
        self.dissolve(file);
        let Some(inode) = self.inodes.get_mut(file) else { return };
        inode.holder = None;
        if let Err(error) = unmarked {
            self.reader_failed(file, 0, &crate::prepare::attribute(&error));
            return self.free_parts(file);
        }
        let Some(first) = inode.blocked.first() else { return self.free_parts(file) };
        let archive_id =
            archive_id.or_else(|| FileState::read(&first.event.file).ok().and_then(|state| state.archive_id()));
        self.restore_for_readers(file, archive_id.unwrap_or(0), owner, path, 0);
    }

    /// Ends the state in memory. Whoever waits becomes one who waits for the inode.
    pub(in crate::engine) fn dissolve(&mut self, file: &FileHandle) {
        let Some(inode) = self.inodes.get_mut(file) else { return };
        let Some(parts) = inode.parts.take() else { return };
        if let (Some(guard), Some(f)) = (&self.guard, &parts.file) {
            guard.forget(f.inode);
        }
        let Parts { readers, whole, entries, .. } = *parts;
        inode.blocked.extend(readers.into_iter().map(|reader| reader.waiting).chain(whole));
        self.parked += entries.len();
        inode.parked.extend(entries.into_iter().map(|entry| Parked::Entry(Box::new(entry))));
    }

    /// Ends the state of a file that somebody else is going to hold. Only while nothing is under way.
    pub(in crate::engine) fn drop_parts(&mut self, file: &FileHandle) {
        if self.inodes.get(file).is_some_and(|inode| inode.holder.is_none() && inode.parts.is_some()) {
            self.dissolve(file);
        }
    }

    /// Lets others have the inode.
    pub(in crate::engine) fn free_parts(&mut self, file: &FileHandle) {
        let Some(inode) = self.inodes.get_mut(file) else { return };
        if inode.holder == Some(Holder::Parts) {
            inode.holder = None;
        }
        if inode.parts.is_none() || !inode.parked.is_empty() {
            self.unpark(file);
        }
        if self.inodes.get(file).is_some_and(|inode| inode.parts.is_none()) {
            self.reconsider_blocked(file);
        }
    }

    // ---- time ----

    /// Retries, readers who waited too long, what is to be written down, and what was not used for long.
    pub(in crate::engine) fn parts_tick(&mut self) {
        let now = Instant::now();
        let mut pumped = Vec::new();
        let mut recorded = Vec::new();
        let mut idle: Vec<(Instant, FileHandle)> = Vec::new();
        let mut expired = Vec::new();
        let mut next: Option<Instant> = None;
        let mut wake = |at: Instant| next = Some(next.map_or(at, |n: Instant| n.min(at)));
        for (file, inode) in &mut self.inodes {
            let Some(parts) = inode.parts.as_mut() else { continue };
            if let Some(at) = parts.retry_at {
                if at <= now {
                    parts.retry_at = None;
                    pumped.push(file.clone());
                } else {
                    wake(at);
                }
            }
            let over = |b: &Blocked| b.deadline.is_some_and(|d| d <= now);
            expired.extend(parts.readers.extract_if(.., |r| over(&r.waiting)).map(|r| r.waiting));
            expired.extend(parts.whole.extract_if(.., |b| over(b)));
            parts.readers.iter().map(|r| &r.waiting).chain(&parts.whole).filter_map(|b| b.deadline).for_each(&mut wake);
            let quiet = parts.phase == Phase::Ready
                && !parts.recording
                && !matches!(inode.holder, Some(Holder::Job(_) | Holder::Release(_)));
            if quiet && parts.unrecorded {
                let at = (parts.came_at + RECORD_AFTER).min(parts.recorded_at + RECORD_WITHIN);
                if at <= now { recorded.push(file.clone()) } else { wake(at) }
            } else if quiet && inode.holder.is_none() && parts.is_unwanted() {
                idle.push((parts.used, file.clone()));
            }
        }
        if let Some(at) = next {
            self.due(at);
        }
        self.count_blocked(-i64::try_from(expired.len()).unwrap_or(0));
        for waiting in expired {
            tracing::error!(pid = waiting.event.pid, "a blocked reader waited too long and gets EIO");
            waiting.event.deny(EIO);
        }
        recorded.iter().for_each(|file| self.record_part(file));
        pumped.iter().for_each(|file| self.pump(file));
        idle.sort_by_key(|(used, _)| *used);
        let too_many = idle.len().saturating_sub(MAX_IDLE);
        for (at, (used, file)) in idle.into_iter().enumerate() {
            if at < too_many || used + IDLE <= now {
                self.drop_parts(&file);
                self.free_parts(&file);
            }
        }
    }

    /// Readers of parts that are being thawed wait; actions go back to the queue, which has room for any number of them.
    pub(in crate::engine) fn parts_wait_for_thaw(&mut self, file: &FileHandle, failure: &Failure, thaw: Thaw) {
        let Some(parts) = self.parts(file) else { return };
        parts.ahead.clear();
        parts.thawing = true;
        let entries = std::mem::take(&mut parts.entries);
        let archive_id = parts.file.as_ref().map_or(0, |f| f.archive_id);
        let path = (!parts.is_unwanted()).then(|| parts.path.clone());
        if let Some(path) = path {
            let at = self.readers_wait_for_thaw(file, (archive_id, &path), failure, thaw);
            if let Some(parts) = self.parts(file) {
                parts.retry_at = Some(at);
            }
        }
        self.end_entries(entries, &Err(failure.clone()));
    }

    pub(in crate::engine) fn record_part(&mut self, file: &FileHandle) {
        let Some(inode) = self.inodes.get_mut(file) else { return };
        let Some(parts) = inode.parts.as_mut() else { return };
        let Some(f) = parts.file.clone() else { return };
        parts.recording = true;
        parts.unrecorded = false;
        parts.recorded_at = Instant::now();
        inode.holder = Some(Holder::Parts);
        let (mtime, resident, messages, file) =
            (parts.mtime, parts.resident.clone(), self.messages.clone(), file.clone());
        self.record_pool.run(move || {
            let result = record_parts(&f, mtime, resident);
            let _ = messages.send(Msg::PartsRecorded(file, result));
        });
    }

    pub(in crate::engine) fn parts_recorded(&mut self, file: &FileHandle, result: Result<Runs, NotRecorded>) {
        let Some(parts) = self.parts(file) else { return };
        parts.recording = false;
        match result {
            Ok(durable) => parts.durable = durable,
            Err(NotRecorded::Unwritten(failure)) => {
                // They are there all the same; the next agent would fetch them again.
                tracing::warn!(path = parts.path, %failure, "cannot write down which parts of a file are there");
            }
            Err(NotRecorded::Lost(failure)) => {
                tracing::error!(path = parts.path, %failure, "what was restored of a file may not have reached its disk: it is fetched again when it is needed");
                self.distrust(file);
            }
        }
        self.pump(file);
    }

    /// Counts as missing what may be lost since a sync failed, for the guard too.
    pub(in crate::engine) fn distrust(&mut self, file: &FileHandle) {
        let guard = self.guard.clone();
        let Some(parts) = self.parts(file) else { return };
        if let (Some(guard), Some(f)) = (guard, &parts.file) {
            guard.forget(f.inode);
        }
        parts.distrust();
    }
}
