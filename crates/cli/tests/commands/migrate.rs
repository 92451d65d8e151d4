//! `sifaka migrate` as a process: what it prints and writes, and what is left when it is killed.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use testkit::tree::{TreeSpec, assert_same, snapshot};
use testkit::{FsKind, LoopFs, Random, Scratch};

fn sifaka(state: &Path, args: &[&str], paths: [&Path; 2]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sifaka"));
    command.arg("migrate").args(args).arg("--state").arg(state).args(paths).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Names that a job gives to what it has not finished.
fn leftovers(root: &Path) -> Vec<String> {
    let found = Command::new("find").arg(root).args(["-name", ".sifaka-*"]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn it_says_what_it_did_and_what_it_could_not_do() {
    let scratch = Scratch::new("migrate-says");
    let (source, target) = (scratch.join("src"), scratch.join("dst"));
    fs::create_dir_all(source.join("d")).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(source.join("d/one"), "one").unwrap();
    fs::write(source.join("two"), "two").unwrap();
    fs::write(target.join("two"), "something else").unwrap();
    let (state, report) = (scratch.join("state.db"), scratch.join("report"));
    let report_arg = format!("--report={}", report.display());
    let (code, stdout, stderr) = run(&mut sifaka(&state, &["--json", &report_arg], [&source, &target]));
    assert_eq!(code, Some(1), "{stderr}");
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [problem, totals] = lines.as_slice() else { panic!("{stdout}") };
    assert_eq!((problem["path"].as_str(), problem["did"].as_str()), (Some("two"), Some("refused")));
    assert_eq!((totals["files"].as_u64(), totals["refused"].as_u64()), (Some(1), Some(1)));
    let written = fs::read_to_string(&report).unwrap();
    let did: BTreeMap<String, String> = written
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["path"].as_str().unwrap().to_owned(), line["did"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [("", None), ("d", Some("copied")), ("d/one", Some("copied")), ("two", Some("refused"))];
    for (path, outcome) in expected {
        assert!(outcome.is_none() || did.get(path).map(String::as_str) == outcome, "{path}: {did:?}");
    }
    assert_eq!(fs::read_to_string(target.join("two")).unwrap(), "something else");

    let (code, stdout, stderr) = run(&mut sifaka(&state, &["--update", "--dry-run"], [&source, &target]));
    assert_eq!((code, stdout.lines().next()), (Some(0), Some("would copy two")), "{stderr}");
    let (code, stdout, _) = run(&mut sifaka(&state, &["--update"], [&source, &target]));
    assert_eq!(code, Some(0));
    assert!(stdout.starts_with("1 files (3 B) copied"), "{stdout}");
    let (code, _, stderr) = run(&mut sifaka(&state, &[], [&source.join("two"), &target]));
    assert_eq!(code, Some(2), "{stderr}");
    let inside = target.join("report");
    let inside_arg = format!("--report={}", inside.display());
    let (code, _, stderr) = run(&mut sifaka(&state, &["--update", "--delete", &inside_arg], [&source, &target]));
    assert!(code == Some(2) && stderr.contains("put it elsewhere") && !inside.exists(), "{stderr}");
    fs::set_permissions(source.join("two"), fs::Permissions::from_mode(0o751)).unwrap();
    let (code, stdout, _) = run(&mut sifaka(&state, &["--update", "--dry-run"], [&source, &target]));
    assert_eq!((code, stdout.lines().next()), (Some(0), Some("would update two")));
    let (code, _, stderr) = run(&mut sifaka(&state, &["--exclude", "[x"], [&source, &target]));
    assert!(code == Some(2) && stderr.contains("pattern"), "{stderr}");
}

/// Killed again and again at any moment, it goes on each time and ends with what one run would have made: nothing is missing, nothing is left over,
/// and what a checkpoint has seen complete is not copied again.
#[test]
fn p7_killed_again_and_again_it_goes_on_and_leaves_nothing_behind() {
    let (from, to) = (LoopFs::new(FsKind::Ext4, 900), LoopFs::new(FsKind::Xfs, 900));
    let scratch = Scratch::new("migrate-killed");
    let (source, target, state) = (from.path().join("src"), to.path().join("dst"), scratch.join("state.db"));
    let mut random = Random::new(11);
    for number in 0..20 {
        let directory = source.join(format!("d{}/e{number}", number % 7));
        fs::create_dir_all(&directory).unwrap();
        TreeSpec { max_file_bytes: 2 << 20, ..TreeSpec::new(number, 40) }.build(&directory);
        fs::hard_link(first_file(&directory), directory.join("again")).unwrap();
        fs::hard_link(first_file(&directory), source.join(format!("again-{number}"))).unwrap();
    }
    let (mut kills, mut made) = (0, BTreeMap::new());
    loop {
        let mut child = sifaka(&state, &["-q", "--verify"], [&source, &target]).spawn().unwrap();
        // Longer each time, so that it ends.
        let patience = Duration::from_millis(random.within(1..200 + kills * 40));
        std::thread::sleep(patience);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "after {kills} kills");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        // What was whole stays what it is: copies are not made anew.
        for (path, inode) in &made {
            let now = fs::symlink_metadata(path).map(|found| found.ino());
            assert_eq!(now.ok(), Some(*inode), "{path:?} was copied again");
        }
        whole(&source, &target, &mut made);
    }
    assert!(kills > 3, "it was killed {kills} times only");
    assert_same(&snapshot(&source), &snapshot(&target));
    assert_eq!(leftovers(&target), Vec::<String>::new());
    assert!(!state.exists());
    for number in 0..20 {
        assert_eq!(fs::metadata(target.join(format!("again-{number}"))).unwrap().nlink(), 3);
    }
}

fn first_file(directory: &Path) -> std::path::PathBuf {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().find(|path| path.is_file()).unwrap()
}

/// Notes the inodes of large files that are at the destination with the size and time that the source has.
fn whole(source: &Path, target: &Path, made: &mut BTreeMap<std::path::PathBuf, u64>) {
    let found =
        Command::new("find").arg(source).args(["-type", "f", "-links", "1", "-size", "+1100k"]).output().unwrap();
    let names: Vec<Vec<u8>> = found.stdout.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    for name in names.iter().filter_map(|name| str::from_utf8(name).ok()) {
        let Ok(relative) = Path::new(name).strip_prefix(source) else { continue };
        let copy = target.join(relative);
        if let (Ok(one), Ok(other)) = (fs::metadata(name), fs::metadata(&copy))
            && (one.len(), one.mtime(), one.mtime_nsec()) == (other.len(), other.mtime(), other.mtime_nsec())
        {
            made.insert(copy, other.ino());
        }
    }
}

#[test]
fn an_interrupted_run_ends_soon_and_goes_on_later() {
    let scratch = Scratch::new("migrate-interrupted");
    let (source, target, state) = (scratch.join("src"), scratch.join("dst"), scratch.join("state.db"));
    fs::create_dir(&source).unwrap();
    for number in 0..20 {
        fs::write(source.join(format!("{number}")), vec![number; 1 << 20]).unwrap();
    }
    let mut child = sifaka(&state, &["--bandwidth-limit", "2MiB/s", "-q"], [&source, &target])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    testkit::wait_until(Duration::from_secs(20), "the first file is there", || {
        fs::read_dir(&target).is_ok_and(|mut d| d.next().is_some())
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(state.exists());
    let (code, stdout, stderr) = run(&mut sifaka(&state, &["--json"], [&source, &target]));
    assert_eq!(code, Some(0), "{stderr}");
    let totals: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(totals["continued"], true);
    assert!(totals["same"].as_u64().unwrap() > 0 && totals["files"].as_u64().unwrap() > 0, "{totals}");
    assert_same(&snapshot(&source), &snapshot(&target));
}
