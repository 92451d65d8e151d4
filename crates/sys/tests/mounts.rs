//! Private copies of real mounts, and what is known about them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap here is a failed test")]

mod loopfs;

use std::fs::File;
use std::path::Path;
use std::process::Command;

use loopfs::{LoopFs, on_every_filesystem};
use sifaka_sys::mounts;

on_every_filesystem!(a_private_copy_is_attached_and_detached, a_filesystem_is_known_from_any_path_on_it);

fn a_private_copy_is_attached_and_detached(fs: &LoopFs) {
    std::fs::write(fs.path("file"), "content").unwrap();
    let target = fs.outside().join("private copy");
    std::fs::create_dir(&target).unwrap();
    assert!(!mounts::is_mount_point(&target).unwrap());
    assert!(mounts::mounts_under(&target).unwrap().is_empty());

    let copy = mounts::clone_private(mounts::open_mount(fs.root()).unwrap()).unwrap();
    mounts::attach(&copy, &target).unwrap();
    assert!(mounts::is_mount_point(&target).unwrap());
    assert_eq!(mounts::mounts_under(&target).unwrap(), std::slice::from_ref(&target));
    assert_eq!(mounts::mounts_under(fs.outside()).unwrap(), [target.clone(), fs.root()]);
    assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), "content");
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains("private\\040copy")).unwrap();
    assert!(!line.contains("shared:") && !line.contains("master:"), "{line}");

    let open = File::open(target.join("file")).unwrap();
    drop(copy);
    assert_eq!(mounts::unmount(&target, false).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    drop(open);
    mounts::unmount(&target, false).unwrap();
    assert!(!mounts::is_mount_point(&target).unwrap());
    assert_eq!(mounts::unmount(&target, false).unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

fn a_filesystem_is_known_from_any_path_on_it(fs: &LoopFs) {
    std::fs::create_dir_all(fs.path("a/b")).unwrap();
    std::fs::write(fs.path("a/b/file"), "").unwrap();
    let info = mounts::filesystem_of(fs.path("a/b/file")).unwrap();
    assert_eq!((info.kind.as_str(), info.mount_point.clone()), (fs.kind, fs.root()));
    assert!(info.source.to_string_lossy().starts_with("/dev/loop"), "{info:?}");
    assert_ne!(info.fsid, [0; 8]);
    assert_eq!(info, mounts::filesystem_of(fs.root()).unwrap());
    let outside = mounts::filesystem_of(fs.outside()).unwrap();
    assert_ne!((outside.dev, outside.fsid), (info.dev, info.fsid));

    let root = sifaka_sys::file::stamp(mounts::open_mount(fs.root()).unwrap()).unwrap();
    assert_eq!(root, sifaka_sys::file::stamp(mounts::open_mount(fs.path("a/b")).unwrap()).unwrap());
    let no_directory = mounts::open_mount(fs.path("a/b/file")).unwrap_err();
    assert_eq!(no_directory.raw_os_error(), Some(libc::ENOTDIR));
}

#[test]
fn a_private_copy_stays_private_between_shared_mounts() {
    let source = LoopFs::new("tmpfs");
    let place = LoopFs::new("tmpfs");
    for shared in [&source, &place] {
        assert!(Command::new("mount").arg("--make-shared").arg(shared.root()).status().unwrap().success());
    }
    let target = place.path("target");
    std::fs::create_dir(&target).unwrap();
    let copy = mounts::clone_private(mounts::open_mount(source.root()).unwrap()).unwrap();
    mounts::attach(&copy, &target).unwrap();
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let escaped = |path: &Path| path.to_str().unwrap().replace(' ', "\\040");
    let line = |path: &Path| table.lines().find(|line| line.split(' ').nth(4) == Some(&escaped(path))).unwrap();
    assert!(line(&place.root()).contains("shared:") && line(&source.root()).contains("shared:"), "{table}");
    assert!(!line(&target).contains("shared:") && !line(&target).contains("master:"), "{table}");
    // Its own descriptor is a use like any other.
    assert_eq!(mounts::unmount(&target, false).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    drop(copy);
    mounts::unmount(&target, false).unwrap();
}
