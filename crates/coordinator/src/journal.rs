//! The queue's writer: one thread that turns whatever has come together into one durable transaction.

use model::{ActionId, Failure};
use queue::{Change, NewAction, Queue, QueueError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

type Submitted = Box<dyn FnOnce(Result<Vec<ActionId>, Failure>) + Send>;
type Applied = Box<dyn FnOnce() + Send>;

enum Entry {
    Submit(Vec<NewAction>, Submitted),
    Apply(Vec<Change>, Option<Applied>),
    Stop,
}

/// Hands entries to the writer. Dropping it writes what is left and ends the thread.
pub(crate) struct Journal {
    entries: Sender<Entry>,
    stuck: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Changes gathered into one transaction at most.
const BATCH: usize = 8192;
/// Pause before a transaction that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

impl Journal {
    /// `fatal` is called, once, when the database turns out to be damaged: going on would promise what cannot be kept.
    pub(crate) fn start(queue: Arc<dyn Queue>, fatal: impl Fn(String) + Send + 'static) -> std::io::Result<Self> {
        let (entries, incoming) = channel();
        let stuck = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stuck);
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || {
            Writer { queue, changes: Vec::new(), applied: Vec::new(), stuck: flag, fatal: Box::new(fatal) }
                .run(&incoming);
        })?;
        Ok(Self { entries, stuck, thread: Some(thread) })
    }

    /// Accepts actions; `done` runs on the writer's thread once they are durable, or could not be made so.
    pub(crate) fn submit(
        &self,
        actions: Vec<NewAction>,
        done: impl FnOnce(Result<Vec<ActionId>, Failure>) + Send + 'static,
    ) {
        // The writer lives as long as `self`.
        let _ = self.entries.send(Entry::Submit(actions, Box::new(done)));
    }

    /// Makes changes durable, trying until it works: results must not be lost. `done` runs after that.
    pub(crate) fn apply(&self, changes: Vec<Change>, done: Option<Applied>) {
        let _ = self.entries.send(Entry::Apply(changes, done));
    }

    /// Whether the database takes nothing at the moment. No new work should be started then.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.entries.send(Entry::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    queue: Arc<dyn Queue>,
    changes: Vec<Change>,
    applied: Vec<Applied>,
    stuck: Arc<AtomicBool>,
    fatal: Box<dyn Fn(String) + Send>,
}

impl Writer {
    fn run(mut self, incoming: &Receiver<Entry>) {
        loop {
            let stuck = self.stuck.load(Ordering::Relaxed);
            let first = if stuck {
                match incoming.recv_timeout(RETRY) {
                    Ok(entry) => Some(entry),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                match incoming.recv() {
                    Ok(entry) => Some(entry),
                    Err(_) => return,
                }
            };
            let mut stop = false;
            let mut next = first;
            while let Some(entry) = next {
                match entry {
                    Entry::Apply(changes, done) => {
                        self.changes.extend(changes);
                        self.applied.extend(done);
                    }
                    Entry::Submit(actions, done) => self.submit(&actions, done),
                    Entry::Stop => stop = true,
                }
                next = if self.changes.len() < BATCH { incoming.try_recv().ok() } else { None };
            }
            self.flush();
            if stop {
                return;
            }
        }
    }

    fn submit(&mut self, actions: &[NewAction], done: Submitted) {
        // In the order in which it was asked: changes before it first.
        self.flush();
        done(self.queue.submit(actions).map_err(|error| {
            self.note(&error);
            Failure::temporary(28, error.to_string())
        }));
    }

    fn flush(&mut self) {
        if self.changes.is_empty() && self.applied.is_empty() {
            return;
        }
        if self.changes.is_empty() {
            self.applied.drain(..).for_each(|done| done());
            return;
        }
        match self.queue.apply(&self.changes) {
            Ok(()) => {
                if self.stuck.swap(false, Ordering::Relaxed) {
                    tracing::info!("the queue database takes changes again");
                }
                self.changes.clear();
                self.applied.drain(..).for_each(|done| done());
            }
            Err(error) => {
                self.note(&error);
                if !self.stuck.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, changes = self.changes.len(), "cannot record results; trying again every second");
                }
            }
        }
    }

    fn note(&self, error: &QueueError) {
        if matches!(error, QueueError::Corrupt { .. }) {
            (self.fatal)(error.to_string());
        }
    }
}
