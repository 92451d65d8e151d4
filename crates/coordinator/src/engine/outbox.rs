//! Works that are ready for a mover, and keys of works to stop: what the agent fetches.

use model::{Class, Command, Extent, Identity};
use parking_lot::Mutex;
use std::collections::VecDeque;
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
    /// When the action was accepted (milliseconds since 1970), if an attempt before this one may have stored an object; else 0.
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
    works: Mutex<[VecDeque<Dispatch>; Class::ALL.len()]>,
    ready: Notify,
    cancels: Mutex<Vec<u64>>,
    cancelled: Notify,
    closed: AtomicBool,
}

impl Outbox {
    pub(crate) fn put(&self, class: Class, work: Dispatch) {
        if let Some(lane) = self.works.lock().get_mut(class as usize) {
            lane.push_back(work);
        }
        self.ready.notify_one();
    }

    /// Takes a work back, if it was not fetched yet.
    pub(crate) fn withdraw(&self, key: u64) -> Option<Dispatch> {
        let mut works = self.works.lock();
        works.iter_mut().find_map(|lane| {
            let at = lane.iter().position(|work| work.key == key)?;
            lane.remove(at)
        })
    }

    pub(crate) fn cancel(&self, key: u64) {
        self.cancels.lock().push(key);
        self.cancelled.notify_one();
    }

    pub(crate) fn len(&self) -> usize {
        self.works.lock().iter().map(VecDeque::len).sum()
    }

    pub(crate) fn room(&self) -> usize {
        TARGET.saturating_sub(self.len())
    }

    pub(crate) fn is_low(&self) -> bool {
        self.len() < TARGET / 2
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
                let mut taken = Vec::new();
                for lane in works.iter_mut() {
                    let count = lane.len().min(max - taken.len());
                    taken.extend(lane.drain(..count));
                }
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
