//! Which members a pack has, and where.

use super::id::MemberName;
use super::layout::{self, ENTRY_BYTES, HEADER_BYTES};

/// One member's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name in the pack.
    pub name: MemberName,
    pub(super) offset: u64,
    pub(super) manifest_len: u32,
    pub(super) content_len: u32,
}

impl Entry {
    /// Bytes the member takes in the pack, with its record and manifest.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        layout::total_bytes(self.manifest_len, self.content_len)
    }

    /// Where it begins; orders the members of a pack as they were written.
    #[must_use]
    pub fn place(&self) -> u64 {
        self.offset
    }

    /// Where its content begins in the pack.
    #[must_use]
    pub fn content_at(&self) -> u64 {
        self.offset + layout::RECORD_BYTES as u64 + u64::from(self.manifest_len)
    }

    /// Bytes of its content as it is stored.
    #[must_use]
    pub fn content_bytes(&self) -> u32 {
        self.content_len
    }

    pub(super) fn encode(&self) -> [u8; ENTRY_BYTES] {
        layout::entry(self.name, self.offset, self.manifest_len, self.content_len)
    }

    /// An entry of a pack whose members end at `end`.
    pub(super) fn decode(bytes: &[u8; ENTRY_BYTES], end: u64) -> Option<Self> {
        let (name, offset, manifest_len, content_len) = layout::parse_entry(bytes)?;
        let entry = Self { name, offset, manifest_len, content_len };
        let fits = layout::lengths_are_possible(manifest_len, content_len)
            && offset >= HEADER_BYTES as u64
            && offset.checked_add(entry.total_bytes()).is_some_and(|member_end| member_end <= end);
        fits.then_some(entry)
    }
}

/// The members of a pack, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    /// Ascending, each name once.
    entries: Vec<Entry>,
}

impl Index {
    /// `None` when a name comes twice.
    pub(super) fn new(mut entries: Vec<Entry>) -> Option<Self> {
        entries.sort_unstable();
        entries.is_sorted_by(|a, b| a.name < b.name).then_some(Self { entries })
    }

    /// Bytes that passed their check; `None` if a program wrote them wrong.
    pub(super) fn decode(bytes: &[u8], end: u64) -> Option<Self> {
        let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        let entries = entries.iter().map(|entry| Entry::decode(entry, end)).collect::<Option<Vec<_>>>()?;
        (rest.is_empty() && entries.is_sorted_by(|a, b| a.name < b.name)).then_some(Self { entries })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        self.entries.iter().flat_map(Entry::encode).collect()
    }

    /// The members, by name.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// One member.
    #[must_use]
    pub fn find(&self, name: MemberName) -> Option<Entry> {
        let at = self.entries.binary_search_by_key(&name, |entry| entry.name).ok()?;
        self.entries.get(at).copied()
    }
}
