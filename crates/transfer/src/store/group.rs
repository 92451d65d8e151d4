//! Many small files share a sync.
//!
//! One thread runs cycles. A cycle is one `syncfs(2)`, begun after everything in its batch was written. When it returns,
//! the batch's data is durable, and so are the names that the *previous* cycle gave: those are acknowledged, and the batch
//! gets its names now, to be acknowledged after the next cycle. So each cycle serves the data of one batch and the names of
//! another, workers never wait, and the batch grows by itself to what arrives during a sync.
//!
//! When few files wait, `syncfs` may cost more than it saves (it writes back other people's data too): then each is synced by
//! itself, and its directory after it.
//!
//! A failed sync fails everything it was to make durable, and removes it: whether the data is there is not known. It may have failed for
//! files that were still being written, too, and `syncfs` tells of a failure only once: those are synced by themselves when their turn comes.

use super::directories::Directories;
use super::hold::Hold;
use super::root::Root;
use super::session::Written;
use crate::{Durability, TransferError};
use model::ObjectId;
use parking_lot::{Condvar, Mutex};
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Fewer than this are synced one by one.
const FEW: usize = 4;
/// Files written and not yet named; each holds a descriptor, and one for its manifest. More wait outside.
const MAX_WAITING: usize = 2048;

type Done = Box<dyn FnOnce(Result<(), TransferError>) + Send>;

thread_local! {
    /// Whether this thread tells people that their objects are stored or removed.
    static SYNCS: Cell<bool> = const { Cell::new(false) };
}

/// To be called by a thread that ends what others wait for: it does not wait for room among what waits for a sync.
pub(super) fn never_waits() {
    SYNCS.set(true);
}

/// What waits for a sync.
pub(super) enum Item {
    /// Written files, to be made an object. `synced` when their data is durable already.
    Publish { written: Written, id: ObjectId, synced: bool, done: Done },
    /// An object's directory was changed.
    Settle { id: ObjectId, done: Done },
}

#[derive(Default)]
struct Waiting {
    items: Vec<Item>,
    closed: bool,
}

struct Shared {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    room: Condvar,
}

/// Handle on the syncer's thread. Dropping it ends the thread after everything that waits was served.
pub(super) struct GroupSync {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl GroupSync {
    pub(super) fn start(root: Arc<Root>, durability: Arc<dyn Durability>) -> io::Result<Self> {
        let shared = Arc::new(Shared { waiting: Mutex::default(), arrived: Condvar::new(), room: Condvar::new() });
        let directories = Directories::new(root.clone(), durability.clone());
        let filesystem = root.open_for_syncs()?;
        let syncer = Syncer { root, filesystem, durability, shared: shared.clone(), directories };
        let thread = std::thread::Builder::new().name("group-sync".to_owned()).spawn(move || syncer.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Hands over; waits while too much is waiting already. The item's `done` is called from the syncer's thread.
    pub(super) fn submit(&self, item: Item) {
        // What is done may lead to more: the syncer would wait for itself, or for that of another root, which waits for it.
        let inside = SYNCS.get();
        let mut waiting = self.shared.waiting.lock();
        while !inside && waiting.items.len() >= MAX_WAITING {
            self.shared.room.wait(&mut waiting);
        }
        waiting.items.push(item);
        drop(waiting);
        self.shared.arrived.notify_one();
    }
}

impl Drop for GroupSync {
    fn drop(&mut self) {
        self.shared.waiting.lock().closed = true;
        self.shared.arrived.notify_one();
        if let Some(thread) = self.thread.take() {
            // `done` may hold the last handle of the store; then this is the syncer, which ends by itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// An object that has its name, which is not durable yet.
struct Named {
    id: ObjectId,
    replaced: bool,
    done: Done,
}

struct Syncer {
    root: Arc<Root>,
    /// For `syncfs`, and nobody else's.
    filesystem: File,
    durability: Arc<dyn Durability>,
    shared: Arc<Shared>,
    directories: Directories,
}

impl Syncer {
    fn run(mut self) {
        never_waits();
        let mut named = Vec::new();
        loop {
            let batch = self.take(named.is_empty());
            if batch.is_empty() && named.is_empty() {
                return;
            }
            if named.is_empty() && batch.len() < FEW {
                batch.into_iter().for_each(|item| self.alone(item));
            } else {
                named = self.cycle(named, batch);
            }
        }
    }

    /// What waits; when `idle`, waits for something. Empty then means that nothing will come any more.
    fn take(&self, idle: bool) -> Vec<Item> {
        let mut waiting = self.shared.waiting.lock();
        while idle && waiting.items.is_empty() && !waiting.closed {
            self.shared.arrived.wait(&mut waiting);
        }
        let batch = std::mem::take(&mut waiting.items);
        drop(waiting);
        self.shared.room.notify_all();
        batch
    }

    /// One sync for all. Gives back what has its name and waits for the next one.
    fn cycle(&self, named: Vec<Named>, batch: Vec<Item>) -> Vec<Named> {
        let synced = self.durability.sync_filesystem(&self.filesystem);
        if synced.is_err() {
            self.root.sync_has_failed();
        }
        for object in named {
            self.acknowledge(object, &synced);
        }
        let mut next = Vec::with_capacity(batch.len());
        for item in batch {
            match (item, &synced) {
                (Item::Publish { written, id, synced, done }, Ok(())) => {
                    if !synced
                        && written.may_have_failed(&self.root)
                        && let Err((e, _)) = written.sync(&*self.durability)
                    {
                        drop(written);
                        done(Err(self.not_durable(&id, &e)));
                        continue;
                    }
                    match self.place(written, &id) {
                        Ok(replaced) => next.push(Named { id, replaced, done }),
                        Err(e) => done(Err(e)),
                    }
                }
                (Item::Publish { written, id, done, .. }, Err(e)) => {
                    drop(written);
                    done(Err(self.not_durable(&id, e)));
                }
                (Item::Settle { done, .. }, Ok(())) => done(Ok(())),
                (Item::Settle { id, done }, Err(e)) => done(Err(self.not_durable(&id, e))),
            }
        }
        next
    }

    /// One item by itself: data, name, directory.
    fn alone(&mut self, item: Item) {
        match item {
            Item::Settle { id, done } => {
                let synced = self.directories.sync(&Root::fan_out(&id));
                done(synced.map_err(|e| self.not_durable(&id, &e)));
            }
            Item::Publish { written, id, synced, done } => {
                if !synced && let Err((e, _)) = written.sync(&*self.durability) {
                    drop(written);
                    return done(Err(self.not_durable(&id, &e)));
                }
                match self.place(written, &id) {
                    Ok(replaced) => {
                        let synced = self.directories.sync(&Root::fan_out(&id));
                        self.acknowledge(Named { id, replaced, done }, &synced);
                    }
                    Err(e) => done(Err(e)),
                }
            }
        }
    }

    /// Gives what was written its names, where new objects may have any.
    fn place(&self, written: Written, id: &ObjectId) -> Result<bool, TransferError> {
        let _held = Hold::to_name(&self.root)?;
        written.place(&self.root, id).map_err(|e| self.not_named(id, e))
    }

    /// Ends what has its name: durable, or gone. What replaced an older object stays, because that one cannot come back.
    fn acknowledge(&self, object: Named, synced: &io::Result<()>) {
        let Named { id, replaced, done } = object;
        let Err(e) = synced else { return done(Ok(())) };
        if !replaced && let Err(e) = self.root.unlink_objects([&id].into_iter()) {
            tracing::warn!(object = %self.root.object_path(&id).display(), error = %e, "cannot remove an object that is not durable");
        }
        done(Err(self.not_durable(&id, e)));
    }

    fn not_durable(&self, id: &ObjectId, error: &io::Error) -> TransferError {
        let errno = error.raw_os_error().unwrap_or(5);
        TransferError::NotDurable { path: self.root.object_path(id), why: error.to_string(), errno }
    }

    fn not_named(&self, id: &ObjectId, error: io::Error) -> TransferError {
        // The root's own directory may be gone, which is not the object's fault.
        self.root.check().err().unwrap_or_else(|| TransferError::io("create", self.root.object_path(id))(error))
    }
}
