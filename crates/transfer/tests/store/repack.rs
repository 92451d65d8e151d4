//! Removed members leave their packs.

use crate::harness::Archive;
use crate::packs::{Packing, content, small, uuid};
use crate::watched::Watched;
use model::ObjectId;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use testkit::{FsKind, LoopFs};
use transfer::{Encoding, KernelDurability, PosixStore, Repacked, TransferError};

fn repack(packing: &Packing) -> Repacked {
    packing.archive.store.repack(&mut |_| {}).unwrap()
}

fn tombstones(packing: &Packing) -> Vec<std::path::PathBuf> {
    let mut files = packing.archive.files();
    files.retain(|file| file.parent().unwrap().to_str().unwrap().ends_with(".d"));
    files
}

#[test]
fn a_pack_is_rewritten_when_half_of_it_is_dead_and_removed_when_all_of_it_is() {
    let packing = Packing::new();
    let stored = packing.pack_of(20);
    let path = packing.packs().remove(0);
    let before = fs::metadata(&path).unwrap().len();
    let (gone, kept) = stored.split_at(11);
    for (id, _) in &gone[..9] {
        packing.archive.remove(id).unwrap();
    }
    assert_eq!(repack(&packing), Repacked::default(), "less than half");
    assert_eq!(tombstones(&packing).len(), 9);
    for (id, _) in &gone[9..] {
        packing.archive.remove(id).unwrap();
    }
    let mut moved = 0;
    let done = packing.archive.store.repack(&mut |bytes| moved += bytes).unwrap();
    assert_eq!((done.rewritten, done.removed, done.failed), (1, 0, 0));
    let after = fs::metadata(&path).unwrap().len();
    assert!(after < before / 2 && moved == after && done.freed_bytes > 11 * 2000, "{done:?}");
    assert!(tombstones(&packing).is_empty());
    for (id, content) in kept {
        packing.restored(id, content).unwrap();
    }
    for (id, content) in gone {
        assert!(matches!(packing.restored(id, content), Err(TransferError::Missing { .. })));
        packing.archive.remove(id).unwrap();
    }
    assert!(tombstones(&packing).is_empty(), "what is not in the pack needs none");
    assert_eq!(packing.listed(), kept.iter().map(|(id, _)| id.clone()).collect());
    for (id, _) in kept {
        assert!(path.exists());
        packing.archive.remove(id).unwrap();
    }
    assert!(packing.archive.files().is_empty(), "{:?}", packing.archive.files());
    assert_eq!(repack(&packing), Repacked::default());
}

/// More files are archived and removed than there are inodes, and nobody repacks.
#[test]
fn p7_removals_do_not_use_up_the_inodes() {
    const FILES: u32 = 300;
    let disk = LoopFs::with_inodes(16, 512);
    let watched = Arc::new(Watched::default());
    let packing = Packing { archive: Archive::at(&disk.path(), watched.clone()), watched };
    let mut removed = 0;
    let mut remove = |id: &ObjectId| {
        packing.archive.remove(id).unwrap();
        removed += 1;
    };
    let packs = [0, 1, 2, 3, 4].map(|round| {
        let files: Vec<_> = (round * FILES..(round + 1) * FILES).map(|n| (uuid(n), content(n, 100))).collect();
        let stored = packing.put(&files, small(Encoding::Raw)).into_iter().map(|stored| stored.unwrap().id);
        let stored: Vec<_> = stored.zip(files.into_iter().map(|(_, content)| content)).collect();
        // One by one, and less than half of each pack: the marks stay.
        stored[..140].iter().for_each(|(id, _)| remove(id));
        stored
    });
    assert!(tombstones(&packing).len() > usize::try_from(disk.inodes()).unwrap());
    assert_eq!(packing.listed().len(), 5 * 160);
    for pack in &packs {
        for (id, content) in &pack[140..] {
            packing.restored(id, content).unwrap();
            remove(id);
        }
    }
    assert!(removed > 2 * disk.inodes());
    assert!(packing.archive.files().is_empty(), "{:?}", packing.archive.files());
}

/// Removed one after the other or by many at once, by one process or by several: a pack without members does not stay for long.
#[test]
fn a_pack_goes_with_its_last_member() {
    let packing = Packing::new();
    let stored = packing.pack_of(200);
    std::thread::scope(|scope| {
        for part in stored.chunks(50) {
            scope.spawn(|| part.iter().for_each(|(id, _)| packing.archive.remove(id).unwrap()));
        }
    });
    assert!(packing.archive.files().is_empty(), "{:?}", packing.archive.files());

    // After a restart those that were removed before it count, too.
    let stored = packing.pack_of(10);
    stored[..6].iter().for_each(|(id, _)| packing.archive.remove(id).unwrap());
    let anew = Archive::at(&packing.archive.base, Arc::new(KernelDurability));
    stored.iter().skip(5).for_each(|(id, _)| anew.remove(id).unwrap());
    assert!(packing.archive.files().is_empty(), "{:?}", packing.archive.files());

    // Of two processes each counts only its own: then the next repack sees to it.
    let stored = packing.pack_of(10);
    for (n, (id, _)) in stored.iter().enumerate() {
        if n % 2 == 0 { &anew } else { &packing.archive }.remove(id).unwrap();
    }
    assert_eq!(packing.packs().len(), 1);
    assert_eq!(repack(&packing).removed, 1);
    assert!(packing.archive.files().is_empty(), "{:?}", packing.archive.files());
}

/// What was removed stays so when the pack cannot be, and nobody is told otherwise before it is durable.
#[test]
fn p1_a_pack_that_cannot_be_removed_with_its_last_member_stays_marked() {
    let packing = Packing::new();
    let stored = packing.pack_of(3);
    let (last, others) = stored.split_last().unwrap();
    others.iter().for_each(|(id, _)| packing.archive.remove(id).unwrap());
    packing.watched.failing.store(true, Ordering::SeqCst);
    packing.archive.remove(&last.0).unwrap_err();
    assert_eq!(tombstones(&packing).len(), 3, "the pack may come back");
    packing.watched.failing.store(false, Ordering::SeqCst);
    packing.archive.remove(&last.0).unwrap();
    assert!(packing.listed().is_empty());
    assert_eq!(repack(&packing).failed, 0);
    assert!(packing.archive.files().is_empty(), "{:?}", packing.archive.files());
}

#[test]
fn p2_a_damaged_pack_is_never_rewritten() {
    let packing = Packing::new();
    let stored = packing.pack_of(10);
    for (id, _) in &stored[..6] {
        packing.archive.remove(id).unwrap();
    }
    let path = packing.packs().remove(0);
    let whole = fs::read(&path).unwrap();
    let pack = OpenOptions::new().write(true).open(&path).unwrap();
    // In a living member, and in the index.
    let content_at = whole.windows(64).position(|bytes| bytes == &stored[9].1[..64]).unwrap();
    for at in [content_at + 5, whole.len() - 80] {
        pack.write_all_at(&[whole[at] ^ 4], at as u64).unwrap();
        let damaged = fs::read(&path).unwrap();
        assert_eq!(repack(&packing), Repacked { failed: 1, ..Repacked::default() });
        assert!(fs::read(&path).unwrap() == damaged, "left as it was");
        assert_eq!(tombstones(&packing).len(), 6);
        pack.write_all_at(&[whole[at]], at as u64).unwrap();
    }
    assert_eq!(repack(&packing).rewritten, 1);
}

#[test]
fn p1_tombstones_stay_when_the_new_pack_cannot_be_made_durable() {
    let packing = Packing::new();
    let stored = packing.pack_of(10);
    for (id, _) in &stored[..6] {
        packing.archive.remove(id).unwrap();
    }
    packing.watched.failing.store(true, Ordering::SeqCst);
    assert_eq!(repack(&packing), Repacked { failed: 1, ..Repacked::default() });
    assert_eq!(tombstones(&packing).len(), 6);
    packing.watched.failing.store(false, Ordering::SeqCst);
    for (id, content) in &stored[6..] {
        packing.restored(id, content).unwrap();
    }
    assert_eq!(repack(&packing).rewritten, 1);
}

#[test]
fn p1_a_removal_that_is_not_durable_is_not_acknowledged() {
    let packing = Packing::new();
    let stored = packing.pack_of(3);
    packing.watched.failing.store(true, Ordering::SeqCst);
    packing.archive.remove(&stored[0].0).unwrap_err();
    packing.watched.failing.store(false, Ordering::SeqCst);
    let before = packing.watched.finished.load(Ordering::SeqCst);
    packing.archive.remove(&stored[0].0).unwrap();
    assert!(
        packing.watched.finished.load(Ordering::SeqCst) >= before + 2,
        "the tombstone's name, its directory's name"
    );
}

#[test]
fn leftovers_of_crashes_are_cleared() {
    let packing = Packing::new();
    let stored = packing.pack_of(4);
    packing.archive.remove(&stored[0].0).unwrap();
    let pack = packing.packs().remove(0);
    // A crash after a pack was rewritten, and one after a pack was removed.
    let directory = tombstones(&packing).remove(0).parent().unwrap().to_owned();
    fs::write(directory.join(uuid(700).as_str()), "").unwrap();
    let prefix = pack.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let orphan = pack.with_file_name(format!("{prefix}e10001f2e3d4c5b6.d"));
    fs::create_dir(&orphan).unwrap();
    fs::write(orphan.join(uuid(1).as_str()), "").unwrap();
    assert_eq!(repack(&packing), Repacked::default());
    assert_eq!(tombstones(&packing), [directory.join(&stored[0].0.as_str()[..36])]);
    assert!(!orphan.exists());
}

/// The lock of the tombstones' directory is known on one host only, on NFS; that of a file is the one that counts.
#[test]
fn p7_a_pack_is_rewritten_by_one_at_a_time_also_of_several_hosts() {
    let packing = Packing::new();
    let stored = packing.pack_of(10);
    stored[..6].iter().for_each(|(id, _)| packing.archive.remove(id).unwrap());
    let path = packing.packs().remove(0);
    let lock = path.with_extension("lock");
    let other_host = fs::File::create_new(&lock).unwrap();
    assert!(sys::file::try_lock_exclusive(&other_host).unwrap());
    assert_eq!(repack(&packing), Repacked::default());
    assert_eq!((tombstones(&packing).len(), lock.exists()), (6, true));
    // It crashed: its file stays, and nobody has the lock.
    drop(other_host);
    assert_eq!(repack(&packing).rewritten, 1);
    assert!(!lock.exists() && tombstones(&packing).is_empty());
    // With its last member it goes at once, but for the same reason: then the next one clears away.
    let other_host = fs::File::create_new(&lock).unwrap();
    assert!(sys::file::try_lock_exclusive(&other_host).unwrap());
    stored[6..].iter().for_each(|(id, _)| packing.archive.remove(id).unwrap());
    assert_eq!((tombstones(&packing).len(), path.exists()), (4, true));
    fs::remove_file(&path).unwrap();
    drop(other_host);
    assert_eq!(repack(&packing), Repacked::default());
    assert!(packing.archive.files().is_empty(), "{:?}", packing.archive.files());
}

/// A lock that is lost, as with a server that was started anew, costs nothing: what somebody else took out does not come back.
#[test]
fn p7_a_pack_that_was_rewritten_meanwhile_is_left_as_it_is() {
    let packing = Packing::new();
    let stored = packing.pack_of(10);
    stored[..6].iter().for_each(|(id, _)| packing.archive.remove(id).unwrap());
    let path = packing.packs().remove(0);
    let old = fs::read(&path).unwrap();
    let marks = tombstones(&packing);
    for marks_go in [false, true] {
        let before = packing.watched.started.load(Ordering::SeqCst);
        let hold = packing.watched.hold();
        let done = std::thread::scope(|scope| {
            let repacking = scope.spawn(|| repack(&packing));
            let syncs = || packing.watched.started.load(Ordering::SeqCst) > before;
            testkit::wait_until(std::time::Duration::from_secs(60), "the sync of the new pack", syncs);
            if marks_go {
                marks.iter().for_each(|mark| fs::remove_file(mark).unwrap());
            } else {
                let anew = path.with_extension("new");
                fs::write(&anew, &old).unwrap();
                fs::rename(anew, &path).unwrap();
            }
            drop(hold);
            repacking.join().unwrap()
        });
        assert_eq!(done, Repacked::default(), "{marks_go}");
        assert!(fs::read(&path).unwrap() == old, "{marks_go}");
    }
}

/// A pack's first tombstone takes inodes that are not there: the last member that is left takes the pack with it, and nothing else ever does.
#[test]
fn p7_the_last_member_of_a_pack_can_be_removed_from_a_full_archive() {
    let disk = LoopFs::new(FsKind::Ext4, 8);
    let watched = Arc::new(Watched::default());
    let packing = Packing { archive: Archive::at(&disk.path(), watched.clone()), watched };
    let fillers = disk.path().join("fillers");
    fs::create_dir(&fillers).unwrap();
    let filler = |n: u32| fillers.join(n.to_string());
    let fill = || {
        let full = (0..).map(|n| fs::File::create(filler(n))).find_map(Result::err).unwrap();
        assert_eq!(full.raw_os_error(), Some(28), "no inode is left");
    };
    for is_rewritten in [true, false] {
        let stored = packing.pack_of(3);
        let (last, others) = stored.split_last().unwrap();
        // Makes the file that is restored into.
        packing.restored(&last.0, &last.1).unwrap();
        if is_rewritten {
            // Then no directory of tombstones is beside it.
            others.iter().for_each(|(id, _)| packing.archive.remove(id).unwrap());
            assert_eq!(repack(&packing).rewritten, 1);
            fill();
        } else {
            fill();
            let (first, content) = &others[0];
            let error = packing.archive.remove(first).unwrap_err();
            assert_eq!((error.kind(), error.errno()), (model::ErrorKind::Temporary, 28), "{error}");
            let failure = error.into_failure("cannot remove f");
            assert!(failure.message.contains("free space on that filesystem"), "{failure}");
            packing.restored(first, content).unwrap();
            // A directory and a file; the others' are links. To remove the pack it cannot be locked.
            [0, 1].map(filler).iter().for_each(|file| fs::remove_file(file).unwrap());
            packing.archive.remove(first).unwrap();
            assert!(fs::File::create(filler(0)).is_err(), "no inode is left");
            packing.archive.remove(&others[1].0).unwrap();
        }
        packing.restored(&last.0, &last.1).unwrap();
        packing.archive.remove(&last.0).unwrap();
        assert!(packing.packs().is_empty() && packing.listed().is_empty());
        fs::remove_file(filler(2)).unwrap();
        assert!(matches!(packing.restored(&last.0, &last.1), Err(TransferError::Missing { .. })));
        assert_eq!(repack(&packing).failed, 0);
        assert!(tombstones(&packing).is_empty());
        fs::remove_dir_all(&fillers).unwrap();
        fs::create_dir(&fillers).unwrap();
    }
}

/// Readers, removals and two repackers at once: whoever asks for a living member gets it, a removed one never comes back.
#[test]
fn readers_removals_and_repackers_do_not_disturb_each_other() {
    let packing = Packing::new();
    let stored = packing.pack_of(100);
    let stop = AtomicBool::new(false);
    // Also when this thread panics: or the others would go on for ever.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (rounds, others): (u64, u64) = std::thread::scope(|scope| {
        let repackers = [0, 1].map(|_| {
            scope.spawn(|| {
                let store = PosixStore::open(packing.archive.store.root(), Arc::new(KernelDurability)).unwrap();
                let mut total = 0;
                while !stop.load(Ordering::Relaxed) {
                    let done = store.repack(&mut |_| {}).unwrap();
                    assert_eq!(done.failed, 0);
                    total += done.rewritten;
                }
                total
            })
        });
        let until_here = Stop(&stop);
        for (id, content) in &stored[..99] {
            packing.restored(id, content).unwrap();
            packing.archive.remove(id).unwrap();
            assert!(matches!(packing.restored(id, content), Err(TransferError::Missing { .. })));
            let (last, content) = &stored[99];
            packing.restored(last, content).unwrap();
        }
        drop(until_here);
        let [a, b] = repackers.map(|repacker| repacker.join().unwrap());
        (a, b)
    });
    assert!(rounds + others >= 3, "a pack of 100 is halved several times");
    assert_eq!(packing.listed().len(), 1);
    assert_eq!(packing.put(&[(uuid(900), content(900, 10))], small(Encoding::Raw)).len(), 1);
}
