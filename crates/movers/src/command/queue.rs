//! What waits for a command, and who runs with whom: a handler with a thread for each command that may run at the same time.
//!
//! Order is that of [`plugin::Workers`]: readers first, and of sixteen turns one at least another class's; among equals users take turns.
//! Actions that one command can do together are gathered for a while.

use super::line::parts_of;
use config::command::{Batch, CommandArchive, Placeholder, Template};
use model::{ActionId, Class, ClassTurns, Command, Failure, FairQueue};
use plugin::{Handler, PluginError, Reply, Task};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a batch that is gathered is looked through for actions that were cancelled.
const TICK: Duration = Duration::from_millis(200);

/// An action that waits, or is being worked on.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) task: Task,
    pub(super) reply: Reply,
    /// How long a batch waits for its sake.
    until: Instant,
    /// Its command failed for several; now by itself, so that the result is its own.
    pub(super) alone: bool,
}

/// Does the jobs of one batch, one job at least. Gives back those that are to be done again.
pub(super) type Work = dyn Fn(Vec<Job>) -> Vec<Job> + Send + Sync;

/// What can be in one batch: the same command, and, where objects name their batch, the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key(Command, Option<String>);

/// How jobs come to be in batches.
pub(super) struct Gathering {
    archive: Arc<CommandArchive>,
    /// What an action's path is relative to.
    mount: PathBuf,
}

impl Gathering {
    pub(super) fn new(archive: Arc<CommandArchive>, mount: PathBuf) -> Self {
        Self { archive, mount }
    }

    fn template(&self, command: Command) -> Option<&Template> {
        match command {
            Command::Archive => Some(&self.archive.archive),
            Command::Restore => Some(&self.archive.restore),
            Command::Remove => self.archive.remove.as_ref(),
            Command::Verify => None,
        }
    }

    /// `None` for what goes by itself.
    fn batch(&self, job: &Job) -> Option<&Batch> {
        let template = self.template(job.task.command)?;
        (template.is_batch() && !job.alone && !job.task.metadata_only).then_some(&self.archive.batch)
    }

    fn key(&self, task: &Task) -> Key {
        let named = task.command != Command::Archive
            && self.template(task.command).is_some_and(|template| template.has(Placeholder::Batch));
        let batch = if named { parts_of(&task.identity.uuid).0.map(str::to_owned) } else { None };
        Key(task.command, batch)
    }

    fn size(&self, task: &Task) -> u64 {
        match task.command {
            Command::Archive => std::fs::metadata(self.mount.join(&task.primary_path)).map_or(0, |found| found.len()),
            Command::Restore => task.expected_size.unwrap_or(0),
            Command::Remove | Command::Verify => 0,
        }
    }
}

/// The handler.
pub(super) struct Commands {
    shared: Arc<Shared>,
}

struct Shared {
    gathering: Gathering,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: [FairQueue<Job>; Class::ALL.len()],
    turns: ClassTurns,
    /// What a thread is gathering: nobody else begins a batch of that.
    gathered: Vec<Key>,
    draining: bool,
    closed: bool,
}

impl Queue {
    fn push(&mut self, job: Job) {
        if let Some(lane) = self.waiting.get_mut(job.task.class() as usize) {
            lane.push(job.task.owner, job);
        }
    }

    /// The next one that may begin, and what is gathered with it.
    fn pop(&mut self, gathering: &Gathering) -> Option<(Job, Option<Key>)> {
        let Self { waiting, turns, gathered, .. } = self;
        let free = |job: &Job| gathering.batch(job).is_none() || !gathered.contains(&gathering.key(&job.task));
        let class = turns.next(|class| waiting.get(class as usize).is_some_and(|lane| lane.has(|_, job| free(job))))?;
        let job = waiting.get_mut(class as usize)?.pop_if(|_, job| free(job))?;
        let key = gathering.batch(&job).map(|_| gathering.key(&job.task));
        gathered.extend(key.clone());
        Some((job, key))
    }

    fn pop_for(&mut self, key: &Key, gathering: &Gathering) -> Option<Job> {
        let fits = |job: &Job| gathering.batch(job).is_some() && gathering.key(&job.task) == *key;
        self.waiting.iter_mut().find_map(|lane| lane.pop_if(|_, job| fits(job)))
    }
}

impl Commands {
    /// Starts `max_commands` threads.
    pub(super) fn start(gathering: Gathering, work: Arc<Work>) -> Result<Self, PluginError> {
        let (id, threads) = (gathering.archive.id, gathering.archive.max_commands.get());
        let shared = Arc::new(Shared { gathering, queue: Mutex::default(), changed: Condvar::new() });
        let commands = Self { shared };
        for number in 1..=threads {
            let (shared, work) = (Arc::clone(&commands.shared), Arc::clone(&work));
            std::thread::Builder::new()
                .name(format!("command-{id}-{number}"))
                .spawn(move || shared.run(&*work))
                .map_err(|source| PluginError::System { doing: "start a worker thread", source })?;
        }
        Ok(commands)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, work: &Work) {
        while let Some((job, key)) = self.next() {
            let jobs = match key {
                Some(key) => self.gather(job, &key),
                None => vec![job],
            };
            if jobs.is_empty() {
                continue;
            }
            // The replies were moved into the call: when that unwinds, dropping them has reported failures.
            match catch_unwind(AssertUnwindSafe(|| work(jobs))) {
                Ok(again) => self.put_back(again),
                Err(_) => tracing::error!("the mover panicked"),
            }
        }
    }

    fn next(&self) -> Option<(Job, Option<Key>)> {
        let mut queue = self.lock();
        loop {
            if let Some(next) = queue.pop(&self.gathering) {
                return Some(next);
            }
            if queue.closed {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The batch that begins with this job, in the order of ids. Empty when all of it was cancelled, or is left to the agent.
    fn gather(&self, first: Job, key: &Key) -> Vec<Job> {
        let limits = self.gathering.archive.batch;
        let until = first.until;
        let mut bytes = self.gathering.size(&first.task);
        let mut jobs = vec![first];
        while jobs.len() < limits.max_files && bytes < limits.max_bytes && !jobs.is_empty() {
            let mut queue = self.lock();
            if queue.draining {
                jobs.drain(..).for_each(|job| job.reply.hand_back());
                break;
            }
            if let Some(job) = queue.pop_for(key, &self.gathering) {
                drop(queue);
                bytes = bytes.saturating_add(self.gathering.size(&job.task));
                jobs.push(job);
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || queue.closed || jobs.iter().any(|job| job.task.reader_waits) {
                break;
            }
            drop(self.changed.wait_timeout(queue, left.min(TICK)));
            for cancelled in jobs.extract_if(.., |job| job.reply.is_cancelled()) {
                cancelled.reply.fail(Failure::cancelled());
            }
        }
        self.lock().gathered.retain(|other| other != key);
        // Who passed these over may go on.
        self.changed.notify_all();
        jobs.sort_by(|a, b| a.task.identity.uuid.cmp(&b.task.identity.uuid));
        jobs
    }

    /// They have waited for others already. All at once, so that they are one batch again.
    fn put_back(&self, jobs: Vec<Job>) {
        let mut queue = self.lock();
        if queue.draining {
            drop(queue);
            jobs.into_iter().for_each(|job| job.reply.hand_back());
            return;
        }
        // Those that were cancelled meanwhile are not found in the queue by that.
        let (cancelled, jobs): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.reply.is_cancelled());
        jobs.into_iter().for_each(|job| queue.push(Job { until: Instant::now(), ..job }));
        drop(queue);
        self.changed.notify_all();
        cancelled.into_iter().for_each(|job| job.reply.fail(Failure::cancelled()));
    }
}

impl Handler for Commands {
    fn accept(&self, task: Task, reply: Reply) {
        let until = Instant::now() + self.shared.gathering.archive.batch.max_wait;
        self.shared.lock().push(Job { task, reply, until, alone: false });
        self.shared.changed.notify_all();
    }

    /// Answers queued actions at once; a running one sees it in its reply.
    fn cancel(&self, _: ActionId) {
        let removed: Vec<_> = {
            let mut queue = self.shared.lock();
            queue.waiting.iter_mut().flat_map(|lane| lane.remove(|job| job.reply.is_cancelled())).collect()
        };
        removed.into_iter().for_each(|job| job.reply.fail(Failure::cancelled()));
        self.shared.changed.notify_all();
    }

    fn drain(&self) {
        let unbegun: Vec<_> = {
            let mut queue = self.shared.lock();
            queue.draining = true;
            queue.waiting.iter_mut().flat_map(|lane| std::iter::from_fn(|| lane.pop())).collect()
        };
        self.shared.changed.notify_all();
        unbegun.into_iter().for_each(|job| job.reply.hand_back());
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}
