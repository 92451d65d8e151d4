//! Works that are ready for a mover, and keys of works to stop: what the agent fetches.

use super::turns::{Place, Turns};
use model::{Class, Command, Extent, Identity};
use parking_lot::Mutex;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Works kept ready. Each holds a descriptor open.
const TARGET: usize = 1024;

/// One work for a mover.
#[derive(Debug)]
pub struct Dispatch {
    /// Names it in progress and results.
    pub key: u64,
    /// Which archive.
    pub archive_id: u32,
    /// How urgent it is.
    pub class: Class,
    /// The user it is done for: the one whose process is blocked, or the file's owner. 0 when not known.
    pub owner: u32,
    /// What to do.
    pub command: Command,
    /// The file, for whoever is to read or write it; empty if none is concerned.
    pub path: String,
    /// Which bytes.
    pub extent: Extent,
    /// From the request.
    pub data: Vec<u8>,
    /// The object, or the proposed id of one.
    pub identity: Identity,
    /// For messages.
    pub file_path: String,
    /// What a restored file must measure.
    pub expected_size: Option<u64>,
    /// Where the file is, relative to its filesystem's root (archive); empty when not known.
    pub tree_path: Vec<u8>,
    /// Not before this time (milliseconds since 1970) an earlier attempt, or one of the archive whose remains this removes, may have stored
    /// an object under the proposed id; 0 when there was none.
    pub attempted_since_ms: u64,
    /// What `tree_path` names has no content: its metadata is to be recorded (archive).
    pub metadata_only: bool,
    /// Bytes of the file.
    pub size: u64,
    /// Keeps `path` valid; drop it after the result was handed over.
    pub file: Option<Arc<OwnedFd>>,
}

#[derive(Default)]
pub(crate) struct Outbox {
    works: Mutex<Turns<Dispatch>>,
    /// There may be something to give now: a work came, or room.
    ready: Notify,
    cancels: Mutex<Vec<u64>>,
    cancelled: Notify,
    closed: AtomicBool,
}

impl Outbox {
    pub(crate) fn put(&self, work: Dispatch) {
        let place = Place { key: work.key, class: work.class, archive_id: work.archive_id, owner: work.owner };
        self.works.lock().put(place, work);
        self.ready.notify_one();
    }

    /// Takes a work back, if it was not fetched yet.
    pub(crate) fn withdraw(&self, key: u64) -> Option<Dispatch> {
        self.works.lock().withdraw(key)
    }

    /// Works that were fetched have their results: others may go where they were.
    pub(crate) fn ended(&self, keys: impl Iterator<Item = u64>) {
        let mut works = self.works.lock();
        keys.for_each(|key| works.ended(key));
        if works.len() > 0 {
            self.ready.notify_one();
        }
    }

    /// What the movers of each archive take at once.
    pub(crate) fn set_rooms(&self, rooms: &[(u32, usize)]) {
        self.works.lock().set_rooms(rooms);
        self.ready.notify_one();
    }

    /// What may be fetched and without result altogether.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.works.lock().set_limit(limit);
        self.ready.notify_one();
    }

    pub(crate) fn cancel(&self, key: u64) {
        self.cancels.lock().push(key);
        self.cancelled.notify_one();
    }

    pub(crate) fn len(&self) -> usize {
        self.works.lock().len()
    }

    pub(crate) fn room(&self) -> usize {
        TARGET.saturating_sub(self.len())
    }

    /// Room for works of one of `archives` archives: what waits for a slow one leaves room for the others.
    pub(crate) fn room_of(&self, archive_id: u32, archives: usize) -> usize {
        (TARGET / archives.max(1)).saturating_sub(self.works.lock().len_of(archive_id))
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.ready.notify_one();
        self.cancelled.notify_one();
    }

    pub(crate) async fn take(&self, max: usize) -> Vec<Dispatch> {
        loop {
            {
                let mut works = self.works.lock();
                let taken: Vec<Dispatch> = std::iter::from_fn(|| works.give()).take(max).collect();
                if !taken.is_empty() {
                    return taken;
                }
            }
            if self.closed.load(Ordering::SeqCst) {
                return Vec::new();
            }
            self.ready.notified().await;
        }
    }

    pub(crate) async fn cancels(&self) -> Vec<u64> {
        loop {
            let keys = std::mem::take(&mut *self.cancels.lock());
            if !keys.is_empty() || self.closed.load(Ordering::SeqCst) {
                return keys;
            }
            self.cancelled.notified().await;
        }
    }
}
