//! Objects that are not what was archived are found out, and nothing of what is wrong is served (P5).

use super::{Bed, Calls, Half, described, expected, id, plain};
use model::ErrorKind;
use testkit::Random;
use transfer::{DigestKind, Encoding, Expected, PutOptions, Store, Stored, TransferError, Unwatched};

fn archived<B: Bed>(bed: &B, size: usize, options: PutOptions<'_>) -> Stored {
    let mut content = vec![0; size];
    Random::new(5).fill(&mut content[..size / 2]);
    bed.put(&id("abcdef"), &bed.file("source", &content), options).unwrap()
}

fn is_found_out(result: Result<impl Sized, TransferError>) -> bool {
    match result {
        Ok(_) => false,
        Err(
            e @ (TransferError::Damaged { .. } | TransferError::DamagedChunk { .. } | TransferError::Mismatch { .. }),
        ) => {
            assert_eq!((e.errno(), e.kind()), (5, ErrorKind::Permanent));
            true
        }
        Err(other) => panic!("{other}"),
    }
}

pub(crate) fn p5_every_flipped_bit_is_found<B: Bed>() {
    let bed = B::new();
    let mut random = Random::new(6);
    for encoding in Encoding::ALL {
        let kinds = [DigestKind::Blake3, DigestKind::Sha1].map(|kind| plain(encoding, Some(kind)));
        for options in kinds.into_iter().chain([described(encoding)]) {
            let stored = archived(&bed, 20_000, options);
            let whole = bed.read(&stored.id, Half::Object);
            for _ in 0..12 {
                let (at, bit) = (random.within(0..whole.len() as u64), random.within(0..8));
                let mut flipped = whole.clone();
                flipped[usize::try_from(at).unwrap()] ^= 1 << bit;
                bed.write(&stored.id, Half::Object, &flipped);
                for size in [None, Some(stored.bytes)] {
                    let result = bed.store().verify(&stored.id, Expected { size, digest: stored.digest }, &Unwatched);
                    // A few bits mean nothing for the content: gzip's time and system, zstd's unused bit.
                    let harmless = match encoding {
                        Encoding::Raw => false,
                        Encoding::Gzip => (3..10).contains(&at),
                        Encoding::Zstd => (at, bit) == (4, 4),
                    };
                    assert!(is_found_out(result) || harmless, "{encoding:?}: byte {at} of {}, bit {bit}", whole.len());
                }
            }
            bed.write(&stored.id, Half::Object, &whole);
            bed.store().verify(&stored.id, expected(&stored), &Unwatched).unwrap();
            bed.remove(&stored.id).unwrap();
        }
    }
}

pub(crate) fn p5_a_truncated_or_longer_object_is_found_out<B: Bed>() {
    let bed = B::new();
    let mut random = Random::new(7);
    for (size, options) in Encoding::ALL.into_iter().flat_map(|encoding| {
        let blake3 = plain(encoding, Some(DigestKind::Blake3));
        [(20_000, blake3), (20_000, described(encoding)), (12 << 20, described(encoding))]
    }) {
        let stored = archived(&bed, size, options);
        let whole = bed.read(&stored.id, Half::Object);
        let length = whole.len() as u64;
        let cuts = [0, 1, length - 1, length + 1, random.within(0..length), random.within(0..length)];
        for cut in cuts {
            let mut bytes = whole.clone();
            bytes.resize(usize::try_from(cut).unwrap(), 0);
            bed.write(&stored.id, Half::Object, &bytes);
            // The hash suffices, and the size for what is not encoded; a compressed stream needs neither.
            let mut known = vec![Expected { size: None, digest: stored.digest }, expected(&stored)];
            if stored.bytes < 1 << 20 {
                known.push(Expected { size: Some(stored.bytes), digest: None });
            }
            for expected in known {
                let result = bed.store().verify(&stored.id, expected, &Unwatched);
                assert!(is_found_out(result), "{options:?}: {cut} bytes instead of {length}");
            }
            if cut < length && options.origin.is_some() {
                let path = bed.base().join("restored");
                std::fs::write(&path, vec![7; size]).unwrap();
                let target = transfer::OpenFile::for_writing(&path).unwrap();
                let whole = model::Extent::WHOLE;
                let result = bed.store().get_range(&stored.id, &target, whole, expected(&stored), &Unwatched);
                assert!(is_found_out(result), "{options:?}: {cut} bytes instead of {length}, by range");
            }
        }
        bed.remove(&stored.id).unwrap();
    }
}

pub(crate) fn a_wrong_object_says_so_and_leaves_the_target_s_size<B: Bed>() {
    let bed = B::new();
    let stored = archived(&bed, 20_000, plain(Encoding::Raw, Some(DigestKind::Blake3)));
    let expected = Expected { size: None, digest: Some(model::Digest::Blake3([1; 32])) };
    let error = bed.get_over(&stored.id, &[9; 30_000], expected).unwrap_err();
    assert!(matches!(error, TransferError::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("0101010101"), "{error}");
    assert_eq!(std::fs::metadata(bed.base().join("restored")).unwrap().len(), 30_000);
}
