//! Trees counted on real filesystems, and counted once more by other tools.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use parking_lot::Mutex;
use rustix::fs::{FileType, Mode};
use sifaka_jobs::census::{Census, Options, Sum, census};
use sifaka_jobs::filter::Filter;
use sifaka_jobs::report::{Did, Event, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, SystemTime};
use testkit::tree::TreeSpec;
use testkit::{FsKind, LoopFs, Scratch};

#[derive(Default)]
struct Heard(Mutex<Vec<Event>>);

impl Watcher for Heard {
    fn wants_all(&self) -> bool {
        false
    }

    fn tell(&self, event: &Event) {
        self.0.lock().push(event.clone());
    }
}

fn counted(roots: &[PathBuf], options: &Options) -> (Census, Vec<Event>) {
    let heard = Heard::default();
    let found = census(roots, options, &AtomicU64::new(0), &heard, &AtomicBool::new(false)).unwrap();
    (found, heard.0.into_inner())
}

fn usual() -> Options {
    Options { top: 5, ..Options::default() }
}

/// Kind, device and inode, size, blocks, owner, levels below the root.
type Line = (char, (u64, u64), u64, u64, u32, u64);

/// What `find` says of each thing.
fn listed(root: &Path) -> Vec<Line> {
    let format = "%y %D %i %s %b %U %d\\0";
    let found = Command::new("find").arg(root).args(["-printf", format]).output().unwrap();
    assert!(found.status.success());
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| fields[at].parse::<u64>().unwrap();
        let kind = fields[0].chars().next().unwrap();
        (kind, (number(1), number(2)), number(3), number(4), u32::try_from(number(5)).unwrap(), number(6))
    };
    String::from_utf8(found.stdout).unwrap().split_terminator('\0').map(line).collect()
}

fn grow(root: &Path) {
    TreeSpec { max_file_bytes: 100 << 10, ..TreeSpec::new(3, 300) }.build(root);
    let more = root.join("more");
    fs::create_dir(&more).unwrap();
    for number in 0..500u32 {
        let path = more.join(format!("{number}"));
        fs::write(&path, vec![1; number as usize]).unwrap();
        chown(&path, Some(1000 + number % 9), None).unwrap();
        if number % 3 == 0 {
            fs::hard_link(&path, root.join(format!("again-{number}"))).unwrap();
            fs::hard_link(&path, more.join(format!("once-more-{number}"))).unwrap();
        }
    }
    let holes = File::create(root.join("holes")).unwrap();
    holes.write_all_at(b"x", 1 << 40).unwrap();
    symlink("more", root.join("link")).unwrap();
    let make = |name: &str, kind, device| {
        rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, Mode::RUSR, device).unwrap();
    };
    make("pipe", FileType::Fifo, 0);
    make("socket", FileType::Socket, 0);
    make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make("disk", FileType::BlockDevice, rustix::fs::makedev(7, 200));
}

#[test]
fn the_sums_are_those_of_other_tools() {
    for kind in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs] {
        let disk = LoopFs::new(kind, 400);
        let root = disk.path().join("root");
        fs::create_dir(&root).unwrap();
        grow(&root);
        rustix::fs::syncfs(File::open(&root).unwrap()).unwrap();
        let all = listed(&root);
        let (mut inodes, mut kinds, mut owners) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        for (kind, inode, size, blocks, uid, _) in &all {
            if inodes.insert(*inode) {
                let size_bytes = if *kind == 'f' { *size } else { 0 };
                let sum = Sum { count: 1, size_bytes, allocated_bytes: blocks * 512 };
                kinds.entry(*kind).or_insert_with(Sum::default).add(sum);
                owners.entry(*uid).or_insert_with(Sum::default).add(sum);
            }
        }
        for threads in [Some(1), Some(7), None] {
            let (found, events) = counted(std::slice::from_ref(&root), &Options { threads, top: 50, ..usual() });
            assert!(events.is_empty(), "{events:?}");
            let mut devices = kinds[&'c'];
            devices.add(kinds[&'b']);
            assert_eq!((found.kinds.files, found.kinds.directories), (kinds[&'f'], kinds[&'d']));
            assert_eq!((found.kinds.symlinks, found.kinds.pipes), (kinds[&'l'], kinds[&'p']));
            assert_eq!((found.kinds.sockets, found.kinds.devices), (kinds[&'s'], devices));
            assert_eq!((found.further_names, found.unclear_names), (334, 0));
            assert_eq!(found.owners.iter().copied().collect::<BTreeMap<_, _>>(), owners);
            assert_eq!(found.other_owners, Sum::default());
            assert_eq!(found.deepest.unwrap().0, all.iter().map(|one| one.5).max().unwrap());
            assert_eq!(found.largest_files[0], ((1 << 40) + 1, root.join("holes")));
            assert_eq!(found.largest_directories[0], (667, root.join("more")));
            let total = |classes: Vec<Sum>| classes.iter().map(|sum| sum.count).sum::<u64>();
            for classes in [
                found.sizes.iter().map(|class| class.sum).collect(),
                found.modified.iter().map(|class| class.sum).collect(),
                found.accessed.iter().map(|class| class.sum).collect(),
            ] {
                assert_eq!(total(classes), found.kinds.files.count);
            }
        }
        let (found, _) = counted(&[root], &usual());
        assert_eq!((found.owners.len(), found.largest_files.len(), found.largest_directories.len()), (5, 5, 5));
        let mut total = found.other_owners;
        for (_, sum) in &found.owners {
            total.add(*sum);
        }
        assert_eq!(total, found.kinds.total());
    }
}

#[test]
fn ages_and_filters() {
    let scratch = Scratch::new("census-ages");
    let root = scratch.join("root");
    fs::create_dir_all(root.join("tmp")).unwrap();
    let now = SystemTime::now();
    let day = Duration::from_secs(86_400);
    for (name, changed, read) in
        [("new", now, now), ("future", now + 2 * day, now - 8 * day), ("old", now - 400 * day, now - 5000 * day)]
    {
        fs::write(root.join(name), name.repeat(100)).unwrap();
        fs::write(root.join("tmp").join(name), "left out").unwrap();
        let file = File::options().write(true).open(root.join(name)).unwrap();
        file.set_times(FileTimes::new().set_modified(changed).set_accessed(read)).unwrap();
    }
    let mut filter = Filter::by_names(&["tmp/".into()], &[]).unwrap();
    let (found, _) = counted(std::slice::from_ref(&root), &Options { filter: filter.clone(), ..usual() });
    let ages = |classes: &[sifaka_jobs::census::AgeClass]| -> Vec<(Option<i64>, Option<i64>, u64)> {
        classes.iter().map(|class| (class.from_days, class.below_days, class.sum.size_bytes)).collect()
    };
    assert_eq!(ages(&found.modified), [(None, Some(0), 600), (Some(0), Some(1), 300), (Some(365), Some(730), 300)]);
    assert_eq!(ages(&found.accessed), [(Some(0), Some(1), 300), (Some(7), Some(30), 600), (Some(3650), None, 300)]);
    assert_eq!((found.left_out.filtered, found.kinds.directories.count), (1, 1));
    filter.min_size = Some(500);
    let (found, _) = counted(&[root], &Options { filter, ..usual() });
    assert_eq!((found.kinds.files.count, found.left_out.filtered), (1, 3));
}

#[test]
fn what_is_named_twice_or_lies_in_another_root_counts_once() {
    let scratch = Scratch::new("census-roots");
    let root = scratch.join("root");
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/b/file"), "content").unwrap();
    fs::hard_link(root.join("a/b/file"), scratch.join("alone")).unwrap();
    symlink(&root, scratch.join("link")).unwrap();
    let paths = ["root/a", "root", "link", "root/a/b/", "alone", "missing"].map(|name| scratch.join(name));
    let (found, events) = counted(&paths, &usual());
    assert_eq!((found.kinds.files.count, found.kinds.files.size_bytes, found.further_names), (1, 7, 1));
    assert_eq!((found.kinds.directories.count, found.kinds.symlinks.count), (3, 0));
    assert_eq!(found.left_out.failed, 1);
    let [Event { path, did: Did::Failed, why: Some(why), .. }] = events.as_slice() else { panic!("{events:?}") };
    assert!(path.ends_with("missing") && why.contains("find"), "{path:?}: {why}");
    let nothing = census(&[], &usual(), &AtomicU64::new(0), &Heard::default(), &AtomicBool::new(false));
    assert!(nothing.is_err());
}

#[test]
fn other_filesystems_are_entered_when_that_is_asked_for() {
    let disk = LoopFs::new(FsKind::Ext4, 64);
    fs::write(disk.path().join("on-it"), "there").unwrap();
    // What it is mounted in, with its image beside it.
    let outside = disk.path().parent().unwrap().to_owned();
    let inode = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_ne!(inode(&outside), inode(&disk.path()));
    let (without, _) = counted(std::slice::from_ref(&outside), &usual());
    assert_eq!((without.kinds.directories.count, without.left_out.elsewhere), (1, 1));
    let (with, _) = counted(&[outside], &Options { cross: true, ..usual() });
    assert_eq!((with.left_out.elsewhere, with.kinds.files.count), (0, without.kinds.files.count + 1));
    assert!(with.kinds.directories.count >= 3, "the mount and lost+found");
}

#[test]
fn what_is_too_deep_is_told_and_the_rest_is_counted() {
    sys::process::raise_nofile_limit();
    let disk = LoopFs::new(FsKind::Ext4, 64);
    let root = disk.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), "x").unwrap();
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let mut at = rustix::fs::open(&root, flags, Mode::empty()).unwrap();
    for _ in 0..4100 {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
    }
    let (found, events) = counted(&[root], &usual());
    assert_eq!((found.kinds.files.count, found.kinds.directories.count, found.left_out.failed), (1, 4097, 1));
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert!(event.why.as_ref().unwrap().contains("4096"), "{event:?}");
    assert_eq!(found.deepest.unwrap().0, 4096);
}
