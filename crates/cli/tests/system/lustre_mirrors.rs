//! `sifaka mirror`: the program loads a liblustreapi that behaves as Lustre's.

use crate::lustre_site::{Lustre, Said};
use crate::support::{LONG, noise};
use lustre_standin::control;
use nix::libc;
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use sys::lustre::{Changelog, Layout};
use testkit::wait_until;

const MIB: usize = 1 << 20;

/// OSTs 0 to 2; pools `slow` of the first, `fast` of the others.
pub(crate) fn with_osts() -> Lustre {
    let lustre = Lustre::new();
    for index in 0..3 {
        control::set_ost(&lustre.root, index, 1 << 30, 0).unwrap();
    }
    control::set_pool(&lustre.root, "slow", &[0]).unwrap();
    control::set_pool(&lustre.root, "fast", &[1, 2]).unwrap();
    lustre
}

pub(crate) fn file_on(lustre: &Lustre, name: &str, ost: u32, content: &[u8]) -> PathBuf {
    let path = lustre.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut layout = Layout::new(&lustre.library).unwrap();
    layout.set_stripe_count(1).unwrap();
    layout.set_ost(0, ost).unwrap();
    layout.create(&path, 0o644).unwrap().write_all(content).unwrap();
    path
}

/// Each mirror's id and first OST, and whether it is stale.
pub(crate) fn mirrors(lustre: &Lustre, path: &Path) -> Vec<(u32, u32, bool)> {
    let mut layout = Layout::of(&lustre.library, File::open(path).unwrap()).unwrap();
    let components = layout.components().unwrap();
    components.iter().map(|component| (component.mirror, component.osts[0], component.stale)).collect()
}

/// The JSON of each file, and of the totals.
pub(crate) fn lines(said: &Said) -> (Vec<Value>, Value) {
    let mut lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let totals = lines.pop().unwrap();
    (lines, totals)
}

/// Waits until the program has copied something into a file without a name.
pub(crate) fn wait_for_copying(child: &Child) {
    let fds = PathBuf::from(format!("/proc/{}/fd", child.id()));
    let is_volatile = |link: &PathBuf| {
        fs::read_link(link).is_ok_and(|to| to.parent().is_some_and(|parent| parent.ends_with(".lustre/fid")))
            && fs::metadata(link).is_ok_and(|found| found.blocks() > 0)
    };
    wait_until(LONG, "something is copied", || {
        fs::read_dir(&fds).into_iter().flatten().flatten().any(|entry| is_volatile(&entry.path()))
    });
}

#[test]
fn a_tree_gets_mirrors_which_are_resynced_verified_and_removed() {
    let lustre = with_osts();
    let files: Vec<_> =
        (0..40).map(|i| file_on(&lustre, &format!("t/d{}/f{i}", i % 3), 0, &noise(i, 3000 * i as usize))).collect();
    let top = lustre.path("t");
    let dry = lustre.ok(&["mirror", "extend", "--pool", "fast", "--dry-run"], &[&top]);
    assert!(dry.contains("would extend") && dry.ends_with("40 files would be extended (2.2 MiB)\n"), "{dry}");
    assert_eq!(mirrors(&lustre, &files[1]).len(), 1);
    let said = lustre.ok(&["mirror", "extend", "-p", "fast", "-c", "2", "-S", "128KiB", "-j", "3"], &[&top]);
    assert_eq!(said, "40 files extended (2.2 MiB)\n");
    let again = lustre.ok(&["mirror", "extend", "--pool", "fast"], &[&top]);
    assert_eq!(again, "0 files extended (0 B)\n40 had nothing to be done\n");
    fs::write(&files[7], "changed").unwrap();
    let said = lustre.run(&["mirror", "extend", "--pool", "fast"], &[&top]);
    said.refused(1, &["f7: has a mirror there, which is stale: resync it"]);
    let said = lustre.run(&["mirror", "resync", "--json"], &[&top]);
    let (each, totals) = lines(&said);
    assert_eq!((said.code, each.len(), &totals["done"], &totals["already"]), (0, 40, &1.into(), &39.into()));
    let resynced = each.iter().find(|line| line["result"] == "resynced").unwrap();
    assert!(resynced["path"].as_str().unwrap().ends_with("f7") && resynced["bytes"] == 7, "{resynced}");
    assert!(lustre.ok(&["mirror", "verify"], &[&top]).starts_with("40 files verified"));
    // A mirror that was changed behind Lustre's back.
    let fid = lustre.fid(&files[30]);
    let shadow = lustre.path(&format!(".lustre/standin/mirrors/{fid}.2"));
    OpenOptions::new().write(true).open(shadow).unwrap().write_all_at(b"\0\0\0", 70_000).unwrap();
    let said =
        lustre.run(&["mirror", "verify"], &[&top]).refused(6, &["f30: mirrors 1 and 2 differ, first at byte 70000"]);
    assert!(said.out.contains("39 files verified") && said.out.contains("1 have mirrors that differ"), "{said:?}");
    let said = lustre.ok(&["mirror", "split", "--pool", "fast"], &[&top]);
    assert_eq!(said, "40 files split\n");
    for (i, path) in files.iter().enumerate().filter(|(i, _)| *i != 7) {
        assert_eq!(mirrors(&lustre, path), [(1, 0, false)]);
        assert_eq!(fs::read(path).unwrap(), noise(i as u64, 3000 * i), "{i}");
    }
}

#[test]
fn what_cannot_be_worked_on_is_told() {
    let lustre = with_osts();
    let path = file_on(&lustre, "f", 0, b"content");
    lustre.run(&["mirror", "extend", "-p", "none"], &[&path]).refused(1, &["has no pool none"]);
    lustre.run(&["mirror", "extend"], &[&path]).refused(2, &["--pool"]);
    lustre.run(&["mirror", "extend", "-o", "1,1"], &[&path]).refused(2, &["names OST 1 twice"]);
    lustre.run(&["mirror", "extend", "-o", "9"], &[&path]).refused(1, &["f: Invalid argument"]);
    lustre.run(&["mirror", "extend", "-S", "100", "-p", "fast"], &[&path]).refused(2, &["multiple of 64KiB"]);
    lustre.run(&["mirror", "resync"], &[]).refused(2, &["no files are named"]);
    lustre.run(&["mirror", "verify"], &[&lustre.path("absent")]).refused(1, &["absent"]);
    let local = lustre.scratch.join("local");
    fs::write(&local, "x").unwrap();
    lustre.run(&["mirror", "verify"], &[&local]).refused(1, &["local: is not on Lustre"]);
    assert!(lustre.ok(&["mirror", "split", "-m", "1"], &[&path]).contains("1 had nothing to be done"));
    lustre.ok(&["mirror", "extend", "-o", "2"], &[&path]);
    let fid = PathBuf::from(lustre.fid(&path).to_string());
    assert_eq!(
        lustre.ok(&["mirror", "split", "-m", "1", "--fs", lustre.path("").to_str().unwrap()], &[&fid]),
        "1 files split\n"
    );
    assert_eq!(mirrors(&lustre, &path), [(2, 2, false)]);
    lustre.run(&["mirror", "split", "-m", "2"], &[&path]).refused(1, &["has one mirror only, which stays"]);
    // Without the library.
    let said =
        Said::of(lustre.command().env("LD_LIBRARY_PATH", "").args(["mirror", "verify"]).arg(&path).output().unwrap());
    said.refused(5, &["liblustreapi.so.1"]);
}

#[test]
fn p9_a_command_that_is_killed_leaves_files_as_they_were() {
    let lustre = with_osts();
    let content = noise(3, 6 * MIB);
    let path = file_on(&lustre, "f", 0, &content);
    let start = |words: &[&str]| {
        let mut command = lustre.command();
        command.args(["mirror"]).args(words).args(["-b", "1MB/s"]).arg(&path);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let end = |mut child: Child| {
        child.kill().unwrap();
        child.wait().unwrap();
    };
    let child = start(&["extend", "-p", "fast"]);
    wait_for_copying(&child);
    end(child);
    assert_eq!(mirrors(&lustre, &path).len(), 1);
    assert_eq!(fs::read(&path).unwrap(), content);
    lustre.ok(&["mirror", "extend", "-p", "fast"], &[&path]);
    let content = noise(4, 40 * MIB / 2);
    fs::write(&path, &content).unwrap();
    let fid = lustre.fid(&path);
    let shadow = lustre.path(&format!(".lustre/standin/mirrors/{fid}.2"));
    let before = fs::metadata(&shadow).unwrap().mtime_nsec();
    let child = start(&["resync"]);
    wait_until(LONG, "the mirror is written", || fs::metadata(&shadow).unwrap().mtime_nsec() != before);
    end(child);
    assert!(mirrors(&lustre, &path)[1].2, "still stale");
    assert_eq!(fs::read(&path).unwrap(), content);
    lustre.ok(&["mirror", "resync"], &[&path]);
    assert!(lustre.ok(&["mirror", "verify"], &[&path]).starts_with("1 files verified"));
    let left: Vec<_> = fs::read_dir(lustre.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "f" || name == ".lustre" || name == "lost+found"), "{left:?}");
}

#[test]
fn p9_a_file_that_is_written_meanwhile_is_left_as_it_was() {
    let lustre = with_osts();
    let path = file_on(&lustre, "f", 0, &noise(5, 4 * MIB));
    let mut command = lustre.command();
    command.args(["mirror", "extend", "-o", "1", "-b", "900KB/s", "--tries", "1", "--json"]).arg(&path);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_copying(&child);
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"new", 1).unwrap();
    let said = Said::of(child.wait_with_output().unwrap());
    let (each, totals) = lines(&said);
    assert_eq!((said.code, &each[0]["result"], &totals["busy"]), (1, &"busy".into(), &1.into()), "{said:?}");
    assert_eq!(mirrors(&lustre, &path), [(0, 0, false)]);
    // It is tried again, and told.
    control::fail(&lustre.root, "llapi_lease_acquire", libc::EBUSY, Some(2)).unwrap();
    assert!(lustre.ok(&["mirror", "extend", "-o", "1"], &[&path]).starts_with("1 files extended"));
    control::fail(&lustre.root, "llapi_lease_acquire", libc::EBUSY, None).unwrap();
    lustre
        .run(&["mirror", "verify"], &[&path])
        .refused(1, &["f: was in use or written at each of 3 tries; it is as it was"]);
}

#[test]
fn p9_a_full_ost_leaves_the_file_as_it_was() {
    let lustre = with_osts();
    let content = noise(6, 36 * MIB);
    let path = file_on(&lustre, "f", 0, &content);
    control::fail(&lustre.root, "llapi_layout_file_open", libc::ENOSPC, None).unwrap();
    lustre.run(&["mirror", "extend", "-o", "1"], &[&path]).refused(1, &["No space left on device"]);
    control::heal(&lustre.root, "llapi_layout_file_open").unwrap();
    // The whole filesystem has 64 MiB.
    lustre.run(&["mirror", "extend", "-o", "1"], &[&path]).refused(1, &["cannot copy", "No space left on device"]);
    assert_eq!(mirrors(&lustre, &path), [(0, 0, false)]);
    assert!(fs::read(&path).unwrap() == content);
}

#[test]
fn what_the_changelog_tells_is_resynced_and_committed_when_it_is_done() {
    const CLOSE: u32 = 11;
    let lustre = with_osts();
    let files: Vec<_> = (0..5).map(|i| file_on(&lustre, &format!("t/f{i}"), 0, b"content")).collect();
    lustre.ok(&["mirror", "extend", "-p", "fast"], &[&files[0], &files[1], &files[2], &files[3]]);
    let user = control::register_changelog_user(&lustre.root).unwrap();
    let mdt = format!("{}-MDT0000", lustre.root.fsname().unwrap());
    let write = |path: &Path| {
        fs::write(path, "changed").unwrap();
        control::log(path, CLOSE, 0).unwrap();
    };
    files.iter().for_each(|path| write(path));
    // On Lustre the second goes with the first.
    for gone in [lustre.path(&format!(".lustre/fid/{}", lustre.fid(&files[3]))), files[3].clone()] {
        fs::remove_file(gone).unwrap();
    }
    let (top, position) = (lustre.path(""), lustre.scratch.join("position"));
    let (top, position) = (top.to_str().unwrap(), position.to_str().unwrap());
    let words = ["mirror", "resync", "--follow", &mdt, "--user", &user, "--fs", top, "--position", position];
    let left = || {
        let mut log = Changelog::start(&lustre.library, &mdt, 0, false).unwrap();
        log.recv().unwrap().map(|record| record.index)
    };
    let said = lustre.ok(&[&words[..], &["--once"]].concat(), &[]);
    assert_eq!(said, "3 files resynced (21 B)\n");
    assert!(files[..3].iter().all(|path| !mirrors(&lustre, path)[1].2), "the fourth is gone, the fifth has no mirrors");
    assert_eq!(left(), None);
    // A file that is in use holds back what is committed, and is done when it is free.
    write(&files[4]);
    write(&files[0]);
    write(&files[1]);
    let reader = File::open(&files[0]).unwrap();
    let mut child = lustre.command().args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until(LONG, "the other file is done", || !mirrors(&lustre, &files[1])[1].2);
    wait_until(LONG, "what is before it is committed", || left() == Some(7));
    assert!(mirrors(&lustre, &files[0])[1].2);
    drop(reader);
    wait_until(LONG, "all is committed", || left().is_none());
    assert!(!mirrors(&lustre, &files[0])[1].2);
    // Killed, and what came meanwhile is done by the next one.
    child.kill().unwrap();
    child.wait().unwrap();
    write(&files[2]);
    assert_eq!(lustre.ok(&[&words[..], &["--once"]].concat(), &[]), "1 files resynced (7 B)\n");
    lustre.run(&words[..4], &[]).refused(2, &["--user"]);
    control::fail(&lustre.root, "llapi_changelog_start", libc::EIO, None).unwrap();
    lustre.run(&[&words[..], &["--once"]].concat(), &[]).refused(5, &["the changelog cannot be read"]);
}

/// A follower of the changelog.
struct Following {
    mdt: String,
    user: String,
    position: PathBuf,
}

impl Following {
    fn new(lustre: &Lustre) -> Self {
        let user = control::register_changelog_user(&lustre.root).unwrap();
        let mdt = format!("{}-MDT0000", lustre.root.fsname().unwrap());
        Self { mdt, user, position: lustre.scratch.join("position") }
    }

    fn words<'a>(&'a self, mdt: &'a str) -> Vec<&'a str> {
        let position = self.position.to_str().unwrap();
        vec!["mirror", "resync", "--follow", mdt, "--user", &self.user, "--position", position]
    }

    fn command(&self, lustre: &Lustre) -> std::process::Command {
        let mut command = lustre.command();
        command.args(self.words(&self.mdt)).arg("--fs").arg(lustre.path(""));
        command
    }

    /// The oldest record that is not cleared.
    fn left(&self, lustre: &Lustre) -> Option<u64> {
        let mut log = Changelog::start(&lustre.library, &self.mdt, 0, false).unwrap();
        log.recv().unwrap().map(|record| record.index)
    }
}

fn write_and_close(path: &Path, content: &str) {
    const CLOSE: u32 = 11;
    fs::write(path, content).unwrap();
    control::log(path, CLOSE, 0).unwrap();
}

#[test]
fn p9_what_cannot_be_reached_is_not_taken_for_gone() {
    let lustre = with_osts();
    let path = file_on(&lustre, "f", 0, b"content");
    lustre.ok(&["mirror", "extend", "-p", "fast"], &[&path]);
    let following = Following::new(&lustre);
    write_and_close(&path, "changed");
    let (fids, away) = (lustre.path(".lustre/fid"), lustre.path(".lustre/away"));
    let top = lustre.path("");
    let top = top.to_str().unwrap();
    // The log of another filesystem.
    lustre
        .run(&[&following.words("other-MDT0000")[..], &["--fs", top]].concat(), &[])
        .refused(5, &["of which other-MDT0000 is no MDT"]);
    fs::rename(&fids, &away).unwrap();
    lustre.run(&[&following.words(&following.mdt)[..], &["--fs", top]].concat(), &[]).refused(5, &["by their FIDs"]);
    fs::rename(&away, &fids).unwrap();
    assert_eq!(following.left(&lustre), Some(1));
    // It goes away in the middle.
    let mut command = following.command(&lustre);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(LONG, "it is done", || following.left(&lustre).is_none());
    control::log(&path, 11, 0).unwrap();
    write_and_close(&path, "again");
    wait_until(LONG, "it is done, too", || following.left(&lustre).is_none());
    let fid = lustre.fid(&path);
    fs::rename(&fids, &away).unwrap();
    let fid = lustre_standin::abi::Fid { seq: fid.seq, oid: fid.oid, ver: fid.ver };
    control::log_fid(&lustre.root, fid, 11).unwrap();
    let mut said = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    let told = said.find_map(|line| Some(line.unwrap()).filter(|line| line.contains("not there any more"))).unwrap();
    assert!(told.contains("files wait until it is"), "{told}");
    assert!(following.left(&lustre).is_some());
    fs::rename(&away, &fids).unwrap();
    wait_until(LONG, "it was tried again", || following.left(&lustre).is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_resync_that_fails_is_tried_again_and_each_file_is_told_when_it_is_done() {
    let lustre = with_osts();
    let path = file_on(&lustre, "f", 0, b"content");
    lustre.ok(&["mirror", "extend", "-p", "fast"], &[&path]);
    let following = Following::new(&lustre);
    control::fail(&lustre.root, "llapi_mirror_read", libc::EIO, Some(1)).unwrap();
    write_and_close(&path, "changed");
    let mut command = following.command(&lustre);
    let mut child = command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The line comes when the file is done, and not when there are many.
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&line["result"], &line["bytes"]), (&"resynced".into(), &7.into()), "{line}");
    wait_until(LONG, "it is committed", || following.left(&lustre).is_none());
    assert!(!mirrors(&lustre, &path)[1].2);
    child.kill().unwrap();
    let said = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&said.stderr).matches("it is tried again").count();
    assert_eq!(told, 1, "{said:?}");
    // Once is once: it is told.
    control::fail(&lustre.root, "llapi_mirror_read", libc::EIO, None).unwrap();
    write_and_close(&path, "more");
    let said = Said::of(following.command(&lustre).arg("--once").output().unwrap());
    said.refused(1, &["cannot read a mirror in sync of", "mnt/f: Input/output error"]);
    assert_eq!(following.left(&lustre), None);
}
