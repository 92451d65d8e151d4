//! Writing a pack, front to back.

use super::id::PackId;
use super::index::{Entry, Index};
use super::layout::{self, Footer};
use super::member::NewMember;
use super::{MAX_MEMBERS, PackError};
use std::io::Write;

/// Writes one pack into `W`, in many small pieces: give it something buffered. It keeps the index, 32 bytes a member.
#[derive(Debug)]
pub struct PackWriter<W> {
    id: PackId,
    out: W,
    position: u64,
    entries: Vec<Entry>,
}

impl<W: Write> PackWriter<W> {
    /// Begins a pack.
    ///
    /// # Errors
    /// What writing gave.
    pub fn begin(id: PackId, out: W) -> Result<Self, PackError> {
        let mut writer = Self { id, out, position: 0, entries: Vec::new() };
        writer.put(&layout::header(id))?;
        Ok(writer)
    }

    /// The pack's id.
    #[must_use]
    pub fn id(&self) -> PackId {
        self.id
    }

    /// Members so far.
    #[must_use]
    pub fn members(&self) -> usize {
        self.entries.len()
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.position
    }

    /// Adds a member. A name must come only once: [`PackWriter::finish`] fails otherwise.
    ///
    /// # Errors
    /// [`PackError::TooLarge`]: the pack is full; it can still be finished. After any other error the pack is worth nothing.
    pub fn add(&mut self, member: &NewMember) -> Result<(), PackError> {
        if self.entries.len() >= MAX_MEMBERS {
            return Err(PackError::TooLarge("a pack has no room for more members"));
        }
        let mut record = member.record;
        layout::bind(&mut record, self.id);
        let entry = member.entry(self.position);
        self.put(&record)?;
        self.put(&member.manifest)?;
        self.put(&member.content)?;
        self.entries.push(entry);
        Ok(())
    }

    /// Writes index and footer, and gives back what was written to; flushing that is the caller's.
    ///
    /// # Errors
    /// What writing gave; a name that came twice.
    pub fn finish(mut self) -> Result<W, PackError> {
        let index_at = self.position;
        let entries = std::mem::take(&mut self.entries);
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let index = Index::new(entries).ok_or_else(|| PackError::damaged("two members have the same name"))?.encode();
        self.put(&index)?;
        self.put(&Footer { count, index_at, index_check: layout::check(&[&index]) }.encode(self.id))?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        self.out.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}
