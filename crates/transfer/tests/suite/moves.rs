//! What goes in comes out; and what is broken off leaves nothing.

use super::{Bed, Calls, described, expected, hash, id, manifest, object, plain};
use model::Extent;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use testkit::Random;
use transfer::{
    Compression, DigestKind, Encoding, Expected, Monitor, OpenFile, PutOptions, Store, TransferError, Unwatched,
};

const CHUNK: usize = 1 << 20;

/// Archives a file and restores it over stale bytes of several sizes.
fn round_trip<B: Bed>(bed: &B, source: &OpenFile, content: &[u8], options: PutOptions<'_>) {
    let encoding = match options.compression {
        Compression::On(encoding) => encoding,
        _ => Encoding::Raw,
    };
    let stored = bed.put(&id("0e2f9a7c-aaaa"), source, options).unwrap();
    assert_eq!(stored.id.as_str(), format!("0e2f9a7c-aaaa{}", encoding.suffix()));
    let digest = options.digest.map(|kind| hash(kind, content));
    assert_eq!((stored.bytes, stored.digest), (content.len() as u64, digest));
    let described = options.origin.map(|_| manifest(&stored.id));
    bed.holds([object(&stored.id)].into_iter().chain(described).collect());
    let all = [content.len(), 0, content.len() + 5000];
    for stale in all.into_iter().take(if content.len() > 2 * CHUNK { 1 } else { 3 }) {
        let (restored, found) = bed.get_over(&stored.id, &vec![0xa5; stale], expected(&stored)).unwrap();
        assert!(found == content, "{encoding:?} over {stale} stale bytes differs");
        assert_eq!((restored.bytes, restored.digest), (stored.bytes, stored.digest));
    }
    assert_eq!(bed.store().verify(&stored.id, expected(&stored), &Unwatched).unwrap().bytes, stored.bytes);
    let head = bed.store().head(&stored.id).unwrap().unwrap();
    assert_eq!((head.encoding, head.stored_bytes), (encoding, bed.read(&stored.id, super::Half::Object).len() as u64));
    // Who looks for what nobody names goes by the age of what it finds.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let tells = bed.tells_ages() || head.stored_ms != u64::MAX;
    assert!(!tells || now.abs_diff(head.stored_ms.into()) < 600_000, "stored at {}, and it is {now}", head.stored_ms);
    bed.remove(&stored.id).unwrap();
    assert_eq!(bed.store().head(&stored.id).unwrap(), None);
    bed.holds(Vec::new());
}

/// Around a chunk, around a part, and of several parts.
pub(crate) fn every_size_comes_back<B: Bed>() {
    let bed = B::new();
    let mut random = Random::new(1);
    let sizes = [0, 1, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 5 * CHUNK + 1, 16 * CHUNK + 17];
    for size in sizes {
        let mut content = vec![b'x'; size];
        random.fill(&mut content[size / 2..]);
        let source = bed.file("source", &content);
        for encoding in Encoding::ALL {
            round_trip(&bed, &source, &content, described(encoding));
        }
        // Without a manifest it makes no difference between sizes but whether there are parts.
        if matches!(size, 0 | 4096) || size > 16 * CHUNK {
            for kind in [None, Some(DigestKind::Blake3), Some(DigestKind::Sha1)] {
                round_trip(&bed, &source, &content, plain(Encoding::Raw, kind));
                round_trip(&bed, &source, &content, plain(Encoding::Zstd, kind));
            }
        }
    }
}

pub(crate) fn holes_come_back<B: Bed>() {
    let bed = B::new();
    let mut random = Random::new(2);
    let path = bed.base().join("sparse");
    for size in [3 * CHUNK, 12 * CHUNK + 5] {
        let file = fs::File::create(&path).unwrap();
        file.set_len(size as u64).unwrap();
        let mut content = vec![0; size];
        for (offset, length) in [(5000, 9000), (2 * CHUNK - 100, 200), (size - CHUNK / 2, 3000)] {
            random.fill(&mut content[offset..offset + length]);
            file.write_all_at(&content[offset..offset + length], offset as u64).unwrap();
        }
        let source = OpenFile::for_reading(&path).unwrap();
        for encoding in Encoding::ALL {
            round_trip(&bed, &source, &content, described(encoding));
        }
        round_trip(&bed, &source, &content, plain(Encoding::Raw, Some(DigestKind::Sha1)));
    }
}

pub(crate) fn auto_compresses_what_shrinks_and_nothing_else<B: Bed>() {
    let bed = B::new();
    let mut noise = vec![0; 6 << 20];
    Random::new(4).fill(&mut noise);
    let text: Vec<u8> = b"all work and no play makes a dull file ".iter().copied().cycle().take(6 << 20).collect();
    let auto = PutOptions { compression: Compression::Auto(Encoding::Zstd), ..plain(Encoding::Raw, None) };
    for (content, suffix) in [(noise, ""), (text, ".zst"), (Vec::new(), "")] {
        let stored = bed.put(&id("abcdef"), &bed.file("source", &content), auto).unwrap();
        assert_eq!(stored.id.as_str(), format!("abcdef{suffix}"));
    }
}

pub(crate) fn a_source_that_shrinks_is_not_archived<B: Bed>() {
    struct Truncating<'a>(&'a Path);
    impl Monitor for Truncating<'_> {
        fn cancelled(&self) -> bool {
            false
        }
        fn advanced(&self, _: Extent) {
            fs::OpenOptions::new().write(true).open(self.0).unwrap().set_len(CHUNK as u64 + 10).unwrap();
        }
    }
    let bed = B::new();
    for size in [3 << 20, 20 << 20] {
        for options in [plain(Encoding::Raw, None), described(Encoding::Raw), described(Encoding::Zstd)] {
            let source = bed.file("source", &vec![1; size]);
            let error = bed.put_watched(&id("abcdef"), &source, options, &Truncating(source.path())).unwrap_err();
            assert!(matches!(error, TransferError::Changed { expected, .. } if expected == size as u64), "{error}");
            assert_eq!(error.kind(), model::ErrorKind::Temporary);
            bed.holds(Vec::new());
        }
    }
}

/// Cancels once so many bytes went through, and counts those that go through later.
struct CancelAfter {
    bytes: u64,
    seen: AtomicU64,
}

impl Monitor for CancelAfter {
    fn cancelled(&self) -> bool {
        self.seen.load(Ordering::Relaxed) >= self.bytes
    }

    fn advanced(&self, extent: Extent) {
        self.seen.fetch_add(extent.length, Ordering::Relaxed);
    }
}

pub(crate) fn p4_a_cancelled_archive_stops_within_a_chunk_and_leaves_nothing<B: Bed>() {
    let bed = B::new();
    let size: u64 = 32 << 20;
    let mut content = vec![7; 32 << 20];
    Random::new(5).fill(&mut content);
    let source = bed.file("source", &content);
    for options in [plain(Encoding::Raw, None), described(Encoding::Raw), described(Encoding::Zstd)] {
        for bytes in [0, 1, 20 << 20, size] {
            let monitor = CancelAfter { bytes, seen: AtomicU64::new(0) };
            let error = bed.put_watched(&id("abcdef"), &source, options, &monitor).unwrap_err();
            assert!(matches!(error, TransferError::Cancelled), "{error}");
            assert!(error.into_failure("").is_cancelled());
            let seen = monitor.seen.load(Ordering::Relaxed);
            assert!(seen <= bytes.next_multiple_of(1 << 20), "{seen} bytes although cancelled after {bytes}");
            bed.holds(Vec::new());
        }
    }
}

pub(crate) fn p4_a_cancelled_restore_stops_within_a_chunk<B: Bed>() {
    let bed = B::new();
    let size: u64 = 32 << 20;
    let source = bed.file("source", &vec![7; 32 << 20]);
    for options in [plain(Encoding::Raw, None), described(Encoding::Raw), described(Encoding::Zstd)] {
        let stored = bed.put(&id("abcdef"), &source, options).unwrap();
        let path = bed.base().join("restored");
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        let monitor = CancelAfter { bytes: 5 << 20, seen: AtomicU64::new(0) };
        let target = OpenFile::for_writing(&path).unwrap();
        let expected = Expected { size: Some(size), digest: stored.digest };
        let error = bed.store().get(&stored.id, &target, expected, &monitor).unwrap_err();
        assert!(matches!(error, TransferError::Cancelled), "{error}");
        assert_eq!(monitor.seen.load(Ordering::Relaxed), 5 << 20);
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
        bed.remove(&stored.id).unwrap();
    }
}

pub(crate) fn what_is_staged_and_dropped_leaves_nothing<B: Bed>() {
    let bed = B::new();
    for size in [100, 20 << 20] {
        let source = bed.file("source", &vec![7; size]);
        for options in [plain(Encoding::Raw, None), described(Encoding::Raw)] {
            drop(bed.store().stage(&id("abcdef"), &source, options, &Unwatched).unwrap());
            bed.holds(Vec::new());
        }
    }
}
