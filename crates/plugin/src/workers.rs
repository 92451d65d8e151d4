//! Threads for movers that block.

use crate::{Handler, PluginError, Reply};
use model::{ActionId, Class, ClassTurns, Command, Failure, FairQueue};
use parking_lot::{Condvar, Mutex};
use proto::Task;
use std::collections::HashMap;
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

/// A handler that runs a [`Mover`] on a fixed number of threads over one queue. Bounded by the credits of the archives it
/// serves.
///
/// What is begun next: restores that readers are blocked on, then other restores, removals, archiving; of sixteen turns one
/// at least is a less urgent one's. Among equals users take turns. One thread more takes nothing but restores of users who
/// have none running: neither long archives nor another's restores keep anybody's first one waiting.
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
    /// For the one thread that takes first restores only.
    first_restore: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: [FairQueue<(Task, Reply)>; Class::ALL.len()],
    turns: ClassTurns,
    /// How many of those that wait are restores.
    restores: usize,
    /// How many restores run, by user.
    restoring: HashMap<u32, usize>,
    /// Threads that take anything and have nothing.
    idle: usize,
    closed: bool,
}

impl Queue {
    fn push(&mut self, task: Task, reply: Reply) {
        if let Some(lane) = self.waiting.get_mut(task.class() as usize) {
            self.restores += usize::from(task.command == Command::Restore);
            lane.push(task.owner, (task, reply));
        }
    }

    fn pop(&mut self) -> Option<(Task, Reply)> {
        let Self { waiting, turns, .. } = self;
        let class = turns.next(|class| waiting.get(class as usize).is_some_and(|lane| !lane.is_empty()))?;
        let popped = waiting.get_mut(class as usize)?.pop();
        self.count_out(popped.iter());
        popped
    }

    /// The next restore of a user who has none running, if no other thread is there to take it.
    fn pop_first_restore(&mut self) -> Option<(Task, Reply)> {
        if self.idle > 0 {
            return None;
        }
        let Self { waiting, restoring, .. } = self;
        let popped = waiting.iter_mut().find_map(|lane| {
            lane.pop_if(|owner, (task, _)| task.command == Command::Restore && !restoring.contains_key(&owner))
        });
        self.count_out(popped.iter());
        popped
    }

    /// These do not wait any more.
    fn count_out<'a>(&mut self, gone: impl Iterator<Item = &'a (Task, Reply)>) {
        self.restores -= gone.filter(|(task, _)| task.command == Command::Restore).count();
    }

    fn begin(&mut self, task: &Task) {
        if task.command == Command::Restore {
            *self.restoring.entry(task.owner).or_default() += 1;
        }
    }

    fn end(&mut self, owner: u32) {
        if let Some(count) = self.restoring.get_mut(&owner) {
            *count -= 1;
            if *count == 0 {
                self.restoring.remove(&owner);
            }
        }
    }

    fn remove_cancelled(&mut self) -> Vec<Reply> {
        let removed = self.waiting.iter_mut().flat_map(|lane| lane.remove(|(_, reply)| reply.is_cancelled()));
        let removed: Vec<_> = removed.collect();
        self.count_out(removed.iter());
        removed.into_iter().map(|(_, reply)| reply).collect()
    }
}

impl Workers {
    /// Starts `threads` threads, named `name`-1 and so on (Linux shows the first 15 bytes), and one more, `name`-r.
    ///
    /// # Errors
    /// A thread cannot be started; those that were have ended.
    pub fn start(name: &str, threads: NonZeroUsize, mover: impl Mover) -> Result<Self, PluginError> {
        let (workers, mover) = (Self { shared: Arc::default() }, Arc::new(mover));
        let names = (1..=threads.get()).map(|number| (format!("{name}-{number}"), false));
        for (name, first_restores_only) in names.chain([(format!("{name}-r"), true)]) {
            let (shared, mover) = (workers.shared.clone(), mover.clone());
            std::thread::Builder::new()
                .name(name)
                .spawn(move || shared.work(&*mover, first_restores_only))
                .map_err(|source| PluginError::System { doing: "start a worker thread", source })?;
        }
        Ok(workers)
    }
}

impl Shared {
    fn work(&self, mover: &impl Mover, first_restores_only: bool) {
        while let Some((task, reply)) = self.next(first_restores_only) {
            let (id, owner, command) = (task.id, task.owner, task.command);
            // The reply was moved into the call: when that unwinds, dropping it has reported the failure.
            if catch_unwind(AssertUnwindSafe(|| mover.run(task, reply))).is_err() {
                tracing::error!(%id, "the mover panicked");
            }
            if command == Command::Restore {
                self.queue.lock().end(owner);
                self.first_restore.notify_one();
            }
        }
    }

    fn next(&self, first_restores_only: bool) -> Option<(Task, Reply)> {
        let mut queue = self.queue.lock();
        loop {
            let work = if first_restores_only { queue.pop_first_restore() } else { queue.pop() };
            if let Some((task, reply)) = work {
                queue.begin(&task);
                // What is left may be for the one thread more, now that this one is busy. Not woken for nothing, with each small file.
                if queue.restores > 0 {
                    self.first_restore.notify_one();
                }
                return Some((task, reply));
            }
            if queue.closed {
                return None;
            }
            if first_restores_only {
                self.first_restore.wait(&mut queue);
            } else {
                queue.idle += 1;
                self.work.wait(&mut queue);
                queue.idle -= 1;
            }
        }
    }
}

impl Handler for Workers {
    fn accept(&self, task: Task, reply: Reply) {
        let is_restore = task.command == Command::Restore;
        self.shared.queue.lock().push(task, reply);
        self.shared.work.notify_one();
        if is_restore {
            self.shared.first_restore.notify_one();
        }
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
        self.shared.first_restore.notify_all();
    }
}
