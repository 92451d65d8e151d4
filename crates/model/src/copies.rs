//! Further copies of a file's archived content, in other archives: the `trusted.sifaka_copies` attribute.
//!
//! `trusted.hsm` and Lemur's attributes name one object, in one archive. The others stand here, together with the id of that
//! one: a list that was written beside another object is about another version of the content, and counts for nothing.

use crate::{Digest, Identity};

/// One further copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copy {
    /// In which archive.
    pub archive_id: u32,
    /// Under what name.
    pub identity: Identity,
}

/// All further copies of one version of a file's content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Copies {
    /// The object that `trusted.lhsm_uuid` named when this was written.
    pub beside: String,
    /// At most [`Copies::MAX`], of archives that differ.
    pub list: Vec<Copy>,
}

/// An attribute that is no list of copies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopiesError {
    /// Written by a newer Sifaka, or not by Sifaka.
    #[error("trusted.sifaka_copies has version {0}, this program knows version 1")]
    Version(u8),
    /// Cut short, too long, or with lengths that do not fit.
    #[error("trusted.sifaka_copies is damaged: {0} bytes are not a list of copies")]
    Length(usize),
    /// A text that is none.
    #[error("trusted.sifaka_copies is damaged: {0}")]
    Text(#[from] std::str::Utf8Error),
    /// A hash of no known kind.
    #[error("trusted.sifaka_copies is damaged: {0}")]
    Digest(#[from] crate::DigestError),
    /// More copies than there may be, an archive that cannot be, or one named twice.
    #[error("trusted.sifaka_copies is damaged: it names {0} copies, or an archive twice, or archive 0")]
    List(usize),
}

const VERSION: u8 = 1;

impl Copies {
    /// The most further copies a file may have.
    pub const MAX: usize = 7;
    /// The longest id and URL that fit: both may be an object's URL.
    pub const MAX_TEXT_BYTES: usize = crate::ObjectUrl::MAX_BYTES;

    /// The copies, if they are of the content that `uuid` holds.
    #[must_use]
    pub fn of(&self, uuid: &str) -> &[Copy] {
        if self.beside == uuid { &self.list } else { &[] }
    }

    /// The attribute's value: version u8 = 1, number of copies u8, the id they stand beside; then for each the archive id u32, id, URL,
    /// hash. A text or hash is its length as u16 and its bytes; all numbers are little-endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        fn put(out: &mut Vec<u8>, bytes: &[u8]) {
            let length = bytes.len().min(Copies::MAX_TEXT_BYTES);
            out.extend(u16::try_from(length).unwrap_or(0).to_le_bytes());
            out.extend(bytes.iter().take(length));
        }
        let list = self.list.iter().take(Self::MAX);
        let mut out = vec![VERSION, u8::try_from(list.len()).unwrap_or(0)];
        put(&mut out, self.beside.as_bytes());
        for copy in list {
            out.extend(copy.archive_id.to_le_bytes());
            put(&mut out, copy.identity.uuid.as_bytes());
            put(&mut out, copy.identity.url.as_bytes());
            put(&mut out, copy.identity.hash.as_ref().map_or(&[], |hash| hash.as_bytes()));
        }
        out
    }

    /// From the attribute's value.
    pub fn decode(bytes: &[u8]) -> Result<Self, CopiesError> {
        let short = || CopiesError::Length(bytes.len());
        let ([version, count], mut rest) = bytes.split_first_chunk::<2>().ok_or_else(short)?;
        if *version != VERSION {
            return Err(CopiesError::Version(*version));
        }
        let take = |rest: &mut &[u8]| -> Result<Vec<u8>, CopiesError> {
            let (length, after) = rest.split_first_chunk::<2>().ok_or_else(short)?;
            let length = usize::from(u16::from_le_bytes(*length));
            if length > Self::MAX_TEXT_BYTES {
                return Err(short());
            }
            let (text, after) = after.split_at_checked(length).ok_or_else(short)?;
            *rest = after;
            Ok(text.to_vec())
        };
        let text = |bytes: Vec<u8>| -> Result<String, CopiesError> { Ok(std::str::from_utf8(&bytes)?.to_owned()) };
        let beside = text(take(&mut rest)?)?;
        let mut list: Vec<Copy> = Vec::new();
        for _ in 0..*count {
            let (archive_id, after) = rest.split_first_chunk::<4>().ok_or_else(short)?;
            rest = after;
            let archive_id = u32::from_le_bytes(*archive_id);
            let (uuid, url) = (text(take(&mut rest)?)?, text(take(&mut rest)?)?);
            let hash = take(&mut rest)?;
            let hash = if hash.is_empty() { None } else { Some(Digest::from_bytes(&hash)?) };
            if archive_id == 0 || list.len() >= Self::MAX || list.iter().any(|copy| copy.archive_id == archive_id) {
                return Err(CopiesError::List(usize::from(*count)));
            }
            list.push(Copy { archive_id, identity: Identity { uuid, hash, url } });
        }
        if rest.is_empty() { Ok(Self { beside, list }) } else { Err(short()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A list as the first version of the format has it; it must be readable for ever.
    const FROZEN_V1: &[u8] = b"\x01\x01\x05\0first\x02\0\0\0\x06\0second\x03\0s:/\0\0";

    #[test]
    fn the_frozen_list_is_read() {
        let identity = Identity { uuid: "second".into(), hash: None, url: "s:/".into() };
        let copies = Copies { beside: "first".into(), list: vec![Copy { archive_id: 2, identity }] };
        assert_eq!(Copies::decode(FROZEN_V1), Ok(copies.clone()));
        assert_eq!(copies.encode(), FROZEN_V1);
        assert_eq!((copies.of("first").len(), copies.of("third").len()), (1, 0));
    }

    #[test]
    fn an_archive_is_named_once_and_is_not_0() {
        let copy = |archive_id| Copy { archive_id, identity: Identity { uuid: "x".into(), ..Identity::default() } };
        for list in [vec![copy(0)], vec![copy(3), copy(3)]] {
            let bytes = Copies { beside: String::new(), list }.encode();
            assert!(matches!(Copies::decode(&bytes), Err(CopiesError::List(_))));
        }
    }

    proptest! {
        #[test]
        fn lists_round_trip(beside in "\\PC{0,40}", texts in prop::collection::vec(("\\PC{0,40}", "\\PC{0,40}", 0..3u8), 0..=Copies::MAX)) {
            let hash = |kind| match kind { 0 => None, 1 => Some(Digest::Sha1([7; 20])), _ => Some(Digest::Blake3([9; 32])) };
            let copy = |(n, (uuid, url, kind)): (u32, (String, String, u8))| Copy {
                archive_id: n + 1, identity: Identity { uuid, hash: hash(kind), url },
            };
            let copies = Copies { beside, list: (0..).zip(texts).map(copy).collect() };
            prop_assert_eq!(Copies::decode(&copies.encode()), Ok(copies));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Copies::decode(&bytes);
        }
    }
}
