//! Parts of an object, each verified before it is written; and records without content.

use crate::harness::{Archive, described, hash, id, options, sparse_file};
use model::{Digest, ErrorKind, Extent};
use proptest::prelude::*;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::mpsc::channel;
use testkit::Random;
use transfer::manifest::{Kind, describe_beneath};
use transfer::{DigestKind, Encoding, Expected, OpenFile, Store, Stored, TransferError, Unwatched};

const MIB: u64 = 1 << 20;
const STALE: u8 = 0xa5;

fn expected(stored: &Stored) -> Expected {
    Expected { size: Some(stored.bytes), digest: stored.digest }
}

/// Gets an extent into a file of `size` stale bytes, and gives back what it holds then.
fn range_over(
    archive: &Archive,
    stored: &Stored,
    size: u64,
    extent: Extent,
) -> Result<(u64, Vec<u8>), (TransferError, Vec<u8>)> {
    let path = archive.base.join("restored");
    fs::write(&path, vec![STALE; usize::try_from(size).unwrap()]).unwrap();
    let target = OpenFile::for_writing(&path).unwrap();
    let result = archive.store.get_range(&stored.id, &target, extent, expected(stored), &Unwatched);
    let found = fs::read(&path).unwrap();
    result.map(|restored| (restored.bytes, found.clone())).map_err(|error| (error, found))
}

/// What a file of stale bytes holds after the chunks that touch the extent came.
fn with_chunks(content: &[u8], size: u64, extent: Extent) -> (u64, Vec<u8>) {
    let (offset, length) = extent.within(content.len() as u64);
    let (from, to) = (offset / MIB * MIB, (offset + length).next_multiple_of(MIB).min(content.len() as u64));
    let mut found = vec![STALE; usize::try_from(size).unwrap()];
    if length == 0 {
        return (0, found);
    }
    let end = to.min(size);
    if from < end {
        let (from, end) = (usize::try_from(from).unwrap(), usize::try_from(end).unwrap());
        found[from..end].copy_from_slice(&content[from..end]);
    }
    (to - from, found)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn exactly_the_chunks_that_touch_a_range_come(
        size in prop_oneof![Just(0), 1..6 * MIB, Just(4 * MIB)],
        pieces in prop::collection::vec((0..6 * MIB, 1..2 * MIB), 0..4),
        encoding in prop::sample::select(Encoding::ALL.to_vec()),
        extents in prop::collection::vec((0..7 * MIB, prop_oneof![0..3 * MIB, Just(u64::MAX)]), 1..5),
        cut in prop_oneof![3 => Just(0u64), 1 => 0..3 * MIB],
        seed: u64,
    ) {
        let archive = Archive::new();
        let path = archive.base.join("source");
        let pieces: Vec<_> = pieces.into_iter().filter(|(offset, _)| *offset < size).collect();
        let content = sparse_file(&path, size, &pieces, &mut Random::new(seed));
        let source = OpenFile::for_reading(&path).unwrap();
        let stored = archive.put(&id("abcdef"), &source, described(encoding)).unwrap();
        prop_assert_eq!(stored.digest, Some(hash(DigestKind::Blake3, &content)));
        for (offset, length) in extents {
            let extent = Extent { offset, length };
            let target_size = size.saturating_sub(cut);
            let found = range_over(&archive, &stored, target_size, extent).unwrap();
            prop_assert!(found == with_chunks(&content, target_size, extent), "{:?} of {}", extent, size);
        }
    }
}

#[test]
fn a_hole_is_made_one_again_and_takes_no_space() {
    let archive = Archive::new();
    let path = archive.base.join("source");
    let content = sparse_file(&path, 16 * MIB, &[(5000, 9000), (9 * MIB, MIB)], &mut Random::new(3));
    let source = OpenFile::for_reading(&path).unwrap();
    for encoding in Encoding::ALL {
        let stored = archive.put(&id("abcdef"), &source, described(encoding)).unwrap();
        let (_, found) = range_over(&archive, &stored, 16 * MIB, Extent { offset: 0, length: 12 * MIB }).unwrap();
        assert!(found[..12 << 20] == content[..12 << 20] && found[12 << 20..].iter().all(|byte| *byte == STALE));
        let blocks = fs::metadata(archive.base.join("restored")).unwrap().blocks();
        assert!(blocks * 512 < 6 * MIB, "{encoding:?}: {blocks} blocks");
    }
}

#[test]
fn a_range_without_a_usable_manifest_is_refused_as_unsupported() {
    let archive = Archive::new();
    let content = vec![3; 3 << 20];
    let source = archive.file("source", &content);
    let whole = Extent::WHOLE;
    let refused = |stored: &Stored, why: &str| {
        let (error, found) = range_over(&archive, stored, 100, whole).unwrap_err();
        assert!(matches!(error, TransferError::NoManifest { .. }), "{why}: {error}");
        assert_eq!((error.errno(), error.kind()), (95, ErrorKind::Permanent), "{why}");
        assert!(found.iter().all(|byte| *byte == STALE), "{why}");
        // The whole comes back all the same.
        let restored = archive.get_over(&stored.id, b"", Expected { size: Some(3 << 20), ..Expected::default() });
        assert!(restored.unwrap().1 == content, "{why}");
    };
    for kind in [None, Some(DigestKind::Sha1), Some(DigestKind::Blake3)] {
        let stored = archive.put(&id("abcdef"), &source, options(Encoding::Raw, kind)).unwrap();
        refused(&stored, "none there");
    }
    let stored = archive.put(&id("abcdef"), &source, described(Encoding::Raw)).unwrap();
    refused(&Stored { digest: None, ..stored.clone() }, "no hash");
    refused(&Stored { digest: Some(Digest::Blake3([1; 32])), ..stored.clone() }, "another hash");
    let manifest = archive.manifest(&stored.id);
    let bytes = fs::read(&manifest).unwrap();
    for (what, garbage) in [("empty", vec![]), ("cut", bytes[..150].to_vec()), ("garbage", vec![7; 5000])] {
        fs::write(&manifest, garbage).unwrap();
        refused(&stored, what);
        let restored = archive.get_over(&stored.id, b"", expected(&stored)).unwrap();
        assert!(restored.1 == content, "{what}");
    }
    fs::write(&manifest, bytes).unwrap();
    assert!(range_over(&archive, &stored, 3 << 20, whole).unwrap().1 == content);
    let missing = Stored { id: id("abcdeg"), ..stored };
    assert!(matches!(range_over(&archive, &missing, 9, whole).unwrap_err().0, TransferError::Missing { .. }));
}

#[test]
fn a_damaged_chunk_is_named_and_the_others_come() {
    let archive = Archive::new();
    let mut content = vec![0; 5 << 20];
    Random::new(2).fill(&mut content);
    let source = archive.file("source", &content);
    for encoding in Encoding::ALL {
        let stored = archive.put(&id("abcdef"), &source, described(encoding)).unwrap();
        let object = OpenOptions::new().read(true).write(true).open(archive.object(&stored.id)).unwrap();
        let mut byte = [0];
        object.read_exact_at(&mut byte, 5 << 19).unwrap();
        object.write_all_at(&[byte[0] ^ 1], 5 << 19).unwrap();
        for chunk in 0..5 {
            let result = range_over(&archive, &stored, 5 * MIB, Extent { offset: chunk * MIB + 5, length: 1 });
            if chunk != 2 {
                let extent = Extent { offset: chunk * MIB, length: 1 };
                assert!(result.unwrap() == with_chunks(&content, 5 * MIB, extent), "{encoding:?} {chunk}");
                continue;
            }
            let (error, found) = result.unwrap_err();
            let named = matches!(error, TransferError::DamagedChunk { offset: 0x20_0000, length: MIB, .. });
            assert!(named && error.errno() == 5, "{encoding:?}: {error}");
            assert!(error.to_string().contains("from byte 2097152 to byte 3145728"), "{error}");
            assert!(found.iter().all(|byte| *byte == STALE), "a wrong byte was written");
        }
        let error = archive.get_over(&stored.id, &vec![STALE; 5 << 20], expected(&stored)).unwrap_err();
        assert!(matches!(error, TransferError::DamagedChunk { .. }), "{error}");
        let found = fs::read(archive.base.join("restored")).unwrap();
        assert!(found.iter().zip(&content).all(|(found, right)| found == right || *found == STALE));
    }
}

#[test]
fn a_record_is_kept_listed_replaced_and_removed() {
    let archive = Archive::new();
    fs::create_dir(archive.base.join("dir")).unwrap();
    let base = File::open(&archive.base).unwrap();
    let name = id("0e2f9a7c-record");
    for (path, expected) in [("dir", Kind::Directory), ("", Kind::Directory)] {
        let (description, kind) = describe_beneath(&base, path.as_bytes(), [5; 8]).unwrap();
        assert_eq!(kind, expected);
        let record = description.with_kind(name.clone(), kind);
        let (tell, told) = channel();
        archive.store.put_record(&record, Box::new(move |result| tell.send(result).unwrap()));
        assert_eq!(told.recv().unwrap().unwrap(), Stored { id: name.clone(), bytes: 0, digest: None });
        assert_eq!(archive.store.manifest(&name).unwrap(), Some(record));
        assert_eq!(archive.files(), [archive.manifest(&name)]);
    }
    assert_eq!(archive.store.head(&name).unwrap(), None);
    let mut listed = 0;
    let mut count = |_| {
        listed += 1;
        std::ops::ControlFlow::Continue(())
    };
    archive.store.list(&mut count).unwrap();
    assert_eq!(listed, 0);
    for _ in 0..2 {
        archive.remove(&name).unwrap();
        assert!(archive.files().is_empty());
        assert_eq!(archive.store.manifest(&name).unwrap(), None);
    }
}

#[test]
fn an_object_s_manifest_says_what_it_is() {
    let archive = Archive::new();
    let source = archive.file("source", &[b'x'; 5000]);
    let stored = archive.put(&id("abcdef"), &source, described(Encoding::Zstd)).unwrap();
    let manifest = archive.store.manifest(&stored.id).unwrap().unwrap();
    assert_eq!((manifest.object.as_str(), manifest.path.as_slice()), ("abcdef.zst", b"home/file".as_slice()));
    let content = manifest.content().unwrap();
    assert_eq!(Some(Digest::Blake3(content.hash)), stored.digest);
    assert_eq!((content.size, content.encoding), (5000, Encoding::Zstd));
    assert_eq!(content.stored_bytes, fs::metadata(archive.object(&stored.id)).unwrap().len());
    // A name that would be a manifest's is nobody's.
    let reserved = id("abcdef.manifest");
    let error = archive.put(&reserved, &source, described(Encoding::Raw)).unwrap_err();
    assert!(matches!(error, TransferError::Reserved(_)), "{error}");
    assert!(matches!(archive.store.head(&reserved), Err(TransferError::Reserved(_))));
    assert!(matches!(archive.remove(&reserved), Err(TransferError::Reserved(_))));
    assert_eq!(archive.files().len(), 2);
}

/// `zstd -d` and `gzip -d` know nothing of chunks.
#[test]
fn other_programs_read_the_frames_as_one_content() {
    let archive = Archive::new();
    let content: Vec<u8> = (0..3 << 20).map(|n: u32| (n / 1000) as u8).collect();
    let source = archive.file("source", &content);
    for (encoding, program) in [(Encoding::Zstd, "zstd"), (Encoding::Gzip, "gzip")] {
        let stored = archive.put(&id("abcdef"), &source, described(encoding)).unwrap();
        let object = archive.object(&stored.id);
        let output = std::process::Command::new(program).args(["-d", "-c"]).arg(object).output().unwrap();
        assert!(output.status.success() && output.stdout == content, "{program}");
        // Nor does a restore without the manifest.
        fs::remove_file(archive.manifest(&stored.id)).unwrap();
        assert!(archive.get_over(&stored.id, b"", expected(&stored)).unwrap().1 == content);
    }
}
