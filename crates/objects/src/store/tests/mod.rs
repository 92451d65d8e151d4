//! The suite that every store passes, on memory and on real servers; and what only an object store has to show.

#[macro_use]
#[path = "../../../../transfer/tests/suite/mod.rs"]
mod suite;

mod memory;

use crate::ObjectStore;
use crate::store::keys;
use model::ObjectId;
use suite::Half;

fn key(id: &ObjectId, half: Half) -> String {
    match half {
        Half::Object => keys::object(id),
        Half::Manifest => keys::manifest(id),
    }
}

/// Past the store: everything under the prefix, in order.
fn names(store: &ObjectStore) -> Vec<String> {
    let bucket = store.bucket().clone();
    let listed = store.bucket().engine().wait(async move {
        let list = || {
            bucket.operator().list_options("/", opendal::options::ListOptions { recursive: true, ..Default::default() })
        };
        bucket.request(list).await
    });
    let mut names: Vec<String> =
        listed.unwrap().iter().map(|entry| entry.path().to_owned()).filter(|path| !path.ends_with('/')).collect();
    names.sort();
    names
}

fn read(store: &ObjectStore, key: String) -> Vec<u8> {
    let bucket = store.bucket().clone();
    let read = store.bucket().engine().wait(async move { bucket.request(|| bucket.operator().read(&key)).await });
    read.unwrap().to_vec()
}

fn write(store: &ObjectStore, key: String, bytes: &[u8]) {
    let (bucket, bytes) = (store.bucket().clone(), bytes.to_vec());
    let written = store
        .bucket()
        .engine()
        .wait(async move { bucket.request(|| bucket.operator().write(&key, bytes.clone())).await });
    written.unwrap();
}
