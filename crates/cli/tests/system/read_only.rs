//! An archive that is mounted read-only, as one is that must not be touched any more: everything that only reads works.

use crate::support::{Hsm, noise};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use testkit::{FsKind, LoopFs};

fn sifaka(hsm: &Hsm, words: &[&str], path: Option<&Path>) -> Output {
    let mut command = hsm.site.command();
    command.arg("--config").arg(hsm.site.agent_config()).args(words).args(path).output().unwrap()
}

#[test]
fn an_archive_that_is_mounted_read_only_is_checked_rebuilt_from_and_restored_from() {
    let disk = LoopFs::new(FsKind::Ext4, 64);
    let mut hsm = Hsm::start_with(FsKind::Ext4, 64, |site| site.add_archive("2", 2, &disk.path(), ""));
    // Some in packs, one not.
    let contents: Vec<Vec<u8>> = (0..10).map(|n| noise(n, if n == 0 { 300_000 } else { 2000 })).collect();
    let files: Vec<PathBuf> =
        contents.iter().enumerate().map(|(n, content)| hsm.file(&format!("file{n}"), content)).collect();
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    hsm.ok(&["archive", "--wait", "--id", "2"], &paths);
    hsm.release(&paths);
    hsm.stop_agent();
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(disk.path()).status().unwrap();
    assert!(remounted.success());

    let fresh = LoopFs::new(FsKind::Xfs, 300);
    let scrubbed = sifaka(&hsm, &["scrub", "--id", "2"], None);
    let compared = sifaka(&hsm, &["fsck", "--id", "2"], None);
    let rebuilt = sifaka(&hsm, &["rebuild", "--id", "2"], Some(&fresh.path()));
    for out in [scrubbed, compared, rebuilt] {
        assert!(out.status.success(), "{out:?}");
    }
    for (path, content) in files.iter().zip(&contents) {
        let there = fs::metadata(fresh.path().join(path.file_name().unwrap())).unwrap();
        assert_eq!(there.len(), content.len() as u64);
    }
    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
    for (path, content) in files.iter().zip(&contents) {
        assert!(fs::read(path).unwrap() == *content, "{}", path.display());
    }
}
