//! Whether mirrors of a file are stale, seen in its layout's attribute.
//!
//! The file is not opened: that costs the MDT and the OSTs more, breaks leases of others, and can be in the changelog again.

use crate::file::LAYOUT;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use sys::OFlags;

/// `LOV_USER_MAGIC_V1`, `_V3`, `_SPECIFIC` and `_FOREIGN`: layouts without components.
const PLAIN: [u32; 4] = [0x0bd1_0bd0, 0x0bd3_0bd0, 0x0bd5_0bd0, 0x0bd7_0bd0];
/// `LOV_USER_MAGIC_COMP_V1`.
const COMPOSITE: u32 = 0x0bd6_0bd0;
/// Of `struct lov_comp_md_v1` and `struct lov_comp_md_entry_v1`.
const HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 48;
const COUNT_AT: usize = 14;
const FLAGS_AT: usize = 4;
/// `LCME_FL_STALE`, `_NOSYNC` and `_PARITY`.
const STALE: u32 = 0x1;
const NOT_OURS: u32 = 0x20 | 0x80;

/// Whether [`resync`](super::resync) may have something to do. It says so too where nobody can tell.
pub fn may_be_stale(path: &Path) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let layout = sys::xattr::get(&file, LAYOUT).ok().flatten();
    Ok(layout.and_then(|layout| has_stale(&layout)).unwrap_or(true))
}

/// Whether a layout has components that are stale and to be resynced; `None` for one that cannot be read.
fn has_stale(layout: &[u8]) -> Option<bool> {
    let u32_at = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    match u32_at(layout, 0)? {
        COMPOSITE => {}
        magic => return PLAIN.contains(&magic).then_some(false),
    }
    let count = usize::from(u16::from_le_bytes(*layout.get(COUNT_AT..)?.first_chunk()?));
    let entries = layout.get(HEADER_BYTES..)?.get(..count * ENTRY_BYTES)?;
    let mut flags = entries.chunks_exact(ENTRY_BYTES).filter_map(|entry| u32_at(entry, FLAGS_AT));
    Some(flags.any(|flags| flags & STALE != 0 && flags & NOT_OURS == 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn composite(flags: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES + flags.len() * ENTRY_BYTES];
        bytes[..4].copy_from_slice(&COMPOSITE.to_le_bytes());
        bytes[COUNT_AT..][..2].copy_from_slice(&u16::try_from(flags.len()).unwrap().to_le_bytes());
        for (entry, flags) in bytes[HEADER_BYTES..].chunks_exact_mut(ENTRY_BYTES).zip(flags) {
            entry[FLAGS_AT..][..4].copy_from_slice(&flags.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn stale_components_are_seen_unless_they_are_not_to_be_resynced() {
        assert_eq!(has_stale(&composite(&[0x10, 0x10])), Some(false));
        assert_eq!(has_stale(&composite(&[0x10, 0x11])), Some(true));
        assert_eq!(has_stale(&composite(&[0x10, 0x31, 0x91])), Some(false), "nosync, and a parity");
        assert_eq!(has_stale(&composite(&[])), Some(false));
        assert_eq!(has_stale(&PLAIN[1].to_le_bytes()), Some(false));
        assert_eq!(has_stale(b"garbage, and more than a header of it is"), None);
        let whole = composite(&[0x11, 0x10]);
        for cut in 0..whole.len() {
            assert_eq!(has_stale(&whole[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn where_nobody_can_tell_it_may_be_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(may_be_stale(file.path()).unwrap());
        assert_eq!(may_be_stale(Path::new("/absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = has_stale(&bytes);
            let _ = has_stale(&[&COMPOSITE.to_le_bytes()[..], &bytes].concat());
        }
    }
}
