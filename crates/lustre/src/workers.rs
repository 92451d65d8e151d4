//! Threads that may block: calls of the library, attributes, the journal.

use crate::lanes::Load;
use crate::source::Shared;
use model::{Failure, Outcome};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use sys::lustre::{CopyAction, Item, ProgressFlags};

/// An `end` takes the MDT about 10 ms, and most of that is waiting.
const WORKERS: usize = 16;

/// Something for a worker.
pub(crate) enum Job {
    /// Begin an action.
    Begin(u64),
    /// End it, or decide when it is tried again.
    Finish(u64, Outcome),
    /// Tell the coordinator how far it is.
    Report(u64),
    /// Load a lane from the journal.
    Load(Load),
    /// Answer an item that was never written down.
    Refuse(Item, Failure),
}

pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<Vec<JoinHandle<()>>> {
    let one = |number| {
        let shared = Arc::clone(shared);
        std::thread::Builder::new().name(format!("lustre-{number}")).spawn(move || work(&shared))
    };
    (0..WORKERS).map(one).collect()
}

fn work(shared: &Shared) {
    loop {
        let job = {
            let mut state = shared.state.lock();
            loop {
                if let Some(job) = state.urgent.pop_front().or_else(|| state.jobs.pop_front()) {
                    break job;
                }
                if state.closed {
                    return;
                }
                shared.work.wait(&mut state);
            }
        };
        match job {
            Job::Begin(id) => shared.begin(id),
            Job::Finish(id, outcome) => shared.finish(id, outcome),
            Job::Report(id) => shared.report(id),
            Job::Load(load) => shared.load(load),
            Job::Refuse(item, failure) => refuse(shared, item, failure),
        }
        shared.announce();
    }
}

/// Ends what cannot begin; without a registration, as soon as there is one. An error changes nothing: it is over as far as we are concerned.
pub(crate) fn refuse(shared: &Shared, item: Item, failure: Failure) {
    let (action, fid, cookie) = (item.action(), item.fid(), item.cookie());
    let mut state = shared.state.lock();
    let Some(handle) = state.handle.clone() else {
        if state.closed {
            tracing::error!(%action, %fid, cookie = format_args!("{cookie:#x}"), "cannot be refused any more: it holds its slot until the coordinator gives it up");
        } else {
            state.untold.push((item, failure));
        }
        return;
    };
    drop(state);
    tracing::error!(%action, %fid, cookie = format_args!("{cookie:#x}"), "refused: {}", failure.message);
    if let Err(error) = CopyAction::fail(&handle, &item, failure.errno.max(1), ProgressFlags::default()) {
        tracing::warn!(%fid, cookie = format_args!("{cookie:#x}"), %error, "the coordinator did not take the refusal");
    }
}
