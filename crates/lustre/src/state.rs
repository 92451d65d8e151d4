//! What is under way, under one lock; nothing here blocks or calls Lustre.

mod early;

use crate::entry::Entry;
use crate::lanes::Lanes;
use crate::retry::NO_MOVER;
use crate::workers::Job;
use agent::Work;
use model::{Class, Command, Extent, Failure, Fid, Identity, Outcome};
use queue::EndedItem;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sys::lustre::{CopyAction, Handle, Item};

/// Actions of one archive that may wait to be tried again before no further one is begun for it. Each holds a descriptor.
const MAX_WAITING: usize = 512;
/// How often it is looked whether what began early has a mover.
const EARLY_PAUSE: Duration = Duration::from_secs(1);
/// Extents of progress that are kept until they are reported.
const MAX_EXTENTS: usize = 16;

/// Why an action should end early. What is larger is not replaced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Stop {
    /// Its archive has no mover, and had none since this agent started.
    NoArchive,
    /// Its reader waited too long.
    TimedOut,
    /// The coordinator knows nothing of it any more.
    Lost,
    /// The coordinator asked for it.
    Cancelled,
}

/// Where an action is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// A worker begins it.
    Beginning,
    /// It is ready for the agent.
    Queued,
    /// The agent has it.
    Given,
    /// A worker ends it.
    Ending,
    /// It failed for now and is tried again at that time.
    Waiting(Instant),
}

/// What a mover is told, as often as it is tried.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    pub(crate) primary_path: String,
    pub(crate) write_path: String,
    pub(crate) identity: Identity,
    pub(crate) expected_size: Option<u64>,
    /// A restore without a hash to compare fails.
    pub(crate) needs_hash: bool,
    pub(crate) tree_path: Vec<u8>,
    pub(crate) shown: String,
    pub(crate) owner: u32,
    pub(crate) size: u64,
    pub(crate) data: Vec<u8>,
}

/// An action that a worker, or the agent, has or had.
pub(crate) struct Active {
    pub(crate) entry: Arc<Entry>,
    pub(crate) phase: Phase,
    /// The library's; not here while a worker has it, and never for what is owed.
    pub(crate) action: Option<CopyAction>,
    /// A mover may work on it; before that it is begun again.
    pub(crate) begun: bool,
    /// A worker reports with it.
    pub(crate) reporting: bool,
    /// Came while a worker reported.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) prepared: Prepared,
    pub(crate) stop: Option<Stop>,
    pub(crate) attempts: u32,
    /// How often the agent took it.
    pub(crate) given: u32,
    pub(crate) failing_since: Option<Instant>,
    /// It began before its turn, so that the coordinator hears of it.
    early: bool,
    /// The agent was told last that it should end early.
    pub(crate) stop_told: Option<Instant>,
    pub(crate) last_failure: Option<Failure>,
    pub(crate) bytes_done: u64,
    pub(crate) extents: Vec<Extent>,
    pub(crate) last_extent: Extent,
    pub(crate) since: Instant,
    pub(crate) reported: Instant,
    /// The journal says that progress was told.
    pub(crate) progressed: bool,
    /// It takes one of its archive's places.
    in_flight: bool,
}

impl Active {
    fn new(entry: Arc<Entry>) -> Self {
        let now = Instant::now();
        Self {
            progressed: entry.progressed,
            entry,
            phase: Phase::Beginning,
            action: None,
            begun: false,
            reporting: false,
            outcome: None,
            prepared: Prepared::default(),
            stop: None,
            attempts: 0,
            given: 0,
            failing_since: None,
            early: false,
            stop_told: None,
            last_failure: None,
            bytes_done: 0,
            extents: Vec::new(),
            last_extent: Extent { offset: 0, length: 0 },
            since: now,
            reported: now,
            in_flight: false,
        }
    }

    /// Takes in what a mover moved: parts that touch become one.
    pub(crate) fn moved(&mut self, moved: Extent) {
        if moved.length == 0 || moved.length == u64::MAX {
            return;
        }
        self.bytes_done = self.bytes_done.saturating_add(moved.length);
        let Some(end) = moved.offset.checked_add(moved.length) else { return };
        let room = self.extents.len() < MAX_EXTENTS;
        let joined = self.extents.iter_mut().find(|e| e.offset <= end && moved.offset <= e.offset + e.length);
        match joined {
            Some(e) => {
                let last = end.max(e.offset + e.length);
                e.offset = e.offset.min(moved.offset);
                e.length = last - e.offset;
            }
            None if room => self.extents.push(moved),
            // Progress is for people: what is not told does no harm.
            None => {}
        }
    }

    /// It waits for its turn.
    pub(crate) fn is_early(&self) -> bool {
        self.early
    }

    fn is_bound(&self) -> bool {
        let waits = matches!(self.phase, Phase::Waiting(_)) && self.action.is_none() && !self.reporting;
        self.entry.item.is_some() && !waits
    }

    fn work(&self) -> Work {
        let (entry, prepared) = (&self.entry, &self.prepared);
        Work {
            key: entry.id,
            archive_id: entry.archive_id,
            command: entry.command,
            primary_path: prepared.primary_path.clone(),
            write_path: prepared.write_path.clone(),
            extent: Extent::WHOLE,
            data: prepared.data.clone(),
            identity: prepared.identity.clone(),
            file_path: prepared.shown.clone(),
            expected_size: prepared.expected_size,
            tree_path: prepared.tree_path.clone(),
            // Whatever an earlier process or attempt came to, it was after that. What is owed may be left from any of them.
            attempted_since_ms: if entry.orphan || self.given > 0 || entry.item.is_none() {
                entry.created_ms.max(1)
            } else {
                0
            },
            metadata_only: false,
            owner: prepared.owner,
            reader_waits: entry.class == Class::Reader,
            // Movers have mounts of their own, and what one writes there is not to be synced through another.
            sync_target: entry.is_restore(),
            size: prepared.size,
            keepalive: None,
        }
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) lanes: Lanes,
    pub(crate) active: HashMap<u64, Active>,
    /// By [`Entry::key`].
    pub(crate) by_key: HashMap<(u64, Fid), u64>,
    /// For the agent, in order.
    ready: VecDeque<u64>,
    /// For the agent.
    pub(crate) cancels: Vec<u64>,
    pub(crate) jobs: VecDeque<Job>,
    /// Before those.
    pub(crate) urgent: VecDeque<Job>,
    /// Refusals that wait for a registration to be told by; as few as the coordinator has slots.
    pub(crate) untold: Vec<(Item, Failure)>,
    /// Archives with movers now, and what those take at once.
    served: BTreeMap<u32, usize>,
    /// Archives that ever had a mover, and when the last one was added.
    pub(crate) known: BTreeSet<u32>,
    pub(crate) known_since: Option<Instant>,
    /// Since when those of them have no mover that have none.
    away: BTreeMap<u32, Instant>,
    /// What began early and waits for its turn, by archive.
    early: BTreeSet<(u32, u64)>,
    /// No further mover is expected in the near future: there is no reason to wait with the first registration.
    pub(crate) movers_started: bool,
    flight: BTreeMap<u32, usize>,
    held: BTreeMap<u32, usize>,
    pub(crate) limit: usize,
    /// What actions are begun with, while there is a registration.
    pub(crate) handle: Option<Handle>,
    /// The agent has to register anew: nothing begins until then, so that what runs comes to an end.
    pub(crate) renewing: bool,
    /// Something said that the coordinator may have forgotten this agent.
    pub(crate) suspect: bool,
    /// The registration is old: it is renewed when nothing is under way.
    pub(crate) old: bool,
    /// To be written down as over.
    pub(crate) ended: Vec<EndedItem>,
    /// Being written down as over.
    pub(crate) recording: BTreeSet<u64>,
    pub(crate) last_activity: Option<Instant>,
    /// What has this id or a lower one was received by an earlier process.
    pub(crate) last_orphan: u64,
    /// Nothing is begun any more.
    pub(crate) stopping: bool,
    /// Everything has ended.
    pub(crate) closed: bool,
}

impl State {
    /// Movers came or went.
    pub(crate) fn serve(&mut self, served: &[(u32, usize)]) {
        self.served = served.iter().copied().collect();
        let before = self.known.len();
        self.known.extend(self.served.keys());
        if self.known.len() != before {
            self.known_since = Some(Instant::now());
        }
        let served = &self.served;
        self.away.retain(|archive_id, _| !served.contains_key(archive_id));
        for archive_id in self.known.iter().filter(|archive_id| !served.contains_key(archive_id)) {
            self.away.entry(*archive_id).or_insert_with(Instant::now);
        }
        self.schedule();
    }

    /// For how long an archive has had no mover that had one.
    pub(crate) fn away_for(&self, archive_id: u32) -> Duration {
        self.away.get(&archive_id).map_or(Duration::ZERO, Instant::elapsed)
    }

    /// There is a registration: what waited for one goes on.
    pub(crate) fn registered(&mut self, handle: Handle) {
        self.handle = Some(handle);
        (self.suspect, self.renewing, self.old) = (false, false, false);
        let untold = std::mem::take(&mut self.untold);
        self.urgent.extend(untold.into_iter().map(|(item, failure)| Job::Refuse(item, failure)));
        self.schedule();
    }

    /// Begins what there is room for.
    pub(crate) fn schedule(&mut self) {
        if self.stopping || self.renewing || self.handle.is_none() {
            return;
        }
        for archive_id in self.served.keys().copied().collect::<Vec<_>>() {
            while self.has_place(archive_id) {
                if let Some(id) = self.next_early(archive_id) {
                    self.promote(id);
                    continue;
                }
                if !self.may_hold(archive_id) {
                    break;
                }
                match self.lanes.next(archive_id) {
                    Err(load) => self.urgent.push_back(Job::Load(load)),
                    Ok(None) => break,
                    Ok(Some(entry)) => self.begin(entry),
                }
            }
        }
    }

    /// Whether a mover could take one more.
    fn has_place(&self, archive_id: u32) -> bool {
        let of = |counts: &BTreeMap<u32, usize>| counts.get(&archive_id).copied().unwrap_or(0);
        let all: usize = self.flight.values().sum();
        of(&self.flight) < of(&self.served) && all < self.limit.max(1)
    }

    /// Whether one more may be begun, as far as descriptors go.
    fn may_hold(&self, archive_id: u32) -> bool {
        let of = |counts: &BTreeMap<u32, usize>| counts.get(&archive_id).copied().unwrap_or(0);
        of(&self.held) < of(&self.served).saturating_add(MAX_WAITING)
    }

    /// Has a worker begin it.
    pub(crate) fn begin(&mut self, entry: Arc<Entry>) {
        self.begin_as(entry, false);
    }

    fn begin_as(&mut self, entry: Arc<Entry>, early: bool) {
        let id = entry.id;
        if self.active.contains_key(&id) || self.recording.contains(&id) {
            return;
        }
        if let Some(key) = entry.key() {
            self.by_key.insert(key, id);
        }
        *self.held.entry(entry.archive_id).or_default() += 1;
        self.active.insert(id, Active { early, ..Active::new(entry) });
        self.set_in_flight(id, !early);
        self.jobs.push_back(Job::Begin(id));
    }

    /// It goes back to where it came from: nothing was begun.
    pub(crate) fn put_back(&mut self, id: u64) {
        if let Some(active) = self.leave(id) {
            self.lanes.put_back(active.entry);
        }
    }

    /// Ends what an earlier process left for archives that have no mover any more. What we owe them waits in the journal.
    pub(crate) fn refuse_unserved(&mut self) {
        if self.handle.is_none() || self.renewing {
            return;
        }
        for archive_id in self.lanes.archives() {
            if self.known.contains(&archive_id) {
                continue;
            }
            let (entries, loads) = self.lanes.take_items(archive_id);
            self.urgent.extend(loads.into_iter().map(Job::Load));
            for entry in entries {
                let id = entry.id;
                self.begin(entry);
                self.stop(id, Stop::NoArchive);
            }
        }
    }

    /// Takes the library's handles of what no mover has: it is begun again with the next registration, as a new process
    /// would. A restore whose progress was told cannot be, and stays. The library never frees what is left to it: for when it has to be.
    pub(crate) fn detach(&mut self) -> Vec<CopyAction> {
        let idle = |active: &&mut Active| {
            matches!(active.phase, Phase::Queued | Phase::Waiting(_)) && !active.reporting && !active.progressed
        };
        let mut actions = Vec::new();
        let mut detached = Vec::new();
        for (id, active) in self.active.iter_mut().filter(|(_, active)| active.entry.item.is_some()) {
            if let Some(active) = Some(active).filter(idle)
                && let Some(action) = active.action.take()
            {
                active.begun = false;
                actions.push(action);
                if active.phase == Phase::Queued {
                    active.phase = Phase::Waiting(Instant::now());
                    detached.push(*id);
                }
            }
        }
        detached.into_iter().for_each(|id| self.set_in_flight(id, false));
        actions
    }

    /// Whether something needs the registration it was begun with.
    pub(crate) fn is_bound(&self) -> bool {
        self.active.values().any(Active::is_bound)
    }

    /// Gives it to the agent, again or for the first time; when it began early, not before it is its turn.
    pub(crate) fn give(&mut self, id: u64) {
        if let Some(active) = self.active.get_mut(&id).filter(|active| active.early) {
            self.early.insert((active.entry.archive_id, id));
            return self.wait(id, Instant::now() + EARLY_PAUSE);
        }
        self.set_in_flight(id, true);
        let Some(active) = self.active.get_mut(&id) else { return };
        active.phase = Phase::Queued;
        active.bytes_done = 0;
        self.ready.push_back(id);
    }

    /// Up to `max` works, and whether there are more.
    pub(crate) fn take_ready(&mut self, max: usize) -> Vec<Work> {
        let mut works = Vec::new();
        while works.len() < max
            && let Some(id) = self.ready.pop_front()
        {
            if let Some(active) = self.active.get_mut(&id).filter(|active| active.phase == Phase::Queued) {
                active.phase = Phase::Given;
                works.push(active.work());
                active.given += 1;
            }
        }
        works
    }

    /// It should end early.
    pub(crate) fn stop(&mut self, id: u64, why: Stop) {
        let Some(active) = self.active.get_mut(&id) else { return };
        active.stop = active.stop.max(Some(why));
        match active.phase {
            // Whoever is at it looks.
            Phase::Beginning | Phase::Ending => {}
            Phase::Given => {
                active.stop_told = Some(Instant::now());
                self.cancels.push(id);
            }
            Phase::Queued | Phase::Waiting(_) => self.outcome(id, Outcome::Failed(Failure::cancelled())),
        }
    }

    /// Has a worker end it, or try it again.
    pub(crate) fn outcome(&mut self, id: u64, outcome: Outcome) {
        let Some(active) = self.active.get_mut(&id) else { return };
        active.phase = Phase::Ending;
        if active.reporting {
            active.outcome = Some(outcome);
        } else {
            self.urgent.push_back(Job::Finish(id, outcome));
        }
    }

    /// Whether an attempt of an archive that ends now may have left an object that nobody told of. A mover that says by itself that it failed left none.
    ///
    /// Of an orphan that has not begun it is not known: an earlier process may have ended it well, and then other files may name its object.
    pub(crate) fn may_have_left(&self, id: u64, outcome: &Outcome) -> bool {
        let Some(active) = self.active.get(&id).filter(|active| active.entry.command == Command::Archive) else {
            return false;
        };
        let Outcome::Failed(failure) = outcome else { return false };
        let died = |failure: &Failure| failure.errno == NO_MOVER;
        let mover_died = died(failure) || active.last_failure.as_ref().is_some_and(died);
        match active.given {
            0 => active.entry.orphan && active.begun,
            1 => active.entry.orphan || mover_died,
            _ => true,
        }
    }

    /// It failed for now.
    pub(crate) fn wait(&mut self, id: u64, until: Instant) {
        self.set_in_flight(id, false);
        if let Some(active) = self.active.get_mut(&id) {
            active.phase = Phase::Waiting(until);
        }
        self.schedule();
    }

    /// It is over, and is written down as that.
    pub(crate) fn conclude(&mut self, id: u64, failure: Option<Failure>) {
        if let Some(active) = self.leave(id) {
            self.recording.insert(id);
            self.ended.push(EndedItem {
                id,
                path: active.entry.named(&active.prepared.shown),
                bytes: active.bytes_done.max(if failure.is_none() { active.prepared.size } else { 0 }),
                finished_ms: crate::entry::now_ms(),
                failure,
            });
        }
        self.schedule();
    }

    /// It stays in the journal, for the next process.
    pub(crate) fn leave(&mut self, id: u64) -> Option<Active> {
        self.set_in_flight(id, false);
        let active = self.active.remove(&id)?;
        self.early.remove(&(active.entry.archive_id, id));
        if let Some(key) = active.entry.key()
            && self.by_key.get(&key) == Some(&id)
        {
            self.by_key.remove(&key);
        }
        if let Some(held) = self.held.get_mut(&active.entry.archive_id) {
            *held = held.saturating_sub(1);
        }
        self.last_activity = Some(Instant::now());
        Some(active)
    }

    fn set_in_flight(&mut self, id: u64, now: bool) {
        let Some(active) = self.active.get_mut(&id) else { return };
        if active.in_flight == now {
            return;
        }
        active.in_flight = now;
        let flight = self.flight.entry(active.entry.archive_id).or_default();
        *flight = if now { *flight + 1 } else { flight.saturating_sub(1) };
    }

    /// What is under way of this cookie and file. One that is being ended may be sent again at once: the coordinator retries.
    pub(crate) fn running(&self, cookie: u64, fid: Fid) -> Option<u64> {
        let id = self.by_key.get(&(cookie, fid)).copied()?;
        self.active.get(&id).filter(|active| active.phase != Phase::Ending).map(|_| id)
    }

    /// Whether something is ready for the agent.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether an archive has a mover now.
    pub(crate) fn is_served(&self, archive_id: u32) -> bool {
        self.served.contains_key(&archive_id)
    }

    /// Nothing is begun or runs, and nothing waits that could begin.
    pub(crate) fn is_idle(&self) -> bool {
        self.active.is_empty() && self.served.keys().all(|archive_id| !self.lanes.has(*archive_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::lustre::Action;

    fn active() -> Active {
        Active::new(Arc::new(Entry {
            id: 1,
            class: Class::Archive,
            command: Command::Archive,
            archive_id: 1,
            created_ms: 7,
            identity: Identity::default(),
            orphan: false,
            progressed: false,
            item: None,
        }))
    }

    #[test]
    fn parts_that_touch_become_one_and_their_number_is_bounded() {
        let mut action = active();
        for n in 0..100 {
            action.moved(Extent { offset: n * 10, length: 10 });
        }
        assert_eq!(action.extents, [Extent { offset: 0, length: 1000 }]);
        for n in 0..100 {
            action.moved(Extent { offset: 5000 + n * 20, length: 10 });
        }
        action.moved(Extent { offset: u64::MAX, length: 2 });
        assert_eq!(action.extents.len(), MAX_EXTENTS);
    }

    #[test]
    fn a_repeated_attempt_says_since_when_there_may_be_something() {
        let fid = Fid { seq: 1, oid: 1, ver: 0 };
        let item = Item::new(Action::Archive, fid, fid, Extent::WHOLE, 1, 0, b"").unwrap();
        let entry = Entry { item: Some(item), ..Entry::clone(&active().entry) };
        let mut action = Active::new(Arc::new(entry));
        assert_eq!(action.work().attempted_since_ms, 0);
        action.given = 1;
        assert_eq!(action.work().attempted_since_ms, 7);
        assert_eq!(active().work().attempted_since_ms, 7, "owed");
    }
}
