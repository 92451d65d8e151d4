//! A source in memory.

use super::{ActionSource, SourceError, Work};
use futures_util::future::BoxFuture;
use model::{Command, Extent, Identity, Outcome};
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::Notify;

/// Works pushed by hand or made on demand; results and progress are kept until taken.
#[derive(Default)]
pub struct MemorySource {
    state: Mutex<State>,
    /// Works came, or the source was closed.
    changed: Notify,
    /// Results came.
    finished: Notify,
    /// Cancels came.
    cancelled: Notify,
}

#[derive(Default)]
struct State {
    works: VecDeque<Work>,
    /// The works still to be made: archive id, keys from..to.
    generated: Option<(u32, u64, u64)>,
    closed: bool,
    results: Vec<(u64, Outcome)>,
    finished: u64,
    progress: Vec<(u64, Extent)>,
    cancels: Vec<u64>,
    served: Vec<(u32, usize)>,
}

impl State {
    fn take(&mut self, max: usize) -> Vec<Work> {
        let pushed = self.works.len().min(max);
        let mut taken: Vec<Work> = self.works.drain(..pushed).collect();
        if let Some((archive_id, next, end)) = &mut self.generated {
            let made = (*end - *next).min((max - taken.len()) as u64);
            taken.extend((*next..*next + made).map(|key| MemorySource::noop(key, *archive_id)));
            *next += made;
        }
        taken
    }
}

impl MemorySource {
    /// An empty source.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A work that concerns no file: an archive of the whole of nothing.
    #[must_use]
    pub fn noop(key: u64, archive_id: u32) -> Work {
        Work {
            key,
            archive_id,
            command: Command::Archive,
            primary_path: String::from("noop"),
            write_path: String::new(),
            extent: Extent::WHOLE,
            data: Vec::new(),
            identity: Identity::default(),
            file_path: String::new(),
            expected_size: None,
            tree_path: Vec::new(),
            attempted_since_ms: 0,
            metadata_only: false,
            owner: 0,
            reader_waits: false,
            sync_target: false,
            size: 0,
            keepalive: None,
        }
    }

    /// Adds a work.
    pub fn push(&self, work: Work) {
        self.state.lock().works.push_back(work);
        self.changed.notify_one();
    }

    /// Adds `count` noop works with keys `0..count`, each made when it is asked for: a million cost nothing until then.
    pub fn generate(&self, archive_id: u32, count: u64) {
        self.state.lock().generated = Some((archive_id, 0, count));
        self.changed.notify_one();
    }

    /// No more works will come.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    /// Asks for a work to be stopped.
    pub fn cancel(&self, key: u64) {
        self.state.lock().cancels.push(key);
        self.cancelled.notify_one();
    }

    /// Waits until `count` results have come since the source was made, and takes those not taken before.
    pub async fn wait_results(&self, count: u64) -> Vec<(u64, Outcome)> {
        loop {
            let finished = self.finished.notified();
            {
                let mut state = self.state.lock();
                if state.finished >= count {
                    return std::mem::take(&mut state.results);
                }
            }
            finished.await;
        }
    }

    /// How many results have come.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.state.lock().finished
    }

    /// Takes the progress that was reported.
    #[must_use]
    pub fn take_progress(&self) -> Vec<(u64, Extent)> {
        std::mem::take(&mut self.state.lock().progress)
    }

    /// The archives that have a mover, as last told.
    #[must_use]
    pub fn served(&self) -> Vec<u32> {
        self.state.lock().served.iter().map(|(archive_id, _)| *archive_id).collect()
    }

    /// What the movers of an archive take at once, as last told.
    #[must_use]
    pub fn room(&self, archive_id: u32) -> Option<usize> {
        self.state.lock().served.iter().find(|(id, _)| *id == archive_id).map(|(_, room)| *room)
    }
}

impl ActionSource for MemorySource {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Work>, SourceError>> {
        Box::pin(async move {
            loop {
                {
                    let mut state = self.state.lock();
                    let works = state.take(max);
                    if !works.is_empty() || state.closed {
                        return Ok(works);
                    }
                }
                self.changed.notified().await;
            }
        })
    }

    fn progress(&self, key: u64, moved: Extent) {
        self.state.lock().progress.push((key, moved));
    }

    fn complete(&self, results: Vec<(u64, Outcome)>) {
        let mut state = self.state.lock();
        state.finished += results.len() as u64;
        state.results.extend(results);
        drop(state);
        self.finished.notify_one();
    }

    fn next_cancels(&self) -> BoxFuture<'_, Vec<u64>> {
        Box::pin(async move {
            loop {
                let cancels = std::mem::take(&mut self.state.lock().cancels);
                if !cancels.is_empty() {
                    return cancels;
                }
                self.cancelled.notified().await;
            }
        })
    }

    fn archives_changed(&self, served: &[(u32, usize)]) {
        self.state.lock().served = served.to_vec();
    }
}
