//! The engine: everything that is going on with the files of one filesystem, decided by one thread.
//!
//! One thread, the brain, owns all state and never blocks on a disk; a pool prepares actions, two committers finish them,
//! the journal writes the queue, the guard's link brings events. They talk by messages, so there is no lock order to get
//! wrong, and the locks of inodes are plain values of the brain.

mod administration;
mod brain;
mod callers;
mod config;
mod entries;
mod gone;
mod job;
mod lanes;
mod objects;
mod outbox;
mod outgoing;
mod parts;
mod ranges;
mod readers;
mod releases;
mod removals;
mod results;
mod sources;
mod thaws;
mod truncations;
mod turns;

pub use config::{EngineConfig, RangeConfig};
pub use outbox::Dispatch;
pub(crate) use removals::{may_be_left_since_ms, removal, removal_action, removal_of_attempts};
pub use thaws::Thawing;

use crate::changes;
use crate::commit::{Done, Item, Policy};
use crate::filesystem::Filesystem;
use crate::guard::{GuardInfo, GuardLink, GuardSetup, LinkError, PendingEvent};
use crate::journal::Journal;
use crate::pool::Pool;
use crate::prepare::Prepared;
use crate::ranges::Runs;
use crate::release::Released;
use crate::snapshots::{Snapshot, Snapshots};
use brain::Brain;
use model::{ActionId, Class, Command, Extent, Failure, FileHandle, Outcome};
use outbox::Outbox;
use outgoing::Outgoing;
use parking_lot::Mutex;
use queue::{NewAction, Queue};
use removals::settle_orphans;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};
use sys::fanotify::PreContentGroup;
use tokio::sync::oneshot;

/// Archive and id of an object.
pub(crate) type ObjectKey = (u32, String);

/// A file that somebody named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its handle.
    pub handle: FileHandle,
    /// How they called it.
    pub path: String,
}

/// A file that a request could not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// How it was called.
    pub path: String,
    /// Why.
    pub failure: Failure,
}

/// What became of a release.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseReport {
    /// Files released now.
    pub released: u64,
    /// Bytes of disk freed.
    pub bytes: u64,
    /// Files that were released before.
    pub already: u64,
    /// Files that were not.
    pub refused: Vec<Refusal>,
}

/// Which actions to cancel.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Those of these files.
    Files(Vec<FileHandle>),
    /// These.
    Actions(Vec<ActionId>),
}

/// An action that a mover has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id; the ids of restores for blocked readers are above 2^63.
    pub id: ActionId,
    /// What is done.
    pub command: Command,
    /// How urgent it is.
    pub class: Class,
    /// In which archive.
    pub archive_id: u32,
    /// To which file.
    pub path: String,
    /// Bytes moved so far.
    pub bytes_done: u64,
    /// Bytes in all.
    pub size: u64,
}

/// What the brain is told.
pub(crate) enum Msg {
    Event(PendingEvent, FileHandle),
    Refill,
    Submitted {
        class: Class,
        owner: u32,
        not_before_ms: u64,
    },
    Prepared(Vec<(u64, Prepared)>),
    Results(Vec<(u64, Outcome)>),
    Progress(u64, Extent),
    Committed(Vec<Done>),
    Recorded(Vec<ActionId>),
    Served(Vec<u32>),
    Release(Vec<Target>, oneshot::Sender<ReleaseReport>),
    Released(u64, Vec<FileHandle>, Vec<Released>),
    Proven(u64, FileHandle),
    Cancel(Selection, oneshot::Sender<(u64, u64)>),
    Changed(Vec<FileHandle>),
    Deleted(Vec<FileHandle>),
    /// The same files, when everything recorded before is in the queue.
    Gone(Vec<FileHandle>),
    SetFlags(FlagChange, oneshot::Sender<Result<bool, Failure>>),
    /// No removal of these objects is to start. The answer has those of which none runs.
    Hold(Vec<ObjectKey>, oneshot::Sender<Vec<ObjectKey>>),
    /// The end of that.
    LetGo(Vec<ObjectKey>),
    /// The archive of a version is recorded.
    Snapshot(Snapshot),
    PartsOpened(FileHandle, Box<Result<parts::OpenedParts, Failure>>),
    PartDone(u64, Result<(), Failure>),
    PartsRecorded(FileHandle, Result<Runs, parts::NotRecorded>),
    /// The configuration was read again.
    Reconfigure(EngineConfig),
    Stop,
}

/// An administrator's change of one file's flags.
#[derive(Debug, Clone)]
pub struct FlagChange {
    /// The file.
    pub file: FileHandle,
    /// Flags to set.
    pub set: model::HsmFlags,
    /// Flags to clear.
    pub clear: model::HsmFlags,
    /// Archive id to write.
    pub archive_id: Option<u32>,
}

/// What the brain's thread shares with the others.
pub(crate) struct Shared {
    pub(crate) fs: Arc<Filesystem>,
    pub(crate) queue: Arc<dyn Queue>,
    /// The guard's, to mark files in.
    pub(crate) group: Option<PreContentGroup>,
    pub(crate) outbox: Outbox,
    /// Actions that movers have, by key.
    pub(crate) running: Mutex<HashMap<u64, Running>>,
    /// Files whose readers wait for a thaw.
    pub(crate) thawing: Mutex<HashMap<FileHandle, Thawing>>,
    /// Readers that are blocked on a restore.
    pub(crate) blocked_readers: AtomicU64,
    /// What commits do besides; a batch goes by one.
    pub(crate) policy: Mutex<Policy>,
    /// What actions up to this one said of objects is not believed; see [`crate::shared`].
    pub(crate) doubted: ActionId,
    /// Held while the filesystem's note is written.
    pub(crate) noting: Mutex<()>,
    /// Whether the range of a mapping is announced as it is; else files are restored whole whatever the configuration says.
    pub(crate) mappings_announced: bool,
    /// Chunks that could not be restored for good, since the start.
    pub(crate) damaged_chunks: AtomicU64,
    last_ms: AtomicU64,
}

impl Shared {
    /// Milliseconds since 1970, never less than before: the queue's order relies on it.
    pub(crate) fn now_ms(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
        self.last_ms.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

/// Where files go that no archive was named for.
#[derive(Debug, Clone)]
pub(crate) struct Archives {
    pub(crate) default: u32,
    /// Each file gets a copy in each. Empty: the default one alone.
    pub(crate) copies: Vec<u32>,
}

/// The engine of one filesystem.
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) messages: Sender<Msg>,
    pub(crate) journal: Arc<Journal>,
    archives: Mutex<Archives>,
    guard: Option<Arc<GuardLink>>,
    requests: AtomicU64,
    first_request: u64,
    brain: Mutex<Option<JoinHandle<()>>>,
    changes: Mutex<Option<changes::Watch>>,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The filesystem.
    #[error("cannot manage the filesystem at {path}: {source}")]
    Filesystem {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The guard.
    #[error(transparent)]
    Guard(#[from] LinkError),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] queue::QueueError),
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl Engine {
    /// Starts managing a filesystem. Without a guard, nothing can be released, and what is released is restored on request
    /// only. `fatal` is called when the queue turns out to be damaged: the process should end, and be started again.
    pub fn start(
        config: EngineConfig,
        queue: Arc<dyn Queue>,
        guard: Option<GuardSetup>,
        fatal: impl Fn(String) + Send + 'static,
    ) -> Result<Arc<Self>, EngineError> {
        let fs = Filesystem::at(&config.root)
            .map_err(|source| EngineError::Filesystem { path: config.root.clone(), source })?;
        let fs = Arc::new(fs);
        let journal = Arc::new(Journal::start(Arc::clone(&queue), fatal).map_err(EngineError::Thread)?);
        let (messages, incoming) = channel();
        let guard = guard.map(|setup| connect(setup, fs.kernel_fsid, messages.clone())).transpose()?;
        let group =
            guard.as_ref().map(|g| g.group()).transpose().map_err(EngineError::Thread)?.map(PreContentGroup::from_fd);
        let doubted = crate::shared::reconcile(&fs, queue.as_ref())?;
        let shared = Arc::new(Shared {
            fs: Arc::clone(&fs),
            queue: Arc::clone(&queue),
            group,
            outbox: Outbox::default(),
            running: Mutex::new(HashMap::new()),
            thawing: Mutex::new(HashMap::new()),
            blocked_readers: AtomicU64::new(0),
            policy: Mutex::new(Policy { keep_versions: config.keep_versions, snapshots: config.snapshots }),
            doubted,
            noting: Mutex::new(()),
            mappings_announced: guard.is_some() && probe(&fs),
            damaged_chunks: AtomicU64::new(0),
            last_ms: AtomicU64::new(0),
        });
        // After the guard knows us: opening a released file before that would wait for ourselves.
        settle_orphans(&fs, queue.as_ref(), shared.now_ms())?;
        let committer = |name: &str| -> Result<Sender<Item>, EngineError> {
            let (items, taken) = channel();
            let (shared, messages) = (Arc::clone(&shared), messages.clone());
            let run = move || {
                crate::commit::run(&shared, &taken, |done| drop(messages.send(Msg::Committed(done))));
            };
            std::thread::Builder::new().name(name.into()).spawn(run).map_err(EngineError::Thread)?;
            Ok(items)
        };
        let snapshots = config.snapshots.then(|| Snapshots::start(Arc::clone(&shared), messages.clone()));
        let snapshots = snapshots.transpose().map_err(EngineError::Thread)?;
        let brain = Brain::new(
            Arc::clone(&shared),
            config.clone(),
            guard.clone(),
            Outgoing::new(Arc::clone(&shared), Arc::clone(&journal), messages.clone()).map_err(EngineError::Thread)?,
            messages.clone(),
            callers::Callers::start(messages.clone()).map_err(EngineError::Thread)?,
            Pool::new("release", 2).map_err(EngineError::Thread)?,
            Pool::new("parts", 3).map_err(EngineError::Thread)?,
            Pool::new("parts-record", 2).map_err(EngineError::Thread)?,
            committer("commit-restore")?,
            committer("commit-archive")?,
            snapshots,
        );
        let thread =
            std::thread::Builder::new().name("engine".into()).stack_size(8 << 20).spawn(move || brain.run(&incoming));
        let thread = thread.map_err(EngineError::Thread)?;
        let watch = changes::Watch::start(&fs, guard.clone(), messages.clone());
        let watch = match watch {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(%error, "changes of files are not watched: they are noticed when a file is looked at");
                None
            }
        };
        let first_request = shared.now_ms() * 1000;
        Ok(Arc::new(Self {
            shared,
            messages,
            journal,
            archives: Mutex::new(Archives { default: config.default_archive, copies: config.copies }),
            guard,
            requests: AtomicU64::new(first_request),
            first_request,
            brain: Mutex::new(Some(thread)),
            changes: Mutex::new(watch),
        }))
    }

    /// The connection to the guard.
    #[must_use]
    pub fn guard(&self) -> Option<&Arc<GuardLink>> {
        self.guard.as_ref()
    }

    /// Figures of the guard.
    #[must_use]
    pub fn guard_info(&self) -> Option<GuardInfo> {
        self.guard.as_ref().map(|g| g.info())
    }

    /// The filesystem.
    #[must_use]
    pub fn filesystem(&self) -> &Filesystem {
        &self.shared.fs
    }

    /// The queue, to look at.
    #[must_use]
    pub fn queue(&self) -> &Arc<dyn Queue> {
        &self.shared.queue
    }

    /// Readers blocked on a restore at the moment.
    #[must_use]
    pub fn blocked_readers(&self) -> u64 {
        self.shared.blocked_readers.load(Ordering::Relaxed)
    }

    /// Chunks of files that could not be restored for good, since the agent started; each time it was tried counts.
    #[must_use]
    pub fn damaged_chunks(&self) -> u64 {
        self.shared.damaged_chunks.load(Ordering::Relaxed)
    }

    /// Waits for work; at least one piece. Empty when the engine has stopped. Cancel-safe.
    pub async fn next(&self, max: usize) -> Vec<Dispatch> {
        let works = self.shared.outbox.take(max).await;
        self.tell(Msg::Refill);
        works
    }

    /// Waits for keys of works to stop. Empty when the engine has stopped. Cancel-safe.
    pub async fn next_cancels(&self) -> Vec<u64> {
        self.shared.outbox.cancels().await
    }

    /// A mover moved some bytes.
    pub fn progress(&self, key: u64, moved: Extent) {
        self.tell(Msg::Progress(key, moved));
    }

    /// Results of works, one each.
    pub fn complete(&self, results: Vec<(u64, Outcome)>) {
        self.shared.outbox.ended(results.iter().map(|(key, _)| *key));
        self.tell(Msg::Results(results));
    }

    /// Which archives have a mover now, each with what its movers take at once.
    pub fn archives_changed(&self, served: &[(u32, usize)]) {
        self.shared.outbox.set_rooms(served);
        self.tell(Msg::Served(served.iter().map(|(archive_id, _)| *archive_id).collect()));
    }

    /// How many works may be fetched and without result at one time.
    pub fn in_flight_limit_changed(&self, limit: usize) {
        self.shared.outbox.set_limit(limit);
    }

    /// Goes on with another configuration. The root stays what it is, and so does whether there are snapshots; readers that wait
    /// already keep their deadline.
    pub fn reconfigure(&self, config: EngineConfig) {
        self.shared.policy.lock().keep_versions = config.keep_versions;
        *self.archives.lock() = Archives { default: config.default_archive, copies: config.copies.clone() };
        self.tell(Msg::Reconfigure(config));
    }

    /// The archive of requests that name none.
    pub(crate) fn default_archive(&self) -> u32 {
        self.archives.lock().default
    }

    /// The archives that files get copies in.
    pub(crate) fn archives(&self) -> Archives {
        self.archives.lock().clone()
    }

    /// A number for a new request.
    pub fn new_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether this engine gave the number out. Such a request that the queue does not know had nothing to do.
    pub fn is_recent_request(&self, number: u64) -> bool {
        (self.first_request..self.requests.load(Ordering::Relaxed)).contains(&number)
    }

    /// Releases files. The reply comes when each has been released or refused.
    pub async fn release(&self, files: Vec<Target>) -> ReleaseReport {
        let (reply, report) = oneshot::channel();
        self.tell(Msg::Release(files, reply));
        report.await.unwrap_or_default()
    }

    /// Cancels actions: how many were, and how many of those named are not there.
    pub async fn cancel(&self, selection: Selection) -> (u64, u64) {
        let (reply, counts) = oneshot::channel();
        self.tell(Msg::Cancel(selection, reply));
        counts.await.unwrap_or_default()
    }

    /// Changes flags of a file: whether anything was changed. Durable after [`Filesystem::sync`].
    pub async fn set_flags(&self, change: FlagChange) -> Result<bool, Failure> {
        let (reply, result) = oneshot::channel();
        self.tell(Msg::SetFlags(change, reply));
        result.await.unwrap_or_else(|_| Err(Failure::temporary(11, "the agent stops")))
    }

    /// What movers do at the moment.
    #[must_use]
    pub fn running(&self) -> Vec<Running> {
        self.shared.running.lock().values().cloned().collect()
    }

    /// One of them.
    #[must_use]
    pub fn running_action(&self, id: ActionId) -> Option<Running> {
        self.shared.running.lock().get(&id.0).cloned()
    }

    /// Restores that blocked readers wait for, and that wait for a thaw.
    #[must_use]
    pub fn thawing(&self) -> Vec<Thawing> {
        self.shared.thawing.lock().values().cloned().collect()
    }

    /// Accepts actions; durable when it returns.
    pub(crate) async fn accept(&self, actions: Vec<NewAction>) -> Result<Vec<ActionId>, Failure> {
        let (reply, ids) = oneshot::channel();
        let places: std::collections::HashSet<_> =
            actions.iter().map(|a| (a.class, a.owner, a.not_before_ms)).collect();
        let messages = self.messages.clone();
        self.journal.submit(actions, move |result| {
            if result.is_ok() {
                for (class, owner, not_before_ms) in places {
                    let _ = messages.send(Msg::Submitted { class, owner, not_before_ms });
                }
            }
            let _ = reply.send(result);
        });
        ids.await.unwrap_or_else(|_| Err(Failure::temporary(11, "the agent stops")))
    }

    /// Ends the engine. Works that movers still have are not waited for: the queue still holds them. Leaves the guard in
    /// order; it keeps readers of released files waiting.
    pub fn stop(&self) {
        self.changes.lock().take();
        if let Some(guard) = &self.guard {
            guard.leave_events_to_the_guard();
        }
        self.tell(Msg::Stop);
        if let Some(thread) = self.brain.lock().take() {
            let _ = thread.join();
        }
        self.shared.outbox.close();
        if let Some(guard) = &self.guard {
            guard.leave();
        }
    }

    fn tell(&self, message: Msg) {
        // Fails only after `stop`, when nobody cares any more.
        let _ = self.messages.send(message);
    }
}

fn probe(fs: &Filesystem) -> bool {
    match crate::mapping_probe::mappings_are_announced(fs) {
        Ok(true) => true,
        Ok(false) => {
            tracing::warn!("the kernel announces wrong ranges of mappings: every file is restored whole");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "cannot tell whether the kernel announces mappings: every file is restored whole");
            false
        }
    }
}

fn connect(setup: GuardSetup, kernel_fsid: [u8; 8], messages: Sender<Msg>) -> Result<Arc<GuardLink>, LinkError> {
    GuardLink::connect(setup, kernel_fsid, move |event| match crate::filesystem::handle_of(&event.file) {
        Ok(handle) => drop(messages.send(Msg::Event(event, handle))),
        Err(error) => {
            tracing::error!(%error, "cannot name the file that somebody wants to read");
            event.deny(5);
        }
    })
}
