//! Several passes, with changes in between.

use crate::oracle::{assert_same, run, run_well};
use sifaka_jobs::migrate::{Existing, Options};
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};
use testkit::{FsKind, LoopFs};

#[test]
fn nothing_is_replaced_unless_that_was_asked_for() {
    let disk = LoopFs::new(FsKind::Ext4, 64);
    let (source, target) = (disk.path().join("src"), disk.path().join("dst"));
    fs::create_dir_all(source.join("turned")).unwrap();
    fs::create_dir_all(target.join("was-directory/below")).unwrap();
    for name in ["older", "newer", "was-directory", "new"] {
        fs::write(source.join(name), "source").unwrap();
    }
    for name in ["older", "newer", "turned", "extra"] {
        fs::write(target.join(name), "target!").unwrap();
    }
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    for (path, seconds) in [("src/older", 2000), ("dst/older", 1000), ("src/newer", 1000), ("dst/newer", 2000)] {
        let file = File::options().write(true).open(disk.path().join(path)).unwrap();
        file.set_times(FileTimes::new().set_modified(at(seconds))).unwrap();
    }
    let text = |name: &str| fs::read_to_string(target.join(name)).unwrap();
    let ran = run(&source, &target, &Options::default());
    assert_eq!((ran.totals.refused, ran.totals.failed, ran.totals.files), (3, 1, 1), "{:?}", ran.problems());
    assert_eq!([text("older"), text("newer"), text("turned")], ["target!"; 3]);
    assert!(target.join("was-directory/below").is_dir());

    run(&source, &target, &Options { existing: Existing::Newer, ..Options::default() });
    assert_eq!([text("older"), text("newer")], ["source", "target!"]);

    let all = Options { existing: Existing::Update, delete: true, ..Options::default() };
    let totals = run_well(&source, &target, &all);
    assert_eq!((totals.files, totals.deleted), (2, 1), "{totals:?}");
    let totals = run_well(&source, &target, &Options { existing: Existing::Overwrite, ..all });
    assert_eq!(totals.files, 4);
}

#[test]
fn a_later_pass_copies_only_what_changed() {
    for (from, to) in [(FsKind::Ext4, FsKind::Btrfs), (FsKind::Xfs, FsKind::Ext4)] {
        let (from, to) = (LoopFs::new(from, from.min_size_mib()), LoopFs::new(to, to.min_size_mib()));
        let (source, target) = (from.path().join("src"), to.path().join("dst"));
        fs::create_dir_all(source.join("d/e")).unwrap();
        for number in 0..50 {
            fs::write(source.join(format!("d/{number}")), format!("content {number}")).unwrap();
        }
        symlink("d/1", source.join("link")).unwrap();
        let options = Options {
            existing: Existing::Update,
            delete: true,
            state: Some(from.path().join("state/job.db")),
            ..Options::default()
        };
        run_well(&source, &target, &options);
        assert!(!from.path().join("state/job.db").exists(), "the job is done");

        fs::write(source.join("d/1"), "other").unwrap();
        fs::remove_file(source.join("d/2")).unwrap();
        fs::set_permissions(source.join("d/3"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(source.join("d/4")).unwrap();
        fs::create_dir(source.join("d/4")).unwrap();
        fs::write(source.join("d/4/below"), "new").unwrap();
        fs::remove_dir(source.join("d/e")).unwrap();
        fs::write(source.join("d/e"), "a file now").unwrap();
        fs::hard_link(source.join("d/5"), source.join("d/five")).unwrap();
        fs::remove_file(source.join("link")).unwrap();
        symlink("d/6", source.join("link")).unwrap();
        crate::nasty::set_acl(&["-m", "u:55:r"], &source.join("d/7"));
        let totals = run_well(&source, &target, &options);
        assert_eq!((totals.symlinks, totals.directories, totals.linked, totals.deleted), (1, 1, 1, 1), "{totals:?}");
        // The file with a new name is copied once more, if that name comes first.
        assert!((3..=4).contains(&totals.files), "{totals:?}");
        assert_eq!(totals.updated, 2, "a mode and an ACL: {totals:?}");
        assert_eq!(fs::metadata(target.join("d/5")).unwrap().nlink(), 2);
        // A name taken away again: the copy has it no more, either.
        fs::remove_file(source.join("d/five")).unwrap();
        assert_eq!(run_well(&source, &target, &options).deleted, 1);
        assert_same(&source, &target);
    }
}
