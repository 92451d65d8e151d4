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
                $crate::store::tests::read(&self.store, id, half)
            }

            fn write(&self, id: &model::ObjectId, half: $crate::store::tests::suite::Half, bytes: &[u8]) {
                $crate::store::tests::write(&self.store, id, half, bytes);
            }
        }

        store_suite!($crate::store::tests::ServerBed<$server>);
    };
}

mod azurite;
mod bucket;
mod cold;
mod foreign;
mod gcs;
mod hostile;
mod lemur;
mod lemur_az;
mod memory;
mod packs;
mod paths;
mod plain;
mod requests;
mod rgw;
mod s3s;
mod sweep;
mod tls;

use crate::{Bucket, ObjectStore, Settings};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use model::ObjectId;
use opendal::options::{ListOptions, WriteOptions};
use std::collections::HashMap;
use suite::Half;
use testkit::Scratch;

impl<S> ServerBed<S> {
    fn with(server: S, settings: &Settings) -> Self {
        let store = ObjectStore::new(Bucket::open(settings).unwrap());
        Self { store, scratch: Scratch::new("objects"), server }
    }

    /// Without the prefix that everything has to have; and of what carries its manifest, both halves.
    fn below_prefix(&self, mut names: Vec<String>) -> Vec<String> {
        let prefix = "site/a prefix/";
        for name in &mut names {
            assert!(name.contains(prefix), "{name} is not below the prefix");
            *name = name.replacen(prefix, "", 1);
        }
        let halves = |name: String| match name.strip_prefix("small/") {
            Some(id) => vec![format!("objects/{id}"), format!("manifests/{id}")],
            None => vec![name],
        };
        let mut names: Vec<_> = names.into_iter().flat_map(halves).collect();
        names.sort();
        names
    }
}

/// Past the store: everything under the prefix, in order.
fn names(store: &ObjectStore) -> Vec<String> {
    let bucket = store.bucket().clone();
    let options = || ListOptions { recursive: true, ..Default::default() };
    let listed = store
        .bucket()
        .engine()
        .wait(async move { bucket.request(|| bucket.operator().list_options("/", options())).await });
    let mut names: Vec<String> =
        listed.unwrap().iter().map(|entry| entry.path().to_owned()).filter(|path| !path.ends_with('/')).collect();
    names.sort();
    names
}

/// What the object carries; `None` when it carries nothing.
fn texts(store: &ObjectStore, id: &ObjectId) -> Option<HashMap<String, String>> {
    let (bucket, key) = (store.bucket().clone(), format!("small/{id}"));
    let found = store.bucket().engine().wait(async move { bucket.stat(&key).await }).unwrap()?;
    let texts = found.user_metadata().unwrap();
    let known = ["sifaka", "manifest", "mode", "uid", "gid", "mtime", "blake3"];
    Some(known.iter().filter_map(|key| Some(((*key).to_owned(), texts.get(key)?.to_owned()))).collect())
}

fn read_key(store: &ObjectStore, key: String) -> Vec<u8> {
    let bucket = store.bucket().clone();
    let read = store.bucket().engine().wait(async move { bucket.request(|| bucket.operator().read(&key)).await });
    read.unwrap().to_vec()
}

/// Past the store: the stored bytes, wherever they are.
fn read(store: &ObjectStore, id: &ObjectId, half: Half) -> Vec<u8> {
    match (half, texts(store, id)) {
        (Half::Object, Some(_)) => read_key(store, format!("small/{id}")),
        (Half::Object, None) => read_key(store, format!("objects/{id}")),
        (Half::Manifest, Some(texts)) => BASE64_STANDARD.decode(&texts["manifest"]).unwrap(),
        (Half::Manifest, None) => read_key(store, format!("manifests/{id}")),
    }
}

fn write(store: &ObjectStore, id: &ObjectId, half: Half, bytes: &[u8]) {
    let (key, content, user_metadata) = match (half, texts(store, id)) {
        (Half::Object, Some(texts)) => (format!("small/{id}"), bytes.to_vec(), Some(texts)),
        (Half::Object, None) => (format!("objects/{id}"), bytes.to_vec(), None),
        (Half::Manifest, Some(mut texts)) => {
            texts.insert("manifest".to_owned(), BASE64_STANDARD.encode(bytes));
            (format!("small/{id}"), read_key(store, format!("small/{id}")), Some(texts))
        }
        (Half::Manifest, None) => (format!("manifests/{id}"), bytes.to_vec(), None),
    };
    let bucket = store.bucket().clone();
    let options = move || WriteOptions { user_metadata: user_metadata.clone(), ..WriteOptions::default() };
    let written = store.bucket().engine().wait(async move {
        bucket.request(|| bucket.operator().write_options(&key, content.clone(), options())).await
    });
    written.unwrap();
}
