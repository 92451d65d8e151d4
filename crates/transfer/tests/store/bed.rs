//! The suite that every store passes, on a directory.

use super::harness::Archive;
use super::suite::{Bed, Half};
use model::ObjectId;
use std::fs;
use std::path::{Path, PathBuf};
use transfer::PosixStore;

struct Posix(Archive);

impl Posix {
    fn path(&self, id: &ObjectId, half: Half) -> PathBuf {
        match half {
            Half::Object => self.0.object(id),
            Half::Manifest => self.0.manifest(id),
        }
    }
}

impl Bed for Posix {
    type Store = PosixStore;

    fn new() -> Self {
        Self(Archive::new())
    }

    fn store(&self) -> &PosixStore {
        &self.0.store
    }

    fn base(&self) -> &Path {
        &self.0.base
    }

    fn names(&self) -> Vec<String> {
        let objects = self.0.store.root().join("objects");
        let name = |path: PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            match name.strip_suffix(transfer::manifest::SUFFIX) {
                _ if !path.starts_with(&objects) => path.to_str().unwrap().to_owned(),
                Some(id) => super::suite::manifest(&super::suite::id(id)),
                None => super::suite::object(&super::suite::id(&name)),
            }
        };
        let mut names: Vec<_> = self.0.files().into_iter().map(name).collect();
        names.sort();
        names
    }

    fn read(&self, id: &ObjectId, half: Half) -> Vec<u8> {
        fs::read(self.path(id, half)).unwrap()
    }

    fn write(&self, id: &ObjectId, half: Half, bytes: &[u8]) {
        let path = self.path(id, half);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

store_suite!(Posix);
