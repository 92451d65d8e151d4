//! Rebuilding, from real archives onto real filesystems. Reading the files needs an agent: that is tested with the whole program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod kit;

use kit::{Archived, Collected, facts, options, relative_paths};
use sifaka_maintenance::rebuild::{Counts, rebuild};
use sifaka_maintenance::report::Problem;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use testkit::{FsKind, LoopFs};

/// Everything but content and ctime is as it was, also on another kind of filesystem, and doing it again changes nothing.
#[test]
fn p8_a_rebuilt_tree_is_what_was_archived() {
    for (from, to) in [(FsKind::Ext4, FsKind::Xfs), (FsKind::Xfs, FsKind::Btrfs), (FsKind::Btrfs, FsKind::Ext4)] {
        let original = LoopFs::new(from, 256);
        kit::build(&original.path());
        let before = facts(&original.path());
        let archive = Archived::of(&original.path());
        drop(original);
        let fresh = LoopFs::new(to, 256);
        let found = Collected::default();
        let counts = rebuild(&archive.store, &options(&fresh.path()), &found).unwrap();
        assert_eq!(found.problems(), [], "{from:?} to {to:?}");
        assert!(counts.is_whole());
        kit::assert_same(&before, &facts(&fresh.path()));
        fresh.remount();
        kit::assert_same(&before, &facts(&fresh.path()));
        archive.assert_released(&fresh.path());

        let again = rebuild(&archive.store, &options(&fresh.path()), &found).unwrap();
        assert_eq!(found.problems(), []);
        assert_eq!((again.files, again.directories, again.others, again.links), (0, 0, 0, 0), "{again:?}");
        assert!(again.already >= counts.files + counts.others + counts.links);
        kit::assert_same(&before, &facts(&fresh.path()));
    }
}

#[test]
fn a_dry_run_makes_nothing_and_tells_the_same_numbers() {
    let original = LoopFs::new(FsKind::Ext4, 64);
    kit::build(&original.path());
    let archive = Archived::of(&original.path());
    let fresh = LoopFs::new(FsKind::Ext4, 64);
    let mut dry = options(&fresh.path());
    dry.dry_run = true;
    let told = rebuild(&archive.store, &dry, &Collected::default()).unwrap();
    assert_eq!(relative_paths(&fresh.path()), ["lost+found"]);
    let done = rebuild(&archive.store, &options(&fresh.path()), &Collected::default()).unwrap();
    // A root that was not made counts as being there.
    let same = |counts: Counts| (counts.files, counts.bytes, counts.others, counts.links, counts.conflicts);
    assert_eq!(same(told), same(done));
}

#[test]
fn what_is_there_already_is_left_as_it_is() {
    let original = LoopFs::new(FsKind::Ext4, 64);
    for name in ["file", "link", "dir", "file2"] {
        fs::write(original.path().join(name), name).unwrap();
    }
    fs::remove_file(original.path().join("link")).unwrap();
    symlink("target", original.path().join("link")).unwrap();
    fs::remove_file(original.path().join("dir")).unwrap();
    fs::create_dir(original.path().join("dir")).unwrap();
    fs::write(original.path().join("dir/inside"), "inside").unwrap();
    let archive = Archived::of(&original.path());

    let fresh = LoopFs::new(FsKind::Ext4, 64);
    let at = |name: &str| fresh.path().join(name);
    fs::write(at("file"), "mine").unwrap();
    symlink("elsewhere", at("link")).unwrap();
    fs::write(at("dir"), "no directory").unwrap();
    fs::create_dir(at("kept")).unwrap();
    fs::set_permissions(at("kept"), fs::Permissions::from_mode(0o751)).unwrap();
    let found = Collected::default();
    let counts = rebuild(&archive.store, &options(&fresh.path()), &found).unwrap();
    assert_eq!((counts.conflicts, counts.files, counts.failed), (4, 1, 0), "{:?}", found.problems());
    assert!(found.problems().iter().all(|(problem, _)| *problem == Problem::Conflict));
    assert_eq!(fs::read(at("file")).unwrap(), b"mine");
    assert_eq!(fs::read_link(at("link")).unwrap().to_str(), Some("elsewhere"));
    assert_eq!(fs::read(at("dir")).unwrap(), b"no directory");
    assert_eq!(fs::metadata(at("kept")).unwrap().permissions().mode() & 0o7777, 0o751);
    assert!(at("file2").exists());
}

#[test]
fn damage_holds_up_nothing_else_and_lost_names_can_be_given() {
    let original = LoopFs::new(FsKind::Ext4, 64);
    for i in 0..40 {
        fs::write(original.path().join(format!("file{i:02}")), format!("content {i}")).unwrap();
    }
    let archive = Archived::of(&original.path());
    // A bit of one manifest, half of another, all of a third, garbage, and an object.
    let [flipped, cut, none, garbage, lost] = ["file01", "file03", "file04", "file06", "file07"];
    let manifest = |name: &str| archive.manifest_of(name);
    let mut bytes = fs::read(manifest(flipped)).unwrap();
    bytes[60] ^= 4;
    fs::write(manifest(flipped), bytes).unwrap();
    let bytes = fs::read(manifest(cut)).unwrap();
    fs::write(manifest(cut), &bytes[..bytes.len() / 2]).unwrap();
    fs::remove_file(manifest(none)).unwrap();
    fs::write(manifest(garbage), vec![0xff; 5000]).unwrap();
    fs::remove_file(archive.object_of(lost)).unwrap();

    let fresh = LoopFs::new(FsKind::Ext4, 64);
    let found = Collected::default();
    let mut options = options(&fresh.path());
    options.orphans = Some(b"lost names".to_vec());
    let counts = rebuild(&archive.store, &options, &found).unwrap();
    let told = found.problems();
    assert_eq!((counts.bad_manifests, counts.without_manifest, counts.lost), (3, 4, 1), "{told:?}");
    assert_eq!((counts.files, counts.orphans, counts.failed), (35, 4, 0), "{told:?}");
    assert!(!counts.is_whole());
    for name in [flipped, cut, none, garbage] {
        let path = fresh.path().join("lost names").join(archive.id_of(name));
        assert_eq!(fs::metadata(&path).unwrap().len(), "content 1".len() as u64, "{name}");
        assert!(!fresh.path().join(name).exists());
    }
    assert!(!fresh.path().join(lost).exists());
    // Once more: nothing new, and the same is told.
    let found = Collected::default();
    let again = rebuild(&archive.store, &options, &found).unwrap();
    assert_eq!((again.files, again.orphans, again.bad_manifests), (0, 0, 3));
}

/// A manifest is believed nothing that leads out of the tree.
#[test]
fn a_planted_link_leads_nowhere() {
    let original = LoopFs::new(FsKind::Ext4, 64);
    fs::create_dir(original.path().join("dir")).unwrap();
    fs::write(original.path().join("dir/file"), "content").unwrap();
    let archive = Archived::of(&original.path());
    let fresh = LoopFs::new(FsKind::Ext4, 64);
    let outside = testkit::Scratch::new("outside");
    symlink(outside.path(), fresh.path().join("dir")).unwrap();
    let found = Collected::default();
    let counts = rebuild(&archive.store, &options(&fresh.path()), &found).unwrap();
    assert_eq!((counts.files, counts.failed), (0, 0), "{:?}", found.problems());
    assert!(counts.conflicts > 0);
    assert!(!outside.join("file").exists());
}

/// Directories made there have its group and its setgid bit from the start.
#[test]
fn p8_a_tree_is_finished_below_a_directory_that_hands_its_group_down() {
    for kind in FsKind::ALL {
        let original = LoopFs::new(kind, 64);
        let part = original.path().join("part");
        fs::create_dir_all(part.join("a/b/c")).unwrap();
        fs::write(part.join("a/b/c/file"), "content").unwrap();
        for (path, mode, owner) in [("a/b/c", 0o2750, 7), ("a/b", 0o711, 8), ("a", 0o1777, 0), ("", 0o755, 9)] {
            std::os::unix::fs::chown(part.join(path), Some(owner), Some(owner)).unwrap();
            fs::set_permissions(part.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        let archive = Archived::of(&original.path());
        let fresh = LoopFs::new(kind, 64);
        for (name, recorded, killed) in [("whole", "part", false), ("below", "part/a", true)] {
            let parent = fresh.path().join(name);
            fs::create_dir(&parent).unwrap();
            std::os::unix::fs::chown(&parent, Some(77), Some(4242)).unwrap();
            fs::set_permissions(&parent, fs::Permissions::from_mode(0o2775)).unwrap();
            if killed {
                fs::create_dir(parent.join("b")).unwrap();
                fs::set_permissions(parent.join("b"), fs::Permissions::from_mode(0o3700)).unwrap();
            }
            let mut options = options(&parent);
            options.prefix = recorded.as_bytes().to_vec();
            let found = Collected::default();
            let counts = rebuild(&archive.store, &options, &found).unwrap();
            assert_eq!((found.problems(), counts.failed), (vec![], 0));
            let mut expected = facts(&original.path().join(recorded));
            let mut actual = facts(&parent);
            if killed {
                // There was something in it: it is left as it was.
                assert_eq!(fs::metadata(&parent).unwrap().permissions().mode() & 0o7777, 0o2775);
                expected.remove(std::path::Path::new(""));
                actual.remove(std::path::Path::new(""));
            }
            kit::assert_same(&expected, &actual);
            let again = rebuild(&archive.store, &options, &found).unwrap();
            assert_eq!(again.directories, 0, "{again:?}");
        }
    }
}

#[test]
fn a_part_of_the_tree_can_be_brought_elsewhere() {
    let original = LoopFs::new(FsKind::Xfs, 300);
    fs::create_dir_all(original.path().join("a/b/c")).unwrap();
    for path in ["a/b/c/deep", "a/b/file", "a/bc", "top"] {
        fs::write(original.path().join(path), path).unwrap();
    }
    fs::hard_link(original.path().join("top"), original.path().join("a/b/other-name-of-top")).unwrap();
    let archive = Archived::of(&original.path());
    let fresh = LoopFs::new(FsKind::Ext4, 64);
    let into = fresh.path().join("into");
    fs::create_dir(&into).unwrap();
    let found = Collected::default();
    let mut options = options(&into);
    options.prefix = b"a/b".to_vec();
    let counts = rebuild(&archive.store, &options, &found).unwrap();
    assert_eq!(found.problems(), []);
    assert_eq!((counts.files, counts.links), (3, 0));
    assert_eq!(relative_paths(&into), ["c", "c/deep", "file", "other-name-of-top"]);
    assert_eq!(relative_paths(&fresh.path()).len(), 6, "nothing beside it");
}
