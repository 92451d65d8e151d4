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

impl Timestamp {
    /// A time in UTC as RFC 3339 has it. Years outside of 0 to 9999, which it cannot have, are written with all their digits.
    #[must_use]
    pub fn rfc3339(self, fraction: bool) -> String {
        let days = self.seconds.div_euclid(86_400);
        let second = self.seconds.rem_euclid(86_400);
        // Civil date from days: years begin in March here, in eras of 400 years.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let fraction = if fraction { format!(".{:09}", self.nanos) } else { String::new() };
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
    }
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

    #[test]
    fn times_are_those_of_date() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (-2_208_988_800, "1900-01-01T00:00:00Z"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(Timestamp { seconds, nanos: 5 }.rfc3339(false), expected);
        }
        assert_eq!(Timestamp { seconds: 0, nanos: 5 }.rfc3339(true), "1970-01-01T00:00:00.000000005Z");
        // No time that a filesystem may hold is out of range.
        let _ = [i64::MIN, i64::MAX].map(|seconds| Timestamp { seconds, nanos: 0 }.rfc3339(true));
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
