//! The window on the queue: a bounded number of entries of each class and owner, in fair order.

use model::{ActionId, Class, ClassTurns, FairQueue};
use queue::{Cursor, Queue, QueueError, QueuedAction};
use std::collections::{HashMap, HashSet};

/// Entries of one owner and class that are read at a time.
const PAGE: usize = 256;
/// Below this many entries a class, or an owner's part of it, is read again.
const LOW: usize = 64;

/// Entries that are in memory, waiting for their turn.
#[derive(Default)]
pub(crate) struct Lanes {
    lanes: HashMap<Class, FairQueue<QueuedAction>>,
    cursors: HashMap<(Class, u32), Cursor>,
    /// Everything that was read and whose end is not recorded yet: it must not be read a second time.
    known: HashSet<ActionId>,
    /// Classes of which everything was read that there was.
    exhausted: HashSet<Class>,
    /// But for these owners: there was enough of theirs in memory.
    unread: HashSet<(Class, u32)>,
    /// Classes that something was added to: perhaps for an owner of whom nothing is in memory.
    fresh: HashSet<Class>,
    classes: ClassTurns,
}

impl Lanes {
    /// The entry whose turn it is, of those of archives that have room.
    pub(crate) fn pop(&mut self, has_room: impl Fn(u32) -> bool) -> Option<QueuedAction> {
        let Self { lanes, classes, .. } = self;
        let may_go = |_: u32, entry: &QueuedAction| has_room(entry.action.archive_id);
        let class = classes.next(|class| lanes.get(&class).is_some_and(|lane| lane.has(may_go)))?;
        let lane = lanes.get_mut(&class)?;
        let entry = lane.pop_if(may_go)?;
        let owner = entry.action.owner;
        if lane.len_of(owner) < LOW && self.unread.remove(&(class, owner)) {
            self.exhausted.remove(&class);
        }
        Some(entry)
    }

    /// Reads more of classes and owners of whom little is left, or nothing that has room. `next_due` of the queue is asked by
    /// the caller.
    pub(crate) fn refill(
        &mut self,
        queue: &dyn Queue,
        now_ms: u64,
        has_room: impl Fn(u32) -> bool,
    ) -> Result<(), QueueError> {
        for class in Class::ALL {
            let lane = self.lanes.entry(class).or_default();
            let enough = || lane.len() >= LOW && lane.has(|_, entry| has_room(entry.action.archive_id));
            if self.exhausted.contains(&class) || (!self.fresh.contains(&class) && enough()) {
                continue;
            }
            let mut found = false;
            for owner in queue.owners(class, now_ms)? {
                if lane.len_of(owner) >= LOW {
                    self.unread.insert((class, owner));
                    continue;
                }
                let cursor = self.cursors.entry((class, owner)).or_default();
                let page = queue.ready(class, owner, *cursor, now_ms, PAGE)?;
                if let Some(last) = page.last() {
                    *cursor = Cursor { not_before_ms: last.action.not_before_ms, id: last.id };
                    found = true;
                }
                for entry in page {
                    if self.known.insert(entry.id) {
                        lane.push(owner, entry);
                    }
                }
            }
            self.fresh.remove(&class);
            if !found {
                self.exhausted.insert(class);
            }
        }
        Ok(())
    }

    /// Something was written that may lie before the place read so far.
    pub(crate) fn rewind(&mut self, class: Class, owner: u32, not_before_ms: u64) {
        self.exhausted.remove(&class);
        self.fresh.insert(class);
        if let Some(cursor) = self.cursors.get_mut(&(class, owner)) {
            *cursor = (*cursor).min(Cursor { not_before_ms, id: ActionId(0) });
        }
    }

    /// Time passed: what was not ready may be now.
    pub(crate) fn look_again(&mut self) {
        self.exhausted.clear();
    }

    /// The entry's end, or its retry, is recorded.
    pub(crate) fn forget(&mut self, id: ActionId) {
        self.known.remove(&id);
    }

    /// Whether the entry is in memory (waiting here, or further on).
    pub(crate) fn knows(&self, id: ActionId) -> bool {
        self.known.contains(&id)
    }
}

#[cfg(test)]
mod tests;
