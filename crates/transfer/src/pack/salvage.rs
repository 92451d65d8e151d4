//! Finding members without the index.
//!
//! Records follow one another, each with its length; where that chain is broken, the next record is found by its magic. A
//! record counts only if its check is right and it names this pack, so that content which looks like one is not taken for one.

use super::id::PackId;
use super::index::Entry;
use super::layout::{HEADER_BYTES, RECORD_BYTES, RECORD_MAGIC, Record};
use super::{MAX_MANIFEST_BYTES, PackError};
use crate::manifest::ReadAt;
use std::ops::ControlFlow;

/// Read at once. Holds the largest record with its manifest.
const WINDOW_BYTES: usize = 1 << 20;
const _: () = assert!(WINDOW_BYTES > 2 * (RECORD_BYTES + MAX_MANIFEST_BYTES));

/// Visits the members whose record and manifest are intact, in the order they lie in.
pub(super) fn scan(
    bytes: &impl ReadAt,
    size: u64,
    pack: PackId,
    found: &mut dyn FnMut(Entry) -> ControlFlow<()>,
) -> Result<(), PackError> {
    let mut window = Window { bytes, size, start: 0, held: Vec::new() };
    let mut position = HEADER_BYTES as u64;
    while let Some(next) = window.next_magic(position)? {
        position = match member_at(&mut window, next, pack)? {
            Some(entry) => {
                if found(entry).is_break() {
                    return Ok(());
                }
                next + entry.total_bytes()
            }
            None => next + 1,
        };
    }
    Ok(())
}

fn member_at(window: &mut Window<'_, impl ReadAt>, offset: u64, pack: PackId) -> Result<Option<Entry>, PackError> {
    let Some(bytes) = window.at(offset, RECORD_BYTES)?.and_then(|b| b.first_chunk::<RECORD_BYTES>().copied()) else {
        return Ok(None);
    };
    let Some(record) = Record::decode(&bytes, pack) else { return Ok(None) };
    if offset.checked_add(record.total_bytes()).is_none_or(|end| end > window.size) {
        return Ok(None);
    }
    let manifest = window.at(offset + RECORD_BYTES as u64, record.manifest_len as usize)?;
    let intact = manifest.is_some_and(|manifest| record.is_intact(&bytes, manifest));
    let Record { name, manifest_len, content_len, .. } = record;
    Ok(intact.then_some(Entry { name, offset, manifest_len, content_len }))
}

/// A piece of the pack in memory.
struct Window<'a, R> {
    bytes: &'a R,
    size: u64,
    start: u64,
    held: Vec<u8>,
}

impl<R: ReadAt> Window<'_, R> {
    /// The bytes there; `None` beyond the end.
    fn at(&mut self, offset: u64, count: usize) -> Result<Option<&[u8]>, PackError> {
        let end = offset.saturating_add(count as u64);
        if end > self.size {
            return Ok(None);
        }
        if offset < self.start || end > self.start + self.held.len() as u64 {
            let length = (self.size - offset).min(WINDOW_BYTES as u64);
            self.held.resize(usize::try_from(length).unwrap_or_default(), 0);
            self.start = offset;
            let read = self.bytes.read_full_at(&mut self.held, offset)?;
            self.held.truncate(read);
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(self.held.get(from..).and_then(|rest| rest.get(..count)))
    }

    /// Where the next magic is, from `position` on.
    fn next_magic(&mut self, mut position: u64) -> Result<Option<u64>, PackError> {
        loop {
            let count = (self.size.saturating_sub(position)).min(WINDOW_BYTES as u64 / 2);
            if count < RECORD_BYTES as u64 {
                return Ok(None);
            }
            let Some(piece) = self.at(position, usize::try_from(count).unwrap_or_default())? else { return Ok(None) };
            if let Some(at) = piece.windows(RECORD_MAGIC.len()).position(|bytes| bytes == RECORD_MAGIC) {
                return Ok(Some(position + at as u64));
            }
            // The last bytes may be the beginning of one.
            position += count - (RECORD_MAGIC.len() as u64 - 1);
        }
    }
}
