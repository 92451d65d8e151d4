//! The window on the queue: a bounded number of entries of each class and owner, in fair order.

use model::{ActionId, Class, FairQueue};
use queue::{Cursor, Queue, QueueError, QueuedAction};
use std::collections::{HashMap, HashSet};

/// Entries of one owner and class that are read at a time.
const PAGE: usize = 256;
/// Below this many entries a class is read again.
const LOW: usize = 64;

/// Entries that are in memory, waiting for their turn.
#[derive(Default)]
pub(crate) struct Lanes {
    lanes: HashMap<Class, FairQueue<QueuedAction>>,
    cursors: HashMap<(Class, u32), Cursor>,
    /// Everything that was read and whose end is not recorded yet: it must not be read a second time.
    known: HashSet<ActionId>,
    exhausted: HashSet<Class>,
}

impl Lanes {
    /// The most urgent entry whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<QueuedAction> {
        Class::ALL.iter().find_map(|class| self.lanes.get_mut(class)?.pop())
    }

    /// Reads more where it runs low. `next_due` of the queue is asked by the caller.
    pub(crate) fn refill(&mut self, queue: &dyn Queue, now_ms: u64) -> Result<(), QueueError> {
        for class in Class::ALL {
            let lane = self.lanes.entry(class).or_default();
            if lane.len() >= LOW || self.exhausted.contains(&class) {
                continue;
            }
            let mut found = false;
            for owner in queue.owners(class, now_ms)? {
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
            if !found {
                self.exhausted.insert(class);
            }
        }
        Ok(())
    }

    /// Something was written that may lie before the place read so far.
    pub(crate) fn rewind(&mut self, class: Class, owner: u32, not_before_ms: u64) {
        self.exhausted.remove(&class);
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
