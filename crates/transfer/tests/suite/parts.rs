//! Parts of an object, each verified before it is written.

use super::{Bed, Calls, Half, described, expected, id, plain};
use model::{Digest, ErrorKind, Extent};
use std::fs;
use std::path::Path;
use testkit::Random;
use transfer::{DigestKind, Encoding, Expected, OpenFile, Store, Stored, TransferError, Unwatched};

const MIB: u64 = 1 << 20;
pub(crate) const STALE: u8 = 0xa5;

/// Gets an extent into a file of `size` stale bytes, and gives back what it holds then.
pub(crate) fn range_over<S: Store>(
    (store, base): (&S, &Path),
    stored: &Stored,
    size: u64,
    extent: Extent,
) -> Result<(u64, Vec<u8>), (TransferError, Vec<u8>)> {
    let path = base.join("restored");
    fs::write(&path, vec![STALE; usize::try_from(size).unwrap()]).unwrap();
    let target = OpenFile::for_writing(&path).unwrap();
    let result = store.get_range(&stored.id, &target, extent, expected(stored), &Unwatched);
    let found = fs::read(&path).unwrap();
    result.map(|restored| (restored.bytes, found.clone())).map_err(|error| (error, found))
}

/// What a file of stale bytes holds after the chunks that touch the extent came.
pub(crate) fn with_chunks(content: &[u8], size: u64, extent: Extent) -> (u64, Vec<u8>) {
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

pub(crate) fn exactly_the_chunks_that_touch_a_range_come<B: Bed>() {
    let bed = B::new();
    let mut random = Random::new(8);
    for size in [0, 1, MIB, 3 * MIB + 77, 21 * MIB + 5] {
        let mut content = vec![b'y'; usize::try_from(size).unwrap()];
        random.fill(&mut content[..usize::try_from(size / 2).unwrap()]);
        let source = bed.file("source", &content);
        for encoding in Encoding::ALL {
            let stored = bed.put(&id("abcdef"), &source, described(encoding)).unwrap();
            let end = size.max(1);
            let mut extents = vec![Extent::WHOLE, Extent { offset: 0, length: 0 }, Extent { offset: size, length: 1 }];
            for _ in 0..3 {
                extents.push(Extent { offset: random.within(0..end), length: random.within(0..end) });
                extents.push(Extent { offset: random.within(0..end), length: 1 });
            }
            for extent in extents {
                for target in [size, size / 2] {
                    let found = range_over((bed.store(), bed.base()), &stored, target, extent).unwrap();
                    assert!(found == with_chunks(&content, target, extent), "{encoding:?} {extent:?} of {size}");
                }
            }
            bed.remove(&stored.id).unwrap();
        }
    }
}

pub(crate) fn a_range_without_a_usable_manifest_is_refused_as_unsupported<B: Bed>() {
    let bed = B::new();
    let content = vec![3; 3 << 20];
    let source = bed.file("source", &content);
    let whole = Extent::WHOLE;
    let again = |kind| transfer::PutOptions { repeated: true, ..plain(Encoding::Raw, kind) };
    let refused = |stored: &Stored, why: &str| {
        let (error, found) = range_over((bed.store(), bed.base()), stored, 100, whole).unwrap_err();
        assert!(matches!(error, TransferError::NoManifest { .. }), "{why}: {error}");
        assert_eq!((error.errno(), error.kind()), (95, ErrorKind::Permanent), "{why}");
        assert!(found.iter().all(|byte| *byte == STALE), "{why}");
        // The whole comes back all the same.
        let restored = bed.get_over(&stored.id, b"", Expected { size: Some(3 << 20), ..Expected::default() });
        assert!(restored.unwrap().1 == content, "{why}");
    };
    for kind in [None, Some(DigestKind::Sha1), Some(DigestKind::Blake3)] {
        refused(&bed.put(&id("abcdef"), &source, again(kind)).unwrap(), "none there");
    }
    let stored = bed.put(&id("abcdef"), &source, described(Encoding::Raw)).unwrap();
    refused(&Stored { digest: None, ..stored.clone() }, "no hash");
    refused(&Stored { digest: Some(Digest::Blake3([1; 32])), ..stored.clone() }, "another hash");
    let bytes = bed.read(&stored.id, Half::Manifest);
    for (what, garbage) in [("empty", vec![]), ("cut", bytes[..150].to_vec()), ("garbage", vec![7; 1000])] {
        bed.write(&stored.id, Half::Manifest, &garbage);
        refused(&stored, what);
        assert!(bed.get_over(&stored.id, b"", expected(&stored)).unwrap().1 == content, "{what}");
    }
    bed.write(&stored.id, Half::Manifest, &bytes);
    assert!(range_over((bed.store(), bed.base()), &stored, 3 << 20, whole).unwrap().1 == content);
}

pub(crate) fn p5_a_damaged_chunk_is_named_and_the_others_come<B: Bed>() {
    let bed = B::new();
    let mut content = vec![0; 9 << 20];
    Random::new(2).fill(&mut content);
    let source = bed.file("source", &content);
    for encoding in Encoding::ALL {
        let stored = bed.put(&id("abcdef"), &source, described(encoding)).unwrap();
        let mut bytes = bed.read(&stored.id, Half::Object);
        bytes[5 << 19] ^= 1;
        bed.write(&stored.id, Half::Object, &bytes);
        for chunk in [0, 1, 2, 3, 8] {
            let result =
                range_over((bed.store(), bed.base()), &stored, 9 * MIB, Extent { offset: chunk * MIB + 5, length: 1 });
            if chunk != 2 {
                let extent = Extent { offset: chunk * MIB, length: 1 };
                assert!(result.unwrap() == with_chunks(&content, 9 * MIB, extent), "{encoding:?} {chunk}");
                continue;
            }
            let (error, found) = result.unwrap_err();
            let named = matches!(error, TransferError::DamagedChunk { offset: 0x20_0000, length: MIB, .. });
            assert!(named && error.errno() == 5, "{encoding:?}: {error}");
            assert!(error.to_string().contains("from byte 2097152 to byte 3145728"), "{error}");
            assert!(found.iter().all(|byte| *byte == STALE), "a wrong byte was written");
        }
        let error = bed.get_over(&stored.id, &vec![STALE; 9 << 20], expected(&stored)).unwrap_err();
        assert!(matches!(error, TransferError::DamagedChunk { .. }), "{error}");
        let found = fs::read(bed.base().join("restored")).unwrap();
        assert!(found.iter().zip(&content).all(|(found, right)| found == right || *found == STALE));
        bed.remove(&stored.id).unwrap();
    }
}
