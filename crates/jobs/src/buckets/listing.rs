//! What is below a prefix, worked on by several threads as the listing comes.

use objects::foreign::Listed;
use objects::plain::Plain;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use transfer::TransferError;

/// Given to a thread at a time.
const BATCH: usize = 16;

/// Has `work` done with all of it, a few at a time; `begin` makes what each thread keeps. Returns when all is done, or nothing more begins after `stop` is set.
pub(super) fn each<K>(
    plain: &Plain,
    prefix: &str,
    threads: usize,
    stop: &AtomicBool,
    begin: impl Fn() -> K + Sync,
    work: impl Fn(&mut K, Listed) + Sync,
) -> Result<(), TransferError> {
    let (sender, receiver) = sync_channel::<Vec<Listed>>(threads);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(batch) = next(&receiver) {
                    // What is kept is kept for a batch: names may be moved about meanwhile.
                    let mut kept = begin();
                    for listed in batch {
                        if !stop.load(Ordering::Relaxed) {
                            work(&mut kept, listed);
                        }
                    }
                }
            });
        }
        let listed = plain.list(prefix, &mut |listed| {
            for batch in listed.chunks(BATCH) {
                if stop.load(Ordering::Relaxed) || sender.send(batch.to_vec()).is_err() {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        drop(sender);
        listed
    })
}

/// Batches that were sent are taken also when it is over, so that nobody waits to send one.
fn next(receiver: &Mutex<Receiver<Vec<Listed>>>) -> Option<Vec<Listed>> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
