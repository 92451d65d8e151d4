//! Users who do in their trees what they can while root copies them.

use crate::oracle::{run, run_well};
use rustix::fs::{CWD, RenameFlags, inotify};
use sifaka_jobs::migrate::{Existing, Options};
use sifaka_jobs::report::Did;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use sys::lease::WriteLease;
use testkit::tree::{assert_same, snapshot};
use testkit::{FsKind, LoopFs};

fn disk() -> (LoopFs, PathBuf, PathBuf) {
    let disk = LoopFs::new(FsKind::Ext4, 64);
    let (source, target) = (disk.path().join("src"), disk.path().join("dst"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    (disk, source, target)
}

fn update() -> Options {
    Options { existing: Existing::Update, delete: true, ..Options::default() }
}

#[test]
fn a_file_of_somebody_else_is_not_given_away_by_a_link_to_it() {
    let (disk, source, target) = disk();
    let secret = disk.path().join("secret");
    fs::write(&secret, "root's own").unwrap();
    let time = fs::metadata(&secret).unwrap().modified().unwrap();
    for name in ["one", "two"] {
        fs::write(source.join(name), "other text").unwrap();
        File::options().write(true).open(source.join(name)).unwrap().set_modified(time).unwrap();
        chown(source.join(name), Some(1000), Some(1000)).unwrap();
        fs::hard_link(&secret, target.join(name)).unwrap();
    }
    fs::hard_link(source.join("two"), source.join("three")).unwrap();
    let state = Some(disk.path().join("job.db"));
    run_well(&source, &target, &Options { state, ..update() });
    let found = fs::metadata(&secret).unwrap();
    assert_eq!((found.uid(), found.gid(), found.nlink()), (0, 0, 1));
    assert_eq!(fs::read(&secret).unwrap(), b"root's own");
}

/// Goes on exchanging two names.
fn exchange(one: &Path, other: &Path, until: &AtomicBool) {
    while !until.load(Ordering::Relaxed) {
        // The job may have replaced or removed one of them just now.
        let _ = rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
    }
}

/// Directories and files that become links to outside, and back, on both sides, for as long as jobs run.
#[test]
fn nothing_outside_is_read_or_written_whatever_is_exchanged_with_links() {
    let (disk, source, target) = disk();
    let outside = disk.path().join("outside");
    for name in ["d/secret", "d/sub/secret", "file"] {
        fs::create_dir_all(outside.join(name).parent().unwrap()).unwrap();
        fs::write(outside.join(name), "the secret").unwrap();
    }
    let fresh = |root: &Path| {
        let _ = fs::remove_dir_all(root);
        fs::create_dir_all(root.join("user/d/sub")).unwrap();
        for name in ["user/d/open", "user/d/sub/open", "user/file"] {
            fs::write(root.join(name), format!("open {}", root.display())).unwrap();
        }
        symlink(outside.join("d"), root.join("user/d-link")).unwrap();
        symlink(outside.join("file"), root.join("user/file-link")).unwrap();
    };
    fresh(&source);
    let before = snapshot(&outside);
    for round in 0..30 {
        fresh(&target);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for root in [&source, &target] {
                for name in ["d", "file"] {
                    let (one, other) = (root.join("user").join(name), root.join(format!("user/{name}-link")));
                    let over = &over;
                    scope.spawn(move || exchange(&one, &other, over));
                }
            }
            for _ in 0..5 {
                // What fails is told. That it ends, and where it wrote, is the question.
                run(&source, &target, &Options { verify: round % 5 == 0, threads: Some(2), ..update() });
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_same(&before, &snapshot(&outside));
        for (path, found) in snapshot(&target).iter() {
            let text = format!("{found:?}");
            let content = fs::read(target.join(path)).unwrap_or_default();
            assert!(content != b"the secret", "{} came from outside: {text}", path.display());
        }
    }
}

#[test]
fn a_later_pass_opens_no_file_that_did_not_change() {
    let (disk, source, target) = disk();
    fs::create_dir(source.join("d")).unwrap();
    for number in 0..20 {
        fs::write(source.join(format!("d/{number}")), "content").unwrap();
    }
    let options = Options { state: Some(disk.path().join("job.db")), ..update() };
    run_well(&source, &target, &options);
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
    for directory in [source.join("d"), target.join("d")] {
        inotify::add_watch(&watch, &directory, inotify::WatchFlags::OPEN).unwrap();
    }
    let ran = run(&source, &target, &options);
    assert_eq!((ran.totals.same, ran.problems()), (20, Vec::<String>::new()));
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    while let Ok(event) = events.next() {
        let directory = event.events().contains(inotify::ReadFlags::ISDIR);
        assert!(directory, "{:?} was opened: a released file would have been restored", event.file_name());
    }
}

#[test]
fn a_file_of_which_somebody_has_a_lease_is_waited_for() {
    let (_disk, source, target) = disk();
    fs::write(source.join("leased"), "content").unwrap();
    let file = File::options().read(true).write(true).open(source.join("leased")).unwrap();
    let lease = WriteLease::take(file).unwrap().unwrap();
    std::thread::scope(|scope| {
        let job = scope.spawn(|| run(&source, &target, &Options::default()));
        testkit::wait_until(std::time::Duration::from_secs(20), "somebody wants the file", || !lease.still_held());
        drop(lease);
        let ran = job.join().unwrap();
        assert_eq!((ran.problems(), ran.totals.files), (Vec::new(), 1));
    });
}

#[test]
fn a_name_that_becomes_a_directory_or_goes_is_dealt_with() {
    let (_disk, source, target) = disk();
    let (one, other) = (source.join("one"), source.join("other"));
    fs::write(&one, vec![1; 300_000]).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(other.join("below"), "below").unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(&one, &other, &over));
        for _ in 0..100 {
            let ran = run(&source, &target, &update());
            let expected = |did| matches!(did, Did::Failed | Did::Changed);
            assert!(ran.events.iter().filter(|event| event.did.is_problem()).all(|event| expected(event.did)));
        }
        over.store(true, Ordering::Relaxed);
    });
    run_well(&source, &target, &update());
}
