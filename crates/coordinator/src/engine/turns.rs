//! Which of the works that are ready a mover gets next. Pure bookkeeping: no clocks, no locks, no files.
//!
//! 1. The most urgent class goes first; of sixteen turns a less urgent one that has something gets one ([`ClassTurns`]).
//! 2. Within a class archives take turns. One without room is passed over, and holds nobody up.
//! 3. Within an archive users take turns ([`FairQueue`]).
//! 4. Room is what the movers of an archive take at once, and what the agent takes altogether. Of each, an eighth is left to
//!    blocked readers, and the readers of one user get at most one half: whoever comes next finds room.

use model::{Class, ClassTurns, FairQueue};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

/// What decides about a work's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Names the work.
    pub(crate) key: u64,
    pub(crate) class: Class,
    pub(crate) archive_id: u32,
    /// The user it is done for.
    pub(crate) owner: u32,
}

/// Works that are ready, and where those are that were given out.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    ready: [Lane<T>; Class::ALL.len()],
    len: usize,
    classes: ClassTurns,
    rooms: Rooms,
    given: HashMap<u64, Place>,
}

#[derive(Debug)]
struct Lane<T> {
    archives: BTreeMap<u32, FairQueue<(Place, T)>>,
    /// The archive that had the last turn.
    last: u32,
}

/// How much movers take, and what of it is taken.
#[derive(Debug)]
struct Rooms {
    /// Altogether.
    limit: usize,
    all: Taken,
    /// By archive. Of one that is not named here nobody knows: it is not limited, since its works come back at once.
    limits: BTreeMap<u32, usize>,
    taken: BTreeMap<u32, Taken>,
}

/// Room that is taken.
#[derive(Debug, Default)]
struct Taken {
    /// By works that no reader waits for.
    background: usize,
    readers: usize,
    by_reader: HashMap<u32, usize>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        let rooms = Rooms { limit: usize::MAX, all: Taken::default(), limits: BTreeMap::new(), taken: BTreeMap::new() };
        let ready = Class::ALL.map(|_| Lane { archives: BTreeMap::new(), last: 0 });
        Self { ready, len: 0, classes: ClassTurns::default(), rooms, given: HashMap::new() }
    }
}

impl<T> Turns<T> {
    /// Adds a work that is ready.
    pub(crate) fn put(&mut self, place: Place, work: T) {
        if let Some(lane) = self.ready.get_mut(place.class as usize) {
            lane.archives.entry(place.archive_id).or_default().push(place.owner, (place, work));
            self.len += 1;
        }
    }

    /// Gives the work whose turn it is, if there is room for any. It takes room until [`Turns::ended`].
    pub(crate) fn give(&mut self) -> Option<T> {
        let Self { ready, classes, rooms, .. } = self;
        let class = classes.next(|class| ready.get(class as usize).is_some_and(|lane| lane.has(rooms)))?;
        let (place, work) = ready.get_mut(class as usize)?.pop(rooms)?;
        self.len -= 1;
        rooms.take(&place);
        self.given.insert(place.key, place);
        Some(work)
    }

    /// A work that was given has its result.
    pub(crate) fn ended(&mut self, key: u64) {
        if let Some(place) = self.given.remove(&key) {
            self.rooms.free(&place);
        }
    }

    /// Takes a work back that was not given yet.
    pub(crate) fn withdraw(&mut self, key: u64) -> Option<T> {
        let mut queues = self.ready.iter_mut().flat_map(|lane| lane.archives.values_mut());
        let work = queues.find_map(|queue| queue.remove(|(place, _)| place.key == key).pop());
        self.len -= usize::from(work.is_some());
        work.map(|(_, work)| work)
    }

    /// Works that are ready.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Those of one archive.
    pub(crate) fn len_of(&self, archive_id: u32) -> usize {
        self.ready.iter().filter_map(|lane| lane.archives.get(&archive_id)).map(FairQueue::len).sum()
    }

    /// What all movers of each archive take at once.
    pub(crate) fn set_rooms(&mut self, rooms: &[(u32, usize)]) {
        self.rooms.limits = rooms.iter().copied().collect();
    }

    /// What may be given out altogether.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.rooms.limit = limit.max(1);
    }
}

impl<T> Lane<T> {
    fn has(&self, rooms: &Rooms) -> bool {
        self.archives.values().any(|queue| queue.has(|_, (place, _)| rooms.has_room(place)))
    }

    fn pop(&mut self, rooms: &Rooms) -> Option<(Place, T)> {
        let after = (Bound::Excluded(self.last), Bound::Unbounded);
        let turns: Vec<u32> =
            self.archives.range(after).chain(self.archives.range(..=self.last)).map(|(id, _)| *id).collect();
        for archive_id in turns {
            let Some(queue) = self.archives.get_mut(&archive_id) else { continue };
            let popped = queue.pop_if(|_, (place, _)| rooms.has_room(place));
            if queue.is_empty() {
                self.archives.remove(&archive_id);
            }
            if popped.is_some() {
                self.last = archive_id;
                return popped;
            }
        }
        None
    }
}

impl Rooms {
    fn has_room(&self, place: &Place) -> bool {
        let limit = self.limits.get(&place.archive_id).copied().unwrap_or(usize::MAX);
        let here = self.taken.get(&place.archive_id);
        self.all.leaves_room(self.limit, place) && here.is_none_or(|taken| taken.leaves_room(limit, place)) && limit > 0
    }

    fn take(&mut self, place: &Place) {
        self.all.change(place, true);
        self.taken.entry(place.archive_id).or_default().change(place, true);
    }

    fn free(&mut self, place: &Place) {
        self.all.change(place, false);
        if let Some(taken) = self.taken.get_mut(&place.archive_id) {
            taken.change(place, false);
            if taken.background + taken.readers == 0 {
                self.taken.remove(&place.archive_id);
            }
        }
    }
}

/// What works that no reader waits for may take of `limit`.
fn for_background(limit: usize) -> usize {
    if limit == 1 { 1 } else { limit - limit.div_ceil(8) }
}

/// What the readers of one user may take of `limit`.
fn for_one_reader(limit: usize) -> usize {
    limit.div_ceil(2)
}

impl Taken {
    fn leaves_room(&self, limit: usize, place: &Place) -> bool {
        if self.background + self.readers >= limit {
            return false;
        }
        match place.class {
            Class::Reader => self.by_reader.get(&place.owner).copied().unwrap_or(0) < for_one_reader(limit),
            Class::Restore | Class::Remove | Class::Archive => self.background < for_background(limit),
        }
    }

    fn change(&mut self, place: &Place, more: bool) {
        let change = |count: &mut usize| *count = if more { *count + 1 } else { count.saturating_sub(1) };
        if place.class != Class::Reader {
            return change(&mut self.background);
        }
        change(&mut self.readers);
        let mine = self.by_reader.entry(place.owner).or_default();
        change(mine);
        if *mine == 0 {
            self.by_reader.remove(&place.owner);
        }
    }
}

#[cfg(test)]
mod tests;
