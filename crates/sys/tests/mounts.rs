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

/// An image on a loop device of its own, detached when dropped.
struct Device(String);

impl Device {
    fn of(image: &Path) -> Self {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(image).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Self(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    fn make(&self, kind: &str) {
        let options = if kind == "ext4" { "-qF" } else { "-qf" };
        assert!(Command::new(format!("mkfs.{kind}")).arg(options).arg(&self.0).status().unwrap().success());
    }

    /// What is known of the filesystem by its root, by a file and by a name that leads nowhere; all the same.
    fn look(&self, kind: &str, at: &Path) -> mounts::FsInfo {
        assert!(Command::new("mount").args(["-t", kind, &self.0]).arg(at).status().unwrap().success());
        let directory = at.join("directory");
        let _ = std::fs::create_dir(&directory);
        let _ = std::os::unix::fs::symlink("nowhere", directory.join("link"));
        std::fs::write(directory.join("file"), "").unwrap();
        let info = mounts::filesystem_of(at).unwrap();
        assert_eq!(info, mounts::filesystem_of(directory.join("file")).unwrap());
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW;
        let link = rustix::fs::open(directory.join("link"), flags, rustix::fs::Mode::empty()).unwrap();
        let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&link));
        assert_eq!(info, mounts::filesystem_of(name).unwrap());
        drop(link);
        mounts::unmount(at, false).unwrap();
        info
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// The kernel's own number of an XFS is its device's, which the next boot may give to another disk.
#[test]
fn p7_a_filesystem_is_known_by_what_it_is_and_not_by_its_device() {
    for (kind, size) in [("ext4", 64 << 20), ("xfs", 320 << 20), ("btrfs", 128 << 20)] {
        let scratch = tempfile::tempdir().unwrap();
        let (image, at) = (scratch.path().join("image"), scratch.path().join("mount point"));
        std::fs::create_dir(&at).unwrap();
        std::fs::File::create(&image).unwrap().set_len(size).unwrap();
        let device = Device::of(&image);
        device.make(kind);
        let first = device.look(kind, &at);
        let elsewhere = Device::of(&image);
        let moved = elsewhere.look(kind, &at);
        assert_ne!((first.dev, &first.source), (moved.dev, &moved.source), "{kind}");
        assert_eq!(first.fsid, moved.fsid, "{kind}");
        elsewhere.make(kind);
        let anew = elsewhere.look(kind, &at);
        assert_eq!(anew.source, moved.source);
        assert_ne!(anew.fsid, moved.fsid, "{kind}");
        // On these it must stay what it was: archives have it in their manifests.
        assert_eq!(anew.fsid == anew.kernel_fsid, kind != "xfs", "{kind}");
    }
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

/// What is mounted at the path itself, or beside it, is not above it.
#[test]
fn mounts_above_a_path_are_found_by_their_kind() {
    let directory = tempfile::tempdir().unwrap();
    let outer = directory.path().canonicalize().unwrap().join("a");
    let [inner, beside] = [outer.join("b"), outer.with_file_name("ab")];
    for (path, source) in [(&outer, "one"), (&inner, "two"), (&beside, "three")] {
        std::fs::create_dir(path).unwrap();
        assert!(Command::new("mount").args(["-t", "tmpfs", source]).arg(path).status().unwrap().success());
    }
    let found = |path: &Path, kind| {
        let mut found = mounts::mounts_above(path, kind).unwrap();
        found.retain(|(mount_point, _)| mount_point.starts_with(directory.path()));
        found
    };
    let result = [found(&inner, "tmpfs"), found(&inner, "lustre"), found(&outer, "tmpfs"), found(&beside, "tmpfs")];
    for path in [&inner, &outer, &beside] {
        mounts::unmount(path, false).unwrap();
    }
    assert_eq!(result, [vec![(outer, "one".into())], vec![], vec![], vec![]]);
}
