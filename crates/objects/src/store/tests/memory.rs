//! The suite on memory.

use super::suite::{Bed, Half};
use super::{names, read, write};
use crate::{Bucket, ObjectStore, Settings};
use model::ObjectId;
use std::path::Path;
use testkit::Scratch;

struct Memory {
    store: ObjectStore,
    scratch: Scratch,
}

impl Bed for Memory {
    type Store = ObjectStore;

    fn new() -> Self {
        let store = ObjectStore::new(Bucket::open(&Settings::memory()).unwrap());
        Self { store, scratch: Scratch::new("objects") }
    }

    fn tells_ages(&self) -> bool {
        false
    }

    fn store(&self) -> &ObjectStore {
        &self.store
    }

    fn base(&self) -> &Path {
        self.scratch.path()
    }

    fn names(&self) -> Vec<String> {
        names(&self.store)
    }

    fn read(&self, id: &ObjectId, half: Half) -> Vec<u8> {
        read(&self.store, id, half)
    }

    fn write(&self, id: &ObjectId, half: Half, bytes: &[u8]) {
        write(&self.store, id, half, bytes);
    }
}

store_suite!(Memory);
