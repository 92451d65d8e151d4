//! Little-endian numbers in bytes that may be too few.

use model::Fid;

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|raw| u16::from_le_bytes(*raw))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|raw| u32::from_le_bytes(*raw))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|raw| u64::from_le_bytes(*raw))
}

pub(super) fn fid_at(bytes: &[u8], at: usize) -> Option<Fid> {
    Some(Fid { seq: u64_at(bytes, at)?, oid: u32_at(bytes, at + 8)?, ver: u32_at(bytes, at + 12)? })
}
