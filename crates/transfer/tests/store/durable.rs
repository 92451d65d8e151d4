//! P1: nothing is acknowledged before content and name are durable; and what cannot be made durable is not there.

use crate::harness::{Archive, BLAKE3, described, id};
use crate::watched::Watched;
use model::{ErrorKind, ObjectId};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use testkit::{FsKind, LoopFs, faults};
use transfer::{Encoding, KernelDurability, Store, TransferError, Unwatched};

fn names(count: usize) -> Vec<ObjectId> {
    (0..count).map(|n| id(&format!("{:02x}{:02x}-{n}", n % 3, n % 5))).collect()
}

/// With a group: two whole syncs lie between the end of writing and the acknowledgement, one for data and one for names.
#[test]
fn p1_a_group_is_acknowledged_after_a_sync_of_its_data_and_one_of_its_names() {
    let watched = Arc::new(Watched::default());
    let archive = Archive::with_durability(watched.clone());
    let source = archive.file("source", &[3; 4096]);
    let names = names(600);
    let (tell, told) = channel();
    for name in &names {
        let staged = archive.store.stage(name, &source, BLAKE3, &Unwatched).unwrap();
        let (watched, tell, object) = (watched.clone(), tell.clone(), archive.object(name));
        let begun = watched.started.load(Ordering::SeqCst);
        archive.store.commit(
            staged,
            Box::new(move |result| {
                result.unwrap();
                assert!(object.exists());
                // At least two syncs that began after the commit have ended: those after number `begun`.
                let finished = watched.finished.load(Ordering::SeqCst);
                tell.send(finished >= begun + 2).unwrap();
            }),
        );
    }
    assert!((0..names.len()).all(|_| told.recv().unwrap()), "acknowledged too early");
    let syncs = watched.finished.load(Ordering::SeqCst);
    assert!(syncs < names.len() as u64, "{syncs} syncs for {} files: they share none", names.len());
}

#[test]
fn p1_nothing_is_acknowledged_while_the_sync_hangs() {
    let watched = Arc::new(Watched::default());
    let archive = Archive::with_durability(watched.clone());
    let source = archive.file("source", b"x");
    let hold = watched.hold();
    let (tell, told) = channel();
    for name in names(50) {
        let staged = archive.store.stage(&name, &source, BLAKE3, &Unwatched).unwrap();
        let tell = tell.clone();
        archive.store.commit(staged, Box::new(move |result| tell.send(result).unwrap()));
    }
    let early = told.recv_timeout(std::time::Duration::from_millis(300));
    assert!(early.is_err(), "acknowledged before any sync has returned");
    let named = archive.files().iter().filter(|f| f.starts_with(archive.store.root().join("objects"))).count();
    assert_eq!(named, 0, "named before the data is durable");
    drop(hold);
    for _ in 0..50 {
        told.recv().unwrap().unwrap();
    }
}

/// Alone: the file, its directory, and every directory up to the root.
#[test]
fn p1_a_single_file_syncs_itself_and_the_way_to_it() {
    let watched = Arc::new(Watched::default());
    let archive = Archive::with_durability(watched.clone());
    let stored = archive.put(&id("abcdef"), &archive.file("source", b"x"), described(Encoding::Raw)).unwrap();
    let synced = watched.synced_files.lock().clone();
    let object = archive.object(&stored.id);
    let manifest = fs::metadata(archive.manifest(&stored.id)).unwrap().ino();
    assert!(synced.contains_key(&manifest), "the manifest was not synced");
    for path in object.ancestors().take_while(|path| *path != archive.base) {
        let ino = fs::metadata(path).unwrap().ino();
        assert!(synced.contains_key(&ino), "{} was not synced", path.display());
    }
    archive.remove(&stored.id).unwrap();
    let directory = fs::metadata(object.parent().unwrap()).unwrap().ino();
    assert_eq!(watched.synced_files.lock().get(&directory), Some(&2), "a removal syncs the directory");
}

#[test]
fn p1_a_failed_sync_fails_everybody_and_leaves_nothing() {
    let watched = Arc::new(Watched::default());
    let archive = Archive::with_durability(watched.clone());
    let source = archive.file("source", b"x");
    for (count, options) in
        [(1, BLAKE3), (1, described(Encoding::Raw)), (100, BLAKE3), (100, described(Encoding::Zstd))]
    {
        watched.failing.store(true, Ordering::SeqCst);
        let (tell, told) = channel();
        for name in names(count) {
            let staged = archive.store.stage(&name, &source, options, &Unwatched).unwrap();
            let tell = tell.clone();
            archive.store.commit(staged, Box::new(move |result| tell.send(result).unwrap()));
        }
        for _ in 0..count {
            let error = told.recv().unwrap().unwrap_err();
            assert_eq!((error.kind(), error.errno()), (ErrorKind::Temporary, 5), "{error}");
        }
        assert!(archive.files().is_empty(), "{:?}", archive.files());
        watched.failing.store(false, Ordering::SeqCst);
        archive.put(&id("abcdef"), &source, options).unwrap();
        archive.remove(&id("abcdef")).unwrap();
    }
}

/// The disk is full: temporary, says so, leaves nothing, and works again when there is room.
#[test]
fn p7_a_full_archive_is_a_temporary_error_and_leaves_nothing() {
    let fs = LoopFs::new(FsKind::Ext4, 64);
    let elsewhere = testkit::Scratch::new("full");
    let archive = Archive::at(&fs.path(), Arc::new(KernelDurability));
    let path = elsewhere.join("source");
    fs::write(&path, vec![9; 10 << 20]).unwrap();
    let source = transfer::OpenFile::for_reading(&path).unwrap();
    let ballast = faults::fill(&fs, 2 << 20);
    let error = archive.put(&id("abcdef"), &source, described(Encoding::Raw)).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Temporary, 28), "{error}");
    let failure = error.into_failure("cannot archive f");
    assert!(failure.message.contains("free space on that filesystem"), "{failure}");
    assert!(archive.files().is_empty(), "{:?}", archive.files());
    drop(ballast);
    archive.put(&id("abcdef"), &source, described(Encoding::Raw)).unwrap();
}

/// What was acknowledged is there after the filesystem was cut off without warning.
#[test]
fn p1_what_was_acknowledged_survives_a_crash_of_the_filesystem() {
    for kind in [FsKind::Ext4, FsKind::Xfs] {
        let fs = LoopFs::new(kind, 300);
        let elsewhere = testkit::Scratch::new("crash");
        let path = elsewhere.join("source");
        fs::write(&path, vec![5; 4096]).unwrap();
        let source = transfer::OpenFile::for_reading(&path).unwrap();
        let archive = Archive::at(&fs.path(), Arc::new(KernelDurability));
        let (tell, told) = channel();
        let all = names(2000);
        for name in &all {
            let staged = archive.store.stage(name, &source, described(Encoding::Raw), &Unwatched).unwrap();
            let tell = tell.clone();
            archive.store.commit(
                staged,
                Box::new(move |result: Result<_, TransferError>| {
                    // Whoever comes after the crash gets an error.
                    let _ = tell.send(result.map(|stored| stored.id));
                }),
            );
        }
        let mut acknowledged: Vec<ObjectId> = Vec::new();
        while acknowledged.len() < 500 {
            acknowledged.push(told.recv().unwrap().unwrap());
        }
        faults::shut_down(&fs);
        drop(tell);
        drop(archive);
        acknowledged.extend(told.try_iter().filter_map(Result::ok));
        fs.remount();
        let archive = Archive::at(&fs.path(), Arc::new(KernelDurability));
        for name in &acknowledged {
            assert_eq!(fs::read(archive.object(name)).unwrap(), [5; 4096], "{kind:?} {name}");
            let manifest = archive.store.manifest(name).unwrap();
            assert_eq!(manifest.map(|manifest| manifest.object), Some(name.clone()), "{kind:?} {name}");
        }
    }
}
