//! `sifaka demo`, as a process: on each filesystem, without privileges, interrupted in every step, and when a step fails. Whatever
//! happens, nothing is left.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use testkit::tree::{TreeSpec, assert_same, snapshot};
use testkit::{FsKind, Scratch, wait_until};

const LONG: Duration = Duration::from_secs(120);
const NOBODY: u32 = 65_534;
/// Each process of a demo has it in its environment: that is how they are found.
const MARK: &str = "SIFAKA_DEMO_TEST";

struct Demo {
    scratch: Scratch,
    files: usize,
}

impl Demo {
    fn new(files: usize) -> Self {
        let scratch = Scratch::new("demo");
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
        let this = Self { scratch, files };
        for dir in [this.tree(), this.dir()] {
            fs::create_dir(&dir).unwrap();
            fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
        }
        assert_eq!(TreeSpec::new(41, files).build(&this.tree()).len(), files);
        this
    }

    fn tree(&self) -> PathBuf {
        self.scratch.join("tree")
    }

    fn dir(&self) -> PathBuf {
        self.scratch.join("dir")
    }

    fn command(&self, kind: FsKind) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sifaka"));
        command.args(["demo", "--json", "--fs", kind.name(), "--dir"]).arg(self.dir());
        command.arg("--source").arg(self.tree()).env(MARK, self.dir()).stdin(Stdio::null());
        command
    }

    fn start(&self, kind: FsKind) -> Running {
        let mut child = self.command(kind).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Running { child, stderr, said: String::new() }
    }

    /// The demo's own directory in [`Demo::dir`].
    fn own_dir(&self) -> Option<PathBuf> {
        fs::read_dir(self.dir()).unwrap().next().map(|entry| entry.unwrap().path())
    }

    /// No files, mounts, loop devices or processes.
    fn assert_nothing_left(&self) {
        assert_eq!(self.own_dir(), None, "a directory is left");
        let dir = self.dir().into_os_string().into_string().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&dir), "a mount is left:\n{mounts}");
        for device in fs::read_dir("/sys/block").unwrap() {
            let file = fs::read_to_string(device.unwrap().path().join("loop/backing_file")).unwrap_or_default();
            assert!(!file.contains(&dir), "a loop device is left: {file}");
        }
        assert_eq!(processes_of(&dir), Vec::new(), "processes are left");
    }
}

/// Numbers and command lines of the processes of a demo.
fn processes_of(dir: &str) -> Vec<(i32, String)> {
    let mark = format!("{MARK}={dir}");
    let processes = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    });
    let line = |path: PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace('\0', " ");
    let number = |entry: &fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse().ok());
    processes.filter_map(|entry| Some((number(&entry)?, line(entry.path().join("cmdline"))))).collect()
}

struct Running {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    said: String,
}

impl Running {
    /// Reads standard error until a line holds `text`.
    fn wait_for(&mut self, text: &str) {
        loop {
            let begin = self.said.len();
            let read = self.stderr.read_line(&mut self.said).unwrap();
            assert!(read > 0, "the demo ended before it said {text:?}:\n{}", self.said);
            if self.said[begin..].contains(text) {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Its exit code, what it printed, and all that it said on standard error.
    fn end(mut self) -> (Option<i32>, Value, String) {
        while self.stderr.read_line(&mut self.said).unwrap() > 0 {}
        let output = self.child.wait_with_output().unwrap();
        (output.status.code(), report(&output), self.said)
    }
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|why| panic!("{why}: {text:?}\n{}", String::from_utf8_lossy(&output.stderr)))
}

fn steps(report: &Value) -> Vec<&str> {
    report["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect()
}

fn shows_all_steps(kind: FsKind) {
    let demo = Demo::new(120);
    let before = snapshot(&demo.tree());
    let output = demo.command(kind).output().unwrap();
    let report = report(&output);
    assert!(output.status.success(), "{report:#}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(report["mode"], "full");
    assert_eq!(report["filesystem"], kind.name());
    assert_eq!(report["files"], demo.files);
    let all = ["copy in", "archive", "verify", "release", "read back", "rebuild", "read rebuilt", "remove"];
    assert_eq!(steps(&report), all);
    assert_eq!(report["objects_left"], 0);
    let bytes = report["bytes"].as_u64().unwrap();
    let used = |when: &str| report[when]["used_bytes"].as_u64().unwrap();
    // Some files are sparse, some smaller than a block.
    assert!(bytes > 10 << 20 && used("df_before") > used("df_after") + bytes / 4, "{report:#}");
    demo.assert_nothing_left();
    assert_same(&before, &snapshot(&demo.tree()));
}

#[test]
fn all_steps_are_shown_on_ext4() {
    shows_all_steps(FsKind::Ext4);
}

#[test]
fn all_steps_are_shown_on_xfs() {
    shows_all_steps(FsKind::Xfs);
}

#[test]
fn all_steps_are_shown_on_btrfs() {
    shows_all_steps(FsKind::Btrfs);
}

#[test]
fn without_privileges_it_says_what_is_missing_and_shows_the_rest() {
    let demo = Demo::new(60);
    chown(demo.dir(), Some(NOBODY), Some(NOBODY)).unwrap();
    // The program may be where only root gets to.
    let program = demo.scratch.join("sifaka");
    fs::copy(env!("CARGO_BIN_EXE_sifaka"), &program).unwrap();
    let mut command = Command::new(program);
    command.args(["demo", "--json", "--dir"]).arg(demo.dir()).arg("--source").arg(demo.tree()).env(MARK, demo.dir());
    let output = command.uid(NOBODY).gid(NOBODY).output().unwrap();
    let report = report(&output);
    assert!(output.status.success(), "{report:#}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(report["mode"], "without_release");
    let missing = report["missing"].as_array().unwrap();
    assert!(missing.iter().any(|text| text.as_str().unwrap().contains("CAP_SYS_ADMIN")), "{missing:?}");
    assert_eq!(steps(&report), ["archive", "verify", "restore", "read back", "remove"]);
    assert_eq!(report["objects_left"], 0);
    assert!(report["files"].as_u64().unwrap() >= 10, "{report:#}");
    demo.assert_nothing_left();
}

fn interrupted_in(step: &'static str, done: &[&str], signal: Signal, kind: FsKind) {
    let demo = Demo::new(400);
    let mut running = demo.start(kind);
    running.wait_for(&format!("demo: {step} "));
    running.signal(signal);
    let (code, report, said) = running.end();
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(steps(&report)[..done.len()], *done, "{said}");
    assert!(steps(&report).len() <= done.len() + 1, "it went on: {said}");
    assert!(!said.contains("cannot") && !said.contains("killed"), "{said}");
    demo.assert_nothing_left();
}

#[test]
fn interrupted_before_the_first_step() {
    let demo = Demo::new(40);
    let running = demo.start(FsKind::Ext4);
    wait_until(LONG, "the demo has its directory", || demo.own_dir().is_some());
    running.signal(Signal::INT);
    let (code, report, said) = running.end();
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(steps(&report), Vec::<&str>::new());
    demo.assert_nothing_left();
}

#[test]
fn interrupted_while_copying_in() {
    interrupted_in("copy in", &[], Signal::TERM, FsKind::Ext4);
}

#[test]
fn interrupted_while_archiving() {
    interrupted_in("archive", &["copy in"], Signal::INT, FsKind::Xfs);
}

#[test]
fn interrupted_while_releasing() {
    interrupted_in("release", &["copy in", "archive", "verify"], Signal::TERM, FsKind::Btrfs);
}

#[test]
fn interrupted_while_reading_back() {
    interrupted_in("read back", &["copy in", "archive", "verify", "release"], Signal::INT, FsKind::Ext4);
}

/// Readers of released files wait for an agent that does nothing: both have to go.
#[test]
fn interrupted_while_the_agent_hangs() {
    let demo = Demo::new(400);
    let mut running = demo.start(FsKind::Ext4);
    running.wait_for("demo: read back ");
    let dir = demo.dir().into_os_string().into_string().unwrap();
    let processes = processes_of(&dir);
    let (agent, _) = processes.iter().find(|(_, line)| line.trim_end().ends_with(" agent")).unwrap();
    kill_process(Pid::from_raw(*agent).unwrap(), Signal::STOP).unwrap();
    running.signal(Signal::INT);
    let (code, _, said) = running.end();
    assert_eq!(code, Some(130), "{said}");
    // On a fast machine all is read before the agent is stopped; then it is its end that hangs.
    let hung = ["the step does not end", "the agent does not end when asked to"].iter().any(|text| said.contains(text));
    assert!(hung, "nothing hung: {said}");
    demo.assert_nothing_left();
}

/// The objects are damaged behind the agent's back: no reader may get what is not the original.
#[test]
fn a_step_that_fails_shows_the_log_and_leaves_nothing() {
    let demo = Demo::new(200);
    let mut running = demo.start(FsKind::Ext4);
    running.wait_for("demo: release ");
    let objects = demo.own_dir().unwrap().join("archive/objects");
    let damaged = damage(objects.parent().unwrap());
    let (code, report, said) = running.end();
    assert!(damaged >= 100, "{damaged} bytes were changed");
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(steps(&report), ["copy in", "archive", "verify", "release"]);
    assert!(report["error"].as_str().unwrap().contains("cannot read") || said.contains("cannot open"), "{said}");
    assert!(said.contains("the last of the agent's log"), "{said}");
    demo.assert_nothing_left();
}

/// Changes a byte in each KiB of every file below, and gives their number.
fn damage(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let damage_one = |path: PathBuf| {
        if path.is_dir() {
            return damage(&path);
        }
        let mut content = fs::read(&path).unwrap();
        let damaged = content.iter_mut().step_by(1024).map(|byte| *byte ^= 1).count();
        // In place, as a disk's fault would be.
        File::options().write(true).open(&path).unwrap().write_all_at(&content, 0).unwrap();
        damaged
    };
    entries.map(damage_one).sum()
}

#[test]
fn a_source_that_is_not_there_is_a_mistake_of_the_command_line() {
    let demo = Demo::new(1);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sifaka"));
    command.args(["demo", "--source", "/nonexistent/tree", "--dir"]).arg(demo.dir());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    demo.assert_nothing_left();
}

#[test]
fn what_is_kept_is_the_directory_alone() {
    let demo = Demo::new(40);
    let output = demo.command(FsKind::Ext4).arg("--keep").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kept = demo.own_dir().unwrap();
    assert!(kept.join("agent.log").metadata().unwrap().len() > 0 && kept.join("image").exists());
    fs::remove_dir_all(kept).unwrap();
    demo.assert_nothing_left();
}
