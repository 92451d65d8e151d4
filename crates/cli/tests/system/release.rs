//! P2: what may be released, and what may not.

use crate::support::{Hsm, LONG, cat, hsm_state, is_released, noise, uuid_of};
use model::{HsmFlags, xattr};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use testkit::{FsKind, wait_until};

fn refused(hsm: &Hsm, path: &Path, why: &str) {
    let out = hsm.run(&["release"], &[path]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains(why), "{text:?} says {why:?}");
    assert!(!is_released(path));
}

#[test]
fn p2_only_a_proven_copy_lets_a_file_go() {
    for kind in FsKind::ALL {
        let hsm = Hsm::start(kind);
        let content = noise(1, 100_000);
        let path = hsm.file("f", &content);
        refused(&hsm, &path, "not archived");
        hsm.archive(&[&path]);

        // Open by somebody, for reading, for writing, or mapped.
        let reader = File::open(&path).unwrap();
        refused(&hsm, &path, "open");
        drop(reader);
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        refused(&hsm, &path, "open");
        drop(writer);

        hsm.ok(&["set", "--flag", "norelease"], &[&path]);
        refused(&hsm, &path, "norelease");
        hsm.ok(&["set", "--clear", "norelease"], &[&path]);

        // Other attributes changed: hashed again, and released.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        hsm.release(&[&path]);
        assert!(fs::read(&path).unwrap() == content);

        // Changed and set back in size and mtime: only the hash can tell.
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        let mut other = content.clone();
        other[50_000] ^= 1;
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(&other).unwrap();
        file.set_modified(mtime).unwrap();
        drop(file);
        refused(&hsm, &path, "changed");
        assert!(fs::read(&path).unwrap() == other, "the newer content is kept");
        hsm.archive(&[&path]);
        hsm.release(&[&path]);
        assert!(fs::read(&path).unwrap() == other);
    }
}

#[test]
fn p2_a_touched_file_is_hashed_and_keeps_its_new_time() {
    let hsm = Hsm::start(FsKind::Ext4);
    let path = hsm.file("f", &noise(3, 5000));
    let mut seconds = 1_000_000;
    // Word of the first write comes late, and may find the next time already: then the file is marked dirty for that, and has to be archived again.
    wait_until(LONG, "a touched file is released", || {
        hsm.archive(&[&path]);
        seconds += 1;
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        // Not open for writing: word of that would come, too.
        File::open(&path).unwrap().set_modified(time).unwrap();
        hsm.run(&["release"], &[&path]).status.success()
    });
    assert!(is_released(&path));
    assert!(fs::read(&path).unwrap() == noise(3, 5000));
    assert_eq!(fs::metadata(&path).unwrap().mtime(), i64::try_from(seconds).unwrap());
}

#[test]
fn p2_state_copied_from_another_file_counts_for_nothing() {
    let hsm = Hsm::start(FsKind::Ext4);
    let original = hsm.file("original", b"the original");
    hsm.archive(&[&original]);
    let copy = hsm.file("copy", b"another one!");
    let (from, to) = (File::open(&original).unwrap(), File::open(&copy).unwrap());
    for name in [xattr::HSM, xattr::UUID, xattr::HASH, xattr::RECORD] {
        if let Some(value) = sys::xattr::get(&from, name).unwrap() {
            sys::xattr::set(&to, name, &value).unwrap();
        }
    }
    drop((from, to));
    refused(&hsm, &copy, "copied");
    // Archiving it gives it an object of its own and leaves the other's alone.
    hsm.archive(&[&copy]);
    assert_ne!(uuid_of(&copy), uuid_of(&original));
    hsm.settle();
    assert_eq!(hsm.objects(), 2);
    hsm.release(&[&original, &copy]);
    assert_eq!(fs::read(&original).unwrap(), b"the original");
    assert_eq!(fs::read(&copy).unwrap(), b"another one!");
}

/// A page that was mapped and dirty before the archive can change without a new time.
#[test]
fn p2_a_mapping_that_is_written_later_is_noticed() {
    for kind in FsKind::ALL {
        let hsm = Hsm::start(kind);
        let path = hsm.file("mapped", &noise(4, 8192));
        let script = "import mmap,os,sys\n\
            f=os.open(sys.argv[1],os.O_RDWR)\n\
            m=mmap.mmap(f,8192)\n\
            m[0]=1\n\
            print('mapped',flush=True)\n\
            sys.stdin.readline()\n\
            m[1]=2\n\
            m.close()\nos.close(f)\n";
        let mut child = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        hsm.archive(&[&path]);
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(child.wait().unwrap().success());
        let out = hsm.run(&["release"], &[&path]);
        assert!(!out.status.success() && !is_released(&path), "{kind:?}: the copy lacks the last write");
        let mut expected = noise(4, 8192);
        (expected[0], expected[1]) = (1, 2);
        assert!(fs::read(&path).unwrap() == expected);
    }
}

#[test]
fn dirty_shows_without_being_asked_and_goes_with_the_next_archive() {
    for kind in FsKind::ALL {
        let hsm = Hsm::start(kind);
        let path = hsm.file("f", b"one");
        hsm.archive(&[&path]);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        wait_until(LONG, "it is dirty", || hsm_state(&path).flags.contains(HsmFlags::DIRTY));
        refused(&hsm, &path, "changed");
        hsm.archive(&[&path]);
        assert!(!hsm_state(&path).flags.contains(HsmFlags::DIRTY));
        // By path, without an open.
        assert!(std::process::Command::new("truncate").args(["-s", "2"]).arg(&path).status().unwrap().success());
        wait_until(LONG, "it is dirty again", || hsm_state(&path).flags.contains(HsmFlags::DIRTY));
    }
}

/// Setting a time opens nothing, so it restores nothing; the restore must not undo it.
#[test]
fn a_time_set_while_released_is_kept() {
    for kind in FsKind::ALL {
        let hsm = Hsm::start(kind);
        let path = hsm.file("f", &noise(5, 70_000));
        hsm.archive(&[&path]);
        hsm.release(&[&path]);
        let script = "import os,sys\nos.utime(sys.argv[1],(5,1234567))";
        assert!(std::process::Command::new("python3").args(["-c", script]).arg(&path).status().unwrap().success());
        assert!(is_released(&path));
        assert!(fs::read(&path).unwrap() == noise(5, 70_000));
        assert_eq!(fs::metadata(&path).unwrap().mtime(), 1_234_567, "{kind:?}");
        // And it is clean: it goes again without being archived again.
        hsm.release(&[&path]);
    }
}

/// The hash of the file says nothing of its copy.
#[test]
fn p2_a_lost_copy_is_noticed_when_it_is_looked_for() {
    let hsm = Hsm::start(FsKind::Ext4);
    let path = hsm.file("f", &noise(6, 5000));
    hsm.archive(&[&path]);
    fs::remove_file(hsm.site.archive_files().remove(0)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    refused(&hsm, &path, "no object");
    assert!(fs::read(&path).unwrap() == noise(6, 5000));
}

/// What a commit that was cut short leaves: the hash of the new content beside the object of the old, and the file dirty.
#[test]
fn p2_a_commit_cut_short_lets_nothing_go() {
    let hsm = Hsm::start(FsKind::Ext4);
    let (path, other) = (hsm.file("f", &noise(8, 5000)), hsm.file("other", &noise(9, 5000)));
    hsm.archive(&[&path, &other]);
    fs::write(&path, noise(9, 5000)).unwrap();
    wait_until(LONG, "it is dirty", || hsm_state(&path).flags.contains(HsmFlags::DIRTY));
    let hash = sys::xattr::get(File::open(&other).unwrap(), xattr::HASH).unwrap().unwrap();
    sys::xattr::set(File::open(&path).unwrap(), xattr::HASH, &hash).unwrap();
    refused(&hsm, &path, "changed");
    hsm.archive(&[&path]);
    hsm.release(&[&path]);
    assert!(fs::read(&path).unwrap() == noise(9, 5000));
}

/// An identity that is not the one that was archived is not believed, even where the content is.
#[test]
fn p2_a_changed_identity_is_noticed() {
    let hsm = Hsm::start(FsKind::Ext4);
    let path = hsm.file("f", &noise(7, 5000));
    hsm.archive(&[&path]);
    sys::xattr::set(File::open(&path).unwrap(), xattr::UUID, b"../../canary").unwrap();
    let out = hsm.run(&["release"], &[&path]);
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(!is_released(&path));
}

/// A filesystem on which whoever writes waits.
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn new(root: &'a Path) -> Self {
        fsfreeze("--freeze", root);
        Self(root)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        fsfreeze("--unfreeze", self.0);
    }
}

fn fsfreeze(how: &str, root: &Path) {
    assert!(Command::new("fsfreeze").arg(how).arg(root).status().unwrap().success());
}

/// Whether a thread of that name and process waits for a disk.
fn is_stuck(pid: i32, thread: &str) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats.into_iter().any(|stat| stat.contains(&format!("({thread}")) && stat.contains(") D "))
}

#[test]
fn who_comes_during_a_release_does_not_wait_for_its_proof() {
    let hsm = Hsm::start(FsKind::Ext4);
    let content = noise(2, 100_000);
    let path = hsm.file("f", &content);
    hsm.archive(&[&path]);
    hsm.settle();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let movers: Vec<_> = hsm.mover_pids().into_iter().map(|pid| sys::process::PidFd::open(pid).unwrap()).collect();
    movers.iter().for_each(|mover| mover.kill(19).unwrap());
    let agent = hsm.agent_pid();

    let root = hsm.fs.path();
    let frozen = Frozen::new(&root);
    let mut release = hsm.site.command().arg("release").arg(&path).spawn().unwrap();
    wait_until(LONG, "the file is held", || is_stuck(agent, "release"));
    let reader = cat(&path);
    wait_until(LONG, "the reader waits", || {
        hsm.status().unwrap()["source"]["guard"]["waiting_readers"].as_u64().is_some_and(|waiting| waiting > 0)
    });
    drop(frozen);
    assert!(reader.wait_with_output().unwrap().stdout == content);
    assert!(release.try_wait().unwrap().is_none(), "no mover has hashed it");
    movers.iter().for_each(|mover| mover.kill(18).unwrap());
    assert!(release.wait().unwrap().success() && is_released(&path));
}
