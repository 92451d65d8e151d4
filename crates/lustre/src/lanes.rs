//! What was received and not begun: a lane for each archive and class, in memory as far as it is short.
//!
//! What does not fit stays in the journal and is loaded when its turn comes near, so that memory does not grow with what the
//! coordinator hands out.

use crate::entry::Entry;
use model::{Class, ClassTurns};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Entries of a lane in memory, and how many are loaded at once.
pub(crate) const LANE: usize = 1024;

#[derive(Default)]
struct Lane {
    entries: VecDeque<Arc<Entry>>,
    /// The last one that is, or was, in memory.
    loaded: u64,
    /// There are more in the journal.
    more: bool,
    /// They are being loaded.
    loading: bool,
    /// Something came meanwhile.
    late: bool,
}

/// All lanes.
#[derive(Default)]
pub(crate) struct Lanes {
    lanes: BTreeMap<(u32, Class), Lane>,
    turns: BTreeMap<u32, ClassTurns>,
}

/// What a lane needs to be loaded with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Load {
    pub(crate) archive_id: u32,
    pub(crate) class: Class,
    pub(crate) after: u64,
}

impl Lanes {
    /// The journal has entries of this kind.
    pub(crate) fn note(&mut self, archive_id: u32, class: Class) {
        self.lanes.entry((archive_id, class)).or_default().more = true;
    }

    /// Enters what was just written down. Ids ascend.
    pub(crate) fn push(&mut self, entry: Arc<Entry>) {
        let lane = self.lanes.entry((entry.archive_id, entry.class)).or_default();
        if lane.more || lane.loading || lane.entries.len() >= LANE {
            lane.more = true;
            lane.late = true;
        } else {
            lane.loaded = entry.id;
            lane.entries.push_back(entry);
        }
    }

    /// Enters what was taken out, as the next.
    pub(crate) fn put_back(&mut self, entry: Arc<Entry>) {
        self.lanes.entry((entry.archive_id, entry.class)).or_default().entries.push_front(entry);
    }

    /// What came from the journal; `more` when there may be further entries.
    pub(crate) fn loaded(&mut self, load: Load, entries: Vec<Arc<Entry>>, last: u64, more: bool) {
        let lane = self.lanes.entry((load.archive_id, load.class)).or_default();
        lane.loading = false;
        lane.loaded = lane.loaded.max(last);
        lane.entries.extend(entries);
        // What came meanwhile may be on the page or not.
        lane.more = more || lane.late;
    }

    /// The next entry of an archive, by the classes' turns; what has to be loaded first, if anything has.
    pub(crate) fn next(&mut self, archive_id: u32) -> Result<Option<Arc<Entry>>, Load> {
        for class in Class::ALL {
            if let Some(lane) = self.lanes.get_mut(&(archive_id, class))
                && lane.entries.is_empty()
                && lane.more
                && !lane.loading
            {
                (lane.loading, lane.late) = (true, false);
                return Err(Load { archive_id, class, after: lane.loaded });
            }
        }
        let lanes = &self.lanes;
        let has = |class: Class| lanes.get(&(archive_id, class)).is_some_and(|lane| !lane.entries.is_empty());
        let Some(class) = self.turns.entry(archive_id).or_default().next(has) else { return Ok(None) };
        Ok(self.lanes.get_mut(&(archive_id, class)).and_then(|lane| lane.entries.pop_front()))
    }

    /// Takes an entry out that is in memory.
    pub(crate) fn take(&mut self, id: u64) -> Option<Arc<Entry>> {
        self.lanes.values_mut().find_map(|lane| {
            let at = lane.entries.iter().position(|entry| entry.id == id)?;
            lane.entries.remove(at)
        })
    }

    /// Takes out what the coordinator waits for longest of an archive and class, if it came by `until_ms`; or what has to be loaded first.
    pub(crate) fn take_old(
        &mut self,
        archive_id: u32,
        class: Class,
        until_ms: u64,
    ) -> Result<Option<Arc<Entry>>, Load> {
        let Some(lane) = self.lanes.get_mut(&(archive_id, class)) else { return Ok(None) };
        if lane.entries.is_empty() && lane.more && !lane.loading {
            (lane.loading, lane.late) = (true, false);
            return Err(Load { archive_id, class, after: lane.loaded });
        }
        let first = lane.entries.iter().position(|entry| entry.item.is_some());
        let old = first.filter(|at| lane.entries.get(*at).is_some_and(|entry| entry.created_ms <= until_ms));
        Ok(old.and_then(|at| lane.entries.remove(at)))
    }

    /// Takes out what the coordinator waits for, and leaves what is owed; with what has to be loaded for more.
    pub(crate) fn take_items(&mut self, archive_id: u32) -> (Vec<Arc<Entry>>, Vec<Load>) {
        let (mut items, mut loads) = (Vec::new(), Vec::new());
        for ((_, class), lane) in self.lanes.iter_mut().filter(|((of, _), _)| *of == archive_id) {
            let (taken, owed): (Vec<_>, Vec<_>) = lane.entries.drain(..).partition(|entry| entry.item.is_some());
            items.extend(taken);
            lane.entries = owed.into();
            if lane.entries.is_empty() && lane.more && !lane.loading {
                (lane.loading, lane.late) = (true, false);
                loads.push(Load { archive_id, class: *class, after: lane.loaded });
            }
        }
        (items, loads)
    }

    /// Whether something waits for an archive.
    pub(crate) fn has(&self, archive_id: u32) -> bool {
        let mut lanes = self.lanes.iter().filter(|((of, _), _)| *of == archive_id);
        lanes.any(|(_, lane)| !lane.entries.is_empty() || lane.more || lane.loading)
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.values().all(|lane| lane.entries.is_empty() && !lane.more && !lane.loading)
    }

    /// Archives that something waits for.
    pub(crate) fn archives(&self) -> Vec<u32> {
        let waiting = self.lanes.iter().filter(|(_, lane)| !lane.entries.is_empty() || lane.more);
        let mut archives: Vec<u32> = waiting.map(|((archive_id, _), _)| *archive_id).collect();
        archives.dedup();
        archives
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Command, Identity};

    fn entry(id: u64, class: Class) -> Arc<Entry> {
        let identity = Identity::default();
        let command = Command::Restore;
        Arc::new(Entry {
            id,
            class,
            command,
            archive_id: 1,
            created_ms: 0,
            identity,
            orphan: false,
            progressed: false,
            item: None,
        })
    }

    #[test]
    fn what_does_not_fit_is_loaded_in_its_order() {
        let mut lanes = Lanes::default();
        (1..=2 * LANE as u64).for_each(|id| lanes.push(entry(id, Class::Archive)));
        let mut seen = Vec::new();
        loop {
            match lanes.next(1) {
                Ok(Some(entry)) => seen.push(entry.id),
                Ok(None) => break,
                Err(load) => {
                    assert_eq!(load.after, seen.len() as u64);
                    assert!(lanes.has(1));
                    let page: Vec<_> = (load.after + 1..=2 * LANE as u64).map(|id| entry(id, Class::Archive)).collect();
                    let last = page.last().map_or(load.after, |entry| entry.id);
                    lanes.loaded(load, page, last, false);
                }
            }
        }
        assert_eq!(seen, (1..=2 * LANE as u64).collect::<Vec<_>>());
        assert!(!lanes.has(1));
    }

    #[test]
    fn readers_go_first_and_others_are_not_starved() {
        let mut lanes = Lanes::default();
        lanes.push(entry(1, Class::Archive));
        (2..40).for_each(|id| lanes.push(entry(id, Class::Reader)));
        let order: Vec<u64> = std::iter::from_fn(|| lanes.next(1).unwrap()).map(|entry| entry.id).collect();
        assert_eq!(order[0], 2);
        assert!(order[..20].contains(&1), "{order:?}");
    }

    #[test]
    fn a_waiting_entry_can_be_taken_out() {
        let mut lanes = Lanes::default();
        lanes.push(entry(1, Class::Archive));
        lanes.push(entry(2, Class::Archive));
        assert_eq!(lanes.take(1).unwrap().id, 1);
        assert!(lanes.take(1).is_none());
        assert_eq!(lanes.archives(), [1]);
        assert_eq!(lanes.next(1).unwrap().unwrap().id, 2);
    }
}
