//! A filesystem with its agent, and what tests do with them.

use model::{HsmState, xattr};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use testkit::{Daemon, FsKind, LoopFs, Site, wait_until};

pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Hsm {
    pub(crate) agent: Option<Daemon>,
    pub(crate) site: Site,
    pub(crate) fs: LoopFs,
}

impl Hsm {
    pub(crate) fn start(kind: FsKind) -> Self {
        Self::start_with(kind, 512, |_| {})
    }

    /// With a filesystem of so many MiB and a changed configuration.
    pub(crate) fn start_with(kind: FsKind, size_mib: u64, configure: impl FnOnce(&mut Site)) -> Self {
        let fs = LoopFs::new(kind, size_mib);
        let mut site = Site::local(&fs);
        site.add_agent_setting("retry { max_delay_s = 1 }");
        configure(&mut site);
        let agent = Some(site.start_agent());
        let hsm = Self { agent, site, fs };
        hsm.wait_for_movers();
        hsm
    }

    pub(crate) fn wait_for_movers(&self) {
        wait_until(LONG, "a mover is registered", || {
            let status = self.status();
            status.is_some_and(|s| {
                s["agent"]["plugins"]
                    .as_array()
                    .is_some_and(|m| m.iter().any(|m| m["state"].as_str() == Some("running")))
            })
        });
    }

    /// `sifaka status --json`, if the agent answers.
    pub(crate) fn status(&self) -> Option<Value> {
        let out = self.site.sifaka(&["status", "--json"]);
        out.status.success().then(|| serde_json::from_slice(&out.stdout).expect("status is JSON"))
    }

    pub(crate) fn agent_pid(&self) -> i32 {
        number(&self.status().expect("the agent answers")["pid"])
    }

    pub(crate) fn guard_pid(&self) -> i32 {
        number(&self.status().expect("the agent answers")["source"]["guard"]["pid"])
    }

    pub(crate) fn mover_pids(&self) -> Vec<i32> {
        let status = self.status().expect("the agent answers");
        status["agent"]["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|m| m["pid"].is_number())
            .map(|m| number(&m["pid"]))
            .collect()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.fs.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Files of different sizes around what matters to the copying, with random content.
    pub(crate) fn files(&self, count: usize) -> Vec<(PathBuf, Vec<u8>)> {
        let sizes = [1, 4095, 4096, 4097, 70_000, 1 << 20, (1 << 20) + 1, 3 << 20];
        (0..count)
            .map(|i| {
                let content = noise(i as u64, sizes[i % sizes.len()]);
                (self.file(&format!("file{i}"), &content), content)
            })
            .collect()
    }

    pub(crate) fn ok(&self, args: &[&str], paths: &[&Path]) -> String {
        let out = self.run(args, paths);
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "sifaka {args:?} {paths:?}: {}\n{text}", out.status);
        text
    }

    pub(crate) fn run(&self, args: &[&str], paths: &[&Path]) -> Output {
        self.site.command().args(args).args(paths).stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn archive(&self, paths: &[&Path]) {
        self.ok(&["archive", "--wait"], paths);
    }

    pub(crate) fn release(&self, paths: &[&Path]) {
        self.ok(&["release"], paths);
        for path in paths.iter().filter(|p| p.is_file()) {
            assert!(is_released(path), "{} is released", path.display());
        }
    }

    pub(crate) fn archived_and_released(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.file(name, content);
        self.archive(&[&path]);
        self.release(&[&path]);
        path
    }

    /// Waits until nothing is queued or running.
    pub(crate) fn settle(&self) {
        wait_until(LONG, "the queue is empty", || self.status().is_some_and(|s| queued(&s) == 0));
    }

    /// Objects in the archive, members of packs included, and nothing else there: no temporary files.
    pub(crate) fn objects(&self) -> usize {
        let packs = fs::read_dir(self.site.archive_root().join("packs")).into_iter().flatten().flatten();
        let packs = packs.flat_map(|dir| fs::read_dir(dir.path()).into_iter().flatten().flatten());
        self.site.archive_files().len() + packs.map(|entry| living_members(&entry.path())).sum::<usize>()
    }

    pub(crate) fn temporary_files(&self) -> usize {
        // A directory for each mover that lives, with its files.
        let sessions = fs::read_dir(self.site.archive_root().join(".sifaka-tmp")).into_iter().flatten();
        let files = sessions.flatten().flat_map(|session| fs::read_dir(session.path()).into_iter().flatten().flatten());
        files.filter(|file| file.file_name() != "lock").count()
    }

    /// Ends the agent in order, also one that the guard has started after a kill.
    pub(crate) fn stop_agent(&mut self) {
        match self.agent.take().filter(|agent| agent.status().is_none()) {
            Some(agent) => drop(agent.terminate(LONG)),
            None => assert!(self.end_answering_agent(), "the agent ends when it is asked to"),
        }
    }

    /// Changes the agent's configuration, and has it read.
    pub(crate) fn reconfigure(&self, from: &str, to: &str) {
        edit(&self.site.agent_config(), from, to);
        self.site.sifaka_ok(&["reload"]);
    }

    /// Whether the agent that answers, if any, is gone.
    fn end_answering_agent(&self) -> bool {
        let Some(pid) = self.status().map(|s| number(&s["pid"])) else { return true };
        let Ok(process) = sys::process::PidFd::open(pid) else { return true };
        let _ = process.kill(15);
        let gone = || !Path::new(&format!("/proc/{pid}")).exists() || is_zombie(pid);
        let deadline = Instant::now() + LONG;
        while !gone() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        gone()
    }
}

impl Drop for Hsm {
    fn drop(&mut self) {
        // A guard may have started the agent anew: that one is no child of ours.
        self.end_answering_agent();
        self.agent = None;
        let _ = self.site.sifaka(&["--config", self.site.agent_config().to_str().unwrap(), "guard", "stop", "--force"]);
    }
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| s.rsplit(')').next().is_some_and(|r| r.starts_with(" Z")))
}

/// Replaces text in a configuration file, which keeps its mode.
pub(crate) fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

pub(crate) fn number(value: &Value) -> i32 {
    i32::try_from(value.as_i64().unwrap_or_else(|| panic!("{value} is a number"))).unwrap()
}

pub(crate) fn queued(status: &Value) -> u64 {
    status["source"]["queue"].as_array().map_or(0, |q| q.iter().filter_map(|c| c["count"].as_u64()).sum())
}

pub(crate) fn hsm_state(path: &Path) -> HsmState {
    // Through a path descriptor: looking raises no event.
    let fd = rustix::fs::open(path, sys::OFlags::PATH, sys::Mode::empty()).unwrap();
    let bytes = sys::xattr::get(&fd, xattr::HSM).unwrap();
    bytes.map_or_else(HsmState::default, |b| HsmState::decode(&b).unwrap())
}

pub(crate) fn is_released(path: &Path) -> bool {
    hsm_state(path).is_released()
}

pub(crate) fn uuid_of(path: &Path) -> String {
    let fd = rustix::fs::open(path, sys::OFlags::PATH, sys::Mode::empty()).unwrap();
    String::from_utf8(sys::xattr::get(&fd, xattr::UUID).unwrap().unwrap_or_default()).unwrap()
}

/// Blocks of 512 bytes.
pub(crate) fn blocks(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().blocks()
}

/// Bytes that repeat nowhere, no zeros in a row, different for each seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&(state | 0x0101_0101_0101_0101).to_le_bytes());
    }
    out.truncate(length);
    out
}

pub(crate) fn kill(pid: i32) {
    // It may have died by itself meanwhile: then the round proves less, and tests count what they hit.
    if let Ok(process) = sys::process::PidFd::open(pid) {
        let _ = process.kill(9);
    }
}

/// Tells other threads to stop, also when its own panics.
pub(crate) struct StopWhenDropped<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A reader as a process of its own.
pub(crate) fn cat(path: &Path) -> std::process::Child {
    Command::new("cat").arg(path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How many members of a pack are not marked as removed.
fn living_members(pack: &Path) -> usize {
    let id = pack.file_name().and_then(|name| transfer::pack::PackId::parse(name.to_str()?));
    let (Some(id), Ok(file)) = (id, fs::File::open(pack)) else { return 0 };
    let size = file.metadata().unwrap().len();
    let index = transfer::pack::PackReader::new(file, size, id).index().unwrap();
    let tombstones = pack.with_extension("d");
    index.entries().iter().filter(|entry| !tombstones.join(entry.name.to_string()).exists()).count()
}

/// What the archive holds under an id, as it is stored.
pub(crate) fn archived(root: &Path, id: &str) -> Vec<u8> {
    use transfer::pack::{MemberId, PackReader};
    let Some(member) = MemberId::parse(&model::ObjectId::parse(id).unwrap()) else {
        return fs::read(root.join("objects").join(&id[0..2]).join(&id[2..4]).join(id)).unwrap();
    };
    let pack = member.pack.to_string();
    let file = fs::File::open(root.join("packs").join(&pack[..4]).join(&pack)).unwrap();
    let size = file.metadata().unwrap().len();
    PackReader::new(file, size, member.pack).member(member.name).unwrap().unwrap().content
}
