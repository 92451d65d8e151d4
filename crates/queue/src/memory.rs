//! The queue in memory: for tests and benchmarks, and the model that the durable one is compared with.
//!
//! Not for: anything that has to survive its process.

mod sharing;

use crate::tally::{RequestCounts, Retention, Tally, clamp};
use crate::{
    About, Change, Cursor, Finished, ListFilter, NewAction, ObjectRef, OrphanCheck, Queue, QueueError, QueuedAction,
    Removal, RequestId, RequestStatus, Retired, RetiredObject, Sharing, Standing, SyncedStamp, Totals,
};
use model::{ActionId, Class, Command, Failure, FileHandle};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// See the module. Never fails.
#[derive(Debug, Default)]
pub struct MemoryQueue {
    state: Mutex<State>,
}

impl MemoryQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty queue that keeps other numbers of finished things.
    #[must_use]
    pub fn with_retention(retention: Retention) -> Self {
        Self { state: Mutex::new(State { retention, ..State::default() }) }
    }
}

#[derive(Debug, Default)]
struct State {
    retention: Retention,
    last_id: u64,
    live: BTreeMap<ActionId, QueuedAction>,
    order: BTreeSet<(Class, u32, Cursor)>,
    by_file: BTreeMap<FileHandle, BTreeSet<ActionId>>,
    counts: BTreeMap<(Class, Command, u32), u64>,
    finished: BTreeMap<ActionId, Finished>,
    successes: VecDeque<ActionId>,
    failures: VecDeque<ActionId>,
    succeeded: u64,
    failed: u64,
    requests: BTreeMap<RequestId, RequestCounts>,
    /// Requests with nothing left to do: (last finish, id), the oldest first.
    done: BTreeSet<(u64, RequestId)>,
    stamps: BTreeMap<FileHandle, SyncedStamp>,
    copies: BTreeMap<FileHandle, BTreeSet<ObjectRef>>,
    /// In the order in which they were first owed.
    orphans: Vec<OrphanCheck>,
    objects: sharing::Objects,
}

fn order_key(entry: &QueuedAction) -> (Class, u32, Cursor) {
    (entry.action.class, entry.action.owner, Cursor { not_before_ms: entry.action.not_before_ms, id: entry.id })
}

impl State {
    fn submit(&mut self, action: &NewAction, tally: &mut Tally) -> ActionId {
        self.last_id += 1;
        let id = ActionId(self.last_id);
        let mut action = action.clone();
        action.not_before_ms = clamp(action.not_before_ms);
        action.created_ms = clamp(action.created_ms);
        tally.submitted(action.request, action.class, action.command, action.archive_id);
        if let Some(file) = &action.file {
            self.by_file.entry(file.clone()).or_default().insert(id);
        }
        let entry = QueuedAction { id, action, attempts: 0, last_failure: None };
        self.order.insert(order_key(&entry));
        self.live.insert(id, entry);
        id
    }

    fn finish(&mut self, id: ActionId, result: &Result<(), Failure>, bytes: u64, at_ms: u64, tally: &mut Tally) {
        let Some(entry) = self.live.remove(&id) else { return };
        self.objects.retired.remove(&id);
        self.order.remove(&order_key(&entry));
        let action = entry.action;
        if let Some(file) = action.file
            && let Some(ids) = self.by_file.get_mut(&file)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_file.remove(&file);
            }
        }
        let (bytes, finished_ms) = (clamp(bytes), clamp(at_ms));
        tally.finished((action.request, action.class, action.command, action.archive_id), result, bytes, finished_ms);
        if result.is_ok() { &mut self.successes } else { &mut self.failures }.push_back(id);
        let finished = Finished {
            id,
            request: action.request,
            command: action.command,
            archive_id: action.archive_id,
            path: action.path,
            result: result.clone(),
            bytes,
            created_ms: action.created_ms,
            finished_ms,
        };
        self.finished.insert(id, finished);
    }

    /// Changes a live entry and puts it at its new place in the order.
    fn alter(&mut self, id: ActionId, change: impl FnOnce(&mut QueuedAction)) {
        if let Some(entry) = self.live.get_mut(&id) {
            self.order.remove(&order_key(entry));
            change(entry);
            self.order.insert(order_key(entry));
        }
    }

    fn apply(&mut self, change: &Change, tally: &mut Tally) {
        match change {
            Change::Finish { id, result, bytes, finished_ms } => self.finish(*id, result, *bytes, *finished_ms, tally),
            Change::Retry { id, not_before_ms, failure } => self.alter(*id, |entry| {
                entry.attempts = entry.attempts.saturating_add(1);
                entry.action.not_before_ms = clamp(*not_before_ms);
                entry.last_failure = Some(failure.clone());
            }),
            Change::PutBack { id, not_before_ms, failure } => self.alter(*id, |entry| {
                entry.action.not_before_ms = clamp(*not_before_ms);
                entry.last_failure = Some(failure.clone());
            }),
            Change::Promote { id, class, not_before_ms } => self.alter(*id, |entry| {
                tally.moved(entry.action.class, *class, entry.action.command, entry.action.archive_id);
                entry.action.class = *class;
                entry.action.not_before_ms = clamp(*not_before_ms);
            }),
            Change::SetStamp { file, stamp } => {
                self.stamps.insert(file.clone(), stamp.clone());
            }
            Change::ForgetStamp { file } => {
                self.stamps.remove(file);
                self.objects.abouts.remove(file);
                self.copies.remove(file);
            }
            Change::SetCopies { file, copies } => {
                self.copies.insert(file.clone(), copies.iter().cloned().collect());
            }
            Change::OweOrphanCheck(check) => {
                match self.orphans.iter_mut().find(|c| c.archive_id == check.archive_id && c.uuid == check.uuid) {
                    Some(owed) => *owed = check.clone(),
                    None => self.orphans.push(check.clone()),
                }
            }
            Change::SettleOrphanCheck { archive_id, uuid } => {
                self.orphans.retain(|c| c.archive_id != *archive_id || c.uuid != *uuid);
            }
            Change::Submit(action) => {
                self.submit(action, tally);
            }
            Change::Describe { file, about } => {
                self.objects.abouts.insert(file.clone(), about.clone());
            }
            Change::Retire { removal, retired } => {
                let id = self.submit(removal, tally);
                let retired = Retired { retired_ms: clamp(retired.retired_ms), ..retired.clone() };
                self.objects.retired.insert(id, retired);
            }
            Change::Share { object, complete, files } => self.objects.share(object, *complete, files),
            Change::ForgetReferrer { archive_id, uuid, file } => {
                self.objects.referrers.remove(&(*archive_id, uuid.clone(), file.to_bytes()));
            }
            Change::ForgetShared { archive_id, uuid } => self.objects.forget(*archive_id, uuid),
            Change::Doubt => {
                self.objects.doubt(ActionId(self.last_id));
                self.stamps.values_mut().for_each(|stamp| stamp.object = None);
                self.copies.clear();
                self.orphans.clear();
            }
        }
    }

    /// Removals that wait and are wanted, by id.
    fn retired<'a>(&'a self, wanted: impl Fn(&RetiredObject) -> bool + 'a) -> impl Iterator<Item = RetiredObject> + 'a {
        let object = |(id, retired): (&ActionId, &Retired)| {
            let NewAction { archive_id, identity, not_before_ms, .. } = &self.live.get(id)?.action;
            let object = ObjectRef { archive_id: *archive_id, uuid: identity.uuid.clone(), url: identity.url.clone() };
            Some(RetiredObject { id: *id, object, retired: retired.clone(), until_ms: *not_before_ms })
        };
        self.objects.retired.iter().filter_map(object).filter(move |found| wanted(found))
    }

    /// The end of a transaction: counters, and what is now too old to be kept.
    fn settle(&mut self, tally: Tally) {
        for (key, by) in tally.live {
            let count = self.counts.entry(key).or_default();
            *count = count.saturating_add_signed(by);
        }
        self.counts.retain(|_, n| *n > 0);
        self.succeeded += tally.succeeded;
        self.failed += tally.failed;
        for (id, more) in tally.requests {
            let counts = self.requests.entry(id).or_default();
            self.done.remove(&(counts.last_ms, id));
            counts.add(&more);
            if counts.is_done() {
                self.done.insert((counts.last_ms, id));
            }
        }
        for (kept, limit) in
            [(&mut self.successes, self.retention.successes), (&mut self.failures, self.retention.failures)]
        {
            while kept.len() as u64 > limit
                && let Some(id) = kept.pop_front()
            {
                self.finished.remove(&id);
            }
        }
        let Some(now_ms) = tally.finished_ms else { return };
        let oldest_kept_ms = now_ms.saturating_sub(self.retention.request_ms);
        while let Some(&(last_ms, id)) = self.done.first()
            && (last_ms < oldest_kept_ms || self.done.len() as u64 > self.retention.requests)
        {
            self.done.pop_first();
            self.requests.remove(&id);
        }
    }
}

impl Queue for MemoryQueue {
    fn submit(&self, actions: &[NewAction]) -> Result<Vec<ActionId>, QueueError> {
        let mut state = self.state.lock();
        let mut tally = Tally::default();
        let ids = actions.iter().map(|a| state.submit(a, &mut tally)).collect();
        state.settle(tally);
        Ok(ids)
    }

    fn apply(&self, changes: &[Change]) -> Result<(), QueueError> {
        let mut state = self.state.lock();
        let mut tally = Tally::default();
        for change in changes {
            state.apply(change, &mut tally);
        }
        state.settle(tally);
        Ok(())
    }

    fn owners(&self, class: Class, now_ms: u64) -> Result<Vec<u32>, QueueError> {
        let state = self.state.lock();
        let mut owners = Vec::new();
        let mut from = Some(0);
        while let Some(lowest) = from
            && let Some(&(of, owner, first)) = state.order.range((class, lowest, Cursor::default())..).next()
            && of == class
        {
            if first.not_before_ms <= now_ms {
                owners.push(owner);
            }
            from = owner.checked_add(1);
        }
        Ok(owners)
    }

    fn ready(
        &self,
        class: Class,
        owner: u32,
        after: Cursor,
        now_ms: u64,
        limit: usize,
    ) -> Result<Vec<QueuedAction>, QueueError> {
        let state = self.state.lock();
        Ok(state
            .order
            .range((class, owner, after)..)
            .take_while(|(c, o, at)| (*c, *o) == (class, owner) && at.not_before_ms <= now_ms)
            .filter(|(_, _, at)| *at != after)
            .take(limit)
            .filter_map(|(_, _, at)| state.live.get(&at.id).cloned())
            .collect())
    }

    fn next_ready_ms(&self, now_ms: u64) -> Result<Option<u64>, QueueError> {
        Ok(self.state.lock().order.iter().map(|(_, _, at)| at.not_before_ms).filter(|ms| *ms > now_ms).min())
    }

    fn get(&self, id: ActionId) -> Result<Option<QueuedAction>, QueueError> {
        Ok(self.state.lock().live.get(&id).cloned())
    }

    fn of_file(&self, file: &FileHandle) -> Result<Vec<QueuedAction>, QueueError> {
        let state = self.state.lock();
        let ids = state.by_file.get(file).into_iter().flatten();
        Ok(ids.filter_map(|id| state.live.get(id).cloned()).collect())
    }

    fn list(&self, filter: &ListFilter, after: ActionId, limit: usize) -> Result<Vec<QueuedAction>, QueueError> {
        let state = self.state.lock();
        let wanted = |e: &&QueuedAction| {
            filter.command.is_none_or(|c| c == e.action.command)
                && filter.archive_id.is_none_or(|a| a == e.action.archive_id)
                && filter.request.is_none_or(|r| r == e.action.request)
        };
        let later = state.live.range(after..).map(|(_, e)| e).filter(|e| e.id != after);
        Ok(later.filter(wanted).take(limit).cloned().collect())
    }

    fn finished(&self, before: ActionId, limit: usize) -> Result<Vec<Finished>, QueueError> {
        Ok(self.state.lock().finished.range(..before).rev().take(limit).map(|(_, f)| f.clone()).collect())
    }

    fn result(&self, id: ActionId) -> Result<Option<Finished>, QueueError> {
        Ok(self.state.lock().finished.get(&id).cloned())
    }

    fn request(&self, id: RequestId) -> Result<Option<RequestStatus>, QueueError> {
        Ok(self.state.lock().requests.get(&id).map(|c| c.status))
    }

    fn totals(&self) -> Result<Totals, QueueError> {
        let state = self.state.lock();
        let live = state.counts.iter().map(|(&(class, command, archive), &n)| (class, command, archive, n)).collect();
        Ok(Totals { live, succeeded: state.succeeded, failed: state.failed })
    }

    fn stamp(&self, file: &FileHandle) -> Result<Option<SyncedStamp>, QueueError> {
        Ok(self.state.lock().stamps.get(file).cloned())
    }

    fn orphan_checks(&self, limit: usize) -> Result<Vec<OrphanCheck>, QueueError> {
        Ok(self.state.lock().orphans.iter().take(limit).cloned().collect())
    }

    fn about(&self, file: &FileHandle) -> Result<Option<About>, QueueError> {
        Ok(self.state.lock().objects.abouts.get(file).cloned())
    }

    fn copies(&self, file: &FileHandle) -> Result<Vec<ObjectRef>, QueueError> {
        Ok(self.state.lock().copies.get(file).into_iter().flatten().cloned().collect())
    }

    fn sharing(&self) -> Result<Sharing, QueueError> {
        Ok(self.state.lock().objects.sharing)
    }

    fn standing(&self, removals: &[Removal<'_>], now_ms: u64) -> Result<Vec<Standing>, QueueError> {
        let state = self.state.lock();
        let look = |removal: &Removal<'_>| {
            let Removal { id, archive_id, uuid } = *removal;
            let same = |r: &RetiredObject| r.object.archive_id == archive_id && r.object.uuid == uuid;
            let waits = state.retired(|r| same(r) && r.id != id && r.until_ms > now_ms).next().is_some();
            Standing { waits, shared: state.objects.is_complete(archive_id, uuid) }
        };
        Ok(removals.iter().map(look).collect())
    }

    fn referrers(
        &self,
        archive_id: u32,
        uuid: &str,
        after: Option<&FileHandle>,
        limit: usize,
    ) -> Result<Vec<FileHandle>, QueueError> {
        Ok(self.state.lock().objects.referrers(archive_id, uuid, after).take(limit).collect())
    }

    fn retired_object(&self, archive_id: u32, uuid: &str, limit: usize) -> Result<Vec<RetiredObject>, QueueError> {
        let state = self.state.lock();
        let found = state.retired(|r| r.object.archive_id == archive_id && r.object.uuid == uuid);
        Ok(found.take(limit).collect())
    }

    fn retired_of_file(&self, file: &FileHandle, limit: usize) -> Result<Vec<RetiredObject>, QueueError> {
        let state = self.state.lock();
        Ok(state.retired(|r| r.retired.file == *file).take(limit).collect())
    }

    fn retired_in(
        &self,
        from: &[u8],
        to: &[u8],
        after: Option<(&[u8], ActionId)>,
        limit: usize,
    ) -> Result<Vec<RetiredObject>, QueueError> {
        let state = self.state.lock();
        let (path, id) = after.unwrap_or((from, ActionId(0)));
        let wanted = |r: &RetiredObject| {
            let own = r.retired.about.path.as_slice();
            own < to && (own > path || (own == path && r.id > id))
        };
        let mut found: Vec<_> = state.retired(wanted).collect();
        found.sort_by(|a, b| (&a.retired.about.path, a.id).cmp(&(&b.retired.about.path, b.id)));
        found.truncate(limit);
        Ok(found)
    }
}
