//! What becomes of the actions of a mover that goes away.

use super::placement::{ENOTCONN, no_mover};
use super::{Endpoints, Inner};
use crate::action::{Action, Finished};
use crate::endpoint::{Endpoint, Remains};
use model::Failure;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A stream of reports, as long as it is open.
pub(crate) struct Reporting {
    endpoints: Arc<Endpoints>,
    connection: u64,
}

impl Drop for Reporting {
    fn drop(&mut self) {
        let mut inner = self.endpoints.inner.lock();
        let count = inner.reporting.entry(self.connection).or_default();
        *count = count.saturating_sub(1);
        if *count > 0 {
            return;
        }
        inner.reporting.remove(&self.connection);
        drop(inner);
        for endpoint in self.endpoints.of_connection(self.connection).iter().filter(|e| e.is_draining()) {
            self.endpoints.remove_handle(endpoint.handle());
        }
    }
}

impl Endpoints {
    /// A connection opened a stream of reports.
    pub(crate) fn reporting(self: &Arc<Self>, connection: u64) -> Reporting {
        *self.inner.lock().reporting.entry(connection).or_default() += 1;
        Reporting { endpoints: Arc::clone(self), connection }
    }

    fn of_connection(&self, connection: u64) -> Vec<Arc<Endpoint>> {
        let inner = self.inner.lock();
        let all = inner.by_handle.values();
        all.filter(|endpoint| endpoint.registration().connection == connection).cloned().collect()
    }

    /// A connection is closed: every mover that registered by it leaves.
    pub(crate) fn leave_connection(self: &Arc<Self>, connection: u64) {
        for endpoint in self.of_connection(connection) {
            self.leave(endpoint.handle());
        }
    }

    /// A mover takes no more actions. As long as its connection has a stream of reports (if only what is left of one in
    /// buffers), it may still say how those that it has ended; without one it is removed.
    pub(crate) fn leave(self: &Arc<Self>, handle: u64) {
        let mut inner = self.inner.lock();
        let Some(endpoint) = inner.by_handle.get(&handle).cloned() else { return };
        if !inner.reporting.contains_key(&endpoint.registration().connection) {
            drop(inner);
            self.remove_handle(handle);
            return;
        }
        let mut ended = self.unlist(&mut inner, &endpoint);
        let queued = endpoint.drain();
        self.place(&mut inner, queued, &mut ended, Some(&endpoint));
        drop(inner);
        tracing::info!(mover = %endpoint, "takes no more actions");
        self.results.complete(ended);
        self.announce();
    }

    /// Takes a mover from those that are given actions. The last of an archive leaves what waited for credit without hope.
    fn unlist(&self, inner: &mut Inner, endpoint: &Endpoint) -> Vec<Finished> {
        let archive_id = endpoint.registration().archive_id;
        let Some(serving) = inner.serving.get_mut(&archive_id) else { return Vec::new() };
        serving.retain(|other| other.handle() != endpoint.handle());
        if !serving.is_empty() {
            return Vec::new();
        }
        inner.serving.remove(&archive_id);
        let waiting = inner.waiting.remove(&archive_id).unwrap_or_default();
        self.count_waiting(inner);
        waiting.into_iter().map(|action| no_mover(action, Some(endpoint))).collect()
    }

    /// Removes a mover: its stream ends, and its actions go to another mover of the archive or back to the source. Those that
    /// it may have begun do so only when its process is known to be gone, if anybody knows its process. Does nothing for
    /// a handle that is not registered (any more); says whether it was.
    pub fn remove_handle(self: &Arc<Self>, handle: u64) -> bool {
        let mut inner = self.inner.lock();
        let Some(endpoint) = inner.by_handle.remove(&handle) else { return false };
        let ended = self.unlist(&mut inner, &endpoint);
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

    /// Tells the source which archives are served and how many actions each takes, if that changed.
    pub(super) fn announce(&self) {
        let mut announced = self.announced.lock();
        let room = |movers: &Vec<Arc<Endpoint>>| movers.iter().map(|mover| mover.credits()).sum();
        let served: Vec<(u32, usize)> =
            self.inner.lock().serving.iter().map(|(archive_id, movers)| (*archive_id, room(movers))).collect();
        if *announced != served {
            self.results.archives_changed(&served);
            *announced = served;
        }
    }
}
