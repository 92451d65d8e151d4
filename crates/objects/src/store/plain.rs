//! Objects under keys that somebody chose, with texts beside them: what bulk jobs put and get.
//!
//! Not for archives: nothing here knows ids, manifests or packs, and what is put does not count as an archive's. Keys are whole: the bucket is to be
//! opened without a prefix.
//!
//! Each attempt to put something has a mark, as in `place`: so a put whose answer was lost is told from one that somebody else made.

use super::memory::{Memory, Taken};
use super::place::{Place, Replaces};
use super::remote::{Remote, Tag, WINDOW_BYTES};
use super::sweep::Underway;
use super::upload::{Cut, Upload};
use crate::Bucket;
use crate::fault::Fault;
use crate::foreign::{Foreign, Listed, can_be_asked_for};
use crate::uploads::Unfinished;
use bytes::Bytes;
use model::Scheme;
use opendal::raw::{OpWrite, Service as _, oio};
use opendal::{Buffer, ErrorKind, Metadata};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use transfer::copy::WriteAt;
use transfer::manifest::ReadAt;
use transfer::{Monitor, TransferError};

/// The text that holds the mark of an attempt. Azure takes letters only.
const MARK: &str = "sifakacopy";
/// What a read takes of memory at most: windows ahead, one behind, and the one that is read.
const READ_BYTES: u64 = 6 * WINDOW_BYTES;
/// Removed by one request at most.
const REMOVED_AT_ONCE: usize = 500;

/// Texts beside an object; names in small letters.
pub type Texts = HashMap<String, String>;

/// A bucket, for whoever names its objects.
pub struct Plain {
    bucket: Arc<Bucket>,
    memory: Memory,
    underway: Underway,
}

/// Which version of an object, as its service tells versions apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(Tag);

/// What may be under a key that is put to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// Nothing.
    Nothing,
    /// This version alone, as far as the service can make sure of it: S3 is asked right before, and not while.
    This(Version),
    /// Anything.
    Anything,
}

/// An object, as the service tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// In bytes.
    pub size: u64,
    /// `None` where the service does not say.
    pub version: Option<Version>,
    /// When it was stored, in seconds since 1970, and nanoseconds.
    pub modified: Option<(i64, u32)>,
    /// What whoever stored it put beside it.
    pub texts: Texts,
}

/// How a put ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there.
    Done,
    /// Something else is there, which was not to be replaced.
    Taken,
}

impl Plain {
    /// Objects of this bucket. Asks the service nothing.
    #[must_use]
    pub fn new(bucket: Arc<Bucket>) -> Self {
        let memory = Memory::new(bucket.limits().upload_memory_bytes);
        Self { bucket, memory, underway: Underway::default() }
    }

    /// Asks whether the bucket is there and may be read.
    pub fn check(&self) -> Result<(), TransferError> {
        self.bucket.check()
    }

    /// Which it is; `None` for memory.
    #[must_use]
    pub fn place(&self) -> Option<(Scheme, &str)> {
        self.bucket.place()
    }

    /// An object, as people name it.
    #[must_use]
    pub fn shown(&self, key: &str) -> std::path::PathBuf {
        self.bucket.path(key)
    }

    /// The largest content that goes in one request.
    #[must_use]
    pub fn whole_bytes(&self) -> u64 {
        self.bucket.limits().part_bytes
    }

    /// See [`Foreign::list`].
    pub fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Vec<Listed>) -> ControlFlow<()>,
    ) -> Result<(), TransferError> {
        Foreign::of(&self.bucket).list(prefix, visit)
    }

    /// Whether there is anything whose key begins with `prefix`, which is empty or ends in a slash.
    pub fn has_below(&self, prefix: &str) -> Result<bool, TransferError> {
        let mut found = false;
        self.list(prefix, &mut |listed| {
            found |= !listed.is_empty();
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Asks for one object; `None` when it is not there. A key may end in a slash.
    pub fn look(&self, key: &str) -> Result<Option<Found>, TransferError> {
        self.askable(key)?;
        let (bucket, asked) = (self.bucket.clone(), key.to_owned());
        let look = async move { bucket.in_time(bucket.stat_exactly(&asked), |late: Fault| late).await };
        let found = self.bucket.engine().wait(look);
        let found = found.map_err(|fault| fault.into_error("look for", self.bucket.path(key)))?;
        Ok(found.map(|found| self.found(&found)))
    }

    fn found(&self, found: &Metadata) -> Found {
        let texts = found.user_metadata().into_iter().flatten();
        let modified = found.last_modified().map(|time| {
            let time = time.into_inner();
            (time.as_second(), u32::try_from(time.subsec_nanosecond()).unwrap_or(0))
        });
        Found {
            size: found.content_length(),
            version: tag_of(found, &self.bucket).map(Version),
            modified,
            texts: texts
                .map(|(name, text)| (name.to_ascii_lowercase(), text.to_owned()))
                .filter(|(name, _)| name != MARK)
                .collect(),
        }
    }

    /// Takes memory for content of so many bytes; given back when it is dropped.
    pub fn room(&self, bytes: u64, monitor: &dyn Monitor) -> Result<Room, TransferError> {
        Ok(Room(self.memory.take(bytes, &self.bucket, monitor)?))
    }

    /// Puts an object in one request. A key may end in a slash.
    pub fn put(&self, key: &str, content: Bytes, texts: Texts, over: &Over) -> Result<Put, TransferError> {
        self.askable(key)?;
        let place = self.place_of(key, texts, over);
        let bucket = self.bucket.clone();
        let put = async move { bucket.in_time(put_whole(&bucket, &place, content.into()), |late| late).await };
        self.ended(key, self.bucket.engine().wait(put))
    }

    fn ended(&self, key: &str, end: Result<(), Fault>) -> Result<Put, TransferError> {
        match end {
            Ok(()) => Ok(Put::Done),
            Err(fault) if is_taken(&fault) => Ok(Put::Taken),
            Err(fault) => Err(fault.of_bucket().into_error("store", self.bucket.path(key))),
        }
    }

    fn place_of(&self, key: &str, texts: Texts, over: &Over) -> Place {
        let replaces = match over {
            Over::Nothing => Replaces::Nothing,
            Over::Anything => Replaces::Anything,
            // Of several servers of S3 each compares something else with the entity tag.
            Over::This(Version(tag)) => {
                let asked = self.place().is_some_and(|(scheme, _)| scheme != Scheme::S3);
                Replaces::This { tag: tag.clone(), asked }
            }
        };
        Place::plain(key.to_owned(), MARK, texts, replaces)
    }

    /// Begins an object of `bytes` that goes in parts, several at a time. What is written has to come nearly in order. Dropped before it is
    /// [completed](Large::complete), it leaves nothing.
    pub fn begin<'m>(
        &self,
        key: &str,
        bytes: u64,
        texts: Texts,
        over: &Over,
        monitor: &'m dyn Monitor,
    ) -> Result<Option<Large<'m>>, TransferError> {
        self.askable(key)?;
        let place = self.place_of(key, texts, over);
        let cut = Cut::of(bytes, &self.bucket, &self.bucket.path(key))?;
        let memory = self.memory.take(cut.memory(), &self.bucket, monitor)?;
        let (asking, looking) = (place.clone(), self.bucket.clone());
        let there = self.bucket.engine().wait_watched(async move { asking.look(&looking).await }, monitor)?;
        let there = there.map_err(|fault| fault.into_error("look for", self.bucket.path(key)))?;
        if there == super::place::There::Strange {
            return Ok(None);
        }
        let uploading = self.underway.begin(key);
        let upload = Upload::begin(&self.bucket, (place, uploading), there, cut, memory, monitor);
        Ok(Some(Large { bucket: self.bucket.clone(), key: key.to_owned(), upload }))
    }

    /// The content of one version of an object, which is read from front to back. Several ranges come at a time.
    pub fn read<'m>(&self, key: &str, found: &Found, monitor: &'m dyn Monitor) -> Result<Content<'m>, TransferError> {
        self.askable(key)?;
        let memory = self.memory.take(found.size.min(READ_BYTES), &self.bucket, monitor)?;
        let tag = found.version.clone().map(|Version(tag)| tag);
        let remote = Remote::new(&self.bucket, key.to_owned(), found.size, tag, monitor);
        remote.expect(0..found.size);
        Ok(Content { remote, _memory: memory })
    }

    /// Removes keys, whether there is anything or not.
    pub fn remove(&self, keys: &[String]) -> Result<(), TransferError> {
        keys.iter().try_for_each(|key| self.askable(key))?;
        for some in keys.chunks(REMOVED_AT_ONCE) {
            let (bucket, some) = (self.bucket.clone(), some.to_vec());
            let shown = some.first().map_or_else(|| bucket.path(""), |key| bucket.path(key));
            let removed = async move { bucket.in_time(bucket.remove(&some), |late: Fault| late).await };
            self.bucket.engine().wait(removed).map_err(|fault| fault.into_error("remove", shown))?;
        }
        Ok(())
    }

    /// Aborts what was begun to be put under exactly this key and was never completed. How many there were; none where the service cannot tell.
    pub fn abort_unfinished(&self, key: &str) -> Result<u64, TransferError> {
        let Some(uploads) = self.bucket.uploads() else { return Ok(0) };
        let asked = key.to_owned();
        let aborted = self.bucket.engine().wait(async move {
            let aborted = Mutex::new(0);
            let visit = |found: Vec<Unfinished>| async {
                for upload in found.into_iter().filter(|upload| upload.key == asked) {
                    uploads.abort(&upload).await?;
                    *aborted.lock() += 1;
                }
                Ok(())
            };
            uploads.each(&asked, visit).await?;
            Ok::<_, Fault>(aborted.into_inner())
        });
        match aborted {
            Err(fault) if fault.told == ErrorKind::Unsupported => Ok(0),
            aborted => aborted
                .map_err(|fault| fault.of_bucket().into_error("abort unfinished uploads of", self.bucket.path(key))),
        }
    }

    /// Waits until nothing is on its way any more, also of what was given up, but no longer than `most`. Whether that is so.
    pub fn settle(&self, most: Duration) -> bool {
        let late = Late { at: std::time::Instant::now() + most };
        self.memory.take(u64::MAX, &self.bucket, &late).is_ok()
    }

    fn askable(&self, key: &str) -> Result<(), TransferError> {
        if can_be_asked_for(key.strip_suffix('/').unwrap_or(key)) {
            return Ok(());
        }
        let why = Fault::unsupported(crate::foreign::UNASKABLE);
        Err(why.into_error("ask for", self.bucket.path(key)))
    }
}

/// Memory that was taken.
#[derive(Debug)]
pub struct Room(#[expect(dead_code, reason = "given back when it is dropped")] Taken);

/// Cancels when its time is over.
struct Late {
    at: std::time::Instant,
}

impl Monitor for Late {
    fn cancelled(&self) -> bool {
        std::time::Instant::now() >= self.at
    }

    fn advanced(&self, _: model::Extent) {}
}

/// An object that goes in parts.
pub struct Large<'m> {
    bucket: Arc<Bucket>,
    key: String,
    upload: Upload<'m>,
}

impl Large<'_> {
    /// More of it.
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<(), TransferError> {
        self.upload.write_all_at(bytes, offset)
    }

    /// Makes it an object.
    pub fn complete(self) -> Result<Put, TransferError> {
        let sent = self.upload.finish()?;
        let bucket = self.bucket.clone();
        let complete = async move { bucket.in_time(sent.complete(), |late| late).await };
        match self.bucket.engine().wait(complete) {
            Ok(_) => Ok(Put::Done),
            Err(fault) if is_taken(&fault) => Ok(Put::Taken),
            Err(fault) => Err(fault.into_error("store", self.bucket.path(&self.key))),
        }
    }
}

/// An object's content.
pub struct Content<'m> {
    remote: Remote<'m>,
    _memory: Taken,
}

impl Content<'_> {
    /// Fills the buffer, but at the end.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.remote.read_full_at(buffer, offset)
    }
}

/// Somebody else's is there, or came meanwhile.
fn is_taken(fault: &Fault) -> bool {
    matches!(fault.told, ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists | ErrorKind::Conflict)
}

fn tag_of(found: &Metadata, bucket: &Bucket) -> Option<Tag> {
    if bucket.place().is_some_and(|(scheme, _)| scheme == Scheme::Google) {
        return found
            .version()
            .filter(|version| !version.is_empty())
            .map(|version| Tag::Generation(version.to_owned()));
    }
    found.etag().filter(|tag| !tag.is_empty()).map(|tag| Tag::Etag(tag.to_owned()))
}

/// By one request, whatever the key ends in, which OpenDAL's own way does not take.
async fn put_whole(bucket: &Bucket, place: &Place, content: Buffer) -> Result<(), Fault> {
    let there = place.presumed();
    let put = || async {
        use oio::Write as _;
        let operator = bucket.operator();
        let (arguments, _) = OpWrite::from_options(&operator.service().capability(), place.options(bucket, &there))?;
        let mut writer = operator.service().write(operator.context(), &place.key, arguments)?;
        if !content.is_empty() {
            writer.write(content.clone()).await?;
        }
        writer.close().await
    };
    let Err(fault) = bucket.request(put).await else { return Ok(()) };
    // It may have been done, and only the answer lost.
    match bucket.stat(&place.key).await {
        Ok(Some(found)) if place.made(&found) && found.content_length() == content.len() as u64 => Ok(()),
        _ => Err(fault),
    }
}
