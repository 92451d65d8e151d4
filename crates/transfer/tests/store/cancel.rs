//! P4: a running transfer stops within a chunk, and leaves nothing.

use crate::harness::{Archive, described, id, options};
use model::Extent;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use transfer::{Encoding, Expected, Monitor, OpenFile, Store, TransferError};

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

#[test]
fn p4_a_cancelled_archive_stops_within_a_chunk_and_leaves_nothing() {
    let archive = Archive::new();
    let size: u64 = 64 << 20;
    let source = archive.file("source", &vec![7; usize::try_from(size).unwrap()]);
    for encoding in Encoding::ALL {
        for bytes in [0, 1, 10 << 20, size] {
            let monitor = CancelAfter { bytes, seen: AtomicU64::new(0) };
            let error = archive.put_watched(&id("abcdef"), &source, options(encoding, None), &monitor).unwrap_err();
            assert!(matches!(error, TransferError::Cancelled), "{error}");
            assert!(error.into_failure("").is_cancelled());
            let seen = monitor.seen.load(Ordering::Relaxed);
            assert!(seen <= bytes.next_multiple_of(1 << 20), "{seen} bytes although cancelled after {bytes}");
            assert!(archive.files().is_empty(), "{:?}", archive.files());
        }
    }
}

#[test]
fn p4_a_cancelled_restore_stops_within_a_chunk() {
    let archive = Archive::new();
    let size: u64 = 32 << 20;
    let source = archive.file("source", &vec![7; usize::try_from(size).unwrap()]);
    let stored = archive.put(&id("abcdef"), &source, options(Encoding::Raw, None)).unwrap();
    let path = archive.base.join("restored");
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    let monitor = CancelAfter { bytes: 5 << 20, seen: AtomicU64::new(0) };
    let target = OpenFile::for_writing(&path).unwrap();
    let error = archive.store.get(&stored.id, &target, Expected::default(), &monitor).unwrap_err();
    assert!(matches!(error, TransferError::Cancelled), "{error}");
    assert_eq!(monitor.seen.load(Ordering::Relaxed), 5 << 20);
    assert_eq!(fs::metadata(&path).unwrap().len(), size);
}

#[test]
fn p4_a_transfer_with_a_manifest_is_cancelled_alike() {
    let archive = Archive::new();
    let size: u64 = 64 << 20;
    let source = archive.file("source", &vec![7; usize::try_from(size).unwrap()]);
    for encoding in Encoding::ALL {
        for bytes in [0, 1, 10 << 20, size] {
            let monitor = CancelAfter { bytes, seen: AtomicU64::new(0) };
            let error = archive.put_watched(&id("abcdef"), &source, described(encoding), &monitor).unwrap_err();
            assert!(matches!(error, TransferError::Cancelled), "{error}");
            let seen = monitor.seen.load(Ordering::Relaxed);
            assert!(seen <= bytes.next_multiple_of(1 << 20), "{seen} bytes although cancelled after {bytes}");
            assert!(archive.files().is_empty(), "{:?}", archive.files());
        }
        let stored = archive.put(&id("abcdef"), &source, described(encoding)).unwrap();
        let path = archive.base.join("restored");
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        let monitor = CancelAfter { bytes: 5 << 20, seen: AtomicU64::new(0) };
        let expected = Expected { size: Some(size), digest: stored.digest };
        let target = OpenFile::for_writing(&path).unwrap();
        let error = archive.store.get(&stored.id, &target, expected, &monitor).unwrap_err();
        assert!(matches!(error, TransferError::Cancelled), "{error}");
        assert_eq!(monitor.seen.load(Ordering::Relaxed), 5 << 20);
        archive.remove(&stored.id).unwrap();
    }
}
