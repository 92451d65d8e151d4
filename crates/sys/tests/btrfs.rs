//! Snapshots on a real btrfs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap here is a failed test")]

mod loopfs;

use loopfs::LoopFs;
use rustix::io::Errno;
use sifaka_sys::btrfs::{destroy, is_subvolume, make_read_only, places_of_subvolumes, snapshot};
use std::fs::{self, File};
use std::process::Command;

#[test]
fn a_snapshot_is_what_was_and_goes_again() {
    let fs = LoopFs::new("btrfs");
    let (root, nested) = (File::open(fs.root()).unwrap(), fs.path("d/nested"));
    fs::create_dir(fs.path("d")).unwrap();
    let (d, made) = (
        File::open(fs.path("d")).unwrap(),
        Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(&nested).status(),
    );
    assert!(made.unwrap().success());
    assert!(
        is_subvolume(&root).unwrap()
            && !is_subvolume(&d).unwrap()
            && !is_subvolume(File::open("/proc").unwrap()).unwrap()
    );
    assert_eq!(places_of_subvolumes(&root).unwrap(), [sifaka_sys::file::stamp(&d).unwrap().ino]);

    fs::write(fs.path("file"), "then").unwrap();
    fs::write(nested.join("inner"), "not in it").unwrap();
    snapshot(&root, &d, b"shot").unwrap();
    assert_eq!(snapshot(&root, &d, b"shot").unwrap_err().raw_os_error(), Some(Errno::EXIST.raw_os_error()));
    fs::write(fs.path("file"), "now").unwrap();
    let shot = fs.path("d/shot");
    assert_eq!(fs::read_to_string(shot.join("file")).unwrap(), "then");
    assert_eq!(fs::read_dir(shot.join("d/nested")).unwrap().count(), 0);
    // A place where a subvolume was can be removed as any directory.
    fs::remove_dir(shot.join("d/nested")).unwrap();
    make_read_only(File::open(&shot).unwrap()).unwrap();
    assert_eq!(fs::write(shot.join("file"), "no").unwrap_err().raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    // Its name is the directory's.
    fs::rename(&shot, fs.path("d/renamed")).unwrap();
    destroy(&d, b"renamed").unwrap();
    assert!(!fs.path("d/renamed").exists() && destroy(&d, b"renamed").is_err());
    assert!(destroy(&d, b"nes\0ted").is_err() && destroy(&d, &[b'x'; 5000]).is_err() && nested.exists());

    // More than the kernel tells at a time.
    for number in 0..300 {
        snapshot(File::open(&nested).unwrap(), &d, format!("s{number}").as_bytes()).unwrap();
    }
    assert_eq!(places_of_subvolumes(&root).unwrap().len(), 301);
}
