//! What earlier attempts left in packs is found, and looking for it does not open every pack for every file.

use crate::harness::{Archive, id};
use crate::packs::{Packing, content, small};
use model::ObjectId;
use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use transfer::pack::{MemberId, MemberName, NewMember, PackId, PackWriter};
use transfer::{Encoding, KernelDurability, PosixStore, Store};

/// Numbers of files that no test looks for.
const OTHERS: u32 = 1 << 30;

fn name(number: u32) -> ObjectId {
    id(&format!("{:08x}-5ad1-4b6e-9b7a-0a4dd0c8f0aa", number.wrapping_mul(0x9e37_79b1)))
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

impl Packing {
    /// Makes a pack of these, and gives the ids of its members.
    fn pack(&self, numbers: std::ops::Range<u32>) -> Vec<ObjectId> {
        // The first file becomes an object of its own, as would one that nothing else came with.
        let others = [OTHERS, OTHERS + 1].into_iter();
        let files: Vec<_> = others.chain(numbers).map(|n| (name(n), content(n, 100))).collect();
        let stored = self.put(&files, small(Encoding::Raw)).into_iter().skip(2).map(|stored| stored.unwrap().id);
        let stored: Vec<_> = stored.collect();
        assert!(stored.iter().all(|id| id.as_str().contains(".pk")), "{stored:?}");
        stored
    }
}

fn attempts(store: &PosixStore, number: u32, since_ms: u64) -> BTreeSet<ObjectId> {
    store.attempts(&name(number), since_ms).unwrap().into_iter().collect()
}

/// How often this process has read from a file.
fn reads() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap().parse().unwrap()
}

#[test]
fn each_pack_is_read_once_and_not_for_every_file() {
    const PACKS: u32 = 40;
    let (packing, began) = (Packing::new(), now_ms());
    let stored: Vec<_> = (0..PACKS).map(|n| packing.pack(n * 3..n * 3 + 3)).collect();
    assert_eq!(packing.packs().len(), PACKS as usize);
    // Another process, which finds the packs there.
    let other = Archive::at(&packing.archive.base, Arc::new(KernelDurability));
    let before = reads();
    for number in 1_000_000..1_000_200 {
        assert!(attempts(&other.store, number, began).is_empty());
    }
    let read = reads() - before;
    assert!(read < u64::from(PACKS) * 10, "{read} reads in {PACKS} packs for 200 files of which they have none");
    for (n, ids) in stored.iter().enumerate() {
        for (member, id) in ids.iter().enumerate() {
            let number = u32::try_from(n * 3 + member).unwrap();
            assert_eq!(attempts(&other.store, number, began), BTreeSet::from([id.clone()]));
        }
    }
}

/// The store that asks has made some packs itself, and others come while it asks.
#[test]
fn p7_attempts_are_found_whoever_made_their_packs_and_when() {
    let (first, began) = (Packing::new(), now_ms());
    let second = PosixStore::open(first.archive.store.root(), Arc::new(KernelDurability)).unwrap();
    first.pack(100..101);
    let mut stored = Vec::new();
    for round in 0..20u32 {
        // Both know of everything so far when the next pack comes, and neither expects it.
        for store in [&first.archive.store, &second] {
            assert!(attempts(store, round, began).is_empty());
        }
        stored.extend(first.pack(round..round + 1));
        for (number, id) in (0..).zip(&stored) {
            for store in [&first.archive.store, &second] {
                assert_eq!(attempts(store, number, began), BTreeSet::from([id.clone()]), "round {round}");
            }
        }
    }
    // A second attempt, and a removal.
    let again = first.pack(3..4);
    let both = BTreeSet::from([again[0].clone(), stored[3].clone()]);
    assert_eq!((attempts(&first.archive.store, 3, began), attempts(&second, 3, began)), (both.clone(), both));
    first.archive.remove(&stored[3]).unwrap();
    let left: BTreeSet<_> = again.into_iter().collect();
    assert_eq!((attempts(&first.archive.store, 3, began), attempts(&second, 3, began)), (left.clone(), left));
}

/// A pack of one member that was begun then.
fn pack_of_before(store: &PosixStore, number: u32, began: SystemTime) -> ObjectId {
    let (pack, name) = (PackId::new(began), MemberName::parse(name(number).as_str()).unwrap());
    let path = store.root().join("packs").join(&pack.to_string()[..4]);
    fs::create_dir_all(&path).unwrap();
    let mut writer = PackWriter::begin(pack, fs::File::create(path.join(pack.to_string())).unwrap()).unwrap();
    writer.add(&NewMember::new(name, b"described".to_vec(), b"content".to_vec(), None).unwrap()).unwrap();
    writer.finish().unwrap();
    MemberId { pack, name }.object_id().unwrap()
}

/// Whoever asks for longer ago than anybody before finds what is older too.
#[test]
fn p7_a_look_further_back_finds_older_packs() {
    let (packing, now) = (Packing::new(), SystemTime::now());
    let store = &packing.archive.store;
    let age = |hours: u64| Duration::from_secs(hours * 3600);
    let since = |hours: u64| now_ms() - u64::try_from(age(hours).as_millis()).unwrap();
    let stored = packing.pack(0..1);
    let old: Vec<_> = [1, 30, 60].map(|hours| pack_of_before(store, 0, now - age(hours))).into();
    let found = |count: usize| -> BTreeSet<ObjectId> { stored.iter().chain(&old[..count]).cloned().collect() };
    for (hours, count) in [(0, 0), (2, 1), (31, 2), (61, 3), (31, 2), (0, 0)] {
        assert_eq!(attempts(store, 0, since(hours)), found(count), "{hours} hours");
        assert!(attempts(store, 1, since(hours)).is_empty());
    }
    // Into a directory that nothing has come into for long.
    let late = pack_of_before(store, 1, now - age(59));
    assert_eq!(attempts(store, 1, since(61)), BTreeSet::from([late]));
}

/// One bad pack neither hides the others nor stops what is asked for.
#[test]
fn a_damaged_pack_is_looked_into_as_far_as_it_can_be_read() {
    let (packing, began) = (Packing::new(), now_ms());
    let mut stored = packing.pack(0..3);
    let path = packing.packs().remove(0);
    stored.extend(packing.pack(3..4));
    // Footer and half of the index.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(fs::metadata(&path).unwrap().len() - 72 - 48).unwrap();
    fs::write(path.with_file_name(PackId::new(SystemTime::now()).to_string()), b"no pack").unwrap();
    for (number, id) in (0..).zip(stored) {
        assert_eq!(attempts(&packing.archive.store, number, began), BTreeSet::from([id]));
    }
    assert!(attempts(&packing.archive.store, 4, began).is_empty());
}
