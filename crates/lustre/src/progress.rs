//! What the coordinator is told of running actions: how far they are, and that they live.

use crate::begin::{failure_of, says_forgotten};
use crate::source::Shared;
use crate::state::{Phase, Stop};
use model::Extent;
use std::sync::Arc;
use std::time::Instant;
use sys::lustre::{CopyAction, ProgressFlags};

const ECANCELED: i32 = 125;

impl Shared {
    /// Reports an action's progress: [`Job::Report`](crate::workers::Job).
    pub(crate) fn report(&self, id: u64) {
        let (mut action, mut extents, size, note) = {
            let mut state = self.state.lock();
            let Some(active) = state.active.get_mut(&id) else { return };
            let Some(action) = active.action.take() else {
                active.reporting = false;
                return;
            };
            let extents = std::mem::take(&mut active.extents);
            if let Some(last) = extents.last() {
                active.last_extent = *last;
            }
            let note = active.entry.is_restore() && !active.progressed;
            let extents = if extents.is_empty() { vec![active.last_extent] } else { extents };
            (action, extents, active.prepared.size, note)
        };
        if note && let Err(error) = self.journal.progressed(id) {
            // A later process would take it over, and fail. So nothing is told.
            tracing::error!(%error, "progress of a restore is not reported");
            extents.clear();
        }
        let result = tell(&mut action, &extents, size);
        let mut state = self.state.lock();
        let Some(active) = state.active.get_mut(&id) else {
            // A stop left it to the next process meanwhile.
            return action.abandon();
        };
        active.reporting = false;
        active.reported = Instant::now();
        active.progressed |= note && !extents.is_empty();
        active.action = Some(action);
        let ended = active.outcome.take();
        let entry = Arc::clone(&active.entry);
        let waits = matches!(active.phase, Phase::Queued | Phase::Waiting(_));
        if let Some(outcome) = ended {
            state.outcome(id, outcome);
        } else if state.stopping && waits {
            self.abandon(&mut state, id);
        } else if let Err(error) = result {
            match error.raw_os_error() {
                // Its cancel is on the way.
                Some(ECANCELED) => {}
                _ => tracing::warn!(action = %entry, "{}", failure_of("report progress", &error).message),
            }
            drop(state);
            self.suspect(&error);
            if says_forgotten(&error) {
                self.state.lock().stop(id, Stop::Lost);
            }
        }
    }
}

fn tell(action: &mut CopyAction, extents: &[Extent], size: u64) -> std::io::Result<()> {
    extents.iter().try_for_each(|extent| action.progress(*extent, size, ProgressFlags::default()))
}
