//! SIGKILL of agent, mover and guard at random moments, while files are archived, released and read.
//!
//! After each: every file's content is the original, every reader got data or an error, the queue empties, nothing is left
//! over. A round that hit nothing in flight proves nothing: the tests count and demand those that did.

use crate::support::{Hsm, LONG, cat, is_released, kill, noise, queued, uuid_of};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};
use testkit::random::rounds;
use testkit::{FsKind, Random, wait_until};

const FILES: usize = 48;

struct Victims {
    agent: bool,
    mover: bool,
    guard: bool,
}

struct Files(Vec<(PathBuf, Vec<u8>)>);

impl Files {
    fn make(hsm: &Hsm) -> Self {
        let size = |i: usize| [5, 4096, 70_000, 1 << 20, 3 << 20][i % 5];
        Self(
            (0..FILES)
                .map(|i| {
                    let c = noise(i as u64 + 1, size(i));
                    (hsm.file(&format!("f{i}"), &c), c)
                })
                .collect(),
        )
    }

    fn paths(&self) -> Vec<&Path> {
        self.0.iter().map(|(p, _)| p.as_path()).collect()
    }
}

/// Readers of all files at once, and who of them got what.
struct Readers(Vec<(Child, usize)>);

impl Readers {
    fn start(files: &Files) -> Self {
        Self(files.0.iter().enumerate().map(|(i, (path, _))| (cat(path), i)).collect())
    }

    /// Everybody's content is right, or there is an error and not one byte that is wrong.
    fn judge(self, files: &Files, round: u64) -> usize {
        let mut errors = 0;
        for (child, i) in self.0 {
            let out = child.wait_with_output().unwrap();
            let content = &files.0[i].1;
            if out.status.success() {
                assert!(
                    out.stdout == *content,
                    "round {round}: a reader of file {i} got {} wrong bytes",
                    out.stdout.len()
                );
            } else {
                assert!(
                    content.starts_with(&out.stdout),
                    "round {round}: a reader of file {i} got wrong bytes before its error"
                );
                errors += 1;
            }
        }
        errors
    }
}

/// The processes to kill, looked up before there is anything to hit.
fn marked(hsm: &Hsm, victims: &Victims) -> Vec<i32> {
    let mut pids = Vec::new();
    if victims.guard {
        pids.push(hsm.guard_pid());
    }
    if victims.agent {
        pids.push(hsm.agent_pid());
    }
    if victims.mover {
        pids.extend(hsm.mover_pids());
    }
    pids
}

fn wait_until_well(hsm: &Hsm) {
    wait_until(LONG, "the agent answers again", || hsm.status().is_some());
    hsm.wait_for_movers();
    wait_until(LONG, "the queue is empty", || hsm.status().is_some_and(|s| queued(&s) == 0));
}

/// Runs a command of the client until it works: the agent may be dying under it.
fn insist(hsm: &Hsm, arguments: &[&str], paths: &[&Path]) {
    let end = Instant::now() + LONG;
    loop {
        let out = hsm.run(arguments, paths);
        if out.status.success() {
            return;
        }
        assert!(Instant::now() < end, "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        wait_until_well(hsm);
    }
}

/// One life of a system: killed twice, so that nobody's back-off has grown long. Says how many strikes hit something in flight.
fn live(kind: FsKind, victims: &Victims, random: &mut Random, round: u64) -> u64 {
    let hsm = Hsm::start_with(kind, 700, |_| {});
    let files = Files::make(&hsm);
    let mut hits = 0;

    // Killed while files are archived, or while they are released.
    let pids = marked(&hsm, victims);
    let _ = hsm.run(&["archive"], &files.paths());
    if random.one_in(2) {
        std::thread::sleep(Duration::from_millis(random.within(0..15)));
        // All were accepted: those without an identity are on their way.
        hits += u64::from(files.paths().iter().any(|p| uuid_of(p).is_empty()));
        pids.into_iter().for_each(kill);
        wait_until_well(&hsm);
        insist(&hsm, &["archive", "--wait"], &files.paths());
    } else {
        insist(&hsm, &["archive", "--wait"], &files.paths());
        let quiet = std::process::Stdio::null;
        let release = hsm.site.command().arg("release").args(files.paths()).stderr(quiet()).stdout(quiet()).spawn();
        std::thread::sleep(Duration::from_millis(random.within(0..60)));
        hits += u64::from(files.paths().iter().any(|p| !is_released(p)));
        pids.into_iter().for_each(kill);
        let _ = release.unwrap().wait();
        wait_until_well(&hsm);
    }
    insist(&hsm, &["release"], &files.paths());
    assert!(files.paths().iter().all(|p| is_released(p)));

    // Killed while everybody reads.
    let pids = marked(&hsm, victims);
    let readers = Readers::start(&files);
    std::thread::sleep(Duration::from_millis(random.within(0..15)));
    // Somebody wants each of these.
    hits += u64::from(files.paths().iter().any(|p| is_released(p)));
    pids.into_iter().for_each(kill);
    let errors = readers.judge(&files, round);
    wait_until_well(&hsm);
    assert!(errors == 0 || victims.guard, "round {round}: {errors} readers got errors although the guard lived");
    for (path, content) in &files.0 {
        let got = fs::read(path).unwrap_or_else(|e| panic!("round {round}: {}: {e}", path.display()));
        assert!(got == *content, "round {round}: {} is wrong", path.display());
    }
    // Nothing is left over: one object a file, no temporary files.
    wait_until_well(&hsm);
    wait_until(LONG, "one object a file", || hsm.objects() == FILES);
    wait_until(LONG, "no temporary files", || hsm.temporary_files() == 0);
    hits
}

fn torment(kind: FsKind, victims: &Victims, usual: u64) {
    let mut random = Random::from_env();
    let rounds = rounds(usual, usual * 20);
    let hits: u64 = (0..rounds).map(|round| live(kind, victims, &mut random, round)).sum();
    assert!(hits >= rounds, "only {hits} of {} strikes hit anything in flight", 2 * rounds);
}

#[test]
fn p5_p3_p7_the_agent_is_killed() {
    for kind in FsKind::ALL {
        torment(kind, &Victims { agent: true, mover: false, guard: false }, 3);
    }
}

#[test]
fn p5_p3_p7_the_mover_is_killed() {
    for kind in FsKind::ALL {
        torment(kind, &Victims { agent: false, mover: true, guard: false }, 2);
    }
}

#[test]
fn p5_p3_p7_agent_and_mover_are_killed() {
    for kind in FsKind::ALL {
        torment(kind, &Victims { agent: true, mover: true, guard: false }, 3);
    }
}

#[test]
fn p5_p3_p7_the_guard_is_killed() {
    for kind in FsKind::ALL {
        torment(kind, &Victims { agent: false, mover: false, guard: true }, 3);
    }
}
