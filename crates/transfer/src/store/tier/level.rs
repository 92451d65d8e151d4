//! How full roots are, and which of them a new object goes to.
//!
//! The root of a new object follows from its id and from how much room each root has (weighted rendezvous hashing): so whoever looks for an object begins with the
//! root that it would go to now, and is right nearly always. Small files of one request, which share the first characters of their ids, share a root
//! and its directories.

use super::super::root::Root;
use std::io;
use std::path::Path;

/// Of a filesystem so much is left free: a fiftieth, and no more than this.
const RESERVE_PART: u64 = 50;
const RESERVE_MAX: u64 = 64 << 30;
/// A filesystem with fewer free inodes than this part of them all is full.
const INODES_PART: u64 = 100;

/// A filesystem, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Level {
    pub(super) total: u64,
    /// For whoever is not root.
    pub(super) free: u64,
    has_inodes: bool,
}

impl Level {
    pub(super) fn of(root: &Root) -> io::Result<Self> {
        let found = rustix::fs::fstatvfs(root.dir())?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        // What only root may use is neither there nor used.
        let reserved = found.f_bfree.saturating_sub(found.f_bavail);
        Ok(Self {
            total: bytes(found.f_blocks.saturating_sub(reserved)),
            free: bytes(found.f_bavail),
            has_inodes: found.f_files == 0 || found.f_favail > found.f_files / INODES_PART,
        })
    }

    /// What is kept free.
    pub(super) fn reserve(&self) -> u64 {
        (self.total / RESERVE_PART).min(RESERVE_MAX)
    }

    /// What may still be put there.
    pub(super) fn room(&self) -> u64 {
        if self.has_inodes { self.free.saturating_sub(self.reserve()) } else { 0 }
    }

    pub(super) fn used(&self) -> u64 {
        self.total.saturating_sub(self.free)
    }
}

/// How much a root wants the object of this key: the one that wants it most gets it. In proportion to their rooms, over many keys.
#[expect(clippy::cast_precision_loss, reason = "a weight")]
pub(super) fn wish(root: &Path, key: &str, room: u64) -> f64 {
    let mut hash = blake3::Hasher::new();
    hash.update(root.as_os_str().as_encoded_bytes()).update(&[0]).update(key.as_bytes());
    let [a, b, c, d, e, f, ..] = *hash.finalize().as_bytes();
    let number = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    // In (0, 1).
    let part = (number as f64 + 0.5) / (1u64 << 48) as f64;
    // A full root comes last, whatever the key.
    (room.max(1) as f64) / -part.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_get_objects_in_proportion_to_their_room_and_a_full_one_gets_none() {
        let roots = [("/a", 100u64 << 30), ("/b", 300 << 30), ("/c", 0)];
        let mut got = [0; 3];
        for key in 0..10_000 {
            let key = format!("{key:04x}");
            let wish = |n: usize| wish(Path::new(roots[n].0), &key, roots[n].1);
            let first = (0..3).max_by(|a, b| wish(*a).total_cmp(&wish(*b))).unwrap();
            got[first] += 1;
        }
        assert!((2300..2700).contains(&got[0]) && (7300..7700).contains(&got[1]) && got[2] == 0, "{got:?}");
    }
}
