//! The thread that reads the coordinator's pipe, and keeps the registration alive.
//!
//! Nothing else may keep it from reading for long: while nobody reads, the MDT waits. What it receives it writes down,
//! before anybody begins with it.

use crate::entry::to_journal;
use crate::source::Shared;
use crate::state::Stop;
use crate::workers::{Job, refuse};
use model::{Failure, Fid};
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sys::children::{Wanted, wait_ready};
use sys::lustre::{Action, ActionList, CopyAction, Copytool, Item};

const EIO: i32 = 5;
const ENXIO: i32 = 6;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;

/// How often it looks around when nothing happens.
const LOOK: Duration = Duration::from_secs(1);
/// So often in a row a pipe may be ready and empty.
const MAX_EMPTY: u32 = 100;
/// The longest pause between two attempts to register.
const MAX_PAUSE: Duration = Duration::from_secs(10);

pub(crate) struct Receiver {
    shared: Arc<Shared>,
    woken: UnixStream,
    copytool: Option<Copytool>,
    /// For which archives.
    registered: BTreeSet<u32>,
    /// It cannot be read from any more.
    broken: bool,
    heard: Instant,
    /// Registered since then.
    since: Instant,
    /// Not before this time, and how long to wait after the next failure.
    register_after: Instant,
    pause: Duration,
    fsname: Option<String>,
    started: Instant,
    /// How often the pipe seemed to have something, and had nothing.
    empty: u32,
}

impl Receiver {
    pub(crate) fn new(shared: Arc<Shared>, woken: UnixStream) -> Self {
        let fsname = shared.config.fsname.clone();
        let now = Instant::now();
        Self {
            shared,
            woken,
            copytool: None,
            registered: BTreeSet::new(),
            broken: false,
            heard: now,
            since: now,
            register_after: now,
            pause: LOOK,
            fsname,
            started: now,
            empty: 0,
        }
    }

    pub(crate) fn run(mut self) {
        loop {
            if self.shared.state.lock().closed {
                self.leave();
                return;
            }
            self.keep_registered();
            match self.wait() {
                Ok(true) => self.receive(),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot wait for the coordinator");
                    std::thread::sleep(LOOK);
                }
            }
        }
    }

    /// Until there is a list, or somebody wants something. Whether there may be a list.
    fn wait(&mut self) -> io::Result<bool> {
        let mut wanted = vec![(self.woken.as_fd(), Wanted::Read)];
        if let Some(copytool) = self.copytool.as_ref().filter(|_| !self.broken) {
            wanted.push((copytool.as_fd(), Wanted::Read));
        }
        let ready = wait_ready(&wanted, LOOK.min(self.shared.config.patience.settled))?;
        if ready.first() == Some(&true) {
            while (&self.woken).read(&mut [0; 64]).is_ok_and(|n| n > 0) {}
        }
        Ok(ready.get(1) == Some(&true))
    }

    /// All that is there.
    fn receive(&mut self) {
        self.empty += 1;
        while let Some(copytool) = self.copytool.as_mut() {
            match copytool.recv() {
                Ok(Some(list)) => {
                    self.empty = 0;
                    self.take(list);
                }
                // Nobody writes any more.
                Ok(None) if self.empty > MAX_EMPTY => return self.give_up("it hung up"),
                Ok(None) => return,
                Err(error) => return self.give_up(&error.to_string()),
            }
        }
    }

    /// The registration is over as soon as what runs is. Nobody reads until then, so it hangs up: what the coordinator has stays
    /// with the coordinator, which would wait for a reader otherwise, and the kernel with it.
    fn give_up(&mut self, why: &str) {
        tracing::error!(why, "the coordinator's pipe is broken: registering anew");
        self.hang_up();
    }

    fn hang_up(&mut self) {
        (self.broken, self.empty) = (true, 0);
        self.shared.state.lock().handle = None;
        let lists = self.copytool.as_mut().map(Copytool::hang_up).unwrap_or_default();
        lists.into_iter().for_each(|list| self.take(list));
    }

    /// Writes a list down.
    fn take(&mut self, list: ActionList) {
        self.heard = Instant::now();
        if let Some(damage) = &list.damage {
            tracing::error!(%damage, items = list.items.len(), "an action list is damaged: what is lost of it holds its slots until the coordinator gives it up");
        }
        if self.fsname.is_none() && list.damage.is_none() && !list.fsname.is_empty() {
            self.fsname = Some(list.fsname.clone());
        }
        let ours = self.fsname.as_ref().is_none_or(|own| *own == list.fsname);
        let (mut items, mut cancels, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        // That it knows this agent says nothing of the other MDTs' coordinators, so a suspicion stays.
        let state = self.shared.state.lock();
        // What comes at the very end is the next process's, which may serve that archive, or refuse it.
        let known = state.closed || state.known.contains(&list.archive_id);
        let closed = state.closed;
        for item in list.items {
            match self.check(&item, list.archive_id, ours, known) {
                Err(failure) => refused.push((item, failure)),
                Ok(()) if item.action() == Action::Cancel => cancels.push((item.cookie(), item.fid())),
                Ok(()) => match to_journal(&item, list.archive_id, list.flags) {
                    Some(_) if state.running(item.cookie(), item.fid()).is_some() => warn_twice(&item),
                    Some(new) => items.push((item, new)),
                    None => {}
                },
            }
        }
        drop(state);
        items.retain(|(item, _)| !self.waits(item));
        let (raw, new): (Vec<Item>, Vec<_>) = items.into_iter().unzip();
        if !new.is_empty()
            && let Err(error) = self.shared.enter_items(new)
        {
            // What is not written down is not begun.
            let failure = Failure::temporary(EIO, format!("the agent cannot write it down: {error}"));
            refused.extend(raw.into_iter().map(|item| (item, failure.clone())));
        }
        for (cookie, fid) in cancels {
            self.cancel(cookie, fid);
        }
        if closed {
            // No worker will.
            return refused.into_iter().for_each(|(item, failure)| refuse(&self.shared, item, failure));
        }
        let refusals = refused.into_iter().map(|(item, failure)| Job::Refuse(item, failure));
        self.shared.state.lock().urgent.extend(refusals);
        self.shared.announce();
    }

    /// Whether a restore was received before and not begun. A coordinator that starts again sends once more what it had; nothing
    /// else than restores.
    fn waits(&self, item: &Item) -> bool {
        if item.action() != Action::Restore {
            return false;
        }
        let Ok(found) = self.shared.journal.of_cookie(item.cookie(), item.fid()) else { return false };
        // One that has ended may be sent again at once, and be on its way out of the journal. What does not end and is there
        // afterwards was not on its way.
        let waits = |id: u64| {
            let state = self.shared.state.lock();
            let ends = state.recording.contains(&id) || state.active.contains_key(&id);
            drop(state);
            !ends && self.shared.journal.get(id).is_ok_and(|found| found.is_some())
        };
        let waits = found.iter().any(|found| waits(found.id));
        if waits {
            warn_twice(item);
        }
        waits
    }

    fn check(&self, item: &Item, archive_id: u32, ours: bool, known: bool) -> Result<(), Failure> {
        // It is answered by the end of what it cancels, if that is here.
        if item.action() == Action::Cancel {
            return Ok(());
        }
        if !ours {
            let own = self.fsname.as_deref().unwrap_or_default();
            return Err(Failure::permanent(EINVAL, format!("it is for another filesystem than {own}")));
        }
        match item.action() {
            Action::Unknown(code) => Err(Failure::permanent(ENOSYS, format!("action {code} is unknown to this agent"))),
            _ if !known => Err(Failure::permanent(ENXIO, format!("no mover serves archive {archive_id}"))),
            _ => Ok(()),
        }
    }

    /// Whatever it is of: it gets its one end from whoever has it.
    fn cancel(&self, cookie: u64, fid: Fid) {
        let mut state = self.shared.state.lock();
        let id = match state.by_key.get(&(cookie, fid)) {
            Some(id) => Some(*id),
            None => {
                drop(state);
                let id = self.begin_waiting(cookie, fid);
                state = self.shared.state.lock();
                id
            }
        };
        match id {
            Some(id) => state.stop(id, Stop::Cancelled),
            None => {
                tracing::info!(%fid, cookie = format_args!("{cookie:#x}"), "a cancel of what is over, or was never here")
            }
        }
        drop(state);
        self.shared.announce();
    }

    /// Takes what waits out of its lane, for its end.
    fn begin_waiting(&self, cookie: u64, fid: Fid) -> Option<u64> {
        let found = match self.shared.journal.of_cookie(cookie, fid) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, %fid, "cannot look for what is to be canceled");
                return None;
            }
        };
        let mut state = self.shared.state.lock();
        let last_orphan = state.last_orphan;
        for item in found.into_iter().rev() {
            let id = item.id;
            if state.recording.contains(&id) {
                continue;
            }
            let entry = state
                .lanes
                .take(id)
                .or_else(|| crate::entry::Entry::from_journal(item, id <= last_orphan).map(Arc::new));
            if let Some(entry) = entry.filter(|entry| entry.fid() == Some(fid)) {
                state.begin(entry);
                return Some(id);
            }
        }
        None
    }

    /// Registers, or registers anew, where there is reason to and no action needs the old registration.
    fn keep_registered(&mut self) {
        let patience = self.shared.config.patience;
        let mut state = self.shared.state.lock();
        if state.stopping {
            return;
        }
        if self.started.elapsed() >= patience.orphans {
            state.refuse_unserved();
            drop(state);
            self.shared.announce();
            state = self.shared.state.lock();
        }
        if self.copytool.is_some() {
            let idle = state.is_idle() && state.last_activity.is_none_or(|at| at.elapsed() >= patience.idle);
            let idle = idle && self.heard.elapsed() >= patience.idle;
            state.old = self.since.elapsed() >= patience.renew;
            // Without that it would not come to an end while there is work.
            let must = self.broken || state.known != self.registered;
            if std::mem::replace(&mut state.renewing, must) && !must {
                state.schedule();
            }
            if must {
                let detached = state.detach();
                drop(state);
                detached.into_iter().for_each(CopyAction::abandon);
                state = self.shared.state.lock();
            }
            // Every action of the old registration has to be over.
            if !(must || state.suspect || state.old || idle) || state.is_bound() {
                return;
            }
            tracing::debug!(idle, suspect = state.suspect, broken = self.broken, "registering anew");
            state.handle = None;
            drop(state);
            if !self.leave() {
                return;
            }
            state = self.shared.state.lock();
        }
        let settled =
            state.known_since.is_some_and(|since| since.elapsed() >= patience.settled) && state.movers_started;
        if !settled || Instant::now() < self.register_after {
            return;
        }
        let archives: BTreeSet<u32> = state.known.clone();
        drop(state);
        self.register(archives);
    }

    fn register(&mut self, archives: BTreeSet<u32>) {
        let ids: Vec<u32> = archives.iter().copied().collect();
        match Copytool::register(&self.shared.library, &self.shared.config.mount, &ids) {
            Ok(copytool) => {
                if self.registered != archives {
                    tracing::info!(archives = ?ids, "registered with the coordinator");
                }
                let mut state = self.shared.state.lock();
                state.registered(copytool.handle());
                drop(state);
                self.shared.announce();
                (self.copytool, self.registered) = (Some(copytool), archives);
                (self.broken, self.pause) = (false, LOOK);
                (self.heard, self.since) = (Instant::now(), Instant::now());
            }
            Err(error) => {
                tracing::error!(%error, again_s = self.pause.as_secs(), "cannot register with the coordinator");
                self.registered.clear();
                self.register_after = Instant::now() + self.pause;
                self.pause = (self.pause * 2).min(MAX_PAUSE);
            }
        }
    }

    /// Unregisters, unless a worker still answers through it; what came until then is written down. Whether it was done.
    fn leave(&mut self) -> bool {
        let Some(copytool) = self.copytool.take() else { return true };
        self.shared.state.lock().handle = None;
        let mut left = copytool.leave();
        let deadline = Instant::now() + LOOK;
        while Instant::now() < deadline
            && let Err(copytool) = left
        {
            std::thread::sleep(Duration::from_millis(5));
            left = copytool.leave();
        }
        match left {
            Ok(lists) => {
                lists.into_iter().for_each(|list| self.take(list));
                true
            }
            // The end of the old registration would be that of a new one, too: to the coordinator they are one client.
            Err(copytool) => {
                self.copytool = Some(copytool);
                if !self.broken {
                    tracing::warn!("the coordinator is not left yet: it takes long to be answered");
                    self.hang_up();
                }
                false
            }
        }
    }
}

fn warn_twice(item: &Item) {
    tracing::warn!(fid = %item.fid(), cookie = format_args!("{:#x}", item.cookie()), "sent twice: once is enough");
}
