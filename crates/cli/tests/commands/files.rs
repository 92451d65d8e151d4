//! Commands on files: what the agent is asked for, what is printed, how the program ends.

use crate::agent_double::{End, Served, stderr, stdout};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

/// A tree of `files` files in directories of 100, with things among them that are none.
fn tree(files: usize) -> tempfile::TempDir {
    let top = tempfile::tempdir().unwrap();
    for number in 0..files {
        let directory = top.path().join(format!("d{}", number / 100));
        fs::create_dir_all(&directory).unwrap();
        File::create(directory.join(format!("f{number}"))).unwrap();
    }
    symlink("/etc/passwd", top.path().join("link")).unwrap();
    symlink("/etc", top.path().join("link-to-directory")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(top.path().join("socket")).unwrap());
    top
}

#[test]
fn a_tree_is_sent_once_in_batches_of_one_request() {
    let served = Served::start(End::Well);
    let tree = tree(2500);
    let output = served.run(&["archive", "-i", "2", "--data", "xyz", "--force"], tree.path());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "request 1: archive of 2500 files accepted\n");
    let requests = served.control.requests.lock().unwrap();
    assert_eq!(requests.len(), 1);
    let files = &requests[&1];
    let handles: BTreeSet<_> = files.iter().map(|file| &file.handle).collect();
    assert_eq!((files.len(), handles.len()), (2500, 2500));
    let fsid = agent::admin::api::fsid_text(sys::mounts::filesystem_of(tree.path()).unwrap().fsid);
    for file in files {
        let named = sys::handle::name_to_handle(File::open(&file.path).unwrap()).unwrap();
        assert_eq!((file.handle.kind, &file.handle.bytes[..], &file.fsid), (named.kind, &named.bytes[..], &fsid));
    }
    let batches = served.control.batches.lock().unwrap();
    let of_files = batches.iter().filter(|size| **size > 0).count();
    assert!(of_files == 3 && batches.iter().all(|size| *size <= 1000), "{batches:?}");
    let records = served.control.records.lock().unwrap();
    let named = |name: &str| records.iter().find(|record| record.path == tree.path().join(name).to_str().unwrap());
    let parent = sys::handle::name_to_handle(File::open(tree.path()).unwrap()).unwrap();
    for name in ["link", "link-to-directory", "socket"] {
        let record = named(name).unwrap_or_else(|| panic!("{name} is not among {records:?}"));
        assert_eq!((record.name.as_slice(), &record.fsid), (name.as_bytes(), &fsid));
        assert_eq!(record.parent.as_ref().map(|p| &p.bytes[..]), Some(&parent.bytes[..]));
    }
    assert!(records.iter().any(|r| Path::new(&r.path) == tree.path()), "the directory itself");
    assert!(records.iter().any(|r| r.path == "/"), "those above it, up to the root of the filesystem: {records:?}");
    let calls = served.control.calls.lock().unwrap();
    assert!(calls.iter().all(|call| call == r#"(Archive, Some(2), true, "xyz")"#), "{calls:?}");
}

#[test]
fn names_may_be_any_bytes_and_come_from_standard_input() {
    let served = Served::start(End::Well);
    let directory = tempfile::tempdir().unwrap();
    let names: [&[u8]; 3] = [b"line\nbreak", b"not \xff utf-8", b"-i"];
    let mut child =
        served.command(&["restore", "-0", "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for name in names {
        let path = directory.path().join(std::ffi::OsStr::from_bytes(name));
        File::create(&path).unwrap();
        input.write_all(path.as_os_str().as_bytes()).unwrap();
        input.write_all(b"\0").unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &reply["accepted"]), (Some(0), &serde_json::json!(3)));
    assert_eq!(served.control.requests.lock().unwrap()[&1].len(), 3);
}

#[test]
fn refusals_are_told_and_counted() {
    let served = Served::start(End::Well);
    let directory = tempfile::tempdir().unwrap();
    for name in ["good", "refused \x1b[2J"] {
        File::create(directory.path().join(name)).unwrap();
    }
    for (command, told) in [
        ("release", "1 files released, 1.0 MiB freed, 1 refused\n"),
        ("remove", "request 1: remove of 1 files accepted, 1 refused\n"),
    ] {
        let output = served.run(&[command], directory.path());
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), told));
        assert!(stderr(&output).ends_with("refused \\u{1b}[2J: it is in use\n"), "{:?}", stderr(&output));
    }
}

#[test]
fn what_was_named_and_is_no_file_is_told() {
    let served = Served::start(End::Well);
    let tree = tree(1);
    let link = served.run(&["restore"], &tree.path().join("link"));
    assert_eq!(link.status.code(), Some(1));
    assert!(stderr(&link).contains("is a symbolic link"), "{}", stderr(&link));
    let absent = served.run(&["restore"], &tree.path().join("absent"));
    assert_eq!(absent.status.code(), Some(1));
    assert!(stderr(&absent).contains("No such file"), "{}", stderr(&absent));
    assert!(served.control.requests.lock().unwrap().is_empty());
}

#[test]
fn other_filesystems_are_not_entered() {
    struct Mounted<'a>(&'a Path);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0).status();
        }
    }
    let served = Served::start(End::Well);
    let tree = tree(3);
    let inner = tree.path().join("inner");
    fs::create_dir(&inner).unwrap();
    assert!(
        Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&inner).status().unwrap().success(),
        "this test needs root"
    );
    let _mounted = Mounted(&inner);
    File::create(inner.join("file")).unwrap();
    served.run(&["archive"], tree.path());
    assert_eq!(served.control.requests.lock().unwrap()[&1].len(), 3);
    // Named itself, it is entered.
    served.run(&["archive"], &inner);
    assert_eq!(served.control.requests.lock().unwrap()[&2].len(), 1);
}

#[test]
fn waiting_ends_with_the_request() {
    let served = Served::start(End::Well);
    let output = served.run(&["archive", "--wait"], tree(2).path());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "request 1: archive of 2 files accepted\ndone: 2 succeeded, 0 failed, 4.0 KiB moved\n");

    let served = Served::start(End::OneFailed);
    let output = served.run(&["archive", "--wait"], tree(2).path());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "sifaka: /fs/bad\\u{1b}name: the archive's disk is broken\n");
}

#[test]
fn an_interrupted_wait_says_that_the_agent_goes_on() {
    let served = Served::start(End::Never);
    let tree = tree(1);
    let child = served
        .command(&["archive", "-w"])
        .arg(tree.path())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    served.runtime.block_on(served.control.polling.notified());
    sys::process::PidFd::open(child.id().cast_signed()).unwrap().kill(2).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(stderr(&output).contains("what the agent has accepted goes on"), "{}", stderr(&output));
}

#[test]
fn status_keeps_the_order_of_the_names() {
    let served = Served::start(End::Well);
    let tree = tree(1200);
    let paths: Vec<_> = (0..1200).rev().map(|n| tree.path().join(format!("d{}/f{n}", n / 100))).collect();
    let output = served.command(&["status"]).args(&paths).output().unwrap();
    let expected: String = paths.iter().map(|path| format!("{} 1 archived -\n", path.display())).collect();
    assert_eq!((stdout(&output), output.status.code()), (expected, Some(0)));
    let output = served.command(&["status", "--json"]).args(&paths).output().unwrap();
    assert_eq!(stdout(&output).lines().count(), 1200);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let served = Served::start(End::Well);
    let tree = tree(2000);
    let mut child =
        served.command(&["status"]).arg(tree.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn other_commands_ask_for_what_they_are_told() {
    let served = Served::start(End::Well);
    let tree = tree(2);
    let set = served.run(&["set", "--flag", "norelease", "-F", "lost", "-i", "4"], tree.path());
    assert_eq!((set.status.code(), stdout(&set).as_str()), (Some(0), "2 files set, 0 refused\n"));
    let cancel = served.command(&["cancel", "--action", "5", "--action", "6"]).output().unwrap();
    assert_eq!((cancel.status.code(), stdout(&cancel).as_str()), (Some(0), "2 actions cancelled, 1 had none\n"));
    assert_eq!(served.command(&["cancel", "--all"]).status().unwrap().code(), Some(0));
    let calls = served.control.calls.lock().unwrap();
    let expected = [r#"(["norelease"], ["lost"], Some(4))"#, "Actions([ActionId(5), ActionId(6)])", "All(true)"];
    assert_eq!(*calls, expected);
}

#[test]
fn the_queue_is_shown_page_by_page() {
    let served = Served::start(End::Well);
    let lines = |args: &[&str]| stdout(&served.command(args).output().unwrap()).lines().count();
    assert_eq!(lines(&["actions", "--json", "--limit", "2200"]), 2200);
    assert_eq!(lines(&["actions", "--json", "--limit", "9999"]), 2500);
    assert_eq!(lines(&["actions", "--finished", "--json"]), 2);
    assert_eq!(lines(&["actions", "--failed", "--json"]), 1);
    assert_eq!(lines(&["actions", "--finished", "--command", "remove", "--json"]), 0);
}

#[test]
fn the_agent_s_status_is_shown() {
    let served = Served::start(End::Well);
    let output = served.command(&["status"]).output().unwrap();
    let text = stdout(&output);
    assert!(text.starts_with("agent 9.9 (pid 7)") && text.contains("posix   running  8"), "{text}");
}
