//! How files are named, and how a version of their content is told from another.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::fmt;
use std::str::FromStr;

/// A file on a local filesystem by its kernel handle (`name_to_handle_at`): it survives renames, and a reused inode
/// number has another generation and so another handle.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileHandle {
    /// The handle's type, chosen by the filesystem.
    pub kind: i32,
    /// At most 128 bytes (`MAX_HANDLE_SZ`).
    pub bytes: SmallVec<[u8; 20]>,
}

/// Text or bytes that are no handle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a file handle: {0:?} (expected TYPE:HEX, 1 to 128 bytes)")]
pub struct FileHandleError(pub String);

impl FileHandle {
    /// The most bytes a handle can have.
    pub const MAX_BYTES: usize = 128;

    /// The stored form: type as 4 little-endian bytes, then the handle's.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.kind.to_le_bytes().to_vec();
        out.extend_from_slice(&self.bytes);
        out
    }

    /// From the stored form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FileHandleError> {
        match bytes.split_first_chunk::<4>() {
            Some((kind, rest)) if (1..=Self::MAX_BYTES).contains(&rest.len()) => {
                Ok(Self { kind: i32::from_le_bytes(*kind), bytes: SmallVec::from_slice(rest) })
            }
            _ => Err(FileHandleError(format!("{bytes:02x?}"))),
        }
    }
}

/// `TYPE:HEX`, as in JSON and logs.
impl fmt::Display for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind)?;
        self.bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for FileHandle {
    type Err = FileHandleError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || FileHandleError(s.chars().take(300).collect());
        let (kind, hex) = s.split_once(':').ok_or_else(bad)?;
        let kind = kind.parse().map_err(|_| bad())?;
        let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
        if !rest.is_empty() || pairs.is_empty() || pairs.len() > Self::MAX_BYTES {
            return Err(bad());
        }
        let nibble = |c: u8| (c as char).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or_else(bad);
        let bytes = pairs.iter().map(|[a, b]| Ok(nibble(*a)? << 4 | nibble(*b)?)).collect::<Result<_, _>>()?;
        Ok(Self { kind, bytes })
    }
}

impl Serialize for FileHandle {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileHandle {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A file on Lustre: sequence, object id, version.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Fid {
    /// Sequence.
    pub seq: u64,
    /// Object in the sequence.
    pub oid: u32,
    /// Version, nearly always 0.
    pub ver: u32,
}

/// Text that is no FID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a FID: {0:?} (expected [0xSEQ:0xOID:0xVER])")]
pub struct FidError(String);

impl fmt::Display for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}:{:#x}:{:#x}]", self.seq, self.oid, self.ver)
    }
}

impl FromStr for Fid {
    type Err = FidError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || FidError(s.chars().take(80).collect());
        let inner = s.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(s);
        let mut parts = inner.split(':').map(|p| p.strip_prefix("0x").and_then(|h| u64::from_str_radix(h, 16).ok()));
        let mut next = || parts.next().flatten().ok_or_else(bad);
        let (seq, oid, ver) = (next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self { seq, oid: oid.try_into().map_err(|_| bad())?, ver: ver.try_into().map_err(|_| bad())? })
    }
}

/// A point in time as the filesystem keeps it: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// What tells one version of a file's content from another without reading it.
///
/// Since Linux 6.13 (multigrain timestamps) the next change after a `statx` is sure to be seen in ctime, which no
/// user can set back; size and mtime are what survives our own changes of attributes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// Last change of content; users can set it.
    pub mtime: Timestamp,
    /// Last change of content or attributes; set by the kernel alone.
    pub ctime: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fid_s_text_is_lustre_s() {
        let fid = Fid { seq: 0x2_0000_0401, oid: 1, ver: 0 };
        assert_eq!(fid.to_string(), "[0x200000401:0x1:0x0]");
        assert_eq!("[0x200000401:0x1:0x0]".parse(), Ok(fid));
        assert_eq!("0x200000401:0x1:0x0".parse(), Ok(fid));
        for bad in ["", "[]", "[1:2:3]", "[0x1:0x2]", "[0x1:0x2:0x3:0x4]", "[0x1:0x1ffffffff:0x0]"] {
            assert!(bad.parse::<Fid>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn handles_round_trip(kind: i32, bytes in prop::collection::vec(any::<u8>(), 1..128)) {
            let handle = FileHandle { kind, bytes: SmallVec::from_vec(bytes) };
            prop_assert_eq!(handle.to_string().parse(), Ok(handle.clone()));
            prop_assert_eq!(FileHandle::from_bytes(&handle.to_bytes()), Ok(handle));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<FileHandle>();
            let _ = text.parse::<Fid>();
        }
    }
}
