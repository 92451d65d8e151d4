//! On Lustre: an agent that dies anywhere leaves nothing that the next one does not settle, and no slot is lost.

use crate::lustre_kit::{ARCHIVED, Lustre, RELEASED};
use crate::support::noise;
use lustre_standin::{Status, control};
use std::fs;
use std::time::Duration;
use sys::lustre::UserAction;

const SLOW: &str = "bandwidth_limit = \"1MiB/s\"";

/// Removes the mover's brake.
fn hurry(lustre: &Lustre) {
    crate::support::edit(&lustre.site.posix_config(), SLOW, "");
}

#[test]
fn p5_killed_with_archives_received_begun_and_told_of_progress() {
    let mut lustre = Lustre::start_with(|site| site.add_archive_setting(&format!("{SLOW}\nmax_in_flight = 2")));
    control::set(&lustre.root, "max_requests", "8").unwrap();
    // Two are with the mover, the others only received; and what does not fit waits at the coordinator.
    let files: Vec<_> = (0..12).map(|n| lustre.file(&format!("f{n}"), &noise(n, 3 << 20))).collect();
    let paths: Vec<_> = files.iter().map(|path| path.as_path()).collect();
    lustre.ask(UserAction::Archive, &paths);
    lustre.wait("progress is told", |requests| requests.iter().any(|r| !r.progress.is_empty()));
    lustre.kill_agent();
    assert_eq!(lustre.statuses().iter().filter(|status| **status == Status::Started).count(), 8);
    hurry(&lustre);
    lustre.start_agent();
    lustre.nothing_is_left();
    assert!(lustre.statuses().iter().all(|status| *status == Status::Succeeded), "{:?}", lustre.requests());
    for (n, path) in paths.iter().enumerate() {
        lustre.ask(UserAction::Release, &[path]);
        assert_eq!(lustre.read(path), Ok(noise(n as u64, 3 << 20)));
    }
}

#[test]
fn p5_a_restore_that_had_begun_is_done_by_the_next_agent_for_the_same_reader() {
    let mut lustre = Lustre::start_with(|site| site.add_archive_setting(SLOW));
    let content = noise(1, 20 << 20);
    hurry(&lustre);
    lustre.stop_agent();
    lustre.start_agent();
    let path = lustre.released("f", &content);
    crate::support::edit(&lustre.site.posix_config(), "archive \"1\" {", &format!("archive \"1\" {{\n{SLOW}"));
    lustre.stop_agent();
    lustre.start_agent();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| control::read(&path, Duration::from_secs(100)));
        lustre.wait("it is begun", |requests| requests.iter().any(|r| r.status == Status::Started));
        testkit::wait_until(crate::support::LONG, "a mover has it", || {
            lustre.actions().iter().any(|a| a["state"] == "running")
        });
        lustre.kill_agent();
        hurry(&lustre);
        lustre.start_agent();
        assert_eq!(reader.join().unwrap().unwrap(), content);
    });
    lustre.nothing_is_left();
}

#[test]
fn p5_a_restore_whose_progress_was_told_fails_and_the_next_reader_gets_the_file() {
    let mut lustre = Lustre::start();
    let content = noise(2, 20 << 20);
    let path = lustre.released("f", &content);
    crate::support::edit(&lustre.site.posix_config(), "archive \"1\" {", &format!("archive \"1\" {{\n{SLOW}"));
    lustre.stop_agent();
    lustre.start_agent();
    lustre.ask(UserAction::Restore, &[&path]);
    lustre.wait("progress is told", |requests| requests.iter().any(|r| !r.progress.is_empty() && r.is_open()));
    lustre.kill_agent();
    hurry(&lustre);
    lustre.start_agent();
    lustre.nothing_is_left();
    assert_eq!(lustre.statuses()[1], Status::Failed, "{:?}", lustre.requests());
    assert_eq!(lustre.flags(&path) & RELEASED, RELEASED);
    assert_eq!(lustre.read(&path), Ok(content));
    lustre.nothing_is_left();
}

#[test]
fn p5_killed_between_the_end_and_its_record() {
    let mut lustre = Lustre::start();
    let path = lustre.file("f", &noise(3, 10_000));
    let journal = lustre.site.state_dir().join("lustre.db");
    lustre.ask(UserAction::Archive, &[&path]);
    lustre.settle();
    lustre.kill_agent();
    // Killed before the end was written down, or nearly so: then its item is put back as it was.
    let db = rusqlite::Connection::open(&journal).unwrap();
    let ended: i64 = db.query_row("SELECT count(*) FROM ended", [], |row| row.get(0)).unwrap();
    if ended == 1 {
        let bytes = item(&lustre, &path);
        db.execute(
            "INSERT INTO item VALUES (1, ?1, 3, 1, 1, 0, 1, 1, 'f00d0000-0000-0000-0000-000000000000', NULL, '', ?2)",
            rusqlite::params![lustre.requests()[0].cookie.cast_signed(), bytes],
        )
        .unwrap();
    }
    drop(db);
    lustre.start_agent();
    lustre.nothing_is_left();
    assert_eq!(lustre.statuses(), [Status::Succeeded]);
    assert_eq!(lustre.flags(&path) & ARCHIVED, ARCHIVED);
    assert!(!lustre.uuid(&path).starts_with("f00d"));
    let next = lustre.released("g", &noise(4, 5000));
    assert_eq!(lustre.read(&next), Ok(noise(4, 5000)));
}

/// The item that the coordinator sent for the first request.
fn item(lustre: &Lustre, path: &std::path::Path) -> Vec<u8> {
    let (fid, cookie) = (lustre.fid(path), lustre.requests()[0].cookie);
    let item = sys::lustre::Item::new(sys::lustre::Action::Archive, fid, fid, model::Extent::WHOLE, cookie, 0, b"");
    item.unwrap().as_bytes().to_vec()
}

#[test]
fn a_damaged_journal_is_put_aside() {
    let mut lustre = Lustre::start();
    lustre.stop_agent();
    let journal = lustre.site.state_dir().join("lustre.db");
    fs::write(&journal, noise(1, 40_000)).unwrap();
    let _ = fs::remove_file(journal.with_extension("db-wal"));
    lustre.start_agent();
    assert!(lustre.site.state_dir().join("lustre.db.damaged-1").exists());
    let path = lustre.file("f", b"content");
    lustre.archive(&path);
}

#[test]
fn one_agent_a_filesystem_and_host() {
    let lustre = Lustre::start();
    let other = testkit::Site::local(&lustre.fs);
    let second = lustre.with_library(other.agent_command()).output().unwrap();
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("another agent of this host serves the Lustre filesystem"), "{text}");
}
