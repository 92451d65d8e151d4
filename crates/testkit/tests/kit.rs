//! Trees, processes, faults and sites: that they do what tests rely on.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use sifaka_testkit::process::Process;
use sifaka_testkit::tree::{TreeSpec, assert_same, differences, snapshot};
use sifaka_testkit::{Daemon, FsKind, LoopFs, Scratch, Site, faults, sifaka_binary, wait_until};

const SOON: Duration = Duration::from_secs(60);

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

#[test]
fn a_tree_is_the_same_for_the_same_seed_and_has_the_odd_cases() {
    let scratch = Scratch::new("tree");
    let (first, second) = (scratch.join("first"), scratch.join("second"));
    fs::create_dir(&first).unwrap();
    fs::create_dir(&second).unwrap();
    let spec = TreeSpec { chunk_bytes: 64 << 10, ..TreeSpec::new(11, 60) };
    let files = spec.build(&first);
    assert_eq!(files, spec.build(&second));
    let (before, again) = (snapshot(&first), snapshot(&second));
    let made: HashSet<_> = files.iter().collect();
    assert_eq!(made, before.keys().collect());
    assert_same(&before, &again);

    let sizes: HashSet<u64> = before.values().map(|state| state.size).collect();
    for size in [0, 1, 4095, 4096, 4097, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, (128 << 10) + 1] {
        assert!(sizes.contains(&size), "no file of {size} bytes");
    }
    assert!(files.iter().any(|path| path.to_str().is_none()), "no name that is not UTF-8");
    assert!(files.iter().any(|path| path.to_string_lossy().contains('\n')), "no name with a newline");
    assert!(before.values().any(|state| !state.xattrs.is_empty()), "no extended attributes");
    let sparse = files.iter().map(|path| fs::metadata(first.join(path)).unwrap());
    assert!(sparse.into_iter().any(|meta| meta.blocks() * 512 + 8192 < meta.len()), "no sparse file");
}

#[test]
fn every_kind_of_difference_is_reported() {
    let dir = Scratch::new("tree");
    for name in ["content", "mode", "owner", "mtime", "xattr", "gone"] {
        fs::write(dir.join(name), name).unwrap();
    }
    let before = snapshot(dir.path());
    let old = fs::metadata(dir.join("content")).unwrap().modified().unwrap();
    fs::write(dir.join("content"), "CONTENT").unwrap();
    fs::File::options().write(true).open(dir.join("content")).unwrap().set_modified(old).unwrap();
    fs::set_permissions(dir.join("mode"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(dir.join("owner"), Some(7), Some(8)).unwrap();
    fs::File::options().write(true).open(dir.join("mtime")).unwrap().set_modified(old - SOON).unwrap();
    sys::xattr::set(fs::File::open(dir.join("xattr")).unwrap(), "user.new", b"1").unwrap();
    fs::remove_file(dir.join("gone")).unwrap();
    fs::write(dir.join("new"), "").unwrap();
    let found = differences(&before, &snapshot(dir.path()));
    for expected in [
        "\"content\": content",
        "\"mode\": mode 644 became 640",
        "\"owner\": uid 0 became 7; gid 0 became 8",
        "\"mtime\": mtime",
        "\"xattr\": xattrs",
        "\"gone\": missing",
        "\"new\": unexpected",
    ] {
        assert!(found.iter().any(|line| line.starts_with(expected)), "{expected} is not in {found:#?}");
    }
    assert_eq!(found.len(), 7, "{found:#?}");
}

#[test]
fn a_daemon_is_heard_signalled_and_waited_for() {
    let daemon =
        Daemon::spawn("sh", shell("trap 'echo bye >&2; exit 3' TERM; echo ready; while :; do sleep 0.05; done"));
    assert_eq!(daemon.wait_for_line("ead", SOON), "ready");
    assert!(daemon.status().is_none());
    assert_eq!(daemon.terminate(SOON).code(), Some(3));
    daemon.wait_for_line("bye", SOON);

    let daemon = Daemon::spawn("sleep", shell("exec sleep 600"));
    assert_eq!(daemon.kill().signal(), Some(9));
    assert_eq!(daemon.status().unwrap().signal(), Some(9));
}

#[test]
fn one_process_of_a_group_can_be_killed_and_the_rest_goes_with_the_daemon() {
    let daemon = Daemon::spawn("sh", shell("sleep 601 & sleep 602 & echo up; wait"));
    daemon.wait_for_line("up", SOON);
    // Not before they run their own program: until then they have the shell's command line, which names both.
    let sleeps = |process: &Process| process.command_line.starts_with("sleep 60");
    wait_until(SOON, "both children", || daemon.processes("sleep 60").iter().filter(|p| sleeps(p)).count() == 2);
    let first = daemon.processes("sleep 601").into_iter().find(sleeps).unwrap();
    first.kill();
    assert!(!runs(first.pid) && daemon.status().is_none());
    let second = daemon.processes("sleep 602").into_iter().find(sleeps).unwrap();
    daemon.kill();
    assert!(runs(second.pid), "kill is for the process alone");
    drop(daemon);
    wait_until(SOON, "the end of the other child", || !runs(second.pid));
}

#[test]
fn a_killed_test_takes_its_daemons_along() {
    // This very test again, as a child that starts a daemon and is killed before it can drop it.
    const ROLE: &str = "SIFAKA_TESTKIT_VICTIM";
    if std::env::var_os(ROLE).is_some() {
        let daemon = Daemon::spawn("sleep", shell("exec sleep 603"));
        println!("\ndaemon {}", daemon.pid());
        daemon.wait(Duration::from_secs(600));
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_killed_test_takes_its_daemons_along", "--nocapture"]).env(ROLE, "1");
    let victim = Daemon::spawn("victim", command);
    let line = victim.wait_for_line("daemon ", SOON);
    let pid: u32 = line.trim_start_matches("daemon ").parse().unwrap();
    assert!(runs(pid));
    victim.signal(Signal::KILL);
    wait_until(SOON, "the end of the daemon", || !runs(pid));
}

#[test]
#[should_panic(expected = "no line with \"never\" before its output ended; output:\nonly this")]
fn output_that_ends_is_not_waited_for() {
    Daemon::spawn("echo", shell("echo only this")).wait_for_line("never", Duration::from_secs(600));
}

#[test]
fn a_full_filesystem_is_full_until_the_ballast_is_dropped() {
    for kind in FsKind::ALL {
        let fs = LoopFs::new(kind, 32);
        let ballast = faults::fill(&fs, 0);
        let error = fs::write(fs.path().join("file"), vec![1; 8 << 20]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{kind}");
        drop(ballast);
        // The failed write may have left an empty file or none.
        let _ = fs::remove_file(fs.path().join("file"));
        fs::write(fs.path().join("file"), vec![1; 8 << 20]).unwrap();
    }
}

#[test]
fn a_shut_down_filesystem_gives_eio_and_comes_back_with_what_was_synced() {
    for kind in [FsKind::Ext4, FsKind::Xfs] {
        let fs = LoopFs::new(kind, 32);
        let (kept, lost) = (fs.path().join("kept"), fs.path().join("lost"));
        fs::write(&kept, "synced").unwrap();
        fs::File::open(&kept).unwrap().sync_all().unwrap();
        fs::File::open(fs.path()).unwrap().sync_all().unwrap();
        fs::write(&lost, "not synced").unwrap();
        faults::shut_down(&fs);
        assert_eq!(fs::File::open(&kept).unwrap_err().raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        fs.remount();
        assert_eq!(fs::read(&kept).unwrap(), b"synced");
        assert!(!lost.exists(), "{kind}");
    }
}

#[test]
fn corruption_shows_in_the_content_alone() {
    let dir = Scratch::new("corrupt");
    fs::write(dir.join("file"), "content").unwrap();
    let before = snapshot(dir.path());
    faults::corrupt(&dir.join("file"));
    let found = differences(&before, &snapshot(dir.path()));
    assert!(found.len() == 1 && found[0].starts_with("\"file\": content") && !found[0].contains("mtime"), "{found:?}");
}

#[test]
fn a_site_has_private_configuration_that_says_what_it_was_told() {
    let fs = LoopFs::new(FsKind::Ext4, 16);
    let mut site = Site::local(&fs);
    site.add_agent_setting("retry { max_delay_s = 1 }");
    site.add_archive("second", 2, &site.state_dir().join("second"), "format = \"lemur\"");
    site.set_archive_root(&fs.path().join("archive"));
    for path in [site.agent_config(), site.posix_config()] {
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{}", path.display());
    }
    let agent = fs::read_to_string(site.agent_config()).unwrap();
    assert!(agent.contains(&format!("client_device = \"{}\"", fs.path().display())), "{agent}");
    assert!(agent.ends_with("retry { max_delay_s = 1 }\n"), "{agent}");
    let posix = fs::read_to_string(site.posix_config()).unwrap();
    assert!(posix.contains(&format!("root = \"{}\"", fs.path().join("archive").display())), "{posix}");
    assert!(posix.contains("archive \"second\" {\n  id = 2\n"), "{posix}");
}

#[test]
fn the_binary_is_looked_for_beside_the_test() {
    // Not built when only this crate is tested: then the message must say how.
    let found = std::panic::catch_unwind(sifaka_binary);
    match found {
        Ok(path) => assert!(path.ends_with("debug/sifaka") || path.ends_with("sifaka"), "{}", path.display()),
        Err(panic) => assert!(panic.downcast_ref::<String>().unwrap().contains("cargo build -p sifaka-cli")),
    }
}

#[test]
fn what_was_started_for_a_directory_ends_with_it_and_nothing_else_does() {
    let (dir, other) = (Scratch::new("remains"), Scratch::new("remains"));
    // Each has a companion that starts the next one when it dies, as a guard does with its agent.
    let script = "while :; do sh -c 'sleep 1000; :' \"$0\"; done";
    let start = |dir: &Scratch| {
        Daemon::spawn("companion", {
            let mut command = shell(script);
            command.arg(dir.path());
            command
        })
    };
    let (ours, theirs) = (start(&dir), start(&other));
    let mut named_in_environment = shell("sleep 1000; :");
    let named_in_environment = Daemon::spawn("mover", {
        named_in_environment.env("SOMETHING", dir.join("config"));
        named_in_environment
    });
    wait_until(SOON, "both run their children", || [&ours, &theirs].iter().all(|d| d.processes("sh -c").len() == 2));
    drop(dir);
    assert_eq!(ours.wait(SOON).signal(), Some(9));
    assert_eq!(named_in_environment.wait(SOON).signal(), Some(9));
    assert!(ours.processes("sh -c").is_empty());
    assert_eq!((theirs.status(), theirs.processes("sh -c").len()), (None, 2));
}
