//! On Lustre: every call of the library fails now and then, the coordinator forgets its agents, lists are damaged; no slot
//! is lost, and no file.

use crate::lustre_kit::{ARCHIVED, Lustre};
use crate::support::{LONG, noise};
use lustre_standin::{Status, control};
use model::{Extent, Fid};
use sys::lustre::{Action, Item, UserAction};
use testkit::wait_until;

/// All functions that an agent calls.
const CALLS: [&str; 10] = [
    "llapi_hsm_action_begin",
    "llapi_hsm_action_get_dfid",
    "llapi_hsm_action_get_fd",
    "llapi_hsm_action_progress",
    "llapi_hsm_action_end",
    "llapi_hsm_copytool_recv",
    "llapi_fid2path",
    "llapi_get_mdt_index_by_fid",
    "llapi_hsm_copytool_get_fd",
    "llapi_hsm_copytool_register",
];

#[test]
fn p5_no_error_of_any_call_loses_a_slot_or_a_file() {
    let lustre = Lustre::start();
    control::set(&lustre.root, "active_request_timeout", "5").unwrap();
    let mut number = 0;
    for call in CALLS {
        for errno in [5, 22, 107] {
            number += 1;
            let content = noise(number, 3000);
            let path = lustre.file(&format!("f{number}"), &content);
            lustre.fail(call, errno, 1);
            lustre.ask(UserAction::Archive, &[&path]);
            settle_or_give_up(&lustre);
            let _ = control::heal(&lustre.root, call);
            if lustre.flags(&path) & ARCHIVED == 0 {
                lustre.ask(UserAction::Archive, &[&path]);
                settle_or_give_up(&lustre);
            }
            assert_eq!(lustre.flags(&path) & ARCHIVED, ARCHIVED, "{call} {errno}\n{}", lustre.log());
            lustre.ask(UserAction::Release, &[&path]);
            lustre.fail(call, errno, 1);
            let first = lustre.read(&path);
            assert!(matches!(&first, Err(61)) || first.as_ref() == Ok(&content), "{call} {errno}: {first:?}");
            let _ = control::heal(&lustre.root, call);
            assert_eq!(lustre.read(&path), Ok(content), "{call} {errno}\n{}", lustre.log());
        }
    }
    lustre.nothing_is_left();
}

/// An end that was not taken is over for the agent; the coordinator gives it up in time.
fn settle_or_give_up(lustre: &Lustre) {
    wait_until(LONG, "all requests end", || {
        control::take_turn(&lustre.root).unwrap();
        lustre.requests().iter().all(|request| !request.is_open())
    });
}

#[test]
fn an_agent_that_lost_its_work_registers_anew() {
    let lustre = Lustre::start_with(|site| site.add_archive_setting("bandwidth_limit = \"2MiB/s\""));
    let path = lustre.file("f", &noise(1, 12 << 20));
    lustre.ask(UserAction::Archive, &[&path]);
    lustre.wait("progress is told", |requests| requests.iter().any(|r| !r.progress.is_empty()));
    control::set(&lustre.root, "hsm_control", "shutdown").unwrap();
    control::set(&lustre.root, "hsm_control", "enabled").unwrap();
    assert!(control::clients(&lustre.root).unwrap().is_empty());
    wait_until(LONG, "it is registered again", || !control::clients(&lustre.root).unwrap().is_empty());
    wait_until(LONG, "the lost action is over", || lustre.actions().is_empty());
    let next = lustre.file("g", &noise(2, 5000));
    lustre.ask(UserAction::Archive, &[&next]);
    lustre.wait("it is archived", |requests| requests.last().unwrap().status == Status::Succeeded);
}

#[test]
fn an_mdt_that_restarts_loses_what_is_under_way_and_nothing_else() {
    let lustre = Lustre::start_with(|site| site.add_archive_setting("bandwidth_limit = \"2MiB/s\""));
    let path = lustre.file("f", &noise(1, 8 << 20));
    lustre.ask(UserAction::Archive, &[&path]);
    lustre.wait("progress is told", |requests| requests.iter().any(|r| !r.progress.is_empty()));
    control::restart_mdt(&lustre.root).unwrap();
    wait_until(LONG, "the lost action is over", || lustre.actions().is_empty());
    let next = lustre.file("g", &noise(2, 5000));
    lustre.ask(UserAction::Archive, &[&next]);
    lustre.wait("it is archived", |requests| requests.last().unwrap().status == Status::Succeeded);
}

/// A list as the coordinator writes it.
fn list(fsname: &str, archive_id: u32, count: u32, items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(1_u32.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend([0; 16]);
    out.extend(archive_id.to_le_bytes());
    out.extend([0; 4]);
    out.extend(fsname.as_bytes());
    out.push(0);
    for item in items {
        out.resize(out.len().next_multiple_of(8), 0);
        out.extend(item.as_bytes());
    }
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

fn item(action: Action, fid: Fid, cookie: u64) -> Item {
    Item::new(action, fid, fid, Extent::WHOLE, cookie, 0, b"").unwrap()
}

#[test]
fn bad_lists_are_survived_and_their_good_items_answered() {
    let lustre = Lustre::start();
    let fsname = lustre.root.fsname().unwrap();
    let nowhere = Fid { seq: 0x2_0000_0401, oid: 0xffff, ver: 0 };
    let whole = list(&fsname, 1, 2, &[item(Action::Archive, nowhere, 900), item(Action::Archive, nowhere, 901)]);
    let mut lists = vec![
        Vec::new(),
        vec![0xff; 40],
        noise(1, 400),
        whole[..whole.len() - 30].to_vec(),
        list(&fsname, 1, u32::MAX, &[item(Action::Remove, nowhere, 902)]),
        list(&fsname, 1, 1, &[item(Action::Unknown(99), nowhere, 903)]),
        list("other", 1, 1, &[item(Action::Archive, nowhere, 904)]),
        list(&fsname, 7, 1, &[item(Action::Archive, nowhere, 905)]),
        list(&fsname, 1, 1, &[item(Action::Cancel, nowhere, 906)]),
        list(&fsname, 1, 1, &[item(Action::Restore, nowhere, 907), item(Action::Restore, nowhere, 907)]),
    ];
    lists.push(list(&fsname, 1, 1, &[item(Action::Archive, Fid { seq: 0, oid: 0, ver: 0 }, 908)]));
    for bytes in lists {
        control::inject(&lustre.root, &bytes).unwrap();
    }
    let path = lustre.released("f", &noise(2, 5000));
    assert_eq!(lustre.read(&path), Ok(noise(2, 5000)));
    lustre.nothing_is_left();
    let log = lustre.log();
    for said in ["an action list is damaged", "action 99 is unknown", "another filesystem", "no mover serves archive 7"]
    {
        assert!(log.contains(said), "{said}\n{log}");
    }
}

#[test]
fn an_archive_whose_mover_is_away_waits_and_data_is_the_mover_s_when_it_is_no_json() {
    let lustre = Lustre::start();
    let path = lustre.file("f", &noise(1, 5000));
    // Archive 2 has no mover: the coordinator keeps it.
    lustre.ask_with(UserAction::Archive, &[&path], 2, b"").unwrap();
    assert_eq!(lustre.statuses(), [Status::Waiting]);
    let other = lustre.file("g", &noise(2, 5000));
    lustre.ask_with(UserAction::Archive, &[&other], 1, b"\xff\0 no json {").unwrap();
    lustre.wait("it is archived", |requests| requests[1].status == Status::Succeeded);
}

#[test]
fn a_file_that_vanishes_is_no_trouble() {
    let lustre = Lustre::start_with(|site| site.add_archive_setting("bandwidth_limit = \"4MiB/s\""));
    let path = lustre.file("f", &noise(1, 20 << 20));
    let fid = lustre.fid(&path);
    lustre.ask(UserAction::Archive, &[&path]);
    lustre.wait("progress is told", |requests| requests.iter().any(|r| !r.progress.is_empty()));
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(lustre.fs.path().join(format!(".lustre/fid/{fid}"))).unwrap();
    lustre.nothing_is_left();
    // Nobody names its object, so it goes.
    wait_until(LONG, "its object is removed", || lustre.site.archive_files().is_empty());
}

#[test]
fn doctor_and_config_check_know_lustre() {
    let lustre = Lustre::prepare(|_| {});
    let mut doctor = lustre.with_library(lustre.site.command());
    let found = doctor.args(["doctor", "--json"]).arg(lustre.fs.path()).output().unwrap();
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.status.success() && text.contains("client library") && text.contains("access by FID"), "{text}");
    assert!(!text.contains("pre-content"), "{text}");
    for (words, instead) in
        [(&["fsck"][..], "`sifaka scrub` reads"), (&["scrub", "--repair"], "`sifaka archive --force`")]
    {
        let mut command = lustre.with_library(lustre.site.command());
        let found = command.arg("--config").arg(lustre.site.agent_config()).args(words).output().unwrap();
        let text = String::from_utf8_lossy(&found.stderr).into_owned();
        assert!(found.status.code() == Some(5) && text.contains("it is on Lustre") && text.contains(instead), "{text}");
    }
    let config = lustre.site.state_dir().join("agent");
    std::fs::write(&config, "client_device = \"mgs@tcp:/fs\"\nenabled_plugins = [\"noop\"]\ncopies = [1, 2]\n")
        .unwrap();
    let found = lustre.site.command().args(["config", "check"]).arg(&config).output().unwrap();
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(text.contains("copies has no effect on Lustre"), "{text}");
}

/// An administrator's cancel hangs in an MDT that does not answer, and so does the agent's farewell.
#[test]
fn an_agent_ends_although_the_mdt_does_not_answer() {
    let mut lustre = Lustre::start();
    control::fail(&lustre.root, "llapi_hsm_action_begin", 11, None).unwrap();
    lustre.ask(UserAction::Archive, &[&lustre.file("f", b"content")]);
    wait_until(LONG, "the agent has it", || lustre.actions().len() == 1);
    for function in ["llapi_hsm_request", "llapi_hsm_copytool_unregister"] {
        control::hang(&lustre.root, function).unwrap();
    }
    let mut cancel = lustre.site.command().args(["cancel", "--all"]).spawn().unwrap();
    let agent = lustre.agent.as_ref().unwrap().pid();
    wait_until(LONG, "the agent asks the MDT", || has_a_thread_in_open(agent));
    lustre.stop_agent();
    assert!(!cancel.wait().unwrap().success());
    control::heal(&lustre.root, "llapi_hsm_action_begin").unwrap();
    for function in ["llapi_hsm_request", "llapi_hsm_copytool_unregister"] {
        control::heal(&lustre.root, function).unwrap();
    }
    lustre.start_agent();
    lustre.nothing_is_left();
    assert_eq!(lustre.statuses(), [Status::Succeeded]);
}

/// Where the stand-in holds those who call a function that hangs: in the opening of a FIFO.
fn has_a_thread_in_open(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let waits_in = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("wchan")).unwrap_or_default();
    threads.flatten().any(|thread| waits_in(thread) == "wait_for_partner")
}
