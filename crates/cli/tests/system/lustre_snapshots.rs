//! On Lustre: with `snapshots { enabled = true }` archived versions stay readable beside their originals.

use crate::lustre_kit::{Lustre, RELEASED};
use crate::support::{LONG, noise};
use lustre_standin::Status;
use model::xattr;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use sys::lustre::UserAction;
use testkit::wait_until;

const MTIME: i64 = 1_700_000_000;

fn start() -> Lustre {
    Lustre::start_with(|site| site.add_agent_setting("snapshots {\n  enabled = true\n}"))
}

/// What is in the directory's `.hsmsnapshot`, in order.
fn snapshots(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join(".hsmsnapshot")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn names(directory: &Path) -> Vec<OsString> {
    snapshots(directory).iter().map(|path| path.file_name().unwrap().to_owned()).collect()
}

/// Until these are there, and nothing else.
#[track_caller]
fn wait_for(lustre: &Lustre, directory: &Path, wanted: &[&str]) {
    wait_until(LONG, &format!("{wanted:?} are there; log:\n{}", lustre.log()), || names(directory) == wanted);
}

fn set_mtime(path: &Path, nanos: i64) {
    let time = rustix::fs::Timespec { tv_sec: MTIME, tv_nsec: nanos };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
}

const NOBODY: u32 = u32::MAX;

/// Entries of tag, permissions and id, as the kernel has them.
fn set_acl(path: &Path, name: &str, entries: &[(u16, u16, u32)]) {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes().into_iter().chain(permissions.to_le_bytes()).chain(id.to_le_bytes()));
    }
    sys::xattr::set(fs::File::open(path).unwrap(), name, &bytes).unwrap();
}

fn acl(path: &Path) -> Option<Vec<u8>> {
    let fd = rustix::fs::open(path, sys::OFlags::PATH, sys::Mode::empty()).unwrap();
    sys::xattr::get(&fd, "system.posix_acl_access").unwrap()
}

#[test]
fn an_archived_version_stays_readable_when_its_original_has_changed() {
    let mut lustre = start();
    let directory = lustre.fs.path().join("dir");
    fs::create_dir(&directory).unwrap();
    chown(&directory, Some(1000), Some(1000)).unwrap();
    let path = lustre.file("dir/f", &noise(1, 70_000));
    chown(&path, Some(7), Some(8)).unwrap();
    // The group's bits are the mask's: without the ACL the group could read.
    set_acl(
        &path,
        "system.posix_acl_access",
        &[(1, 6, NOBODY), (2, 4, 9), (4, 0, NOBODY), (0x10, 4, NOBODY), (0x20, 0, NOBODY)],
    );
    let inherited = [(1, 7, NOBODY), (2, 7, 10), (4, 7, NOBODY), (0x10, 7, NOBODY), (0x20, 7, NOBODY)];
    set_acl(&directory, "system.posix_acl_default", &inherited);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    set_mtime(&path, 5);
    lustre.archive(&path);
    wait_for(&lustre, &directory, &["f^2023-11-14T22:13:20Z"]);
    let first = snapshots(&directory).remove(0);
    let (old, new) = (fs::metadata(&path).unwrap(), fs::metadata(&first).unwrap());
    let shown = |m: &fs::Metadata| (m.len(), m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
    assert_eq!(shown(&old), shown(&new));
    assert_ne!(old.ino(), new.ino());
    assert_eq!(lustre.flags(&first) & RELEASED, RELEASED);
    for name in [xattr::UUID, xattr::HASH] {
        assert_eq!(lustre.attribute(&path, name), lustre.attribute(&first, name));
    }
    assert_eq!(acl(&path), acl(&first));
    let uuid = lustre.uuid(&path);
    assert_eq!([&path, &first].map(|path| lustre.attribute(path, xattr::SHARED)), [uuid.clone(), uuid.clone()]);
    let owner = fs::metadata(directory.join(".hsmsnapshot")).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (1000, 1000));
    // The next version, of the same second; and the same one archived again changes nothing.
    fs::write(&path, noise(2, 50_000)).unwrap();
    set_mtime(&path, 6);
    lustre.archive(&path);
    let both = ["f^2023-11-14T22:13:20.000000006Z", "f^2023-11-14T22:13:20Z"];
    wait_for(&lustre, &directory, &both);
    let second = snapshots(&directory).remove(0);
    assert!(acl(&first).is_some() && acl(&second) == acl(&path));
    assert_ne!(lustre.uuid(&second), uuid);
    // The object stays when the original gives it up.
    lustre.ask(UserAction::Remove, &[&path]);
    lustre.nothing_is_left();
    assert_eq!(lustre.read(&second), Ok(noise(2, 50_000)), "{}", lustre.log());
    assert_eq!(lustre.read(&first), Ok(noise(1, 70_000)), "{}", lustre.log());
    // Snapshots have none. The agent has made what it would make when it has stopped.
    fs::write(&first, b"somebody writes to it").unwrap();
    lustre.archive(&first);
    lustre.nothing_is_left();
    lustre.stop_agent();
    assert_eq!(names(&directory), both);
    assert!(!directory.join(".hsmsnapshot/.hsmsnapshot").exists());
    assert!(lustre.statuses().iter().all(|status| *status == Status::Succeeded));
}

#[test]
fn each_name_of_a_file_has_its_snapshot_and_they_are_links() {
    let lustre = start();
    let top = lustre.fs.path();
    let other = top.join("other");
    fs::create_dir(&other).unwrap();
    let path = lustre.file("a", &noise(3, 5000));
    fs::hard_link(&path, top.join("b")).unwrap();
    fs::hard_link(&path, other.join("c")).unwrap();
    set_mtime(&path, 0);
    lustre.archive(&path);
    wait_for(&lustre, &top, &["a^2023-11-14T22:13:20Z", "b^2023-11-14T22:13:20Z"]);
    wait_for(&lustre, &other, &["c^2023-11-14T22:13:20Z"]);
    let all = [snapshots(&top), snapshots(&other)].concat();
    let numbers: Vec<_> = all.iter().map(|path| fs::metadata(path).unwrap().ino()).collect();
    assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
    assert_ne!(numbers[0], fs::metadata(&path).unwrap().ino());
    fs::remove_file(&path).unwrap();
    assert_eq!(lustre.read(&all[2]), Ok(noise(3, 5000)), "{}", lustre.log());
    assert_eq!(fs::read(&all[0]).unwrap(), noise(3, 5000));
}

#[test]
fn p5_an_archive_is_done_when_its_snapshot_cannot_be_made() {
    let mut lustre = start();
    let top = lustre.fs.path();
    let path = lustre.file("f", &noise(4, 5000));
    set_mtime(&path, 0);
    let told = |lustre: &Lustre| lustre.log().matches("no snapshot of the archived version was made").count();
    lustre.fail("llapi_hsm_import", 28, 1);
    lustre.archive(&path);
    wait_until(LONG, "it is told", || told(&lustre) == 1);
    assert!(names(&top).is_empty(), "{:?}", names(&top));
    // A directory that its owner has put elsewhere: nothing is made there.
    let (home, elsewhere) = (top.join("home"), top.join("elsewhere"));
    fs::create_dir(&home).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, home.join(".hsmsnapshot")).unwrap();
    let beside = lustre.file("home/g", b"content");
    lustre.archive(&beside);
    wait_until(LONG, "it is told, too", || told(&lustre) == 2);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    // A link with the snapshot's name leads nowhere either.
    symlink(top.join("trap"), top.join(".hsmsnapshot/f^2023-11-14T22:13:20Z")).unwrap();
    fs::write(&path, noise(5, 6000)).unwrap();
    set_mtime(&path, 9);
    lustre.archive(&path);
    wait_for(&lustre, &top, &["f^2023-11-14T22:13:20.000000009Z", "f^2023-11-14T22:13:20Z"]);
    assert!(fs::symlink_metadata(top.join("trap")).is_err());
    assert_eq!(lustre.read(&snapshots(&top)[0]), Ok(noise(5, 6000)), "{}", lustre.log());
    lustre.nothing_is_left();
    lustre.stop_agent();
    assert!(lustre.statuses().iter().all(|status| *status == Status::Succeeded), "{:?}", lustre.statuses());
}

/// What is wrong with one name of a file is nothing to the others.
#[test]
fn a_name_that_is_too_long_for_a_snapshot_keeps_no_other_from_getting_one() {
    let lustre = start();
    let directory = lustre.fs.path().join("dir");
    fs::create_dir(&directory).unwrap();
    let long = "x".repeat(250);
    let path = lustre.file(&format!("dir/{long}"), b"a program");
    fs::hard_link(&path, directory.join("g")).unwrap();
    chown(&path, Some(7), Some(8)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    set_mtime(&path, 0);
    lustre.archive(&path);
    wait_for(&lustre, &directory, &["g^2023-11-14T22:13:20Z"]);
    wait_until(LONG, "it was said", || lustre.log().contains("File name too long"));
    // An old version gives nobody its owner's rights.
    assert_eq!(fs::metadata(&snapshots(&directory)[0]).unwrap().mode() & 0o7777, 0o755);
}
