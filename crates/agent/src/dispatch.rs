//! From the source to the movers: asks for as much as there is room for, and passes it on.

use crate::action::{Action, ActionIds};
use crate::endpoints::Endpoints;
use crate::results::Results;
use crate::slots::{Slot, Slots};
use crate::source::{ActionSource, Work};
use crate::stats::ActionStats;
use model::{Failure, Outcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

const EAGAIN: i32 = 11;
/// Works asked for at once.
const BATCH: usize = 512;
/// After an error of the source.
const SOURCE_PAUSE: Duration = Duration::from_secs(1);

/// What moves actions along.
pub(crate) struct Dispatcher {
    pub(crate) source: Arc<dyn ActionSource>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) results: Results,
    pub(crate) stats: Arc<ActionStats>,
    pub(crate) slots: Slots,
    pub(crate) ids: ActionIds,
    /// Slots held for works that the source has yet to give.
    pub(crate) reserved: AtomicUsize,
    /// The number of slots changed.
    pub(crate) resized: Notify,
}

impl Dispatcher {
    /// Runs until the source is closed. May be dropped at any time: what was taken from the source is with the endpoints.
    pub(crate) async fn run(&self) {
        while let Some(slots) = self.slots.acquire(BATCH).await {
            self.reserved.store(slots.count(), Ordering::Relaxed);
            let works = tokio::select! {
                works = self.source.next(slots.count()) => Some(works),
                () = self.resized.notified() => None,
            };
            self.reserved.store(0, Ordering::Relaxed);
            let Some(works) = works else { continue };
            match works {
                Ok(works) if works.is_empty() => return tracing::info!("the source of actions is closed"),
                Ok(works) => self.dispatch(works, slots),
                Err(error) => {
                    let cause = error.cause.to_string();
                    tracing::error!(%error, cause, "no actions at the moment");
                    drop(slots);
                    tokio::time::sleep(SOURCE_PAUSE).await;
                }
            }
        }
    }

    /// From now on so many actions may be between source and result.
    pub(crate) fn resize(&self, limit: usize) {
        self.slots.resize(limit);
        self.source.in_flight_limit_changed(self.slots.total());
        self.resized.notify_one();
    }

    /// Actions between source and result.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.in_use().saturating_sub(self.reserved.load(Ordering::Relaxed))
    }

    fn dispatch(&self, works: Vec<Work>, mut slots: Slot) {
        let now = Instant::now();
        let mut actions = Vec::with_capacity(works.len());
        let mut refused = Vec::new();
        for work in works {
            let Some(slot) = slots.split_one() else {
                let message = "the source gave more actions than it was asked for";
                self.source.complete(vec![(work.key, Outcome::Failed(Failure::temporary(EAGAIN, message)))]);
                continue;
            };
            let action = Action::new(self.ids.next(), work, now, slot);
            match action.prepare() {
                Ok(()) => actions.push(action),
                Err(failure) => refused.push(action.fail(failure)),
            }
        }
        let all = actions.iter().chain(refused.iter().map(|finished| &finished.action));
        self.stats.start_batch(all);
        self.results.complete(refused);
        self.endpoints.send(actions);
    }

    /// Passes on what the source wants stopped, until there will be nothing more.
    pub(crate) async fn run_cancels(&self) {
        loop {
            let keys = self.source.next_cancels().await;
            if keys.is_empty() {
                return;
            }
            self.endpoints.cancel(&keys);
        }
    }
}
