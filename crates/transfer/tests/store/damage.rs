//! Objects that are not what was archived are found out.

use crate::harness::{Archive, id, options};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use testkit::Random;
use transfer::{DigestKind, Encoding, Expected, Store, Stored, TransferError, Unwatched};

fn archived(archive: &Archive, encoding: Encoding, digest: Option<DigestKind>) -> Stored {
    let mut content = vec![0; 20_000];
    Random::new(5).fill(&mut content[..10_000]);
    archive.put(&id("abcdef"), &archive.file("source", &content), options(encoding, digest)).unwrap()
}

fn is_found_out(result: Result<impl Sized, TransferError>) -> bool {
    match result {
        Ok(_) => false,
        Err(
            e @ (TransferError::Damaged { .. } | TransferError::DamagedChunk { .. } | TransferError::Mismatch { .. }),
        ) => {
            assert_eq!((e.errno(), e.kind()), (5, model::ErrorKind::Permanent));
            true
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_flipped_bit_is_found_out_by_the_hash() {
    let archive = Archive::new();
    let mut random = Random::new(6);
    for encoding in Encoding::ALL {
        for kind in [DigestKind::Blake3, DigestKind::Sha1] {
            let stored = archived(&archive, encoding, Some(kind));
            let path = archive.object(&stored.id);
            let whole = fs::read(&path).unwrap();
            let object = OpenOptions::new().write(true).open(&path).unwrap();
            for _ in 0..300 {
                let (at, bit) = (random.within(0..whole.len() as u64), random.within(0..8));
                let byte = whole[usize::try_from(at).unwrap()];
                object.write_all_at(&[byte ^ 1 << bit], at).unwrap();
                for size in [None, Some(stored.bytes)] {
                    let expected = Expected { size, digest: stored.digest };
                    let result = archive.store.verify(&stored.id, expected, &Unwatched);
                    // A few bits mean nothing for the content: gzip's time and system, zstd's unused bit.
                    let harmless = match encoding {
                        Encoding::Raw => false,
                        Encoding::Gzip => (3..10).contains(&at),
                        Encoding::Zstd => (at, bit) == (4, 4),
                    };
                    assert!(is_found_out(result) || harmless, "{encoding:?}: byte {at} of {}, bit {bit}", whole.len());
                }
                object.write_all_at(&[byte], at).unwrap();
            }
            let expected = Expected { size: None, digest: stored.digest };
            archive.store.verify(&stored.id, expected, &Unwatched).unwrap();
        }
    }
}

#[test]
fn a_truncated_or_longer_object_is_found_out() {
    let archive = Archive::new();
    let mut random = Random::new(7);
    for encoding in Encoding::ALL {
        let stored = archived(&archive, encoding, Some(DigestKind::Blake3));
        let path = archive.object(&stored.id);
        let whole = fs::read(&path).unwrap();
        let longer = whole.len() as u64 + 1;
        let cuts = [0, 1, whole.len() as u64 - 1, longer].into_iter();
        for size in cuts.chain((0..100).map(|_| random.within(0..whole.len() as u64))).collect::<Vec<_>>() {
            fs::write(&path, &whole).unwrap();
            OpenOptions::new().write(true).open(&path).unwrap().set_len(size).unwrap();
            // Size or hash each suffice; a compressed stream needs neither.
            let mut expected = vec![
                Expected { size: Some(stored.bytes), digest: None },
                Expected { size: None, digest: stored.digest },
            ];
            if encoding != Encoding::Raw {
                expected.push(Expected::default());
            }
            for expected in expected {
                let result = archive.store.verify(&stored.id, expected, &Unwatched);
                assert!(is_found_out(result), "{encoding:?} of {size} bytes instead of {}", whole.len());
            }
        }
    }
}

#[test]
fn a_decompression_bomb_ends_at_the_expected_size() {
    let archive = Archive::new();
    let path = archive.base.join("source");
    fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    let source = transfer::OpenFile::for_reading(&path).unwrap();
    let stored = archive.put(&id("abcdef"), &source, options(Encoding::Zstd, None)).unwrap();
    let expected = Expected { size: Some(1000), digest: None };
    let error = archive.get_over(&stored.id, &[], expected).unwrap_err();
    assert!(error.to_string().contains("more than the 1000 bytes"), "{error}");
    assert!(fs::metadata(archive.base.join("restored")).unwrap().len() <= 1000);
}
