//! `sifaka doctor` on real filesystems: needs root and a kernel of 6.14 or later.

use crate::agent_double::{sifaka, stdout};
use std::path::Path;
use testkit::{FsKind, LoopFs};

fn states(path: &Path) -> (Option<i32>, Vec<(String, String)>) {
    let output = sifaka("sifaka").args(["doctor", "--json"]).arg(path).output().unwrap();
    let check = |line: &str| {
        let check: serde_json::Value = serde_json::from_str(line).unwrap();
        (check["name"].as_str().unwrap().to_owned(), check["state"].as_str().unwrap().to_owned())
    };
    (output.status.code(), stdout(&output).lines().map(check).collect())
}

fn all_is_well_on(kind: FsKind) {
    let fs = LoopFs::new(kind, 64);
    let (code, checks) = states(&fs.path());
    // Limits and optional privileges are the machine's, not the filesystem's.
    let not_ok: Vec<_> =
        checks.iter().filter(|(name, state)| state != "ok" && name != "open files" && name != "privileges").collect();
    assert!(not_ok.is_empty(), "{kind:?}: {not_ok:?}");
    assert_eq!((code, checks.len()), (Some(0), 12), "{checks:?}");
    assert_eq!(
        std::fs::read_dir(fs.path()).unwrap().filter(|e| e.as_ref().unwrap().file_name() != "lost+found").count(),
        0
    );
}

#[test]
fn ext4_can_be_served() {
    all_is_well_on(FsKind::Ext4);
}

#[test]
fn xfs_can_be_served() {
    all_is_well_on(FsKind::Xfs);
}

#[test]
fn btrfs_can_be_served() {
    all_is_well_on(FsKind::Btrfs);
}

#[test]
fn tmpfs_cannot() {
    let (code, checks) = states(Path::new("/dev/shm"));
    assert_eq!(code, Some(5));
    let failed = |name: &str| checks.iter().any(|(have, state)| have == name && state == "fail");
    assert!(failed("filesystem") && failed("pre-content events"), "{checks:?}");
}
