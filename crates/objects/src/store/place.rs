//! What is put where: a key, and the texts that go with its object.
//!
//! Each attempt to store something has a mark of its own, which goes into the object's metadata. So an object whose creation was answered by
//! nothing but silence is told from one that somebody else made, and what lies there already is told from what is none of ours.

use super::remote::Tag;
use crate::Bucket;
use crate::fault::Fault;
use crate::retry::Retry;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use opendal::raw::{OpWrite, Service as _, oio};
use opendal::{
    Buffer, ErrorKind, Metadata, Operator,
    options::{ReadOptions, WriteOptions},
};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use transfer::{OpenFile, TransferError};
use uuid::Uuid;

/// The key of the mark.
pub(crate) const MARK: &str = "sifaka";

/// The key of the manifest, in base64.
const MANIFEST: &str = "manifest";
/// With this much of it, and everything else, there are some 1900 bytes of texts.
const MAX_CARRIED_BYTES: usize = 1200;

/// The manifest that an object carries. One that makes no sense is as good as a damaged one.
pub(super) fn carried(found: &Metadata) -> Option<Bytes> {
    let text = found.user_metadata()?.get(MANIFEST)?;
    Some(BASE64_STANDARD.decode(text).unwrap_or_default().into())
}

/// A key to which an attempt may write.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) mark: String,
    /// The text that the mark is in.
    mark_text: &'static str,
    texts: HashMap<String, String>,
    claim: Option<Claim>,
    /// Of what is no archive's.
    replaces: Option<Replaces>,
    /// It is no content, and is read without a thaw.
    is_ours_alone: bool,
}

/// What an object has to say of itself to be written over, where one key may be wanted for several things.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// A text and its value, any of these.
    pub(super) any_of: Vec<(&'static str, String)>,
    /// And only if it is still the one that was looked at, by its entity tag.
    pub(super) exactly: bool,
    /// What is said of one that may not be.
    pub(super) refusal: &'static str,
}

/// What may be written over of what is no archive's, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Replaces {
    Nothing,
    Anything,
    /// This version; if `asked`, the service is asked to make sure of it.
    This {
        tag: Tag,
        asked: bool,
    },
}

/// What is under a key already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    /// Made by this very attempt; so many bytes.
    This(u64),
    /// Made by another attempt of ours; or nobody can tell, on a service whose objects carry no texts.
    /// With its version, or its entity tag (see [`Claim::exactly`]), where the service replaces exactly one.
    Earlier(Option<String>),
    /// Something that we did not make.
    Strange,
}

/// Whether it was made by an attempt of ours; on a service whose objects carry no texts everything counts as such.
pub(super) fn is_ours(bucket: &Bucket, found: &Metadata) -> bool {
    !bucket.traits().metadata || found.user_metadata().is_some_and(|texts| texts.get(MARK).is_some())
}

/// Whether it was made by this very attempt.
pub(super) fn is_of_attempt(found: &Metadata, mark: &str) -> bool {
    found.user_metadata().and_then(|texts| texts.get(MARK)).is_some_and(|text| *text == *mark)
}

impl Place {
    pub(super) fn new(key: String) -> Self {
        let mark = Uuid::new_v4().to_string();
        let texts = HashMap::from([(MARK.to_owned(), mark.clone())]);
        Self { key, mark, mark_text: MARK, texts, claim: None, replaces: None, is_ours_alone: false }
    }

    /// For what is to be no archive's: its mark is in another text, and what may be there before is said.
    pub(super) fn plain(
        key: String,
        mark_text: &'static str,
        mut texts: HashMap<String, String>,
        replaces: Replaces,
    ) -> Self {
        let mark = Uuid::new_v4().to_string();
        texts.insert(mark_text.to_owned(), mark.clone());
        Self { key, mark, mark_text, texts, claim: None, replaces: Some(replaces), is_ours_alone: false }
    }

    /// What is there, if nobody changed that.
    pub(super) fn presumed(&self) -> There {
        match &self.replaces {
            Some(Replaces::Anything) => There::Earlier(None),
            Some(Replaces::This { tag: Tag::Etag(tag) | Tag::Generation(tag), asked }) => {
                There::Earlier(asked.then(|| tag.clone()))
            }
            Some(Replaces::Nothing) | None => There::Nothing,
        }
    }

    /// Whether it was made by this attempt.
    pub(super) fn made(&self, found: &Metadata) -> bool {
        found.user_metadata().and_then(|texts| texts.get(self.mark_text)).is_some_and(|text| *text == *self.mark)
    }

    /// Only what is claimed is written over.
    pub(super) fn claim(&mut self, claim: Claim) {
        self.claim = Some(claim);
    }

    /// One more text.
    pub(super) fn say(&mut self, text: &str, value: String) {
        self.texts.insert(text.to_owned(), value);
    }

    /// What is found somewhere, as it is, under another key.
    pub(super) fn copy_of(found: &Metadata, key: String, claim: Claim) -> Self {
        let known = found.user_metadata();
        let texts: HashMap<String, String> =
            known.into_iter().flatten().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let mark = texts.get(MARK).cloned().unwrap_or_default();
        Self { key, mark, mark_text: MARK, texts, claim: Some(claim), replaces: None, is_ours_alone: false }
    }

    /// As Lemur's mover for Azure describes what it stores, with times in UTC.
    pub(super) fn describe_as_lemur(&mut self, source: &OpenFile) -> Result<(), TransferError> {
        let found = source.file().metadata().map_err(TransferError::io("read attributes of", source.path()))?;
        let modified = opendal::raw::Timestamp::from_second(found.mtime()).map(opendal::raw::Timestamp::into_inner);
        let modified = modified.map(|time| time.strftime("%Y-%m-%d %H:%M:%S +0000").to_string()).unwrap_or_default();
        let texts = [
            ("Permissions", format!("{:o}", found.mode() & 0o7777)),
            ("ModTime", modified),
            ("Owner", found.uid().to_string()),
            ("Group", found.gid().to_string()),
        ];
        self.texts.extend(texts.map(|(key, value)| (key.to_owned(), value)));
        Ok(())
    }

    /// For something small of ours, which is read without a thaw.
    pub(super) fn ours(key: String) -> Self {
        Self { is_ours_alone: true, ..Self::new(key) }
    }

    fn operator<'b>(&self, bucket: &'b Bucket) -> &'b Operator {
        if self.is_ours_alone { bucket.usual() } else { bucket.operator() }
    }

    /// Another key of the same attempt, for what describes the object.
    pub(super) fn beside(&self, key: String) -> Self {
        let texts = HashMap::from([(MARK.to_owned(), self.mark.clone())]);
        let mark = self.mark.clone();
        Self { key, mark, mark_text: MARK, texts, claim: None, replaces: None, is_ours_alone: true }
    }

    /// For people and other tools: owner, mode (octal) and mtime (seconds, with nanoseconds behind the point), under the names that rclone uses.
    pub(super) fn describe(&mut self, source: &OpenFile) -> Result<(), TransferError> {
        let found = source.file().metadata().map_err(TransferError::io("read attributes of", source.path()))?;
        let texts = [
            ("mode", format!("{:o}", found.mode())),
            ("uid", found.uid().to_string()),
            ("gid", found.gid().to_string()),
            ("mtime", format!("{}.{:09}", found.mtime(), found.mtime_nsec())),
        ];
        self.texts.extend(texts.map(|(key, value)| (key.to_owned(), value)));
        Ok(())
    }

    /// The hash of the content, where it is known before that is sent.
    pub(super) fn set_hash(&mut self, hash: &model::Digest) {
        if let model::Digest::Blake3(_) = hash {
            self.texts.insert("blake3".to_owned(), hash.to_string());
        }
    }

    /// Puts the manifest into the metadata, under a key that says so, if it fits. S3 takes 2 KiB of texts in all.
    pub(super) fn carry(&mut self, bucket: &Bucket, key: String, manifest: &[u8]) -> bool {
        let fits = bucket.traits().metadata && manifest.len() <= MAX_CARRIED_BYTES;
        if fits {
            self.texts.insert(MANIFEST.to_owned(), BASE64_STANDARD.encode(manifest));
            self.key = key;
        }
        fits
    }

    pub(super) fn options(&self, bucket: &Bucket, there: &There) -> WriteOptions {
        let traits = bucket.traits();
        let mut options = WriteOptions::default();
        if traits.metadata {
            options.user_metadata = Some(self.texts.clone());
        }
        match there {
            There::Earlier(tag)
                if self.claim.as_ref().is_some_and(|claim| claim.exactly)
                    || matches!(self.replaces, Some(Replaces::This { tag: Tag::Etag(_), .. })) =>
            {
                options.if_match = tag.clone();
            }
            // Not `If-Match`, with the entity tag: of several services each compares something else.
            There::Earlier(version) => options.if_version_match = version.clone(),
            _ => options.if_not_exists = true,
        }
        options
    }

    /// Why what is there is not written over. Where several things may want a key, the other one may go away.
    pub(super) fn strange(&self) -> Fault {
        match &self.claim {
            Some(claim) => Fault::contended(claim.refusal),
            None if self.replaces.is_some() => Fault::occupied("something else is there"),
            None => Fault::occupied("there is an object under this key that Sifaka did not make; it is left alone"),
        }
    }

    /// Looks at what is there.
    pub(super) async fn look(&self, bucket: &Bucket) -> Result<There, Fault> {
        let Some(found) = bucket.stat(&self.key).await? else { return Ok(There::Nothing) };
        Ok(self.judge(bucket, &found))
    }

    fn judge(&self, bucket: &Bucket, found: &Metadata) -> There {
        let mark = found.user_metadata().and_then(|texts| texts.get(self.mark_text));
        let says = |text: &str| found.user_metadata().and_then(|texts| texts.get(text));
        let claims =
            |claim: &Claim| claim.any_of.iter().any(|(text, value)| says(text).is_some_and(|said| *said == **value));
        match mark {
            Some(mark) if mark == self.mark => There::This(found.content_length()),
            _ if let Some(replaces) = &self.replaces => match replaces {
                Replaces::Anything => There::Earlier(None),
                Replaces::This { tag: Tag::Etag(tag), .. } if found.etag() == Some(tag) => self.presumed(),
                Replaces::This { tag: Tag::Generation(tag), .. } if found.version() == Some(tag) => self.presumed(),
                _ => There::Strange,
            },
            _ if let Some(claim) = &self.claim => {
                if claims(claim) {
                    There::Earlier(found.etag().filter(|_| claim.exactly).map(str::to_owned))
                } else {
                    There::Strange
                }
            }
            None if bucket.traits().metadata => There::Strange,
            _ => There::Earlier(found.version().filter(|_| bucket.traits().replaces_versions).map(str::to_owned)),
        }
    }

    /// Puts it there, over whatever is: that of a manifest, for instance, whose object's key is what was contended for.
    pub(super) async fn put_over(&self, bucket: &Bucket, content: Buffer) -> Result<(), Fault> {
        let options = self.options(bucket, &There::Earlier(None));
        bucket
            .request(|| self.operator(bucket).write_options(&self.key, content.clone(), options.clone()))
            .await
            .map(drop)
    }

    /// Removes it again, if what is there is of this attempt.
    pub(super) async fn take_back(&self, bucket: &Bucket) -> Result<(), Fault> {
        match self.look(bucket).await? {
            There::Nothing | There::Strange => Ok(()),
            // Of a service that tells attempts apart it is another one's, perhaps a later one's, and acknowledged.
            There::Earlier(_) if bucket.traits().metadata => Ok(()),
            There::This(_) | There::Earlier(_) => bucket.remove(std::slice::from_ref(&self.key)).await,
        }
    }

    /// Puts a whole object there, in one request. Gives back whether it replaced one of ours.
    pub(super) async fn put(&self, bucket: &Bucket, content: Buffer) -> Result<bool, Fault> {
        let mut there = There::Nothing;
        loop {
            let options = self.options(bucket, &there);
            let request = || bucket.operator().write_options(&self.key, content.clone(), options.clone());
            let fault = match bucket.request(request).await {
                Ok(_) => return Ok(there != There::Nothing),
                Err(fault) => fault,
            };
            // Also when it failed otherwise: it may have been done, and only the answer was lost.
            let found = self.look(bucket).await;
            let was_nothing = there == There::Nothing;
            match (found, was_nothing) {
                (Ok(There::This(bytes)), _) if bytes == content.len() as u64 => {
                    return Ok(!was_nothing);
                }
                (Ok(found @ There::Earlier(_)), true) if fault.told == ErrorKind::ConditionNotMatch => {
                    there = found;
                }
                (Ok(There::Strange), _) => return Err(self.strange()),
                _ if fault.told == ErrorKind::ConditionNotMatch => return Err(contended()),
                _ => return Err(fault),
            }
        }
    }

    /// Puts a whole object where nothing is. Says whether it is there now.
    pub(super) async fn put_new(&self, bucket: &Bucket, content: Buffer) -> Result<bool, Fault> {
        let options = self.options(bucket, &There::Nothing);
        let request = || bucket.operator().write_options(&self.key, content.clone(), options.clone());
        let Err(fault) = bucket.request(request).await else { return Ok(true) };
        match self.look(bucket).await? {
            // It was done, and only the answer lost.
            There::This(bytes) if bytes == content.len() as u64 => Ok(true),
            There::Nothing => Err(fault),
            _ => Ok(false),
        }
    }

    /// Begins an object that is made of parts.
    pub(super) fn begin(&self, bucket: &Bucket, there: &There, concurrent: usize) -> opendal::Result<oio::Writer> {
        let operator = self.operator(bucket);
        let options = WriteOptions { concurrent, ..self.options(bucket, there) };
        let (arguments, _) = OpWrite::from_options(&operator.service().capability(), options)?;
        operator.service().write(operator.context(), &self.key, arguments)
    }
}

/// Returns when the part is under way.
pub(super) async fn write_part(bucket: &Bucket, writer: &mut oio::Writer, part: Buffer) -> Result<(), Fault> {
    use oio::Write as _;
    let mut retry = Retry::new(bucket.limits().attempts);
    loop {
        match writer.write(part.clone()).await {
            Ok(()) => return Ok(()),
            // The writer has kept what failed, and sends it again: it may be an earlier part than this one.
            Err(error) => retry.after(&error).await?,
        }
    }
}

/// Makes an object of the parts, which are so many bytes; as many of them may still be on their way. `before` is what was there when it began: `None`
/// for what is put over whatever is there. If that cannot be, the writer is still to be aborted. Says whether the service answered that it is done:
/// else there may still be something of the upload, whose removal would take the object's content with it.
pub(super) async fn complete(
    bucket: &Bucket,
    (place, before): (&Place, Option<&There>),
    writer: &mut oio::Writer,
    (bytes, on_their_way): (u64, u32),
) -> Result<bool, Fault> {
    use oio::Write as _;
    if let Some(before) = before {
        // Some services look at no condition when they make an object of parts.
        match place.look(bucket).await? {
            There::Strange => return Err(place.strange()),
            There::Earlier(_) if *before == There::Nothing => return Err(contended()),
            _ => {}
        }
    }
    // The parts that are on their way may all have failed at the same moment, and say so one after the other.
    let mut retry = Retry::new(bucket.limits().attempts.saturating_add(on_their_way));
    let (mut is_doubtful, mut is_answered) = (false, false);
    let closed = loop {
        let error = match writer.close().await {
            Ok(_) => {
                is_answered = true;
                break Ok(());
            }
            Err(error) => error,
        };
        is_doubtful = true;
        if let Err(fault) = retry.after(&error).await {
            break Err(fault);
        }
        // Done, and only the answer lost: there are services that spoil it when they are told again.
        if matches!(place.look(bucket).await, Ok(There::This(_))) {
            break Ok(());
        }
    };
    // After a success too: what was made of the parts has to be as long as they were.
    match (place.look(bucket).await, closed) {
        (Ok(There::This(found)), _) if found == bytes => {}
        (Ok(There::This(found)), _) => {
            return Err(Fault::strange(format!("it has {found} bytes there, and {bytes} were sent")));
        }
        (Ok(There::Strange), Err(_)) => return Err(place.strange()),
        (_, Err(fault)) if fault.told == ErrorKind::ConditionNotMatch => return Err(contended()),
        (_, Err(fault)) => return Err(fault),
        (Ok(_), Ok(())) => return Err(Fault::strange("the service says that it is there, and it is not")),
        (Err(fault), Ok(())) => return Err(fault),
    }
    if is_doubtful {
        can_be_read(bucket, &place.key, bytes).await?;
    }
    Ok(is_answered)
}

/// That there is content behind what a service says of an object: the first byte, and the last.
async fn can_be_read(bucket: &Bucket, key: &str, bytes: u64) -> Result<(), Fault> {
    for at in [0, bytes.saturating_sub(1)] {
        let options = ReadOptions { range: (at..bytes.min(at + 1)).into(), ..ReadOptions::default() };
        let read = bucket.request(|| bucket.operator().read_options(key, options.clone())).await;
        if read.as_ref().is_err_and(Fault::is_cold) {
            // It went where nobody can look.
            return Ok(());
        }
        read.map_err(|fault| Fault::strange(format!("it is there and cannot be read: {}", fault.why())))?;
    }
    Ok(())
}

/// Takes back what was sent of an object that is not to be. The sweep finds what is left when that fails.
pub(super) async fn abort(bucket: &Bucket, key: &str, mut writer: oio::Writer) {
    use oio::Write as _;
    let mut retry = Retry::new(bucket.limits().attempts);
    while let Err(error) = writer.abort().await {
        if let Err(fault) = retry.after(&error).await {
            let path = bucket.path(key);
            tracing::warn!(object = %path.display(), error = fault.why(), "cannot abort an upload; the next sweep will");
            return;
        }
    }
}

fn contended() -> Fault {
    Fault::contended("somebody else wrote there at the same time")
}
