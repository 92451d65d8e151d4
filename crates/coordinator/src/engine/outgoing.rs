//! What the brain hands to other threads, gathered over one round of its loop: they are woken once for all of it.

use super::{Msg, Shared};
use crate::gate::{Removal, gate};
use crate::journal::Journal;
use crate::pool::Pool;
use crate::prepare::{Prepared, prepare};
use model::Command;
use queue::{Change, NewAction};
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Archives that one thread prepares before it tells what came of it.
const PREPARED_TOGETHER: usize = 16;
/// Removals of objects that the queue is asked about at once.
const REMOVED_TOGETHER: usize = 256;
const PREPARING_THREADS: usize = 4;

pub(super) struct Outgoing {
    shared: Arc<Shared>,
    journal: Arc<Journal>,
    messages: Sender<Msg>,
    pool: Pool,
    archives: Vec<(u64, NewAction)>,
    /// Those that concern no file (any more).
    removals: Vec<(u64, NewAction)>,
    changes: Vec<Change>,
    after: Vec<Msg>,
}

impl Outgoing {
    pub(super) fn new(shared: Arc<Shared>, journal: Arc<Journal>, messages: Sender<Msg>) -> std::io::Result<Self> {
        let pool = Pool::new("prepare", PREPARING_THREADS)?;
        Ok(Self {
            shared,
            journal,
            messages,
            pool,
            archives: Vec::new(),
            removals: Vec::new(),
            changes: Vec::new(),
            after: Vec::new(),
        })
    }

    /// The queue's database takes nothing at the moment.
    pub(super) fn is_stuck(&self) -> bool {
        self.journal.is_stuck()
    }

    /// Prepares an action whose inode is locked for it, if it has one; the brain hears [`Msg::Prepared`].
    pub(super) fn prepare(&mut self, key: u64, action: NewAction) {
        match action.command {
            Command::Archive => self.archives.push((key, action)),
            Command::Remove if action.file.is_none() => self.removals.push((key, action)),
            // Somebody may be waiting for it, and it may take long.
            _ => self.prepare_together(vec![(key, action)]),
        }
    }

    fn prepare_together(&self, jobs: Vec<(u64, NewAction)>) {
        let (shared, messages) = (Arc::clone(&self.shared), self.messages.clone());
        self.pool.run(move || {
            let tell = |prepared| drop(messages.send(Msg::Prepared(prepared)));
            let (mut settled, mut removals) = (Vec::new(), Vec::new());
            for (key, action) in jobs {
                match prepare(&shared.fs, shared.group.as_ref(), &action) {
                    Prepared::Run(None, identity) if action.command == Command::Remove => {
                        removals.push(Removal { key, archive_id: action.archive_id, identity });
                    }
                    prepared => settled.push((key, prepared)),
                }
            }
            if !settled.is_empty() {
                tell(settled);
            }
            if !removals.is_empty() {
                gate(&shared, removals, tell);
            }
        });
    }

    /// Writes changes; the brain hears `then` once they are durable, together with all that was recorded before.
    pub(super) fn record(&mut self, changes: Vec<Change>, then: Msg) {
        self.changes.extend(changes);
        match (self.after.last_mut(), then) {
            (Some(Msg::Recorded(ids)), Msg::Recorded(more)) => ids.extend(more),
            (_, then) => self.after.push(then),
        }
    }

    /// Calls `then` once all that was recorded before is durable.
    pub(super) fn when_recorded(&mut self, then: impl FnOnce() + Send + 'static) {
        self.send_changes();
        self.journal.apply(Vec::new(), Some(Box::new(then)));
    }

    /// The round is over.
    pub(super) fn send(&mut self) {
        self.send_changes();
        let (archives, removals) = (std::mem::take(&mut self.archives), std::mem::take(&mut self.removals));
        self.prepare_in_groups(removals, REMOVED_TOGETHER);
        let together = archives.len().div_ceil(PREPARING_THREADS).clamp(1, PREPARED_TOGETHER);
        self.prepare_in_groups(archives, together);
    }

    fn prepare_in_groups(&self, jobs: Vec<(u64, NewAction)>, together: usize) {
        let mut jobs = jobs.into_iter();
        loop {
            let some: Vec<_> = jobs.by_ref().take(together).collect();
            if some.is_empty() {
                return;
            }
            self.prepare_together(some);
        }
    }

    fn send_changes(&mut self) {
        if self.changes.is_empty() && self.after.is_empty() {
            return;
        }
        let (changes, after) = (std::mem::take(&mut self.changes), std::mem::take(&mut self.after));
        let messages = self.messages.clone();
        let tell = move || after.into_iter().for_each(|message| drop(messages.send(message)));
        self.journal.apply(changes, Some(Box::new(tell)));
    }
}
