//! What becomes of the actions of a mover that goes away.

use super::Endpoints;
use super::placement::{ENOTCONN, no_mover};
use crate::action::Action;
use crate::endpoint::{Endpoint, Remains};
use model::Failure;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Endpoints {
    /// Removes a mover: its stream ends, and its actions go to another mover of the archive or back to the source. Those that
    /// it may have begun do so only when its process is known to be gone, if anybody knows its process. Does nothing for
    /// a handle that is not registered (any more); says whether it was.
    pub fn remove_handle(self: &Arc<Self>, handle: u64) -> bool {
        let mut ended = Vec::new();
        let mut inner = self.inner.lock();
        let Some(endpoint) = inner.by_handle.remove(&handle) else { return false };
        let archive_id = endpoint.registration().archive_id;
        if let Some(serving) = inner.serving.get_mut(&archive_id) {
            serving.retain(|other| other.handle() != handle);
            if serving.is_empty() {
                inner.serving.remove(&archive_id);
                let waiting = inner.waiting.remove(&archive_id).unwrap_or_default();
                ended.extend(waiting.into_iter().map(|action| no_mover(action, Some(&endpoint))));
                self.count_waiting(&inner);
            }
        }
        let remains = endpoint.close();
        drop(inner);
        self.results.complete(ended);
        self.announce();
        if remains.is_empty() {
            tracing::info!(mover = %endpoint, "gone");
            return true;
        }
        let (sent, queued) = (remains.sent.len(), remains.queued.len());
        tracing::warn!(mover = %endpoint, sent, queued, "gone with unfinished actions");
        self.clone().hand_over(endpoint, remains);
        true
    }

    /// At once, or after the mover's process is gone.
    fn hand_over(self: Arc<Self>, endpoint: Arc<Endpoint>, remains: Remains) {
        let may_write = !remains.sent.is_empty();
        let fence = endpoint.registration().pid.filter(|_| may_write).and_then(|pid| self.processes.fence(pid));
        match (fence, tokio::runtime::Handle::try_current()) {
            (Some(fence), Ok(runtime)) => {
                self.inner.lock().departing.insert(endpoint.handle(), remains);
                runtime.spawn(async move {
                    fence.await;
                    let remains = self.inner.lock().departing.remove(&endpoint.handle());
                    if let Some(remains) = remains {
                        self.take_over(&endpoint, remains);
                    }
                });
            }
            _ => self.take_over(&endpoint, remains),
        }
    }

    fn take_over(&self, lost: &Endpoint, remains: Remains) {
        let mut ended = Vec::new();
        let mut again: Vec<Action> = Vec::new();
        for mut action in remains.sent {
            if let Some(stop) = action.stop() {
                ended.push(action.end_stopped(stop));
            } else if action.take_over() > 0 {
                // The second mover that it was with: it goes the long way, lest it be what ends them.
                let message = format!("{action}: mover {lost} ended before the action did, and one before it likewise");
                ended.push(action.fail(Failure::temporary(ENOTCONN, message)));
            } else {
                again.push(action);
            }
        }
        again.extend(remains.queued);
        let count = again.len();
        self.place(&mut self.inner.lock(), again, &mut ended, Some(lost));
        tracing::info!(mover = %lost, taken_over = count, "its actions were given to others or back to the source");
        self.results.complete(ended);
    }

    /// The movers that have actions and said nothing for `limit`.
    #[must_use]
    pub fn hung(&self, limit: Duration) -> Vec<Arc<Endpoint>> {
        let now = Instant::now();
        let inner = self.inner.lock();
        inner.by_handle.values().filter(|endpoint| endpoint.is_hung(limit, now)).cloned().collect()
    }

    /// Removes every mover and accepts none any more. All their actions end as temporary failures.
    pub fn close(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        let handles: Vec<u64> = inner.by_handle.keys().copied().collect();
        drop(inner);
        for handle in handles {
            self.remove_handle(handle);
        }
    }

    /// Tells the source which archives are served, if that changed.
    pub(super) fn announce(&self) {
        let mut announced = self.announced.lock();
        let served: Vec<u32> = self.inner.lock().serving.keys().copied().collect();
        if *announced != served {
            self.results.archives_changed(&served);
            *announced = served;
        }
    }
}
