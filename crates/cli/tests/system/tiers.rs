//! An archive of several roots, each on a filesystem of its own, under a real agent and mover.

use crate::support::{Hsm, LONG, StopWhenDropped, archived, is_released, noise, uuid_of};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use testkit::tree::{TreeSpec, assert_same, snapshot};
use testkit::{FsKind, LoopFs, Site, faults, wait_until};

/// Two filesystems with a root each.
struct Roots([LoopFs; 2]);

impl Roots {
    fn new(kinds: [FsKind; 2], mib: u64) -> Self {
        let roots = Self(kinds.map(|kind| LoopFs::new(kind, mib)));
        roots.paths().iter().for_each(|root| fs::create_dir(root).unwrap());
        roots
    }

    fn paths(&self) -> [PathBuf; 2] {
        self.0.each_ref().map(|fs| fs.path().join("root"))
    }

    fn configure(&self, site: &mut Site) {
        site.set_archive_roots(&self.paths());
    }

    /// Files with content in each root: objects and packs.
    fn holdings(&self) -> [usize; 2] {
        self.paths().map(|root| holdings(&root))
    }
}

fn holdings(root: &Path) -> usize {
    let mut dirs = vec![root.join("objects"), root.join("packs")];
    let mut count = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(path),
                false => count += usize::from(path.extension().is_none_or(|end| end == "zst")),
            }
        }
    }
    count
}

/// Runs a command that opens the archive itself, and gives its exit code, its totals and what it said.
fn own(hsm: &Hsm, words: &[&str]) -> (Option<i32>, Value, String) {
    let mut command = hsm.site.command();
    let out = command.arg("--config").arg(hsm.site.agent_config()).args(words).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let last = text.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap_or(Value::Null));
    (out.status.code(), last, String::from_utf8_lossy(&out.stderr).into_owned() + &text)
}

#[track_caller]
fn sound(hsm: &Hsm) {
    let tree = hsm.fs.path();
    for words in [
        &["fsck", "--json", "--min-age", "0"][..],
        &["scrub", "--json"],
        &["verify", tree.to_str().unwrap(), "--archive", "1", "--json", "--content"],
    ] {
        let (code, totals, said) = own(hsm, words);
        assert_eq!(code, Some(0), "{words:?}: {totals}\n{said}");
    }
}

#[test]
fn a_life_over_two_roots() {
    let roots = Roots::new([FsKind::Ext4, FsKind::Xfs], 300);
    let hsm = Hsm::start_with(FsKind::Ext4, 400, |site| {
        roots.configure(site);
        site.add_agent_setting("restore { mode = \"range\" threshold = \"4MiB\" }");
    });
    let tree = hsm.path("tree");
    fs::create_dir(&tree).unwrap();
    TreeSpec::new(11, 60).build(&tree);
    // From 8 MiB on each finds a root by itself.
    let large: Vec<PathBuf> = (0..8).map(|n| tree.join(format!("large{n}"))).collect();
    large.iter().enumerate().for_each(|(n, path)| fs::write(path, noise(n as u64, 9 << 20)).unwrap());
    let before = snapshot(&tree);
    hsm.archive(&[&tree]);
    let there = roots.holdings();
    assert!(there.iter().all(|count| *count > 0), "{there:?}");
    sound(&hsm);
    hsm.release(&[&tree]);
    sound(&hsm);
    // Parts of files in either root.
    for (n, path) in large.iter().enumerate() {
        let mut part = vec![0; 5000];
        fs::File::open(path).unwrap().read_exact_at(&mut part, 3_333_333).unwrap();
        assert!(part == noise(n as u64, 9 << 20)[3_333_333..][..5000] && is_released(path), "{n}");
    }
    assert_same(&before, &snapshot(&tree));
    hsm.ok(&["remove", "--wait"], &[&large[0], &large[1]]);
    hsm.settle();
    assert_eq!(roots.holdings().iter().sum::<usize>() + 2, there.iter().sum::<usize>());
    sound(&hsm);
}

#[test]
fn p8_a_lost_filesystem_comes_back_from_two_roots() {
    let roots = Roots::new([FsKind::Xfs, FsKind::Ext4], 300);
    let before = {
        let mut hsm = Hsm::start_with(FsKind::Ext4, 300, |site| roots.configure(site));
        TreeSpec::new(5, 80).build(&hsm.fs.path());
        for n in 0..6 {
            hsm.file(&format!("large{n}"), &noise(n, 9 << 20));
        }
        hsm.archive(&[&hsm.fs.path()]);
        hsm.stop_agent();
        snapshot(&hsm.fs.path())
    };
    assert!(roots.holdings().iter().all(|count| *count > 0));
    let fresh = LoopFs::new(FsKind::Ext4, 300);
    let mut site = Site::local(&fresh);
    roots.configure(&mut site);
    let mut rebuild = site.command();
    rebuild.arg("--config").arg(site.agent_config()).args(["rebuild", "--quiet"]).arg(fresh.path());
    let out = rebuild.output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let agent = Some(site.start_agent());
    let hsm = Hsm { agent, site, fs: fresh };
    hsm.wait_for_movers();
    assert_same(&before, &snapshot(&hsm.fs.path()));
}

/// There and back, while files are archived, released, read and removed.
#[test]
fn rebalance_takes_nothing_from_whoever_archives_and_reads() {
    let roots = Roots::new([FsKind::Ext4, FsKind::Ext4], 256);
    let hsm = Hsm::start_with(FsKind::Ext4, 512, |site| roots.configure(site));
    let stay: Vec<PathBuf> = (0..40).map(|n| hsm.file(&format!("stay{n}"), &noise(n, 300_000 + n as usize))).collect();
    let stay: Vec<&Path> = stay.iter().map(PathBuf::as_path).collect();
    hsm.archive(&stay);
    hsm.release(&stay);
    let (over, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let paths = roots.paths();
    std::thread::scope(|scope| {
        let _stop = StopWhenDropped(&over);
        let worker = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let rounds = rounds.fetch_add(1, Ordering::SeqCst);
                let content = noise(1000 + rounds, 50_000 + 70_000 * (rounds as usize % 3));
                let new = hsm.archived_and_released(&format!("new{rounds}"), &content);
                let old = stay[rounds as usize % stay.len()];
                assert!(fs::read(old).unwrap() == noise(rounds % 40, 300_000 + rounds as usize % 40), "{old:?}");
                assert!(fs::read(&new).unwrap() == content, "{new:?}");
                if rounds % 3 == 0 {
                    hsm.ok(&["remove", "--wait"], &[&new]);
                } else {
                    hsm.release(&[&new]);
                }
                hsm.release(&[old]);
            }
        });
        for drained in &paths {
            let before = rounds.load(Ordering::SeqCst);
            wait_until(LONG, "files come and go", || {
                rounds.load(Ordering::SeqCst) > before + 2 || worker.is_finished()
            });
            let drain = drained.to_str().unwrap();
            let (code, totals, said) = own(&hsm, &["rebalance", "--archive", "1", "--drain", drain, "--json"]);
            assert_eq!(code, Some(0), "{totals} {said}");
            assert!(totals["moved"].as_u64() > Some(0) && holdings(drained) == 0, "{totals}");
            // It is a root again; the mover makes it one when it is started.
            for name in [".sifaka-drained", ".sifaka-root"] {
                fs::remove_file(drained.join(name)).unwrap();
            }
            let mover = hsm.mover_pids()[0];
            crate::support::kill(mover);
            wait_until(LONG, "the next mover took it", || drained.join(".sifaka-root").exists());
        }
        over.store(true, Ordering::SeqCst);
        worker.join().unwrap();
    });
    hsm.settle();
    sound(&hsm);
}

#[test]
fn a_full_root_costs_nothing_as_long_as_the_other_has_room() {
    let roots = Roots::new([FsKind::Ext4, FsKind::Ext4], 200);
    let hsm = Hsm::start_with(FsKind::Ext4, 400, |site| roots.configure(site));
    // What others put there, behind the mover's back, while it writes.
    let large: Vec<PathBuf> = (0..8).map(|n| hsm.file(&format!("large{n}"), &noise(n, 9 << 20))).collect();
    let large: Vec<&Path> = large.iter().map(PathBuf::as_path).collect();
    let full = std::thread::scope(|scope| {
        let filling = scope.spawn(|| faults::fill(&roots.0[0], 2 << 20));
        hsm.archive(&large);
        filling.join().unwrap()
    });
    let before = roots.holdings();
    let more: Vec<PathBuf> = (8..12).map(|n| hsm.file(&format!("large{n}"), &noise(n, 9 << 20))).collect();
    let more: Vec<&Path> = more.iter().map(PathBuf::as_path).collect();
    hsm.archive(&more);
    assert_eq!(roots.holdings(), [before[0], before[1] + 4]);
    hsm.release(&[&large[..], &more[..]].concat());
    for (n, path) in large.iter().chain(&more).enumerate() {
        assert!(fs::read(path).unwrap() == noise(n as u64, 9 << 20), "{n}");
    }
    // Both are full.
    let other = faults::fill(&roots.0[1], 2 << 20);
    let path = hsm.file("nowhere", &noise(99, 9 << 20));
    hsm.run(&["archive"], &[&path]);
    wait_until(LONG, "it is told that there is no room", || {
        let said = hsm.site.sifaka_ok(&["actions", "--json"]);
        said.contains("No space left")
    });
    drop((full, other));
    hsm.settle();
    hsm.release(&[&path]);
    assert!(fs::read(&path).unwrap() == noise(99, 9 << 20));
    sound(&hsm);
}

#[test]
fn nothing_is_written_into_the_place_of_a_root_that_is_not_mounted() {
    let roots = Roots::new([FsKind::Ext4, FsKind::Ext4], 200);
    let mut hsm = Hsm::start_with(FsKind::Ext4, 400, |site| {
        roots.configure(site);
        site.add_agent_setting("restore { timeout_s = 2 }");
    });
    let files: Vec<PathBuf> = (0..12).map(|n| hsm.file(&format!("large{n}"), &noise(n, 9 << 20))).collect();
    let all: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    hsm.archive(&all);
    hsm.release(&all);
    let [away, there] = roots.paths();
    let lies_there = |path: &Path| {
        let uuid = uuid_of(path);
        there.join("objects").join(&uuid[0..2]).join(&uuid[2..4]).join(&uuid).exists()
    };
    let (in_there, in_away): (Vec<&Path>, Vec<&Path>) = all.iter().partition(|path| lies_there(path));
    assert!(!in_there.is_empty() && !in_away.is_empty(), "{:?}", roots.holdings());
    for restarted in [false, true] {
        if restarted {
            hsm.stop_agent();
        }
        roots.0[0].unmount();
        // The same directory, and nothing in it.
        fs::create_dir(&away).unwrap();
        if restarted {
            hsm.agent = Some(hsm.site.start_agent());
            hsm.wait_for_movers();
        }
        let count = holdings(&there);
        let names = [0, 1, 2].map(|n| format!("new{n}-{restarted}"));
        let new = names.each_ref().map(|name| hsm.file(name, &noise(7, 9 << 20)));
        hsm.archive(&new.each_ref().map(PathBuf::as_path));
        assert_eq!(holdings(&there), count + 3, "{restarted}");
        let first = fs::read_dir(&away).unwrap().next();
        assert!(first.is_none(), "{restarted}: {first:?} came into the place where nothing is mounted");
        assert!(fs::read(in_there[0]).is_ok(), "{restarted}");
        let failed = fs::read(in_away[0]).map(drop).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(5), "{restarted}: {failed}");
        for words in [&["scrub"][..], &["fsck"], &["rebalance", "--archive", "1"]] {
            let (code, _, said) = own(&hsm, words);
            assert!(code != Some(0) && said.contains("is its filesystem mounted?"), "{words:?}: {code:?} {said}");
        }
        fs::remove_dir(&away).unwrap();
        roots.0[0].mount_again();
        wait_until(LONG, "the root is used again", || fs::read(in_away[0]).is_ok());
        hsm.release(&[in_there[0], in_away[0]]);
    }
    for (n, path) in files.iter().enumerate() {
        assert!(fs::read(path).unwrap() == noise(n as u64, 9 << 20), "{n}");
    }
    sound(&hsm);
    assert!(!archived(&there, &uuid_of(in_there[0])).is_empty());
}
