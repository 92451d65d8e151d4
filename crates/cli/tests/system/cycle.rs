//! Archive, release, restore, remove, cancel: each as asked for, and what is left behind.

use crate::support::{Hsm, LONG, blocks, hsm_state, is_released, noise, number, queued, uuid_of};
use model::HsmFlags;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use testkit::{FsKind, LoopFs, Site, faults, wait_until};

#[test]
fn files_go_and_come_back_on_every_filesystem() {
    for kind in FsKind::ALL {
        let hsm = Hsm::start(kind);
        let files = hsm.files(16);
        let paths: Vec<&Path> = files.iter().map(|(p, _)| p.as_path()).collect();
        let before: Vec<_> = paths.iter().map(|p| fs::metadata(p).unwrap()).collect();
        hsm.archive(&paths);
        assert_eq!(hsm.objects(), files.len());
        hsm.release(&paths);
        for ((path, content), before) in files.iter().zip(&before) {
            assert_eq!(fs::metadata(path).unwrap().len(), content.len() as u64, "a released file keeps its size");
            // ext4 counts the block that holds the attributes.
            assert!(blocks(path) <= 8, "{kind:?} {}: {} blocks", path.display(), blocks(path));
            assert_eq!(fs::read(path).unwrap(), *content, "{kind:?} {}", path.display());
            assert!(!is_released(path));
            let after = fs::metadata(path).unwrap();
            let times = |m: &fs::Metadata| (m.mtime(), m.mtime_nsec());
            assert_eq!(times(&after), times(before), "mtime is as before");
        }
        // Nothing changed: they can go again without being archived again.
        hsm.release(&paths);
        hsm.ok(&["restore", "--wait"], &paths);
        for (path, content) in &files {
            assert!(!is_released(path));
            assert_eq!(fs::read(path).unwrap(), *content);
        }
        hsm.ok(&["remove", "--wait"], &paths);
        assert_eq!(hsm.site.archive_files(), Vec::<std::path::PathBuf>::new());
        assert!(paths.iter().all(|p| hsm_state(p).flags == HsmFlags::empty() && uuid_of(p).is_empty()));
        assert_eq!(hsm.temporary_files(), 0);
    }
}

#[test]
fn an_empty_file_is_archived_and_released_and_read() {
    let hsm = Hsm::start(FsKind::Ext4);
    let path = hsm.archived_and_released("empty", b"");
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn holes_are_kept() {
    use std::io::{Seek, SeekFrom, Write};
    let hsm = Hsm::start(FsKind::Xfs);
    let path = hsm.path("sparse");
    let mut file = fs::File::create(&path).unwrap();
    file.seek(SeekFrom::Start(64 << 20)).unwrap();
    file.write_all(&noise(1, 5000)).unwrap();
    file.set_len(128 << 20).unwrap();
    drop(file);
    let before = (blocks(&path), fs::read(&path).unwrap());
    hsm.archive(&[&path]);
    hsm.release(&[&path]);
    assert!(fs::read(&path).unwrap() == before.1);
    assert!(blocks(&path) <= before.0 + 256, "{} blocks were {}", blocks(&path), before.0);
}

#[test]
fn a_file_archived_again_has_one_object() {
    let hsm = Hsm::start(FsKind::Ext4);
    let path = hsm.file("f", b"one");
    hsm.archive(&[&path]);
    let first = uuid_of(&path);
    fs::write(&path, b"two").unwrap();
    wait_until(LONG, "a changed file is dirty", || hsm_state(&path).flags.contains(HsmFlags::DIRTY));
    hsm.archive(&[&path]);
    assert_ne!(uuid_of(&path), first);
    hsm.settle();
    assert_eq!(hsm.objects(), 1, "the old object is gone");
    hsm.release(&[&path]);
    assert_eq!(fs::read(&path).unwrap(), b"two");
    // Clean: nothing to do, unless insisted on.
    let second = uuid_of(&path);
    fs::read(&path).unwrap();
    hsm.archive(&[&path]);
    assert_eq!(uuid_of(&path), second);
    hsm.ok(&["archive", "--wait", "--force"], &[&path]);
    assert_ne!(uuid_of(&path), second);
}

#[test]
fn directories_recurse_and_lists_are_taken_from_standard_input() {
    let hsm = Hsm::start(FsKind::Btrfs);
    let tree = hsm.path("tree");
    fs::create_dir(&tree).unwrap();
    testkit::tree::TreeSpec::new(7, 60).build(&tree);
    let before = testkit::tree::snapshot(&tree);
    hsm.ok(&["archive", "--wait"], &[&tree]);
    hsm.ok(&["release"], &[&tree]);
    testkit::tree::assert_same(&before, &testkit::tree::snapshot(&tree));
}

/// The last link goes: so does the object, after the grace period.
#[test]
fn p7_the_object_of_a_removed_file_goes() {
    let hsm = Hsm::start_with(FsKind::Ext4, 128, |site| site.add_agent_setting("remove_grace_s = 0"));
    let path = hsm.file("f", b"content");
    let link = hsm.path("link");
    fs::hard_link(&path, &link).unwrap();
    hsm.archive(&[&path]);
    fs::remove_file(&path).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(hsm.objects(), 1, "a link is left");
    fs::remove_file(&link).unwrap();
    wait_until(LONG, "the object is gone", || hsm.objects() == 0);
}

/// What was acknowledged is there after a power failure of both filesystems.
#[test]
fn p1_an_acknowledged_archive_survives_a_power_failure() {
    for kind in [FsKind::Ext4, FsKind::Xfs] {
        let archive = LoopFs::new(kind, 400);
        let root = archive.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut hsm = Hsm::start_with(kind, 400, |site| site.set_archive_root(&root));
        let files = hsm.files(24);
        let paths: Vec<&Path> = files.iter().map(|(p, _)| p.as_path()).collect();
        hsm.archive(&paths);
        let identities: Vec<_> = paths.iter().map(|p| (uuid_of(p), hsm_state(p))).collect();
        faults::shut_down(&hsm.fs);
        faults::shut_down(&archive);
        let pids = [hsm.agent_pid(), hsm.guard_pid()];
        pids.into_iter().for_each(crate::support::kill);
        hsm.agent = None;
        for left in sys::mounts::mounts_under(hsm.site.mount_root()).unwrap() {
            // Movers that were killed with the agent may not be gone yet.
            wait_until(LONG, "unmounted", || sys::mounts::unmount(&left, false).is_ok());
        }
        hsm.fs.remount();
        archive.remount();
        for ((path, content), identity) in files.iter().zip(&identities) {
            assert_eq!((uuid_of(path), hsm_state(path)), *identity, "{kind:?}");
            assert!(crate::support::archived(&root, &identity.0) == *content, "{kind:?} {}", path.display());
        }
    }
}

#[test]
fn p4_a_queued_and_a_running_action_are_cancelled() {
    // One thread: the large file is running, the others wait behind it.
    let hsm = Hsm::start_with(FsKind::Ext4, 1500, |site| site.add_archive_setting("compression = \"gzip\""));
    let large: Vec<_> = (0..4).map(|i| hsm.file(&format!("large{i}"), &noise(i, 256 << 20))).collect();
    // So that nobody waits for a gigabyte to be written.
    large.iter().for_each(|path| fs::File::open(path).unwrap().sync_all().unwrap());
    let paths: Vec<&Path> = large.iter().map(|p| p.as_path()).collect();
    hsm.ok(&["archive"], &paths);
    wait_until(LONG, "something runs", || {
        hsm.site.sifaka_ok(&["actions", "--json"]).contains("\"running\"") && hsm.temporary_files() > 0
    });
    hsm.ok(&["cancel"], &paths);
    hsm.settle();
    wait_until(LONG, "what was written is removed", || hsm.temporary_files() == 0);
    assert_eq!(hsm.objects(), 0, "nothing was archived");
    let finished = hsm.site.sifaka_ok(&["actions", "--finished", "--json"]);
    assert_eq!(finished.matches("\"cancelled\"").count(), paths.len(), "{finished}");
}

#[test]
fn p3_what_was_accepted_survives_a_restart() {
    let mut hsm = Hsm::start(FsKind::Ext4);
    let root = hsm.site.archive_root().to_owned();
    // Nothing can be archived for now.
    let away = root.with_extension("away");
    fs::rename(&root, &away).unwrap();
    let files = hsm.files(40);
    let paths: Vec<&Path> = files.iter().map(|(p, _)| p.as_path()).collect();
    hsm.ok(&["archive"], &paths);
    // With them, perhaps, the directory that they are in.
    assert!((40..=41).contains(&queued(&hsm.status().unwrap())));
    hsm.stop_agent();
    fs::rename(&away, &root).unwrap();
    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
    hsm.settle();
    assert_eq!(hsm.objects(), 40);
    hsm.release(&paths);
    for (path, content) in &files {
        assert!(fs::read(path).unwrap() == *content);
    }
}

#[test]
fn what_a_failed_test_leaves_ends_with_its_site() {
    let fs = LoopFs::new(FsKind::Ext4, 300);
    let site = Site::local(&fs);
    let agent = site.start_agent();
    let pids = |site: &Site| {
        let status: serde_json::Value = serde_json::from_slice(&site.sifaka(&["status", "--json"]).stdout).ok()?;
        Some((number(&status["pid"]), number(&status["source"]["guard"]["pid"])))
    };
    let (first, guard) = pids(&site).unwrap();
    // Killed, and not a word to the guard: it starts the next one.
    drop(agent);
    let mut next = first;
    wait_until(LONG, "another agent answers", || {
        next = pids(&site).map_or(first, |(pid, _)| pid);
        next != first
    });
    drop(site);
    let runs = |pid: i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| !words.is_empty());
    assert_eq!((runs(guard), runs(next)), (false, false), "the guard and the agent that it started");
    let image = fs.image();
    drop(fs);
    assert!(!image.exists(), "nothing keeps the filesystem");
}
