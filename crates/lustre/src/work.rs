//! What the work on many files shares: the library, the limit on bandwidth, when to give up.

use crate::outcome::{Outcome, Stop, Trouble};
use model::Extent;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, PoisonError};
use std::time::Duration;
use sys::lustre::Library;
use transfer::{Limiter, Monitor};

/// Before a file that was in use is tried again; the next pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// See the module. Threads share it.
pub struct Work {
    library: Library,
    limiter: Limiter,
    tries: u32,
    dry_run: bool,
    stop: AtomicBool,
    stopped: (Mutex<()>, Condvar),
    moved: Box<dyn Fn(u64) + Send + Sync>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("tries", &self.tries).field("dry_run", &self.dry_run).finish_non_exhaustive()
    }
}

impl Work {
    /// Without a limit, three tries for each file, and nobody told how it goes.
    #[must_use]
    pub fn new(library: &Library) -> Self {
        Self {
            library: library.clone(),
            limiter: Limiter::new(None),
            tries: 3,
            dry_run: false,
            stop: AtomicBool::new(false),
            stopped: (Mutex::new(()), Condvar::new()),
            moved: Box::new(|_| ()),
        }
    }

    /// At most so many bytes a second, of all threads together.
    #[must_use]
    pub fn limited_to(self, bytes_per_second: Option<NonZeroU64>) -> Self {
        Self { limiter: Limiter::new(bytes_per_second), ..self }
    }

    /// A file that is in use is tried so often, at least once.
    #[must_use]
    pub fn trying(self, tries: u32) -> Self {
        Self { tries: tries.max(1), ..self }
    }

    /// Nothing is changed: files are looked at, and what would be done is told.
    #[must_use]
    pub fn dry(self, dry_run: bool) -> Self {
        Self { dry_run, ..self }
    }

    /// `told` hears of bytes as they are copied or compared, from any thread. It has to be quick.
    #[must_use]
    pub fn telling(self, told: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { moved: Box::new(told), ..self }
    }

    /// Ends the work: files that are being worked on stay as they were.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.stopped.0.lock());
        self.stopped.1.notify_all();
    }

    /// Whether somebody did.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn library(&self) -> &Library {
        &self.library
    }

    pub(crate) fn is_dry(&self) -> bool {
        self.dry_run
    }

    /// Waits for the limit. Whether to go on.
    pub(crate) fn may_go_on(&self) -> bool {
        !self.limiter.wait(false, || self.is_stopped())
    }

    /// So many bytes went over the network for `done` bytes of a file.
    pub(crate) fn spent(&self, bytes: u64, done: u64) {
        self.limiter.spend(bytes);
        (self.moved)(done);
    }

    /// Tries until somebody does not use the file.
    pub(crate) fn try_until_free(
        &self,
        path: &Path,
        mut once: impl FnMut() -> Result<Outcome, Stop>,
    ) -> Result<Outcome, Trouble> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..self.tries {
            match once() {
                Err(Stop::Busy) => self.sleep(pause),
                Err(Stop::Unsuited(why)) => return Ok(Outcome::Unsuited(why)),
                Err(Stop::Trouble(trouble)) => return Err(trouble),
                Ok(outcome) => return Ok(outcome),
            }
            if self.is_stopped() {
                return Err(Trouble::Stopped { path: path.to_owned() });
            }
            pause = pause.saturating_mul(2);
        }
        match once() {
            Err(Stop::Busy) => Ok(Outcome::Busy { tries: self.tries }),
            Err(Stop::Unsuited(why)) => Ok(Outcome::Unsuited(why)),
            Err(Stop::Trouble(trouble)) => Err(trouble),
            Ok(outcome) => Ok(outcome),
        }
    }

    fn sleep(&self, pause: Duration) {
        let guard = self.stopped.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.stopped.1.wait_timeout_while(guard, pause, |()| !self.is_stopped());
    }
}

impl Monitor for Work {
    fn cancelled(&self) -> bool {
        !self.may_go_on()
    }

    fn advanced(&self, extent: Extent) {
        self.spent(extent.length, extent.length);
    }

    fn skipped(&self, extent: Extent) {
        self.spent(0, extent.length);
    }
}
