//! The way back: results from movers to the source, counted.

use crate::action::Finished;
use crate::source::ActionSource;
use crate::stats::ActionStats;
use model::{ActionId, Extent};
use std::sync::Arc;
use std::time::Instant;

/// Hands results to the source, keeps the statistics, and only then lets the actions go.
#[derive(Clone)]
pub struct Results {
    source: Arc<dyn ActionSource>,
    stats: Arc<ActionStats>,
}

impl Results {
    /// Results for `source`, counted in `stats`.
    #[must_use]
    pub fn new(source: Arc<dyn ActionSource>, stats: Arc<ActionStats>) -> Self {
        Self { source, stats }
    }

    /// The source gets these results; then the slots of all of them come back in one step.
    pub fn complete(&self, finished: Vec<Finished>) {
        if finished.is_empty() {
            return;
        }
        self.stats.complete_actions(&finished, Instant::now());
        let mut actions = Vec::with_capacity(finished.len());
        let mut results = Vec::with_capacity(finished.len());
        for Finished { action, outcome } in finished {
            results.push((action.key(), outcome));
            actions.push(action);
        }
        self.source.complete(results);
        let slots = actions.into_iter().map(crate::Action::into_slot);
        drop(slots.reduce(|mut all, one| {
            all.merge(one);
            all
        }));
    }

    /// A mover moved bytes of a work.
    pub(crate) fn progress(&self, id: ActionId, key: u64, moved: Extent) {
        tracing::trace!(%id, offset = moved.offset, length = moved.length, "progress");
        self.source.progress(key, moved);
    }

    /// The archives that have a mover changed, or what their movers take.
    pub(crate) fn archives_changed(&self, served: &[(u32, usize)]) {
        self.source.archives_changed(served);
    }
}
