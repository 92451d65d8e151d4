//! Which mover gets an action.

use super::{Endpoints, Inner};
use crate::action::{Action, Finished};
use crate::endpoint::Endpoint;
use model::Failure;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const EOPNOTSUPP: i32 = 95;
pub(super) const ENOTCONN: i32 = 107;

/// A mover while a batch is shared out.
struct Candidate {
    endpoint: Arc<Endpoint>,
    free: usize,
    given: Vec<Action>,
}

/// What became of an action that was to be shared out.
enum Placed {
    Given,
    /// All movers that could take it are busy.
    Full(Action),
    /// No mover of the archive knows the command.
    Unable(Action),
}

struct Candidates(Vec<Candidate>);

impl Candidates {
    fn of(inner: &Inner, archive_id: u32) -> Self {
        let serving = inner.serving.get(&archive_id).into_iter().flatten();
        let candidate = |endpoint: &Arc<Endpoint>| Candidate {
            free: endpoint.free(),
            endpoint: Arc::clone(endpoint),
            given: Vec::new(),
        };
        Self(serving.map(candidate).collect())
    }

    fn has_room(&self) -> bool {
        self.0.iter().any(|candidate| candidate.free > 0)
    }

    fn give(&mut self, action: Action) -> Placed {
        let able = self.0.iter_mut().filter(|candidate| candidate.endpoint.can(action.needs()));
        match able.max_by_key(|candidate| candidate.free) {
            None => Placed::Unable(action),
            Some(candidate) if candidate.free == 0 => Placed::Full(action),
            Some(candidate) => {
                candidate.free -= 1;
                candidate.given.push(action);
                Placed::Given
            }
        }
    }

    /// One lock and one wake-up for each mover. Only a listed endpoint is sent to, and it is unlisted before it is closed,
    /// both under the lock that `Inner` stands for, so nothing comes back; if it did, it would end here.
    fn send(self, ended: &mut Vec<Finished>) {
        for Candidate { endpoint, given, .. } in self.0 {
            if !given.is_empty()
                && let Err(back) = endpoint.send(given)
            {
                ended.extend(back.into_iter().map(|action| no_mover(action, Some(&endpoint))));
            }
        }
    }
}

impl Endpoints {
    /// Shares actions out by free credit; what finds none waits. `lost` is the mover they were with before.
    pub(super) fn place(
        &self,
        inner: &mut Inner,
        mut actions: Vec<Action>,
        ended: &mut Vec<Finished>,
        lost: Option<&Endpoint>,
    ) {
        // Stable: within an archive the order stays.
        actions.sort_by_key(Action::archive_id);
        let mut actions = actions.into_iter().peekable();
        while let Some(archive_id) = actions.peek().map(Action::archive_id) {
            let run = std::iter::from_fn(|| actions.next_if(|action| action.archive_id() == archive_id));
            if inner.closed || !inner.serving.contains_key(&archive_id) {
                ended.extend(run.map(|action| no_mover(action, lost)));
                continue;
            }
            let waiting = inner.waiting.entry(archive_id).or_default();
            if waiting.is_empty() {
                let mut candidates = Candidates::of(inner, archive_id);
                let mut full = VecDeque::new();
                for action in run {
                    match candidates.give(action) {
                        Placed::Given => {}
                        Placed::Full(action) => full.push_back(action),
                        Placed::Unable(action) => ended.push(unable(action)),
                    }
                }
                candidates.send(ended);
                if full.is_empty() {
                    continue;
                }
                inner.waiting.insert(archive_id, full);
            } else {
                waiting.extend(run);
            }
            self.count_waiting(inner);
            // Credit that came free while this was under way saw nobody waiting.
            self.refill(inner, archive_id, ended);
        }
    }

    /// Gives waiting actions to movers that have credit.
    pub(super) fn refill(&self, inner: &mut Inner, archive_id: u32, ended: &mut Vec<Finished>) {
        let mut candidates = Candidates::of(inner, archive_id);
        let Some(waiting) = inner.waiting.get_mut(&archive_id) else { return };
        let mut kept = VecDeque::new();
        while candidates.has_room()
            && let Some(action) = waiting.pop_front()
        {
            match candidates.give(action) {
                Placed::Given => {}
                Placed::Full(action) => kept.push_back(action),
                Placed::Unable(action) => ended.push(unable(action)),
            }
        }
        kept.append(waiting);
        *waiting = kept;
        candidates.send(ended);
        self.count_waiting(inner);
    }

    pub(super) fn count_waiting(&self, inner: &Inner) {
        self.waiting.store(inner.waiting.values().map(VecDeque::len).sum(), Ordering::Release);
    }
}

/// Ends an action that nobody can take. `lost` is the mover it was with.
pub(super) fn no_mover(action: Action, lost: Option<&Endpoint>) -> Finished {
    if let Some(stop) = action.stop() {
        return action.end_stopped(stop);
    }
    let archive = action.archive_id();
    let message = match lost {
        Some(mover) => {
            format!("{action}: mover {mover} ended before the action did, and no other mover serves archive {archive}")
        }
        None => format!(
            "{action}: no mover serves archive {archive}: check enabled_plugins and the plugins' configurations"
        ),
    };
    action.fail(Failure::temporary(ENOTCONN, message))
}

fn unable(action: Action) -> Finished {
    let archive = action.archive_id();
    let what = match action.needs() {
        needs if needs.verify => "verify",
        needs if needs.range => "restore ranges",
        _ => "record directories, links and special files",
    };
    let message = format!("{action}: no mover of archive {archive} can {what} (Lemur's plugins cannot)");
    action.fail(Failure::permanent(EOPNOTSUPP, message))
}
