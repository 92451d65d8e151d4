//! What goes on beside the copying: the status is written, the end is heard of, and somebody told when the replica lags.

use super::control::Control;
use super::status::{self, Status};
use super::{Observer, now};
use crate::report::Tally;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two looks at whether it is to end.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks at whether the replica was promoted.
const LOOK: Duration = Duration::from_secs(1);
/// Between two writings of a status in which nothing happened.
const WRITE: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Pulse<'a> {
    pub(crate) control: &'a Control,
    pub(crate) tally: &'a Tally,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) status: Mutex<Status>,
    pub(crate) alarm_after: Option<Duration>,
    /// Asked for from outside.
    pub(crate) asked: &'a AtomicBool,
    /// Ends what is under way.
    pub(crate) stop: AtomicBool,
    /// By somebody else, while this one ran.
    pub(crate) promoted: AtomicBool,
    over: Mutex<bool>,
    ended: Condvar,
}

impl<'a> Pulse<'a> {
    pub(crate) fn new(
        control: &'a Control,
        tally: &'a Tally,
        observer: &'a dyn Observer,
        asked: &'a AtomicBool,
        alarm_after: Option<Duration>,
        status: Status,
    ) -> Self {
        Self {
            control,
            tally,
            observer,
            status: Mutex::new(status),
            alarm_after,
            asked,
            stop: AtomicBool::new(false),
            promoted: AtomicBool::new(false),
            over: Mutex::new(false),
            ended: Condvar::new(),
        }
    }

    /// Until [`end`](Self::end). The lag counts from now on where there is none yet.
    pub(crate) fn run(&self) {
        let (began, mut alarmed) = (now(), None::<u64>);
        let (mut looked, mut written) = (None::<Instant>, None::<Instant>);
        let mut over = self.over.lock();
        while !*over {
            if self.asked.load(Ordering::Relaxed) {
                self.stop.store(true, Ordering::Relaxed);
            }
            if looked.is_none_or(|at| at.elapsed() >= LOOK) {
                looked = Some(Instant::now());
                self.look_for_promotion();
                self.look_at_lag(began, &mut alarmed);
            }
            if written.is_none_or(|at| at.elapsed() >= WRITE) {
                written = Some(Instant::now());
                self.write(Some(std::process::id()));
            }
            self.ended.wait_for(&mut over, TICK);
        }
    }

    /// Ends [`run`](Self::run).
    pub(crate) fn end(&self) {
        *self.over.lock() = true;
        self.ended.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn look_for_promotion(&self) {
        match self.control.replica() {
            Ok(Some(replica)) if replica.promoted.is_some() => {
                self.promoted.store(true, Ordering::Relaxed);
                self.stop.store(true, Ordering::Relaxed);
            }
            // Who cannot be asked may have been promoted: the next write fails for the same reason, or does no harm.
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot find out whether the replica was promoted"),
        }
    }

    /// Tells it once each time that the lag has grown by as much again.
    fn look_at_lag(&self, began: u64, alarmed: &mut Option<u64>) {
        let Some(after) = self.alarm_after.map(|after| after.as_secs().max(1)) else { return };
        let lag = now().saturating_sub(self.status.lock().synced_to.unwrap_or(began));
        if lag < after {
            *alarmed = None;
        } else if alarmed.is_none_or(|at| lag >= at.saturating_add(after)) {
            *alarmed = Some(lag);
            self.observer.alarm(lag);
        }
    }

    /// The status, as of now, into the replica.
    pub(crate) fn write(&self, pid: Option<u32>) {
        let status = {
            let mut status = self.status.lock();
            (status.pid, status.written) = (pid, now());
            status.lag_seconds = status.lag(status.written);
            status.count(&self.tally.totals());
            status.clone()
        };
        if let Err(error) = self.control.write(status::NAME, &status) {
            tracing::warn!(%error, "cannot write how the replica goes");
        }
        self.observer.status(&status);
    }
}
