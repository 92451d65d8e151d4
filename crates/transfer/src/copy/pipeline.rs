//! Moving steps from a source to a sink, in one thread or two.

use super::sink::Sink;
use super::source::{Source, Step};
use super::{Copied, RING, TWO_THREADS_FROM_BYTES};
use crate::{DigestKind, Digester, Monitor, TransferError};
use model::Extent;
use model::limits::CHUNK_SIZE_BYTES;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Moves everything from `source` to `sink`. Does not finish the sink: what was written is only worth finishing once the caller
/// has compared the digest.
pub(crate) fn run(
    source: &mut dyn Source,
    sink: &mut dyn Sink,
    digest: Option<DigestKind>,
    monitor: &dyn Monitor,
) -> Result<Copied, TransferError> {
    let mut intake = Intake { source, digester: digest.map(Digester::new), monitor, position: 0 };
    if sink.discards() || intake.source.data_hint() < TWO_THREADS_FROM_BYTES {
        alone(&mut intake, sink)?;
    } else {
        overlapped(&mut intake, sink)?;
    }
    Ok(intake.done())
}

/// The reading half: source, digest, cancellation, progress.
struct Intake<'a> {
    source: &'a mut dyn Source,
    digester: Option<Digester>,
    monitor: &'a dyn Monitor,
    position: u64,
}

impl Intake<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Step, TransferError> {
        if self.monitor.cancelled() {
            return Err(TransferError::Cancelled);
        }
        let step = self.source.next(buffer)?;
        let offset = self.position;
        let length = match step {
            Step::End => return Ok(step),
            Step::Data(count) => {
                if let Some(digester) = &mut self.digester {
                    digester.update(buffer.get(..count).unwrap_or_default());
                }
                self.monitor.advanced(Extent { offset, length: count as u64 });
                count as u64
            }
            Step::Hole(length) => {
                if let Some(digester) = &mut self.digester {
                    digester.update_zeros(length);
                }
                self.monitor.skipped(Extent { offset, length });
                length
            }
        };
        self.position += length;
        Ok(step)
    }

    fn done(self) -> Copied {
        Copied { bytes: self.position, digest: self.digester.map(Digester::finish) }
    }
}

fn alone(intake: &mut Intake<'_>, sink: &mut dyn Sink) -> Result<(), TransferError> {
    let size = usize::try_from(intake.source.data_hint()).unwrap_or(usize::MAX);
    let mut buffer = vec![0; size.clamp(4096, CHUNK_SIZE_BYTES)];
    loop {
        match intake.next(&mut buffer)? {
            Step::Data(count) => sink.data(buffer.get(..count).unwrap_or_default())?,
            Step::Hole(length) => sink.hole(length)?,
            Step::End => return Ok(()),
        }
    }
}

enum Filled {
    Data(Vec<u8>, usize),
    Hole(u64),
}

/// With a thread that writes; without one where the system has none to give.
fn overlapped(intake: &mut Intake<'_>, sink: &mut dyn Sink) -> Result<(), TransferError> {
    let (filled, to_write) = sync_channel::<Filled>(RING);
    let (spent, empty) = sync_channel::<Vec<u8>>(RING);
    for _ in 0..RING {
        // Cannot fail: the channel holds as many and its other end is above.
        let _ = spent.send(vec![0; CHUNK_SIZE_BYTES]);
    }
    let stop = AtomicBool::new(false);
    let moved = std::thread::scope(|scope| {
        let (stop, sink) = (&stop, &mut *sink);
        let writer =
            std::thread::Builder::new().spawn_scoped(scope, move || write(sink, &to_write, &spent, stop)).ok()?;
        let read = fill(intake, &filled, &empty);
        stop.store(read.is_err(), Ordering::Relaxed);
        drop(filled);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Some(read.and(written))
    });
    moved.unwrap_or_else(|| {
        tracing::debug!("no second thread for a file: it takes longer");
        alone(intake, sink)
    })
}

/// Ends early and well when the writer has hung up: it has an error to tell.
fn fill(intake: &mut Intake<'_>, filled: &SyncSender<Filled>, empty: &Receiver<Vec<u8>>) -> Result<(), TransferError> {
    let Ok(mut buffer) = empty.recv() else { return Ok(()) };
    loop {
        let message = match intake.next(&mut buffer)? {
            Step::End => return Ok(()),
            Step::Hole(length) => Filled::Hole(length),
            Step::Data(count) => {
                let Ok(next) = empty.recv() else { return Ok(()) };
                Filled::Data(std::mem::replace(&mut buffer, next), count)
            }
        };
        if filled.send(message).is_err() {
            return Ok(());
        }
    }
}

fn write(
    sink: &mut dyn Sink,
    to_write: &Receiver<Filled>,
    spent: &SyncSender<Vec<u8>>,
    stop: &AtomicBool,
) -> Result<(), TransferError> {
    for message in to_write {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match message {
            Filled::Hole(length) => sink.hole(length)?,
            Filled::Data(buffer, count) => {
                sink.data(buffer.get(..count).unwrap_or_default())?;
                // The reader has ended when this fails, and needs no more buffers.
                let _ = spent.send(buffer);
            }
        }
    }
    Ok(())
}
