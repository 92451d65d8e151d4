//! The suite on memory.

use super::suite::{Bed, Calls as _, Half, described, id};
use super::{names, read, write};
use crate::{Bucket, ObjectStore, Settings};
use model::{Extent, ObjectId};
use std::path::Path;
use testkit::Scratch;
use transfer::{Encoding, Monitor, Store as _, TransferError, Unwatched};

pub(super) struct Memory {
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

/// Grows a file when it is asked for the first time, and gives memory back.
struct Grows<'a>(parking_lot::Mutex<Option<crate::store::memory::Taken>>, &'a Path);

impl Monitor for Grows<'_> {
    fn cancelled(&self) -> bool {
        if let Some(memory) = self.0.lock().take() {
            std::fs::File::options().write(true).open(self.1).unwrap().set_len(100 << 20).unwrap();
            drop(memory);
        }
        false
    }

    fn advanced(&self, _: Extent) {}
}

/// A log that grew from a line to a hundred MiB while there was no memory for it.
#[test]
fn p6_what_grew_while_it_waited_is_not_collected() {
    let bed = Memory::new();
    let source = bed.file("source", b"a line");
    let all = bed.store.memory.take(u64::MAX, bed.store.bucket(), &Unwatched).unwrap();
    let grows = Grows(parking_lot::Mutex::new(Some(all)), source.path());
    let Err(error) = bed.store.stage(&id("abcdef"), &source, described(Encoding::Raw), &grows) else {
        panic!("staged")
    };
    assert!(matches!(error, TransferError::Changed { expected: 6, .. }), "{error}");
}
