//! One member, on its way into a pack and out of it.

use super::id::MemberName;
use super::index::Entry;
use super::layout::{RECORD_BYTES, Record};
use super::{MAX_CONTENT_BYTES, MAX_MANIFEST_BYTES, PackError};

/// A member that is not in a pack yet. Making it does the hashing, so that adding it to a pack is only a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMember {
    name: MemberName,
    pub(super) record: [u8; RECORD_BYTES],
    pub(super) manifest: Vec<u8>,
    pub(super) content: Vec<u8>,
}

impl NewMember {
    /// A member with these bytes. `hash` is the BLAKE3 of `content`, for callers that have computed it already.
    ///
    /// # Errors
    /// [`PackError::TooLarge`]: manifest or content are over the format's limits.
    pub fn new(
        name: MemberName,
        manifest: Vec<u8>,
        content: Vec<u8>,
        hash: Option<[u8; 32]>,
    ) -> Result<Self, PackError> {
        if manifest.len() > MAX_MANIFEST_BYTES {
            return Err(PackError::TooLarge("the manifest is too large for a pack"));
        }
        if content.len() > MAX_CONTENT_BYTES {
            return Err(PackError::TooLarge("the content is too large for a pack"));
        }
        let record = Record {
            name,
            manifest_len: length(&manifest),
            content_len: length(&content),
            content_hash: hash.unwrap_or_else(|| blake3::hash(&content).into()),
        };
        Ok(Self { name, record: record.encode(&manifest), manifest, content })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> MemberName {
        self.name
    }

    /// Bytes it takes in a pack.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.entry(0).total_bytes()
    }

    /// Where it is, once it was written at `offset`.
    pub(super) fn entry(&self, offset: u64) -> Entry {
        Entry { name: self.name, offset, manifest_len: length(&self.manifest), content_len: length(&self.content) }
    }

    /// The parts it was made of: manifest and content.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, Vec<u8>) {
        (self.manifest, self.content)
    }
}

/// Both parts were found to be small.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// A member that was read from a pack and found to be what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: MemberName,
    /// Its manifest, as it was given.
    pub manifest: Vec<u8>,
    /// Its content as it is stored: perhaps compressed, as the manifest says.
    pub content: Vec<u8>,
    /// BLAKE3 of `content`.
    pub content_hash: [u8; 32],
}

impl From<Member> for NewMember {
    /// For another pack: the same bytes but for the pack's id.
    fn from(member: Member) -> Self {
        let Member { name, manifest, content, content_hash } = member;
        let record = Record { name, manifest_len: length(&manifest), content_len: length(&content), content_hash };
        Self { name, record: record.encode(&manifest), manifest, content }
    }
}
