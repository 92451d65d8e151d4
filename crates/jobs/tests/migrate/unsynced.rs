//! Storage that takes data and then loses it, or has no room for it.

use crate::oracle::{run, run_well};
use sifaka_jobs::JobError;
use sifaka_jobs::migrate::{Existing, Options, migrate};
use sifaka_jobs::report::{Tally, Unwatched};
use std::fs;
use std::sync::atomic::AtomicBool;
use testkit::{FsKind, LoopFs, Scratch, faults};

#[test]
fn what_was_lost_on_its_way_to_the_device_is_not_taken_for_copied() {
    let scratch = Scratch::new("unsynced");
    let source = scratch.join("src");
    fs::create_dir(&source).unwrap();
    for number in 0..20 {
        fs::write(source.join(format!("{number}")), vec![number + 1; 100_000]).unwrap();
    }
    for existing in [Existing::Keep, Existing::Newer] {
        let backing = LoopFs::new(FsKind::Ext4, 300);
        let disk = LoopFs::thin_on(&backing);
        let target = disk.path().join("dst");
        // The directory has its place on the device: only contents are lost.
        fs::create_dir(&target).unwrap();
        disk.remount();
        let options = Options { existing, state: Some(scratch.join("job.db")), ..Options::default() };
        let full = faults::fill(&backing, 0);
        let ended = migrate(&source, &target, &options, &Tally::default(), &Unwatched, &AtomicBool::new(false));
        assert!(matches!(ended, Err(JobError::Io { .. })), "{ended:?}");
        drop(full);
        // All has its size and time; what is read comes from the page cache or from the device.
        let again = run(&source, &target, &options);
        assert_eq!(again.problems(), Vec::<String>::new());
        assert!(again.totals.files > 0, "{:?}", again.totals);
        disk.remount();
        run_well(&source, &target, &Options { existing: Existing::Update, ..options });
    }
}

#[test]
fn what_finds_no_room_is_told_and_the_rest_is_copied() {
    let scratch = Scratch::new("no-room");
    let source = scratch.join("src");
    fs::create_dir(&source).unwrap();
    for (name, bytes) in [("a", 10), ("huge", 20 << 20), ("large-hole", 0), ("z", 10)] {
        fs::write(source.join(name), vec![1; bytes]).unwrap();
    }
    fs::File::options().write(true).open(source.join("large-hole")).unwrap().set_len(1 << 30).unwrap();
    let disk = LoopFs::new(FsKind::Ext4, 10);
    let target = disk.path().join("dst");
    let ran = run(&source, &target, &Options::default());
    assert_eq!((ran.totals.failed, ran.totals.files), (1, 3), "{:?}", ran.problems());
    let names: Vec<_> = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.len() == 3 && !names.iter().any(|name| name == "huge"), "{names:?}");
}
