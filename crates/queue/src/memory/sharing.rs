//! What the queue in memory keeps of objects.

use crate::{About, ObjectRef, Retired, Sharing};
use model::{ActionId, FileHandle};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(super) struct Objects {
    pub(super) sharing: Sharing,
    generation: u64,
    /// The generation in which all referrers were known; 0 for none.
    shared: BTreeMap<(u32, String), u64>,
    /// By archive, object, and the file's handle in its stored form.
    pub(super) referrers: BTreeSet<(u32, String, Vec<u8>)>,
    pub(super) abouts: BTreeMap<FileHandle, About>,
    pub(super) retired: BTreeMap<ActionId, Retired>,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            sharing: Sharing::default(),
            generation: 1,
            shared: BTreeMap::new(),
            referrers: BTreeSet::new(),
            abouts: BTreeMap::new(),
            retired: BTreeMap::new(),
        }
    }
}

impl Objects {
    pub(super) fn share(&mut self, object: &ObjectRef, complete: bool, files: &[FileHandle]) {
        let generation = if complete { self.generation } else { 0 };
        let key = (object.archive_id, object.uuid.clone());
        self.shared.entry(key).or_insert(generation);
        self.referrers.extend(files.iter().map(|file| (object.archive_id, object.uuid.clone(), file.to_bytes())));
        self.sharing.sequence += 1;
    }

    pub(super) fn is_complete(&self, archive_id: u32, uuid: &str) -> Option<bool> {
        self.shared.get(&(archive_id, uuid.to_owned())).map(|generation| *generation == self.generation)
    }

    pub(super) fn referrers(
        &self,
        archive_id: u32,
        uuid: &str,
        after: Option<&FileHandle>,
    ) -> impl Iterator<Item = FileHandle> {
        let after = after.map(FileHandle::to_bytes).unwrap_or_default();
        let uuid = uuid.to_owned();
        let own = move |(a, u, f): &&(u32, String, Vec<u8>)| *a == archive_id && *u == uuid && *f > after;
        self.referrers.iter().filter(own).filter_map(|(_, _, file)| FileHandle::from_bytes(file).ok())
    }

    pub(super) fn forget(&mut self, archive_id: u32, uuid: &str) {
        self.shared.remove(&(archive_id, uuid.to_owned()));
        self.referrers.retain(|(a, u, _)| *a != archive_id || u != uuid);
    }

    pub(super) fn doubt(&mut self, last_id: ActionId) {
        self.generation += 1;
        self.sharing.doubted = last_id;
        for byte in &mut self.sharing.database {
            *byte = byte.wrapping_add(1);
        }
    }
}
