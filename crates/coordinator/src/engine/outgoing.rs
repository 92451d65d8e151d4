//! What the brain hands to other threads, gathered over one round of its loop: they are woken once for all of it.

use super::{Msg, Shared};
use crate::journal::Journal;
use crate::pool::Pool;
use crate::prepare::prepare;
use model::{ActionId, Command};
use queue::{Change, NewAction};
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Archives that one thread prepares before it tells what came of it.
const PREPARED_TOGETHER: usize = 16;
const PREPARING_THREADS: usize = 4;

pub(super) struct Outgoing {
    shared: Arc<Shared>,
    journal: Arc<Journal>,
    messages: Sender<Msg>,
    pool: Pool,
    archives: Vec<(u64, NewAction)>,
    changes: Vec<Change>,
    after: Vec<Msg>,
}

impl Outgoing {
    pub(super) fn new(shared: Arc<Shared>, journal: Arc<Journal>, messages: Sender<Msg>) -> std::io::Result<Self> {
        let pool = Pool::new("prepare", PREPARING_THREADS)?;
        Ok(Self { shared, journal, messages, pool, archives: Vec::new(), changes: Vec::new(), after: Vec::new() })
    }

    /// The queue's database takes nothing at the moment.
    pub(super) fn is_stuck(&self) -> bool {
        self.journal.is_stuck()
    }

    /// Prepares an action whose inode is locked for it; the brain hears [`Msg::Prepared`].
    pub(super) fn prepare(&mut self, key: u64, action: NewAction) {
        if action.command == Command::Archive {
            return self.archives.push((key, action));
        }
        // Somebody may be waiting for it, and it may take long.
        self.prepare_together(vec![(key, action)]);
    }

    fn prepare_together(&self, jobs: Vec<(u64, NewAction)>) {
        let (shared, messages) = (Arc::clone(&self.shared), self.messages.clone());
        self.pool.run(move || {
            let look = |(key, action): (u64, NewAction)| {
                let prepared = prepare(&shared.fs, shared.group.as_ref(), &action);
                (key, crate::shared::gate(&shared, ActionId(key), &action, prepared))
            };
            let prepared = jobs.into_iter().map(look).collect();
            let _ = messages.send(Msg::Prepared(prepared));
        });
    }

    /// The removal of an object that its file has forgotten already; the brain hears [`Msg::Prepared`].
    pub(super) fn prepare_removal(&self, key: u64, action: NewAction, identity: model::Identity) {
        let (shared, messages) = (Arc::clone(&self.shared), self.messages.clone());
        self.pool.run(move || {
            let prepared = crate::prepare::Prepared::Run(None, identity);
            let prepared = crate::shared::gate(&shared, ActionId(key), &action, prepared);
            let _ = messages.send(Msg::Prepared(vec![(key, prepared)]));
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
        let archives = std::mem::take(&mut self.archives);
        let together = archives.len().div_ceil(PREPARING_THREADS).clamp(1, PREPARED_TOGETHER);
        let mut archives = archives.into_iter();
        loop {
            let some: Vec<_> = archives.by_ref().take(together).collect();
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
