//! Manifests that were read already: so each part of a file that somebody reads at random is one request, and not two or three.
//!
//! What is kept proves nothing by itself: it is checked as one that was just read is. An id's content does not change, so nothing is kept for
//! a time only; an attempt that is repeated may store the same in another form, so whoever fails with what was kept looks again.

use bytes::Bytes;
use model::ObjectId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};

/// Of all manifests together: that of 700 GiB of content.
const MOST_BYTES: usize = 32 << 20;
/// What an entry takes besides its manifest, roughly.
const ENTRY_BYTES: usize = 512;

/// Where an object lies, and its manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) key: String,
    pub(super) manifest: Table,
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Table {
    All(Bytes),
    /// It has so many bytes, and is read where it lies.
    Larger(u64),
}

/// The manifests of the objects of which something was read last.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// With the turn in which each was used last.
    by_id: HashMap<ObjectId, (u64, Described)>,
    by_turn: BTreeMap<u64, ObjectId>,
    turn: u64,
    bytes: usize,
}

impl Described {
    fn bytes(&self) -> usize {
        let manifest = if let Table::All(bytes) = &self.manifest { bytes.len() } else { 0 };
        ENTRY_BYTES + self.key.len() + manifest
    }
}

impl Entries {
    fn remove(&mut self, id: &ObjectId) -> Option<Described> {
        let (turn, described) = self.by_id.remove(id)?;
        self.by_turn.remove(&turn);
        self.bytes -= described.bytes();
        Some(described)
    }

    fn insert(&mut self, id: &ObjectId, described: Described) {
        self.remove(id);
        self.turn += 1;
        self.bytes += described.bytes();
        self.by_turn.insert(self.turn, id.clone());
        self.by_id.insert(id.clone(), (self.turn, described));
        while self.bytes > MOST_BYTES
            && let Some((_, oldest)) = self.by_turn.first_key_value()
        {
            let oldest = oldest.clone();
            self.remove(&oldest);
        }
    }
}

impl Known {
    pub(super) fn get(&self, id: &ObjectId) -> Option<Described> {
        let mut entries = self.0.lock();
        let described = entries.remove(id)?;
        entries.insert(id, described.clone());
        Some(described)
    }

    pub(super) fn keep(&self, id: &ObjectId, mut described: Described) {
        if let Table::All(bytes) = &mut described.manifest {
            // What it is a part of may be larger.
            *bytes = Bytes::copy_from_slice(bytes);
        }
        self.0.lock().insert(id, described);
    }

    pub(super) fn forget(&self, id: &ObjectId) {
        self.0.lock().remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: usize) -> Described {
        Described { key: "objects/abcdef".to_owned(), manifest: Table::All(vec![7; bytes].into()) }
    }

    #[test]
    fn p6_what_is_kept_is_bounded_and_what_was_used_last_stays() {
        let known = Known::default();
        let id = |n: usize| ObjectId::parse(&format!("{n:06}")).unwrap();
        known.keep(&id(0), of(10));
        for n in 1..100 {
            known.keep(&id(n), of(1 << 20));
            assert_eq!(known.get(&id(0)), Some(of(10)), "{n}");
            assert!(known.0.lock().bytes <= MOST_BYTES);
        }
        assert!(known.get(&id(99)).is_some() && known.get(&id(50)).is_none());
        // One that alone is too large is not kept, and nothing else breaks.
        known.keep(&id(200), of(MOST_BYTES));
        assert_eq!(known.get(&id(200)), None);
        known.keep(&id(1), of(5));
        known.keep(&id(1), of(6));
        assert_eq!(known.get(&id(1)), Some(of(6)));
        known.forget(&id(1));
        let entries = known.0.lock();
        assert!(entries.by_id.is_empty() && entries.by_turn.is_empty() && entries.bytes == 0);
    }
}
