//! One changelog record, read with bounds checked.

use std::ffi::OsString;
use std::mem::{offset_of, size_of};
use std::os::unix::ffi::OsStringExt;

use model::{Fid, Timestamp};

use super::abi::ChangelogRec;
use super::wire::{fid_at, u16_at, u32_at, u64_at};

pub(super) const HEADER: usize = size_of::<ChangelogRec>();

/// Two names of 255 bytes at most, each with its NUL.
const MAX_NAMES: usize = 2 * 255 + 2;

/// No record is longer: the header, all extensions, the names.
pub(super) const MAX_RECORD: usize = HEADER + 32 + 32 + 8 + 16 + 24 + 4 + 256 + MAX_NAMES;

/// Bits of a record's flags that say which extensions it has, in their order; the bits below are the record kind's own.
const RENAME: u16 = 0x2000;
const JOBID: u16 = 0x4000;
const EXTRA: u16 = 0x8000;
const KIND_BITS: u16 = 0x0fff;

/// The further extensions, in their order: bit and size (owner, network address, open mode,
/// attribute's name). Bit 0x10 only says how the network address is written.
const EXTRAS: [(u64, usize); 4] = [(0x1, 16), (0x2, 24), (0x4, 4), (0x8, 256)];
const EXTRA_OWNER: u64 = 0x1;
const KNOWN_EXTRAS: u64 = 0x1f;

/// What happened (`enum changelog_rec_type`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "Lustre's names")]
pub enum RecordKind {
    Mark,
    Create,
    Mkdir,
    Hardlink,
    Softlink,
    Mknod,
    Unlink,
    Rmdir,
    Rename,
    /// The second half of a rename, of Lustre before 2.1.
    RenameTo,
    Open,
    Close,
    Layout,
    Truncate,
    Setattr,
    Setxattr,
    /// See [`Record::hsm`].
    Hsm,
    Mtime,
    Ctime,
    Atime,
    Migrate,
    /// A file with mirrors was written for the first time since they were in sync.
    MirrorWrite,
    /// A file's mirrors are in sync.
    Resync,
    Getxattr,
    DeniedOpen,
    /// A number nobody here knows.
    Unknown(u32),
}

impl RecordKind {
    const KNOWN: [Self; 25] = [
        Self::Mark,
        Self::Create,
        Self::Mkdir,
        Self::Hardlink,
        Self::Softlink,
        Self::Mknod,
        Self::Unlink,
        Self::Rmdir,
        Self::Rename,
        Self::RenameTo,
        Self::Open,
        Self::Close,
        Self::Layout,
        Self::Truncate,
        Self::Setattr,
        Self::Setxattr,
        Self::Hsm,
        Self::Mtime,
        Self::Ctime,
        Self::Atime,
        Self::Migrate,
        Self::MirrorWrite,
        Self::Resync,
        Self::Getxattr,
        Self::DeniedOpen,
    ];

    /// From the wire's number.
    #[must_use]
    pub fn from_wire(number: u32) -> Self {
        let known = usize::try_from(number).ok().and_then(|number| Self::KNOWN.get(number).copied());
        known.unwrap_or(Self::Unknown(number))
    }
}

/// What an HSM record tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HsmEvent {
    /// What ended: 0 archive, 1 restore, 2 cancel, 3 release, 4 remove, 5 a change of state.
    pub event: u8,
    /// Its error number; 0 for success, 127 for one above 126.
    pub error: u8,
    /// Whether the file is dirty now.
    pub dirty: bool,
}

/// From where a file was renamed; the record's own parent and name are where it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RenamedFrom {
    /// The file. The record's target is what it replaced, if anything.
    pub fid: Fid,
    /// Its directory before.
    pub parent: Fid,
    /// Its name there.
    pub name: OsString,
}

/// Why a record's extensions and names cannot be read. The fields of its header are good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordDamage {
    /// It ends before what it says it has.
    #[error("the changelog record has {bytes} bytes and says that it has {says}")]
    CutShort {
        /// How many there are.
        bytes: usize,
        /// How many it should have.
        says: usize,
    },
    /// Extensions of unknown size: what follows cannot be found.
    #[error("the changelog record has unknown extensions ({0:#x})")]
    Extensions(u64),
    /// Longer than two names can be.
    #[error("the changelog record's names have {0} bytes, more than {MAX_NAMES}")]
    Names(usize),
}

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its number in the MDT's log: what [`Changelog::clear`](super::Changelog::clear) takes.
    pub index: u64,
    /// What happened.
    pub kind: RecordKind,
    /// When.
    pub time: Timestamp,
    /// Bits whose meaning depends on the kind: for [`RecordKind::Unlink`], bit 0 says that it was the last link, bit 1 that the archive has
    /// (or had) content of it.
    pub flags: u16,
    /// To what.
    pub target: Fid,
    /// In which directory; all zero where that means nothing.
    pub parent: Fid,
    /// Under which name; empty where that means nothing.
    pub name: OsString,
    /// For renames.
    pub renamed_from: Option<RenamedFrom>,
    /// The job's id, if there is one.
    pub jobid: Option<OsString>,
    /// Who did it (user, group), if that was asked for.
    pub owner: Option<(u64, u64)>,
    /// Why names and extensions are missing.
    pub damage: Option<RecordDamage>,
}

impl Record {
    /// Reads a record. `None` when there is not even a header. Bytes after the record are not looked at.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let flags = u16_at(bytes, offset_of!(ChangelogRec, flags))?;
        let time = u64_at(bytes, offset_of!(ChangelogRec, time))?;
        let mut record = Self {
            index: u64_at(bytes, offset_of!(ChangelogRec, index))?,
            kind: RecordKind::from_wire(u32_at(bytes, offset_of!(ChangelogRec, kind))?),
            // Seconds above 30 bits of nanoseconds.
            time: Timestamp {
                seconds: i64::try_from(time >> 30).unwrap_or(i64::MAX),
                nanos: u32::try_from(time & ((1 << 30) - 1)).unwrap_or(0).min(999_999_999),
            },
            flags: flags & KIND_BITS,
            target: fid_at(bytes, offset_of!(ChangelogRec, tfid))?,
            parent: fid_at(bytes, offset_of!(ChangelogRec, pfid))?,
            name: OsString::new(),
            renamed_from: None,
            jobid: None,
            owner: None,
            damage: None,
        };
        record.damage = record.read_rest(bytes).err();
        Some(record)
    }

    /// What an HSM record tells; `None` for others.
    #[must_use]
    pub fn hsm(&self) -> Option<HsmEvent> {
        (self.kind == RecordKind::Hsm).then_some(HsmEvent {
            event: (self.flags >> 7 & 0x7) as u8,
            error: (self.flags & 0x7f) as u8,
            dirty: self.flags & 1 << 10 != 0,
        })
    }

    fn read_rest(&mut self, bytes: &[u8]) -> Result<(), RecordDamage> {
        let places = Places::find(bytes)?;
        let names = bytes.get(places.names..places.end).ok_or(places.cut_short(bytes))?;
        let (name, old_name) = match names.iter().position(|byte| *byte == 0) {
            Some(end) => (names.get(..end), names.get(end + 1..)),
            None => (Some(names), None),
        };
        self.name = text(name.unwrap_or_default());
        self.renamed_from = places.rename.and_then(|at| {
            let (fid, parent) = (fid_at(bytes, at)?, fid_at(bytes, at + 16)?);
            // The extension is there, empty, with other kinds too.
            (fid.seq != 0).then(|| RenamedFrom { fid, parent, name: text(old_name.unwrap_or_default()) })
        });
        let jobid = places.jobid.and_then(|at| bytes.get(at..at + 32)).map(text);
        self.jobid = jobid.filter(|jobid| !jobid.is_empty());
        self.owner = places.owner.and_then(|at| Some((u64_at(bytes, at)?, u64_at(bytes, at + 8)?)));
        Ok(())
    }
}

/// Where a record's parts are.
#[derive(Clone, Copy)]
struct Places {
    rename: Option<usize>,
    jobid: Option<usize>,
    owner: Option<usize>,
    names: usize,
    end: usize,
}

impl Places {
    fn find(bytes: &[u8]) -> Result<Self, RecordDamage> {
        let cut_short = |says| RecordDamage::CutShort { bytes: bytes.len(), says };
        let flags = u16_at(bytes, offset_of!(ChangelogRec, flags)).ok_or(cut_short(HEADER))?;
        let length = usize::from(u16_at(bytes, offset_of!(ChangelogRec, namelen)).ok_or(cut_short(HEADER))?);
        if length > MAX_NAMES {
            return Err(RecordDamage::Names(length));
        }
        let mut at = HEADER;
        let mut take = |there: bool, size: usize| {
            let place = at;
            at += if there { size } else { 0 };
            there.then_some(place)
        };
        let rename = take(flags & RENAME != 0, 32);
        let jobid = take(flags & JOBID != 0, 32);
        let mut owner = None;
        if let Some(place) = take(flags & EXTRA != 0, 8) {
            let extras = u64_at(bytes, place).ok_or(cut_short(place + 8))?;
            if extras & !KNOWN_EXTRAS != 0 {
                return Err(RecordDamage::Extensions(extras));
            }
            for (bit, size) in EXTRAS {
                let place = take(extras & bit != 0, size);
                if bit == EXTRA_OWNER {
                    owner = place;
                }
            }
        }
        Ok(Self { rename, jobid, owner, names: at, end: at + length })
    }

    fn cut_short(&self, bytes: &[u8]) -> RecordDamage {
        RecordDamage::CutShort { bytes: bytes.len(), says: self.end }
    }
}

/// How long the record at the start of `bytes` is, as far as they tell: read that many and ask again until it is no more
/// than there is. Never more than [`MAX_RECORD`].
pub(super) fn length(bytes: &[u8]) -> usize {
    match Places::find(bytes) {
        Ok(places) => places.end,
        Err(RecordDamage::CutShort { says, .. }) => says,
        // The rest cannot be read anyway.
        Err(RecordDamage::Extensions(_) | RecordDamage::Names(_)) => HEADER,
    }
    .min(MAX_RECORD)
}

/// Up to the first NUL.
fn text(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: Fid = Fid { seq: 0x2_0000_0401, oid: 7, ver: 0 };
    const DIRECTORY: Fid = Fid { seq: 0x2_0000_0401, oid: 1, ver: 0 };

    fn fid(fid: Fid) -> Vec<u8> {
        [&fid.seq.to_le_bytes()[..], &fid.oid.to_le_bytes(), &fid.ver.to_le_bytes()].concat()
    }

    fn encode(kind: u32, flags: u16, extensions: &[u8], names: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(u16::try_from(names.len()).unwrap().to_le_bytes());
        out.extend(flags.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(42_u64.to_le_bytes());
        out.extend(41_u64.to_le_bytes());
        out.extend((1_700_000_000_u64 << 30 | 5).to_le_bytes());
        out.extend(fid(FILE));
        out.extend(fid(DIRECTORY));
        out.extend(extensions);
        out.extend(names);
        out
    }

    fn extensions(source: Fid, jobid: &[u8], extra: u64) -> Vec<u8> {
        let mut out = [fid(source), fid(DIRECTORY)].concat();
        out.extend(jobid);
        out.resize(64, 0);
        out.extend(extra.to_le_bytes());
        if extra & 1 != 0 {
            out.extend(1000_u64.to_le_bytes());
            out.extend(100_u64.to_le_bytes());
        }
        out.resize(
            out.len() + EXTRAS[1..].iter().filter(|(bit, _)| extra & bit != 0).map(|(_, n)| n).sum::<usize>(),
            9,
        );
        out
    }

    #[test]
    fn a_rename_has_both_names_whatever_other_extensions_there_are() {
        for extra in 0..0x20 {
            let bytes = encode(8, 0xf001, &extensions(FILE, b"dd.0", extra), b"new\0old");
            let record = Record::parse(&bytes).unwrap();
            assert_eq!(record.damage, None);
            assert_eq!((record.index, record.kind, record.flags), (42, RecordKind::Rename, 1));
            assert_eq!(record.time, Timestamp { seconds: 1_700_000_000, nanos: 5 });
            assert_eq!((record.target, record.parent, record.name), (FILE, DIRECTORY, "new".into()));
            let from = RenamedFrom { fid: FILE, parent: DIRECTORY, name: "old".into() };
            assert_eq!(record.renamed_from, Some(from));
            assert_eq!(record.jobid, Some("dd.0".into()));
            assert_eq!(record.owner, (extra & 1 != 0).then_some((1000, 100)));
            assert_eq!(length(&bytes), bytes.len());
        }
    }

    #[test]
    fn a_record_without_extensions_and_one_with_empty_ones_are_the_same() {
        let none = Fid { seq: 0, oid: 0, ver: 0 };
        let plain = Record::parse(&encode(1, 0x1000, b"", b"file")).unwrap();
        let empty = Record::parse(&encode(1, 0xf000, &extensions(none, b"", 0), b"file")).unwrap();
        assert_eq!(plain, empty);
        assert_eq!((plain.kind, plain.name, plain.renamed_from), (RecordKind::Create, "file".into(), None));
    }

    #[test]
    fn an_hsm_record_s_flags_are_read() {
        let record = Record::parse(&encode(16, 0x1000 | 1 << 10 | 1 << 7 | 28, b"", b"")).unwrap();
        assert_eq!(record.hsm(), Some(HsmEvent { event: 1, error: 28, dirty: true }));
        assert_eq!(Record::parse(&encode(99, 0, b"", b"")).unwrap().hsm(), None);
    }

    #[test]
    fn damage_keeps_what_the_header_says() {
        let bytes = encode(8, 0xf000, &extensions(FILE, b"job", 3), b"new\0old");
        for cut in HEADER..bytes.len() {
            let record = Record::parse(&bytes[..cut]).unwrap();
            assert!(matches!(record.damage, Some(RecordDamage::CutShort { .. })), "{cut}: {record:?}");
            assert_eq!((record.index, record.target), (42, FILE));
        }
        assert_eq!(Record::parse(&bytes[..HEADER - 1]), None);
        let unknown = Record::parse(&encode(8, 0xf000, &extensions(FILE, b"", 0x40), b"new")).unwrap();
        assert_eq!(unknown.damage, Some(RecordDamage::Extensions(0x40)));
        let long = Record::parse(&encode(8, 0, b"", &[b'x'; 600])).unwrap();
        assert_eq!(long.damage, Some(RecordDamage::Names(600)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_length_is_beyond_the_largest(
            bytes in prop::collection::vec(any::<u8>(), 0..500),
        ) {
            let _ = Record::parse(&bytes);
            prop_assert!(length(&bytes) <= MAX_RECORD);
        }
    }
}
