//! Which parts of a released file are there, as an attribute of the file: `trusted.sifaka_resident`.
//!
//! Two things are told by it. That it *exists* says that parts of the file may have been handed out, and that somebody may
//! still have them mapped: nothing may be punched out of the file or written over what is there, unless nobody has it
//! open. It is made before the first part is fetched. What it *claims* is there was synced before: a crash of the machine never leaves a claim
//! without its data. It may claim less than is there, which costs a second fetch of the same bytes.
//!
//! Little-endian: version u8 = 1, log2 of the unit's bytes u8, six zeros, name u64 (of file and object; see [`name_of`]), mtime
//! seconds i64, nanoseconds u32, four zeros; then a bit for each unit, lowest bit first, without the zero bytes at the end.

use super::{CHUNK, Run, Runs, chunks_of};
use crate::state::{StateError, clear, get, set};
use model::{FileHandle, Timestamp};
use std::os::fd::AsFd;

/// The attribute.
pub(crate) const NAME: &str = "trusted.sifaka_resident";

const VERSION: u8 = 1;
const HEADER: usize = 32;
/// Most bits: the attribute has to fit into what the filesystems have for it (a block of 4 KiB on ext4, with all others).
const MAX_BITS: u64 = (1024 - HEADER as u64) * 8;
const CHUNK_LOG2: u32 = CHUNK.trailing_zeros();

/// What the attribute says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Residency {
    /// What it was written for: another file's attribute, copied here, or one for another object says nothing.
    pub(crate) name: u64,
    /// The mtime that the file's user gave it: restoring moves it, and a crash may come before it was set back.
    pub(crate) mtime: Timestamp,
    /// Chunks that are there and durable.
    pub(crate) resident: Runs,
}

/// Tells this file with this object from others. Not against intent: who can write the attribute can write the file.
pub(crate) fn name_of(file: &FileHandle, uuid: &str) -> u64 {
    // FNV-1a.
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = file.to_bytes();
    bytes.iter().chain([0u8].iter()).chain(uuid.as_bytes()).fold(0xcbf2_9ce4_8422_2325, step)
}

impl Residency {
    /// The attribute's value, for a file of `size` bytes. Claims only units that are there as a whole.
    pub(crate) fn encode(&self, size: u64) -> Vec<u8> {
        let chunks = chunks_of(size);
        let mut unit_log2 = 0; // in chunks
        while chunks.div_ceil(1 << unit_log2) > MAX_BITS {
            unit_log2 += 1;
        }
        let unit = 1u64 << unit_log2;
        let mut out = Vec::with_capacity(HEADER);
        out.extend([VERSION, u8::try_from(CHUNK_LOG2 + unit_log2).unwrap_or(u8::MAX), 0, 0, 0, 0, 0, 0]);
        out.extend(self.name.to_le_bytes());
        out.extend(self.mtime.seconds.to_le_bytes());
        out.extend(self.mtime.nanos.to_le_bytes());
        out.extend([0; 4]);
        let mut bits: Vec<u8> = Vec::new();
        for run in self.resident.iter() {
            // The last unit is whole when it reaches the end of the file.
            let last = if run.end >= chunks { chunks.div_ceil(unit) } else { run.end / unit };
            for bit in run.start.div_ceil(unit)..last {
                let (byte, mask) = (usize::try_from(bit / 8).unwrap_or(usize::MAX), 1u8 << (bit % 8));
                if bits.len() <= byte {
                    bits.resize(byte + 1, 0);
                }
                if let Some(b) = bits.get_mut(byte) {
                    *b |= mask;
                }
            }
        }
        out.extend(bits);
        out
    }

    /// `None` for what this version does not understand or what cannot be.
    pub(crate) fn decode(bytes: &[u8], size: u64) -> Option<Self> {
        let (head, bits) = bytes.split_first_chunk::<HEADER>()?;
        let (&[version, unit_log2, ..], rest) = head.split_first_chunk::<8>()?;
        let (name, rest) = rest.split_first_chunk::<8>()?;
        let (seconds, rest) = rest.split_first_chunk::<8>()?;
        let (nanos, _) = rest.split_first_chunk::<4>()?;
        let shift = u32::from(unit_log2).checked_sub(CHUNK_LOG2).filter(|shift| *shift < 44)?;
        let (unit, chunks) = (1u64 << shift, chunks_of(size));
        let mtime = Timestamp { seconds: i64::from_le_bytes(*seconds), nanos: u32::from_le_bytes(*nanos) };
        if version != VERSION || bits.len() as u64 > MAX_BITS / 8 || mtime.nanos >= 1_000_000_000 {
            return None;
        }
        let mut resident = Runs::default();
        let set = (0u64..)
            .zip(bits)
            .flat_map(|(at, byte)| (0..8).filter(move |b| byte & (1 << b) != 0).map(move |b| at * 8 + b));
        for bit in set {
            let run: Run = (bit * unit).min(chunks)..((bit + 1) * unit).min(chunks);
            resident.insert(run);
        }
        Some(Self { name: u64::from_le_bytes(*name), mtime, resident })
    }
}

/// What the file's attribute says, if it has one; the default, which claims nothing, when that makes no sense or was meant for
/// another file or object.
pub(crate) fn read(fd: impl AsFd, name: u64, size: u64) -> Result<Option<Residency>, StateError> {
    let Some(bytes) = get(fd, NAME)? else { return Ok(None) };
    Ok(Some(Residency::decode(&bytes, size).filter(|r| r.name == name).unwrap_or_default()))
}

/// Whether the file has the attribute, whatever it says.
pub(crate) fn is_marked(fd: impl AsFd) -> Result<bool, StateError> {
    get(fd, NAME).map(|value| value.is_some())
}

/// Sets it. What `residency` claims must be durable already.
pub(crate) fn write(fd: impl AsFd, residency: &Residency, size: u64) -> Result<(), StateError> {
    set(fd, NAME, &residency.encode(size))
}

/// Takes it off, if it is there.
pub(crate) fn forget(fd: impl AsFd) -> Result<(), StateError> {
    clear(fd, NAME)
}

/// Takes it off a file that has just become an ordinary one. There it means nothing, so it is no failure when it stays (a full disk
/// may refuse); a release takes it off before it begins. Where it is not, nothing is touched: on btrfs even that would want space.
pub(crate) fn forget_if_marked(fd: impl AsFd) {
    let fd = fd.as_fd();
    if !matches!(is_marked(fd), Ok(false))
        && let Err(error) = forget(fd)
    {
        tracing::warn!(%error, "a file that is not there in parts any more keeps the mark, which means nothing now");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIB: u64 = 1 << 40;

    fn runs() -> impl Strategy<Value = Runs> {
        prop::collection::vec((0u64..20_000, 0u64..3000), 0..20).prop_map(|list| {
            let mut runs = Runs::default();
            list.into_iter().for_each(|(start, n)| runs.insert(start..start + n));
            runs
        })
    }

    fn clip(runs: &Runs, chunks: u64) -> Runs {
        let mut out = Runs::default();
        runs.iter().for_each(|r| out.insert(r.start.min(chunks)..r.end.min(chunks)));
        out
    }

    proptest! {
        #[test]
        fn small_files_come_back_as_they_were(resident in runs(), name: u64, seconds: i64, nanos in 0u32..1_000_000_000, size in 1u64..7 << 30) {
            let resident = clip(&resident, chunks_of(size));
            let residency = Residency { name, mtime: Timestamp { seconds, nanos }, resident };
            let bytes = residency.encode(size);
            prop_assert!(bytes.len() <= 1024);
            prop_assert_eq!(Residency::decode(&bytes, size), Some(residency));
        }

        #[test]
        fn large_files_claim_nothing_that_is_not_there(resident in runs(), size in 1u64..20 << 30) {
            let chunks = chunks_of(size);
            let residency = Residency { resident: clip(&resident, chunks), ..Residency::default() };
            let bytes = residency.encode(size);
            prop_assert!(bytes.len() <= 1024);
            let back = Residency::decode(&bytes, size).unwrap();
            prop_assert!(back.resident.iter().all(|run| residency.resident.contains(&run)));
            prop_assert!(back.resident.iter().all(|run| run.end <= chunks));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..1100), size: u64) {
            if let Some(residency) = Residency::decode(&bytes, size) {
                prop_assert!(residency.resident.iter().all(|run| run.end <= chunks_of(size)));
                let again = residency.encode(size);
                prop_assert!(again.len() <= 1024);
            }
        }
    }

    #[test]
    fn the_form_of_version_1_stays() {
        let mut resident = Runs::default();
        resident.insert(0..3);
        resident.insert(9..10);
        let residency = Residency { name: 0x0102_0304_0506_0708, mtime: Timestamp { seconds: 5, nanos: 6 }, resident };
        let mut expected =
            vec![1, 20, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([0b0000_0111, 0b10]);
        assert_eq!(residency.encode(10 << 20), expected);
    }

    #[test]
    fn a_whole_file_is_claimed_whole_however_large() {
        let mut resident = Runs::default();
        resident.insert(0..chunks_of(16 * TIB + 5));
        let residency = Residency { resident: resident.clone(), ..Residency::default() };
        assert_eq!(Residency::decode(&residency.encode(16 * TIB + 5), 16 * TIB + 5).unwrap().resident, resident);
    }

    #[test]
    fn names_differ() {
        let file = |b: u8| FileHandle { kind: 1, bytes: [b; 12].into_iter().collect() };
        assert_ne!(name_of(&file(1), "a"), name_of(&file(1), "b"));
        assert_ne!(name_of(&file(1), "a"), name_of(&file(2), "a"));
    }
}
