//! The commands on Lustre: the program loads a liblustreapi that behaves as Lustre's, and asks no agent of ours.

use crate::lustre_site::{Lustre, Said, wait_for};
use crate::support::{Hsm, StopWhenDropped, hsm_state, is_released, noise};
use lustre_standin::{Status, control};
use model::{Extent, Fid, HsmFlags, xattr};
use nix::libc;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use sys::lustre::{Action, state, state_set};
use testkit::FsKind;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|why| panic!("{text}: {why}"))
}

fn fids(lustre: &Lustre, paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| lustre.fid(path).to_string()).collect()
}

#[test]
fn a_tree_is_archived_released_restored_and_removed() {
    let lustre = Lustre::new();
    // More than Lustre takes in one request.
    let paths: Vec<_> =
        (0..200).map(|i| lustre.file(&format!("tree/d{}/f{i}", i % 7), format!("file {i}").as_bytes())).collect();
    let top = lustre.path("tree");
    let agent = lustre.agent();
    let text = lustre.ok(&["archive", "--wait"], &[&top]);
    assert!(text.starts_with("archive of 200 files accepted\ndone: 200 succeeded, 0 failed"), "{text}");
    assert_eq!(agent.served().len(), 200);
    let again = json(&lustre.ok(&["archive", "--json", "-w"], &[&top]));
    assert_eq!((&again["accepted"], &again["already"]), (&0.into(), &200.into()));
    let held: u64 = paths.iter().map(|path| fs::metadata(path).unwrap().blocks() * 512).sum();
    let released = json(&lustre.ok(&["release", "--json"], &[&top]));
    assert_eq!((&released["released"], &released["refused_count"]), (&200.into(), &0.into()));
    assert!(held > 0 && released["bytes"] == held, "{held}: {released}");
    let again = json(&lustre.ok(&["release", "--json"], &[&top]));
    assert_eq!((&again["released"], &again["already"]), (&0.into(), &200.into()));
    assert_eq!(lustre.status(&[&paths[5]]), ["1 released -"]);
    let said = lustre.run(&["remove"], &[&paths[5]]).refused(1, &["restore it first"]);
    assert!(said.err.contains(paths[5].to_str().unwrap()), "{said:?}");
    let restored = json(&lustre.ok(&["restore", "--json", "--wait"], &[&top]));
    assert_eq!(restored["status"]["succeeded"], 200);
    for (i, path) in paths.iter().enumerate() {
        assert_eq!(fs::read_to_string(path).unwrap(), format!("file {i}"));
    }
    lustre.ok(&["remove", "--wait"], &[&top]);
    assert_eq!(lustre.status(&[&paths[5]]), ["- - -"]);
}

#[test]
fn what_cannot_be_done_is_told_file_by_file_and_the_rest_is_done() {
    let lustre = Lustre::new();
    let [plain, dirty, kept, good] = ["plain", "dirty", "kept", "good"].map(|name| lustre.file(name, b"content"));
    let _agent = lustre.agent();
    lustre.ok(&["archive", "--wait"], &[&dirty, &kept, &good]);
    fs::write(&dirty, "another content").unwrap();
    lustre.ok(&["set", "--flag", "norelease"], &[&kept]);
    assert_eq!(lustre.status(&[&dirty, &kept]), ["1 dirty -", "1 archived@ -"]);
    let said = lustre.run(&["release", "--json"], &[&plain, &dirty, &kept, &good]);
    let said = said.refused(1, &["plain: it is not archived", "dirty: it changed", "kept: it is marked norelease"]);
    let totals = json(&said.out);
    assert_eq!((&totals["released"], &totals["refused_count"]), (&1.into(), &3.into()));
    assert_eq!(totals["refused"][0]["errno"], libc::EPERM);
    assert_eq!(lustre.status(&[&good]), ["1 released -"]);
    lustre.ok(&["set", "--flag", "noarchive"], &[&plain]);
    lustre.run(&["archive"], &[&plain]).refused(1, &["plain: it is marked noarchive"]);
    lustre.run(&["archive", "-i", "2"], &[&kept]).refused(1, &["kept: it is in archive 1"]);
    lustre.run(&["archive", "--copies", "1,2"], &[&plain]).refused(5, &["one archive"]);
    lustre.run(&["archive"], &[&lustre.path("absent")]).refused(1, &["absent", "No such file"]);
}

#[test]
fn a_request_that_is_refused_is_made_again_file_by_file() {
    let lustre = Lustre::new();
    let paths: Vec<_> = (0..120).map(|i| lustre.file(&format!("t/f{i:03}"), b"content")).collect();
    let _agent = lustre.agent();
    // The second of three requests, and then one of its files.
    control::fail(&lustre.root, "llapi_hsm_request", libc::EPERM, Some(2)).unwrap();
    let said = lustre.run(&["archive", "--wait", "--json"], &[&lustre.path("t")]);
    let totals = json(&said.refused(1, &["Operation not permitted"]).out);
    assert_eq!((&totals["accepted"], &totals["refused_count"]), (&119.into(), &1.into()));
    assert_eq!(totals["status"]["succeeded"], 119);
    let refused = totals["refused"][0]["path"].as_str().unwrap();
    let archived = |path: &Path| state(&lustre.library, path).unwrap().flags.contains(HsmFlags::ARCHIVED);
    assert_eq!(paths.iter().filter(|path| !archived(path)).collect::<Vec<_>>(), [Path::new(refused)]);
    // A coordinator that is stopped is no file's fault.
    control::set(&lustre.root, "hsm_control", "shutdown").unwrap();
    let said = lustre.run(&["archive", "--force"], &[&lustre.path("t")]).refused(3, &["hsm_control=enabled"]);
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
    control::set(&lustre.root, "hsm_control", "enabled").unwrap();
    let data = "x".repeat(5000);
    lustre.run(&["archive", "--force", "--data", &data], &[&paths[0]]).refused(2, &["--data is too long"]);
}

#[test]
fn one_refusal_among_many_has_no_file_archived_twice() {
    let lustre = Lustre::new();
    let paths: Vec<_> = (0..50).map(|i| lustre.file(&format!("t/f{i:02}"), b"content")).collect();
    control::fail(&lustre.root, &format!("item-{}", lustre.fid(&paths[30])), libc::EPERM, None).unwrap();
    lustre.run(&["archive"], &[&lustre.path("t")]).refused(1, &["Operation not permitted"]);
    let mut asked: Vec<_> = lustre.requests().iter().map(|request| request.fid.to_string()).collect();
    assert_eq!(asked.len(), 49);
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), 49);
}

#[test]
fn a_file_is_restored_and_removed_from_its_own_archive_alone() {
    let lustre = Lustre::new();
    let path = lustre.file("f", b"content");
    let _agent = lustre.agent();
    lustre.ok(&["archive", "--wait", "-i", "7"], &[&path]);
    lustre.run(&["remove", "-i", "2"], &[&path]).refused(1, &["f: it is in archive 7, not in 2"]);
    lustre.ok(&["release"], &[&path]);
    lustre.run(&["restore", "-i", "2"], &[&path]).refused(1, &["f: it is in archive 7, not in 2"]);
    lustre.run(&["archive", "--force"], &[&path]).refused(1, &["f: it is released"]);
    lustre.ok(&["restore", "--wait", "-i", "7"], &[&path]);
    lustre.ok(&["remove", "--wait", "-i", "7"], &[&path]);
}

#[test]
fn a_name_that_another_file_takes_meanwhile_is_not_followed() {
    let lustre = Lustre::new();
    let paths: Vec<_> = (0..2).map(|i| lustre.file(&format!("t/f{i}"), b"content")).collect();
    let target = lustre.file("target", b"a stranger's");
    let mut command = lustre.command();
    // The names come slowly: a batch is sent when all are there.
    command.args(["set", "-f", "norelease", "-0"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut names = child.stdin.take().unwrap();
    names.write_all(format!("{}\0", paths[0].display()).as_bytes()).unwrap();
    // The first was looked at as soon as it has a FID.
    testkit::wait_until(crate::support::LONG, "the first name was read", || {
        sys::xattr::get(File::open(&paths[0]).unwrap(), "trusted.standin.fid").unwrap().is_some()
    });
    fs::rename(&paths[0], lustre.path("t/moved")).unwrap();
    std::os::unix::fs::symlink(&target, &paths[0]).unwrap();
    names.write_all(format!("{}\0", paths[1].display()).as_bytes()).unwrap();
    drop(names);
    let said = Said::of(child.wait_with_output().unwrap());
    assert!(said.code == 0 && said.out.starts_with("2 files set"), "{said:?}");
    let flags = |path: &Path| state(&lustre.library, path).unwrap().flags;
    assert_eq!(flags(&target), HsmFlags::empty());
    assert_eq!(flags(&lustre.path("t/moved")), HsmFlags::NORELEASE);
}

#[test]
fn without_an_agent_requests_wait_and_can_be_cancelled() {
    let lustre = Lustre::new();
    let [waiting, idle] = ["waiting", "idle"].map(|name| lustre.file(name, &[7; 3 << 20]));
    assert_eq!(lustre.ok(&["archive"], &[&waiting]), "archive of 1 files accepted\n");
    let found = json(&lustre.ok(&["status", "--json"], &[&waiting]));
    assert_eq!((&found["action"]["command"], &found["action"]["state"]), (&"archive".into(), &"waiting".into()));
    assert_eq!(found["fid"], lustre.fid(&waiting).to_string());
    assert_eq!(lustre.ok(&["cancel"], &[&waiting, &idle]), "1 actions cancelled, 1 had none\n");
    wait_for(&lustre, |requests| requests.iter().any(|request| request.status == Status::Canceled));
    assert_eq!(json(&lustre.ok(&["status", "--json"], &[&waiting]))["action"], Value::Null);
}

/// The MDT looks through all it remembers for each answer to what is under way.
#[test]
fn many_cancels_are_asked_for_without_asking_what_there_is() {
    let lustre = Lustre::new();
    let paths: Vec<_> = (0..120).map(|i| lustre.file(&format!("t/f{i}"), b"content")).collect();
    lustre.ok(&["archive"], &[&paths[0], &paths[1]]);
    control::fail(&lustre.root, "llapi_hsm_current_action", libc::EIO, None).unwrap();
    let totals = json(&lustre.ok(&["cancel", "--json"], &[&lustre.path("t")]));
    assert_eq!((&totals["cancelled"], &totals["not_found"], &totals["asked"]), (&0.into(), &0.into(), &120.into()));
    wait_for(&lustre, |requests| requests.iter().filter(|request| request.status == Status::Canceled).count() == 2);
    let text = lustre.ok(&["cancel"], &[&lustre.path("t")]);
    assert!(text.starts_with("0 actions cancelled, 0 had none; 120 more files were asked for"), "{text}");
}

#[test]
fn progress_is_shown_and_failures_are_told() {
    let lustre = Lustre::new();
    let [good, bad] = ["good", "bad"].map(|name| lustre.file(name, &[7; 3 << 20]));
    let agent = lustre.agent();
    lustre.ok(&["archive", "--wait"], &[&good]);
    lustre.ok(&["release"], &[&good]);
    drop(agent);
    lustre.ok(&["restore"], &[&good]);
    let mut copytool = sys::lustre::Copytool::register(&lustre.library, &lustre.fs.path(), &[1]).unwrap();
    let item = loop {
        control::take_turn(&lustre.root).unwrap();
        if let Some(list) = copytool.recv().unwrap() {
            break list.items[0].clone();
        }
    };
    let begin = sys::lustre::CopyAction::begin(&copytool.handle(), &item, sys::lustre::Begin::default());
    let mut action = begin.unwrap();
    action.progress(Extent { offset: 0, length: 1 << 20 }, 3 << 20, sys::lustre::ProgressFlags::default()).unwrap();
    let line = lustre.ok(&["status", "-a", "-p"], &[&good]);
    assert_eq!(line, format!("{} 1 released [restore:running](1.0 MiB/3.0 MiB)\n", good.display()));
    action.end(Extent::WHOLE, sys::lustre::ProgressFlags::default(), libc::EIO).unwrap();
    drop(copytool);
    let _agent = lustre.agent_that(|_| libc::EIO);
    let said = lustre.run(&["archive", "--wait", "--json"], &[&bad]).refused(1, &["bad: it failed"]);
    let totals = json(&said.out);
    assert_eq!((&totals["status"]["failed"], &totals["failures"][0]["command"]), (&1.into(), &"archive".into()));
}

#[test]
fn fids_are_files_too() {
    let lustre = Lustre::new();
    let paths = [lustre.file("d/one", b"1"), lustre.file("d/two", b"2")];
    let names = fids(&lustre, &paths);
    let top = lustre.fs.path();
    let mount = top.to_str().unwrap();
    let agent = lustre.agent();
    let out = lustre.ok(&["archive", "--wait", "--fs", mount, &names[0], &names[1]], &[]);
    assert!(out.contains("done: 2 succeeded"), "{out}");
    assert_eq!(agent.served()[0].fid().to_string(), names[0]);
    let text = lustre.ok(&["status", "--fs", mount, &names[0]], &[]);
    assert_eq!(text, format!("{} 1 archived -\n", paths[0].display()));
    let directory = lustre.fid(&lustre.path("d")).to_string();
    assert_eq!(lustre.ok(&["status", "--fs", mount, &directory], &[]).lines().count(), 2);
    // On standard input, and the filesystem by the environment.
    let mut command = lustre.command();
    command.args(["release", "-0"]).env("SIFAKA_FS", lustre.path("d")).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{}\0", names[0]).as_bytes()).unwrap();
    let said = Said::of(child.wait_with_output().unwrap());
    assert!(said.code == 0 && said.out.starts_with("1 files released"), "{said:?}");
    // What is wrong with a FID.
    lustre.run(&["status", &names[0]], &[]).refused(1, &["--fs"]);
    let local = lustre.scratch.path().to_str().unwrap();
    lustre.run(&["status", "--fs", local, &names[0]], &[]).refused(1, &["is not on Lustre"]);
    let gone = Fid { seq: 0x2_0000_0401, oid: 0xfff_ffff, ver: 0 }.to_string();
    for command in ["archive", "release", "restore", "status"] {
        let said = lustre.run(&[command, "--fs", mount, &gone, &names[1]], &[]).refused(1, &[&gone]);
        assert_eq!(said.err.lines().count(), 1, "the other file is as good as before: {said:?}");
    }
    for bad in ["[0x1:0x2]", "[0x200000401:0x1:0x0", "[0x1:0x1ffffffff:0x0]"] {
        lustre.run(&["status", "--fs", mount, bad], &[]).refused(1, &["No such file"]);
    }
    // The archive may hold what the filesystem does not have any more.
    lustre.run(&["remove", "--fs", mount, &gone], &[]).refused(1, &["say with --id from which archive"]);
    lustre.ok(&["remove", "-i", "1", "--fs", mount, "--data", "object-7", &gone], &[]);
    wait_for(&lustre, |requests| requests.iter().all(|request| !request.is_open()));
    let removed = agent.served().into_iter().find(|item| item.action() == Action::Remove).unwrap();
    assert_eq!((removed.fid().to_string(), removed.data()), (gone, &b"object-7"[..]));
}

#[test]
fn clones_and_stripes_are_for_fids_too() {
    let lustre = Lustre::new();
    control::set_ost(&lustre.root, 0, 1 << 30, 0).unwrap();
    let path = lustre.file("d/f", b"content");
    let (fid, into) = (lustre.fid(&path).to_string(), lustre.path("into"));
    fs::create_dir(&into).unwrap();
    let _agent = lustre.agent();
    lustre.ok(&["archive", "--wait"], &[&path]);
    let mount = lustre.fs.path();
    let words = |command| vec![command, "--fs", mount.to_str().unwrap()];
    lustre.ok(&[words("clone"), vec![&fid]].concat(), &[&into]);
    assert_eq!(lustre.status(&[&into.join("f")]), ["1 released -"]);
    let restripe = ["--stripe_count", "1", &fid];
    lustre.ok(&[words("restripe"), restripe.to_vec()].concat(), &[]);
    lustre.run(&[&["restripe"], &restripe[..]].concat(), &[]).refused(1, &[&fid, "--fs"]);
    let gone = "[0x200000401:0xfffffff:0x0]";
    lustre.run(&[words("clone"), vec![gone]].concat(), &[&into]).refused(1, &[gone, "no path leads"]);
}

#[test]
fn an_interrupted_wait_cancels_nothing() {
    let lustre = Lustre::new();
    let path = lustre.file("f", b"content");
    let mut command = lustre.command();
    command.args(["archive", "--wait"]).arg(&path).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for(&lustre, |requests| !requests.is_empty());
    sys::process::PidFd::open(i32::try_from(child.id()).unwrap()).unwrap().kill(libc::SIGINT).unwrap();
    Said::of(child.wait_with_output().unwrap()).refused(130, &["interrupted"]);
    assert!(lustre.requests()[0].is_open());
}

#[test]
fn files_that_vanish_are_told() {
    let lustre = Lustre::new();
    let path = lustre.file("f", b"content");
    let gone = path.clone();
    let _agent = lustre.agent_that(move |_| {
        let _ = fs::remove_file(&gone);
        libc::EIO
    });
    lustre.run(&["archive", "--wait"], &[&path]).refused(1, &["the file is gone"]);
}

#[test]
fn what_goes_with_a_request_reaches_the_agent() {
    let lustre = Lustre::new();
    let path = lustre.file("f", b"content");
    let agent = lustre.agent();
    lustre.ok(&["archive", "--wait", "-i", "7", "--data", "tape=7"], &[&path]);
    lustre.ok(&["archive", "--wait", "--force"], &[&path]);
    assert_eq!(agent.served().len(), 2);
    assert_eq!(agent.served()[0].data(), b"tape=7");
    let requests = lustre.requests();
    assert_eq!(requests.iter().map(|request| (request.archive, request.flags)).collect::<Vec<_>>(), [(7, 0), (7, 1)]);
    let dry = lustre.ok(&["release", "--dry-run"], &[&path]);
    assert_eq!(dry, format!("would release {}\n", path.display()));
    assert_eq!(lustre.status(&[&path]), ["7 archived -"]);
}

#[test]
fn flags_and_the_archive_are_set() {
    let lustre = Lustre::new();
    let path = lustre.file("f", b"content");
    let set = |words: &[&str]| lustre.ok(words, &[&path]);
    set(&["set", "-f", "exists", "-f", "archived", "-f", "lost", "-i", "3"]);
    assert_eq!(lustre.ok(&["status", "-H", "-l"], &[&path]), "3 exists,archived,lost -\n");
    assert_eq!(set(&["set", "-F", "lost", "-F", "archived"]), "1 files set, 0 refused\n");
    assert_eq!(lustre.status(&[&path]), ["3 unarchived -"]);
    control::fail(&lustre.root, "llapi_hsm_state_set", libc::EACCES, Some(1)).unwrap();
    lustre.run(&["set", "-f", "dirty"], &[&path]).refused(1, &["f: Permission denied"]);
    // The MDT says that it has done it, and has not.
    let nowhere = lustre.file("nowhere", b"content");
    lustre.run(&["set", "-i", "3", "-f", "norelease"], &[&nowhere]).refused(1, &["nowhere: it is in no archive"]);
    assert_eq!(lustre.status(&[&nowhere]), ["- - -"]);
}

/// Imports a file `watched` into the directory, and counts what was set on it under that name.
fn attributes_set_at(directory: &Path, lustre: &Lustre, words: &[&str]) -> usize {
    use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
    let watch = init(CreateFlags::NONBLOCK).unwrap();
    add_watch(&watch, directory, WatchFlags::ATTRIB | WatchFlags::CREATE).unwrap();
    lustre.ok(words, &[&directory.join("watched")]);
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut events = Reader::new(&watch, &mut buffer);
    let (mut made, mut set) = (0, 0);
    while let Ok(event) = events.next() {
        if event.file_name().is_some_and(|name| name.to_bytes() == b"watched") {
            made += usize::from(event.events().contains(rustix::fs::inotify::ReadFlags::CREATE));
            set += usize::from(event.events().contains(rustix::fs::inotify::ReadFlags::ATTRIB));
        }
    }
    assert_eq!(made, 1);
    set
}

#[test]
fn import_and_clone_make_released_files() {
    let lustre = Lustre::new();
    let path = lustre.path("imported");
    let words = ["import", "-i", "2", "--uuid", "object-1", "--hash", "00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff"];
    let more =
        ["--no-check", "--size", "5000", "--uid", "12", "--gid", "34", "--mode", "640", "--mtime", "1500000000.5"];
    let striping = ["--stripe_count", "-1", "--stripe_size", "1048576", "--pool", "fast"];
    let words = [&words[..], &more, &striping].concat();
    lustre.ok(&words, &[&path]);
    assert_eq!(lustre.status(&[&path]), ["2 released -"]);
    let found = json(&lustre.ok(&["status", "--json"], &[&path]));
    assert_eq!((&found["uuid"], &found["size"]), (&"object-1".into(), &5000.into()));
    assert_eq!(found["hash"], "00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff");
    let described = |path: &Path| {
        let made = fs::metadata(path).unwrap();
        (made.uid(), made.gid(), made.mode() & 0o7777, made.size(), made.mtime())
    };
    assert_eq!(described(&path), (12, 34, 0o640, 5000, 1_500_000_000));
    lustre.run(&words, &[&path]).refused(1, &["exists"]);
    assert_eq!(attributes_set_at(lustre.fs.path().as_ref(), &lustre, &words), 0, "it is whole when it gets its name");
    // A file that names no object would never come back.
    control::fail(&lustre.root, "llapi_hsm_import", libc::ENOSPC, Some(1)).unwrap();
    lustre.run(&words, &[&lustre.path("full")]).refused(1, &["No space left"]);
    assert!(!lustre.path("full").exists());
    let left = fs::read_dir(lustre.fs.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().as_encoded_bytes().starts_with(b".new-"));
    assert_eq!(left.count(), 0);

    let clone = lustre.path("clone");
    assert_eq!(lustre.ok(&["clone"], &[&path, &clone]), "1 files cloned, 0 refused\n");
    assert_eq!(described(&clone), described(&path));
    assert_eq!(lustre.status(&[&clone]), ["2 released -"]);
    assert_eq!(json(&lustre.ok(&["status", "--json"], &[&clone]))["uuid"], "object-1");
    assert_ne!(lustre.fid(&clone), lustre.fid(&path));
    lustre.run(&["clone"], &[&path, &clone]).refused(1, &["clone", "File exists"]);
    let plain = lustre.file("plain", b"content");
    lustre.run(&["clone"], &[&plain, &lustre.path("c2")]).refused(1, &["not archived as it is"]);
    let marked = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED);
    state_set(&lustre.library, &plain, marked, HsmFlags::empty(), 1).unwrap();
    lustre.run(&["clone"], &[&plain, &lustre.path("c2")]).refused(1, &["names no object"]);
    lustre.run(&["clone"], &[&path, &lustre.scratch.join("c2")]).refused(1, &["another filesystem"]);
    assert!(!lustre.path("c2").exists() && !lustre.scratch.join("c2").exists());
}

#[test]
fn a_clone_has_the_layout_that_was_kept_and_comes_back_with_the_content() {
    let lustre = Lustre::new();
    let [path, clone] = [lustre.file("f", b"content"), lustre.path("tree/f")];
    let _agent = lustre.agent();
    lustre.ok(&["archive", "--wait"], &[&path]);
    sys::xattr::set(File::open(&path).unwrap(), "trusted.sifaka_lov", b"a layout").unwrap();
    fs::create_dir(lustre.path("tree")).unwrap();
    lustre.ok(&["clone"], &[&path, &lustre.path("tree")]);
    let kept = sys::xattr::get(File::open(&clone).unwrap(), "trusted.sifaka_lov").unwrap();
    assert_eq!(kept.as_deref(), Some(&b"a layout"[..]));
    lustre.ok(&["restore", "--wait"], &[&clone]);
    assert_eq!(fs::read(&clone).unwrap(), b"content");
    assert!(!state(&lustre.library, &path).unwrap().flags.contains(HsmFlags::RELEASED));
    let id = sys::xattr::get(File::open(&clone).unwrap(), xattr::UUID).unwrap();
    assert_eq!(id, sys::xattr::get(File::open(&path).unwrap(), xattr::UUID).unwrap());
    // The agent is told that it must not remove what both name.
    for file in [&path, &clone] {
        assert_eq!(sys::xattr::get(File::open(file).unwrap(), xattr::SHARED).unwrap(), id, "{}", file.display());
    }
}

fn stripes(lustre: &Lustre, path: &Path) -> sys::lustre::Component {
    let mut layout = sys::lustre::Layout::of(&lustre.library, File::open(path).unwrap()).unwrap();
    layout.components().unwrap().remove(0)
}

#[test]
fn a_file_gets_other_stripes_and_is_archived_again() {
    let lustre = Lustre::new();
    for index in 0..4 {
        control::set_ost(&lustre.root, index, 1 << 30, 0).unwrap();
    }
    control::set_pool(&lustre.root, "fast", &[2, 3]).unwrap();
    let mut content = noise(1, 6 << 20);
    let [plain, archived, released] = ["plain", "archived", "released"].map(|name| lustre.file(name, &content));
    // With a hole, and owned by somebody.
    content.extend(vec![0; 3 << 20]);
    fs::OpenOptions::new().write(true).open(&archived).unwrap().set_len(content.len() as u64).unwrap();
    std::os::unix::fs::chown(&archived, Some(12), Some(34)).unwrap();
    let agent = lustre.agent();
    lustre.ok(&["archive", "--wait"], &[&archived, &released]);
    lustre.ok(&["release"], &[&released]);
    let before = (fs::metadata(&archived).unwrap(), lustre.fid(&archived));
    let words = ["restripe", "--stripe_count", "2", "--pool", "fast"];
    let said = lustre.run(&words, &[&plain, &archived, &released]).refused(1, &["released: it is released"]);
    assert_eq!(said.out, "2 files restriped, 1 refused\n");
    for path in [&plain, &archived] {
        let now = stripes(&lustre, path);
        assert_eq!((now.pool.as_str(), now.osts.len()), ("fast", 2), "{now:?}");
    }
    assert!(fs::read(&archived).unwrap() == content);
    let after = (fs::metadata(&archived).unwrap(), lustre.fid(&archived));
    let told = |found: &fs::Metadata| (found.uid(), found.gid(), found.mtime(), found.mtime_nsec(), found.ino());
    assert_eq!((told(&after.0), after.1), (told(&before.0), before.1));
    // It was asked for again, so that it can be released.
    wait_for(&lustre, |requests| requests.iter().all(|request| !request.is_open()));
    assert_eq!(agent.served().len(), 3);
    lustre.ok(&["release"], &[&archived]);
    lustre.ok(&["restripe", "--stripe_size", "2097152"], &[&plain]);
    let now = stripes(&lustre, &plain);
    assert_eq!((now.stripe_size, now.pool.as_str(), now.osts.len()), (2 << 20, "fast", 2));
    let wide = lustre.file("wide", b"content");
    lustre.ok(&["restripe", "--stripe-count", "-1", "--stripe-size", "65536"], &[&wide]);
    assert_eq!(stripes(&lustre, &wide).osts.len(), 4, "all there are");
    for count in ["0", "-2", "2001", "x"] {
        lustre.run(&["restripe", "--stripe-count", count], &[&wide]).refused(2, &["or -1 for all OSTs"]);
    }
}

#[test]
fn a_file_that_cannot_be_restriped_is_as_it_was() {
    let lustre = Lustre::new();
    control::set_ost(&lustre.root, 0, 1 << 30, 0).unwrap();
    let path = lustre.file("f", b"content");
    let words = ["restripe", "--stripe_count", "1"];
    for (function, errno) in [
        ("llapi_layout_file_open", libc::ENOSPC),
        ("llapi_lease_acquire", libc::EBUSY),
        ("llapi_lease_check", libc::EIO),
        ("llapi_fswap_layouts", libc::EAGAIN),
        ("llapi_get_data_version", libc::EIO),
    ] {
        control::fail(&lustre.root, function, errno, Some(1)).unwrap();
        lustre.run(&words, &[&path]).refused(1, &["f: "]);
        assert_eq!(fs::read(&path).unwrap(), b"content", "{function}");
    }
    lustre.run(&["restripe", "--pool", "none"], &[&path]).refused(1, &["f: "]);
    lustre.run(&words, &[&lustre.scratch.join("f")]).refused(1, &["not on Lustre"]);
    lustre.run(&words, &[&lustre.path("absent")]).refused(1, &["No such file"]);
    lustre.run(&["restripe"], &[&path]).refused(2, &["nothing to change"]);
    lustre.run(&["restripe", "--stripe_size", "1000"], &[&path]).refused(2, &["65536"]);
    // Nothing is left behind.
    let names = fs::read_dir(lustre.fs.path()).unwrap().count();
    assert_eq!(names, 3, "lost+found, the stand-in's directory, and the file");
    lustre.ok(&words, &[&path]);
}

#[test]
fn a_file_that_is_written_keeps_its_layout_and_what_was_written() {
    let lustre = Lustre::new();
    for index in 0..2 {
        control::set_ost(&lustre.root, index, 1 << 30, 0).unwrap();
    }
    let path = lustre.file("f", &noise(1, 8 << 20));
    let osts = stripes(&lustre, &path).osts;
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let file = File::options().write(true).open(&path).unwrap();
            let mut count = 0_u64;
            while !stop.load(Ordering::SeqCst) {
                count += 1;
                file.write_all_at(&count.to_le_bytes(), 0).unwrap();
            }
            count
        });
        let stopping = StopWhenDropped(&stop);
        lustre.run(&["restripe", "--stripe_count", "2"], &[&path]).refused(1, &["being written to"]);
        drop(stopping);
        writer.join().unwrap()
    });
    assert_eq!(fs::read(&path).unwrap()[..8], written.to_le_bytes());
    assert_eq!(stripes(&lustre, &path).osts, osts);
}

#[test]
fn lemur_s_command_does_it_too() {
    let lustre = Lustre::new();
    let path = lustre.file("f", b"content");
    let link = lustre.scratch.join("lhsm");
    std::os::unix::fs::symlink(testkit::sifaka_binary(), &link).unwrap();
    let lhsm = |words: &[&str], path: &Path| {
        let said = Said::of(lustre.command_of(&link).args(words).arg(path).output().unwrap());
        assert_eq!(said.code, 0, "{words:?}: {said:?}");
        said.out
    };
    let _agent = lustre.agent();
    assert_eq!(lhsm(&["archive", "-i", "1"], &path), "");
    wait_for(&lustre, |requests| requests.iter().all(|request| request.status == Status::Succeeded));
    assert_eq!(lhsm(&["status"], &path), format!("{} 1 archived -\n", path.display()));
    assert_eq!(lhsm(&["release"], &path), "");
    assert_eq!(lhsm(&["status", "-H"], &path), "1 released -\n");
    let made = lustre.path("made");
    assert_eq!(lhsm(&["restore"], &path), "");
    wait_for(&lustre, |requests| requests.iter().all(|request| request.status == Status::Succeeded));
    assert_eq!(lhsm(&["clone", path.to_str().unwrap()], &made), "");
    assert_eq!(lhsm(&["status", "-H"], &made), "1 released -\n");
    let imported = lustre.path("imported");
    assert_eq!(lhsm(&["import", "-i", "4", "-uuid", "elsewhere", "-size", "5"], &imported), "");
    assert_eq!(lhsm(&["status", "-H"], &imported), "4 released -\n");
}

#[test]
fn files_of_both_kinds_go_where_they_belong() {
    let lustre = Lustre::new();
    let hsm = Hsm::start(FsKind::Ext4);
    let (there, here, other) =
        (lustre.file("f", b"on Lustre"), hsm.file("f", b"local"), lustre.file("g", b"there, too"));
    let agent = lustre.agent();
    let run = |words: &[&str]| {
        let mut command = lustre.command();
        command.env("SIFAKA_SOCKET", hsm.site.admin_socket()).args(words).args([&there, &here, &other]);
        let said = Said::of(command.output().unwrap());
        assert_eq!(said.code, 0, "{words:?}: {said:?}");
        said.out
    };
    let totals = json(&run(&["archive", "--wait", "--json"]));
    assert_eq!((&totals["accepted"], &totals["on_lustre"]), (&3.into(), &2.into()));
    // The local file's directory is recorded, too.
    assert_eq!(totals["status"]["total"], totals["status"]["succeeded"]);
    assert_eq!(agent.served().len(), 2);
    assert!(hsm_state(&here).is_clean_copy());
    let states = run(&["status"]);
    let names: Vec<_> = states.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, [&there, &here, &other].map(|path| path.to_str().unwrap()));
    assert!(states.lines().all(|line| line.contains(" 1 archived")), "{states}");
    run(&["release"]);
    assert!(is_released(&here));
    assert_eq!(lustre.status(&[&there]), ["1 released -"]);
}

#[test]
fn what_has_no_meaning_on_lustre_says_so() {
    let lustre = Lustre::new();
    let path = lustre.file("f", b"content");
    let top = lustre.fs.path();
    for (words, path) in [
        (&["versions"][..], &path),
        (&["undelete"], &lustre.path("gone")),
        (&["undelete", "--list"], &top),
        (&["import", "--tree", "/"], &top),
        (&["import", "s3://bucket/prefix"], &top),
        (&["rebuild"], &top),
    ] {
        lustre.run(words, &[path]).refused(5, &["is on Lustre", words[0]]);
    }
    assert_eq!(fs::read_dir(&top).unwrap().count(), 3, "lost+found, the stand-in's directory, and the file");
}
