//! A whole tree in one run.

use crate::nasty::{Size, grow};
use crate::oracle::{run, run_well};
use sifaka_jobs::filter::Filter;
use sifaka_jobs::migrate::{Options, migrate};
use sifaka_jobs::report::{Did, Tally, Unwatched};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicBool;
use testkit::{FsKind, LoopFs, Scratch};

#[test]
fn everything_that_trees_hold_arrives_on_every_filesystem() {
    sys::process::raise_nofile_limit();
    for (from, to) in [(FsKind::Ext4, FsKind::Xfs), (FsKind::Xfs, FsKind::Btrfs), (FsKind::Btrfs, FsKind::Ext4)] {
        let (from, to) = (LoopFs::new(from, from.min_size_mib().max(300)), LoopFs::new(to, to.min_size_mib().max(300)));
        let (source, target) = (from.path().join("src"), to.path().join("dst"));
        fs::create_dir(&source).unwrap();
        // rsync, which compares, knows no paths that are longer than the kernel's.
        grow(&source, &Size { wide: 3000, deep: 300 });
        let options = Options { verify: true, state: Some(from.path().join("state.db")), ..Options::default() };
        let totals = run_well(&source, &target, &options);
        assert_eq!(totals.linked, 81, "{totals:?}");
        assert!(totals.verified > 3000 && totals.verified == totals.files, "{totals:?}");
        for name in ["contents/terabyte", "contents/holes"] {
            let of = |root: &std::path::Path| fs::metadata(root.join(name)).unwrap();
            let (one, other) = (of(&source), of(&target));
            assert_eq!((one.len(), one.mtime_nsec(), one.mode()), (other.len(), other.mtime_nsec(), other.mode()));
            assert!(other.blocks() < 2048, "{name} is sparse");
        }
        // Once more, there is nothing to do.
        let again = run_well(
            &source,
            &target,
            &Options { delete: true, existing: sifaka_jobs::migrate::Existing::Update, ..options },
        );
        let moved = again.files + again.directories + again.linked + again.updated + again.deleted + again.bytes;
        assert_eq!(moved, 0, "{again:?}");
    }
}

#[test]
fn directories_deeper_than_paths_are_copied() {
    sys::process::raise_nofile_limit();
    let (from, to) = (LoopFs::new(FsKind::Ext4, 64), LoopFs::new(FsKind::Ext4, 64));
    let source = from.path().join("src");
    fs::create_dir(&source).unwrap();
    grow(&source, &Size { wide: 0, deep: 2000 });
    let target = to.path().join("dst");
    let ran = run(&source, &target, &Options { threads: Some(2), ..Options::default() });
    assert_eq!(ran.problems(), Vec::<String>::new());
    let again = run(&source, &target, &Options::default());
    assert_eq!((again.totals.directories, again.totals.files), (0, 0));
    assert!(again.totals.same > 20, "{:?}", again.totals);
}

#[test]
fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let disk = LoopFs::new(FsKind::Ext4, 64);
    let (source, target) = (disk.path().join("src"), disk.path().join("dst"));
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::write(source.join("a/b/f"), "new").unwrap();
    fs::write(source.join("g"), "new").unwrap();
    let dry = Options { dry_run: true, ..Options::default() };
    let totals = run(&source, &target, &dry).totals;
    assert_eq!((totals.files, totals.directories, totals.bytes), (2, 3, 6));
    assert!(!target.exists());
    fs::create_dir(&target).unwrap();
    fs::write(target.join("g"), "old!").unwrap();
    fs::write(target.join("more"), "").unwrap();
    let before = testkit::tree::snapshot(&target);
    let update = Options { delete: true, existing: sifaka_jobs::migrate::Existing::Update, ..dry };
    let ran = run(&source, &target, &update);
    assert_eq!((ran.totals.files, ran.totals.directories, ran.totals.deleted), (2, 2, 1), "{:?}", ran.events);
    testkit::tree::assert_same(&before, &testkit::tree::snapshot(&target));
}

#[test]
fn filters_leave_out_what_they_say() {
    let disk = LoopFs::new(FsKind::Ext4, 64);
    let (source, target) = (disk.path().join("src"), disk.path().join("dst"));
    fs::create_dir_all(source.join("keep/tmp")).unwrap();
    fs::create_dir_all(source.join("tmp/below")).unwrap();
    for name in ["a.o", "b.c", "keep/x.o", "keep/y.o", "keep/tmp/z", "tmp/below/f", "tmp.txt"] {
        fs::write(source.join(name), name.repeat(100)).unwrap();
    }
    let mut filter = Filter::by_names(&["*.o".into(), "/tmp/".into()], &["keep/x.o".into()]).unwrap();
    filter.max_size = Some(750);
    let ran = run(&source, &target, &Options { filter, ..Options::default() });
    let copied =
        |event: &&sifaka_jobs::report::Event| event.did == Did::Copied && event.kind == sifaka_jobs::report::Kind::File;
    let mut names: Vec<_> = ran.events.iter().filter(copied).map(|e| e.path.to_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["b.c", "tmp.txt"], "keep/x.o and keep/tmp/z are too large");
    assert!(!target.join("tmp").exists() && target.join("keep/tmp").exists());
}

#[test]
fn a_tree_is_not_copied_into_or_out_of_itself() {
    let scratch = Scratch::new("nested");
    let (outer, inner) = (scratch.join("outer"), scratch.join("outer/inner"));
    fs::create_dir_all(&inner).unwrap();
    let refused = |from: &std::path::Path, to: &std::path::Path, dry_run| {
        let options = Options { delete: true, dry_run, ..Options::default() };
        migrate(from, to, &options, &Tally::default(), &Unwatched, &AtomicBool::new(false)).unwrap_err().to_string()
    };
    for dry in [false, true] {
        assert!(refused(&outer, &outer, dry).contains("one directory"));
        assert!(refused(&outer, &inner, dry).contains("lies in"));
        assert!(refused(&inner, &outer, dry).contains("lies in"));
    }
    assert!(refused(&outer, &inner.join("new"), true).contains("lies in"));
    fs::write(scratch.join("file"), "").unwrap();
    assert!(refused(&scratch.join("file"), &inner, false).contains("no directory"));
    assert!(refused(&scratch.join("missing"), &inner, false).contains("missing"));
    assert!(inner.exists());
}
