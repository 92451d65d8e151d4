//! What a file's attributes say and the queue does not: an agent that ended in between is simulated by a database of before.

use crate::support::{Hsm, LONG, hsm_state, is_released, kill, noise, uuid_of};
use model::HsmFlags;
use std::fs;
use std::path::{Path, PathBuf};
use testkit::{FsKind, LoopFs, faults, wait_until};

const SIGSTOP: i32 = 19;
/// Too large for a pack.
const SIZE: usize = 100_000;

/// Copies the queue's database, which nobody has open.
fn copy_database(from: &Path, to: &Path) {
    let of = |directory: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("queue.db")).collect()
    };
    fs::create_dir_all(to).unwrap();
    of(to).iter().for_each(|file| fs::remove_file(file).unwrap());
    for file in of(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

/// A file that was archived while the database says that this failed once and is to be tried again. No mover runs, and none
/// can be started before the returned text is put back into the movers' configuration.
fn archived_behind_the_queue(hsm: &mut Hsm, archive: &LoopFs) -> (PathBuf, Vec<u8>) {
    let path = hsm.file("f", &noise(1, SIZE));
    let ballast = faults::fill(archive, 0);
    hsm.ok(&["archive"], &[&path]);
    wait_until(LONG, "an attempt failed", || hsm.site.sifaka_ok(&["actions", "--json"]).contains("retrying"));
    hsm.stop_agent();
    drop(ballast);
    let (state, backup) = (hsm.site.state_dir(), hsm.site.state_dir().join("backup"));
    copy_database(&state, &backup);
    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
    hsm.settle();
    assert!(hsm_state(&path).flags.contains(HsmFlags::ARCHIVED));
    hsm.stop_agent();
    copy_database(&backup, &state);
    let config = fs::read(hsm.site.posix_config()).unwrap();
    fs::write(hsm.site.posix_config(), "nonsense").unwrap();
    hsm.agent = Some(hsm.site.start_agent());
    (path, config)
}

fn small_archive() -> (LoopFs, Hsm) {
    let archive = LoopFs::new(FsKind::Ext4, 64);
    let root = archive.path().join("root");
    fs::create_dir(&root).unwrap();
    let hsm = Hsm::start_with(FsKind::Xfs, 300, |site| {
        site.set_archive_root(&root);
        site.add_agent_setting("remove_grace_s = 0");
        site.add_archive_setting("compression = \"auto\"");
    });
    (archive, hsm)
}

/// A cancelled archive has what its attempts stored removed: not when its file names that.
#[test]
fn p2_a_cancelled_archive_that_was_done_keeps_its_object() {
    let (archive, mut hsm) = small_archive();
    let (path, config) = archived_behind_the_queue(&mut hsm, &archive);
    hsm.ok(&["cancel"], &[&path]);
    fs::write(hsm.site.posix_config(), config).unwrap();
    hsm.stop_agent();
    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
    hsm.settle();
    assert_eq!(hsm.objects(), 1);
    hsm.release(&[&path]);
    assert!(is_released(&path));
    assert!(fs::read(&path).unwrap() == noise(1, SIZE));
}

/// The repeated archive finds that it was done, and the queue knows the object from then on: it goes with its file.
#[test]
fn p7_an_archive_whose_result_was_lost_is_known_when_it_is_repeated() {
    let (archive, mut hsm) = small_archive();
    let (path, config) = archived_behind_the_queue(&mut hsm, &archive);
    let uuid = uuid_of(&path);
    fs::write(hsm.site.posix_config(), config).unwrap();
    hsm.stop_agent();
    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
    hsm.settle();
    assert_eq!((hsm.objects(), uuid_of(&path)), (1, uuid));
    fs::remove_file(&path).unwrap();
    wait_until(LONG, "its object is gone", || hsm.objects() == 0);
}

/// The repeated archive finds other content, and chooses another encoding for it under the same id: what it has replaced is not removed once more by
/// that id, which would take every encoding of it.
#[test]
fn p2_an_archive_that_is_repeated_in_another_encoding_keeps_its_object() {
    let (archive, mut hsm) = small_archive();
    let (path, config) = archived_behind_the_queue(&mut hsm, &archive);
    let first = uuid_of(&path);
    let content = vec![b'x'; SIZE];
    fs::write(&path, &content).unwrap();
    fs::write(hsm.site.posix_config(), config).unwrap();
    hsm.stop_agent();
    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
    hsm.settle();
    assert_eq!((uuid_of(&path), hsm.objects()), (format!("{first}.zst"), 1));
    hsm.release(&[&path]);
    assert!(fs::read(&path).unwrap() == content);
}

/// The file forgets its object first; the object goes also when the mover cannot remove it at once.
#[test]
fn p7_an_object_that_cannot_be_removed_at_once_is_removed_later() {
    let (archive, hsm) = small_archive();
    let path = hsm.file("f", &noise(2, SIZE));
    hsm.archive(&[&path]);
    // The mover does not answer: what it has is tried again with the next one.
    let mover = *hsm.mover_pids().first().unwrap();
    sys::process::PidFd::open(mover).unwrap().kill(SIGSTOP).unwrap();
    hsm.ok(&["remove"], &[&path]);
    wait_until(LONG, "the file has forgotten it", || !hsm_state(&path).flags.contains(HsmFlags::ARCHIVED));
    wait_until(LONG, "the mover has it", || {
        hsm.site.sifaka_ok(&["actions", "--json"]).contains("\"mover\":\"sifaka posix")
    });
    kill(mover);
    wait_until(LONG, "its object is gone", || hsm.objects() == 0);
    hsm.settle();
    drop(archive);
}
