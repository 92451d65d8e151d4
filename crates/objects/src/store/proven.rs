//! Whether what lies where an object of the archive would lie is one.
//!
//! A bucket is shared, and somebody else may call an object `objects/<anything>`: a key proves nothing. Sifaka's mark does, or a manifest; tools that copied
//! an archive from elsewhere may have lost the one, and not the other.

use super::ObjectStore;
use super::place::is_ours;
use crate::Layout;
use model::{ObjectId, ObjectUrl, Scheme};
use transfer::TransferError;
use transfer::forms::not_reserved;

impl ObjectStore {
    /// Whether everything under this id can be taken for Sifaka's: it has a manifest, or each of its objects Sifaka's mark. In Lemur's layouts nothing says so,
    /// and all of it counts as the archive's.
    pub fn is_ours(&self, id: &ObjectId) -> Result<bool, TransferError> {
        not_reserved(id)?;
        let layout = self.bucket.layout();
        // What has no text that says the id is no object of that layout.
        if layout != Layout::Uuid || self.member(id).is_some() {
            return Ok(true);
        }
        let (bucket, keys, manifest) = (self.bucket.clone(), layout.all(id), layout.manifest(id));
        let look = async move {
            let looks = async {
                if bucket.stat(&manifest).await?.is_some() {
                    return Ok(true);
                }
                for key in keys {
                    if bucket.stat(&key).await?.is_some_and(|found| !is_ours(&bucket, &found)) {
                        return Ok(false);
                    }
                }
                Ok(true)
            };
            bucket.in_time(looks, |late| late).await
        };
        let failed = |fault: crate::fault::Fault| fault.into_error("look for", self.bucket.path(&layout.object(id)));
        self.bucket.engine().wait(look).map_err(failed)
    }

    /// The id that what is at this URL has in this archive, if its key is that of an object of it.
    #[must_use]
    pub fn id_of(&self, url: &ObjectUrl) -> Option<ObjectId> {
        let (scheme, bucket): (Scheme, &str) = self.bucket.place()?;
        if (scheme, bucket) != (url.scheme(), url.bucket()) {
            return None;
        }
        let below = self.bucket.key_in_whole("");
        let key = url.key().strip_prefix(below.as_str())?;
        self.bucket.layout().objects().iter().find_map(|prefix| super::keys::id(prefix, key))
    }

    pub(super) fn not_ours(&self, id: &ObjectId) -> TransferError {
        let url = self.bucket.path(&self.bucket.layout().object(id)).display().to_string();
        let why = "it has neither Sifaka's mark nor a manifest: somebody else may have put it there, and it was left";
        TransferError::Foreign { url, why: why.to_owned() }
    }
}
