//! Reading a pack: one member, the index, or everything.

use super::id::{MemberName, PackId};
use super::index::{Entry, Index};
use super::layout::{self, ENTRY_BYTES, FOOTER_BYTES, Footer, HEADER_BYTES, RECORD_BYTES, Record, SMALLEST_PACK_BYTES};
use super::member::Member;
use super::{PackError, salvage};
use crate::manifest::ReadAt;
use std::ops::ControlFlow;

/// A pack that can be read. Making one reads nothing.
///
/// Nothing that it gives out is wrong: a member passed its checks, an index its own. Memory is bounded by the format's limits,
/// whatever the bytes say.
#[derive(Debug)]
pub struct PackReader<R> {
    bytes: R,
    size: u64,
    id: PackId,
}

impl<R: ReadAt> PackReader<R> {
    /// The pack called `id`, of `size` bytes.
    pub fn new(bytes: R, size: u64, id: PackId) -> Self {
        Self { bytes, size, id }
    }

    /// What it reads from.
    pub fn source(&self) -> &R {
        &self.bytes
    }

    /// The same, taken out.
    pub fn into_source(self) -> R {
        self.bytes
    }

    /// Reads a member; `None` when the pack has none of this name.
    ///
    /// # Errors
    /// As [`PackReader::describe`]; also when the content is damaged.
    pub fn member(&self, name: MemberName) -> Result<Option<Member>, PackError> {
        self.describe(name)?.map(|(entry, _)| self.read(&entry)).transpose()
    }

    /// Where a member is, and its manifest, checked; `None` when the pack has none of this name. The content is not read: whoever reads
    /// it compares it with the manifest. Works without the index too, by reading through the whole pack, when that is damaged.
    ///
    /// # Errors
    /// [`PackError::Damaged`]: the member, or so much that nobody can say whether it was here.
    pub fn describe(&self, name: MemberName) -> Result<Option<(Entry, Vec<u8>)>, PackError> {
        // Most often this is it: a record vouches for itself, so the index need not be read and checked as a whole.
        if let Ok(Some(entry)) = self.search(name)
            && let Ok(manifest) = self.manifest(&entry)
        {
            return Ok(Some((entry, manifest)));
        }
        let entry = match self.index() {
            Ok(index) => index.find(name),
            Err(PackError::Damaged(why)) => {
                let found = self.index_or_salvage()?.find(name);
                let lost = || PackError::Damaged(format!("{why}, and member {name} is not found without it"));
                Some(found.ok_or_else(lost)?)
            }
            Err(e) => return Err(e),
        };
        entry.map(|entry| Ok((entry, self.manifest(&entry)?))).transpose()
    }

    /// How many members it has, as the footer says.
    pub fn members(&self) -> Result<usize, PackError> {
        Ok(usize::try_from(self.footer()?.count).unwrap_or(usize::MAX))
    }

    /// The index, checked.
    pub fn index(&self) -> Result<Index, PackError> {
        let footer = self.footer()?;
        let mut bytes = vec![0; usize::try_from(footer.index_bytes()).unwrap_or_default()];
        self.fill(&mut bytes, footer.index_at)?;
        if layout::check(&[&bytes]) != footer.index_check {
            return Err(PackError::damaged("the index of the pack is damaged"));
        }
        Index::decode(&bytes, footer.index_at).ok_or_else(|| PackError::damaged("the index of the pack makes no sense"))
    }

    /// The index; when that is damaged, one made of the members that are found by reading through the pack.
    pub fn index_or_salvage(&self) -> Result<Index, PackError> {
        match self.index() {
            Err(PackError::Damaged(_)) => {
                let mut entries = Vec::new();
                self.salvage(&mut |entry| {
                    entries.push(entry);
                    ControlFlow::Continue(())
                })?;
                Index::new(entries).ok_or_else(|| PackError::damaged("two members of the pack have the same name"))
            }
            other => other,
        }
    }

    /// Reads the member at an entry's place.
    ///
    /// # Errors
    /// [`PackError::Damaged`]: what is there is not that member as it was written.
    pub fn read(&self, entry: &Entry) -> Result<Member, PackError> {
        let (record, manifest) = self.head(entry)?;
        let mut content = vec![0; record.content_len as usize];
        self.fill(&mut content, entry.offset + RECORD_BYTES as u64 + u64::from(record.manifest_len))?;
        if *blake3::hash(&content).as_bytes() != record.content_hash {
            return Err(PackError::Damaged(format!("the content of member {} is damaged", entry.name)));
        }
        Ok(Member { name: entry.name, manifest, content, content_hash: record.content_hash })
    }

    /// The manifest of a member, without its content.
    pub fn manifest(&self, entry: &Entry) -> Result<Vec<u8>, PackError> {
        self.head(entry).map(|(_, manifest)| manifest)
    }

    /// Reads everything, and tells each damaged member. Right after the last call every byte was looked at.
    ///
    /// # Errors
    /// What else is damaged, or could not be read.
    pub fn check(&self, damaged: &mut dyn FnMut(MemberName, String)) -> Result<Index, PackError> {
        let mut header = [0; HEADER_BYTES];
        self.fill(&mut header, 0)?;
        if !layout::is_header(&header, self.id) {
            return Err(PackError::damaged("the header of the pack is damaged"));
        }
        let footer = self.footer()?;
        let index = self.index()?;
        let mut by_place = index.entries().to_vec();
        by_place.sort_unstable_by_key(|entry| entry.offset);
        let mut position = HEADER_BYTES as u64;
        for entry in &by_place {
            if entry.offset != position {
                return Err(PackError::damaged("the members of the pack do not lie one after the other"));
            }
            position += entry.total_bytes();
            match self.read(entry) {
                Ok(_) => {}
                Err(PackError::Damaged(why)) => damaged(entry.name, why),
                Err(e) => return Err(e),
            }
        }
        if position == footer.index_at {
            Ok(index)
        } else {
            Err(PackError::damaged("the members of the pack do not lie one after the other"))
        }
    }

    /// Finds members by reading through the pack, whatever became of header, index and footer: those whose record and manifest are
    /// intact. Their content is not looked at.
    pub fn salvage(&self, found: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), PackError> {
        salvage::scan(&self.bytes, self.size, self.id, found)
    }

    /// Looks an entry up in an index that nobody has checked: the result is only a place to look at.
    fn search(&self, name: MemberName) -> Result<Option<Entry>, PackError> {
        let footer = self.footer()?;
        let (mut low, mut high) = (0, u64::from(footer.count));
        while low < high {
            let middle = low + (high - low) / 2;
            let mut bytes = [0; ENTRY_BYTES];
            self.fill(&mut bytes, footer.index_at + middle * ENTRY_BYTES as u64)?;
            let Some(entry) = Entry::decode(&bytes, footer.index_at) else { return Ok(None) };
            match entry.name.cmp(&name) {
                std::cmp::Ordering::Equal => return Ok(Some(entry)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    fn footer(&self) -> Result<Footer, PackError> {
        if self.size < SMALLEST_PACK_BYTES {
            return Err(PackError::Damaged(format!("a pack of {} bytes is cut short", self.size)));
        }
        let mut bytes = [0; FOOTER_BYTES];
        self.fill(&mut bytes, self.size - FOOTER_BYTES as u64)?;
        Footer::decode(&bytes, self.id, self.size)
            .ok_or_else(|| PackError::damaged("the footer of the pack is damaged, or the pack is cut short"))
    }

    /// Record and manifest, checked.
    fn head(&self, entry: &Entry) -> Result<(Record, Vec<u8>), PackError> {
        let damaged = || PackError::Damaged(format!("the record of member {} is damaged", entry.name));
        let mut head = vec![0; RECORD_BYTES + entry.manifest_len as usize];
        self.fill(&mut head, entry.offset)?;
        let (bytes, manifest) = head.split_first_chunk::<RECORD_BYTES>().ok_or_else(damaged)?;
        let record = Record::decode(bytes, self.id).ok_or_else(damaged)?;
        let lengths = (record.manifest_len, record.content_len) == (entry.manifest_len, entry.content_len);
        if record.name != entry.name || !lengths || !record.is_intact(bytes, manifest) {
            return Err(damaged());
        }
        let manifest = manifest.to_vec();
        Ok((record, manifest))
    }

    fn fill(&self, buffer: &mut [u8], offset: u64) -> Result<(), PackError> {
        if self.bytes.read_full_at(buffer, offset)? == buffer.len() {
            Ok(())
        } else {
            Err(PackError::damaged("the pack is cut short"))
        }
    }
}
