//! Trees compared on real filesystems: what differs is told, and what does not is not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "../migrate/nasty.rs"]
mod nasty;

use parking_lot::Mutex;
use rustix::fs::{FileType, Mode, Timespec, Timestamps};
use sifaka_jobs::filter::Filter;
use sifaka_jobs::migrate::{self, migrate};
use sifaka_jobs::report::Unwatched;
use sifaka_jobs::verify::{Aspect, Finding, Found, Ignore, Options, Tally, Totals, Watcher, verify};
use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};
use testkit::{FsKind, LoopFs, Scratch};

#[derive(Default)]
struct Heard(Mutex<Vec<Finding>>);

impl Watcher for Heard {
    fn wants_all(&self) -> bool {
        true
    }

    fn tell(&self, finding: &Finding) {
        self.0.lock().push(finding.clone());
    }
}

struct Ran {
    totals: Totals,
    findings: Vec<Finding>,
}

impl Ran {
    /// What is wrong with each name: aspects, or another word.
    fn problems(&self) -> BTreeMap<String, String> {
        let problems = self.findings.iter().filter(|finding| finding.found.is_problem());
        let text = |finding: &Finding| match &finding.found {
            Found::Differs(all) => {
                all.iter().map(|one| format!("{:?}", one.what)).collect::<Vec<_>>().join(" ").to_lowercase()
            }
            Found::Failed(why) => why.clone(),
            other => other.word().to_owned(),
        };
        problems.map(|finding| (finding.path.display().to_string(), text(finding))).collect()
    }
}

fn run(a: &Path, b: &Path, options: &Options) -> Ran {
    let (tally, heard, stop) = (Tally::default(), Heard::default(), AtomicBool::new(false));
    assert!(verify(a, b, options, &tally, &heard, &stop).unwrap());
    Ran { totals: tally.totals(), findings: heard.0.into_inner() }
}

fn content() -> Options {
    Options { content: true, ..Options::default() }
}

/// By other tools than ours.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}

fn set_time(path: &Path, seconds: u64) {
    let file = File::options().read(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(seconds))).unwrap();
}

/// A tree with something for each way to differ. Directories have one time, whatever is changed in them later.
fn grow(root: &Path) {
    for directory in ["d", "d/e", "missing-directory/below", "turned"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for name in
        ["same", "size", "content", "mtime", "mode", "owner", "attribute", "acl", "missing", "d/e/f", "turned/g"]
    {
        fs::write(root.join(name), name).unwrap();
    }
    for name in ["file-to-link", "link-to-file", "split", "joined-1"] {
        fs::write(root.join(name), "once").unwrap();
        set_time(&root.join(name), 5000);
    }
    fs::copy(root.join("joined-1"), root.join("joined-2")).unwrap();
    set_time(&root.join("joined-2"), 5000);
    fs::hard_link(root.join("split"), root.join("split-too")).unwrap();
    fs::hard_link(root.join("same"), root.join("d/same-too")).unwrap();
    xattr(&root.join("attribute"), "user.one", b"1");
    symlink("same", root.join("target")).unwrap();
    let make = |name: &str, kind, device| {
        rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, Mode::RUSR, device).unwrap();
    };
    make("device", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make("pipe", FileType::Fifo, 0);
    let large = File::create(root.join("late-byte")).unwrap();
    large.write_all_at(b"x", (40 << 20) + 77).unwrap();
    large.set_len(50 << 20).unwrap();
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    sys::xattr::set(File::open(path).unwrap(), name, value).unwrap();
}

/// Does something to a file of the second tree, and gives it its time back.
fn keeping_time(path: &Path, change: impl FnOnce(&Path)) {
    let before = fs::metadata(path).unwrap().modified().unwrap();
    change(path);
    File::options().read(true).open(path).unwrap().set_times(FileTimes::new().set_modified(before)).unwrap();
}

#[test]
fn every_way_to_differ_is_told() {
    let disk = LoopFs::new(FsKind::Ext4, 64);
    let (a, b) = (disk.path().join("a"), disk.path().join("b"));
    grow(&a);
    copy(&a, &b);
    let ran = run(&a, &b, &content());
    assert_eq!(ran.problems(), BTreeMap::new());
    assert!(ran.totals.same == 28 && !ran.totals.differ(), "{:?}", ran.totals);

    let directories = ["", "d", "turned"].map(|name| b.join(name));
    let times = directories.each_ref().map(|path| fs::metadata(path).unwrap().modified().unwrap());
    keeping_time(&b.join("size"), |path| fs::write(path, "longer than it was").unwrap());
    keeping_time(&b.join("content"), |path| fs::write(path, "c0ntent").unwrap());
    keeping_time(&b.join("late-byte"), |path| {
        File::options().write(true).open(path).unwrap().write_all_at(b"y", (40 << 20) + 77).unwrap();
    });
    set_time(&b.join("mtime"), 12345);
    fs::set_permissions(b.join("mode"), Permissions::from_mode(0o4711)).unwrap();
    chown(b.join("owner"), Some(77), Some(78)).unwrap();
    xattr(&b.join("attribute"), "user.one", b"2");
    xattr(&b.join("attribute"), "user.two", b"");
    nasty::set_acl(&["-m", "u:55:rw,m::rwx"], &b.join("acl"));
    fs::remove_file(b.join("missing")).unwrap();
    fs::remove_dir_all(b.join("missing-directory")).unwrap();
    fs::write(b.join("extra"), "").unwrap();
    fs::create_dir_all(b.join("d/extra-directory/below")).unwrap();
    fs::remove_file(b.join("split-too")).unwrap();
    copy(&a.join("split"), &b.join("split-too"));
    fs::remove_file(b.join("joined-2")).unwrap();
    fs::hard_link(b.join("joined-1"), b.join("joined-2")).unwrap();
    // A link to the very directory whose place it has.
    fs::remove_dir_all(b.join("turned")).unwrap();
    symlink(a.join("turned"), b.join("turned")).unwrap();
    fs::remove_file(b.join("file-to-link")).unwrap();
    symlink("same", b.join("file-to-link")).unwrap();
    fs::remove_file(b.join("link-to-file")).unwrap();
    fs::create_dir(b.join("link-to-file")).unwrap();
    let replaced = |name: &str| fs::remove_file(b.join(name)).unwrap();
    replaced("target");
    symlink("elsewhere", b.join("target")).unwrap();
    replaced("device");
    let (kind, device) = (FileType::CharacterDevice, rustix::fs::makedev(1, 5));
    rustix::fs::mknodat(rustix::fs::CWD, b.join("device"), kind, Mode::RUSR, device).unwrap();
    for name in ["target", "device"] {
        let time = fs::symlink_metadata(a.join(name)).unwrap().modified().unwrap().duration_since(UNIX_EPOCH).unwrap();
        let time = Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap(), tv_nsec: time.subsec_nanos().into() };
        let times = Timestamps { last_access: time, last_modification: time };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, b.join(name), &times, flags).unwrap();
    }
    for (path, time) in directories.iter().zip(times).filter(|(path, _)| !path.is_symlink()) {
        File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    let expected = [
        ("size", "size"),
        ("content", "content"),
        ("late-byte", "content"),
        ("mtime", "mtime"),
        ("mode", "mode"),
        ("owner", "owner group"),
        ("attribute", "attribute attribute"),
        ("acl", "mode attribute"),
        ("missing", "missing"),
        ("missing-directory", "missing"),
        ("extra", "extra"),
        ("d/extra-directory", "extra"),
        ("turned", "kind"),
        ("file-to-link", "kind"),
        ("link-to-file", "kind"),
        ("target", "target"),
        ("device", "device"),
    ];
    let expected: BTreeMap<String, String> = expected.map(|(path, what)| (path.to_owned(), what.to_owned())).into();
    for options in [content(), Options { threads: Some(1), ..content() }] {
        let mut found = run(&a, &b, &options).problems();
        // Which of the names is told depends on which was met first.
        for pair in [["split", "split-too"], ["joined-1", "joined-2"]] {
            let told: Vec<String> = pair.iter().filter_map(|name| found.remove(*name)).collect();
            assert_eq!(told, ["links"], "{pair:?}");
        }
        assert_eq!(found, expected);
    }
    // Where contents are not read, all but them is told; what is ignored is not.
    let found = run(&a, &b, &Options::default()).problems();
    assert!(!found.contains_key("content") && !found.contains_key("late-byte") && found.contains_key("size"));
    let ignore = Ignore { times: true, owner: true, mode: true, attributes: true };
    let found = run(&a, &b, &Options { ignore, ..Options::default() }).problems();
    for name in ["mtime", "mode", "owner", "attribute", "acl"] {
        assert!(!found.contains_key(name), "{name}: {found:?}");
    }
    assert!(found.contains_key("size") && found.contains_key("target") && found.contains_key("extra"));
    // The other way round, what is missing is extra.
    let found = run(&b, &a, &content()).problems();
    assert_eq!((found["missing"].as_str(), found["extra"].as_str()), ("extra", "missing"));
    assert_eq!((found["turned"].as_str(), found["late-byte"].as_str()), ("kind", "content"));
}

#[test]
fn differences_have_both_values() {
    let scratch = Scratch::new("verify-values");
    let (a, b) = (scratch.join("a"), scratch.join("b"));
    for (root, text) in [(&a, "12345"), (&b, "1234567")] {
        fs::create_dir(root).unwrap();
        fs::write(root.join("f"), text).unwrap();
        set_time(&root.join("f"), 1000);
        set_time(root, 1000);
    }
    let ran = run(&a, &b, &content());
    let Some(Found::Differs(differences)) = ran.findings.iter().map(|f| f.found.clone()).find(Found::is_problem) else {
        panic!("{:?}", ran.findings)
    };
    let [one] = differences.as_slice() else { panic!("{differences:?}") };
    assert_eq!((one.what, one.to_string().as_str()), (Aspect::Size, "size 5, and 7"));
    assert_eq!((one.a.as_deref(), one.b.as_deref()), (Some("5"), Some("7")));
    assert_eq!(ran.totals.bytes, 0, "what has another size is not read");
    fs::write(b.join("f"), "12x45").unwrap();
    set_time(&b.join("f"), 1000);
    let ran = run(&a, &b, &content());
    let text = format!("{:?}", ran.findings);
    assert!(text.contains("from byte 2 on"), "{text}");
}

/// A migrated tree of everything that trees hold is the same by content and by all else, on filesystems of different kinds.
#[test]
fn what_was_migrated_is_the_same() {
    sys::process::raise_nofile_limit();
    for (from, to) in [(FsKind::Ext4, FsKind::Xfs), (FsKind::Xfs, FsKind::Btrfs)] {
        let (from, to) = (LoopFs::new(from, from.min_size_mib().max(300)), LoopFs::new(to, to.min_size_mib().max(300)));
        let (a, b) = (from.path().join("a"), to.path().join("b"));
        fs::create_dir(&a).unwrap();
        nasty::grow(&a, &nasty::Size { wide: 2000, deep: 1000 });
        let state = Some(from.path().join("state/job.db"));
        let options = migrate::Options { state, ..migrate::Options::default() };
        let tally = sifaka_jobs::report::Tally::default();
        migrate(&a, &b, &options, &tally, &Unwatched, &AtomicBool::new(false)).unwrap();
        let ran = run(&a, &b, &content());
        assert_eq!(ran.problems(), BTreeMap::new());
        assert!(ran.totals.same > 3000 && ran.totals.unclear_links == 0, "{:?}", ran.totals);
        // Far down, too, a difference is found.
        let name = b.join("links/b/c/again-3");
        fs::remove_file(&name).unwrap();
        fs::write(&name, "group 3").unwrap();
        let problems = run(&a, &b, &Options::default()).problems();
        assert!(problems.keys().any(|path| path.ends_with("3")), "{problems:?}");
    }
}

#[test]
fn filters_hold_for_both_trees() {
    let scratch = Scratch::new("verify-filters");
    let (a, b) = (scratch.join("a"), scratch.join("b"));
    for root in [&a, &b] {
        fs::create_dir_all(root.join("tmp")).unwrap();
        fs::write(root.join("kept"), vec![1; 1000]).unwrap();
        set_time(&root.join("kept"), 1000);
        fs::write(root.join("small"), root.as_os_str().as_encoded_bytes()).unwrap();
    }
    fs::write(a.join("tmp/only-in-a"), "").unwrap();
    fs::write(b.join("tmp/only-in-b"), "").unwrap();
    fs::write(b.join("small-and-only-in-b"), "").unwrap();
    fs::write(b.join("only.o"), vec![1; 1000]).unwrap();
    let mut filter = Filter::by_names(&["tmp/".into(), "*.o".into()], &[]).unwrap();
    filter.min_size = Some(500);
    let ignore = Ignore { times: true, ..Ignore::default() };
    let ran = run(&a, &b, &Options { filter, ignore, ..content() });
    assert_eq!(ran.problems(), BTreeMap::new());
    assert_eq!((ran.totals.same, ran.totals.filtered), (2, 2), "the roots and one file; a directory and a file");
}

/// What is changed while it is compared is told as that, and not as a difference; the comparison ends all the same.
#[test]
fn what_changes_all_the_time_is_told_so() {
    let disk = LoopFs::new(FsKind::Ext4, 64);
    let (a, b) = (disk.path().join("a"), disk.path().join("b"));
    fs::create_dir(&a).unwrap();
    fs::write(a.join("busy"), vec![3; 8 << 20]).unwrap();
    fs::write(a.join("quiet"), "quiet").unwrap();
    copy(&a, &b);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::open(a.join("busy")).unwrap();
            for seconds in (1..).take_while(|_| !over.load(Ordering::Relaxed)) {
                file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(seconds))).unwrap();
            }
        });
        let began = Instant::now();
        let told = loop {
            let problems = run(&a, &b, &content()).problems();
            let told = problems.get("busy").cloned();
            if told.as_deref() == Some("changed") || began.elapsed() > Duration::from_secs(60) {
                break told;
            }
        };
        over.store(true, Ordering::Relaxed);
        assert_eq!(told.as_deref(), Some("changed"));
    });
}

/// Somebody replaces a directory, in either tree, by a link to another one and back all the time: nothing but the two trees is looked into, and nothing
/// fails.
#[test]
fn links_in_the_place_of_directories_lead_nowhere() {
    let disk = LoopFs::new(FsKind::Ext4, 64);
    let [a, b, secret] = ["a", "b", "secret"].map(|name| disk.path().join(name));
    fs::create_dir_all(a.join("x")).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("secret-file"), "").unwrap();
    for number in 0..20 {
        fs::write(a.join(format!("x/{number}")), "").unwrap();
    }
    copy(&a, &b);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for root in [&a, &b] {
                    let (directory, aside): (PathBuf, PathBuf) = (root.join("x"), root.join("aside"));
                    fs::rename(&directory, &aside).unwrap();
                    symlink(&secret, &directory).unwrap();
                    fs::remove_file(&directory).unwrap();
                    fs::rename(&aside, &directory).unwrap();
                }
            }
        });
        let (mut entered, mut kinds) = (false, false);
        let began = Instant::now();
        while !(entered && kinds) && began.elapsed() < Duration::from_secs(60) {
            let ran = run(&a, &b, &Options::default());
            for finding in &ran.findings {
                assert!(!finding.path.ends_with("secret-file"), "{finding:?}");
                assert!(!matches!(finding.found, Found::Failed(_)), "{finding:?}");
            }
            entered |= ran.totals.same >= 20;
            kinds |=
                ran.problems().values().any(|what| what.contains("kind") || what == "changed" || what == "missing");
        }
        over.store(true, Ordering::Relaxed);
        assert!(entered && kinds, "entered: {entered}, a link seen: {kinds}");
    });
}

#[test]
fn other_filesystems_are_not_entered_in_either_tree() {
    let disk = LoopFs::new(FsKind::Ext4, 64);
    let scratch = Scratch::new("verify-mounts");
    fs::write(disk.path().join("there"), "").unwrap();
    // What the disk is mounted in, against a directory without a mount.
    let outside = disk.path().parent().unwrap().to_owned();
    let plain = scratch.join("plain");
    fs::create_dir_all(plain.join("mnt")).unwrap();
    let filter = Filter::by_names(&["image".into(), ".*".into()], &[]).unwrap();
    let ignore = Ignore { times: true, owner: true, mode: true, attributes: true };
    let options = Options { filter, ignore, ..Options::default() };
    for (a, b) in [(&outside, &plain), (&plain, &outside)] {
        let ran = run(a, b, &options);
        let mine: BTreeMap<_, _> = ran.problems().into_iter().filter(|(path, _)| path.starts_with("mnt")).collect();
        assert_eq!((ran.totals.elsewhere, mine), (1, BTreeMap::new()));
        let ran = run(a, b, &Options { cross: true, ..options.clone() });
        assert!(ran.problems().contains_key("mnt/there"), "{:?}", ran.problems());
    }
}

#[test]
fn what_is_no_directory_is_refused() {
    let scratch = Scratch::new("verify-refused");
    fs::write(scratch.join("file"), "").unwrap();
    let refused = |a: &str, b: &str| {
        let (a, b) = (scratch.join(a), scratch.join(b));
        verify(&a, &b, &content(), &Tally::default(), &Heard::default(), &AtomicBool::new(false))
            .unwrap_err()
            .to_string()
    };
    assert!(refused("file", ".").contains("no directory"));
    assert!(refused(".", "missing").contains("missing"));
}
