//! What `--delete` must not remove.

use crate::oracle::{run, run_well};
use sifaka_jobs::filter::Filter;
use sifaka_jobs::migrate::{Existing, Options, migrate};
use sifaka_jobs::report::{Did, Tally, Unwatched};
use std::fs;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use testkit::{FsKind, LoopFs, wait_until};

fn disk() -> (LoopFs, PathBuf, PathBuf) {
    let disk = LoopFs::new(FsKind::Ext4, 64);
    let (source, target) = (disk.path().join("src"), disk.path().join("dst"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    (disk, source, target)
}

fn deleting() -> Options {
    Options { existing: Existing::Update, delete: true, ..Options::default() }
}

fn fill(root: &Path, names: &[&str]) {
    for name in names {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), name.repeat(10)).unwrap();
    }
}

#[test]
fn what_filters_leave_out_stays_wherever_it_is() {
    let (_disk, source, target) = disk();
    fill(&source, &["place"]);
    fill(
        &target,
        &["extra/keep.o", "extra/deep/er/keep.o", "extra/deep/gone", "extra/gone", "gone/all", "own/cache/x"],
    );
    fill(&target, &["place.d/x", "only/large-enough-to-stay", "large-enough-to-stay", "short"]);
    let mut filter = Filter::by_names(&["*.o".into(), "/own/cache/".into()], &[]).unwrap();
    filter.max_size = Some(150);
    let ran = run(&source, &target, &Options { filter, ..deleting() });
    assert_eq!(ran.totals.failed, 0, "{:?}", ran.problems());
    for name in
        ["extra/keep.o", "extra/deep/er/keep.o", "own/cache/x", "only/large-enough-to-stay", "large-enough-to-stay"]
    {
        assert!(target.join(name).exists(), "{name}");
    }
    for name in ["extra/deep/gone", "extra/gone", "gone", "place.d", "short"] {
        assert!(!target.join(name).exists(), "{name}");
    }
    // Neither does a file take the place of a directory that holds such.
    fill(&target, &["dir/keep.o"]);
    fill(&source, &["dir"]);
    let filter = Filter::by_names(&["*.o".into()], &[]).unwrap();
    let ran = run(&source, &target, &Options { filter, ..deleting() });
    assert_eq!(ran.totals.failed, 1, "{:?}", ran.problems());
    assert!(target.join("dir/keep.o").exists());
    run_well(&source, &target, &deleting());
}

/// Something mounted somewhere, until it is dropped.
struct Bound(PathBuf);

impl Bound {
    fn new(what: &Path, to: &Path) -> Self {
        fs::create_dir_all(to).unwrap();
        assert!(Command::new("mount").arg("--bind").args([what, to]).status().unwrap().success());
        Self(to.to_owned())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

#[test]
fn what_is_mounted_below_the_destination_is_not_entered() {
    let (disk, source, target) = disk();
    let precious = disk.path().join("precious");
    fill(&precious, &["one", "two/three"]);
    fill(&source, &["known/new", "file"]);
    let _known = Bound::new(&precious, &target.join("known"));
    let _unknown = Bound::new(&precious, &target.join("unknown"));
    let _below = Bound::new(&precious, &target.join("gone/below"));
    let before = testkit::tree::snapshot(&precious);
    let ran = run(&source, &target, &deleting());
    // The one that the source has, and the one in which something is mounted.
    assert_eq!((ran.totals.failed, ran.totals.elsewhere), (1, 2), "{:?}", ran.problems());
    assert!(
        ran.problems().iter().any(|problem| problem.contains("migrate into that by itself")),
        "{:?}",
        ran.problems()
    );
    testkit::tree::assert_same(&before, &testkit::tree::snapshot(&precious));
    assert!(target.join("file").exists());
}

#[test]
fn the_source_is_not_removed_when_it_lies_in_the_destination_by_another_way() {
    let (disk, _, target) = disk();
    fill(&target, &["data/inner/one", "gone"]);
    let source = disk.path().join("bound");
    let _bound = Bound::new(&target.join("data/inner"), &source);
    let ran = run(&source, &target, &deleting());
    assert_eq!(ran.totals.failed, 1, "{:?}", ran.problems());
    assert!(source.join("one").exists() && !target.join("gone").exists());
}

#[test]
fn a_directory_in_the_way_stays_until_its_successor_is_whole() {
    let disk = LoopFs::new(FsKind::Ext4, 8);
    let scratch = testkit::Scratch::new("in-the-way");
    let (source, target) = (scratch.join("src"), disk.path().join("dst"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("place"), vec![7; 20 << 20]).unwrap();
    fill(&target, &["place/precious"]);
    let ran = run(&source, &target, &deleting());
    assert!(ran.totals.failed == 1 && ran.problems()[0].contains("No space"), "{:?}", ran.problems());
    assert!(target.join("place/precious").exists());
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1, "no temporary file is left");
}

/// It has not lost its files one by one.
#[test]
fn nothing_is_removed_because_the_root_of_the_source_is_gone() {
    let (_disk, source, target) = disk();
    fill(&source, &["one"]);
    fill(&target, &["one"]);
    let kept = fs::File::open(&source).unwrap();
    let open = PathBuf::from(format!("/proc/self/fd/{}", kept.as_raw_fd()));
    fs::remove_dir_all(&source).unwrap();
    let ran = run(&open, &target, &deleting());
    assert_eq!((ran.totals.failed, ran.totals.deleted), (1, 0), "{:?}", ran.events);
    assert!(target.join("one").exists());
}

#[test]
fn a_dry_run_leaves_unfinished_files_to_the_job_that_makes_them() {
    let (_disk, source, target) = disk();
    fs::write(source.join("large"), vec![7; 4 << 20]).unwrap();
    let slow = Options { limit: NonZeroU64::new(1 << 20), ..Options::default() };
    let unfinished = || {
        let names = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().path());
        names.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(".sifaka-"))
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let job = scope.spawn(|| migrate(&source, &target, &slow, &Tally::default(), &Unwatched, &stop).unwrap());
        wait_until(Duration::from_secs(20), "the copy is being made", || unfinished().is_some());
        let ran = run(&source, &target, &Options { dry_run: true, ..deleting() });
        assert_eq!(ran.events.iter().filter(|event| event.did == Did::Deleted).count(), 0, "{:?}", ran.events);
        assert!(unfinished().is_some() || target.join("large").exists());
        stop.store(true, Ordering::Relaxed);
        job.join().unwrap();
    });
}
