//! Small files in packs, through the store.

use crate::harness::{Archive, BLAKE3, described, files_below, hash, id, options, sparse_file};
use crate::watched::Watched;
use model::{Digest, ErrorKind, ObjectId};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use testkit::{FsKind, LoopFs, Random, faults, wait_until};
use transfer::{DigestKind, Encoding, Expected, KernelDurability, PutOptions, Store, Stored, TransferError, Unwatched};

pub(crate) const THRESHOLD: u64 = 64 << 10;

/// With packs.
pub(crate) fn small(encoding: Encoding) -> PutOptions<'static> {
    PutOptions { pack_up_to_bytes: THRESHOLD, ..described(encoding) }
}

/// The proposed id of a file.
pub(crate) fn uuid(number: u32) -> ObjectId {
    id(&format!("0e2f{number:04x}-5ad1-4b6e-9b7a-0a4dd0c8f0aa"))
}

pub(crate) fn content(number: u32, length: usize) -> Vec<u8> {
    let mut content = vec![0; length];
    Random::new(number.into()).fill(&mut content[..length * 2 / 3]);
    content
}

/// An archive with packs, whose syncs can be held up: so files come together in a pack for certain.
pub(crate) struct Packing {
    pub(crate) archive: Archive,
    pub(crate) watched: Arc<Watched>,
}

impl Packing {
    pub(crate) fn new() -> Self {
        let watched = Arc::new(Watched::default());
        let archive = Archive::with_durability(watched.clone());
        Self { archive, watched }
    }

    /// Archives these files: the first as an object of its own, the others in one pack (as far as it has room).
    pub(crate) fn put(&self, files: &[(ObjectId, Vec<u8>)], options: PutOptions) -> Vec<Result<Stored, TransferError>> {
        let hold = self.watched.hold();
        let ends: Vec<_> = files
            .iter()
            .map(|(name, content)| {
                let source = self.archive.file("source", content);
                let staged = self.archive.store.stage(name, &source, options, &Unwatched).unwrap();
                let before = self.watched.started.load(Ordering::SeqCst);
                let (tell, told) = channel();
                self.archive.store.commit(staged, Box::new(move |result| tell.send(result).unwrap()));
                if *name == files[0].0 {
                    let begun = || self.watched.started.load(Ordering::SeqCst) > before;
                    wait_until(Duration::from_secs(60), "the first file's sync", begun);
                }
                told
            })
            .collect();
        drop(hold);
        ends.into_iter().map(|told| told.recv().unwrap()).collect()
    }

    /// Archives `count` files into one pack, and gives their ids and contents.
    pub(crate) fn pack_of(&self, count: u32) -> Vec<(ObjectId, Vec<u8>)> {
        let files: Vec<_> = (0..=count).map(|n| (uuid(n), content(n, 2000))).collect();
        let stored = self.put(&files, small(Encoding::Raw));
        let ids = stored.into_iter().map(|stored| stored.unwrap().id);
        let mut stored: Vec<_> = ids.zip(files.into_iter().map(|(_, content)| content)).collect();
        self.archive.remove(&stored.remove(0).0).unwrap();
        assert_eq!(self.packs().len(), 1);
        stored
    }

    pub(crate) fn packs(&self) -> Vec<PathBuf> {
        let packs = self.archive.store.root().join("packs");
        let mut files = if packs.exists() { files_below(&packs) } else { Vec::new() };
        files.retain(|path| !path.parent().unwrap().to_str().unwrap().ends_with(".d"));
        files
    }

    pub(crate) fn listed(&self) -> BTreeSet<ObjectId> {
        let (listed, ended) = self.listed_as_far_as_possible();
        ended.unwrap();
        listed
    }

    /// What is listed, and whether that is all.
    fn listed_as_far_as_possible(&self) -> (BTreeSet<ObjectId>, Result<(), TransferError>) {
        let mut listed = BTreeSet::new();
        let ended = self.archive.store.list(&mut |id| {
            assert!(listed.insert(id), "listed twice");
            ControlFlow::Continue(())
        });
        (listed, ended)
    }

    /// Restores a member and compares it; the error, if that fails.
    pub(crate) fn restored(&self, id: &ObjectId, content: &[u8]) -> Result<(), TransferError> {
        let expected = Expected { size: Some(content.len() as u64), digest: Some(hash(DigestKind::Blake3, content)) };
        let (restored, found) = self.archive.get_over(id, b"before", expected)?;
        assert!(found == content, "{id}");
        assert_eq!((restored.bytes, restored.digest), (content.len() as u64, expected.digest));
        Ok(())
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[test]
fn files_that_come_together_share_a_pack_and_come_back() {
    let packing = Packing::new();
    let sizes = [10, 0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 200_000];
    let mut number = 0;
    let mut all = BTreeSet::new();
    for encoding in Encoding::ALL {
        let files: Vec<_> = sizes
            .iter()
            .map(|size| {
                number += 1;
                (uuid(number), content(number, *size))
            })
            .collect();
        let stored = packing.put(&files, small(encoding));
        for ((name, content), stored) in files.iter().zip(stored) {
            let stored = stored.unwrap();
            let packed = stored.id.as_str().contains(".pk");
            let alone = *name == files[0].0 || content.len() as u64 > THRESHOLD;
            assert!(stored.id.as_str().starts_with(name.as_str()) && packed != alone, "{stored:?}");
            assert_eq!(stored.bytes, content.len() as u64);
            assert_eq!(stored.digest, Some(hash(DigestKind::Blake3, content)));
            packing.restored(&stored.id, content).unwrap();
            packing.archive.store.verify(&stored.id, Expected::default(), &Unwatched).unwrap();
            let manifest = packing.archive.store.manifest(&stored.id).unwrap().unwrap();
            assert_eq!((&manifest.object, manifest.path.as_slice()), (&stored.id, &b"home/file"[..]));
            let head = packing.archive.store.head(&stored.id).unwrap().unwrap();
            if packed && encoding != Encoding::Raw && content.len() > 1000 {
                assert!(head.encoding == encoding && head.stored_bytes < stored.bytes, "{head:?}");
            }
            all.insert(stored.id);
        }
    }
    assert_eq!(packing.packs().len(), 3, "one for each round");
    assert_eq!(packing.listed(), all);
}

#[test]
fn what_is_expected_is_compared() {
    let packing = Packing::new();
    let stored = packing.pack_of(2);
    let verify = |expected| packing.archive.store.verify(&stored[0].0, expected, &Unwatched);
    for digest in [Digest::Blake3([7; 32]), Digest::Sha1([7; 20])] {
        let error = verify(Expected { size: None, digest: Some(digest) }).unwrap_err();
        assert!(matches!(error, TransferError::Mismatch { .. }), "{error}");
    }
    let error = verify(Expected { size: Some(1999), digest: None }).unwrap_err();
    assert!(error.to_string().contains("2000 bytes, 1999 were archived"), "{error}");
}

#[test]
fn lemurs_hashes_and_foreign_ids_are_not_packed() {
    let packing = Packing::new();
    let sha1: Vec<_> = (0..5).map(|n| (uuid(n), content(n, 100))).collect();
    for stored in
        packing.put(&sha1, PutOptions { pack_up_to_bytes: THRESHOLD, ..options(Encoding::Raw, Some(DigestKind::Sha1)) })
    {
        assert!(!stored.unwrap().id.as_str().contains(".pk"));
    }
    let plain: Vec<_> = (10..15).map(|n| (uuid(n), content(n, 100))).collect();
    for stored in packing.put(&plain, PutOptions { pack_up_to_bytes: THRESHOLD, ..BLAKE3 }) {
        assert!(!stored.unwrap().id.as_str().contains(".pk"), "without a manifest");
    }
    let foreign: Vec<_> = (0..5).map(|n| (id(&format!("abcd{n}")), content(n, 100))).collect();
    for stored in packing.put(&foreign, small(Encoding::Raw)) {
        assert!(!stored.unwrap().id.as_str().contains(".pk"));
    }
    assert!(packing.packs().is_empty());
}

/// The data, then the name: two syncs for all members, and nobody is told before.
#[test]
fn p1_members_are_acknowledged_after_their_pack_and_its_name_are_synced() {
    let packing = Packing::new();
    packing.archive.put(&uuid(999), &packing.archive.file("source", b"x"), small(Encoding::Raw)).unwrap();
    let files: Vec<_> = (0..300).map(|n| (uuid(n), content(n, 500))).collect();
    let before = packing.watched.finished.load(Ordering::SeqCst);
    let stored = packing.put(&files, small(Encoding::Raw));
    let syncs = packing.watched.finished.load(Ordering::SeqCst) - before;
    assert!((4..=10).contains(&syncs), "{syncs} syncs: for one object and one pack");
    let synced = packing.watched.synced_files.lock().clone();
    let pack = packing.packs().remove(0);
    for path in pack.ancestors().take_while(|path| *path != packing.archive.base) {
        let ino = std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        assert!(synced.contains_key(&ino), "{} was not synced", path.display());
    }
    assert!(stored.into_iter().all(|stored| stored.is_ok()));
}

#[test]
fn p1_nothing_is_acknowledged_while_the_sync_of_a_pack_hangs() {
    let packing = Packing::new();
    let hold = packing.watched.hold();
    let (tell, told) = channel();
    for number in 0..50 {
        let source = packing.archive.file("source", &content(number, 100));
        let staged = packing.archive.store.stage(&uuid(number), &source, small(Encoding::Raw), &Unwatched).unwrap();
        let tell = tell.clone();
        packing.archive.store.commit(staged, Box::new(move |result| tell.send(result).unwrap()));
    }
    assert!(told.recv_timeout(Duration::from_millis(300)).is_err(), "acknowledged before any sync has returned");
    assert!(packing.packs().is_empty(), "named before the data is durable");
    drop(hold);
    for _ in 0..50 {
        told.recv().unwrap().unwrap();
    }
}

#[test]
fn p1_a_failed_sync_fails_every_member_and_leaves_nothing() {
    let packing = Packing::new();
    packing.watched.failing.store(true, Ordering::SeqCst);
    let files: Vec<_> = (0..30).map(|n| (uuid(n), content(n, 100))).collect();
    for stored in packing.put(&files, small(Encoding::Raw)) {
        let error = stored.unwrap_err();
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Temporary, 5), "{error}");
    }
    assert!(packing.archive.files().is_empty(), "{:?}", packing.archive.files());
    packing.watched.failing.store(false, Ordering::SeqCst);
    assert!(packing.put(&files, small(Encoding::Raw)).into_iter().all(|stored| stored.is_ok()));
}

#[test]
fn p7_a_full_archive_fails_the_members_and_leaves_nothing() {
    let fs = LoopFs::new(FsKind::Ext4, 64);
    let elsewhere = testkit::Scratch::new("full-pack");
    let archive = Archive::at(&fs.path(), Arc::new(KernelDurability));
    let path = elsewhere.join("source");
    fs::write(&path, vec![9; 60 << 10]).unwrap();
    let source = transfer::OpenFile::for_reading(&path).unwrap();
    let ballast = faults::fill(&fs, 2 << 20);
    let (tell, told) = channel();
    for number in 0..200 {
        let staged = archive.store.stage(&uuid(number), &source, small(Encoding::Raw), &Unwatched).unwrap();
        let tell = tell.clone();
        archive.store.commit(staged, Box::new(move |result| tell.send(result).unwrap()));
    }
    let results: Vec<_> = (0..200).map(|_| told.recv().unwrap()).collect();
    let mut stored = BTreeSet::new();
    for result in results {
        match result {
            Ok(object) => assert!(stored.insert(object.id)),
            Err(error) => assert_eq!((error.kind(), error.errno()), (ErrorKind::Temporary, 28), "{error}"),
        }
    }
    assert!(stored.len() < 200, "12 MB do not fit");
    let mut listed = BTreeSet::new();
    archive
        .store
        .list(&mut |id| {
            listed.insert(id);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(listed, stored);
    assert!(archive.files().iter().all(|file| !file.starts_with(archive.store.root().join(".sifaka-tmp"))));
    drop(ballast);
}

#[test]
fn a_removed_member_is_gone_and_the_others_are_not() {
    let packing = Packing::new();
    let stored = packing.pack_of(20);
    let (gone, kept) = stored.split_at(7);
    for (id, content) in gone {
        packing.restored(id, content).unwrap();
        packing.archive.remove(id).unwrap();
        packing.archive.remove(id).unwrap();
        assert!(matches!(packing.restored(id, content), Err(TransferError::Missing { .. })));
        assert_eq!(packing.archive.store.head(id).unwrap(), None);
    }
    for (id, content) in kept {
        packing.restored(id, content).unwrap();
    }
    assert_eq!(packing.listed(), kept.iter().map(|(id, _)| id.clone()).collect());
    // Another store reads the same: nothing of this is in memory.
    let other = transfer::PosixStore::open(packing.archive.store.root(), Arc::new(KernelDurability)).unwrap();
    assert_eq!(other.head(&gone[0].0).unwrap(), None);
    assert!(other.head(&kept[0].0).unwrap().is_some());
}

#[test]
fn what_never_was_in_a_pack_is_removed_without_a_trace() {
    let packing = Packing::new();
    let stored = packing.pack_of(3);
    let pack = stored[0].0.as_str().split_once(".pk").unwrap().1;
    let files = packing.archive.files();
    for absent in [format!("{}.pk{pack}", uuid(500)), format!("{}.pk00000000aaaabbbbcccc", uuid(1))] {
        packing.archive.remove(&id(&absent)).unwrap();
        let error = packing.restored(&id(&absent), b"").unwrap_err();
        assert!(matches!(error, TransferError::Missing { .. }), "{error}");
    }
    assert_eq!(packing.archive.files(), files);
}

/// A crash between "the pack is durable" and "the result is recorded": the next attempt finds what the first one left.
#[test]
fn p7_what_earlier_attempts_left_is_found_by_the_proposed_id() {
    let packing = Packing::new();
    let began = now_ms();
    let files: Vec<_> = (0..10).map(|n| (uuid(n), content(n, 100))).collect();
    let first = packing.put(&files, small(Encoding::Raw));
    let second = packing.put(&files, small(Encoding::Raw));
    let attempts = |number, since| -> BTreeSet<ObjectId> {
        packing.archive.store.attempts(&uuid(number), since).unwrap().into_iter().collect()
    };
    for (number, (first, second)) in (0..).zip(first.iter().zip(&second)) {
        let both = BTreeSet::from([first.as_ref().unwrap().id.clone(), second.as_ref().unwrap().id.clone()]);
        assert_eq!(attempts(number, began), both);
        // A minute's grace, and not more than that.
        assert_eq!(attempts(number, began + 50_000), both);
        let object = both.iter().filter(|id| !id.as_str().contains(".pk")).cloned().collect();
        assert_eq!(attempts(number, began + 100_000), object, "packs of before");
        for id in &both {
            packing.archive.remove(id).unwrap();
        }
        assert!(attempts(number, began).is_empty());
    }
    assert!(packing.listed().is_empty());
    assert!(attempts(77, 0).is_empty());
}

/// Whatever bit of a pack is flipped: the right content or an error, through every way there is.
#[test]
fn p5_no_flipped_bit_of_a_pack_gets_into_a_file() {
    let packing = Packing::new();
    let stored = packing.pack_of(8);
    let path = packing.packs().remove(0);
    let whole = fs::read(&path).unwrap();
    let pack = OpenOptions::new().write(true).open(&path).unwrap();
    let mut random = Random::new(77);
    let mut refused = 0;
    for _ in 0..400 {
        let (at, bit) = (random.within(0..whole.len() as u64), random.within(0..8));
        let byte = whole[usize::try_from(at).unwrap()];
        pack.write_all_at(&[byte ^ 1 << bit], at).unwrap();
        for (id, content) in &stored {
            match packing.restored(id, content) {
                Ok(()) => {}
                Err(TransferError::Damaged { .. } | TransferError::DamagedChunk { .. }) => refused += 1,
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
        let (listed, ended) = packing.listed_as_far_as_possible();
        let told = matches!(ended, Ok(()) | Err(TransferError::Damaged { .. }));
        let listed = listed.len();
        assert!(told && (listed == stored.len() || ended.is_err()), "byte {at}: {ended:?}");
        assert!(listed == stored.len() || listed + 1 == stored.len(), "byte {at}: the index is read or made anew");
        pack.write_all_at(&[byte], at).unwrap();
    }
    assert!(refused > 200, "most of a pack is members: {refused}");
}

#[test]
fn strangers_in_the_directory_of_packs_are_left_alone() {
    let packing = Packing::new();
    let stored = packing.pack_of(3);
    let pack = packing.packs().remove(0);
    let packs = packing.archive.store.root().join("packs");
    fs::write(packs.join("README"), "x").unwrap();
    fs::write(pack.parent().unwrap().join("00000000aaaabbbbcccc.txt"), "x").unwrap();
    fs::create_dir(packs.join("zzzz")).unwrap();
    // What is named like a pack and is none.
    let directory = pack.parent().unwrap();
    let prefix = directory.file_name().unwrap().to_str().unwrap();
    let fake = |n: u32| directory.join(format!("{prefix}{n:016x}"));
    fs::write(fake(1), b"garbage").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", fake(2)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, fake(3), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    fs::create_dir(fake(4)).unwrap();
    let member = |n: u32| id(&format!("{}.pk{prefix}{n:016x}", uuid(1)));
    for n in 1..=4 {
        let error = packing.restored(&member(n), b"").unwrap_err();
        assert!(!matches!(error, TransferError::Missing { .. }), "{n}: {error}");
    }
    assert_eq!(packing.archive.store.attempts(&uuid(1), now_ms()).unwrap(), [stored[0].0.clone()]);
    for (id, content) in &stored {
        packing.restored(id, content).unwrap();
    }
    packing.archive.store.repack(&mut |_| {}).unwrap();
}

#[test]
fn parts_of_members_are_restored_and_holes_stay_holes() {
    let packing = Packing::new();
    let path = packing.archive.base.join("sparse");
    let whole = sparse_file(&path, 60_000, &[(16_384, 5000)], &mut Random::new(3));
    let source = transfer::OpenFile::for_reading(&path).unwrap();
    for (number, encoding) in (0..).zip([Encoding::Raw, Encoding::Zstd]) {
        let hold = packing.watched.hold();
        let before = packing.watched.started.load(Ordering::SeqCst);
        let (tell, told) = channel();
        for n in 0..3 {
            let staged = packing.archive.store.stage(&uuid(10 * number + n), &source, small(encoding), &Unwatched);
            let tell = tell.clone();
            packing.archive.store.commit(staged.unwrap(), Box::new(move |result| tell.send(result).unwrap()));
            let begun = || packing.watched.started.load(Ordering::SeqCst) > before;
            wait_until(Duration::from_secs(60), "the first file's sync", begun);
        }
        drop(hold);
        let stored = (0..3).map(|_| told.recv().unwrap().unwrap()).find(|stored| stored.id.as_str().contains(".pk"));
        let stored = stored.unwrap();
        let target = packing.archive.base.join("target");
        let expected = Expected { size: Some(60_000), digest: Some(hash(DigestKind::Blake3, &whole)) };
        let restore = |extent| {
            fs::write(&target, vec![7; 60_000]).unwrap();
            let file = transfer::OpenFile::for_writing(&target).unwrap();
            packing.archive.store.get_range(&stored.id, &file, extent, expected, &Unwatched).unwrap()
        };
        // One chunk: all of it, whatever is asked for.
        assert_eq!(restore(model::Extent { offset: 100, length: 1 }).bytes, 60_000);
        assert!(fs::read(&target).unwrap() == whole);
        assert_eq!(restore(model::Extent { offset: 60_000, length: 1 }).bytes, 0);
        assert!(fs::read(&target).unwrap() == vec![7; 60_000]);
        restore(model::Extent::WHOLE);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&target).unwrap());
        assert!(blocks * 512 <= 16_384, "{blocks} blocks: the holes are not back");
    }
}
