//! The command mover as a process, over the protocol, with real programs: those of the system, and scripts that misbehave.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

extern crate sifaka_movers as movers;

mod batches;
mod cycle;
mod failures;
mod hpss;

use plugin::{AgentAddress, Environment};
use proto::pdm::{ActionItem, ActionStatus, Command as Op, ErrorKind};
use std::collections::HashMap;
use std::env;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use testkit::pdm_agent::PdmAgent;
use testkit::{FsKind, LoopFs, Scratch, faults, wait_until};

const BASE: &str = "SIFAKA_TEST_MOVER_BASE";
const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const EOPNOTSUPP: i32 = 95;
const ETIMEDOUT: i32 = 110;
const ESTALE: i32 = 116;
const ECANCELED: i32 = 125;

/// Files that go through `cp` and the staging directory, and are looked at with `stat`.
const CP: &str = r#"archive = ["cp", "--", "{file}", "{root}/{id}"]
restore = ["cp", "--", "{root}/{id}", "{file}"]
remove = ["rm", "--", "{root}/{id}"]
stat = ["stat", "-c", "%s", "--", "{root}/{id}"]
failures { missing_text = ["No such file or directory"] }
"#;

/// Not a test by itself: the mover that the tests start.
#[test]
#[ignore = "run as a child process by the tests of this file"]
fn child_mover() {
    let base = PathBuf::from(env::var_os(BASE).unwrap());
    let environment = Environment {
        agent: AgentAddress::Path(base.join("agent.sock")),
        client_mountpoint: base.join("files"),
        config_dir: base.clone(),
    };
    movers::command::run(environment, &base.join("config")).unwrap();
}

/// An agent, a mover with one archive, and a directory of files.
struct Bench {
    agent: PdmAgent,
    mover: Child,
    handle: u64,
    capabilities: u32,
    next: u64,
    scratch: Scratch,
}

impl Bench {
    /// With `root` and `staging` set, and these settings besides. `SCRATCH` in them stands for the directory of all.
    fn start(settings: &str) -> Self {
        Self::start_with(settings, |_| {})
    }

    fn start_with(settings: &str, prepare: impl FnOnce(&Scratch)) -> Self {
        let scratch = Scratch::new("command-mover");
        for name in ["files", "root", "staging", "bin"] {
            fs::create_dir(scratch.join(name)).unwrap();
        }
        prepare(&scratch);
        let (root, staging) = (scratch.join("root"), scratch.join("staging"));
        let settings = settings.replace("SCRATCH", scratch.path().to_str().unwrap());
        let root = if settings.contains("root =") { String::new() } else { format!("root = {root:?}") };
        let config = format!("archive \"one\" {{\n id = 7\n {root}\n staging = {staging:?}\n{settings}\n}}\n");
        fs::write(scratch.join("config"), config).unwrap();
        fs::set_permissions(scratch.join("config"), fs::Permissions::from_mode(0o600)).unwrap();
        let mut agent = PdmAgent::start(scratch.join("agent.sock").to_str().unwrap());
        let mover = spawn(scratch.path());
        let (endpoint, handle) = agent.registration();
        assert_eq!(endpoint.archive, 7);
        Self { agent, mover, handle, capabilities: endpoint.capabilities, next: 0, scratch }
    }

    /// With a script for each action: `archive`, `restore`, `remove` in `bin`, given the id, and the file where it has one.
    fn scripts(scripts: &[(&str, &str)], settings: &str) -> Self {
        let text = r#"archive = ["SCRATCH/bin/archive", "{id}", "{file}"]
            restore = ["SCRATCH/bin/restore", "{id}", "{file}"]
            remove = ["SCRATCH/bin/remove", "{id}"]"#;
        let has = |key: &str| settings.contains(&format!("{key} = ["));
        let lines: Vec<_> = text.lines().filter(|line| !has(line.trim().split(' ').next().unwrap())).collect();
        Self::start_with(&format!("{}\n{settings}", lines.join("\n")), |scratch| {
            for name in ["archive", "restore", "remove"] {
                let body = scripts.iter().find(|(script, _)| *script == name).map_or("exit 1", |(_, body)| body);
                let body = body.replace("SCRATCH", scratch.path().to_str().unwrap());
                script(&scratch.join("bin").join(name), &body);
            }
        })
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.scratch.join("files").join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn send(&mut self, op: Op, item: ActionItem) -> u64 {
        self.next += 1;
        self.agent.send(self.handle, ActionItem { id: self.next, op: op.into(), length: -1, ..item });
        self.next
    }

    fn run(&mut self, op: Op, item: ActionItem) -> ActionStatus {
        let id = self.send(op, item);
        let status = self.end();
        assert_eq!(status.id, id);
        status
    }

    /// The next end of an action.
    fn end(&mut self) -> ActionStatus {
        loop {
            let status = self.agent.status();
            if status.completed {
                return status;
            }
        }
    }

    /// So many ends, by the action's number.
    fn ends(&mut self, count: usize) -> HashMap<u64, ActionStatus> {
        let ends: HashMap<_, _> = (0..count).map(|_| self.end()).map(|status| (status.id, status)).collect();
        assert_eq!(ends.len(), count, "one result for each");
        ends
    }

    fn cancel(&mut self, id: u64) {
        self.agent.send(self.handle, ActionItem { op: Op::Cancel.into(), cancel_target: id, ..ActionItem::default() });
    }

    /// Files below a directory of the scratch.
    fn found(&self, name: &str) -> Vec<PathBuf> {
        let (mut files, mut dirs) = (Vec::new(), vec![self.scratch.join(name)]);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() { dirs.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
        files.sort();
        files
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.scratch.join(name)).unwrap_or_default()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.mover.kill();
        let _ = self.mover.wait();
    }
}

fn spawn(base: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "child_mover"])
        .env(BASE, base)
        .env("SIFAKA_SECRET", "not for programs")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn script(path: &Path, body: &str) {
    fs::write(path, format!("#!/bin/bash\n{body}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn id(number: usize) -> String {
    format!("0e2f9a7c-5ad1-4b6e-9b7a-{number:012x}")
}

fn content(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    testkit::Random::new(size as u64).fill(&mut bytes);
    bytes
}

fn archive(path: &str, number: usize) -> ActionItem {
    ActionItem {
        primary_path: path.to_owned(),
        uuid: id(number),
        file_path: format!("/home/{path}"),
        ..ActionItem::default()
    }
}

/// The restore of what was archived, into a file of the bench.
fn restore(archived: &ActionStatus, size: usize, to: &str) -> ActionItem {
    ActionItem {
        write_path: to.to_owned(),
        uuid: archived.uuid.clone(),
        hash: archived.hash.clone(),
        expected_size: Some(size as u64),
        ..ActionItem::default()
    }
}

#[track_caller]
fn assert_done(status: &ActionStatus) {
    assert_eq!((status.error, status.error_text.as_str()), (0, ""));
}

#[track_caller]
fn assert_failed(status: &ActionStatus, errno: i32, kind: ErrorKind, text: &[&str]) {
    assert_eq!((status.error, status.error_kind), (errno, i32::from(kind)), "{status:?}");
    for part in text {
        assert!(status.error_text.contains(part), "{part:?} is not in {:?}", status.error_text);
    }
}

/// Archive, verify, restore, remove, each as it should be; with empty and large files.
fn whole_cycle(bench: &mut Bench) {
    for (number, size) in [0, 1, 70_000, 3_000_001].into_iter().enumerate() {
        let content = content(size);
        let file = bench.file("a", &content);
        // As the agent names it: the descriptor of another process.
        let open = fs::File::open(&file).unwrap();
        let lent = format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd());
        let item = ActionItem { primary_path: lent, tree_path: b"dir/a".to_vec(), ..archive("a", number) };
        let archived = bench.run(Op::Archive, item.clone());
        assert_done(&archived);
        assert_eq!(archived.hash, blake3::hash(&content).as_bytes());
        let named = ActionItem { uuid: archived.uuid.clone(), hash: archived.hash.clone(), ..item };
        let verified = bench.run(Op::Verify, named.clone());
        assert_done(&verified);
        assert_eq!(verified.hash, archived.hash);

        let target = bench.file("b", &vec![0xee; size]);
        let restored = bench.run(Op::Restore, restore(&archived, size, "b"));
        assert_done(&restored);
        assert_eq!(restored.hash, archived.hash);
        assert!(fs::read(&target).unwrap() == content, "{size}");
        for _ in 0..2 {
            assert_done(&bench.run(Op::Remove, named.clone()));
        }
        assert_eq!(bench.found("root"), Vec::<PathBuf>::new());
        assert_eq!(bench.found("staging"), Vec::<PathBuf>::new());
        let status = bench.run(Op::Verify, named);
        assert_failed(&status, ENOENT, ErrorKind::Permanent, &["cannot verify /home/a (archive \"one\")"]);
        let status = bench.run(Op::Restore, restore(&archived, size, "b"));
        assert_failed(&status, ENOENT, ErrorKind::Permanent, &["(archive \"one\")"]);
    }
}
