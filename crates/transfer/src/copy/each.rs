//! Work on the chunks of a content, by several threads when it is large.
//!
//! Chunks are taken in order, and each thread has a state of its own (buffers): that is all the memory this takes. While one thread waits
//! for a device another one hashes.

use crate::manifest::Shape;
use crate::{Monitor, TransferError};
use model::Extent;
use parking_lot::{Condvar, Mutex};
use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Below this much content more threads cost more than they save.
const THREADS_FROM_BYTES: u64 = 8 << 20;
/// More than these are not faster: one device, one file.
const MAX_THREADS: usize = 4;

/// What the monitor is told of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Moved,
    /// A hole.
    Skipped,
}

/// Calls `work` for each of the chunks, until one fails or the monitor cancels. The monitor is told of a chunk after its
/// work; once it cancelled it is told of nothing more (P4).
pub(crate) fn each_chunk<S>(
    shape: Shape,
    chunks: Range<u64>,
    monitor: &dyn Monitor,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, u64, Extent) -> Result<Step, TransferError> + Sync,
) -> Result<(), TransferError> {
    let run = Run { next: AtomicU64::new(chunks.start), stop: AtomicBool::new(false), failed: Mutex::new(None) };
    let worker = || {
        let mut state = state();
        while let Some(index) = run.take(chunks.end) {
            let extent = shape.chunk(index);
            if let Err(error) = run.step(monitor, extent, || work(&mut state, index, extent)) {
                run.fail(error);
            }
        }
    };
    let threads = threads(chunks.end.saturating_sub(chunks.start), shape);
    if threads == 1 {
        worker();
    } else {
        std::thread::scope(|scope| {
            (1..threads).for_each(|_| drop(scope.spawn(worker)));
            worker();
        });
    }
    run.failed.into_inner().map_or(Ok(()), Err)
}

fn threads(chunks: u64, shape: Shape) -> usize {
    if chunks.saturating_mul(shape.chunk(0).length) < THREADS_FROM_BYTES {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS)
}

struct Run {
    next: AtomicU64,
    stop: AtomicBool,
    /// The first error. Held while the monitor is told, so that it hears of one chunk at a time.
    failed: Mutex<Option<TransferError>>,
}

impl Run {
    fn take(&self, end: u64) -> Option<u64> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < end)
    }

    fn step(
        &self,
        monitor: &dyn Monitor,
        extent: Extent,
        work: impl FnOnce() -> Result<Step, TransferError>,
    ) -> Result<(), TransferError> {
        if monitor.cancelled() {
            return Err(TransferError::Cancelled);
        }
        let step = work()?;
        let failed = self.failed.lock();
        if failed.is_none() {
            if monitor.cancelled() {
                return Err(TransferError::Cancelled);
            }
            match step {
                Step::Moved => monitor.advanced(extent),
                Step::Skipped => monitor.skipped(extent),
            }
        }
        Ok(())
    }

    fn fail(&self, error: TransferError) {
        self.stop.store(true, Ordering::Relaxed);
        self.failed.lock().get_or_insert(error);
    }
}

/// Gives out places one behind the other, in the order of the chunks, to threads that know only late how much room they need.
pub(crate) struct Places {
    state: Mutex<PlacesState>,
    changed: Condvar,
}

struct PlacesState {
    next: u64,
    offset: u64,
    abandoned: bool,
}

impl Places {
    pub(crate) fn new() -> Self {
        let state = PlacesState { next: 0, offset: 0, abandoned: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The turn of a chunk. If it is dropped unused, nobody behind it waits in vain.
    pub(crate) fn turn(&self, index: u64) -> Turn<'_> {
        Turn { places: self, index }
    }

    /// Where everything ends.
    pub(crate) fn end(&self) -> u64 {
        self.state.lock().offset
    }
}

pub(crate) struct Turn<'a> {
    places: &'a Places,
    index: u64,
}

impl Turn<'_> {
    /// Waits until every chunk before this one has its place, and takes one of `length` bytes. `None` when one of those never will have.
    pub(crate) fn take(self, length: u64) -> Option<u64> {
        let mut state = self.places.state.lock();
        while state.next != self.index && !state.abandoned {
            self.places.changed.wait(&mut state);
        }
        if state.abandoned {
            return None;
        }
        let offset = state.offset;
        state.offset += length;
        state.next += 1;
        drop(state);
        self.places.changed.notify_all();
        Some(offset)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.places.state.lock();
        if state.next <= self.index {
            state.abandoned = true;
            self.places.changed.notify_all();
        }
    }
}
