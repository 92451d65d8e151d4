//! Blocked readers: who waits for which file, and what they are told in the end.

use super::brain::Brain;
use super::job::{Blocked, Holder, Inode, Job, Parked, Purpose};
use crate::filesystem::stamp_of;
use crate::guard::PendingEvent;
use crate::prepare::{EIO, NotRestorable, Opened, emptied, why_not_restorable};
use crate::state::FileState;
use model::{Class, Command, ErrorKind, Failure, FileHandle};
use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

const O_ACCMODE: i32 = 3;
const O_WRONLY: i32 = 1;
const O_TRUNC: i32 = 0o1000;

impl Brain {
    /// Somebody opens or touches a file that the guard would not decide about.
    pub(super) fn event(&mut self, mut event: PendingEvent, file: FileHandle) {
        let inode = self.inodes.entry(file.clone()).or_default();
        if matches!(inode.holder, Some(Holder::Release(_))) {
            inode.parked.push_back(Parked::Event(event));
            return;
        }
        let state = match FileState::read(&event.file) {
            Ok(state) => state,
            Err(error) => {
                tracing::error!(%file, %error, "access refused");
                event.deny(EIO);
                return self.forget_idle(&file);
            }
        };
        if !state.hsm.is_released() {
            event.allow();
            return self.forget_idle(&file);
        }
        if event.calls.is_none() && self.caller_matters(&event, &file) {
            event.calls = super::callers::look_once(&event);
            if event.calls.is_none() {
                self.callers.look(event, file.clone());
                return self.forget_idle(&file);
            }
        }
        if event.is_open && self.opens_in_parts(&event, &file, &state) {
            event.allow();
            return self.forget_idle(&file);
        }
        if self.inodes.get(&file).is_some_and(|inode| inode.parts.is_some()) {
            return if event.is_open { self.wait_for_all(event, &file) } else { self.access_part(event, &file) };
        }
        // Not while a restore is on its way: it would write what was archived after the truncation.
        let free = self.inodes.get(&file).is_none_or(|inode| inode.holder.is_none());
        if let Some(flags) = event.calls.and_then(|calls| calls.open_flags).filter(|_| event.is_open && free)
            && (flags & O_TRUNC != 0 || flags & O_ACCMODE == O_WRONLY)
        {
            // It cannot be misled by holes: it truncates, or cannot read. Later accesses ask again; this only saves restoring what is
            // thrown away or not looked at.
            if flags & O_TRUNC != 0 {
                self.truncation_begins(&event, &file);
            }
            event.allow();
            return self.forget_idle(&file);
        }
        if self.awaits_truncation(&file) {
            return self.block(&file, event);
        }
        if !event.is_open && self.can_be_in_parts(&event, &file, &state) {
            let path = std::fs::read_link(fd_path(&event)).map(|p| p.to_string_lossy().into_owned());
            let owner = owner_of(&event);
            self.block(&file, event);
            return self.begin_parts(&file, path.unwrap_or_else(|_| file.to_string()), owner);
        }
        self.wants_content(event, file, state);
    }

    /// Those who came during a release wait for no one but that; what comes after it, they need not wait for.
    pub(super) fn unpark_events(&mut self, file: &FileHandle) {
        let Some(inode) = self.inodes.get_mut(file) else { return };
        if matches!(inode.holder, Some(Holder::Release(_))) {
            return;
        }
        let (events, others) =
            std::mem::take(&mut inode.parked).into_iter().partition(|parked| matches!(parked, Parked::Event(_)));
        inode.parked = others;
        let events: VecDeque<Parked> = events;
        for parked in events {
            if let Parked::Event(event) = parked {
                self.event(event, file.clone());
            }
        }
    }

    /// A reader who begins to wait, or goes on: his deadline stays, unless that is for something that is heard of later.
    pub(super) fn blocked(&mut self, mut event: PendingEvent, file: &FileHandle) -> Blocked {
        let timeout = self.config.restore_timeout;
        let from_now = *event.deadline.get_or_init(|| timeout.map(|timeout| Instant::now() + timeout));
        let from_look = timeout.and_then(|timeout| Some(self.next_look(file)? + timeout));
        let deadline = from_now.max(from_look);
        event.deadline = OnceCell::from(deadline);
        if let Some(deadline) = deadline {
            self.due(deadline);
        }
        self.count_blocked(1);
        Blocked { event, deadline }
    }

    fn wants_content(&mut self, event: PendingEvent, file: FileHandle, state: FileState) {
        let busy = self.inodes.get(&file).is_some_and(|inode| inode.holder.is_some() || inode.retry.is_some());
        if busy {
            // A restore is on its way, or will be tried again; its end answers everybody.
            self.block(&file, event);
            return self.hurry(&file);
        }
        let stamp = match sys::file::stamp(&event.file) {
            Ok(stamp) => stamp_of(&stamp),
            Err(error) => {
                tracing::error!(%file, %error, "cannot look at a file that somebody reads");
                event.deny(EIO);
                return self.forget_idle(&file);
            }
        };
        match why_not_restorable(&state, &stamp) {
            None => {
                let archive_id = state.archive_id().unwrap_or(0);
                let path = std::fs::read_link(fd_path(&event)).map(|p| p.to_string_lossy().into_owned());
                let owner = owner_of(&event);
                self.block(&file, event);
                self.restore_for_readers(&file, archive_id, owner, path.unwrap_or_else(|_| file.to_string()), 0);
            }
            Some(NotRestorable::Emptied) => {
                let opened = event.file.try_clone().map(|fd| Opened {
                    handle: file.clone(),
                    fd: Arc::new(fd),
                    state,
                    before: stamp,
                    mtime: stamp.mtime,
                    tree_path: Vec::new(),
                    copies: Vec::new(),
                    failed_syncs: 0,
                });
                match opened.map_err(|e| e.to_string()).and_then(|o| emptied(&o).map_err(|e| e.to_string())) {
                    Ok(()) => event.allow(),
                    Err(error) => {
                        tracing::error!(%file, error, "cannot mark a truncated file changed");
                        event.deny(EIO);
                    }
                }
                self.forget_idle(&file);
            }
            Some(NotRestorable::Because(why)) => {
                tracing::error!(%file, why, "access refused");
                event.deny(EIO);
                self.forget_idle(&file);
            }
        }
    }

    /// A restore from the queue that a reader waits for goes before those that nobody waits for, unless a mover has it.
    pub(super) fn hurry(&mut self, file: &FileHandle) {
        let Some(inode) = self.inodes.get(file) else { return };
        let (Some(Holder::Job(key)), Some(first)) = (inode.holder, inode.blocked.first()) else { return };
        let Some(job) = self.jobs.get_mut(&key) else { return };
        if job.purpose != Purpose::Queued || job.action.command != Command::Restore || job.reader.is_some() {
            return;
        }
        job.reader = Some(owner_of(&first.event));
        let Some(mut work) = self.shared.outbox.withdraw(key) else { return };
        (work.class, work.owner) = job.turn();
        if let Some(running) = self.shared.running.lock().get_mut(&key) {
            running.class = work.class;
        }
        self.shared.outbox.put(work);
    }

    pub(super) fn restore_for_readers(
        &mut self,
        file: &FileHandle,
        archive_id: u32,
        owner: u32,
        path: String,
        attempts: u32,
    ) {
        let key = self.ephemeral_key();
        let now_ms = self.shared.now_ms();
        let action = Self::ephemeral_action(file, Class::Reader, Command::Restore, archive_id, owner, path, now_ms);
        self.inodes.entry(file.clone()).or_default().holder = Some(Holder::Job(key));
        // Whether any copy can be had shows when the file was looked at.
        self.run_job(key, Job::new(Purpose::Reader, action, attempts));
    }

    /// A restore ended: everybody who waits for the file is answered, or it is tried again.
    pub(super) fn readers_go_on(&mut self, job: &Job, result: Result<(), Failure>) {
        let Some(file) = &job.action.file else { return };
        match result {
            Ok(()) => self.answer_all(file, None),
            Err(failure) => {
                if let Some(thaw) = failure.thaw {
                    let about = (job.action.archive_id, job.action.path.as_str());
                    let at = self.readers_wait_for_thaw(file, about, &failure, thaw);
                    if let Some(inode) = self.inodes.get_mut(file) {
                        inode.retry = Some((at, job.attempts));
                    }
                    return;
                }
                tracing::warn!(path = job.action.path, %failure, "a restore for blocked readers failed");
                self.reader_failed(file, job.attempts, &failure);
            }
        }
    }

    /// What blocked readers wait for cannot be had: now, and it is tried again; or at all.
    pub(super) fn reader_failed(&mut self, file: &FileHandle, attempts: u32, failure: &Failure) {
        match failure.kind {
            ErrorKind::Temporary => {
                let attempts = attempts.saturating_add(1);
                let backoff = model::Backoff { max_attempts: 0, ..self.config.backoff };
                let delay = Duration::from_millis(backoff.delay_ms(attempts).unwrap_or(1000).min(10_000));
                tracing::info!(%file, ?delay, "will be tried again");
                let at = Instant::now() + delay;
                if let Some(inode) = self.inodes.get_mut(file) {
                    inode.retry = Some((at, attempts));
                }
                self.due(at);
            }
            ErrorKind::Permanent => {
                tracing::error!(%file, %failure, "blocked readers get an error");
                self.answer_all(file, Some(failure.errno));
            }
        }
    }

    /// All of the file is there: nothing that its readers wait for needs another try.
    pub(super) fn forget_retry(&mut self, file: Option<&FileHandle>) {
        if let Some(inode) = file.and_then(|file| self.inodes.get_mut(file)) {
            inode.retry = None;
        }
    }

    fn answer_all(&mut self, file: &FileHandle, errno: Option<i32>) {
        self.thaw_is_over(file);
        let blocked = self.inodes.get_mut(file).map(|inode| std::mem::take(&mut inode.blocked)).unwrap_or_default();
        self.count_blocked(-i64::try_from(blocked.len()).unwrap_or(0));
        for waiting in blocked {
            match errno {
                None => waiting.event.allow(),
                Some(errno) => waiting.event.deny(errno),
            }
        }
    }

    /// After any holder of the inode is gone: those who wait for content may have it, or need a restore of their own.
    pub(super) fn reconsider_blocked(&mut self, file: &FileHandle) {
        let waits = |inode: &Inode| {
            inode.holder.is_none() && inode.retry.is_none() && inode.truncation.is_none() && !inode.blocked.is_empty()
        };
        if !self.inodes.get(file).is_some_and(waits) {
            return;
        }
        let blocked = self.inodes.get_mut(file).map(|inode| std::mem::take(&mut inode.blocked)).unwrap_or_default();
        self.count_blocked(-i64::try_from(blocked.len()).unwrap_or(0));
        for waiting in blocked {
            self.event(waiting.event, file.clone());
        }
    }

    /// Restores to try again, and readers who have waited long enough.
    pub(super) fn readers_tick(&mut self) {
        let now = Instant::now();
        let mut again = Vec::new();
        let mut expired = Vec::new();
        let mut next: Option<Instant> = None;
        let mut wake = |at: Instant| next = Some(next.map_or(at, |n: Instant| n.min(at)));
        for (file, inode) in &mut self.inodes {
            if let Some((at, attempts)) = inode.retry {
                if at <= now {
                    inode.retry = None;
                    again.push((file.clone(), attempts));
                } else {
                    wake(at);
                }
            }
            let (over, rest): (Vec<_>, Vec<_>) =
                std::mem::take(&mut inode.blocked).into_iter().partition(|b| b.deadline.is_some_and(|d| d <= now));
            rest.iter().filter_map(|b| b.deadline).for_each(&mut wake);
            inode.blocked = rest;
            expired.extend(over);
        }
        if let Some(at) = next {
            self.due(at);
        }
        self.count_blocked(-i64::try_from(expired.len()).unwrap_or(0));
        for waiting in expired {
            tracing::error!(pid = waiting.event.pid, "a blocked reader waited too long and gets EIO");
            waiting.event.deny(EIO);
        }
        for (file, attempts) in again {
            self.try_again(&file, attempts);
        }
    }

    fn try_again(&mut self, file: &FileHandle, attempts: u32) {
        if self.inodes.get(file).is_some_and(|inode| inode.holder.is_some()) || self.awaits_truncation(file) {
            // Somebody got the inode during the pause; when he lets go, those who wait are looked at again.
            return;
        }
        let Some(first) = self.inodes.get(file).and_then(|inode| inode.blocked.first()) else {
            return self.unpark(file);
        };
        let state = FileState::read(&first.event.file);
        let path = std::fs::read_link(fd_path(&first.event)).map(|p| p.to_string_lossy().into_owned());
        match state {
            Ok(state) if state.hsm.is_released() => {
                let archive_id = state.archive_id().unwrap_or(0);
                let owner = owner_of(&first.event);
                let path = path.unwrap_or_else(|_| file.to_string());
                self.restore_for_readers(file, archive_id, owner, path, attempts);
            }
            _ => self.reconsider_blocked(file),
        }
    }

    pub(super) fn forget_idle(&mut self, file: &FileHandle) {
        if self.inodes.get(file).is_some_and(Inode::is_idle) {
            self.inodes.remove(file);
            self.thaw_is_over(file);
        }
    }
}

fn fd_path(event: &PendingEvent) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", event.file.as_raw_fd())
}

/// The user whose process is blocked: restores are shared fairly between users. 0 when nobody knows.
pub(super) fn owner_of(event: &PendingEvent) -> u32 {
    sys::process::real_uid(event.pid).unwrap_or(0)
}
