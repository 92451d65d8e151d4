//! What goes in comes out, whatever it is and however it is stored.

use crate::harness::{Archive, described, hash, id, options, sparse_file};
use model::limits::CHUNK_SIZE_BYTES;
use proptest::prelude::*;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use testkit::{FsKind, LoopFs, Random};
use transfer::copy::hash_file;
use transfer::{DigestKind, Encoding, Expected, KernelDurability, OpenFile, PutOptions, Store, Unwatched};

const CHUNK: u64 = CHUNK_SIZE_BYTES as u64;

/// Archives a file and restores it over stale bytes of several sizes.
fn round_trip(archive: &Archive, source: &OpenFile, content: &[u8], encoding: Encoding, kind: DigestKind) {
    round_trip_as(archive, source, content, encoding, kind, options(encoding, Some(kind)));
    if kind == DigestKind::Blake3 {
        round_trip_as(archive, source, content, encoding, kind, described(encoding));
    }
}

fn round_trip_as(
    archive: &Archive,
    source: &OpenFile,
    content: &[u8],
    encoding: Encoding,
    kind: DigestKind,
    options: PutOptions<'_>,
) {
    let stored = archive.put(&id("0e2f9a7c-aaaa"), source, options).unwrap();
    assert_eq!(archive.files().len(), 1 + usize::from(options.origin.is_some()));
    assert_eq!(stored.id.as_str(), format!("0e2f9a7c-aaaa{}", encoding.suffix()));
    assert_eq!((stored.bytes, stored.digest), (content.len() as u64, Some(hash(kind, content))));
    let expected = Expected { size: Some(stored.bytes), digest: stored.digest };
    for stale in [0, content.len(), content.len() + 5000] {
        let (restored, found) = archive.get_over(&stored.id, &vec![0xa5; stale], expected).unwrap();
        assert!(found == content, "{encoding:?} over {stale} stale bytes differs");
        assert_eq!(restored.digest, stored.digest);
    }
    assert_eq!(archive.store.verify(&stored.id, expected, &Unwatched).unwrap().bytes, stored.bytes);
    assert_eq!(archive.store.head(&stored.id).unwrap().unwrap().encoding, encoding);
    archive.remove(&stored.id).unwrap();
    assert_eq!(archive.store.head(&stored.id).unwrap(), None);
    assert!(archive.files().is_empty(), "{:?}", archive.files());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn files_with_holes_come_back(
        size in 0..12 * CHUNK,
        pieces in prop::collection::vec((0..12 * CHUNK, 1..3 * CHUNK), 0..6),
        encoding in prop::sample::select(Encoding::ALL.to_vec()),
        seed: u64,
    ) {
        let archive = Archive::new();
        let path = archive.base.join("source");
        let pieces: Vec<_> = pieces.into_iter().filter(|(offset, _)| *offset < size).collect();
        let content = sparse_file(&path, size, &pieces, &mut Random::new(seed));
        let source = OpenFile::for_reading(&path).unwrap();
        round_trip(&archive, &source, &content, encoding, DigestKind::Blake3);
        let (bytes, digest) = hash_file(&source, DigestKind::Blake3, &Unwatched).unwrap();
        prop_assert_eq!((bytes, digest), (size, hash(DigestKind::Blake3, &content)));
    }
}

/// Holes stay holes both ways, also where stale data was; on each filesystem, because each has its own idea of them.
#[test]
fn holes_take_no_space_in_the_archive_nor_after_a_restore() {
    for kind in FsKind::ALL {
        let fs = LoopFs::new(kind, 512);
        let archive = Archive::at(&fs.path(), Arc::new(KernelDurability));
        let path = archive.base.join("source");
        let content = sparse_file(&path, 64 * CHUNK, &[(0, 5000), (20 * CHUNK, CHUNK)], &mut Random::new(3));
        let source = OpenFile::for_reading(&path).unwrap();
        let plain = Encoding::ALL.map(|encoding| options(encoding, Some(DigestKind::Blake3)));
        for options in plain.into_iter().chain(Encoding::ALL.map(described)) {
            let encoding = options.compression;
            let stored = archive.put(&id("abcdef"), &source, options).unwrap();
            let object = fs::metadata(archive.object(&stored.id)).unwrap();
            assert!(object.blocks() * 512 < 3 * CHUNK, "{kind:?} {encoding:?}: {} blocks", object.blocks());
            let expected = Expected { size: Some(stored.bytes), digest: stored.digest };
            let (_, found) = archive.get_over(&stored.id, &vec![7; content.len()], expected).unwrap();
            assert!(found == content, "{kind:?} {encoding:?}");
            let restored = fs::metadata(archive.base.join("restored")).unwrap();
            assert!(restored.blocks() * 512 < 5 * CHUNK, "{kind:?} {encoding:?}: {} blocks", restored.blocks());
            archive.remove(&stored.id).unwrap();
        }
    }
}

#[test]
fn a_stray_file_is_no_object() {
    let archive = Archive::new();
    let source = archive.file("source", b"x");
    archive.put(&id("0102-object"), &source, described(Encoding::Raw)).unwrap();
    fs::write(archive.store.root().join("objects/stray"), b"").unwrap();
    let mut listed = Vec::new();
    let mut collect = |id: model::ObjectId| {
        listed.push(id.to_string());
        ControlFlow::Continue(())
    };
    archive.store.list(&mut collect).unwrap();
    archive.store.list_manifests(&mut collect).unwrap();
    assert_eq!(listed, ["0102-object"; 2]);
}

/// An agent that never heard what became of an attempt removes by the id that it proposed; whoever has a list removes what it lists.
#[test]
fn p7_a_proposed_id_is_removed_in_every_encoding_and_a_listed_one_by_itself() {
    let archive = Archive::new();
    let source = archive.file("source", b"the same content");
    let proposed = id("0e2f9a7c-bbbb");
    let stored = archive.put(&proposed, &source, described(Encoding::Zstd)).unwrap().id;
    // What an attempt before this one left.
    for leftover in [archive.object(&proposed), archive.manifest(&proposed)] {
        fs::write(leftover, b"a leftover").unwrap();
    }
    let exactly = |name| {
        let (tell, told) = std::sync::mpsc::channel();
        archive.store.remove_exactly(name, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap().unwrap();
    };
    exactly(&proposed);
    assert!(!archive.object(&proposed).exists() && !archive.manifest(&proposed).exists());
    assert!(archive.object(&stored).exists() && archive.manifest(&stored).exists());
    archive.remove(&proposed).unwrap();
    assert!(archive.files().iter().all(|file| file == source.path()), "{:?}", archive.files());
}
