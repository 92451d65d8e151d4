//! The bytes of an object, read at any place: what lies ahead is fetched while what came is verified and written.
//!
//! A region is fetched in windows, several at a time, in order; readers go through it from front to back, a few threads near one another. What lies
//! outside the region is fetched as it is asked for. Memory is a few windows, whatever the object's size.

use crate::Bucket;
use crate::fault::Fault;
use bytes::{Buf as _, Bytes};
use opendal::{Buffer, options::ReadOptions};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use transfer::manifest::ReadAt;
use transfer::{Monitor, TransferError};

pub(crate) const WINDOW_BYTES: u64 = 8 << 20;
/// Windows that are under way, or wait to be read, besides the one that is read.
const AHEAD: u64 = 4;
/// Windows that are kept behind the one that was asked for last: not every thread is equally fast.
const BEHIND: u64 = 1;
const LOOK: Duration = Duration::from_millis(200);

/// One version of an object, as its service tells versions apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tag {
    Etag(String),
    /// Google's: its entity tag changes with the texts and the class, too.
    Generation(String),
}

/// An object in a bucket.
pub(crate) struct Remote<'m> {
    bucket: Arc<Bucket>,
    key: String,
    size: u64,
    /// Only this version of it.
    tag: Option<Tag>,
    monitor: &'m dyn Monitor,
    windows: Mutex<Windows>,
}

#[derive(Default)]
struct Windows {
    region: Range<u64>,
    fetched: BTreeMap<u64, Arc<Window>>,
}

/// Fetched as long as somebody has it: the map, or who waits for it. Holes are passed over without a read, so one reader may be windows ahead of
/// another that still waits.
struct Window {
    slot: Arc<Slot>,
    task: AbortHandle,
}

/// Where a window arrives.
#[derive(Default)]
struct Slot {
    content: Mutex<Option<Result<Buffer, Fault>>>,
    came: Condvar,
}

impl Drop for Window {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<'m> Remote<'m> {
    pub(crate) fn new(
        bucket: &Arc<Bucket>,
        key: String,
        size: u64,
        tag: Option<Tag>,
        monitor: &'m dyn Monitor,
    ) -> Self {
        Self { bucket: bucket.clone(), key, size, tag, monitor, windows: Mutex::default() }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// What is going to be read, from front to back.
    pub(crate) fn expect(&self, region: Range<u64>) {
        let mut windows = self.windows.lock();
        windows.region = region.start..region.end.min(self.size);
        windows.fetched.clear();
    }

    fn failed(&self, fault: Fault) -> io::Error {
        fault.into_error("read", self.bucket.path(&self.key)).into_io()
    }

    /// The window that a place is in, and where it begins; asks for the next ones too. `None` outside of the region.
    fn window(&self, offset: u64) -> Option<(Arc<Window>, u64)> {
        let mut windows = self.windows.lock();
        let region = windows.region.clone();
        if !region.contains(&offset) {
            return None;
        }
        let index = (offset - region.start) / WINDOW_BYTES;
        let last = (region.end - 1 - region.start) / WINDOW_BYTES;
        let oldest = index.saturating_sub(BEHIND);
        windows.fetched.retain(|index, _| *index >= oldest);
        for index in index..=last.min(index + AHEAD) {
            let start = region.start + index * WINDOW_BYTES;
            let range = start..region.end.min(start + WINDOW_BYTES);
            windows.fetched.entry(index).or_insert_with(|| Arc::new(self.fetch(range)));
        }
        let window = windows.fetched.get(&index)?.clone();
        Some((window, region.start + index * WINDOW_BYTES))
    }

    fn fetch(&self, range: Range<u64>) -> Window {
        let slot = Arc::new(Slot::default());
        let (bucket, key, tag) = (self.bucket.clone(), self.key.clone(), self.tag.clone());
        // Made here: a task may be ended before it has begun.
        let arriving = Arriving(slot.clone());
        let task = self.bucket.engine().spawn(async move {
            let content = read(&bucket, &key, range, tag).await;
            arriving.with(content);
        });
        Window { slot, task }
    }

    fn wait(&self, Window { slot, .. }: &Window) -> io::Result<Buffer> {
        let mut content = slot.content.lock();
        loop {
            match &*content {
                Some(Ok(bytes)) => return Ok(bytes.clone()),
                Some(Err(fault)) => return Err(self.failed(fault.clone())),
                None => {}
            }
            if slot.came.wait_for(&mut content, LOOK).timed_out() && self.monitor.cancelled() {
                return Err(TransferError::Cancelled.into_io());
            }
        }
    }

    fn read_directly(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let range = offset..offset + buffer.len() as u64;
        let (bucket, key, tag) = (self.bucket.clone(), self.key.clone(), self.tag.clone());
        let read = async move { read(&bucket, &key, range, tag).await };
        let read = self.bucket.engine().wait_watched(read, self.monitor).map_err(TransferError::into_io)?;
        let mut content = read.map_err(|fault| self.failed(fault))?;
        let count = content.len().min(buffer.len());
        content.copy_to_slice(buffer.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}

/// Reads a range; what comes is shorter only when the object ends before.
async fn read(bucket: &Bucket, key: &str, range: Range<u64>, tag: Option<Tag>) -> Result<Buffer, Fault> {
    let get = |range: Range<u64>| {
        let mut options = ReadOptions { range: range.into(), ..ReadOptions::default() };
        match tag.clone() {
            Some(Tag::Etag(tag)) => options.if_match = Some(tag),
            Some(Tag::Generation(generation)) => options.if_version_match = Some(generation),
            None => {}
        }
        bucket.operator().read_options(key, options)
    };
    let fault = match bucket.request(|| get(range.clone())).await {
        Ok(content) => return Ok(content),
        Err(fault) if fault.may_be_past_the_end() => fault,
        Err(fault) => return Err(fault),
    };
    match bucket.stat(key).await? {
        Some(found) if found.content_length() <= range.start => Ok(Buffer::new()),
        Some(found) if found.content_length() < range.end => {
            bucket.request(|| get(range.start..found.content_length())).await
        }
        _ => Err(fault),
    }
}

/// Whoever waits is told in any case.
struct Arriving(Arc<Slot>);

impl Arriving {
    fn with(self, content: Result<Buffer, Fault>) {
        *self.0.content.lock() = Some(content);
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.content.lock().get_or_insert_with(|| Err(Fault::strange("the request ended without a result")));
        self.0.came.notify_all();
    }
}

impl ReadAt for Remote<'_> {
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..count).unwrap_or_default();
        let mut filled = 0;
        while filled < count {
            let rest = buffer.get_mut(filled..).unwrap_or_default();
            let at = offset + filled as u64;
            let Some((window, start)) = self.window(at) else {
                filled += self.read_directly(rest, at)?;
                break;
            };
            let mut content = self.wait(&window)?;
            content.advance(usize::try_from(at - start).unwrap_or(usize::MAX).min(content.len()));
            let piece = rest.len().min(content.len());
            if piece == 0 {
                break;
            }
            content.copy_to_slice(rest.get_mut(..piece).unwrap_or_default());
            filled += piece;
        }
        Ok(filled)
    }
}

/// Bytes that are here, or not.
pub(super) enum Source<'m> {
    Here(Bytes),
    Remote(Remote<'m>),
}

impl Source<'_> {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Here(bytes) => bytes.len() as u64,
            Self::Remote(remote) => remote.size(),
        }
    }

    /// See [`Remote::expect`].
    pub(super) fn expect(&self, region: Range<u64>) {
        if let Self::Remote(remote) = self {
            remote.expect(region);
        }
    }
}

impl ReadAt for Source<'_> {
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Here(bytes) => bytes.as_ref().read_full_at(buffer, offset),
            Self::Remote(remote) => remote.read_full_at(buffer, offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;
    use transfer::Unwatched;

    /// Who passes over holes is far ahead of who waits for data, and does not take that away from him.
    #[test]
    fn a_window_that_somebody_waits_for_is_not_given_up_for_a_later_one() {
        let bucket = Bucket::open(&Settings::memory()).unwrap();
        let remote = Remote::new(&bucket, "objects/abcdef".to_owned(), 100 * WINDOW_BYTES, None, &Unwatched);
        remote.expect(0..remote.size());
        // One that does not come until somebody says so.
        let (tell, told) = tokio::sync::oneshot::channel();
        let slot = Arc::new(Slot::default());
        let arriving = Arriving(slot.clone());
        let task = bucket.engine().spawn(async move {
            let _ = told.await;
            arriving.with(Ok(Buffer::from("content")));
        });
        remote.windows.lock().fetched.insert(0, Arc::new(Window { slot, task }));
        let (first, _) = remote.window(0).unwrap();
        let (late, start) = remote.window(50 * WINDOW_BYTES + 1).unwrap();
        assert_eq!(start, 50 * WINDOW_BYTES);
        tell.send(()).unwrap();
        assert_eq!(remote.wait(&first).unwrap().to_vec(), b"content");
        // Memory is bounded all the same: what nobody waits for goes.
        assert_eq!(remote.windows.lock().fetched.len() as u64, AHEAD + 1);
        drop((first, late));
    }
}
