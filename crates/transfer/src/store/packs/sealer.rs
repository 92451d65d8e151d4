//! Small files share a pack, and a pack is synced once.
//!
//! While the last packs are made durable, what arrives goes into the next one: so packs grow to what arrives during a sync, by
//! themselves. A file that was alone becomes an ordinary object. Workers only copy into a buffer and never wait for a sync,
//! unless whole packs are waiting already.

use super::building::{Arrival, Building, PackBuilding, Waiter, fail_all, into_transfer};
use super::known::Known;
use super::place;
use crate::pack::{PackError, PackId};
use crate::store::directories::Directories;
use crate::store::group::never_waits;
use crate::store::hold::Hold;
use crate::store::root::Root;
use crate::store::session::Sessions;
use crate::{Durability, TransferError};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

/// Full packs that wait for their sync; workers wait beyond that.
const MAX_FULL: usize = 4;
/// From so many directories on, one sync of the filesystem costs less than one of each.
const MANY: usize = 8;
/// What a pack is told that comes to a root that takes nothing new: it will go elsewhere.
const EAGAIN: i32 = 11;

/// Makes an ordinary object of a file that was alone, and then calls its `done`, from any thread.
pub(super) type Alone = Box<dyn Fn(Arrival) + Send>;
type Done = Box<dyn FnOnce(Result<(), TransferError>) + Send>;

/// A pack whose tombstones changed, or that was not there.
struct Settle {
    pack: PackId,
    done: Done,
}

#[derive(Default)]
struct Waiting {
    building: Option<Building>,
    full: VecDeque<PackBuilding>,
    settles: Vec<Settle>,
    closed: bool,
}

struct Shared {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    room: Condvar,
}

/// Handle on the thread. Dropping it ends the thread after everything that waits was served.
pub(super) struct Sealer {
    root: Arc<Root>,
    sessions: Arc<Sessions>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Sealer {
    pub(super) fn start(
        root: Arc<Root>,
        sessions: Arc<Sessions>,
        durability: Arc<dyn Durability>,
        known: Arc<Known>,
        alone: Alone,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { waiting: Mutex::default(), arrived: Condvar::new(), room: Condvar::new() });
        let directories = Directories::new(root.clone(), durability.clone());
        let filesystem = root.open_for_syncs()?;
        let mut sealer = Self { root: root.clone(), sessions, shared: shared.clone(), thread: None };
        let worker = Worker { root, filesystem, durability, directories, known, shared, alone };
        sealer.thread = Some(std::thread::Builder::new().name("pack-sync".to_owned()).spawn(move || worker.run())?);
        Ok(sealer)
    }

    /// Takes a member for the pack that is being built. Its `done` is called from another thread, unless this fails at once.
    pub(super) fn add(&self, arrival: Arrival) {
        let mut waiting = self.shared.waiting.lock();
        while waiting.full.len() >= MAX_FULL {
            self.shared.room.wait(&mut waiting);
        }
        let failed = self.append(&mut waiting, arrival);
        drop(waiting);
        self.shared.arrived.notify_one();
        if let Err(Lost(pack, error)) = failed {
            pack.fail(&self.root, &error);
        }
    }

    fn append(&self, waiting: &mut Waiting, arrival: Arrival) -> Result<(), Lost> {
        let mut pack = match waiting.building.take() {
            None => {
                waiting.building = Some(Building::One(Box::new(arrival)));
                return Ok(());
            }
            Some(Building::Pack(pack)) => pack,
            Some(Building::One(first)) => match PackBuilding::begin(&self.sessions) {
                Ok(mut pack) => match pack.add(*first) {
                    Ok(()) => Box::new(pack),
                    Err(e) => {
                        waiting.building = Some(Building::One(Box::new(arrival)));
                        return Err(Lost(Box::new(pack), e));
                    }
                },
                Err(e) => {
                    // The first one has to be an object then, which may fail too and tells so.
                    waiting.building = Some(Building::One(first));
                    (arrival.done)(Err(e));
                    return Ok(());
                }
            },
        };
        if !pack.has_room_for(&arrival.member) {
            waiting.full.push_back(*pack);
            waiting.building = Some(Building::One(Box::new(arrival)));
            return Ok(());
        }
        match pack.add(arrival) {
            Ok(()) => {
                waiting.building = Some(Building::Pack(pack));
                Ok(())
            }
            Err(e) => Err(Lost(pack, e)),
        }
    }

    /// Has a pack's directories synced, after something in them was changed. Never waits.
    pub(super) fn settle(&self, pack: PackId, done: Done) {
        self.shared.waiting.lock().settles.push(Settle { pack, done });
        self.shared.arrived.notify_one();
    }
}

/// A pack that could not be written on.
struct Lost(Box<PackBuilding>, PackError);

impl Drop for Sealer {
    fn drop(&mut self) {
        self.shared.waiting.lock().closed = true;
        self.shared.arrived.notify_one();
        if let Some(thread) = self.thread.take() {
            // `done` may hold the last handle of the store; then this is the thread itself, which ends by itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

struct Worker {
    root: Arc<Root>,
    /// For `syncfs`, and nobody else's.
    filesystem: File,
    durability: Arc<dyn Durability>,
    directories: Directories,
    known: Arc<Known>,
    shared: Arc<Shared>,
    alone: Alone,
}

impl Worker {
    fn run(mut self) {
        never_waits();
        loop {
            let (packs, one, settles) = self.take();
            if packs.is_empty() && one.is_none() && settles.is_empty() {
                return;
            }
            self.publish(packs);
            self.settle(settles);
            if let Some(arrival) = one {
                self.store_alone(arrival);
            }
        }
    }

    /// What waits; waits for something. Nothing at all means that nothing will come any more.
    fn take(&self) -> (Vec<PackBuilding>, Option<Arrival>, Vec<Settle>) {
        let mut waiting = self.shared.waiting.lock();
        while waiting.building.is_none() && waiting.full.is_empty() && waiting.settles.is_empty() && !waiting.closed {
            self.shared.arrived.wait(&mut waiting);
        }
        let mut packs: Vec<PackBuilding> = waiting.full.drain(..).collect();
        let settles = std::mem::take(&mut waiting.settles);
        let building = waiting.building.take();
        drop(waiting);
        self.shared.room.notify_all();
        let one = match building {
            Some(Building::One(arrival)) => Some(*arrival),
            Some(Building::Pack(pack)) => {
                packs.push(*pack);
                None
            }
            None => None,
        };
        (packs, one, settles)
    }

    /// Data, names, directories; then everybody is told.
    fn publish(&mut self, packs: Vec<PackBuilding>) {
        let named: Vec<_> = packs.into_iter().filter_map(|pack| self.name(pack)).collect();
        let directories: BTreeSet<_> = named.iter().map(|(pack, _)| place::directory(*pack)).collect();
        let synced = directories.iter().try_for_each(|directory| self.directories.sync(directory));
        for (pack, waiters) in named {
            match &synced {
                Ok(()) => waiters.into_iter().for_each(|waiter| waiter.stored(pack)),
                Err(e) => {
                    if let Err(e) = place::unlink_pack(&self.root, pack) {
                        let path = place::path(&self.root, pack);
                        tracing::warn!(pack = %path.display(), error = %e, "cannot remove a pack that is not durable");
                    }
                    fail_all(&self.root, pack, waiters, &PackError::Io(copy(e)));
                }
            }
        }
    }

    /// Makes the data of a pack durable, and gives it its name.
    fn name(&self, pack: PackBuilding) -> Option<(PackId, Vec<Waiter>)> {
        let id = pack.id();
        let (sealed, waiters) = pack.seal();
        let named = sealed.and_then(|temp| {
            self.durability.sync_all(temp.file().file())?;
            let directory = self.root.ensure_dir(&place::directory(id))?;
            let names = waiters.iter().map(|waiter| waiter.name);
            let unavailable = |e: TransferError| {
                io::Error::from_raw_os_error(if e.kind() == model::ErrorKind::Temporary { EAGAIN } else { e.errno() })
            };
            let _held = Hold::to_name(&self.root).map_err(unavailable)?;
            Ok(self.known.placing(&self.root, id, names, || temp.place(&directory, &id.to_string()))?)
        });
        match named {
            Ok(_) => Some((id, waiters)),
            Err(e) => {
                fail_all(&self.root, id, waiters, &e);
                None
            }
        }
    }

    fn settle(&mut self, settles: Vec<Settle>) {
        let packs: BTreeSet<PackId> = settles.iter().map(|settle| settle.pack).collect();
        let synced = if packs.len() >= MANY {
            self.durability.sync_filesystem(&self.filesystem)
        } else {
            packs.into_iter().try_for_each(|pack| self.sync_tombstones(pack))
        };
        for Settle { pack, done } in settles {
            done(synced.as_ref().map(drop).map_err(|e| into_transfer(copy(e).into(), pack, Some(&self.root))));
        }
    }

    fn sync_tombstones(&mut self, pack: PackId) -> io::Result<()> {
        if let Some(dir) = place::open_tombstones(&self.root, pack)? {
            self.durability.sync_all(&dir)?;
        }
        // Its own entry: the directory may be a new one.
        self.directories.sync(&place::directory(pack))
    }

    /// Waits for the end of it, so that what arrives meanwhile gathers to a pack.
    fn store_alone(&self, mut arrival: Arrival) {
        let (ended, end) = channel();
        let done = std::mem::replace(&mut arrival.done, Box::new(drop));
        arrival.done = Box::new(move |result| {
            done(result);
            // Nobody waits any more only if the thread is gone.
            let _ = ended.send(());
        });
        (self.alone)(arrival);
        // An error means that `done` was dropped uncalled, which ends it as well.
        let _ = end.recv();
    }
}

/// For several who have to be told the same.
fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}
