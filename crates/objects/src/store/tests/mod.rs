//! The suite that every store passes, on memory and on real servers; and what only an object store has to show.

#[macro_use]
#[path = "../../../../transfer/tests/suite/mod.rs"]
mod suite;

/// A server of the test's own, with a store on it.
struct ServerBed<S> {
    store: ObjectStore,
    scratch: Scratch,
    server: S,
}

/// The suite on a server: what starts it, and what is in it, asked past the store.
macro_rules! server_bed {
    ($server:ty, $start:path, $names:path) => {
        impl $crate::store::tests::suite::Bed for $crate::store::tests::ServerBed<$server> {
            type Store = $crate::ObjectStore;

            fn new() -> Self {
                let (server, settings) = $start();
                $crate::store::tests::ServerBed::with(server, &settings)
            }

            fn store(&self) -> &Self::Store {
                &self.store
            }

            fn base(&self) -> &std::path::Path {
                self.scratch.path()
            }

            fn names(&self) -> Vec<String> {
                self.below_prefix($names(&self.server))
            }

            fn read(&self, id: &model::ObjectId, half: $crate::store::tests::suite::Half) -> Vec<u8> {
                $crate::store::tests::read(&self.store, $crate::store::tests::key(id, half))
            }

            fn write(&self, id: &model::ObjectId, half: $crate::store::tests::suite::Half, bytes: &[u8]) {
                $crate::store::tests::write(&self.store, $crate::store::tests::key(id, half), bytes);
            }
        }

        store_suite!($crate::store::tests::ServerBed<$server>);
    };
}

mod azurite;
mod bucket;
mod gcs;
mod hostile;
mod memory;
mod rgw;
mod s3s;
mod sweep;
mod tls;

use crate::store::keys;
use crate::{Bucket, ObjectStore, Settings};
use model::ObjectId;
use suite::Half;
use testkit::Scratch;

impl<S> ServerBed<S> {
    fn with(server: S, settings: &Settings) -> Self {
        let store = ObjectStore::new(Bucket::open(settings).unwrap());
        Self { store, scratch: Scratch::new("objects"), server }
    }

    /// Without the prefix that everything has to have.
    fn below_prefix(&self, mut names: Vec<String>) -> Vec<String> {
        let prefix = "site/a prefix/";
        for name in &mut names {
            assert!(name.contains(prefix), "{name} is not below the prefix");
            *name = name.replacen(prefix, "", 1);
        }
        names.sort();
        names
    }
}

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
