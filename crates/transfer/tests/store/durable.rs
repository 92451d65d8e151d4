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

/// `syncfs` tells of data that could not be written once, and takes it for written from then on: it may have been that of a file which
/// was not in the failed group yet.
#[test]
fn p1_what_was_being_written_while_a_sync_failed_is_synced_by_itself() {
    let watched = Arc::new(Watched::default());
    let archive = Archive::with_durability(watched.clone());
    let source = archive.file("source", b"x");
    let stage = |name: &ObjectId| archive.store.stage(name, &source, described(Encoding::Raw), &Unwatched).unwrap();
    let (tell, told) = channel();
    let commit = |staged, what: &'static str| {
        let tell = tell.clone();
        archive.store.commit(staged, Box::new(move |result| tell.send((what, result)).unwrap()));
    };
    // While the first one's sync hangs, the others gather behind it to a group.
    let behind_a_first_one = |commit_others: &dyn Fn()| {
        let (hold, begun) = (watched.hold(), watched.started.load(Ordering::SeqCst));
        commit(stage(&id("first")), "first");
        while watched.started.load(Ordering::SeqCst) == begun {
            std::thread::yield_now();
        }
        commit_others();
        drop(hold);
    };
    let all = names(20);
    let inodes = || -> Vec<u64> {
        let temporary = crate::harness::files_below(&archive.store.root().join(".sifaka-tmp"));
        temporary.iter().map(|path| fs::metadata(path).unwrap().ino()).collect()
    };
    let (spared, lost) = (stage(&id("spared")), stage(&id("lost-one")));
    let older = inodes();
    watched.failing.store(true, Ordering::SeqCst);
    behind_a_first_one(&|| all.iter().for_each(|name| commit(stage(name), "failed")));
    (0..=all.len()).for_each(|_| drop(told.recv().unwrap().1.unwrap_err()));
    assert!(!watched.filesystem_synced_by.lock().is_empty(), "no sync of the filesystem was there to fail");
    watched.failing.store(false, Ordering::SeqCst);
    watched.synced_files.lock().clear();

    let newer: Vec<_> = all.iter().map(stage).collect();
    let since: Vec<u64> = inodes().into_iter().filter(|inode| !older.contains(inode)).collect();
    let of_lost = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("lost-one");
    let temporary = crate::harness::files_below(&archive.store.root().join(".sifaka-tmp"));
    let lost_inodes = temporary.iter().filter(|path| of_lost(path)).map(|path| fs::metadata(path).unwrap().ino());
    watched.failing_files.lock().extend(lost_inodes.take(1));
    let staged = parking_lot::Mutex::new((newer, vec![(spared, "spared"), (lost, "lost")]));
    behind_a_first_one(&|| {
        let (newer, older) = std::mem::take(&mut *staged.lock());
        newer.into_iter().for_each(|staged| commit(staged, "newer"));
        older.into_iter().for_each(|(staged, what)| commit(staged, what));
    });
    for _ in 0..all.len() + 3 {
        let (what, result) = told.recv().unwrap();
        assert_eq!(result.is_err(), what == "lost", "{what}: {result:?}");
    }
    assert!(!archive.object(&id("lost-one")).exists() && !archive.manifest(&id("lost-one")).exists());
    let synced = watched.synced_files.lock().clone();
    for path in [archive.object(&id("spared")), archive.manifest(&id("spared"))] {
        assert!(synced.contains_key(&fs::metadata(&path).unwrap().ino()), "{} may be lost", path.display());
    }
    assert!(since.iter().all(|inode| !synced.contains_key(inode)), "a group's files are not synced one by one");
}

/// The same with a device that really fails, and nobody between the store and the kernel.
#[test]
fn p1_nothing_is_acknowledged_that_the_kernel_lost_on_its_way_to_the_device() {
    let backing = LoopFs::new(FsKind::Ext4, 64);
    let thin = LoopFs::thin_on(&backing);
    let elsewhere = testkit::Scratch::new("lost");
    let content = [7; 8192];
    fs::write(elsewhere.join("source"), content).unwrap();
    let source = transfer::OpenFile::for_reading(elsewhere.join("source")).unwrap();
    let archive = Archive::at(&thin.path(), Arc::new(KernelDurability));
    let stage = |name: &ObjectId| archive.store.stage(name, &source, described(Encoding::Raw), &Unwatched).unwrap();
    let commit = |staged: Vec<_>| -> Vec<Result<ObjectId, TransferError>> {
        let (tell, told) = channel();
        for staged in staged {
            let tell = tell.clone();
            archive.store.commit(staged, Box::new(move |result| tell.send(result.map(|stored| stored.id)).unwrap()));
        }
        drop(tell);
        told.iter().collect()
    };
    let named = |what: &str, count: u32| -> Vec<ObjectId> {
        (0..count).map(|n| id(&format!("{:02x}{what}-{n}", n % 3))).collect()
    };
    // So that the directories are large enough: only data will have no place on the device.
    let mut acknowledged: Vec<_> = commit(named("first", 300).iter().map(stage).collect());
    assert!(acknowledged.iter().all(Result::is_ok));

    let early: Vec<_> = named("early", 100).iter().map(stage).collect();
    let ballast = faults::fill(&backing, 0);
    assert!(
        commit(named("never", 100).iter().map(stage).collect()).iter().any(Result::is_err),
        "the device does not fail"
    );
    drop(ballast);
    acknowledged.extend(commit(early));
    acknowledged.extend(commit(named("later", 100).iter().map(stage).collect()));
    drop(archive);
    thin.remount();
    let archive = Archive::at(&thin.path(), Arc::new(KernelDurability));
    let acknowledged: Vec<ObjectId> = acknowledged.into_iter().flatten().collect();
    assert!(acknowledged.len() >= 400, "nothing works any more");
    for name in &acknowledged {
        assert!(fs::read(archive.object(name)).unwrap() == content, "{name} was acknowledged, and is lost");
        assert!(archive.store.manifest(name).unwrap().is_some(), "{name} has no manifest");
    }
}

/// Of two threads that sync through the same open file only one hears of a failure.
#[test]
fn p1_no_two_threads_sync_the_filesystem_through_one_descriptor() {
    let watched = Arc::new(Watched::default());
    let archive = Archive::with_durability(watched.clone());
    // With the directories that are to be synced: the syncs of the first removals hang, and the others gather behind them.
    archive.put(&id("object"), &archive.file("source", b"x"), BLAKE3).unwrap();
    fs::create_dir_all(archive.store.root().join("packs/0000")).unwrap();
    let (tell, told) = channel();
    let hold = watched.hold();
    let removals: Vec<ObjectId> = (0..100u32)
        .flat_map(|n| {
            let member = format!("00000000-0000-4000-8000-0000{n:08x}.pk{n:020x}");
            [id(&member), id(&format!("object-{n}"))]
        })
        .collect();
    for removed in &removals {
        let tell = tell.clone();
        archive.store.remove(removed, Box::new(move |result| tell.send(result).unwrap()));
    }
    drop(hold);
    removals.iter().for_each(|_| told.recv().unwrap().unwrap());
    let by = watched.filesystem_synced_by.lock().clone();
    let descriptors: std::collections::HashSet<i32> = by.iter().map(|(_, fd)| *fd).collect();
    assert_eq!((by.len(), descriptors.len()), (2, 2), "{by:?}");
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
