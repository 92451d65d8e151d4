//! Threads for movers that block.

use crate::{Handler, PluginError, Reply};
use model::{ActionId, Command, Failure};
use parking_lot::{Condvar, Mutex};
use proto::Task;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Work on one action that may block.
pub trait Mover: Send + Sync + 'static {
    /// Does it. Several calls run at once, each on a thread of its own. The reply may outlive the call (to be
    /// answered from another thread, as when many objects are synced together); a panic counts as a failure.
    fn run(&self, task: Task, reply: Reply);
}

impl<M: Mover> Mover for Arc<M> {
    fn run(&self, task: Task, reply: Reply) {
        (**self).run(task, reply);
    }
}

/// A handler that runs a [`Mover`] on a fixed number of threads over one queue, restores first. Bounded by the
/// credits of the archives it serves.
///
/// Dropping it lets idle threads end; a thread inside the mover is not waited for.
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    restores: VecDeque<(Task, Reply)>,
    others: VecDeque<(Task, Reply)>,
    closed: bool,
}

impl Queue {
    fn pop(&mut self) -> Option<(Task, Reply)> {
        self.restores.pop_front().or_else(|| self.others.pop_front())
    }

    fn remove_cancelled(&mut self) -> Vec<Reply> {
        let mut removed = Vec::new();
        for lane in [&mut self.restores, &mut self.others] {
            let mut at = 0;
            while let Some((_, reply)) = lane.get(at) {
                if reply.is_cancelled() {
                    removed.extend(lane.remove(at).map(|(_, reply)| reply));
                } else {
                    at += 1;
                }
            }
        }
        removed
    }
}

impl Workers {
    /// Starts `threads` threads, named `name`-1 and so on (Linux shows the first 15 bytes).
    ///
    /// # Errors
    /// A thread cannot be started; those that were have ended.
    pub fn start(name: &str, threads: NonZeroUsize, mover: impl Mover) -> Result<Self, PluginError> {
        let (workers, mover) = (Self { shared: Arc::default() }, Arc::new(mover));
        for number in 1..=threads.get() {
            let (shared, mover) = (workers.shared.clone(), mover.clone());
            std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || shared.work(&*mover))
                .map_err(|source| PluginError::System { doing: "start a worker thread", source })?;
        }
        Ok(workers)
    }
}

impl Shared {
    fn work(&self, mover: &impl Mover) {
        while let Some((task, reply)) = self.next() {
            let id = task.id;
            // The reply was moved into the call: when that unwinds, dropping it has reported the failure.
            if catch_unwind(AssertUnwindSafe(|| mover.run(task, reply))).is_err() {
                tracing::error!(%id, "the mover panicked");
            }
        }
    }

    fn next(&self) -> Option<(Task, Reply)> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(work) = queue.pop() {
                return Some(work);
            }
            if queue.closed {
                return None;
            }
            self.work.wait(&mut queue);
        }
    }
}

impl Handler for Workers {
    fn accept(&self, task: Task, reply: Reply) {
        let mut queue = self.shared.queue.lock();
        match task.command {
            Command::Restore => queue.restores.push_back((task, reply)),
            Command::Archive | Command::Remove | Command::Verify => queue.others.push_back((task, reply)),
        }
        drop(queue);
        self.shared.work.notify_one();
    }

    /// Answers queued actions at once; a running one sees it in its reply.
    fn cancel(&self, _: ActionId) {
        let removed = self.shared.queue.lock().remove_cancelled();
        removed.into_iter().for_each(|reply| reply.fail(Failure::cancelled()));
    }

    fn drain(&self) {
        let unbegun: Vec<_> = {
            let mut queue = self.shared.queue.lock();
            std::iter::from_fn(|| queue.pop()).collect()
        };
        unbegun.into_iter().for_each(|(_, reply)| reply.hand_back());
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.work.notify_all();
    }
}
