//! On Lustre: archive, release, restore, remove, cancel; what is retried; a stop in order.

use crate::lustre_kit::{ARCHIVED, Lustre, RELEASED};
use crate::support::{self, LONG, noise};
use lustre_standin::{Status, control};
use model::{ActionData, xattr};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use sys::lustre::UserAction;
use testkit::{FsKind, LoopFs, wait_until};

#[test]
fn p5_a_file_goes_to_the_archive_and_comes_back_for_its_reader() {
    let lustre = Lustre::start();
    for (number, size) in [0, 1, 70_000, 3 << 20].into_iter().enumerate() {
        let content = noise(number as u64 + 1, size);
        let path = lustre.released(&format!("f{number}"), &content);
        assert!(!lustre.uuid(&path).is_empty());
        assert_eq!(lustre.read(&path), Ok(content), "{}", lustre.log());
        assert_eq!(lustre.flags(&path) & (RELEASED | ARCHIVED), ARCHIVED);
    }
    lustre.nothing_is_left();
    assert!(lustre.statuses().iter().all(|status| *status == Status::Succeeded));
    assert_eq!(lustre.status()["source"]["kind"], "lustre");
    let finished = lustre.site.sifaka_ok(&["actions", "--finished", "--json"]);
    let fid = lustre.fid(&lustre.fs.path().join("f1")).to_string();
    assert!(finished.contains(&fid) && finished.contains("/f1 ") && finished.contains("cookie 0x"), "{finished}");
}

#[test]
fn many_files_are_restored_and_removed_when_asked() {
    let lustre = Lustre::start();
    control::set(&lustre.root, "max_requests", "32").unwrap();
    let files: Vec<_> = (0..60).map(|n| lustre.file(&format!("f{n}"), &noise(n, 5000))).collect();
    let paths: Vec<_> = files.iter().map(|path| path.as_path()).collect();
    lustre.ask(UserAction::Archive, &paths);
    lustre.settle();
    lustre.ask(UserAction::Release, &paths);
    lustre.ask(UserAction::Restore, &paths);
    lustre.settle();
    for (n, path) in paths.iter().enumerate() {
        assert_eq!(fs::read(path).unwrap(), noise(n as u64, 5000));
    }
    lustre.ask(UserAction::Remove, &paths);
    lustre.nothing_is_left();
    for path in &paths {
        assert_eq!((lustre.flags(path), lustre.uuid(path)), (0, String::new()));
    }
    assert!(lustre.statuses().iter().all(|status| *status == Status::Succeeded), "{:?}", lustre.statuses());
}

#[test]
fn a_removed_file_s_object_is_found_by_the_request_s_data() {
    let lustre = Lustre::start();
    let path = lustre.file("gone", b"content");
    lustre.archive(&path);
    let fid = lustre.fid(&path);
    let data = ActionData { file_id: lustre.uuid(&path).into_bytes(), mover_data: Vec::new() }.to_json();
    // The stand-in keeps a name in .lustre/fid: the file goes with both.
    fs::remove_file(&path).unwrap();
    let _ = fs::remove_file(lustre.fs.path().join(format!(".lustre/fid/{fid}")));
    let items = [(fid, model::Extent::WHOLE)];
    let ask = |data: &[u8]| {
        let asked = sys::lustre::Request { action: UserAction::Remove, archive_id: 1, flags: 0, items: &items, data };
        sys::lustre::request(&lustre.library, &lustre.fs.path(), &asked).unwrap();
        lustre.settle();
    };
    ask(b"");
    assert_eq!(lustre.statuses()[1..], [Status::Failed]);
    assert_eq!(lustre.requests()[1].errno, 61, "ENODATA");
    ask(data.as_bytes());
    assert_eq!(lustre.statuses()[2..], [Status::Succeeded]);
    lustre.nothing_is_left();
}

#[test]
fn what_fails_for_now_is_tried_again_and_the_coordinator_hears_of_the_end_alone() {
    // An archive without room.
    let small = LoopFs::new(FsKind::Ext4, 16);
    let filler = small.path().join("filler");
    let lustre = Lustre::start_with(|site| site.set_archive_root(&small.path()));
    fill(&filler);
    let path = lustre.file("f", &noise(3, 4 << 20));
    lustre.ask(UserAction::Archive, &[&path]);
    wait_until(LONG, "it was tried", || lustre.actions().iter().any(|a| a["attempts"].as_u64() > Some(0)));
    assert_eq!(lustre.statuses(), [Status::Started]);
    fs::remove_file(&filler).unwrap();
    lustre.nothing_is_left();
    assert_eq!(lustre.statuses(), [Status::Succeeded]);
    assert_eq!(lustre.flags(&path) & ARCHIVED, ARCHIVED);
}

/// Until there is no room any more.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[1; 65536]).is_ok() {}
    let _ = file.sync_all();
}

#[test]
fn a_killed_mover_s_actions_are_done_by_the_next_one() {
    let lustre = Lustre::start_with(|site| site.add_archive_setting("bandwidth_limit = \"4MiB/s\""));
    let content = noise(4, 12 << 20);
    let path = lustre.file("f", &content);
    lustre.ask(UserAction::Archive, &[&path]);
    lustre.wait("progress is told", |requests| requests.iter().any(|r| !r.progress.is_empty()));
    lustre.mover_pids().into_iter().for_each(support::kill);
    lustre.nothing_is_left();
    assert_eq!(lustre.statuses(), [Status::Succeeded]);
    assert_eq!(lustre.flags(&path) & ARCHIVED, ARCHIVED);
}

#[test]
fn a_cancel_ends_an_action_once_wherever_it_is() {
    let lustre = Lustre::start_with(|site| site.add_archive_setting("bandwidth_limit = \"1MiB/s\""));
    control::set(&lustre.root, "max_requests", "50").unwrap();
    let path = lustre.file("running", &noise(1, 16 << 20));
    lustre.ask(UserAction::Archive, &[&path]);
    lustre.wait("progress is told", |requests| requests.iter().any(|r| !r.progress.is_empty()));
    lustre.ask(UserAction::Cancel, &[&path]);
    lustre.nothing_is_left();
    assert!(lustre.requests().iter().all(|r| r.status != Status::Started), "{:?}", lustre.requests());
    assert_eq!(lustre.requests()[0].status, Status::Canceled);
    assert_eq!((lustre.flags(&path) & ARCHIVED, lustre.uuid(&path)), (0, String::new()));
    // In one list with what it cancels.
    control::set(&lustre.root, "hsm_control", "disabled").unwrap();
    let next = lustre.file("waiting", &noise(2, 16 << 20));
    lustre.ask(UserAction::Archive, &[&next]);
    lustre.ask(UserAction::Cancel, &[&next]);
    control::set(&lustre.root, "hsm_control", "enabled").unwrap();
    lustre.nothing_is_left();
    assert_eq!(lustre.flags(&next) & ARCHIVED, 0);
    // By its number, through the agent.
    let third = lustre.file("third", &noise(3, 16 << 20));
    lustre.ask(UserAction::Archive, &[&third]);
    wait_until(LONG, "a mover has it", || lustre.actions().iter().any(|action| action["mover"].is_string()));
    let action = &lustre.actions()[0];
    let fid = lustre.fid(&third).to_string();
    let asked = lustre.requests().into_iter().rfind(|request| request.fid.to_string() == fid).unwrap();
    assert!(action["mover"].as_str().is_some_and(|mover| mover.starts_with("sifaka posix")), "{action}");
    assert_eq!((&action["fid"], &action["state"]), (&fid.into(), &"running".into()));
    assert_eq!(action["cookie"], format!("{:#x}", asked.cookie));
    let id = action["id"].to_string();
    lustre.site.sifaka_ok(&["cancel", "--action", &id]);
    lustre.nothing_is_left();
    assert_eq!(lustre.flags(&third) & ARCHIVED, 0);
}

#[test]
fn p5_a_restore_that_is_short_or_wrong_is_never_ended_as_a_success() {
    let lustre = Lustre::start_with(|site| {
        site.add_archive_setting("format = \"lemur\"");
    });
    let content = noise(5, 200_000);
    let path = lustre.released("short", &content);
    let object = lustre.site.archive_files().remove(0);
    fs::File::options().write(true).open(&object).unwrap().set_len(1000).unwrap();
    assert_eq!(lustre.read(&path), Err(61), "ENODATA\n{}", lustre.log());
    assert_eq!(lustre.flags(&path) & RELEASED, RELEASED);
    assert_eq!(fs::metadata(&path).unwrap().len(), 200_000);
    fs::write(&object, noise(6, 200_000)).unwrap();
    assert_eq!(lustre.read(&path), Err(61));
    // Without a hash, the size alone says it.
    let fd = rustix::fs::open(&path, sys::OFlags::PATH, sys::Mode::empty()).unwrap();
    sys::xattr::remove(&fd, xattr::HASH).unwrap();
    fs::write(&object, &content[..1000]).unwrap();
    assert_eq!(lustre.read(&path), Err(61));
    assert_eq!(fs::metadata(&path).unwrap().len(), 200_000);
    fs::write(&object, &content).unwrap();
    assert_eq!(lustre.read(&path), Ok(content));
    lustre.nothing_is_left();
}

#[test]
fn a_file_that_is_modified_while_it_is_archived_is_dirty() {
    let lustre = Lustre::start_with(|site| site.add_archive_setting("bandwidth_limit = \"4MiB/s\""));
    let path = lustre.file("f", &noise(7, 12 << 20));
    lustre.ask(UserAction::Archive, &[&path]);
    lustre.wait("progress is told", |requests| requests.iter().any(|r| !r.progress.is_empty()));
    fs::write(&path, noise(8, 12 << 20)).unwrap();
    lustre.nothing_is_left();
    assert_eq!(lustre.statuses(), [Status::Failed]);
    assert_eq!(lustre.flags(&path) & ARCHIVED, 0);
}

#[test]
fn a_stop_in_order_leaves_what_waits_to_the_next_agent() {
    let mut lustre = Lustre::start_with(|site| site.add_archive_setting("bandwidth_limit = \"2MiB/s\""));
    control::set(&lustre.root, "max_requests", "50").unwrap();
    let paths: Vec<_> = (0..6).map(|n| lustre.file(&format!("f{n}"), &noise(n, 2 << 20))).collect();
    let paths: Vec<_> = paths.iter().map(|path| path.as_path()).collect();
    lustre.ask(UserAction::Archive, &paths);
    lustre.wait("progress is told", |requests| requests.iter().any(|r| !r.progress.is_empty()));
    lustre.stop_agent();
    assert!(control::clients(&lustre.root).unwrap().is_empty(), "it unregistered");
    lustre.start_agent();
    lustre.nothing_is_left();
    assert!(lustre.statuses().iter().all(|status| *status == Status::Succeeded), "{:?}", lustre.requests());
}

/// One registration for all of them: with work for the first archive, the next registration might be long in coming. One that fails is not waited for.
#[test]
fn the_agent_registers_when_all_its_movers_have_come_or_failed() {
    let lustre = Lustre::start_with(|site| {
        site.add_mover("noop", "archive \"2\" {\n  id = 2\n}\n");
        site.add_mover("broken", "");
        let slow = format!("sleep 3; exec {} mover noop", testkit::sifaka_binary().display());
        for (name, script) in [("noop", slow.as_str()), ("broken", "exit 1")] {
            let program = site.plugin_dir().join(name);
            fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
    });
    let clients = control::clients(&lustre.root).unwrap();
    assert_eq!(clients.iter().map(|client| &client.archives[..]).collect::<Vec<_>>(), [[1, 2]], "{}", lustre.log());
}
