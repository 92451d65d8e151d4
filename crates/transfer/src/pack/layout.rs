//! The fixed parts of a pack as bytes: header, record, index entry, footer. All integers are little-endian.
//!
//! Decoding takes any bytes and allocates nothing; `None` means that these bytes are no such part.

use super::id::{MemberName, PackId};
use super::{MAX_CONTENT_BYTES, MAX_MANIFEST_BYTES, MAX_MEMBERS};

const VERSION: u32 = 1;
const HEADER_MAGIC: [u8; 8] = *b"SFKPACK\n";
const FOOTER_MAGIC: [u8; 8] = *b"SFKPKEND";
/// What a scan for members looks for.
pub(super) const RECORD_MAGIC: [u8; 8] = *b"SFKMEMBR";

/// A check is so many bytes of a BLAKE3 hash.
const CHECK: usize = 16;
pub(super) const HEADER_BYTES: usize = 48;
pub(super) const RECORD_BYTES: usize = 96;
pub(super) const ENTRY_BYTES: usize = 32;
pub(super) const FOOTER_BYTES: usize = 72;
/// No pack is smaller.
pub(super) const SMALLEST_PACK_BYTES: u64 = (HEADER_BYTES + FOOTER_BYTES) as u64;

pub(super) type Check = [u8; CHECK];

/// Shortened, because it has to find damage and not to withstand an attack on the whole archive; 128 bits do both.
pub(super) fn check(parts: &[&[u8]]) -> Check {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default()
}

/// Takes fields off the front of bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn expect<const N: usize>(&mut self, wanted: [u8; N]) -> Option<()> {
        (self.take::<N>()? == wanted).then_some(())
    }
}

/// Puts fields into an array of a part's size.
struct Put<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Put<N> {
    fn new() -> Self {
        Self { bytes: [0; N], at: 0 }
    }

    fn bytes(mut self, field: &[u8]) -> Self {
        if let Some(to) = self.bytes.get_mut(self.at..self.at + field.len()) {
            to.copy_from_slice(field);
        }
        self.at += field.len();
        self
    }

    fn zeros(mut self, count: usize) -> Self {
        self.at += count;
        self
    }

    /// Everything so far, for a check over it.
    fn so_far(&self) -> &[u8] {
        self.bytes.get(..self.at).unwrap_or_default()
    }

    fn checked(self) -> [u8; N] {
        let check = check(&[self.so_far()]);
        self.bytes(&check).done()
    }

    fn done(self) -> [u8; N] {
        debug_assert_eq!(self.at, N);
        self.bytes
    }
}

/// The part without its check at the end, if that is right.
fn checked(bytes: &[u8]) -> Option<Fields<'_>> {
    let (body, found) = bytes.split_last_chunk::<CHECK>()?;
    (check(&[body]) == *found).then_some(Fields(body))
}

pub(super) fn header(pack: PackId) -> [u8; HEADER_BYTES] {
    Put::new().bytes(&HEADER_MAGIC).bytes(&VERSION.to_le_bytes()).bytes(pack.as_bytes()).zeros(10).checked()
}

/// Whether these bytes are the header of this pack.
pub(super) fn is_header(bytes: &[u8; HEADER_BYTES], pack: PackId) -> bool {
    *bytes == header(pack)
}

/// What stands before a member's manifest and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name: MemberName,
    pub(super) manifest_len: u32,
    pub(super) content_len: u32,
    /// BLAKE3 of the content as it is stored.
    pub(super) content_hash: [u8; 32],
}

/// Where a record has its pack's id, which is not known yet when the rest is computed.
pub(super) const RECORD_PACK_AT: usize = 24;

impl Record {
    /// Without the pack's id, which [`bind`] puts in. The check covers the manifest too.
    pub(super) fn encode(&self, manifest: &[u8]) -> [u8; RECORD_BYTES] {
        let put = Put::<RECORD_BYTES>::new().bytes(&RECORD_MAGIC).bytes(self.name.as_bytes()).zeros(10);
        let put = put.bytes(&VERSION.to_le_bytes()).zeros(2);
        let put = put.bytes(&self.manifest_len.to_le_bytes()).bytes(&self.content_len.to_le_bytes());
        let put = put.bytes(&self.content_hash);
        let check = check(&[put.so_far(), manifest]);
        put.bytes(&check).done()
    }

    /// The record, if it is one of this pack, and the check that [`Record::is_intact`] compares.
    pub(super) fn decode(bytes: &[u8; RECORD_BYTES], pack: PackId) -> Option<Self> {
        let mut fields = Fields(bytes);
        fields.expect(RECORD_MAGIC)?;
        let name = MemberName::from_bytes(fields.take()?);
        fields.expect(*pack.as_bytes())?;
        fields.expect(VERSION.to_le_bytes())?;
        fields.expect([0; 2])?;
        let (manifest_len, content_len) = (fields.u32()?, fields.u32()?);
        lengths_are_possible(manifest_len, content_len).then_some(Self {
            name,
            manifest_len,
            content_len,
            content_hash: fields.take()?,
        })
    }

    /// Whether record and manifest are as they were written.
    pub(super) fn is_intact(&self, bytes: &[u8; RECORD_BYTES], manifest: &[u8]) -> bool {
        let written = self.encode(manifest);
        // All but the pack's id, which `decode` compared.
        written.last_chunk::<CHECK>() == bytes.last_chunk::<CHECK>()
    }

    pub(super) fn total_bytes(&self) -> u64 {
        total_bytes(self.manifest_len, self.content_len)
    }
}

/// Says in an encoded record which pack it is in.
pub(super) fn bind(record: &mut [u8; RECORD_BYTES], pack: PackId) {
    let id = pack.as_bytes();
    if let Some(to) = record.get_mut(RECORD_PACK_AT..RECORD_PACK_AT + id.len()) {
        to.copy_from_slice(id);
    }
}

pub(super) fn lengths_are_possible(manifest_len: u32, content_len: u32) -> bool {
    manifest_len as usize <= MAX_MANIFEST_BYTES && content_len as usize <= MAX_CONTENT_BYTES
}

/// A member's bytes in the pack.
pub(super) fn total_bytes(manifest_len: u32, content_len: u32) -> u64 {
    RECORD_BYTES as u64 + u64::from(manifest_len) + u64::from(content_len)
}

/// An entry of the index as bytes: name, offset of the record, length of the manifest, length of the content.
pub(super) fn entry(name: MemberName, offset: u64, manifest_len: u32, content_len: u32) -> [u8; ENTRY_BYTES] {
    let put = Put::new().bytes(name.as_bytes()).bytes(&offset.to_le_bytes());
    put.bytes(&manifest_len.to_le_bytes()).bytes(&content_len.to_le_bytes()).done()
}

/// The same, back.
pub(super) fn parse_entry(bytes: &[u8; ENTRY_BYTES]) -> Option<(MemberName, u64, u32, u32)> {
    let mut fields = Fields(bytes);
    Some((MemberName::from_bytes(fields.take()?), fields.u64()?, fields.u32()?, fields.u32()?))
}

/// The end of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) count: u32,
    pub(super) index_at: u64,
    pub(super) index_check: Check,
}

impl Footer {
    pub(super) fn encode(&self, pack: PackId) -> [u8; FOOTER_BYTES] {
        let put = Put::new().bytes(&FOOTER_MAGIC).bytes(&VERSION.to_le_bytes()).bytes(&self.count.to_le_bytes());
        let put = put.bytes(&self.index_at.to_le_bytes()).bytes(pack.as_bytes()).zeros(6);
        put.bytes(&self.index_check).checked()
    }

    /// The footer, if it is the one of a pack of this id and size.
    pub(super) fn decode(bytes: &[u8; FOOTER_BYTES], pack: PackId, pack_bytes: u64) -> Option<Self> {
        let mut fields = checked(bytes)?;
        fields.expect(FOOTER_MAGIC)?;
        fields.expect(VERSION.to_le_bytes())?;
        let (count, index_at) = (fields.u32()?, fields.u64()?);
        fields.expect(*pack.as_bytes())?;
        fields.expect([0; 6])?;
        let footer = Self { count, index_at, index_check: fields.take()? };
        let end = index_at.checked_add(footer.index_bytes())?.checked_add(FOOTER_BYTES as u64)?;
        (count as usize <= MAX_MEMBERS && index_at >= HEADER_BYTES as u64 && end == pack_bytes).then_some(footer)
    }

    pub(super) fn index_bytes(&self) -> u64 {
        u64::from(self.count) * ENTRY_BYTES as u64
    }
}
