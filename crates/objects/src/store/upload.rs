//! A large object: parts are collected as the file's chunks come, and sent while more of them come.
//!
//! The threads that read and hash the file write their pieces here, each at its place, nearly in order. A part that is whole goes, in order,
//! to a task that has several of them under way. What is not sent yet is bounded: whoever comes with more waits.

use super::memory::Taken;
use super::place::{self, Place, There};
use super::sweep::Uploading;
use crate::bucket::Traits;
use crate::fault::Fault;
use crate::{Bucket, Limits};
use bytes::Bytes;
use opendal::Buffer;
use opendal::raw::oio;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use transfer::copy::WriteAt;
use transfer::{Monitor, TransferError};

/// The most parts of one object that are under way at the same time.
const MAX_CONCURRENT: u64 = 8;
/// Parts that are in memory besides those under way: two that are being filled, one in the channel, one that the writer holds back.
const BESIDES: u64 = 4;
/// With fewer parts in memory, one that cannot be read would keep all others from their ends: two that are being filled, and the one that the
/// writer holds back.
const FEWEST: u64 = 3;
/// What one object may take where the memory there is does not hold so few of its parts: 5 TiB go in parts of 525 MiB. It is the only one then.
const MOST_FOR_ONE: u64 = 2 << 30;
/// So many large objects share the memory there is.
const SHARES: u64 = 3;
const EFBIG: i32 = 27;

/// How an object is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) part_bytes: u64,
    pub(super) concurrent: u64,
    /// So many are in memory at most.
    pub(super) in_memory: u64,
}

impl Cut {
    /// For an object of at most `bytes`.
    ///
    /// # Errors
    /// The service takes none so large, or its parts are too large for the memory there is.
    pub(super) fn of(bytes: u64, bucket: &Bucket, path: &Path) -> Result<Self, TransferError> {
        Self::within(bytes, bucket.traits(), bucket.limits()).map_err(|why| TransferError::Service {
            doing: "store",
            path: path.to_owned(),
            why,
            kind: model::ErrorKind::Permanent,
            errno: EFBIG,
        })
    }

    fn within(bytes: u64, traits: Traits, limits: &Limits) -> Result<Self, String> {
        let part_bytes = limits.part_bytes.max(bytes.div_ceil(traits.max_parts).next_multiple_of(1 << 20));
        if part_bytes > traits.max_part_bytes || bytes > traits.max_object_bytes {
            return Err(format!("{bytes} bytes are more than an object of this service may have"));
        }
        let memory = limits.upload_memory_bytes;
        let in_memory = (memory / SHARES / part_bytes).max(FEWEST);
        if in_memory * part_bytes > memory.max(MOST_FOR_ONE) {
            return Err(format!(
                "{bytes} bytes go in parts of {} MiB, and there is no memory for {FEWEST} of them: it takes limits {{ upload_memory = \"{}MiB\" }}",
                part_bytes >> 20,
                FEWEST * part_bytes.div_ceil(1 << 20)
            ));
        }
        let concurrent = in_memory.saturating_sub(BESIDES).clamp(1, MAX_CONCURRENT);
        Ok(Self { part_bytes, concurrent, in_memory: in_memory.min(concurrent + BESIDES) })
    }

    /// The most parts of an object of so many bytes that can be under way at the same time.
    fn on_their_way(self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(self.part_bytes).min(self.concurrent)).unwrap_or(u32::MAX)
    }

    pub(super) fn memory(self) -> u64 {
        self.part_bytes.saturating_mul(self.in_memory)
    }
}

/// All parts of an object are sent, or about to be. Dropped, nothing is left of it.
pub(super) struct Sent {
    bucket: Arc<Bucket>,
    pub(super) place: Place,
    writer: Option<oio::Writer>,
    pub(super) bytes: u64,
    /// When it began, by the clock of this host.
    pub(super) begun: SystemTime,
    /// What was there then.
    there: There,
    cut: Cut,
    uploading: Option<Uploading>,
    /// The parts that are still on their way are in it.
    memory: Option<Arc<Taken>>,
}

impl Sent {
    /// Makes it an object. After an error nothing is left. Says whether the service said that it is one, and so that there are no
    /// parts left for anybody to remove.
    pub(super) async fn complete(mut self) -> Result<bool, Fault> {
        let Some(writer) = &mut self.writer else { return Err(Fault::strange("it was completed before")) };
        let completed = place::complete(
            &self.bucket,
            (&self.place, Some(&self.there)),
            writer,
            (self.bytes, self.cut.on_their_way(self.bytes)),
        )
        .await;
        if let (Err(_), Some(writer)) = (&completed, self.writer.take()) {
            place::abort(&self.bucket, &self.place.key, writer).await;
        }
        completed
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            let (bucket, key) = (self.bucket.clone(), std::mem::take(&mut self.place.key));
            let held = (self.uploading.take(), self.memory.take());
            let aborted = async move {
                place::abort(&bucket, &key, writer).await;
                drop(held);
            };
            self.bucket.engine().spawn(aborted);
        }
    }
}

enum Step {
    Part(Bytes),
    /// There are no more.
    End,
}

/// An object on its way. Dropped before its end, it leaves nothing.
pub(super) struct Upload<'m> {
    bucket: Arc<Bucket>,
    path: PathBuf,
    part_bytes: u64,
    /// One for each part that may be in memory: here, and until it has arrived.
    rooms: Arc<Semaphore>,
    parts: Mutex<Parts>,
    /// Held while parts are begun: they get their room in order.
    beginning: Mutex<mpsc::Sender<Step>>,
    /// Held while parts are handed on: they go in order.
    sending: Mutex<mpsc::Sender<Step>>,
    ended: Mutex<Ended>,
    monitor: &'m dyn Monitor,
    /// Given back when nothing of it is in memory: neither here nor on its way.
    _memory: Arc<Taken>,
}

#[derive(Default)]
struct Parts {
    /// Those that are not whole.
    open: BTreeMap<u64, Part>,
    /// Whole ones whose turn has not come.
    ready: BTreeMap<u64, Bytes>,
    next: u64,
    /// So many have been begun.
    begun: u64,
}

struct Part {
    content: InRoom,
    filled: u64,
}

/// Gives its room back when it is dropped, wherever that is.
struct InRoom {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for InRoom {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<'m> Upload<'m> {
    pub(super) fn begin(
        bucket: &Arc<Bucket>,
        (place, uploading): (Place, Uploading),
        there: There,
        cut: Cut,
        memory: Taken,
        monitor: &'m dyn Monitor,
    ) -> Self {
        let (sender, steps) = mpsc::channel(1);
        let (tell, told) = oneshot::channel();
        let memory = Arc::new(memory);
        let path = bucket.path(&place.key);
        let task = {
            let (bucket, memory) = (bucket.clone(), memory.clone());
            async move {
                // Nobody waits for the end of one that was dropped: then this drops it too.
                let _ = tell.send(send(bucket, (place, uploading, memory), there, cut, steps).await);
            }
        };
        bucket.engine().spawn(task);
        Self {
            bucket: bucket.clone(),
            path,
            part_bytes: cut.part_bytes,
            rooms: Arc::new(Semaphore::new(usize::try_from(cut.in_memory).unwrap_or(1))),
            parts: Mutex::default(),
            beginning: Mutex::new(sender.clone()),
            sending: Mutex::new(sender),
            ended: Mutex::new(Ended::Coming(told)),
            monitor,
            _memory: memory,
        }
    }

    /// Everything was written.
    pub(super) fn finish(self) -> Result<Sent, TransferError> {
        {
            let mut parts = self.parts.lock();
            // The last one is shorter. There is no other one: what the file did not fill is an error of whoever read it.
            if let Some((index, part)) = parts.open.pop_first() {
                let mut content = part.content;
                content.bytes.truncate(usize::try_from(part.filled).unwrap_or(usize::MAX));
                parts.ready.insert(index, Bytes::from_owner(content));
            }
        }
        self.hand_on(true)?;
        self.outcome()
    }

    /// Waits until there is room for a part, and for those before it.
    fn begin_part(&self, index: u64) -> Result<(), TransferError> {
        if index < self.parts.lock().begun {
            return Ok(());
        }
        let sender = self.beginning.lock();
        loop {
            let begun = self.parts.lock().begun;
            if index < begun {
                return Ok(());
            }
            let (rooms, sender) = (self.rooms.clone(), sender.clone());
            let room = async move {
                tokio::select! {
                    room = rooms.acquire_owned() => Ok::<_, Fault>(room.ok()),
                    () = sender.closed() => Ok(None),
                }
            };
            let room = match self.rooms.clone().try_acquire_owned() {
                Ok(room) => Some(room),
                Err(_) => self.bucket.engine().wait_watched(room, self.monitor)?.unwrap_or(None),
            };
            let Some(room) = room else { return Err(self.ended_early()) };
            let bytes = vec![0; usize::try_from(self.part_bytes).unwrap_or(0)];
            let mut parts = self.parts.lock();
            parts.open.insert(begun, Part { content: InRoom { bytes, _room: room }, filled: 0 });
            parts.begun = begun + 1;
        }
    }

    /// Why it has ended, when it has.
    fn ended_early(&self) -> TransferError {
        match self.outcome() {
            Err(error) => error,
            Ok(_) => Fault::strange("it ended early").into_error("upload", self.path.clone()),
        }
    }

    /// Hands on every part whose turn it is.
    fn hand_on(&self, and_end: bool) -> Result<(), TransferError> {
        let sender = self.sending.lock();
        loop {
            let next = {
                let mut parts = self.parts.lock();
                let index = parts.next;
                let next = parts.ready.remove(&index);
                parts.next += u64::from(next.is_some());
                next
            };
            let step = match next {
                Some(part) => Step::Part(part),
                None if and_end => Step::End,
                None => return Ok(()),
            };
            let is_end = matches!(step, Step::End);
            if sender.try_send(step).map_or_else(|e| self.wait_for_room(&sender, e), |()| Ok(true))? && is_end {
                return Ok(());
            }
        }
    }

    fn wait_for_room(
        &self,
        sender: &mpsc::Sender<Step>,
        error: mpsc::error::TrySendError<Step>,
    ) -> Result<bool, TransferError> {
        let (sender, step) = (sender.clone(), error.into_inner());
        let sent = async move { sender.send(step).await.map_err(|_| Fault::strange("the upload has ended")) };
        match self.bucket.engine().wait_watched(sent, self.monitor)? {
            Ok(()) => Ok(true),
            // It has ended, and says why.
            Err(_) => Err(self.ended_early()),
        }
    }

    /// How it ended. Each thread that asks after an error is told the same.
    fn outcome(&self) -> Result<Sent, TransferError> {
        let failed = |fault: Fault| fault.of_bucket().into_error("upload", self.path.clone());
        let mut ended = self.ended.lock();
        let coming = match std::mem::replace(&mut *ended, Ended::Taken) {
            Ended::Coming(coming) => coming,
            Ended::Failed(fault) => {
                *ended = Ended::Failed(fault.clone());
                return Err(failed(fault));
            }
            Ended::Taken => return Err(TransferError::Cancelled),
        };
        let end =
            async move { coming.await.unwrap_or_else(|_| Err(Fault::strange("the upload ended without a result"))) };
        let outcome = self.bucket.engine().wait_watched(end, self.monitor)?;
        if let Err(fault) = &outcome {
            *ended = Ended::Failed(fault.clone());
        }
        outcome.map_err(failed)
    }
}

/// The end of an upload's task.
enum Ended {
    Coming(oneshot::Receiver<Result<Sent, Fault>>),
    Failed(Fault),
    /// Told to whoever finished it, or cancelled.
    Taken,
}

impl WriteAt for Upload<'_> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> Result<(), TransferError> {
        while !bytes.is_empty() {
            let (index, at) = (offset / self.part_bytes, offset % self.part_bytes);
            let room = usize::try_from(self.part_bytes - at).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(bytes.len().min(room));
            self.begin_part(index)?;
            let is_whole = self.parts.lock().put(index, self.part_bytes, piece, at);
            (bytes, offset) = (rest, offset + piece.len() as u64);
            if is_whole {
                self.hand_on(false)?;
            }
        }
        Ok(())
    }
}

impl Parts {
    /// Takes a piece, and says whether its part is whole now.
    fn put(&mut self, index: u64, part_bytes: u64, piece: &[u8], at: u64) -> bool {
        // There is none when it is whole already, which nobody writes to.
        let Some(part) = self.open.get_mut(&index) else { return false };
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        if let Some(place) = part.content.bytes.get_mut(at..).and_then(|rest| rest.get_mut(..piece.len())) {
            place.copy_from_slice(piece);
            part.filled += piece.len() as u64;
        }
        if part.filled < part_bytes {
            return false;
        }
        if let Some(part) = self.open.remove(&index) {
            self.ready.insert(index, Bytes::from_owner(part.content));
        }
        true
    }
}

/// Sends parts until there are no more, or nobody gives any more. After an error, nothing is left.
async fn send(
    bucket: Arc<Bucket>,
    (place, uploading, memory): (Place, Uploading, Arc<Taken>),
    there: There,
    cut: Cut,
    mut steps: mpsc::Receiver<Step>,
) -> Result<Sent, Fault> {
    let concurrent = usize::try_from(cut.concurrent).unwrap_or(1);
    let writer = place.begin(&bucket, &there, concurrent).map_err(|e| Fault::new(&e))?;
    // From here on it aborts itself.
    let (begun, uploading, memory) = (SystemTime::now(), Some(uploading), Some(memory));
    let mut sent = Sent { bucket, place, writer: Some(writer), bytes: 0, begun, there, cut, uploading, memory };
    loop {
        match steps.recv().await {
            Some(Step::Part(part)) => {
                let count = part.len() as u64;
                send_part(&mut sent, part).await?;
                sent.bytes += count;
            }
            Some(Step::End) => return Ok(sent),
            None => return Err(Fault::strange("it was given up")),
        }
    }
}

/// Returns when the part is under way, which is when an earlier one has arrived.
async fn send_part(sent: &mut Sent, part: Bytes) -> Result<(), Fault> {
    let Some(writer) = &mut sent.writer else { return Err(Fault::strange("it is completed")) };
    place::write_part(&sent.bucket, writer, Buffer::from(part)).await
}

/// What does not need parts, and is written in any order.
pub(super) struct Whole {
    path: PathBuf,
    most: u64,
    bytes: Mutex<Vec<u8>>,
}

impl Whole {
    /// Of at most so many bytes.
    pub(super) fn new(path: PathBuf, room: usize, most: u64) -> Self {
        Self { path, most, bytes: Mutex::new(Vec::with_capacity(room)) }
    }

    pub(super) fn carried_by(&self, place: &mut Place, bucket: &Bucket, key: String) -> bool {
        place.carry(bucket, key, &self.bytes.lock())
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes.into_inner().into()
    }
}

impl WriteAt for Whole {
    fn path(&self) -> &Path {
        &self.path
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<(), TransferError> {
        let found = offset.saturating_add(bytes.len() as u64);
        if found > self.most {
            return Err(TransferError::Changed { path: self.path.clone(), expected: self.most, found });
        }
        let mut whole = self.bytes.lock();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(bytes.len());
        if whole.len() < end {
            whole.resize(end, 0);
        }
        if let Some(place) = whole.get_mut(start..end) {
            place.copy_from_slice(bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p6_parts_grow_with_the_file_and_memory_does_not() {
        let traits = Traits {
            max_parts: 10_000,
            max_part_bytes: 5 << 30,
            max_object_bytes: 50_000 << 30,
            ..Bucket::open(&crate::Settings::memory()).unwrap().traits()
        };
        let limits = Limits::default();
        let within = |bytes: u64, limits: &Limits| Cut::within(bytes, traits, limits);
        for gib in [0, 1, 70, 80, 200, 500, 1000, 1249, 1251, 5 << 10] {
            let cut = within(gib << 30, &limits).unwrap();
            // Beyond what three parts of fit it is the only one, and takes no more than this.
            let most = if gib > 1250 { MOST_FOR_ONE } else { limits.upload_memory_bytes };
            assert!(cut.memory() <= most, "{gib} GiB: {cut:?}");
            assert!(cut.part_bytes * traits.max_parts >= gib << 30 && cut.in_memory >= FEWEST, "{gib} GiB: {cut:?}");
        }
        assert_eq!(within(1 << 30, &limits).unwrap(), Cut { part_bytes: 8 << 20, concurrent: 8, in_memory: 12 });
        let refused = within(8000 << 30, &limits).unwrap_err();
        let wanted = refused.split('"').nth(1).unwrap().trim_end_matches("MiB").parse::<u64>().unwrap();
        assert!(within(8000 << 30, &Limits { upload_memory_bytes: wanted << 20, ..limits }).is_ok(), "{refused}");
        assert!(within(8000 << 30, &Limits { upload_memory_bytes: (wanted << 20) - 1, ..limits }).is_err());
        let refused = within((50_000 << 30) + 1, &Limits { upload_memory_bytes: 1 << 40, ..limits }).unwrap_err();
        assert!(refused.contains("more than an object"), "{refused}");
    }

    #[test]
    fn p6_no_more_is_collected_than_memory_was_taken_for() {
        let whole = Whole::new("s3://b/k".into(), 0, 10);
        whole.write_all_at(b"56789", 5).unwrap();
        whole.write_all_at(b"01234", 0).unwrap();
        for (bytes, offset) in [(&b"x"[..], 10), (b"xy", 9), (b"x", u64::MAX)] {
            assert!(matches!(whole.write_all_at(bytes, offset), Err(TransferError::Changed { .. })), "{offset}");
        }
        assert_eq!(whole.into_bytes(), "0123456789");
    }
}
