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
/// work; once it cancelled it is told of nothing more (P4). Gives back how much room was taken by the chunks' turns.
pub(crate) fn each_chunk<S>(
    shape: Shape,
    chunks: Range<u64>,
    monitor: &dyn Monitor,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, Turn<'_>, Extent) -> Result<Step, TransferError> + Sync,
) -> Result<u64, TransferError> {
    let threads = threads(chunks.end.saturating_sub(chunks.start), shape);
    each_chunk_by(threads, shape, chunks, monitor, state, work)
}

/// By so many threads, or by fewer when the system has no more to give.
fn each_chunk_by<S>(
    threads: usize,
    shape: Shape,
    chunks: Range<u64>,
    monitor: &dyn Monitor,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, Turn<'_>, Extent) -> Result<Step, TransferError> + Sync,
) -> Result<u64, TransferError> {
    let run = Run::over(&chunks);
    let worker = || {
        let mut state = state();
        while let Some(turn) = run.take(chunks.end) {
            let extent = shape.chunk(turn.index());
            // Whatever ends this step, a cancel too, ends the turn: nobody waits for a place that never will be taken.
            if let Err(error) = run.step(monitor, extent, || work(&mut state, turn, extent)) {
                run.fail(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            if let Err(error) = std::thread::Builder::new().spawn_scoped(scope, worker) {
                tracing::debug!(%error, "no further thread for a file: it takes longer");
                break;
            }
        }
        worker();
    });
    match run.failed.into_inner() {
        Some(error) => Err(error),
        None => Ok(run.places.end()),
    }
}

fn threads(chunks: u64, shape: Shape) -> usize {
    if chunks.saturating_mul(shape.chunk(0).length) < THREADS_FROM_BYTES {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS)
}

struct Run {
    next: AtomicU64,
    places: Places,
    stop: AtomicBool,
    /// The first error. Held while the monitor is told, so that it hears of one chunk at a time.
    failed: Mutex<Option<TransferError>>,
}

impl Run {
    fn over(chunks: &Range<u64>) -> Self {
        Self {
            next: AtomicU64::new(chunks.start),
            places: Places::from(chunks.start),
            stop: AtomicBool::new(false),
            failed: Mutex::new(None),
        }
    }

    fn take(&self, end: u64) -> Option<Turn<'_>> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        // Not `then_some`: past the end there is no turn, and none is dropped.
        (index < end).then(|| Turn { places: &self.places, index })
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
struct Places {
    state: Mutex<PlacesState>,
    changed: Condvar,
}

struct PlacesState {
    next: u64,
    offset: u64,
    abandoned: bool,
}

impl Places {
    fn from(first: u64) -> Self {
        let state = PlacesState { next: first, offset: 0, abandoned: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Where everything ends.
    fn end(&self) -> u64 {
        self.state.lock().offset
    }
}

/// The turn of a chunk: a thread has it from the moment that it takes the chunk on. If it is dropped unused, nobody behind it waits
/// in vain.
pub(crate) struct Turn<'a> {
    places: &'a Places,
    index: u64,
}

impl Turn<'_> {
    /// Which chunk it is.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    const CHUNKS: u64 = 16;

    fn shape() -> Shape {
        Shape::of(CHUNKS << 20)
    }

    /// Cancels in the moment in which one thread has taken chunk 2 on, and another one waits behind it with chunk 3.
    struct CancelBetween {
        asked: AtomicUsize,
        first_may_go_on: Sender<()>,
        next_waits: Mutex<Receiver<()>>,
    }

    impl Monitor for CancelBetween {
        fn cancelled(&self) -> bool {
            // Before 0 and before 1; after 1, because 0 is held; before 2.
            if self.asked.fetch_add(1, Ordering::SeqCst) != 3 {
                return false;
            }
            self.first_may_go_on.send(()).unwrap();
            self.next_waits.lock().recv().unwrap();
            true
        }

        fn advanced(&self, _: Extent) {}
    }

    #[test]
    fn p4_a_cancel_before_a_chunk_ends_whoever_waits_for_its_place() {
        let (first_may_go_on, held) = channel();
        let (waits, next_waits) = channel();
        let monitor = CancelBetween { asked: AtomicUsize::new(0), first_may_go_on, next_waits: Mutex::new(next_waits) };
        let (held, waits) = (Mutex::new(held), Mutex::new(waits));
        let (ended, end) = channel();
        std::thread::spawn(move || {
            let result = each_chunk_by(
                2,
                shape(),
                0..CHUNKS,
                &monitor,
                || (),
                |(), turn, _| {
                    let index = turn.index();
                    if index == 3 {
                        waits.lock().send(()).unwrap();
                    }
                    let place = turn.take(1);
                    if index == 0 {
                        held.lock().recv().unwrap();
                    }
                    assert_eq!(place.is_some(), index < 3);
                    Ok(Step::Moved)
                },
            );
            ended.send(result).unwrap();
        });
        let result = end.recv_timeout(Duration::from_secs(10)).expect("somebody waits for ever");
        assert!(matches!(result, Err(TransferError::Cancelled)), "{result:?}");
    }

    /// Tells when its thread has no more to do.
    struct Tells(Sender<()>);

    impl Drop for Tells {
        fn drop(&mut self) {
            // The last one to end tells nobody.
            let _ = self.0.send(());
        }
    }

    #[test]
    fn places_are_given_in_the_order_of_the_chunks_also_after_others_have_ended() {
        let places = Mutex::new(Vec::new());
        let (ends, ended) = channel();
        let (ends, ended) = (Mutex::new(ends), Mutex::new(ended));
        let state = || Tells(ends.lock().clone());
        let end = each_chunk_by(2, shape(), 5..CHUNKS, &crate::Unwatched, state, |_, turn, _| {
            let index = turn.index();
            if index == CHUNKS - 1 {
                ended.lock().recv().unwrap();
            }
            places.lock().push((index, turn.take(index)));
            Ok(Step::Moved)
        });
        let places = places.into_inner();
        let mut offset = 0;
        for index in 5..CHUNKS {
            assert!(places.contains(&(index, Some(offset))), "{places:?}");
            offset += index;
        }
        assert_eq!(end.unwrap(), offset);
    }
}
