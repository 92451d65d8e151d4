//! Archives of several roots: the suite that every store passes, on two directories; and what only several can do.

use super::harness::{described, id};
use super::suite::{Bed, Calls as _, Half};
use model::{ErrorKind, ObjectId};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use testkit::Scratch;
use transfer::{Durability, Encoding, KernelDurability, TierStore};

/// A store over some directories.
pub(crate) struct Tier {
    pub(crate) store: TierStore,
    scratch: Scratch,
}

pub(crate) fn open(roots: &[PathBuf]) -> TierStore {
    let durability: Arc<dyn Durability> = Arc::new(KernelDurability);
    let store = TierStore::open(roots, &durability).unwrap();
    store.enrol().unwrap();
    store
}

impl Tier {
    pub(crate) fn with(count: usize) -> Self {
        let scratch = Scratch::new("tier");
        let roots: Vec<_> = (0..count).map(|n| scratch.path().join(format!("root{n}"))).collect();
        roots.iter().for_each(|root| fs::create_dir(root).unwrap());
        Self { store: open(&roots), scratch }
    }

    pub(crate) fn roots(&self) -> Vec<PathBuf> {
        self.store.paths().map(Path::to_owned).collect()
    }

    pub(crate) fn place(&self, root: usize, id: &ObjectId, half: Half) -> PathBuf {
        let (a, b) = id.fan_out();
        let name = match half {
            Half::Object => id.to_string(),
            Half::Manifest => transfer::manifest::name_of(id),
        };
        self.roots()[root].join("objects").join(a).join(b).join(name)
    }

    /// In which roots it is.
    pub(crate) fn homes(&self, id: &ObjectId) -> Vec<usize> {
        (0..self.roots().len()).filter(|root| self.place(*root, id, Half::Object).exists()).collect()
    }
}

impl Bed for Tier {
    type Store = TierStore;

    fn new() -> Self {
        Self::with(2)
    }

    fn store(&self) -> &TierStore {
        &self.store
    }

    fn base(&self) -> &Path {
        self.scratch.path()
    }

    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for root in self.roots() {
            let objects = root.join("objects");
            for path in super::harness::files_below(&root) {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                if name == "lock" && path.starts_with(root.join(".sifaka-tmp")) || name.starts_with(".sifaka-") {
                    continue;
                }
                names.push(match name.strip_suffix(transfer::manifest::SUFFIX) {
                    _ if !path.starts_with(&objects) => path.to_str().unwrap().to_owned(),
                    Some(of) => super::suite::manifest(&id(of)),
                    None => super::suite::object(&id(&name)),
                });
            }
        }
        names.sort();
        names
    }

    fn read(&self, id: &ObjectId, half: Half) -> Vec<u8> {
        let found: Vec<_> = (0..2).filter_map(|root| fs::read(self.place(root, id, half)).ok()).collect();
        assert_eq!(found.len(), 1);
        found.into_iter().next().unwrap()
    }

    fn write(&self, id: &ObjectId, half: Half, bytes: &[u8]) {
        let there = (0..2).map(|root| self.place(root, id, half)).find(|path| path.exists());
        let path = there.unwrap_or_else(|| self.place(1, id, half));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

store_suite!(Tier);

#[test]
fn objects_are_spread_and_those_of_one_request_stay_together() {
    let tier = Tier::with(3);
    let source = tier.file("source", b"content");
    let mut used = [0; 3];
    for group in 0..60 {
        let ids: Vec<_> = (0..3).map(|n| id(&format!("{group:04x}-{n}"))).collect();
        let homes: Vec<_> = ids
            .iter()
            .map(|id| {
                tier.put(id, &source, described(Encoding::Raw)).unwrap();
                tier.homes(id)
            })
            .collect();
        assert!(homes.iter().all(|home| *home == homes[0] && home.len() == 1), "{homes:?}");
        used[homes[0][0]] += 1;
    }
    assert!(used.iter().all(|count| *count > 3), "{used:?}");
}

#[test]
fn what_an_earlier_attempt_left_in_another_root_goes() {
    let tier = Tier::with(2);
    let name = id("abcdef");
    let source = tier.file("source", b"content");
    for home in 0..2 {
        let path = tier.place(home, &name, Half::Object);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"an older attempt").unwrap();
    }
    let options = transfer::PutOptions { repeated: true, ..described(Encoding::Raw) };
    let stored = tier.put(&name, &source, options).unwrap();
    assert_eq!(tier.homes(&name).len(), 1);
    assert_eq!(tier.get_over(&name, b"", super::suite::expected(&stored)).unwrap().1, b"content");
}

#[test]
fn of_two_copies_the_right_one_is_read_and_both_are_removed() {
    let tier = Tier::with(2);
    let name = id("abcdef");
    let source = tier.file("source", b"content");
    let stored = tier.put(&name, &source, described(Encoding::Raw)).unwrap();
    let home = tier.homes(&name)[0];
    for half in [Half::Object, Half::Manifest] {
        let other = tier.place(1 - home, &name, half);
        fs::create_dir_all(other.parent().unwrap()).unwrap();
        fs::copy(tier.place(home, &name, half), other).unwrap();
    }
    for damaged in 0..2 {
        let path = tier.place(damaged, &name, Half::Object);
        let sound = fs::read(&path).unwrap();
        fs::write(&path, b"CONTENT").unwrap();
        assert_eq!(tier.get_over(&name, b"", super::suite::expected(&stored)).unwrap().1, b"content");
        fs::write(&path, sound).unwrap();
    }
    tier.remove(&name).unwrap();
    assert!(tier.names().is_empty());
}

#[test]
fn without_a_root_the_rest_is_there_and_nothing_is_said_to_be_missing() {
    let tier = Tier::with(2);
    let source = tier.file("source", b"content");
    let mut in_root = [None, None];
    for n in 0.. {
        let name = id(&format!("{n:04x}-object"));
        let stored = tier.put(&name, &source, described(Encoding::Raw)).unwrap();
        in_root[tier.homes(&name)[0]] = Some(stored);
        if in_root.iter().all(Option::is_some) {
            break;
        }
    }
    let [there, away] = in_root.map(Option::unwrap);
    let roots = tier.roots();
    let hidden = roots[1].with_extension("hidden");
    fs::rename(&roots[1], &hidden).unwrap();
    // An empty directory in its place, as if it were not mounted: noticed by a store that was open, and by one that is opened now.
    fs::create_dir(&roots[1]).unwrap();
    let again = open(&roots);
    for store in [&tier.store, &again] {
        use transfer::{OpenFile, Store as _, Unwatched};
        let target = || OpenFile::for_writing(tier.base().join("source")).unwrap();
        store.get(&there.id, &target(), super::suite::expected(&there), &Unwatched).unwrap();
        let error = store.get(&id("0000-nothing"), &target(), super::suite::expected(&there), &Unwatched).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Temporary, "{error}");
        assert_eq!(store.head(&id("0000-nothing")).unwrap_err().kind(), ErrorKind::Temporary);
        let listed = store.list(&mut |_| std::ops::ControlFlow::Continue(()));
        assert_eq!(listed.unwrap_err().kind(), ErrorKind::Temporary);
    }
    assert_eq!(fs::read_dir(&roots[1]).unwrap().count(), 0, "nothing is written where the root is not mounted");
    let source = tier.file("source", b"content");
    for n in 0..50 {
        let name = id(&format!("{n:04x}-later"));
        tier.put(&name, &source, described(Encoding::Raw)).unwrap();
        assert_eq!(tier.homes(&name), [0]);
    }
    // A removal has to find every copy.
    assert_eq!(tier.remove(&there.id).unwrap_err().kind(), ErrorKind::Temporary);
    fs::remove_dir(&roots[1]).unwrap();
    fs::rename(&hidden, &roots[1]).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while tier.get_over(&away.id, b"", super::suite::expected(&away)).is_err() {
        assert!(std::time::Instant::now() < deadline, "a root that came back is not found");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    tier.remove(&there.id).unwrap();
}

#[test]
fn a_root_of_another_archive_is_refused_and_so_is_one_that_is_named_twice() {
    let (one, other) = (Tier::with(2), Tier::with(2));
    let durability: Arc<dyn Durability> = Arc::new(KernelDurability);
    let mixed = [one.roots()[0].clone(), other.roots()[0].clone()];
    let error = TierStore::open(&mixed, &durability).err().unwrap().to_string();
    assert!(error.contains("belongs to another archive"), "{error}");
    let link = one.base().join("link");
    std::os::unix::fs::symlink(&one.roots()[0], &link).unwrap();
    let error = TierStore::open(&[one.roots()[0].clone(), link], &durability).err().unwrap().to_string();
    assert!(error.contains("is the same directory as"), "{error}");
}

#[test]
fn an_archive_of_one_root_is_as_it_was_and_can_be_given_more() {
    let scratch = Scratch::new("tier");
    let roots: Vec<_> = ["old", "new"].iter().map(|name| scratch.path().join(name)).collect();
    roots.iter().for_each(|root| fs::create_dir(root).unwrap());
    let one = Tier { store: open(&roots[..1]), scratch };
    let source = one.file("source", b"content");
    let stored = one.put(&id("abcdef"), &source, described(Encoding::Raw)).unwrap();
    assert!(!roots[0].join(".sifaka-root").exists() && !roots[0].join(".sifaka-moves").exists());
    let two = Tier { store: open(&roots), scratch: one.scratch };
    assert!(roots.iter().all(|root| root.join(".sifaka-root").exists()));
    assert_eq!(two.get_over(&stored.id, b"", super::suite::expected(&stored)).unwrap().1, b"content");
    for n in 0..100 {
        two.put(&id(&format!("{n:04x}-object")), &source, described(Encoding::Raw)).unwrap();
    }
    assert!((0..100).any(|n| two.homes(&id(&format!("{n:04x}-object"))) == [1]));
}
