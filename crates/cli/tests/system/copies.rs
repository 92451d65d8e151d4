//! Copies of a file in several archives: made, used when one is bad or out of reach, and gone with the file.

use crate::support::{Hsm, LONG, hsm_state, is_released, kill, noise, uuid_of};
use model::{Copies, HsmFlags, xattr};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use testkit::{FsKind, Scratch, Site, wait_until};

const MIB: usize = 1 << 20;

/// A system with archive 1, and archive 2 in a directory of the test's own.
struct Two {
    hsm: Hsm,
    second: Scratch,
}

impl Two {
    fn start(kind: FsKind, settings: &str) -> Self {
        let second = Scratch::new("second");
        let hsm = Hsm::start_with(kind, 512, |site| {
            site.add_agent_setting(settings);
            site.add_archive_setting("compression = \"off\"");
            site.add_archive("2", 2, second.path(), "compression = \"off\"");
        });
        Self { hsm, second }
    }

    /// Objects in the first archive and in the second.
    fn objects(&self) -> (usize, usize) {
        (self.hsm.objects(), Site::files_of_archive(self.second.path()).len())
    }

    /// The object in archive `id`, which has one.
    fn object(&self, id: u32) -> PathBuf {
        let root = if id == 1 { self.hsm.site.archive_root() } else { self.second.path() };
        let mut files = Site::files_of_archive(root);
        assert_eq!(files.len(), 1, "archive {id} has {files:?}");
        files.remove(0)
    }

    fn wait_for_objects(&self, expected: (usize, usize)) {
        wait_until(LONG, &format!("objects are {expected:?}"), || self.objects() == expected);
    }

    /// How many files an archive request found something to do for.
    fn accepted(&self, options: &[&str], path: &Path) -> u64 {
        let arguments = [&["archive", "--wait", "--json"], options].concat();
        let said: serde_json::Value = serde_json::from_str(&self.hsm.ok(&arguments, &[path])).unwrap();
        assert_eq!(
            (&said["refused"], said["already"].as_u64().unwrap() + said["accepted"].as_u64().unwrap()),
            (&serde_json::json!([]), 1)
        );
        said["accepted"].as_u64().unwrap()
    }

    /// The exit code, and all that was said.
    fn try_fsck(&self, id: u32, repair: bool) -> (Option<i32>, String) {
        let mut command = self.hsm.site.command();
        command.arg("--config").arg(self.hsm.site.agent_config());
        command.args(["fsck", "--json", "--min-age", "0", "--id", &id.to_string()]);
        let out = command.args(repair.then_some("--repair")).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&out.stderr), String::from_utf8_lossy(&out.stdout));
        (out.status.code(), text)
    }

    fn fsck(&self, id: u32, repair: bool, code: i32) -> String {
        let (found, text) = self.try_fsck(id, repair);
        assert_eq!(found, Some(code), "{text}");
        text
    }

    fn status(&self, path: &Path) -> String {
        self.hsm.ok(&["status", "-H"], &[path]).trim().to_owned()
    }
}

const BOTH: &str = "copies = [1, 2]\nremove_grace_s = 0";

/// Turns a bit of the object's content around.
fn damage(object: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(object).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn further_copies(path: &Path) -> Vec<u32> {
    let fd = rustix::fs::open(path, sys::OFlags::PATH, sys::Mode::empty()).unwrap();
    let value = sys::xattr::get(&fd, xattr::COPIES).unwrap();
    let list = value.map(|value| Copies::decode(&value).unwrap()).unwrap_or_default();
    list.of(&uuid_of(path)).iter().map(|copy| copy.archive_id).collect()
}

#[test]
fn p1_p7_copies_are_made_replaced_and_removed_with_their_file() {
    for kind in FsKind::ALL {
        let two = Two::start(kind, BOTH);
        let hsm = &two.hsm;
        let path = hsm.file("f", &noise(1, MIB + 5));
        hsm.archive(&[&path]);
        assert_eq!((two.objects(), hsm_state(&path).archive_id + u64::from(further_copies(&path)[0])), ((1, 1), 3));
        assert!(matches!(two.status(&path).as_str(), "1,2 archived -" | "2,1 archived -"), "{}", two.status(&path));
        assert_eq!(two.accepted(&[], &path), 0, "{kind:?}: nothing is left to do");

        // Content that changed: both of the old objects go.
        let (one, other) = (two.object(1), two.object(2));
        fs::write(&path, noise(2, MIB + 7)).unwrap();
        hsm.archive(&[&path]);
        wait_until(LONG, "the old objects are gone", || !one.exists() && !other.exists());
        assert_eq!(two.objects(), (1, 1), "{kind:?}");
        assert_eq!(fs::read(two.object(1)).unwrap(), noise(2, MIB + 7));
        assert_eq!(fs::read(two.object(2)).unwrap(), noise(2, MIB + 7));

        // Archived anew although it did not change: likewise.
        hsm.ok(&["archive", "--wait", "--force"], &[&path]);
        two.wait_for_objects((1, 1));
        assert_eq!(further_copies(&path).len(), 1, "{kind:?}");

        hsm.ok(&["remove", "--wait"], &[&path]);
        two.wait_for_objects((0, 0));
        assert!(further_copies(&path).is_empty() && uuid_of(&path).is_empty());

        // The last link of a file, released or not.
        assert_eq!(two.accepted(&[], &path), 1, "{kind:?}: a file, and not its actions");
        hsm.release(&[&path]);
        fs::remove_file(&path).unwrap();
        two.wait_for_objects((0, 0));
        hsm.settle();
    }
}

#[test]
fn p5_a_bad_copy_is_made_up_for_by_the_other() {
    for kind in FsKind::ALL {
        let two = Two::start(kind, BOTH);
        let hsm = &two.hsm;
        let content = noise(3, 3 * MIB + 11);
        for bad in [1, 2] {
            let path = hsm.archived_and_released("f", &content);
            damage(&two.object(bad), 2 * MIB as u64);
            assert!(fs::read(&path).unwrap() == content, "{kind:?}: archive {bad} is damaged");
            assert!(!is_released(&path));
            // Still proven: nothing has to be archived or hashed again.
            hsm.release(&[&path]);
            fs::remove_file(two.object(bad)).unwrap();
            hsm.ok(&["restore", "--wait"], &[&path]);
            assert!(fs::read(&path).unwrap() == content, "{kind:?}: archive {bad} has nothing");
            fs::remove_file(&path).unwrap();
            two.wait_for_objects((0, 0));
        }
        // Both: an error, and nothing that is wrong.
        let path = hsm.archived_and_released("f", &content);
        damage(&two.object(1), 5);
        damage(&two.object(2), 5);
        assert_eq!(fs::read(&path).unwrap_err().raw_os_error(), Some(5), "{kind:?}");
        assert!(is_released(&path));
    }
}

#[test]
fn p5_bad_parts_of_a_copy_are_fetched_from_the_other() {
    for kind in FsKind::ALL {
        let two = Two::start(kind, &format!("{BOTH}\nrestore {{ mode = \"range\" threshold = \"1MiB\" }}"));
        let hsm = &two.hsm;
        let content = noise(4, 12 * MIB + 9);
        let path = hsm.archived_and_released("f", &content);
        // Each has a part that the other has not.
        damage(&two.object(1), 3 * MIB as u64);
        damage(&two.object(2), 7 * MIB as u64);
        for at in [7 * MIB + 3, 3 * MIB + 3, 0] {
            let mut got = vec![0; 5000];
            File::open(&path).unwrap().read_exact_at(&mut got, at as u64).unwrap();
            assert!(got == content[at..at + 5000], "{kind:?} at {at}");
        }
        assert!(fs::read(&path).unwrap() == content, "{kind:?}");
        wait_until(LONG, "all of it is there", || !is_released(&path));
        hsm.release(&[&path]);
        // One has nothing any more, and the other lacks a part.
        fs::remove_file(two.object(1)).unwrap();
        let file = File::open(&path).unwrap();
        let mut got = vec![0; MIB];
        file.read_exact_at(&mut got, 10 * MIB as u64).unwrap();
        assert!(got == content[10 * MIB..11 * MIB], "{kind:?}");
        assert_eq!(file.read_at(&mut got, 7 * MIB as u64).unwrap_err().raw_os_error(), Some(5), "{kind:?}");
    }
}

#[test]
fn scrub_repairs_a_bad_copy_from_a_good_one() {
    let two = Two::start(FsKind::Ext4, BOTH);
    let hsm = &two.hsm;
    let content = noise(6, 3 * MIB + 7);
    let path = hsm.archived_and_released("f", &content);
    let scrub = |id: &str, words: &[&str]| {
        let mut command = hsm.site.command();
        command.arg("--config").arg(hsm.site.agent_config()).args(["scrub", "--json", "--id", id]).args(words);
        let out = command.output().unwrap();
        let totals = String::from_utf8_lossy(&out.stdout).lines().last().map(str::to_owned).unwrap_or_default();
        (out.status.code(), serde_json::from_str::<serde_json::Value>(&totals).unwrap_or_else(|_| panic!("{out:?}")))
    };
    for (bad, id) in [(1, "1"), (2, "2")] {
        damage(&two.object(bad), MIB as u64 + 5);
        assert_eq!(scrub(id, &[]).0, Some(6), "told, and not repaired without being asked");
        let (code, totals) = scrub(id, &["--repair"]);
        assert_eq!((code, totals["repair"]["repaired"].as_u64()), (Some(0), Some(1)), "{totals}");
        assert!(is_released(&path), "as it was");
        two.wait_for_objects((1, 1));
        assert_eq!((scrub("1", &[]).0, scrub("2", &[]).0), (Some(0), Some(0)));
    }
    // Nothing good is left: nothing is lost by trying, and it is said.
    damage(&two.object(1), 5);
    damage(&two.object(2), 5);
    let (code, totals) = scrub("1", &["--repair"]);
    assert_eq!((code, totals["repair"]["failed"].as_u64()), (Some(6), Some(1)), "{totals}");
    assert_eq!(two.objects(), (1, 1));
    assert!(is_released(&path));
}

#[test]
fn p2_a_release_waits_for_all_copies() {
    let second = Scratch::new("second");
    let mut hsm = Hsm::start_with(FsKind::Xfs, 512, |site| site.add_agent_setting(BOTH));
    let content = noise(5, MIB);
    let path = hsm.file("f", &content);
    hsm.ok(&["archive"], &[&path]);
    wait_until(LONG, "it is in one archive", || hsm_state(&path).is_clean_copy());
    let out = hsm.run(&["release"], &[&path]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("its copy in archive 2 is not there yet; archive it first"), "{text}");
    assert!(!is_released(&path));

    // A mover of archive 2 comes: what was asked for is done.
    hsm.site.add_archive("2", 2, second.path(), "");
    hsm.mover_pids().into_iter().for_each(kill);
    wait_until(LONG, "the second copy is made", || further_copies(&path) == [2]);
    hsm.settle();
    // While movers come and go, a release may be refused for now.
    let release = || wait_until(LONG, "it is released", || hsm.run(&["release"], &[&path]).status.success());
    release();

    // Nobody serves archive 1: what is read comes from the other.
    let config = hsm.site.posix_config();
    let both = fs::read_to_string(&config).unwrap();
    let only = format!("archive \"2\" {{ id = 2 root = \"{}\" }}\n", second.path().display());
    fs::write(&config, only).unwrap();
    hsm.mover_pids().into_iter().for_each(kill);
    assert!(fs::read(&path).unwrap() == content);
    release();
    fs::write(&config, both).unwrap();
    hsm.mover_pids().into_iter().for_each(kill);
    fs::remove_file(&path).unwrap();
    wait_until(LONG, "both objects are gone", || {
        hsm.objects() == 0 && Site::files_of_archive(second.path()).is_empty()
    });
}

#[test]
fn archives_are_named_by_the_request_too() {
    let two = Two::start(FsKind::Ext4, "default_archive = 2\nremove_grace_s = 0");
    let hsm = &two.hsm;
    let path = hsm.file("f", &noise(6, MIB));
    hsm.archive(&[&path]);
    assert_eq!(two.objects(), (0, 1));
    hsm.ok(&["archive", "--wait", "--copies", "1,2"], &[&path]);
    assert_eq!((two.objects(), two.status(&path).as_str()), ((1, 1), "2,1 archived -"));
    let json: serde_json::Value = serde_json::from_str(&hsm.ok(&["status", "--json"], &[&path])).unwrap();
    assert_eq!((&json["copies"][0]["archive_id"], json["copies"].as_array().unwrap().len()), (&1.into(), 1));
    // It was the request's wish alone: a release needs what the configuration names.
    hsm.release(&[&path]);
    assert_eq!(two.accepted(&["--copies", "2"], &path), 0);
    let out = hsm.run(&["archive", "--copies", "3"], &[&path]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("restore it first"), "a released file cannot be copied");
    // A copy that is moved elsewhere is the only one.
    hsm.ok(&["restore", "--wait"], &[&path]);
    hsm.ok(&["archive", "--wait", "-i", "1"], &[&path]);
    two.wait_for_objects((1, 0));
    assert_eq!(two.status(&path), "1 archived -");
    for wrong in
        [&["archive", "--copies", "1,1"][..], &["archive", "--copies", "0"], &["archive", "-i", "1", "--copies", "2"]]
    {
        assert!(!hsm.run(wrong, &[&path]).status.success(), "{wrong:?}");
    }
}

#[test]
fn p7_small_files_have_copies_in_packs() {
    let two = Two::start(FsKind::Xfs, BOTH);
    let hsm = &two.hsm;
    let files: Vec<(PathBuf, Vec<u8>)> =
        (0..40).map(|i| (noise(i, 1000 + i as usize), i)).map(|(c, i)| (hsm.file(&format!("f{i}"), &c), c)).collect();
    let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
    hsm.archive(&paths);
    assert!(paths.iter().all(|path| further_copies(path).len() == 1));
    assert!(Site::files_of_archive(hsm.site.archive_root()).len() < 40, "they share packs");
    hsm.release(&paths);
    fs::rename(hsm.site.archive_root().join("packs"), hsm.site.archive_root().join("away")).unwrap();
    for (path, content) in &files {
        assert!(fs::read(path).unwrap() == *content);
    }
    fs::rename(hsm.site.archive_root().join("away"), hsm.site.archive_root().join("packs")).unwrap();
    // Replaced, removed, deleted: nothing is left that is nobody's, in either archive.
    let (changed, rest) = paths.split_at(10);
    let (removed, deleted) = rest.split_at(10);
    changed.iter().for_each(|path| fs::write(path, noise(99, 2000)).unwrap());
    hsm.archive(&paths);
    hsm.ok(&["remove", "--wait"], removed);
    deleted.iter().for_each(|path| fs::remove_file(path).unwrap());
    for id in [1, 2] {
        wait_until(LONG, "what is there is what files name", || {
            // Before the deletions are noticed, there is something that nobody names.
            let (code, text) = two.try_fsck(id, false);
            let report: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
            code == Some(0) && report["objects"] == 10 && report["named"] == 10 && report["claimed"] == 0
        });
    }
}

#[test]
fn a_copy_that_came_too_late_is_no_success() {
    let third = Scratch::new("third");
    let mut two = Two::start(FsKind::Ext4, "");
    let path = two.hsm.file("f", &noise(10, MIB));
    two.hsm.archive(&[&path]);
    two.hsm.ok(&["archive", "--copies", "1,3"], &[&path]);
    // Nothing but that request knew of archive 3, so nothing keeps the file from being released.
    two.hsm.release(&[&path]);
    two.hsm.site.add_archive("3", 3, third.path(), "");
    two.hsm.mover_pids().into_iter().for_each(kill);
    let failed = || two.hsm.ok(&["actions", "--failed"], &[]);
    wait_until(LONG, "the action has its result", || failed().contains("released before archive 3 had a copy"));
    assert!(is_released(&path) && Site::files_of_archive(third.path()).is_empty());
}

#[test]
fn a_change_that_no_time_shows_is_found_when_it_is_copied() {
    let two = Two::start(FsKind::Btrfs, "remove_grace_s = 0");
    let hsm = &two.hsm;
    let path = hsm.file("f", &noise(7, 200_000));
    hsm.archive(&[&path]);
    let mtime = fs::metadata(&path).unwrap().modified().unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"changed", 100).unwrap();
    file.set_modified(mtime).unwrap();
    drop(file);
    wait_until(LONG, "it is not marked changed", || !hsm_state(&path).flags.contains(HsmFlags::DIRTY));
    let now = fs::read(&path).unwrap();
    hsm.ok(&["archive", "--wait", "--copies", "1,2"], &[&path]);
    // It was archived anew: what is in the archive is what the file holds.
    two.wait_for_objects((0, 1));
    assert!(fs::read(two.object(2)).unwrap() == now);
    hsm.ok(&["archive", "--wait", "--copies", "1,2"], &[&path]);
    assert_eq!(two.objects(), (1, 1));
    assert!(fs::read(two.object(1)).unwrap() == now);
}

#[test]
fn p7_a_deleted_file_comes_back_with_its_copies() {
    let two = Two::start(FsKind::Xfs, "copies = [1, 2]\nremove_grace_s = 1000");
    let hsm = &two.hsm;
    let content = noise(8, MIB);
    let path = hsm.archived_and_released("f", &content);
    fs::remove_file(&path).unwrap();
    wait_until(LONG, "the deletion is noticed", || hsm.run(&["undelete"], &[&path]).status.success());
    assert!(is_released(&path) && further_copies(&path).len() == 1);
    hsm.settle();
    let first = u32::try_from(hsm_state(&path).archive_id).unwrap();
    fs::remove_file(two.object(first)).unwrap();
    assert!(fs::read(&path).unwrap() == content, "the other copy is as good as before");
    // And they go with the file once more.
    let other = two.object(3 - first);
    hsm.ok(&["remove", "--wait"], &[&path]);
    wait_until(LONG, "the copy is gone", || !other.exists());
}

#[test]
fn fsck_knows_the_copies_of_each_archive() {
    let two = Two::start(FsKind::Ext4, BOTH);
    let hsm = &two.hsm;
    let content = noise(9, MIB);
    let path = hsm.file("f", &content);
    hsm.archive(&[&path]);
    let fsck = |id, repair, code| two.fsck(id, repair, code);
    for id in [1, 2] {
        fsck(id, true, 0);
        assert_eq!(two.objects(), (1, 1), "each is somebody's");
    }
    for id in [1, 2] {
        // What the file holds is archived again, everywhere.
        fs::remove_file(two.object(id)).unwrap();
        assert!(fsck(id, false, 6).contains("gone"));
        fsck(id, true, 0);
        assert!(hsm_state(&path).flags.contains(HsmFlags::DIRTY));
        hsm.archive(&[&path]);
        two.wait_for_objects((1, 1));
        // Released, it is not lost as long as the other has it.
        hsm.release(&[&path]);
        fs::remove_file(two.object(id)).unwrap();
        assert!(fsck(id, true, 6).contains("another archive has a copy"));
        assert!(!hsm_state(&path).flags.contains(HsmFlags::LOST));
        hsm.ok(&["restore", "--wait"], &[&path]);
        hsm.ok(&["archive", "--wait", "--force"], &[&path]);
        two.wait_for_objects((1, 1));
        fsck(id, false, 0);
    }
    assert!(fs::read(&path).unwrap() == content);
}

const FILES: usize = 12;

#[test]
fn p3_p7_the_agent_is_killed_between_two_archives() {
    let two = Two::start(FsKind::Ext4, BOTH);
    let hsm = &two.hsm;
    let paths: Vec<PathBuf> = (0..FILES as u64).map(|i| hsm.file(&format!("f{i}"), &noise(i, 300_000))).collect();
    let all: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let complete = |path: &&Path| further_copies(path).len() == 1;
    let mut between = 0;
    // Twice, a little later each time, and again as long as it was never between the two.
    for round in 0..5 {
        if round >= 2 && between > 0 {
            break;
        }
        let pid = hsm.agent_pid();
        let before: Vec<String> = all.iter().map(|path| uuid_of(path)).collect();
        hsm.ok(&["archive", "--force"], &all);
        // With an object that they did not have before.
        let begun = || all.iter().zip(&before).filter(|(path, before)| uuid_of(path) != **before).map(|(path, _)| path);
        let halves = || begun().filter(|path| !complete(path)).count();
        wait_until(LONG, "some have a first copy", || {
            let begun = begun().count();
            begun > 2 * round && (halves() > 0 || begun == FILES)
        });
        kill(pid);
        between += halves();
        wait_until(LONG, "the agent answers again", || hsm.status().is_some_and(|s| s["pid"] != pid));
        hsm.wait_for_movers();
        hsm.settle();
        wait_until(LONG, "all have both copies", || all.iter().all(complete));
        two.wait_for_objects((FILES, FILES));
    }
    assert!(between > 0, "it was never killed between the two");
    hsm.release(&all);
    for (i, path) in (0..).zip(&all) {
        assert!(fs::read(path).unwrap() == noise(i, 300_000));
    }
    assert_eq!(hsm.temporary_files(), 0);
}
