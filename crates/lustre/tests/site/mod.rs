//! A filesystem of three OSTs that behaves as Lustre does.

#![allow(dead_code, reason = "each test binary needs some of it")]

use lustre_standin::{Root, control, shared_object};
use model::HsmFlags;
use sifaka_lustre::Work;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use sys::lustre::{Layout, Library, path2fid, state_set};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

pub(crate) struct Site {
    pub(crate) library: Library,
    pub(crate) root: Root,
    pub(crate) top: PathBuf,
    _place: Box<dyn std::any::Any>,
}

impl Site {
    /// OSTs 0 to 2 of 1 GiB each; pools `slow` of the first, `fast` of the others.
    pub(crate) fn new() -> Self {
        let directory: TempDir = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        Self::at(top, directory)
    }

    /// The same in a directory, which goes with `place`.
    pub(crate) fn at(top: PathBuf, place: impl std::any::Any) -> Self {
        let root = Root::make_unique(&top).unwrap();
        for index in 0..3 {
            control::set_ost(&root, index, 1024 * MIB, 0).unwrap();
        }
        control::set_pool(&root, "slow", &[0]).unwrap();
        control::set_pool(&root, "fast", &[1, 2]).unwrap();
        let library = Library::load_from(&shared_object()).unwrap();
        Self { library, root, top, _place: Box::new(place) }
    }

    pub(crate) fn work(&self) -> Work {
        Work::new(&self.library)
    }

    /// A new file on one OST.
    pub(crate) fn file_on(&self, name: &str, ost: u32, content: &[u8]) -> PathBuf {
        let path = self.top.join(name);
        let mut layout = Layout::new(&self.library).unwrap();
        layout.set_stripe_count(1).unwrap();
        layout.set_ost(0, ost).unwrap();
        layout.create(&path, 0o640).unwrap().write_all(content).unwrap();
        path
    }

    /// Each mirror's id, OSTs, and whether it is in sync.
    pub(crate) fn mirrors(&self, path: &Path) -> Vec<(u32, Vec<u32>, bool)> {
        let mut layout = Layout::of(&self.library, File::open(path).unwrap()).unwrap();
        let mirrors = sifaka_lustre::mirrors_of(layout.components().unwrap());
        mirrors.into_iter().map(|mirror| (mirror.id, mirror.components[0].osts.clone(), mirror.in_sync())).collect()
    }

    /// Where the stand-in keeps the data of a mirror that is not the primary.
    pub(crate) fn shadow_path(&self, path: &Path, mirror: u32) -> PathBuf {
        let fid = path2fid(&self.library, path).unwrap();
        self.top.join(format!(".lustre/standin/mirrors/{fid}.{mirror}"))
    }

    pub(crate) fn shadow_of(&self, path: &Path, mirror: u32) -> Vec<u8> {
        fs::read(self.shadow_path(path, mirror)).unwrap()
    }

    pub(crate) fn make_released(&self, path: &Path) {
        let flags = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED).with(HsmFlags::RELEASED);
        state_set(&self.library, path, flags, HsmFlags::empty(), 1).unwrap();
    }

    /// No file was left behind.
    pub(crate) fn nothing_else_than(&self, names: &[&str]) {
        let mut found: Vec<_> = fs::read_dir(&self.top).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        found.retain(|name| name != ".lustre");
        found.sort();
        assert_eq!(found, names);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.root.unlink_name();
    }
}

/// Bytes that nothing compresses or takes for a hole.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    testkit::Random::new(seed).fill(&mut bytes);
    bytes
}
