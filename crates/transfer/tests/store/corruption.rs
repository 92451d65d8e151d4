//! P5: bits that flipped in the archive are found, wherever they are, and nothing of what they touched is served.

use crate::harness::{Archive, described, id};
use model::Extent;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use testkit::Random;
use transfer::manifest::{ChunkTable, Manifest};
use transfer::{Encoding, Expected, OpenFile, Store, Stored, TransferError, Unwatched};

const MIB: usize = 1 << 20;
const STALE: u8 = 0xa5;
/// Of all tests of this file together there are more than 10,000 flips.
const FLIPS_OF_EACH: usize = 2_500;

/// An archived file, and a target that is used over and over.
struct Case {
    archive: Archive,
    content: Vec<u8>,
    stale: Vec<u8>,
    stored: Stored,
    target: PathBuf,
}

/// What a restore came to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Right,
    Damaged,
    NoManifest,
}

impl Case {
    /// Half of the content compresses, and none of it is a stale byte.
    fn new(encoding: Encoding, size: usize) -> Self {
        let archive = Archive::new();
        let mut content = vec![b'x'; size];
        Random::new(11).fill(&mut content[size / 3..]);
        content.iter_mut().filter(|byte| **byte == STALE).for_each(|byte| *byte = 0);
        let stored = archive.put(&id("abcdef"), &archive.file("source", &content), described(encoding)).unwrap();
        let target = archive.base.join("target");
        let stale = vec![STALE; size];
        fs::write(&target, &stale).unwrap();
        Self { archive, content, stale, stored, target }
    }

    fn object(&self) -> PathBuf {
        self.archive.object(&self.stored.id)
    }

    fn manifest(&self) -> PathBuf {
        self.archive.manifest(&self.stored.id)
    }

    /// Restores the whole, or what touches `extent`; and makes sure that the target holds no wrong byte, and everything if it is said to.
    fn restore(&self, extent: Option<Extent>) -> Outcome {
        let target = OpenFile::for_writing(&self.target).unwrap();
        let expected = Expected { size: Some(self.stored.bytes), digest: self.stored.digest };
        let (store, id) = (&self.archive.store, &self.stored.id);
        let result = match extent {
            Some(extent) => store.get_range(id, &target, extent, expected, &Unwatched),
            None => store.get(id, &target, expected, &Unwatched),
        };
        let found = fs::read(&self.target).unwrap();
        assert_eq!(found.len(), self.content.len());
        let chunks = found.chunks(MIB).zip(self.content.chunks(MIB)).zip(self.stale.chunks(MIB));
        let right: Vec<bool> = chunks
            .map(|((found, right), stale)| {
                assert!(found == right || found == stale, "a wrong byte was written");
                found == right
            })
            .collect();
        if right.contains(&true) {
            // In place: a file that is truncated first is written back when it is closed.
            OpenOptions::new().write(true).open(&self.target).unwrap().write_all_at(&self.stale, 0).unwrap();
        }
        match result {
            Ok(_) => {
                let extent = extent.unwrap_or(Extent::WHOLE);
                let touched = transfer::manifest::Shape::of(self.stored.bytes).touched(extent);
                let there = touched.clone().all(|chunk| right[usize::try_from(chunk).unwrap()]);
                assert!(there, "it is said to be there, and is not");
                Outcome::Right
            }
            Err(
                TransferError::DamagedChunk { .. } | TransferError::Damaged { .. } | TransferError::Mismatch { .. },
            ) => Outcome::Damaged,
            Err(TransferError::NoManifest { .. }) => Outcome::NoManifest,
            Err(other) => panic!("{other}"),
        }
    }

    /// The first byte of each chunk's part of the object, and the end.
    fn parts(&self) -> Vec<u64> {
        let file = File::open(self.manifest()).unwrap();
        let (manifest, start) = Manifest::read(&file).unwrap();
        let table = ChunkTable::open(file, manifest.content().unwrap(), start).unwrap();
        let shape = table.shape();
        let mut parts: Vec<u64> = (table.group(0).unwrap().chunks())
            .map(|chunk| chunk.frame.map_or(shape.chunk(chunk.index).offset, |frame| frame.offset))
            .collect();
        parts.push(fs::metadata(self.object()).unwrap().len());
        parts
    }
}

/// Flips one bit for as long as `during` runs.
fn with_flip<T>(path: &Path, at: u64, bit: u64, during: impl FnOnce() -> T) -> T {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
    let result = during();
    file.write_all_at(&byte, at).unwrap();
    result
}

/// One bit of a zstd frame's head means nothing. Everything else has to be found.
fn is_harmless(encoding: Encoding, outcome: &Outcome) -> bool {
    encoding == Encoding::Zstd && *outcome == Outcome::Right
}

fn objects_of_one_chunk(encoding: Encoding) {
    let case = Case::new(encoding, 3000);
    let (mut random, mut harmless) = (Random::new(21), 0);
    let size = fs::metadata(case.object()).unwrap().len();
    for n in 0..FLIPS_OF_EACH {
        let (at, bit) = (random.within(0..size), random.within(0..8));
        let extent = (n % 2 == 0).then_some(Extent { offset: 7, length: 1 });
        let outcome = with_flip(&case.object(), at, bit, || case.restore(extent));
        harmless += usize::from(is_harmless(encoding, &outcome));
        assert!(outcome == Outcome::Damaged || is_harmless(encoding, &outcome), "byte {at} of {size}, bit {bit}");
    }
    assert!(harmless < FLIPS_OF_EACH / 100, "{harmless} flips did no harm");
    assert_eq!((case.restore(None), case.restore(Some(Extent::WHOLE))), (Outcome::Right, Outcome::Right));
}

/// The last chunk is short, so that reading it takes no time: most bits flip there.
fn objects_of_several_chunks(encoding: Encoding) {
    let case = Case::new(encoding, 2 * MIB + 3000);
    let parts = case.parts();
    assert_eq!(parts.len(), 4);
    let (mut random, mut harmless) = (Random::new(22), 0);
    for n in 0..FLIPS_OF_EACH {
        let chunk = if n % 50 == 0 { random.within(0..3) } else { 2 };
        let part = usize::try_from(chunk).unwrap();
        let (at, bit) = (random.within(parts[part]..parts[part + 1]), random.within(0..8));
        let extent = Extent { offset: chunk << 20, length: 1 };
        let outcome = with_flip(&case.object(), at, bit, || {
            if n % 100 == 0 {
                let neighbour = Extent { offset: ((chunk + 1) % 3) << 20, length: 1 };
                assert_eq!(case.restore(Some(neighbour)), Outcome::Right, "it lies in another chunk");
                assert_ne!((case.restore(None), harmless), (Outcome::Right, 0), "the whole is served");
            }
            case.restore(Some(extent))
        });
        harmless += usize::from(is_harmless(encoding, &outcome));
        assert!(
            outcome == Outcome::Damaged || is_harmless(encoding, &outcome),
            "byte {at}, bit {bit} of chunk {chunk}"
        );
    }
    assert!(harmless < FLIPS_OF_EACH / 100, "{harmless} flips did no harm");
    assert_eq!(case.restore(None), Outcome::Right);
}

#[test]
fn p5_every_flipped_bit_of_a_small_raw_object_is_found() {
    objects_of_one_chunk(Encoding::Raw);
}

#[test]
fn p5_every_flipped_bit_of_a_small_zstd_object_is_found() {
    objects_of_one_chunk(Encoding::Zstd);
}

#[test]
fn p5_every_flipped_bit_of_a_raw_object_of_several_chunks_is_found() {
    objects_of_several_chunks(Encoding::Raw);
}

#[test]
fn p5_every_flipped_bit_of_a_zstd_object_of_several_chunks_is_found() {
    objects_of_several_chunks(Encoding::Zstd);
}

/// A damaged manifest proves nothing: no part is restored by it, and the whole still comes back by its own hash.
#[test]
fn p5_every_flipped_bit_of_a_manifest_is_found() {
    for encoding in [Encoding::Raw, Encoding::Zstd] {
        for size in [3000, 2 * MIB + 3000] {
            let case = Case::new(encoding, size);
            let mut random = Random::new(23);
            let bytes = fs::metadata(case.manifest()).unwrap().len();
            let last = Extent { offset: size as u64 - 1, length: 1 };
            for n in 0..FLIPS_OF_EACH / 2 {
                let (at, bit) = (random.within(0..bytes), random.within(0..8));
                with_flip(&case.manifest(), at, bit, || {
                    assert_eq!(
                        case.restore(Some(last)),
                        Outcome::NoManifest,
                        "{encoding:?} byte {at} of {bytes}, bit {bit}"
                    );
                    if size < MIB || n % 100 == 0 {
                        assert_eq!(case.restore(None), Outcome::Right, "{encoding:?} byte {at} of {bytes}, bit {bit}");
                    }
                });
            }
            assert_eq!(case.restore(Some(last)), Outcome::Right);
        }
    }
}
