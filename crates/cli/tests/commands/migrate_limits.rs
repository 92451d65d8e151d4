//! `sifaka migrate` by users, with little of everything.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::Scratch;

const USER: u32 = 1500;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs it as an ordinary user whose umask takes everything from others.
fn as_user(scratch: &Scratch, args: &[&str]) -> (Option<i32>, Value) {
    let script = "umask 077; exec \"$@\"";
    let output = Command::new("setpriv")
        .args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", "sh", "-c", script, "sh"])
        .arg(env!("CARGO_BIN_EXE_sifaka"))
        .args(["migrate", "--json", "--state"])
        .arg(scratch.join("own/state.db"))
        .args(args)
        .args([scratch.join("src"), scratch.join("own/dst")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let totals = text.lines().last().unwrap_or("null");
    (output.status.code(), serde_json::from_str(totals).unwrap())
}

#[test]
fn a_user_copies_what_he_may_read_and_gets_no_rights_by_it() {
    let scratch = Scratch::new("migrate-user");
    set_mode(scratch.path(), 0o755);
    let source = scratch.join("src");
    for directory in ["own", "src/readonly", "src/closed", "src/shut"] {
        fs::create_dir_all(scratch.join(directory)).unwrap();
    }
    let files = [
        ("open", 0, 0o664),
        ("secret", 0, 0o600),
        ("root-setuid", 0, 0o4755),
        ("root-setgid", 0, 0o2755),
        ("own-setuid", USER, 0o4755),
        ("readonly/one", USER, 0o444),
        ("closed/in-it", USER, 0o644),
        ("shut/in-it", 0, 0o644),
    ];
    for (name, owner, mode) in files {
        fs::write(source.join(name), name).unwrap();
        chown(source.join(name), Some(owner), Some(owner)).unwrap();
        set_mode(&source.join(name), mode);
    }
    fs::hard_link(source.join("readonly/one"), source.join("readonly/two")).unwrap();
    fs::hard_link(source.join("readonly/one"), source.join("three")).unwrap();
    set_mode(&source.join("readonly"), 0o555);
    set_mode(&source.join("shut"), 0o700);
    chown(scratch.join("own"), Some(USER), Some(USER)).unwrap();
    let target = scratch.join("own/dst");
    let (code, totals) = as_user(&scratch, &[]);
    assert_eq!((code, totals["failed"].as_u64()), (Some(1), Some(2)), "secret and shut: {totals}");
    let expected = [
        ("open", 0o664),
        ("root-setuid", 0o755),
        ("root-setgid", 0o755),
        ("own-setuid", 0o4755),
        ("readonly", 0o555),
        ("readonly/two", 0o444),
        ("closed/in-it", 0o644),
    ];
    for (name, wanted) in expected {
        assert_eq!(mode(&target.join(name)), wanted, "{name}");
    }
    assert!(!target.join("secret").exists() && !target.join("shut/in-it").exists());
    assert_eq!(fs::metadata(target.join("three")).unwrap().nlink(), 3);
    // Nothing is done again and again, and a directory that is closed to its owner gets what is new in it.
    set_mode(&source.join("readonly"), 0o755);
    fs::write(source.join("readonly/new"), "new").unwrap();
    set_mode(&source.join("readonly"), 0o555);
    let (code, totals) = as_user(&scratch, &["--update", "--delete"]);
    assert_eq!((code, totals["files"].as_u64(), totals["updated"].as_u64()), (Some(1), Some(1), Some(1)), "{totals}");
    assert_eq!((mode(&target.join("readonly")), mode(&target.join("root-setuid"))), (0o555, 0o755));
}

/// A filesystem in memory, which is fast.
struct Memory(PathBuf);

impl Memory {
    fn at(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=2g,nr_inodes=1m", "none"]).arg(&path).status();
        assert!(mounted.unwrap().success());
        Self(path)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

/// The most memory that the process had, in KiB; and it ends well.
fn peak(mut command: Command) -> u64 {
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    let path = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return most;
        }
        let status = fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
        most = most.max(now.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn p6_memory_does_not_grow_with_the_tree() {
    const FILES: u32 = 100_000;
    const DIRECTORIES: u32 = 20_000;
    let scratch = Scratch::new("migrate-memory");
    let (from, to) = (Memory::at(scratch.join("from")), Memory::at(scratch.join("to")));
    let source = from.0.join("src");
    fs::create_dir_all(source.join("wide")).unwrap();
    for number in 0..FILES {
        fs::File::create(source.join(format!("wide/a-name-of-usual-length-{number}"))).unwrap();
    }
    for number in 0..DIRECTORIES {
        let directory = source.join(format!("many/{}", number));
        fs::create_dir_all(&directory).unwrap();
        fs::File::create(directory.join("file")).unwrap();
    }
    let deep = source.join((0..800).map(|level| format!("d{level}")).collect::<PathBuf>());
    fs::create_dir_all(&deep).unwrap();
    for args in [&[] as &[&str], &["--update", "--delete"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sifaka"));
        command.args(["migrate", "-q", "--jobs=8"]).args(args).arg("--state").arg(scratch.join("state.db"));
        command.args([&source, &to.0.join("dst")]);
        let most = peak(command);
        println!("{most} KiB");
        assert!(most > 0 && most < 60 << 10, "{most} KiB for {args:?}");
    }
    assert_eq!(fs::read_dir(to.0.join("dst/wide")).unwrap().count(), FILES as usize);
    assert_eq!(fs::read_dir(to.0.join("dst/many")).unwrap().count(), DIRECTORIES as usize);
}

/// As a user, who cannot allow himself more descriptors.
fn with_descriptors(scratch: &Scratch, limit: u32, args: &[&str]) -> (Option<i32>, Vec<Value>) {
    let output = Command::new("prlimit")
        .arg(format!("--nofile={limit}:{limit}"))
        .args(["setpriv", &format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"])
        .args([env!("CARGO_BIN_EXE_sifaka"), "migrate", "--json", "--state"])
        .arg(scratch.join("own/state.db"))
        .args(args)
        .args([scratch.join("src"), scratch.join(format!("own/{limit}"))])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn few_descriptors_are_enough_for_trees_that_are_not_deep() {
    let scratch = Scratch::new("migrate-descriptors");
    set_mode(scratch.path(), 0o755);
    let source = scratch.join("src");
    for number in 0..200 {
        let directory = source.join(format!("{}/{}/{number}/x/y", number % 3, number % 7));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), "content").unwrap();
    }
    fs::create_dir(scratch.join("own")).unwrap();
    chown(scratch.join("own"), Some(USER), Some(USER)).unwrap();
    for limit in [64, 256] {
        let (code, said) = with_descriptors(&scratch, limit, &["--verify"]);
        assert_eq!((code, said.len()), (Some(0), 1), "{limit}: {said:?}");
    }
    // What is too deep is told, and keeps nobody else from anything.
    fs::create_dir_all(source.join((0..200).map(|level| format!("d{level}")).collect::<PathBuf>())).unwrap();
    let (code, said) = with_descriptors(&scratch, 128, &[]);
    let (totals, problems) = said.split_last().unwrap();
    assert_eq!((code, totals["files"].as_u64(), problems.len()), (Some(1), Some(200), 1), "{said:?}");
    assert!(problems[0]["path"].as_str().unwrap().starts_with("d0/d1/"), "{said:?}");
}
