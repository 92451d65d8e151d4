//! Who is served first, how fast, and limits that change while everything runs.

use crate::support::{Hsm, LONG, edit, hsm_state, is_released, noise};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use testkit::{FsKind, wait_until};

/// A reader that is a process of this user. The directories above the filesystem are for root only.
fn cat_as(uid: u32, hsm: &Hsm, name: &str) -> Child {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}")).args(["--clear-groups", "cat", name]).current_dir(hsm.fs.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn content_of(reader: Child) -> Vec<u8> {
    let out = reader.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn reload(hsm: &Hsm) -> Value {
    serde_json::from_str(&hsm.site.sifaka_ok(&["reload", "--json"])).unwrap()
}

fn keys(reloaded: &Value, of: &str) -> Vec<String> {
    reloaded[of].as_array().unwrap().iter().map(|setting| setting["key"].as_str().unwrap().to_owned()).collect()
}

fn mover(hsm: &Hsm) -> Value {
    hsm.status().unwrap()["agent"]["movers"][0].clone()
}

#[test]
fn one_read_is_served_amid_the_storm_of_another_user() {
    const STORM: usize = 40;
    const SLOW: &str = "bandwidth_limit = \"64KiB/s\"\nmax_in_flight = 4";
    // A file in a second or two, so that the order is plain.
    let hsm = Hsm::start_with(FsKind::Ext4, 256, |_| {});
    let names: Vec<String> = (0..STORM).map(|n| format!("storm{n}")).collect();
    let content = |n: usize| noise(n as u64, 100_000);
    let storm: Vec<PathBuf> = names.iter().enumerate().map(|(n, name)| hsm.file(name, &content(n))).collect();
    let single = hsm.file("single", &content(STORM));
    let all: Vec<&Path> = storm.iter().chain([&single]).map(PathBuf::as_path).collect();
    hsm.archive(&all);
    hsm.release(&all);
    edit(&hsm.site.posix_config(), "  id = 1\n", &format!("  id = 1\n{SLOW}\n"));
    reload(&hsm);
    wait_until(LONG, "the limits count", || mover(&hsm)["credits"] == 4);

    let readers: Vec<Child> = names.iter().map(|name| cat_as(1001, &hsm, name)).collect();
    let released = || storm.iter().filter(|path| is_released(path)).count();
    let blocked = || hsm.status().unwrap()["source"]["blocked_readers"].as_u64().unwrap() as usize;
    wait_until(LONG, "the storm is there", || blocked() + STORM - released() >= STORM - 1);
    let before = released();
    assert_eq!(content_of(cat_as(1002, &hsm, "single")), content(STORM));
    let after = released();
    assert!(before - after <= 6, "{before} were waiting when one came, {after} when it had been served");
    assert!(after >= STORM / 4, "only {after} were still waiting: this proves nothing");

    edit(&hsm.site.posix_config(), SLOW, "");
    reload(&hsm);
    for (n, reader) in readers.into_iter().enumerate() {
        assert!(content_of(reader) == content(n), "storm{n}");
    }
    assert_eq!(blocked(), 0);
}

#[test]
fn a_queued_restore_goes_first_when_somebody_reads_the_file() {
    const FILES: usize = 30;
    const SLOW: &str = "bandwidth_limit = \"128KiB/s\"\nmax_in_flight = 4";
    let hsm = Hsm::start_with(FsKind::Ext4, 256, |_| {});
    let content = |n: usize| noise(n as u64, 100_000);
    let files: Vec<PathBuf> = (0..FILES).map(|n| hsm.file(&format!("f{n}"), &content(n))).collect();
    let all: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    hsm.archive(&all);
    hsm.release(&all);
    edit(&hsm.site.posix_config(), "  id = 1\n", &format!("  id = 1\n{SLOW}\n"));
    reload(&hsm);
    wait_until(LONG, "the limits count", || mover(&hsm)["credits"] == 4);
    hsm.ok(&["restore"], &all);
    let released = || files.iter().filter(|path| is_released(path)).count();
    wait_until(LONG, "one is restored", || released() < FILES);
    let before = released();
    assert!(fs::read(&files[FILES - 1]).unwrap() == content(FILES - 1));
    let after = released();
    assert!(before - after <= 8, "{before} were away when it was opened, {after} when it was there");
    edit(&hsm.site.posix_config(), SLOW, "");
    reload(&hsm);
    hsm.settle();
    assert_eq!(released(), 0);
}

#[test]
fn limits_change_while_archives_run_and_a_wrong_file_changes_nothing() {
    let hsm = Hsm::start_with(FsKind::Ext4, 256, |site| {
        site.add_archive_setting("bandwidth_limit = \"64KiB/s\"\nmax_in_flight = 2");
        site.add_agent_setting("restore { timeout_s = 1000 }");
    });
    let (posix, agent) = (hsm.site.posix_config(), hsm.site.agent_config());
    let pids = (hsm.agent_pid(), hsm.mover_pids());
    let files: Vec<_> = (0..8).map(|n| hsm.file(&format!("f{n}"), &noise(n, 300_000))).collect();
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    hsm.ok(&["archive"], &paths);
    // An eighth of two is one, and it is left to readers.
    wait_until(LONG, "one is archived", || mover(&hsm)["in_flight"] == 1);
    assert_eq!(mover(&hsm)["credits"], 2);

    // Everything is checked before anything changes.
    let right = fs::read_to_string(&posix).unwrap();
    edit(&agent, "timeout_s = 1000", "timeout_s = 999");
    edit(&posix, "max_in_flight = 2", "max_in_fligt = 7");
    let refused = hsm.site.sifaka(&["reload"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(said.contains("lhsm-plugin-posix:") && said.contains("`max_in_flight`"), "{said}");
    edit(&agent, "timeout_s = 999", "timeout_s = true");
    fs::write(&posix, &right).unwrap();
    assert_eq!(hsm.site.sifaka(&["reload"]).status.code(), Some(4));
    assert_eq!(mover(&hsm)["credits"], 2);

    // What can change does, all the rest is named, and the archives go on.
    edit(&agent, "timeout_s = true", "timeout_s = 998");
    edit(&agent, "enabled_plugins", "handler_count = 3\nenabled_plugins");
    edit(&agent, "  socket_dir =", "  type = \"grpc\"\n  socket_dir =");
    edit(&agent, "plugin_dir = \"", "plugin_dir = \"/nowhere");
    edit(&posix, "bandwidth_limit = \"64KiB/s\"\nmax_in_flight = 2", "max_in_flight = 7");
    let done = reload(&hsm);
    assert_eq!(keys(&done, "applied"), ["handler_count", "restore.timeout_s"]);
    assert_eq!(keys(&done, "needs_restart"), ["plugin_dir"]);
    let told: Vec<_> = done["movers"].as_array().unwrap().iter().map(|mover| mover["told"] == true).collect();
    assert_eq!(told, [true], "{done}");
    wait_until(LONG, "the mover's limit", || mover(&hsm)["credits"] == 7);
    assert_eq!(hsm.status().unwrap()["agent"]["in_flight_limit"], 30);
    hsm.settle();
    assert!(paths.iter().all(|path| hsm_state(path).is_clean_copy()));
    let again = reload(&hsm);
    assert_eq!((keys(&again, "applied").len(), keys(&again, "needs_restart")), (0, vec!["plugin_dir".to_owned()]));
    assert_eq!((hsm.agent_pid(), hsm.mover_pids()), pids, "everybody is who it was");
}

#[test]
fn sighup_has_the_agent_read_its_file() {
    let hsm = Hsm::start_with(FsKind::Ext4, 128, |_| {});
    let path = hsm.file("f", b"content");
    edit(&hsm.site.agent_config(), "enabled_plugins", "default_archive = 3\nenabled_plugins");
    sys::process::PidFd::open(hsm.agent_pid()).unwrap().kill(1).unwrap();
    let log = || hsm.agent.as_ref().unwrap().log();
    wait_until(LONG, "the setting changed", || log().contains("default_archive"));
    hsm.ok(&["archive"], &[&path]);
    let actions = hsm.ok(&["actions", "--json"], &[]);
    let action: Value = serde_json::from_str(actions.lines().next().unwrap()).unwrap();
    assert_eq!(action["archive_id"], 3, "{actions}");
    // Wrong: said in the log, and no more.
    edit(&hsm.site.agent_config(), "default_archive = 3", "default_archive = 0");
    sys::process::PidFd::open(hsm.agent_pid()).unwrap().kill(1).unwrap();
    wait_until(LONG, "the error is logged", || log().contains("`default_archive` must be between"));
    hsm.ok(&["cancel"], &[&path]);
    hsm.ok(&["archive", "-i", "1", "--wait"], &[&path]);

    // A signal to the whole service reaches the guard too, which has nothing to read, and stays.
    let guard = hsm.guard_pid();
    sys::process::PidFd::open(guard).unwrap().kill(1).unwrap();
    hsm.release(&[&path]);
    assert_eq!(fs::read(&path).unwrap(), b"content");
    assert_eq!(hsm.guard_pid(), guard);
}
