//! Loop filesystems: made, used, remounted, removed; several at once.

#![allow(clippy::unwrap_used, reason = "the lint does not see that functions beside tests belong to them")]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use sifaka_testkit::{FsKind, LoopFs};

fn mount_points() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

fn kernel_type(path: &Path) -> String {
    let output = std::process::Command::new("stat").args(["-f", "-c", "%T"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn each_kind_holds_data_across_a_remount_and_vanishes_when_dropped() {
    for (kind, name) in FsKind::ALL.into_iter().zip(["ext2/ext3", "xfs", "btrfs"]) {
        let fs = LoopFs::new(kind, 64);
        assert_eq!(kernel_type(&fs.path()), name);
        assert!(fs.device().starts_with("/dev"), "{}", fs.device().display());
        fs::write(fs.path().join("file"), vec![7; 1 << 20]).unwrap();
        fs.remount();
        assert_eq!(fs::read(fs.path().join("file")).unwrap(), vec![7; 1 << 20]);
        assert!(fs.used_bytes() >= 1 << 20 && fs.free_bytes() > 0, "{kind}");

        let (mount_point, image) = (fs.path(), fs.image());
        drop(fs);
        assert!(!mount_points().contains(&mount_point) && !image.exists(), "{kind}");
    }
}

#[test]
fn a_busy_filesystem_is_let_go_of_lazily() {
    let fs = LoopFs::new(FsKind::Ext4, 16);
    let mount_point = fs.path();
    let open = fs::File::create(mount_point.join("open")).unwrap();
    drop(fs);
    assert!(!mount_points().contains(&mount_point));
    drop(open);
}

#[test]
fn many_are_made_at_the_same_time() {
    let threads: Vec<_> = (0..12).map(|_| thread::spawn(|| LoopFs::new(FsKind::Ext4, 16))).collect();
    let all: Vec<LoopFs> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let mounted = mount_points();
    for fs in &all {
        assert!(mounted.contains(&fs.path()));
    }
    let mut paths: Vec<_> = all.iter().map(LoopFs::path).collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), all.len());
}
