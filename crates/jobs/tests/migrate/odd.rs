//! What is not as usual: names and files of the job's own, files that cannot be read, dry runs.

use crate::oracle::{Ran, assert_same, run, run_well};
use sifaka_jobs::JobError;
use sifaka_jobs::migrate::{Existing, Options, keep_clear, migrate};
use sifaka_jobs::report::{Did, Tally, Unwatched};
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use testkit::{FsKind, LoopFs, Scratch};

fn updating() -> Options {
    Options { existing: Existing::Update, ..Options::default() }
}

fn did(ran: &Ran, did: Did) -> Vec<PathBuf> {
    let mut paths: Vec<_> = ran.events.iter().filter(|event| event.did == did).map(|e| e.path.clone()).collect();
    paths.sort();
    paths
}

#[test]
fn a_dry_run_tells_what_would_be_brought_in_line_and_brings_nothing() {
    let disk = LoopFs::new(FsKind::Ext4, 64);
    let (source, target) = (disk.path().join("src"), disk.path().join("dst"));
    fs::create_dir_all(source.join("d/below")).unwrap();
    for name in ["same", "mode", "owner", "colour", "plain", "d/changed"] {
        fs::write(source.join(name), name).unwrap();
    }
    sys::xattr::set(fs::File::open(source.join("plain")).unwrap(), "user.colour", b"red").unwrap();
    run_well(&source, &target, &Options::default());
    fs::set_permissions(source.join("mode"), fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::chown(source.join("owner"), Some(7), Some(8)).unwrap();
    sys::xattr::set(fs::File::open(source.join("colour")).unwrap(), "user.colour", b"red").unwrap();
    sys::xattr::remove(fs::File::open(source.join("plain")).unwrap(), "user.colour").unwrap();
    fs::set_permissions(source.join("d/below"), fs::Permissions::from_mode(0o500)).unwrap();
    fs::write(source.join("d/changed"), "something else").unwrap();
    let looked = || {
        let all = ["same", "mode", "owner", "colour", "plain", "d", "d/below", "d/changed"];
        all.map(|name| {
            let meta = fs::metadata(target.join(name)).unwrap();
            (meta.mode(), meta.uid(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
        })
    };
    let before = looked();
    let dry = run(&source, &target, &Options { dry_run: true, ..updating() });
    let expected = ["colour", "d/below", "mode", "owner", "plain"].map(PathBuf::from);
    assert_eq!(did(&dry, Did::Updated), expected);
    assert_eq!(did(&dry, Did::Copied), [PathBuf::from("d/changed")]);
    assert_eq!((dry.totals.updated, looked()), (5, before));
    // Without --update nothing would be.
    let kept = run(&source, &target, &Options { dry_run: true, ..Options::default() });
    assert_eq!((kept.totals.updated, kept.totals.refused), (0, 1));
    let real = run(&source, &target, &updating());
    assert_eq!((did(&real, Did::Updated), did(&real, Did::Copied)), (expected.to_vec(), did(&dry, Did::Copied)));
    assert_same(&source, &target);
    assert_eq!(run(&source, &target, &Options { dry_run: true, ..updating() }).totals.updated, 0);
}

#[test]
fn a_name_of_the_job_s_own_is_told_and_not_copied() {
    let scratch = Scratch::new("own-names");
    let (source, target) = (scratch.join("src"), scratch.join("dst"));
    fs::create_dir(&source).unwrap();
    let mut hasher = DefaultHasher::new();
    hasher.write(format!("migrate {source:?} {target:?}").as_bytes());
    let name = format!(".sifaka-{:016x}-1-1", hasher.finish());
    fs::write(source.join(&name), "mine").unwrap();
    fs::write(source.join(".sifaka-other"), "another one").unwrap();
    for _ in 0..2 {
        let ran = run(&source, &target, &updating());
        assert_eq!((did(&ran, Did::Refused), ran.totals.refused), (vec![PathBuf::from(&name)], 1));
        assert!(ran.problems()[0].contains("rename it"), "{:?}", ran.problems());
        assert!(!target.join(&name).exists() && target.join(".sifaka-other").exists());
    }
}

#[test]
fn what_the_job_keeps_may_not_lie_where_it_deletes() {
    let scratch = Scratch::new("own-files");
    let (source, target) = (scratch.join("src"), scratch.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::create_dir_all(target.join("d")).unwrap();
    std::os::unix::fs::symlink(target.join("d"), scratch.join("way")).unwrap();
    let deleting = |state: &Path| Options { delete: true, state: Some(state.to_owned()), ..updating() };
    let go = |options: &Options| {
        migrate(&source, &target, options, &Tally::default(), &Unwatched, &AtomicBool::new(false)).map(|_| ())
    };
    for state in ["dst/job.db", "dst/d/job.db", "dst/not/there/job.db", "way/job.db", "src/../dst/d/job.db"] {
        let state = scratch.join(state);
        assert!(matches!(go(&deleting(&state)), Err(JobError::Senseless(_))), "{}", state.display());
        assert!(matches!(keep_clear(&state, &target), Err(JobError::Senseless(_))));
        assert!(target.join("d").exists());
    }
    go(&Options { delete: false, ..deleting(&target.join("d/job.db")) }).unwrap();
    go(&deleting(&scratch.join("job.db"))).unwrap();
    assert!(!target.join("d").exists());
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_copied() {
    let disk = LoopFs::new(FsKind::Btrfs, 128);
    let source = disk.path().join("src");
    fs::create_dir_all(source.join("d")).unwrap();
    let noise = |seed: u64, bytes: usize| {
        let mut out = vec![0; bytes];
        testkit::Random::new(seed).fill(&mut out);
        out
    };
    // One that is read at once, and one in parts.
    let bad = [("d/small", noise(1, 100_000)), ("large", noise(2, 3 << 20))];
    let good = [("d/fine", noise(3, 100_000)), ("fine", noise(4, 3 << 20)), ("z", noise(5, 10))];
    for (name, content) in bad.iter().chain(&good) {
        fs::write(source.join(name), content).unwrap();
    }
    disk.damage(&bad[0].1[4096..8192]);
    disk.damage(&bad[1].1[1 << 20..(1 << 20) + 4096]);
    assert_eq!(fs::read(source.join("large")).unwrap_err().raw_os_error(), Some(5));
    let scratch = Scratch::new("unreadable");
    let (target, state) = (scratch.join("dst"), Some(scratch.join("job.db")));
    for _ in 0..2 {
        let ran = run(&source, &target, &Options { state: state.clone(), verify: true, ..updating() });
        assert_eq!(did(&ran, Did::Failed), ["d/small", "large"].map(PathBuf::from), "{:?}", ran.problems());
        assert!(ran.problems().iter().all(|why| why.contains("Input/output error")), "{:?}", ran.problems());
        assert!(!ran.totals.is_complete());
        for (name, content) in &good {
            assert!(fs::read(target.join(name)).unwrap() == *content, "{name}");
        }
        let names = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.count(), 3, "nothing is left of what was not whole");
        assert!(!target.join("d/small").exists());
    }
}
