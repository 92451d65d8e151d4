//! Parts of an object on a filesystem: any of them, holes, and what other programs make of it.

use crate::harness::{Archive, described, hash, id, sparse_file};
use crate::suite::expected;
use crate::suite::parts::{STALE, range_over, with_chunks};
use model::Extent;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use testkit::Random;
use transfer::{DigestKind, Encoding, OpenFile};

const MIB: u64 = 1 << 20;

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
            let found = range_over((&archive.store, &archive.base), &stored, target_size, extent).unwrap();
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
        let (_, found) =
            range_over((&archive.store, &archive.base), &stored, 16 * MIB, Extent { offset: 0, length: 12 * MIB })
                .unwrap();
        assert!(found[..12 << 20] == content[..12 << 20] && found[12 << 20..].iter().all(|byte| *byte == STALE));
        let blocks = fs::metadata(archive.base.join("restored")).unwrap().blocks();
        assert!(blocks * 512 < 6 * MIB, "{encoding:?}: {blocks} blocks");
    }
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
