//! When points in time are taken and removed.

use super::points::{self, Moment};
use super::status::PointsStatus;
use super::{Replication, now};
use std::path::Path;
use std::time::{Duration, Instant};

/// After a point that could not be made, at the latest.
const AGAIN: Duration = Duration::from_secs(600);
/// Between two looks at what was kept for long enough.
const EXPIRE: Duration = Duration::from_secs(60);
/// Of a source that is never at rest a point is taken all the same, when it is so late.
const PATIENCE: Duration = Duration::from_secs(60);

impl Replication<'_> {
    /// Whether a point is due.
    pub(super) fn wants_point(&self) -> bool {
        self.plan.points.is_some() && Instant::now() >= self.due.lock().at
    }

    /// Whether one has been due for so long that nobody waits for a better moment.
    pub(super) fn wants_point_now(&self) -> bool {
        self.plan.points.is_some() && self.due.lock().at.elapsed() >= PATIENCE
    }

    /// Takes a point, if one is due. For when the replica has all that was changed at the source before `synced_to`, and nobody changes it. `exact`: nothing was changed
    /// at the source since then.
    pub(super) fn point(&self, exact: bool) {
        let synced_to = self.pulse.status.lock().synced_to;
        let (Some(retention), Some(synced_to)) = (self.plan.points, synced_to) else { return };
        if self.wants_point() && !self.pulse.is_stopped() {
            let mut state = self.plan.state.clone().into_os_string();
            state.push(".points");
            let moment = Moment { synced_to, until: if exact { synced_to } else { now() }, exact };
            let taken = self.points.take(self.target, Path::new(&state), moment, &|| self.pulse.is_stopped());
            let next = if taken.is_ok() { retention.every } else { retention.every.min(AGAIN) };
            self.due.lock().at = Instant::now() + next;
            let trouble = match &taken {
                Ok(Some(point)) => {
                    self.observer.point(Ok(point));
                    None
                }
                Ok(None) => None,
                Err(_) if self.pulse.is_stopped() => None,
                Err(why) => {
                    self.observer.point(Err(why));
                    Some(why.clone())
                }
            };
            self.pulse.status.lock().points.get_or_insert_default().trouble = trouble;
            self.tell_points();
            self.due.lock().expired = None;
            self.expire();
        }
    }

    /// Removes the points that were kept for long enough, and what is left of unfinished ones, now and then.
    pub(super) fn expire(&self) {
        {
            let mut due = self.due.lock();
            if due.expired.is_some_and(|at| at.elapsed() < EXPIRE) {
                return;
            }
            due.expired = Some(Instant::now());
        }
        let keep = self.plan.points.map(|retention| retention.keep);
        match self.points.expire(keep, now(), &|| self.pulse.is_stopped()) {
            Ok(0) => {}
            Ok(_) => self.tell_points(),
            Err(error) if self.pulse.is_stopped() => tracing::debug!(%error, "stopped"),
            Err(error) => tracing::warn!(%error, "cannot remove points in time that were kept for long enough"),
        }
    }

    /// Has the status say what there is.
    pub(super) fn tell_points(&self) {
        let found = match self.points.list() {
            Ok(found) => found,
            Err(error) => return tracing::warn!(%error, "cannot list the points in time"),
        };
        if found.is_empty() && self.plan.points.is_none() {
            return;
        }
        let method = self.plan.points.and_then(|_| points::method(self.target, &self.points).ok());
        let mut status = self.pulse.status.lock();
        let told = status.points.get_or_insert_default();
        *told = PointsStatus {
            method,
            count: found.len() as u64,
            oldest: found.first().map(|point| point.synced_to),
            newest: found.last().map(|point| point.synced_to),
            trouble: told.trouble.take(),
        };
    }
}
