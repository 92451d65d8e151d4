//! Files that share an object, versions that stay for a while, and what comes back.

use crate::support::{Hsm, LONG, blocks, edit, hsm_state, is_released, kill, noise, uuid_of};
use model::HsmFlags;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::{FsKind, Site, wait_until};

/// Large enough for an object of its own.
const SIZE: usize = 200_000;

fn json(hsm: &Hsm, args: &[&str], paths: &[&Path]) -> Vec<Value> {
    let out = hsm.run(args, paths);
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn refused(hsm: &Hsm, args: &[&str], paths: &[&Path]) -> String {
    let out = hsm.run(args, paths);
    assert_eq!(out.status.code(), Some(1), "{args:?} {paths:?}");
    String::from_utf8(out.stderr).unwrap()
}

fn no_grace(site: &mut Site) {
    site.add_agent_setting("remove_grace_s = 0");
}

/// Deletions are noticed late; this one is recorded when it returns.
fn delete(hsm: &Hsm, path: &Path) {
    let succeeded = |hsm: &Hsm| hsm.status().map(|s| s["source"]["succeeded"].as_u64().unwrap());
    let before = succeeded(hsm);
    fs::remove_file(path).unwrap();
    wait_until(LONG, "the removal ended", || succeeded(hsm) > before);
}

fn restart(hsm: &mut Hsm, between: impl FnOnce(&Path)) {
    hsm.stop_agent();
    between(&hsm.site.state_dir());
    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
}

/// Longer than any test.
const GRACE: &str = "remove_grace_s = 3600";

/// What waits for its removal waits no longer. Not while an agent runs.
fn end_grace(state: &Path) {
    const SQL: &str =
        "UPDATE live SET not_before_ms = created_ms + 1 WHERE id IN (SELECT id FROM retired); SELECT changes()";
    let out = Command::new("sqlite3").arg(state.join("queue.db")).arg(SQL).output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    assert!(said.trim().parse::<u32>().unwrap() > 0, "nothing waits for its removal");
}

/// Every file of the queue's database.
fn database(state: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("queue.db")).collect()
}

fn copy_database(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    database(to).iter().for_each(|file| fs::remove_file(file).unwrap());
    for file in database(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_clone_is_a_released_file_of_the_same_content() {
    for kind in FsKind::ALL {
        let hsm = Hsm::start_with(kind, 512, no_grace);
        let content = noise(1, SIZE);
        let source = hsm.file("source", &content);
        chown(&source, Some(1234), Some(99)).unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o6751)).unwrap();
        rustix::fs::setxattr(&source, "user.colour", b"green", rustix::fs::XattrFlags::empty()).unwrap();
        let clone = hsm.path("clone");
        assert!(refused(&hsm, &["clone"], &[&source, &clone]).contains("archive it first"));
        hsm.archive(&[&source]);
        hsm.ok(&["clone"], &[&source, &clone]);
        assert!(is_released(&clone) && blocks(&clone) <= 8);
        assert_eq!(uuid_of(&clone), uuid_of(&source));
        let (a, b) = (fs::metadata(&source).unwrap(), fs::metadata(&clone).unwrap());
        let shown = |m: &fs::Metadata| (m.len(), m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
        assert_eq!(shown(&a), shown(&b), "{kind:?}");
        let mut colour = [0; 16];
        assert_eq!(rustix::fs::getxattr(&clone, "user.colour", &mut colour).unwrap(), 5);
        // Nothing is replaced, and what changed since it was archived is not cloned.
        assert!(refused(&hsm, &["clone"], &[&source, &clone]).contains("already"));
        // The proof for a release is still there: no mover has to hash the content once more.
        let begun = |hsm: &Hsm| hsm.status().unwrap()["agent"]["archives"][0]["started"].as_u64().unwrap();
        let before = begun(&hsm);
        hsm.release(&[&source]);
        assert_eq!(begun(&hsm), before, "{kind:?}");
        let second = hsm.path("second");
        hsm.ok(&["clone"], &[&source, &second]);
        delete(&hsm, &source);
        assert_eq!(hsm.objects(), 1, "others name it");
        assert_eq!(fs::read(&clone).unwrap(), content, "{kind:?}");
        // Its own content from now on, in an object of its own.
        fs::write(&clone, b"something else").unwrap();
        wait_until(LONG, "a changed file is dirty", || hsm_state(&clone).flags.contains(HsmFlags::DIRTY));
        assert!(refused(&hsm, &["clone"], &[&clone, &source]).contains("archive it first"));
        hsm.archive(&[&clone]);
        hsm.settle();
        assert_ne!(uuid_of(&clone), uuid_of(&second));
        assert_eq!(fs::read(&second).unwrap(), content);
        delete(&hsm, &second);
        wait_until(LONG, "the last file that named the object is gone", || !has_object(&hsm));
        assert_eq!(fs::read(&clone).unwrap(), b"something else");
    }
}

/// Whether any archived object has the size of the content that the tests use.
fn has_object(hsm: &Hsm) -> bool {
    hsm.site.archive_files().iter().any(|file| fs::metadata(file).is_ok_and(|m| m.len() == SIZE as u64))
}

#[test]
fn trees_are_cloned_and_removed_copies_leave_the_object_to_others() {
    let hsm = Hsm::start_with(FsKind::Xfs, 512, no_grace);
    let tree = hsm.path("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    let content = |i: u64| noise(i, SIZE);
    for i in 0..20 {
        fs::write(tree.join(if i % 2 == 0 { format!("f{i}") } else { format!("sub/f{i}") }), content(i)).unwrap();
    }
    std::os::unix::fs::symlink("f0", tree.join("link")).unwrap();
    hsm.archive(&[&tree]);
    let copy = hsm.path("copy");
    assert!(refused(&hsm, &["clone"], &[&tree, &copy]).contains("-r"));
    hsm.ok(&["clone", "-r"], &[&tree, &copy]);
    assert_eq!(fs::read_link(copy.join("link")).unwrap(), Path::new("f0"));
    // Taken off the originals: the objects are the clones' now.
    hsm.ok(&["remove", "--wait"], &[&tree]);
    for i in 0..20 {
        let name = if i % 2 == 0 { format!("f{i}") } else { format!("sub/f{i}") };
        assert!(uuid_of(&tree.join(&name)).is_empty());
        assert!(fs::read(copy.join(&name)).unwrap() == content(i), "{name}");
    }
    fs::remove_dir_all(&copy).unwrap();
    wait_until(LONG, "the clones' objects are gone", || !has_object(&hsm));
}

/// No row of the database says any more that there are two: the mark on the file does.
#[test]
fn p7_a_shared_object_stays_when_the_database_is_lost() {
    let mut hsm = Hsm::start_with(FsKind::Ext4, 512, no_grace);
    let contents = [noise(1, SIZE), noise(2, SIZE)];
    let [a, b] = [0, 1].map(|i| hsm.file(&format!("file{i}"), &contents[i]));
    hsm.archive(&[&a, &b]);
    let clone = hsm.path("clone");
    hsm.ok(&["clone"], &[&a, &clone]);
    restart(&mut hsm, |state| database(state).iter().for_each(|file| fs::remove_file(file).unwrap()));
    // Their removal would be noticed again after a restore.
    hsm.ok(&["archive", "--wait", "--force"], &[&a, &b]);
    hsm.settle();
    assert_eq!(fs::read(&clone).unwrap(), contents[0], "the object of the older version is the clone's");
    hsm.release(&[&clone]);
    // The one that was never shared left no object behind, the other one's is left to a look at all files.
    assert_eq!(hsm.objects(), 3);
    let failures = hsm.site.sifaka_ok(&["actions", "--failed", "--json"]);
    assert!(failures.contains("sifaka fsck"), "{failures}");
    fs::remove_file(&clone).unwrap();
    wait_until(LONG, "its removal is refused too", || {
        hsm.site.sifaka_ok(&["actions", "--failed", "--json"]).lines().count() == 2
    });
    assert_eq!(hsm.objects(), 3);
}

/// The database knows the file, but not that it was cloned since: it is noticed that it is not the newest one.
#[test]
fn p2_a_database_from_a_backup_removes_nothing_that_was_shared_since() {
    let mut hsm = Hsm::start_with(FsKind::Btrfs, 512, |site| site.add_agent_setting(GRACE));
    let contents = [noise(1, SIZE), noise(2, SIZE)];
    let [a, deleted] = [0, 1].map(|i| hsm.file(&format!("file{i}"), &contents[i]));
    hsm.archive(&[&a, &deleted]);
    // On disk when the next command is answered: changes are recorded in their order.
    fs::remove_file(&deleted).unwrap();
    wait_until(LONG, "the deletion is recorded", || {
        !json(&hsm, &["undelete", "--list", "--json"], &[hsm.fs.path().as_path()]).is_empty()
    });
    let backup = hsm.site.state_dir().join("backup");
    restart(&mut hsm, |state| copy_database(state, &backup));
    let clone = hsm.path("clone");
    hsm.ok(&["clone"], &[&a, &clone]);
    hsm.ok(&["undelete"], &[&deleted]);
    edit(&hsm.site.agent_config(), GRACE, "remove_grace_s = 0");
    restart(&mut hsm, |state| {
        copy_database(&backup, state);
        end_grace(state);
    });
    // The removal in the backup is of the file that was brought back since. It is due, and refused.
    wait_until(LONG, "the removal that the backup holds is refused", || {
        hsm.site.sifaka_ok(&["actions", "--failed", "--json"]).contains("sifaka fsck")
    });
    let later = hsm.file("later", &noise(3, SIZE));
    hsm.archive(&[&later]);
    fs::remove_file(&a).unwrap();
    // Noticed after the other.
    delete(&hsm, &later);
    hsm.settle();
    assert_eq!(fs::read(&clone).unwrap(), contents[0]);
    assert_eq!(fs::read(&deleted).unwrap(), contents[1]);
}

#[test]
fn snapshots_keep_each_archived_version_readable() {
    let hsm = Hsm::start_with(FsKind::Ext4, 512, |site| {
        no_grace(site);
        site.add_agent_setting("snapshots {\n  enabled = true\n}");
    });
    let directory = hsm.path("dir");
    fs::create_dir(&directory).unwrap();
    chown(&directory, Some(1000), Some(1000)).unwrap();
    let path = directory.join("file");
    let snapshots = || -> Vec<PathBuf> {
        let entries = fs::read_dir(directory.join(".hsmsnapshot")).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let contents: Vec<_> = (0..3).map(|i| noise(i, SIZE + usize::try_from(i).unwrap())).collect();
    for (i, content) in contents.iter().enumerate() {
        fs::write(&path, content).unwrap();
        let time =
            rustix::fs::Timespec { tv_sec: 1_700_000_000 + i64::try_from(i).unwrap() / 2, tv_nsec: 5 + i as i64 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
        hsm.archive(&[&directory]);
        wait_until(LONG, "there is a snapshot more", || snapshots().len() == i + 1);
        // Marked before its stamp was recorded: nobody has to hash it for this.
        let begun = |hsm: &Hsm| hsm.status().unwrap()["agent"]["archives"][0]["started"].as_u64().unwrap();
        hsm.settle();
        let before = begun(&hsm);
        hsm.release(&[&path]);
        assert_eq!(begun(&hsm), before);
    }
    let names: Vec<_> = snapshots().iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    let expected = ["file^2023-11-14T22:13:20.000000006Z", "file^2023-11-14T22:13:20Z", "file^2023-11-14T22:13:21Z"];
    assert_eq!(names, expected);
    assert_eq!(hsm.objects(), 3);
    assert!(snapshots().iter().all(|p| is_released(p)));
    let found = json(&hsm, &["versions", "--json"], &[&path]);
    assert_eq!(found[0]["snapshots"].as_array().unwrap().len(), 3);
    assert_eq!(found[0]["current"]["uuid"].as_str().unwrap(), uuid_of(&path));
    assert_eq!(fs::read(&snapshots()[1]).unwrap(), contents[0]);
    assert_eq!(fs::read(&snapshots()[0]).unwrap(), contents[1]);
    let owner = fs::metadata(directory.join(".hsmsnapshot")).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (1000, 1000));
    // Neither archived again nor snapshots of their own; an object goes with its last name.
    assert!(fs::read(&path).unwrap() == contents[2]);
    hsm.ok(&["archive", "--wait", "--force"], &[&directory]);
    wait_until(LONG, "the version that was archived by force is there", || snapshots().len() == 4);
    for snapshot in snapshots() {
        fs::remove_file(snapshot).unwrap();
    }
    wait_until(LONG, "the objects of the snapshots are gone", || hsm.objects() == 1);
    assert_eq!(fs::read(&path).unwrap(), contents[2]);
}

#[test]
fn p7_what_is_undeleted_stays_and_what_is_not_goes() {
    let mut hsm = Hsm::start_with(FsKind::Xfs, 512, |site| site.add_agent_setting(GRACE));
    let directory = hsm.path("dir/sub");
    fs::create_dir_all(&directory).unwrap();
    let content = |i: u64| noise(i, SIZE);
    let paths: Vec<_> = (0..6).map(|i| directory.join(format!("f\u{fc}{i}"))).collect();
    for (i, path) in paths.iter().enumerate() {
        fs::write(path, content(i as u64)).unwrap();
        chown(path, Some(7), Some(8)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    }
    hsm.archive(&[&directory]);
    hsm.release(&paths.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    let before = fs::metadata(&paths[0]).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    let root = hsm.path("dir");
    let listed = |hsm: &Hsm| json(hsm, &["undelete", "--list", "--json"], &[&root]);
    wait_until(LONG, "the deletions are noticed", || listed(&hsm).len() == 6);
    assert!(refused(&hsm, &["undelete"], &[&paths[0]]).contains("directory"));
    assert!(hsm.ok(&["undelete", "-r", "--dry-run"], &[&root]).contains("sub/f\u{fc}5"));
    fs::create_dir(&directory).unwrap();
    hsm.ok(&["undelete"], &[&paths[0], &paths[1]]);
    assert_eq!(listed(&hsm).len(), 4);
    let after = fs::metadata(&paths[0]).unwrap();
    let shown = |m: &fs::Metadata| (m.len(), m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
    assert_eq!(shown(&before), shown(&after));
    assert!(is_released(&paths[0]));
    assert_eq!(fs::read(&paths[0]).unwrap(), content(0));
    // A name that is taken stays what it is.
    fs::write(&paths[2], b"new").unwrap();
    assert!(refused(&hsm, &["undelete"], &[&paths[2]]).contains("already"));
    assert_eq!(fs::read(&paths[2]).unwrap(), b"new");
    // Another place, by its number.
    let third = listed(&hsm).into_iter().find(|o| o["path"].as_str().unwrap().ends_with("f\u{fc}2")).unwrap();
    let elsewhere = hsm.path("elsewhere");
    hsm.ok(&["undelete", "--version", &third["id"].to_string()], &[&elsewhere]);
    assert_eq!(hsm.objects(), 6, "the grace period is not over");
    restart(&mut hsm, end_grace);
    wait_until(LONG, "the others' objects are gone", || hsm.objects() == 3);
    hsm.settle();
    assert_eq!(listed(&hsm).len(), 0);
    assert!(refused(&hsm, &["undelete"], &[&paths[3]]).contains("grace"));
    assert_eq!(fs::read(&paths[1]).unwrap(), content(1));
    assert_eq!(fs::read(&elsewhere).unwrap(), content(2));
    // What came back can go and come back again.
    fs::remove_file(&elsewhere).unwrap();
    wait_until(LONG, "the deletion is noticed", || {
        let found = json(&hsm, &["versions", "--json"], &[&elsewhere]);
        !found[0]["deleted"].as_array().unwrap().is_empty()
    });
    hsm.ok(&["undelete"], &[&elsewhere]);
    assert_eq!(fs::read(&elsewhere).unwrap(), content(2));
    // And a grace period ends by itself.
    hsm.reconfigure(GRACE, "remove_grace_s = 1");
    fs::remove_file(&paths[0]).unwrap();
    wait_until(LONG, "the object is gone when its time has come", || hsm.objects() == 2);
}

#[test]
fn older_versions_stay_as_long_as_is_asked() {
    let hsm = Hsm::start_with(FsKind::Ext4, 512, |site| site.add_agent_setting("keep_versions_s = 3600"));
    let path = hsm.file("f", &noise(0, SIZE));
    for i in 1..3 {
        hsm.archive(&[&path]);
        fs::write(&path, noise(i, SIZE)).unwrap();
        wait_until(LONG, "a changed file is dirty", || hsm_state(&path).flags.contains(HsmFlags::DIRTY));
    }
    hsm.archive(&[&path]);
    assert_eq!(hsm.objects(), 3);
    let found = json(&hsm, &["versions", "--json"], &[&path]);
    let older = found[0]["older"].as_array().unwrap().clone();
    assert_eq!(older.len(), 2);
    let old = hsm.path("old");
    hsm.ok(&["undelete", "--version", &older[0]["id"].to_string()], &[&old]);
    assert_eq!(fs::read(&old).unwrap(), noise(0, SIZE));
    assert_eq!(fs::read(&path).unwrap(), noise(2, SIZE));
    let text = hsm.ok(&["versions"], &[&path]);
    assert!(text.contains("current") && text.contains("older"), "{text}");
}

/// Files that were copied with their attributes name an object and are not its owners.
#[test]
fn a_copy_with_its_attributes_is_no_clone() {
    let hsm = Hsm::start_with(FsKind::Ext4, 512, no_grace);
    let path = hsm.file("f", &noise(0, SIZE));
    hsm.archive(&[&path]);
    let copy = hsm.path("copy");
    let out = Command::new("cp").arg("-a").args([&path, &copy]).output().unwrap();
    assert!(out.status.success());
    assert_eq!(uuid_of(&copy), uuid_of(&path));
    assert!(refused(&hsm, &["clone"], &[&copy, &hsm.path("clone")]).contains("archive it first"));
    delete(&hsm, &path);
    wait_until(LONG, "the object is gone", || hsm.objects() == 0);
}

/// Whatever step it is killed at: a clone is there whole or not at all, and in the end nothing is left over.
#[test]
fn p7_clones_survive_kills_of_the_agent() {
    let hsm = Hsm::start_with(FsKind::Ext4, 1024, no_grace);
    let tree = hsm.path("tree");
    fs::create_dir(&tree).unwrap();
    let content = |i: u64| noise(i, 70_000);
    let count = 60;
    for i in 0..count {
        fs::write(tree.join(i.to_string()), content(i)).unwrap();
    }
    hsm.archive(&[&tree]);
    hsm.settle();
    // No more: the guard waits longer each time before it starts the next agent.
    let copies: Vec<_> = (0..3).map(|round| hsm.path(&format!("copy{round}"))).collect();
    for copy in &copies {
        let pid = hsm.agent_pid();
        let mut cloning = hsm.site.command();
        let mut child = cloning.args(["clone", "-r", "-q"]).args([&tree, copy]).stderr(Stdio::null()).spawn().unwrap();
        // Another moment in each run.
        std::thread::sleep(Duration::from_millis(u64::from(child.id()) % 97));
        kill(pid);
        child.wait().unwrap();
        // The guard starts the next one.
        wait_until(LONG, "another agent answers", || {
            hsm.status().is_some_and(|s| s["pid"].as_i64() != Some(pid.into()))
        });
    }
    hsm.wait_for_movers();
    fs::remove_dir_all(&tree).unwrap();
    hsm.settle();
    let mut seen = 0;
    for copy in &copies {
        for entry in fs::read_dir(copy).into_iter().flatten() {
            let path = entry.unwrap().path();
            let number = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            assert!(fs::read(&path).unwrap() == content(number), "{}", path.display());
            seen += 1;
        }
    }
    println!("{seen} clones were made");
    for copy in copies.iter().filter(|copy| copy.exists()) {
        fs::remove_dir_all(copy).unwrap();
    }
    wait_until(LONG, "all objects are gone", || hsm.objects() == 0);
}

/// Killed at whatever step: what came back is whole and stays when its removal is due, and the rest goes.
#[test]
fn p7_undeleting_survives_kills_of_the_agent() {
    let mut hsm = Hsm::start_with(FsKind::Xfs, 1024, |site| site.add_agent_setting(GRACE));
    let tree = hsm.path("tree");
    let sub = tree.join("sub");
    fs::create_dir_all(&sub).unwrap();
    let content = |i: u64| noise(i, 100_000);
    let count: u64 = 60;
    for i in 0..count {
        fs::write(sub.join(i.to_string()), content(i)).unwrap();
    }
    hsm.archive(&[&tree]);
    hsm.settle();
    fs::remove_dir_all(&sub).unwrap();
    wait_until(LONG, "the deletions are noticed", || {
        json(&hsm, &["undelete", "--list", "--json"], &[&tree]).len() as u64 == count
    });
    for _ in 0..2 {
        let pid = hsm.agent_pid();
        let mut undelete = hsm.site.command();
        let mut child = undelete.args(["undelete", "-r", "-q"]).arg(&tree).stderr(Stdio::null()).spawn().unwrap();
        // Another moment in each run.
        std::thread::sleep(Duration::from_millis(u64::from(child.id()) % 61));
        kill(pid);
        child.wait().unwrap();
        wait_until(LONG, "another agent answers", || {
            hsm.status().is_some_and(|s| s["pid"].as_i64() != Some(pid.into()))
        });
    }
    // The end of the grace period: removals find the files that came back.
    restart(&mut hsm, end_grace);
    wait_until(LONG, "nothing waits for its removal", || {
        json(&hsm, &["undelete", "--list", "--json"], &[&tree]).is_empty()
    });
    hsm.settle();
    let there: Vec<_> = fs::read_dir(&sub).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    for path in &there {
        let number = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        assert!(fs::read(path).unwrap() == content(number), "{}", path.display());
    }
    assert_eq!(hsm.objects(), there.len());
}
