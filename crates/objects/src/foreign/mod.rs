//! Objects that Sifaka did not make: read where they are, as they are, and never written or removed.
//!
//! They are anywhere in the bucket, not only below the archive's prefix. Nobody kept a hash of ours of them, so a version is told by what the service
//! tells versions apart by, in each request; and what the service knows of the content is compared.

mod list;
mod sealed;
mod slashes;

pub use list::{Described, Listed};

use crate::Bucket;
use crate::store::MARK;
use crate::store::remote::{Remote, Tag};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest as _, Md5};
use model::{ObjectUrl, Scheme};
use opendal::Metadata;
use opendal::raw::Timestamp;
use parking_lot::Mutex;
use sealed::{Sealed, md5_of};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use transfer::copy::restore_hashing;
use transfer::manifest::ReadAt;
use transfer::{Expected, ForeignObject, Monitor, OpenFile, Restored, TransferError, Unwatched};

const EEXIST: i32 = 17;

/// A bucket, for what is somebody else's in it.
pub struct Foreign {
    whole: Arc<Bucket>,
}

/// What the service tells of an object.
struct Seen {
    size: u64,
    version: Option<String>,
    tag: Option<Tag>,
    md5: Option<[u8; 16]>,
    modified: Option<Timestamp>,
    /// Of the attempt that stored it, if it was one of ours.
    mark: Option<String>,
}

impl Seen {
    /// Whether nothing tells it from another look at the object. What has no version is told by what changes mostly.
    fn is(&self, other: &Self) -> bool {
        let rest = |seen: &Self| (seen.size, seen.modified);
        self.version == other.version && (self.version.is_some() || rest(self) == rest(other))
    }
}

impl Foreign {
    /// The whole bucket, whatever prefix this one has.
    #[must_use]
    pub fn of(bucket: &Arc<Bucket>) -> Self {
        Self { whole: bucket.whole() }
    }

    fn is_google(&self) -> bool {
        self.whole.place().is_some_and(|(scheme, _)| scheme == Scheme::Google)
    }

    /// Asks whether the bucket is there and may be read.
    pub fn answers(&self) -> Result<(), TransferError> {
        self.whole.check()
    }

    /// See [`transfer::Store::check_foreign`].
    pub(crate) fn check(&self, object: &ForeignObject) -> Result<(), TransferError> {
        let seen = self.look(object, &Unwatched)?;
        let is_meant = object.mark.is_none() || object.mark == seen.mark;
        if is_meant { Ok(()) } else { Err(another(self.whole.path(object.url.key()))) }
    }

    /// See [`transfer::Store::get_foreign`].
    pub(crate) fn read(
        &self,
        object: &ForeignObject,
        target: Option<&OpenFile>,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        let mut seen = self.look(object, monitor)?;
        if object.mark.is_some() && seen.mark.is_none() && expected.digest.is_none() {
            return Err(another(self.whole.path(object.url.key())));
        }
        seen.md5 = seen.md5.filter(|_| object.compare);
        let path = self.whole.path(object.url.key());
        if let Some(size) = expected.size.filter(|size| *size != seen.size) {
            let why = format!("it has {} bytes now, and had {size}", seen.size);
            return Err(TransferError::Replaced { path, why });
        }
        let is_tagged = seen.tag.is_some();
        let remote = Remote::new(&self.whole, object.url.key().to_owned(), seen.size, seen.tag.clone(), monitor);
        remote.expect(0..seen.size);
        let content = Compared { remote, md5: seen.md5.map(|_| Mutex::default()) };
        let read = restore_hashing((&content, &path, seen.size), target, expected, monitor);
        // The only condition that the requests have is the version.
        let changed = |error: &TransferError| matches!(error, TransferError::Service { errno: EEXIST, .. });
        let restored = match read {
            Err(error) if is_tagged && changed(&error) => return Err(meanwhile(&path)),
            read => read?,
        };
        content.compare(seen.md5, &path)?;
        if seen.md5.is_none() && expected.digest.is_none() {
            // Nothing tells that this is its content: it came by another request than its version, and perhaps by several; and there are services that look at
            // no condition.
            let after = self.stat(object.url.key(), monitor)?;
            if after.is_none_or(|after| !after.is(&seen)) {
                return Err(meanwhile(&path));
            }
        }
        Ok(restored)
    }

    /// That it is there, and the version that is meant.
    fn look(&self, object: &ForeignObject, monitor: &dyn Monitor) -> Result<Seen, TransferError> {
        self.refuse_others(&object.url)?;
        let path = self.whole.path(object.url.key());
        let Some(seen) = self.stat(object.url.key(), monitor)? else { return Err(TransferError::Missing { path }) };
        // One without a mark was perhaps brought back from somewhere: a hash tells.
        if object.mark.is_some() && seen.mark.is_some() && object.mark != seen.mark {
            return Err(another(path));
        }
        match (&object.version, &seen.version) {
            (Some(meant), Some(found)) if meant != found => {
                let why = format!("the service calls this version {}, and that one {}", shown(found), shown(meant));
                Err(TransferError::Replaced { path, why })
            }
            (Some(meant), None) => {
                let why = format!("the service does not say which version this is, and that one was {}", shown(meant));
                Err(TransferError::Replaced { path, why })
            }
            _ => Ok(seen),
        }
    }

    fn stat(&self, key: &str, monitor: &dyn Monitor) -> Result<Option<Seen>, TransferError> {
        let (bucket, asked, sealed) = (self.whole.clone(), key.to_owned(), Sealed::default());
        let context = bucket.operator().context();
        let context = context.with_http_transport(sealed.clone().over(context.http_transport().clone()));
        let operator = bucket.operator().clone().with_context(context);
        let look = async move {
            let stat = async {
                match bucket.request(|| operator.stat(&asked)).await {
                    Ok(found) => Ok(Some(found)),
                    Err(fault) if fault.is_missing() => bucket.is_there().await.map(|()| None),
                    Err(fault) => Err(fault),
                }
            };
            bucket.in_time(stat, |late| late).await
        };
        let found = self.whole.engine().wait_watched(look, monitor)?;
        let found = found.map_err(|fault| fault.into_error("look for", self.whole.path(key)))?;
        Ok(found.map(|found| self.seen(&found, sealed.was_seen())))
    }

    fn seen(&self, found: &Metadata, is_sealed: bool) -> Seen {
        let is_google = self.is_google();
        let version = version_of(found, is_google);
        let tag = if is_google {
            version.clone().map(Tag::Generation)
        } else {
            found.etag().map(|tag| Tag::Etag(tag.to_owned()))
        };
        let told = found.content_md5().filter(|_| !is_sealed).and_then(|text| BASE64_STANDARD.decode(text).ok());
        let told = told.and_then(|md5| md5.try_into().ok());
        // Directory buckets make up their tags.
        let is_content =
            self.whole.place().is_some_and(|(scheme, bucket)| scheme == Scheme::S3 && !bucket.ends_with("--x-s3"));
        let tagged = found.etag().filter(|_| is_content && !is_sealed).and_then(md5_of);
        let modified = found.last_modified();
        let mark = found.user_metadata().and_then(|texts| texts.get(MARK)).map(|mark| mark.to_string());
        Seen { size: found.content_length(), version, tag, md5: told.or(tagged), modified, mark }
    }

    /// Objects of other buckets, and those that no request can name.
    fn refuse_others(&self, url: &ObjectUrl) -> Result<(), TransferError> {
        let refused = |why| Err(TransferError::Foreign { url: url.to_string(), why });
        match self.whole.place() {
            Some(place) if place == (url.scheme(), url.bucket()) => {}
            _ => return refused(format!("this archive is in {}", self.whole.name())),
        }
        if can_be_asked_for(url.key()) { Ok(()) } else { refused(UNASKABLE.to_owned()) }
    }
}

fn another(path: PathBuf) -> TransferError {
    let why = "it was stored for another file, or for another version of this one".to_owned();
    TransferError::Replaced { path, why }
}

/// Why an object cannot be had over HTTP as it is spoken here.
pub const UNASKABLE: &str = "its key begins or ends with a blank or a slash, or has parts that are empty, '.' or '..'";

/// Whether a key gets to the service as it is: what lies between makes paths tidy.
#[must_use]
pub fn can_be_asked_for(key: &str) -> bool {
    key.trim() == key && key.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// What a version is told by: Google's generation, since its entity tag changes with texts and classes too; else the entity tag.
pub(crate) fn version_of(found: &Metadata, is_google: bool) -> Option<String> {
    if is_google {
        return found.version().filter(|version| !version.is_empty()).map(str::to_owned);
    }
    found.etag().map(|tag| tag.trim_matches('"').to_owned()).filter(|tag| !tag.is_empty())
}

fn shown(version: &str) -> String {
    crate::fault::shown(version)
}

fn meanwhile(path: &Path) -> TransferError {
    TransferError::Replaced { path: path.to_owned(), why: "it was replaced while it was read".to_owned() }
}

/// An object that is read from front to back, and compared with what its service knows of it.
struct Compared<'m> {
    remote: Remote<'m>,
    /// Of so many bytes from the beginning; `None` when there is nothing to compare with.
    md5: Option<Mutex<(u64, Md5)>>,
}

impl Compared<'_> {
    fn compare(self, told: Option<[u8; 16]>, path: &Path) -> Result<(), TransferError> {
        let (Some(told), Some(md5)) = (told, self.md5) else { return Ok(()) };
        let (_, md5) = md5.into_inner();
        let found: [u8; 16] = md5.finalize().into();
        if found == told {
            return Ok(());
        }
        let why = "its content has another MD5 than the service says (if that is none, disable_compare_on_restore lets it pass)".to_owned();
        Err(TransferError::Damaged { path: path.to_owned(), why })
    }
}

impl ReadAt for Compared<'_> {
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = self.remote.read_full_at(buffer, offset)?;
        if let Some(md5) = &self.md5 {
            let mut md5 = md5.lock();
            if md5.0 != offset {
                return Err(io::Error::other("an object that is compared was not read from front to back"));
            }
            md5.1.update(buffer.get(..count).unwrap_or_default());
            md5.0 += count as u64;
        }
        Ok(count)
    }
}
