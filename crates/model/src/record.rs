//! What was archived, and of which inode: the `trusted.sifaka` attribute.
//!
//! `trusted.hsm` says *that* a copy exists; this says *of what*. It binds the state to one inode, so that attributes
//! which a backup or `cp -a` copied to another file are not taken for that file's own.

use crate::{FileHandle, FileHandleError, Timestamp};

/// One archived version of one inode's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchiveRecord {
    /// Size of the archived content in bytes.
    pub size: u64,
    /// The file's mtime when it was archived; given back to it after each of our own writes.
    pub mtime: Timestamp,
    /// The inode whose content it is.
    pub inode: FileHandle,
}

/// An attribute that is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a newer Sifaka, or not by Sifaka.
    #[error("trusted.sifaka has version {0}, this program knows version 1")]
    Version(u8),
    /// Cut short or too long.
    #[error("trusted.sifaka is damaged: {0} bytes are not a record")]
    Length(usize),
    /// The nanoseconds are no nanoseconds.
    #[error("trusted.sifaka is damaged: {0} nanoseconds")]
    Nanos(u32),
    /// No handle in it.
    #[error("trusted.sifaka is damaged: {0}")]
    Handle(#[from] FileHandleError),
}

const VERSION: u8 = 1;

impl ArchiveRecord {
    /// The attribute's value: version u8 = 1, size u64, mtime seconds i64, nanoseconds u32 (all little-endian), then
    /// the inode's handle (type i32 and bytes).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.size.to_le_bytes());
        out.extend(self.mtime.seconds.to_le_bytes());
        out.extend(self.mtime.nanos.to_le_bytes());
        out.extend(self.inode.to_bytes());
        out
    }

    /// From the attribute's value.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let short = || RecordError::Length(bytes.len());
        let (version, rest) = bytes.split_first().ok_or_else(short)?;
        if *version != VERSION {
            return Err(RecordError::Version(*version));
        }
        let (size, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let (seconds, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let (nanos, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let nanos = u32::from_le_bytes(*nanos);
        if nanos > 999_999_999 {
            return Err(RecordError::Nanos(nanos));
        }
        Ok(Self {
            size: u64::from_le_bytes(*size),
            mtime: Timestamp { seconds: i64::from_le_bytes(*seconds), nanos },
            inode: FileHandle::from_bytes(rest)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record as version 0.1.0 wrote it; it must be readable for ever.
    const FROZEN_V1: &[u8] = &[
        1, 0, 16, 0, 0, 0, 0, 0, 0, 0x80, 0x4b, 0x1f, 0x69, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 12, 0, 0, 0, 0xaa,
        0xbb, 0xcc, 0xdd,
    ];

    #[test]
    fn the_frozen_record_is_read() {
        let record = ArchiveRecord {
            size: 4096,
            mtime: Timestamp { seconds: 0x691f_4b80, nanos: 1 },
            inode: FileHandle::from_bytes(&[1, 0, 0, 0, 12, 0, 0, 0, 0xaa, 0xbb, 0xcc, 0xdd]).unwrap(),
        };
        assert_eq!(ArchiveRecord::decode(FROZEN_V1), Ok(record.clone()));
        assert_eq!(record.encode(), FROZEN_V1);
    }

    proptest! {
        #[test]
        fn records_round_trip(size: u64, seconds: i64, nanos in 0..1_000_000_000u32, handle in prop::collection::vec(any::<u8>(), 5..132)) {
            let inode = FileHandle::from_bytes(&handle).unwrap();
            let record = ArchiveRecord { size, mtime: Timestamp { seconds, nanos }, inode };
            prop_assert_eq!(ArchiveRecord::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = ArchiveRecord::decode(&bytes);
        }
    }
}
