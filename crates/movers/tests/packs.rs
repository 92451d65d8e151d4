//! The posix mover with packs, over the protocol: repeated attempts, removals by the proposed id, and kills at any moment.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

extern crate sifaka_movers as movers;

use model::{Digest, ObjectId};
use plugin::{AgentAddress, Environment};
use proto::pdm::{ActionItem, ActionStatus, Command as Op};
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use testkit::pdm_agent::{Event, PdmAgent};
use testkit::{LoopFs, Random, Scratch};
use transfer::{Expected, KernelDurability, PosixStore, Store, Unwatched};

const BASE: &str = "SIFAKA_TEST_PACK_MOVER_BASE";
const REPACKS: &str = "SIFAKA_TEST_PACK_MOVER_REPACKS";

/// Not a test by itself: the mover that the tests start. If asked to, it repacks without a pause, where the real one does so every few minutes.
#[test]
#[ignore = "run as a child process by the tests of this file"]
fn child_mover() {
    let base = PathBuf::from(env::var_os(BASE).unwrap());
    let environment = Environment {
        agent: AgentAddress::Path(base.join("agent.sock")),
        client_mountpoint: base.join("files"),
        config_dir: base.clone(),
    };
    if env::var_os(REPACKS).is_some() {
        let store = PosixStore::open(&base.join("root"), Arc::new(KernelDurability)).unwrap();
        std::thread::spawn(move || {
            loop {
                store.repack(&mut |_| {}).unwrap();
                std::thread::yield_now();
            }
        });
    }
    movers::posix::run(environment, &base.join("config")).unwrap();
}

/// The mover's process; dies with the test.
struct Mover(Child);

impl Mover {
    fn start(base: &Path, repacks: bool) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        if repacks {
            command.env(REPACKS, "");
        }
        command.args(["--exact", "child_mover", "--ignored", "--nocapture"]).env(BASE, base);
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Bench {
    agent: PdmAgent,
    mover: Option<Mover>,
    handle: u64,
    scratch: Scratch,
}

fn uuid(number: u64) -> String {
    format!("{:08x}-5ad1-4b6e-9b7a-0a4dd0c8f0aa", number.wrapping_mul(0x9e37_79b1) & 0xffff_ffff)
}

fn content(number: u64) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(500 + number % 5000).unwrap()];
    Random::new(number).fill(&mut content);
    content
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

impl Bench {
    fn start() -> Self {
        Self::start_with("")
    }

    fn start_with(settings: &str) -> Self {
        let scratch = Scratch::new("pack-mover");
        fs::create_dir(scratch.join("root")).unwrap();
        Self::start_in(scratch, settings, true)
    }

    /// With the archive in the directory `root`.
    fn start_in(scratch: Scratch, settings: &str, repacks: bool) -> Self {
        fs::create_dir(scratch.join("files")).unwrap();
        let root = scratch.join("root");
        let config = format!("archive \"one\" {{ id = 7 root = {root:?} {settings} }}\n");
        fs::write(scratch.join("config"), config).unwrap();
        fs::set_permissions(scratch.join("config"), fs::Permissions::from_mode(0o600)).unwrap();
        let mut agent = PdmAgent::start(scratch.join("agent.sock").to_str().unwrap());
        let mover = Mover::start(scratch.path(), repacks);
        let (_, handle) = agent.registration();
        agent.reports_opened();
        Self { agent, mover: Some(mover), handle, scratch }
    }

    fn archive(&self, number: u64, attempted_since_ms: u64) {
        let path = number.to_string();
        let item = ActionItem { primary_path: path, uuid: uuid(number), ..self.item(number, Op::Archive) };
        // A mover that has just died takes nothing.
        self.agent.offer(self.handle, ActionItem { attempted_since_ms, ..item });
    }

    fn item(&self, id: u64, op: Op) -> ActionItem {
        ActionItem { id, op: op.into(), length: -1, ..ActionItem::default() }
    }

    /// Gives what the killed one had still reported. Whoever asks again without having read that would take it for the answer.
    fn kill_and_restart(&mut self) -> Vec<ActionStatus> {
        self.mover = None;
        let mut last = Vec::new();
        loop {
            match self.agent.event_before(Instant::now() + Duration::from_secs(60)).unwrap() {
                Event::Status(status) if status.completed => last.push(*status),
                Event::StatusesEnded(_) => break,
                _ => {}
            }
        }
        self.mover = Some(Mover::start(self.scratch.path(), true));
        (_, self.handle) = self.agent.registration();
        self.agent.reports_opened();
        last
    }

    /// The next end of an action; `None` when none comes before `until`.
    fn end(&mut self, until: Instant) -> Option<ActionStatus> {
        loop {
            let Event::Status(status) = self.agent.event_before(until)? else { continue };
            if status.completed {
                return Some(*status);
            }
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![self.scratch.join("root")];
        while let Some(path) = left.pop() {
            for entry in fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                if entry.file_name() == "lock" {
                    continue; // Of a session.
                }
                let list = if entry.file_type().unwrap().is_dir() { &mut left } else { &mut found };
                list.push(entry.path());
            }
        }
        found
    }

    fn listed(&self, store: &PosixStore) -> BTreeSet<String> {
        let mut listed = BTreeSet::new();
        store
            .list(&mut |id| {
                assert!(listed.insert(id.to_string()), "listed twice");
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(self.files().iter().all(|file| !file.starts_with(self.scratch.join("root/.sifaka-tmp"))));
        listed
    }
}

/// SIGKILL at random moments, while many small files are archived and removed, and packs rewritten. After retries every acknowledged file
/// is there, each once, and nothing else is.
#[test]
fn p7_a_mover_that_is_killed_while_it_packs_leaves_nothing_unaccounted() {
    let mut bench = Bench::start();
    let mut random = Random::from_env();
    let began = now_ms();
    const FILES: u64 = 600;
    for number in 0..FILES {
        fs::write(bench.scratch.join("files").join(number.to_string()), content(number)).unwrap();
    }
    let mut stored: BTreeMap<u64, String> = BTreeMap::new();
    let mut removed: BTreeSet<u64> = BTreeSet::new();
    // Removals that nobody answered are asked for again, like everything.
    let mut unanswered: BTreeSet<u64> = BTreeSet::new();
    let (mut kills, mut interrupted) = (0, 0);
    while stored.len() + removed.len() < usize::try_from(FILES).unwrap() || kills < 6 || !unanswered.is_empty() {
        let since = if kills == 0 { 0 } else { began };
        let mut under_way = BTreeSet::new();
        for number in (0..FILES).filter(|n| !stored.contains_key(n) && !removed.contains(n)) {
            bench.archive(number, since);
            under_way.insert(number);
        }
        // Half of what is there goes again: packs are rewritten under the feet of everything else.
        let going: Vec<(u64, String)> = stored
            .iter()
            .filter(|(n, _)| unanswered.contains(n) || random.one_in(3))
            .map(|(number, id)| (*number, id.clone()))
            .collect();
        for (number, id) in &going {
            let id = id.clone();
            let item = ActionItem { uuid: id, attempted_since_ms: since, ..bench.item(number + FILES, Op::Remove) };
            bench.agent.offer(bench.handle, item);
            under_way.insert(number + FILES);
        }
        let last = kills >= 6;
        // Every other one soon: a fast machine has done all of it after that.
        let before_kill = Duration::from_millis(random.within(if kills % 2 == 0 { 1..15 } else { 1..150 }));
        let until = Instant::now() + if last { Duration::from_secs(60) } else { before_kill };
        let mut ended = |status: ActionStatus, under_way: &mut BTreeSet<u64>| {
            assert_eq!(status.error, 0, "{status:?}");
            assert!(under_way.remove(&status.id));
            if let Some(number) = status.id.checked_sub(FILES) {
                stored.remove(&number);
                removed.insert(number);
            } else {
                assert_eq!(status.hash, blake3::hash(&content(status.id)).as_bytes());
                stored.insert(status.id, status.uuid);
            }
        };
        while !under_way.is_empty()
            && let Some(status) = bench.end(until)
        {
            ended(status, &mut under_way);
        }
        if last {
            assert!(under_way.is_empty(), "{under_way:?} did not end");
        } else {
            for status in bench.kill_and_restart() {
                ended(status, &mut under_way);
            }
            interrupted += under_way.len();
            kills += 1;
        }
        unanswered = going.iter().map(|(number, _)| *number).filter(|n| under_way.contains(&(n + FILES))).collect();
    }
    assert!(interrupted > 0, "nothing was in flight at any kill");
    assert!(stored.values().filter(|id| id.contains(".pk")).count() > 20, "hardly anything was packed");
    bench.mover = None;
    let store = PosixStore::open(&bench.scratch.join("root"), Arc::new(KernelDurability)).unwrap();
    for (number, id) in &stored {
        let expected = Digest::Blake3(blake3::hash(&content(*number)).into());
        let expected = Expected { size: None, digest: Some(expected) };
        match store.verify(&ObjectId::parse(id).unwrap(), expected, &Unwatched) {
            Ok(_) => {}
            Err(error) => panic!("{number}: {error}"),
        }
    }
    store.repack(&mut |_| {}).unwrap();
    assert_eq!(bench.listed(&store), stored.values().cloned().collect());
}

/// The agent never heard of the first attempt, gave the file up, and removes by the id that it proposed.
#[test]
fn p7_a_removal_by_the_proposed_id_finds_members() {
    let mut bench = Bench::start();
    let began = now_ms();
    for number in 0..100 {
        fs::write(bench.scratch.join("files").join(number.to_string()), content(number)).unwrap();
        bench.archive(number, 0);
    }
    let until = Instant::now() + Duration::from_secs(60);
    let mut packed = 0;
    for _ in 0..100 {
        packed += usize::from(bench.end(until).unwrap().uuid.contains(".pk"));
    }
    assert!(packed > 10, "{packed}");
    for number in 0..100 {
        let item = ActionItem { uuid: uuid(number), attempted_since_ms: began, ..bench.item(number, Op::Remove) };
        bench.agent.send(bench.handle, item);
    }
    for _ in 0..100 {
        assert_eq!(bench.end(until).unwrap().error, 0);
    }
    bench.mover = None;
    let store = PosixStore::open(&bench.scratch.join("root"), Arc::new(KernelDurability)).unwrap();
    store.repack(&mut |_| {}).unwrap();
    assert_eq!(bench.files(), Vec::<PathBuf>::new());
}

/// Several times as many files as the archive has inodes, and all of it within the minutes between two repacks.
#[test]
fn p7_files_come_and_go_without_using_up_the_inodes() {
    const FILES: u64 = 300;
    let disk = LoopFs::with_inodes(64, 1024);
    let scratch = Scratch::new("pack-mover");
    std::os::unix::fs::symlink(disk.path(), scratch.join("root")).unwrap();
    let mut bench = Bench::start_in(scratch, "", false);
    for number in 0..FILES {
        fs::write(bench.scratch.join("files").join(number.to_string()), content(number)).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(60);
    let mut packed = 0;
    for round in 0..10 {
        for number in 0..FILES {
            // Those that come alone share a directory, which stays.
            let uuid = format!("0e2f{:04x}-5ad1-4b6e-9b7a-0a4dd0c8f0aa", round * FILES + number);
            let item = ActionItem { primary_path: number.to_string(), uuid, ..bench.item(number, Op::Archive) };
            bench.agent.send(bench.handle, item);
        }
        let stored: Vec<_> = (0..FILES).map(|_| bench.end(until).unwrap()).collect();
        for status in stored {
            assert_eq!(status.error, 0, "{status:?}");
            packed += u64::from(status.uuid.contains(".pk"));
            let item = ActionItem { uuid: status.uuid, ..bench.item(status.id, Op::Remove) };
            bench.agent.send(bench.handle, item);
        }
        for _ in 0..FILES {
            let status = bench.end(until).unwrap();
            assert_eq!(status.error, 0, "{status:?}");
        }
        assert_eq!(bench.files(), Vec::<PathBuf>::new());
    }
    assert!(packed > 2 * disk.inodes(), "{packed} were packed");
}

#[test]
fn packs_can_be_turned_off() {
    let mut bench = Bench::start_with("pack { threshold = 0 }");
    let root = bench.scratch.join("root");
    for number in 0..50 {
        fs::write(bench.scratch.join("files").join(number.to_string()), content(number)).unwrap();
        bench.archive(number, 0);
    }
    let until = Instant::now() + Duration::from_secs(60);
    for _ in 0..50 {
        let status = bench.end(until).unwrap();
        assert_eq!((status.error, status.uuid), (0, uuid(status.id)));
    }
    assert!(!root.join("packs").exists());
}
