//! P7: what a crash left is removed, and nothing else.

use crate::harness::{Archive, id, options};
use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use testkit::{Scratch, wait_until};
use transfer::{Encoding, KernelDurability, Monitor, OpenFile, PosixStore, Store, Swept};

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
    fs::create_dir(&left).unwrap();
    fs::write(left.join("abcdef.0"), b"half").unwrap();
    let second = PosixStore::open(archive.store.root(), Arc::new(KernelDurability)).unwrap();
    assert!(!left.exists());
    drop(second);
    fs::remove_dir_all(archive.store.root().join(".sifaka-tmp")).unwrap();
    archive.put(&id("abcdef"), &archive.file("source", b"x"), options(Encoding::Raw, None)).unwrap();
}
