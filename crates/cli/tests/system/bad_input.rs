//! What nobody should send or store, met by the whole system: attributes, requests, databases, configurations.
//!
//! The rule is always the same: a clear refusal, the same processes as before, and nothing touched outside the archive.

use crate::support::{Hsm, LONG, cat, hsm_state, is_released, noise};
use model::xattr;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use testkit::{FsKind, LoopFs, Scratch, Site, faults, sifaka_binary, wait_until};

const SIZE: usize = 20_000;
const PATIENCE: &str = "100";

/// Sets an attribute as root does, by a path descriptor: without an event.
fn set(path: &Path, name: &str, value: &[u8]) {
    let fd = rustix::fs::open(path, sys::OFlags::PATH, sys::Mode::empty()).unwrap();
    sys::xattr::set(&fd, name, value).unwrap();
}

fn get(path: &Path, name: &str) -> Vec<u8> {
    let fd = rustix::fs::open(path, sys::OFlags::PATH, sys::Mode::empty()).unwrap();
    sys::xattr::get(&fd, name).unwrap().unwrap_or_default()
}

/// Reads in a process of its own, which is ended when it waits for too long.
fn read(path: &Path) -> Output {
    let out = Command::new("timeout").args([PATIENCE, "cat"]).arg(path).output().unwrap();
    assert_ne!(out.status.code(), Some(124), "{} is never read", path.display());
    out
}

fn told(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// An archive in a directory with something beside it that no request may reach.
struct Surroundings {
    scratch: Scratch,
    content: Vec<u8>,
}

impl Surroundings {
    fn new() -> Self {
        let scratch = Scratch::new("archive");
        let content = noise(99, 5000);
        fs::create_dir(scratch.join("root")).unwrap();
        fs::write(scratch.join("canary"), &content).unwrap();
        Self { scratch, content }
    }

    fn root(&self) -> PathBuf {
        self.scratch.join("root")
    }

    fn assert_untouched(&self, why: &str) {
        let mut names: Vec<_> =
            fs::read_dir(self.scratch.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        assert_eq!(names, ["canary", "root"], "{why}");
        assert!(fs::read(self.scratch.join("canary")).unwrap() == self.content, "{why}");
    }
}

/// Agent and guard: they should be the same after anything in here.
fn processes(hsm: &Hsm) -> [i32; 2] {
    [hsm.agent_pid(), hsm.guard_pid()]
}

/// An attribute and a value that Sifaka does not write, for a file with this `trusted.hsm`.
fn hostile(hsm: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut random = noise(7, 24);
    // Still released, and of an archive that no 32-bit number names.
    random[4..8].copy_from_slice(&hsm[4..8]);
    let archive = |id: u64| [&hsm[..8], &id.to_le_bytes(), &hsm[16..]].concat();
    let uuid = |text: &str| (xattr::UUID, text.as_bytes().to_vec());
    vec![
        (xattr::HSM, vec![1, 2, 3]),
        (xattr::HSM, vec![]),
        (xattr::HSM, noise(8, 65_536)),
        (xattr::HSM, random),
        (xattr::HSM, archive(77)),
        (xattr::HSM, archive(0)),
        uuid("../../canary"),
        uuid("../../../canary"),
        uuid("/etc/passwd"),
        uuid(""),
        uuid(".."),
        uuid("aaaa/../../../canary"),
        (xattr::UUID, vec![b'a'; 65_536]),
        (xattr::UUID, vec![0xff, 0xfe, b'/', 0x80]),
        (xattr::UUID, b"abcdef\0../canary".to_vec()),
        (xattr::HASH, b"this is no hash".to_vec()),
        (xattr::HASH, vec![0xff; 40]),
        (xattr::HASH, vec![b'a'; 65_536]),
        (xattr::RECORD, vec![1, 0, 0]),
        (xattr::RECORD, vec![]),
        (xattr::RECORD, noise(9, 65_536)),
        (xattr::URL, noise(10, 60_000)),
    ]
}

/// What is damaged has a short time to be read, what is good a long one. XFS alone takes values of 64 KiB.
#[test]
fn p5_hostile_attributes_give_errors_and_never_zeros() {
    const SHORT: &str = "restore { timeout_s = 2 }";
    const LONG: &str = "restore { timeout_s = 1000 }";
    let surroundings = Surroundings::new();
    let hsm = Hsm::start_with(FsKind::Xfs, 400, |site| {
        site.set_archive_root(&surroundings.root());
        site.add_agent_setting(SHORT);
    });
    let before = processes(&hsm);
    let content = noise(1, SIZE);
    let count = hostile(&[0; 24]).len();
    let files: Vec<_> = (0..count).map(|i| hsm.file(&format!("released{i}"), &content)).collect();
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    hsm.archive(&paths);
    hsm.release(&paths);
    for (i, path) in files.iter().enumerate() {
        let (name, value) = hostile(&get(path, xattr::HSM)).swap_remove(i);
        let good = get(path, name);
        set(path, name, &value);
        let what = format!("case {i}: {name} of {} bytes", value.len());
        for round in 0..2 {
            let out = read(path);
            let harmless = name == xattr::URL && out.stdout == content;
            assert!(harmless || (!out.status.success() && out.stdout.is_empty()), "{what}, round {round}");
        }
        // The size says nothing about content: it may be asked for.
        assert_eq!(fs::metadata(path).unwrap().len(), SIZE as u64, "{what}");
        // Not waited for: an archive that nobody serves may be served one day.
        for command in [&["restore"][..], &["release"], &["remove", "--wait"], &["archive", "--wait"]] {
            let out = hsm.run(command, &[path]);
            let lost = !out.status.success() && told(&out).trim().is_empty();
            assert!(!lost, "{what}: {command:?} fails without a word");
        }
        hsm.run(&["cancel"], &[path]);
        hsm.settle();
        surroundings.assert_untouched(&what);
        set(path, name, &good);
        hsm.reconfigure(SHORT, LONG);
        let out = read(path);
        assert!(out.stdout == content, "{what}: repaired, and not read: {}", told(&out));
        hsm.reconfigure(LONG, SHORT);
        assert_eq!(processes(&hsm), before, "{what}");
    }
}

#[test]
fn hostile_attributes_of_resident_files_are_named_or_harmless() {
    let surroundings = Surroundings::new();
    let hsm = Hsm::start_with(FsKind::Xfs, 400, |site| site.set_archive_root(&surroundings.root()));
    let before = processes(&hsm);
    let content = noise(2, SIZE);
    let count = hostile(&[0; 24]).len();
    let files: Vec<_> = (0..count).map(|i| hsm.file(&format!("resident{i}"), &content)).collect();
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    hsm.archive(&paths);
    for (i, path) in files.iter().enumerate() {
        let (name, value) = hostile(&get(path, xattr::HSM)).swap_remove(i);
        set(path, name, &value);
        let what = format!("case {i}: {name} of {} bytes", value.len());
        // Removals are not waited for: they go to an archive that nobody may serve.
        for command in [&["release"][..], &["remove"], &["archive", "--wait", "--force"]] {
            let out = hsm.run(command, &[path]);
            hsm.run(&["cancel"], &[path]);
            // What is damaged is named: the attribute, or what it said.
            let causes = [
                name,
                "object id",
                "not archived",
                "no mover serves archive",
                "it is released",
                "names no archived object",
                "a path or name",
            ];
            // A number that no archive has is refused for the file's sake.
            let beyond = value.len() == 24 && value[12..16] != [0; 4] && told(&out).contains(path.to_str().unwrap());
            let clear = out.status.success() || beyond || causes.iter().any(|cause| told(&out).contains(cause));
            assert!(clear, "{what}: {command:?}: {}", told(&out));
            surroundings.assert_untouched(&what);
        }
        // Whatever was made of it: its content, or an error.
        let out = read(path);
        assert!(out.stdout == content || (!out.status.success() && out.stdout.is_empty()), "{what}");
    }
    assert_eq!(processes(&hsm), before);
    surroundings.assert_untouched("all of it");
}

#[test]
fn hostile_data_in_requests_reaches_nothing() {
    let surroundings = Surroundings::new();
    let hsm = Hsm::start_with(FsKind::Ext4, 128, |site| site.set_archive_root(&surroundings.root()));
    let before = processes(&hsm);
    let content = noise(3, SIZE);
    let path = hsm.file("f", &content);
    let largest = "x".repeat(64 << 10);
    hsm.ok(&["archive", "--wait", "--data", &largest], &[&path]);
    let out = hsm.run(&["archive", "--wait", "--force", "--data", &format!("{largest}x")], &[&path]);
    assert!(!out.status.success() && told(&out).contains("data"), "{}", told(&out));
    // Base64 of ../../canary, ../../../canary, /etc/passwd, and of bytes that are no text.
    for id in ["Li4vLi4vY2FuYXJ5", "Li4vLi4vLi4vY2FuYXJ5", "L2V0Yy9wYXNzd2Q=", "//79"] {
        let data = json!({ "file_id": id }).to_string();
        let path = hsm.file(&format!("f{}", id.replace('/', "_")), &content);
        hsm.archive(&[&path]);
        let out = hsm.run(&["remove", "--wait", "--data", &data], &[&path]);
        assert!(!out.status.success(), "removed {id}: {}", told(&out));
        surroundings.assert_untouched(id);
        hsm.ok(&["archive", "--wait", "--force"], &[&path]);
        hsm.release(&[&path]);
        let out = hsm.run(&["restore", "--wait", "--data", &data], &[&path]);
        let honest = !out.status.success() || !is_released(&path);
        assert!(honest, "restore {id} said that all is well: {}", told(&out));
        assert!(read(&path).stdout == content, "{id}");
        surroundings.assert_untouched(id);
    }
    assert_eq!(processes(&hsm), before);
}

/// Sends bytes to the admin socket and returns what comes back until it is closed.
fn exchange(hsm: &Hsm, bytes: &[u8], end: bool) -> String {
    let mut stream = UnixStream::connect(hsm.site.admin_socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    // It may be closed before all is written: that is an answer too.
    let _ = stream.write_all(bytes);
    if end {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(hsm: &Hsm, address: &str, body: &str) -> String {
    let head =
        format!("POST {address} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    exchange(hsm, format!("{head}{body}").as_bytes(), false)
}

#[test]
fn garbage_on_the_admin_socket_leaves_the_agent_working() {
    let hsm = Hsm::start_with(FsKind::Ext4, 128, |_| {});
    let before = processes(&hsm);
    for seed in 0..20 {
        exchange(&hsm, &noise(seed, 10_000), true);
    }
    exchange(&hsm, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", true);
    // Announced and not sent; announced and sent for as long as anybody listens.
    let head = "POST /v1/requests HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 104857600\r\n\r\n";
    for sent in [0, 1 << 20, 20 << 20] {
        let answer = exchange(&hsm, &[head.as_bytes(), &vec![b' '; sent][..]].concat(), true);
        assert!(!answer.starts_with("HTTP/1.1 2"), "{sent}: {answer}");
    }
    let fsid = "0".repeat(16);
    let deep = "[".repeat(100_000);
    for body in [
        "",
        "null",
        "[]",
        "{",
        &deep,
        r#"{"command":"archive"}"#,
        r#"{"command":"format","files":[]}"#,
        r#"{"command":"archive","files":[],"fiels":1}"#,
        r#"{"command":"archive","files":[],"archive_id":0}"#,
        r#"{"command":"archive","files":[],"archive_id":-1}"#,
        r#"{"command":"archive","files":[],"data":"%%%"}"#,
        r#"{"command":"archive","files":[{"handle":"x","fsid":"0","path":""}]}"#,
        "\u{0}\u{1}",
    ] {
        let answer = post(&hsm, "/v1/requests", body);
        let shown: String = body.chars().take(60).collect();
        assert!(answer.starts_with("HTTP/1.1 4"), "{shown}: {answer}");
        let json: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert!(json["error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{shown}: {answer}");
    }
    // Well-formed, and naming what is not there: refused file by file.
    for handle in ["1:00", "1:ffffffffffffffff", "255:0000000000000000000000000000000000000000", "-5:aabb"] {
        let files = json!([{ "handle": handle, "fsid": fsid, "path": "/etc/passwd" }]);
        let answer = post(&hsm, "/v1/requests", &json!({ "command": "archive", "files": files }).to_string());
        assert!(answer.contains("refused") || answer.starts_with("HTTP/1.1 4"), "{handle}: {answer}");
        assert!(!answer.contains("\"accepted\":1"), "{handle}: {answer}");
    }
    assert_eq!(processes(&hsm), before);
    let path = hsm.archived_and_released("f", &noise(4, SIZE));
    assert!(fs::read(&path).unwrap() == noise(4, SIZE));
}

#[test]
fn a_damaged_queue_is_put_aside_and_files_keep_their_state() {
    type Damage = fn(&Path);
    let middle: Damage = |path| {
        let mut bytes = fs::read(path).unwrap();
        let length = bytes.len();
        bytes[4096..length - length / 8].copy_from_slice(&noise(5, length - length / 8 - 4096));
        fs::write(path, bytes).unwrap();
    };
    let text: Damage = |path| fs::write(path, "This is a text, and no database.\n".repeat(100)).unwrap();
    let short: Damage = |path| fs::write(path, "short").unwrap();
    for (what, damage) in [("noise in the middle", middle), ("a text", text), ("a short text", short)] {
        let mut hsm = Hsm::start_with(FsKind::Ext4, 128, |_| {});
        let content = noise(6, SIZE);
        let released: Vec<_> = (0..3).map(|i| hsm.archived_and_released(&format!("f{i}"), &content)).collect();
        let states: Vec<_> = released.iter().map(|p| (hsm_state(p), get(p, xattr::UUID))).collect();
        hsm.stop_agent();
        let database = hsm.site.state_dir().join("queue.db");
        // All of it may still be in the log beside it.
        let checkpoint =
            Command::new("sqlite3").arg(&database).arg("PRAGMA wal_checkpoint(TRUNCATE)").output().unwrap();
        assert!(checkpoint.status.success(), "{}", told(&checkpoint));
        damage(&database);
        let agent = hsm.site.start_agent();
        hsm.agent = Some(agent);
        let aside = || -> Vec<PathBuf> {
            let entries = fs::read_dir(hsm.site.state_dir()).unwrap().map(|e| e.unwrap().path());
            entries.filter(|p| p.to_str().is_some_and(|p| p.contains("queue.db.damaged-"))).collect()
        };
        wait_until(LONG, &format!("{what}: it is put aside"), || !aside().is_empty());
        hsm.wait_for_movers();
        let log = hsm.agent.as_ref().unwrap().log();
        assert!(log.contains("damaged") && log.contains("queue.db"), "{what}: {log}");
        for (path, state) in released.iter().zip(&states) {
            assert_eq!((hsm_state(path), get(path, xattr::UUID)), *state, "{what}");
            assert!(read(path).stdout == content, "{what}");
        }
        // Proofs were in the database: they are made again.
        let paths: Vec<&Path> = released.iter().map(PathBuf::as_path).collect();
        hsm.release(&paths);
        let new = hsm.archived_and_released("new", &content);
        assert!(read(&new).stdout == content, "{what}");
    }
}

/// Runs an agent that should refuse to start.
fn refusal(site: &Site) -> String {
    let mut command = Command::new("timeout");
    command.arg(PATIENCE).arg(sifaka_binary()).arg("agent").arg("--config").arg(site.agent_config());
    let out = command.output().unwrap();
    assert!(!out.status.success() && out.status.code() != Some(124), "{}", told(&out));
    told(&out)
}

fn change_config(path: &Path, change: impl FnOnce(String) -> String) {
    let text = change(fs::read_to_string(path).unwrap());
    fs::write(path, text).unwrap();
}

#[test]
fn wrong_configurations_are_refused_and_say_where() {
    let fs = LoopFs::new(FsKind::Ext4, 64);
    let mut site = Site::local(&fs);
    site.add_agent_setting("mover_hang_timout_s = 5");
    let line = fs::read_to_string(site.agent_config()).unwrap().lines().position(|l| l.contains("timout")).unwrap() + 1;
    let said = refusal(&site);
    assert!(said.contains("mover_hang_timout_s") && said.contains("mover_hang_timeout_s"), "{said}");
    assert!(said.contains(&format!("agent:{line}:")), "{said}");
    let out = site.sifaka(&["--config", site.agent_config().to_str().unwrap(), "config", "check"]);
    assert_eq!(out.status.code(), Some(4), "{}", told(&out));

    let mut site = Site::local(&fs);
    site.add_agent_setting("mover_hang_timeout_s = \"soon\"");
    let said = refusal(&site);
    assert!(said.contains("mover_hang_timeout_s") && said.contains("must be an integer"), "{said}");

    let site = Site::local(&fs);
    change_config(&site.agent_config(), |text| {
        text.lines().filter(|l| !l.starts_with("client_device")).map(|l| format!("{l}\n")).collect()
    });
    let said = refusal(&site);
    assert!(said.contains("client_device"), "{said}");

    let site = Site::at(Path::new("/nowhere/at/all"));
    let said = refusal(&site);
    assert!(said.contains("/nowhere/at/all"), "{said}");
}

/// What the mover says when it ends stands in the agent's log, and how it ended in the status.
fn mover_refuses(break_it: impl FnOnce(&Site), repair: impl FnOnce(&Site), word: &str) {
    let fs = LoopFs::new(FsKind::Ext4, 128);
    let site = Site::local(&fs);
    break_it(&site);
    let agent = Some(site.start_agent());
    let hsm = Hsm { agent, site, fs };
    let plugin = || hsm.status().map_or(Value::Null, |s| s["agent"]["plugins"][0].clone());
    wait_until(LONG, "the mover has ended twice", || plugin()["restarts"].as_u64().is_some_and(|n| n >= 1));
    assert!(plugin()["last_exit"].as_str().is_some_and(|text| !text.is_empty()), "{}", plugin());
    let log = hsm.agent.as_ref().unwrap().log();
    assert!(log.contains(word), "{word}: {log}");
    repair(&hsm.site);
    hsm.wait_for_movers();
    let path = hsm.archived_and_released("f", b"content");
    assert_eq!(fs::read(path).unwrap(), b"content");
}

#[test]
fn a_mover_with_a_readable_configuration_does_not_serve() {
    let mode = |site: &Site, mode| fs::set_permissions(site.posix_config(), fs::Permissions::from_mode(mode)).unwrap();
    mover_refuses(|site| mode(site, 0o644), |site| mode(site, 0o600), "chmod");
}

#[test]
fn a_mover_whose_archive_is_missing_does_not_serve() {
    let away = |site: &Site| site.archive_root().with_extension("away");
    mover_refuses(
        |site| fs::rename(site.archive_root(), away(site)).unwrap(),
        |site| fs::rename(away(site), site.archive_root()).unwrap(),
        "archive",
    );
}

fn live_actions(hsm: &Hsm) -> Vec<Value> {
    let text = hsm.ok(&["actions", "--json"], &[]);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn p7_a_full_archive_is_tried_again_and_nothing_is_left_over() {
    let archive = LoopFs::new(FsKind::Ext4, 64);
    let root = archive.path().join("root");
    fs::create_dir(&root).unwrap();
    let hsm = Hsm::start_with(FsKind::Xfs, 400, |site| site.set_archive_root(&root));
    let before = processes(&hsm);
    let content = noise(20, 6 << 20);
    let path = hsm.file("f", &content);
    let ballast = faults::fill(&archive, 1 << 20);
    hsm.ok(&["archive"], &[&path]);
    let retried = || {
        let actions = live_actions(&hsm);
        actions.iter().any(|a| a["attempts"].as_u64() >= Some(2) && a["last_error"]["errno"] == 28)
    };
    wait_until(LONG, "it was tried twice", retried);
    let shown = hsm.ok(&["actions"], &[]);
    assert!(shown.contains("No space left on device") && shown.contains(path.to_str().unwrap()), "{shown}");
    assert_eq!(hsm.objects(), 0);
    wait_until(LONG, "between two attempts nothing is left over", || hsm.temporary_files() == 0);
    drop(ballast);
    hsm.settle();
    assert_eq!((hsm.objects(), hsm.temporary_files()), (1, 0));
    hsm.release(&[&path]);
    assert!(read(&path).stdout == content);
    assert_eq!(processes(&hsm), before);
}

/// Attempts that movers ended with an error.
fn failures(hsm: &Hsm) -> u64 {
    let status = hsm.status().unwrap();
    status["agent"]["archives"].as_array().unwrap().iter().filter_map(|a| a["failed"].as_u64()).sum()
}

#[test]
fn p5_a_restore_without_space_gives_no_zeros() {
    for kind in FsKind::ALL {
        let hsm = Hsm::start(kind);
        let content = noise(21, 24 << 20);
        let path = hsm.archived_and_released("f", &content);
        let ballast = faults::fill(&hsm.fs, 4 << 20);
        let failed = failures(&hsm);
        let reader = cat(&path);
        wait_until(LONG, "a restore failed", || failures(&hsm) > failed);
        assert!(is_released(&path), "{kind:?}");
        drop(ballast);
        let out = reader.wait_with_output().unwrap();
        let waited = out.stdout == content;
        assert!(waited || (!out.status.success() && out.stdout.is_empty()), "{kind:?}: {}", out.stdout.len());
        assert!(read(&path).stdout == content, "{kind:?}");
    }
}

/// A small filesystem in memory over a directory. Whoever uses it still keeps it.
struct Small(PathBuf);

impl Small {
    fn over(directory: PathBuf) -> Self {
        let mount = ["-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs"];
        assert!(Command::new("mount").args(mount).arg(&directory).status().unwrap().success());
        Self(directory)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn p3_a_full_state_directory_refuses_and_loses_nothing() {
    let mut small = None;
    let mut hsm = Hsm::start_with(FsKind::Ext4, 128, |site| small = Some(Small::over(site.state_dir())));
    let before = processes(&hsm);
    let content = noise(22, SIZE);
    let paths: Vec<_> = (0..50).map(|i| hsm.file(&format!("f{i}"), &content)).collect();
    // The last one, so that the directory is archived with it as it is from then on: no request after it is about more than a file.
    let released = hsm.archived_and_released("released", &content);
    // Accepted before, and for nobody who is here.
    hsm.ok(&["archive", "-i", "7"], &[&paths[0]]);
    let ballast = hsm.site.state_dir().join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    // What the database has in hand may still do for some.
    let refused: Vec<_> = paths[1..].iter().map(|p| (p, hsm.run(&["archive"], &[p]))).collect();
    let (last, out) = refused.last().unwrap();
    assert!(!out.status.success(), "{} was accepted", last.display());
    let said = told(out).to_lowercase();
    assert!(said.contains("full") || said.contains("space"), "{said}");
    let reader = cat(&released);
    fs::remove_file(&ballast).unwrap();
    assert!(reader.wait_with_output().unwrap().stdout == content);
    let kept = live_actions(&hsm);
    assert!(kept.iter().any(|a| a["archive_id"] == 7 && a["path"] == paths[0].to_str().unwrap()), "{kept:?}");
    hsm.ok(&["cancel"], &[&paths[0]]);
    // What was accepted is done, and what was refused can be asked for again.
    // Removing what the cancelled one may have left waits for archive 7 still.
    let done = || live_actions(&hsm).iter().all(|a| a["archive_id"] == 7);
    wait_until(LONG, "the rest is done", done);
    for (path, out) in &refused {
        assert_eq!(out.status.success(), hsm_state(path).archive_id == 1, "{}: {}", path.display(), told(out));
    }
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    hsm.archive(&paths);
    hsm.release(&paths);
    assert!(read(paths[30]).stdout == content);
    assert_eq!(processes(&hsm), before);
    hsm.stop_agent();
    hsm.site.sifaka(&["--config", hsm.site.agent_config().to_str().unwrap(), "guard", "stop", "--force"]);
    drop(small);
}
