//! The bytes that `read(2)` on a group gives, taken apart. No system calls, and no trust in any length found inside.

use crate::handle::{MAX_HANDLE_BYTES, RawHandle};

/// `FANOTIFY_METADATA_VERSION`.
const VERSION: u8 = 3;
/// `sizeof(struct fanotify_event_metadata)`.
const METADATA_BYTES: usize = 24;
/// `FAN_EVENT_INFO_TYPE_FID`.
const INFO_FID: u8 = 1;
/// `FAN_EVENT_INFO_TYPE_DFID_NAME`.
const INFO_NAME: u8 = 2;
/// `FAN_EVENT_INFO_TYPE_DFID`.
const INFO_DIRECTORY: u8 = 3;
/// `FAN_EVENT_INFO_TYPE_OLD_DFID_NAME`.
const INFO_OLD_NAME: u8 = 10;
/// `FAN_EVENT_INFO_TYPE_NEW_DFID_NAME`.
const INFO_NEW_NAME: u8 = 12;
/// `FAN_EVENT_INFO_TYPE_RANGE`.
const INFO_RANGE: u8 = 6;

/// One event, its descriptor still a bare number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) mask: u64,
    pub(super) fd: i32,
    pub(super) pid: i32,
    pub(super) range: Option<(u64, u64)>,
    pub(super) handle: Option<RawHandle>,
    /// Directory and name, which is empty for the directory itself.
    pub(super) place: Option<(RawHandle, Vec<u8>)>,
    /// The same before a rename.
    pub(super) old_place: Option<(RawHandle, Vec<u8>)>,
}

/// The events in `bytes`, up to the first that makes no sense.
pub(super) struct Records<'a> {
    bytes: &'a [u8],
}

impl<'a> Records<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether bytes are left that are no event we know: a kernel of another ABI.
    pub(super) fn is_stuck(&self) -> bool {
        !self.bytes.is_empty()
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let length = u32_at(self.bytes, 0)? as usize;
        let (event, rest) = self.bytes.split_at_checked(length)?;
        let metadata_length = usize::from(u16_at(event, 6)?);
        if *event.get(4)? != VERSION || metadata_length < METADATA_BYTES {
            return None;
        }
        let mut record = Record {
            mask: u64_at(event, 8)?,
            fd: i32_at(event, 16)?,
            pid: i32_at(event, 20)?,
            range: None,
            handle: None,
            place: None,
            old_place: None,
        };
        read_infos(event.get(metadata_length..)?, &mut record);
        self.bytes = rest;
        Some(record)
    }
}

/// Every info record begins with u8 type, u8 pad, u16 length; unknown types are passed over.
fn read_infos(mut infos: &[u8], record: &mut Record) {
    while let Some(length) = u16_at(infos, 2) {
        // A length of 0 would never end.
        let Some((info, rest)) = infos.split_at_checked(usize::from(length)).filter(|_| length >= 4) else { return };
        match info.first() {
            Some(&INFO_RANGE) => record.range = u64_at(info, 8).zip(u64_at(info, 16)),
            Some(&INFO_FID) => record.handle = file_handle(info),
            Some(&(INFO_NAME | INFO_NEW_NAME | INFO_DIRECTORY)) => record.place = place(info),
            Some(&INFO_OLD_NAME) => record.old_place = place(info),
            _ => {}
        }
        infos = rest;
    }
}

/// Head (4 bytes), fsid (8), then struct file_handle. An overflow event carries an empty one.
fn file_handle(info: &[u8]) -> Option<RawHandle> {
    let length = u32_at(info, 12)? as usize;
    let kind = i32_at(info, 16)?;
    let bytes = info.get(20..)?.get(..length)?;
    (1..=MAX_HANDLE_BYTES).contains(&length).then(|| RawHandle { kind, bytes: bytes.to_vec() })
}

/// As [`file_handle`], of a directory; behind it a name, which ends in NUL.
fn place(info: &[u8]) -> Option<(RawHandle, Vec<u8>)> {
    let directory = file_handle(info)?;
    let name = info.get(20 + directory.bytes.len()..)?.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = if name == b"." { b"" } else { name };
    // Nothing that leads elsewhere, whatever the kernel says.
    (name != b".." && !name.contains(&b'/')).then(|| (directory, name.to_vec()))
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], offset: usize) -> Option<i32> {
    array_at(bytes, offset).map(i32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mask: u64, fd: i32, infos: &[u8]) -> Vec<u8> {
        let mut bytes = ((METADATA_BYTES + infos.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend([VERSION, 0]);
        bytes.extend((METADATA_BYTES as u16).to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend(fd.to_ne_bytes());
        bytes.extend(77_i32.to_ne_bytes());
        bytes.extend(infos);
        bytes
    }

    fn info(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0];
        bytes.extend((4 + body.len() as u16).to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    fn range(offset: u64, count: u64) -> Vec<u8> {
        info(INFO_RANGE, &[[0; 4].as_slice(), &offset.to_ne_bytes(), &count.to_ne_bytes()].concat())
    }

    #[test]
    fn unknown_info_records_are_passed_over() {
        let bytes = event(super::super::PRE_ACCESS, 9, &[info(99, &[1; 12]), range(4096, 8192)].concat());
        let records: Vec<_> = Records::new(&bytes).collect();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].range, Some((4096, 8192)));
        assert_eq!((records[0].fd, records[0].pid), (9, 77));
    }

    #[test]
    fn names_end_in_nul_and_lead_nowhere() {
        let named = |name: &[u8]| {
            info(INFO_NAME, &[[0; 8].as_slice(), &4_u32.to_ne_bytes(), &[1, 0, 0, 0], b"abcd", name].concat())
        };
        let place = |name: &[u8]| Records::new(&event(1, -1, &named(name))).next().unwrap().place.map(|place| place.1);
        assert_eq!(place(b"name\0\0\0"), Some(b"name".to_vec()));
        assert_eq!(place(b".\0"), Some(vec![]));
        assert_eq!(place(b""), Some(vec![]));
        assert_eq!((place(b"..\0"), place(b"a/b\0")), (None, None));
    }

    #[test]
    fn an_empty_handle_is_none() {
        let bytes = event(super::super::QUEUE_OVERFLOW, -1, &info(INFO_FID, &[0; 16]));
        assert_eq!(Records::new(&bytes).next().unwrap().handle, None);
    }

    #[test]
    fn no_truncation_and_no_damaged_length_gets_past_the_end() {
        let whole = [event(1, 5, &range(1, 2)), event(2, 6, &info(INFO_FID, &[0xff; 24]))].concat();
        for length in 0..whole.len() {
            let mut records = Records::new(&whole[..length]);
            assert!(records.by_ref().count() <= 1, "the second event is not complete at {length}");
            assert_eq!(records.is_stuck(), length != 0 && length != 48, "at {length}");
        }
        for position in 0..whole.len() {
            for value in [0, 1, 3, 4, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[position] = value;
                assert!(Records::new(&damaged).count() <= 2);
            }
        }
    }

    #[test]
    fn another_version_stops_at_once() {
        let mut bytes = event(1, 5, &[]);
        bytes[4] = VERSION + 1;
        let mut records = Records::new(&bytes);
        assert_eq!(records.next(), None);
        assert!(records.is_stuck());
    }
}
