//! A replica kept up to date by what the kernel tells.
//!
//! A pass over the whole tree comes first, and again when something was missed, could not be done, or is about a file with several names, whose other
//! names nobody tells; and after a day, since what is written through mappings is told late or not at all. Between two such passes there is a
//! time that is in proportion to how long they take.

use super::listener::Listener;
use super::moves::{Finder, Moving, Whereabouts};
use super::pending::Pending;
use super::status::Mode;
use super::{EVERY_DAY, Ended, Replication, TICK, control, now, open_root};
use crate::failure::JobError;
use crate::filter::Filter;
use crate::migrate::{Part, refresh};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Things that change together come over together.
const DELAY: Duration = Duration::from_secs(2);
/// What could not be done is tried again after this.
const AGAIN: Duration = Duration::from_secs(600);
/// From a pass to one that was not planned: so many times as long as it took.
const REST: u32 = 4;
/// Between two looks at what was kept long enough.
const PURGE: Duration = Duration::from_secs(600);
/// In the control directory: things on their way from one name to another.
const STAGING: &str = "moving";

/// How a batch came out.
#[derive(Default)]
struct Applied {
    failed: bool,
    /// A pass has to look for the rest.
    missed: bool,
}

/// When the next pass is due.
struct Passes {
    due: Instant,
    ended: Instant,
    took: Duration,
    /// The last one was complete, and nothing was missed since.
    settled: bool,
}

impl Replication<'_> {
    /// Until it is to end.
    pub(super) fn follow(&self, listener: &Listener) -> Result<Ended, JobError> {
        self.pulse.status.lock().mode = Mode::Events;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| listener.listen(&|| over.load(Ordering::Relaxed)));
            let ended = self.followed(listener);
            over.store(true, Ordering::Relaxed);
            ended
        })
    }

    fn followed(&self, listener: &Listener) -> Result<Ended, JobError> {
        let finder = Finder::new(self.source).map_err(JobError::io("open", self.source))?;
        let start = Instant::now();
        let mut passes = Passes { due: start, ended: start, took: Duration::ZERO, settled: false };
        let (mut first, mut took, mut purged) = (None::<Instant>, Duration::ZERO, start);
        loop {
            if let Some(ended) = self.ended() {
                return Ok(ended);
            }
            if Instant::now() >= passes.due {
                self.pass_between(listener, &mut passes)?;
                first = None;
                continue;
            }
            let time = now();
            let (is_empty, pending, events) =
                listener.with(|pending| (pending.is_empty(), pending.directories.len(), pending.events));
            {
                let mut status = self.pulse.status.lock();
                (status.pending, status.events) = (pending as u64, events);
                if is_empty && passes.settled {
                    status.synced_to = Some(time);
                }
            }
            if is_empty && passes.settled {
                self.point(true);
            }
            // In a hurry the source is more likely to be met at rest.
            let delay = if self.wants_point() { Duration::ZERO } else { DELAY.max(took) };
            if !is_empty && first.get_or_insert_with(Instant::now).elapsed() >= delay {
                first = None;
                let (began, time) = (Instant::now(), now());
                let batch = listener.with(Pending::take);
                self.batch(listener, &finder, batch, time, &mut passes)?;
                took = began.elapsed();
                continue;
            }
            if purged.elapsed() >= PURGE {
                purged = Instant::now();
                self.purge();
            }
            std::thread::sleep(TICK);
        }
    }

    /// What happens during the pass comes after it.
    fn pass_between(&self, listener: &Listener, passes: &mut Passes) -> Result<(), JobError> {
        listener.with(|pending| {
            pending.take();
            pending.in_pass = true;
        });
        let began = Instant::now();
        let complete = self.pass()?;
        let missed = listener.with(|pending| {
            pending.in_pass = false;
            pending.whole
        });
        (passes.ended, passes.took) = (Instant::now(), began.elapsed());
        passes.settled = complete && !missed;
        passes.due = passes.ended + self.plan.every.unwrap_or(EVERY_DAY);
        if !complete {
            passes.due = passes.due.min(passes.ended + AGAIN);
        }
        Ok(())
    }

    fn batch(
        &self,
        listener: &Listener,
        finder: &Finder,
        batch: Pending,
        time: u64,
        passes: &mut Passes,
    ) -> Result<(), JobError> {
        let applied = if batch.whole {
            Applied { missed: true, ..Applied::default() }
        } else {
            self.apply(listener, finder, batch)?
        };
        if self.pulse.is_stopped() {
            return Ok(());
        }
        if applied.missed {
            passes.due = passes.due.min(passes.ended + passes.took * REST);
        } else if applied.failed {
            passes.due = passes.due.min(Instant::now() + AGAIN);
        }
        passes.settled &= !applied.missed && !applied.failed;
        if passes.settled {
            self.pulse.status.lock().synced_to = Some(time);
            if self.wants_point_now() {
                self.point(false);
            }
        }
        Ok(())
    }

    fn apply(&self, listener: &Listener, finder: &Finder, batch: Pending) -> Result<Applied, JobError> {
        self.is_still_there()?;
        self.observer.begins();
        let before = self.failed();
        let mut parts = BTreeMap::new();
        // What a filter lets through at one name it may leave out at another.
        let filters = self.plan.filter.terms() != Filter::default().terms();
        if !batch.moves.is_empty() && !filters {
            let (target, staging) = (open_root(self.target)?, self.control.directory(STAGING)?);
            let path = format!("{}/{STAGING}", control::NAME);
            let outside = self.names_outside().unwrap_or(0);
            let mut moving = Moving::new(finder, target, staging, &path, self.attic.as_deref(), outside);
            let done = moving.run(&batch.moves).map_err(JobError::io("rename things in", self.target))?;
            self.pulse.status.lock().renamed += done;
            parts.extend(moving.made.into_iter().map(|path| (path, Part::Whole)));
        }
        let mut unclear = HashMap::new();
        for (handle, part) in &batch.directories {
            match finder.find(handle) {
                Whereabouts::At(path) => match parts.get_mut(&path) {
                    Some(known) => known.join(part.clone()),
                    None => drop(parts.insert(path, part.clone())),
                },
                Whereabouts::Nowhere => {}
                Whereabouts::Unclear => drop(unclear.insert(handle.clone(), part.clone())),
            }
        }
        let told = (self.tally, self.observer.watcher());
        let end = refresh(self.source, self.target, parts, &self.options(), told, &self.pulse.stop)?;
        let still_unclear = !unclear.is_empty();
        let moved_meanwhile = listener.with(|pending| {
            let moved = pending.moves.iter().any(|one| one.is_directory);
            if moved {
                // What was brought over may be put aside by what moves to its place.
                pending.put_back(batch.directories);
            }
            moved
        });
        Ok(Applied { failed: self.failed() > before, missed: end.several || still_unclear && !moved_meanwhile })
    }
}
