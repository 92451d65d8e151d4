//! P7: what a crash left is removed, and nothing else.

use crate::harness::{Archive, described, id, options};
use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use testkit::{FsKind, LoopFs, Scratch, wait_until};
use transfer::{Encoding, Expected, KernelDurability, Monitor, OpenFile, PosixStore, Store, Swept};

const ROOT: &str = "SIFAKA_TEST_SWEEP_ROOT";

/// Hangs in the middle of a transfer.
struct Hang;

impl Monitor for Hang {
    fn cancelled(&self) -> bool {
        false
    }

    fn advanced(&self, _: model::Extent) {
        loop {
            std::thread::park();
        }
    }
}

/// Not a test by itself: what the child process of the tests below does.
#[test]
#[ignore = "run as a child process by the tests of this file"]
fn child_that_hangs_while_it_writes() {
    let root = env::var_os(ROOT).unwrap();
    let store = PosixStore::open(Path::new(&root), Arc::new(KernelDurability)).unwrap();
    let source = OpenFile::for_reading(env::current_exe().unwrap()).unwrap();
    let _ = store.stage(&id("abcdef"), &source, options(Encoding::Raw, None), &Hang);
}

#[test]
fn p7_a_killed_process_leaves_nothing_and_a_living_one_is_left_alone() {
    let scratch = Scratch::new("sweep");
    let archive = Archive::at(scratch.path(), Arc::new(KernelDurability));
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "sweep::child_that_hangs_while_it_writes", "--ignored", "--nocapture"])
        .env(ROOT, archive.store.root())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(Duration::from_secs(60), "the child's temporary file", || archive.files().len() == 1);

    let mine = archive.store.stage(
        &id("fedcba"),
        &archive.file("source", b"x"),
        options(Encoding::Raw, None),
        &transfer::Unwatched,
    );
    let mine = mine.unwrap();
    assert_eq!(archive.store.sweep().unwrap(), Swept::default());
    assert_eq!(archive.files().len(), 2, "both live");

    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(archive.files().len(), 2, "the crash left its file");
    assert_eq!(archive.store.sweep().unwrap(), Swept { sessions: 1, files: 1 });
    assert_eq!(archive.files().len(), 1);
    drop(mine);
    assert!(archive.files().is_empty());
    let root = archive.store.root().to_owned();
    drop(archive);
    assert_eq!(
        fs::read_dir(root.join(".sifaka-tmp")).unwrap().count(),
        0,
        "a store that is closed leaves no directory"
    );
}

#[test]
fn p7_opening_a_store_sweeps_and_a_removed_session_is_made_again() {
    let archive = Archive::new();
    let left = archive.store.root().join(".sifaka-tmp/7-0");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("abcdef.0"), b"half").unwrap();
    let second = PosixStore::open(archive.store.root(), Arc::new(KernelDurability)).unwrap();
    assert!(!left.exists());
    drop(second);
    for _ in 0..2 {
        archive.put(&id("abcdef"), &archive.file("source", b"x"), options(Encoding::Raw, None)).unwrap();
        fs::remove_dir_all(archive.store.root().join(".sifaka-tmp")).unwrap();
    }
    archive.put(&id("abcdef"), &archive.file("source", b"x"), options(Encoding::Raw, None)).unwrap();
}

/// On NFS the lock of a directory is known on its own host only: the one that counts is a file's.
#[test]
fn p7_a_session_lives_while_any_of_its_locks_is_held() {
    let archive = Archive::new();
    let sessions = archive.store.root().join(".sifaka-tmp");
    let make = |name: &str| {
        let left = sessions.join(name);
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("abcdef.0"), b"half").unwrap();
        left
    };
    // As another host has it, with its directory's lock out of sight; and that of a program of before there was a file.
    let (present, older) = (make("7-0"), make("8-0"));
    let lock = fs::File::create_new(present.join("lock")).unwrap();
    let directory = fs::File::open(&older).unwrap();
    assert!(sys::file::try_lock_exclusive(&lock).unwrap() && sys::file::try_lock_exclusive(&directory).unwrap());
    assert_eq!(archive.store.sweep().unwrap(), Swept::default());
    assert!(present.join("abcdef.0").exists() && older.join("abcdef.0").exists());
    drop(lock);
    assert_eq!(archive.store.sweep().unwrap(), Swept { sessions: 1, files: 1 });
    drop(directory);
    assert_eq!(archive.store.sweep().unwrap(), Swept { sessions: 1, files: 1 });

    // Our own is held in both ways, so that neither kind of program takes it for a dead one.
    let source = archive.file("source", b"x");
    let staged = archive.store.stage(&id("fedcba"), &source, options(Encoding::Raw, None), &transfer::Unwatched);
    let own = fs::read_dir(&sessions).unwrap().next().unwrap().unwrap().path();
    for path in [own.clone(), own.join("lock")] {
        assert!(!sys::file::try_lock_exclusive(fs::File::open(path).unwrap()).unwrap());
    }
    drop(staged);
}

/// What is read from an archive needs no writing to it, also when a crash has left something in it.
#[test]
fn an_archive_that_is_mounted_read_only_is_read() {
    let disk = LoopFs::new(FsKind::Ext4, 32);
    let archive = Archive::at(&disk.path(), Arc::new(KernelDurability));
    let source = archive.file("source", b"some content");
    let name = archive.put(&id("abcdef"), &source, described(Encoding::Raw)).unwrap().id;
    let left = archive.store.root().join(".sifaka-tmp/7-0");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("abcdef.0"), b"half").unwrap();
    fs::write(left.join("lock"), b"").unwrap();
    let root = archive.store.root().to_owned();
    drop((archive, source));
    let remount = |how: &str| Command::new("mount").args(["-o", how]).arg(disk.path()).status().unwrap().success();
    assert!(remount("remount,ro"));
    let store = PosixStore::open(&root, Arc::new(KernelDurability)).unwrap();
    assert_eq!(store.sweep().unwrap(), Swept::default());
    let mut listed = Vec::new();
    let mut list = |id| {
        listed.push(id);
        std::ops::ControlFlow::Continue(())
    };
    store.list(&mut list).unwrap();
    assert_eq!(listed, std::slice::from_ref(&name));
    assert!(store.manifest(&name).unwrap().is_some() && store.head(&name).unwrap().is_some());
    let scratch = Scratch::new("restored");
    fs::write(scratch.join("file"), b"").unwrap();
    let target = OpenFile::for_writing(scratch.join("file")).unwrap();
    store.get(&name, &target, Expected::default(), &transfer::Unwatched).unwrap();
    assert_eq!(fs::read(scratch.join("file")).unwrap(), b"some content");
    let source = OpenFile::for_reading(scratch.join("file")).unwrap();
    let refused =
        store.stage(&id("fedcba"), &source, options(Encoding::Raw, None), &transfer::Unwatched).err().unwrap();
    assert_eq!(refused.errno(), 30, "{refused}");
    // The same store goes on when it can be written to again.
    assert!(remount("remount,rw"));
    assert_eq!(store.sweep().unwrap(), Swept { sessions: 1, files: 1 });
    drop(store.stage(&id("fedcba"), &source, options(Encoding::Raw, None), &transfer::Unwatched).unwrap());
}
