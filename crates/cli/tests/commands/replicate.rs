//! `sifaka replicate` as a process: what a replica is, who may write to it, fail-over and fail-back, and what is left when it is killed.

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use testkit::tree::TreeSpec;
use testkit::{FsKind, LoopFs, Random, Scratch, wait_until};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A replicator, which ends with the test.
pub(crate) struct Replicator(pub(crate) Child);

impl Replicator {
    pub(crate) fn signal(mut self, signal: Signal) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Replicator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct Site {
    pub(crate) scratch: Scratch,
    pub(crate) from: LoopFs,
    pub(crate) to: LoopFs,
}

impl Site {
    pub(crate) fn new(name: &str, from: FsKind, to: FsKind) -> Self {
        let (from, to) = (LoopFs::new(from, 400), LoopFs::new(to, 400));
        let site = Self { scratch: Scratch::new(name), from, to };
        fs::create_dir(site.source()).unwrap();
        site
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.from.path().join("src")
    }

    pub(crate) fn replica(&self) -> PathBuf {
        self.to.path().join("dst")
    }

    pub(crate) fn command(&self, args: &[&str], paths: &[&Path]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sifaka"));
        command.arg("replicate").args(args).args(paths).stdin(Stdio::null());
        if paths.len() > 1 {
            command.arg("--state").arg(self.scratch.join("state.db"));
        }
        command
    }

    pub(crate) fn once(&self, args: &[&str]) -> (Option<i32>, String) {
        let args = [&["--once", "-q"], args].concat();
        ran(&mut self.command(&args, &[&self.source(), &self.replica()]))
    }

    /// Goes on until it is ended.
    pub(crate) fn follow(&self, args: &[&str]) -> Replicator {
        Replicator(self.command(&[&["-q"], args].concat(), &[&self.source(), &self.replica()]).spawn().unwrap())
    }

    pub(crate) fn assert_same(&self) {
        let differing = differences(&self.source(), &self.replica());
        assert!(differing.is_empty(), "{differing}");
    }

    pub(crate) fn wait_until_same(&self) {
        let began = Instant::now();
        while !differences(&self.source(), &self.replica()).is_empty() {
            if began.elapsed() > PATIENCE {
                return self.assert_same();
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What the replica keeps of what was removed, by its path: content, or nothing of what is no file.
    fn kept(&self, path: &str) -> Vec<String> {
        let slots = fs::read_dir(self.replica().join(".sifaka-replica/removed")).unwrap();
        let kept = slots.map(|slot| slot.unwrap().path().join(path)).filter(|path| path.symlink_metadata().is_ok());
        kept.map(|path| fs::read_to_string(path).unwrap_or_default()).collect()
    }
}

pub(crate) fn ran(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// By rsync: content, names, links, owners, modes, times, attributes and ACLs, in both directions.
pub(crate) fn differences(source: &Path, replica: &Path) -> String {
    let mut rsync = Command::new("rsync");
    rsync.args(["-n", "-aciHAXS", "--delete", "--devices", "--specials", "--exclude=/.sifaka-replica"]);
    rsync.args(["--filter=-x trusted.SGI_ACL_*", "--filter=-x system.*"]);
    let compared = rsync.arg(source.join("")).arg(replica.join("")).output().unwrap();
    String::from_utf8_lossy(&compared.stdout).into_owned() + &String::from_utf8_lossy(&compared.stderr)
}

#[test]
fn what_goes_from_the_source_stays_in_the_replica_for_a_while() {
    let site = Site::new("replica-grace", FsKind::Ext4, FsKind::Xfs);
    let source = site.source();
    fs::create_dir_all(source.join("d/e")).unwrap();
    for (name, text) in [("d/e/one", "1"), ("d/two", "2"), ("three", "3"), ("four", "4")] {
        fs::write(source.join(name), text).unwrap();
    }
    symlink("three", source.join("link")).unwrap();
    assert_eq!(site.once(&[]), (Some(0), String::new()));
    site.assert_same();

    fs::remove_dir_all(source.join("d")).unwrap();
    fs::write(source.join("d"), "a file now").unwrap();
    fs::write(source.join("three"), "3, changed").unwrap();
    fs::remove_file(source.join("four")).unwrap();
    fs::create_dir(source.join("four")).unwrap();
    fs::remove_file(source.join("link")).unwrap();
    assert_eq!(site.once(&[]).0, Some(0));
    site.assert_same();
    for (path, text) in [("d/e/one", "1"), ("d/two", "2"), ("three", "3"), ("four", "4")] {
        assert_eq!(site.kept(path), [text], "{path}");
    }
    assert_eq!(site.kept("link").len(), 1);
    // Older than a week: as if it had been made then.
    let removed = site.replica().join(".sifaka-replica/removed");
    for slot in fs::read_dir(&removed).unwrap() {
        fs::rename(slot.unwrap().path(), removed.join("20200101T000000Z")).unwrap();
    }
    fs::create_dir(removed.join("somebody's")).unwrap();
    assert_eq!(site.once(&["--grace", "1h"]).0, Some(0));
    assert!(!removed.join("20200101T000000Z").exists() && removed.join("somebody's").exists());
    fs::remove_file(source.join("three")).unwrap();
    assert_eq!(site.once(&["--grace", "0s"]).0, Some(0));
    assert_eq!((site.kept("three"), site.replica().join("three").exists()), (vec![], false));
}

#[test]
fn nothing_is_made_a_replica_by_mistake() {
    let site = Site::new("replica-mistakes", FsKind::Ext4, FsKind::Ext4);
    let (source, replica) = (site.source(), site.replica());
    fs::write(source.join("file"), "of the source").unwrap();
    fs::create_dir(&replica).unwrap();
    fs::write(replica.join("precious"), "of somebody").unwrap();
    let (code, stderr) = site.once(&[]);
    assert!(code == Some(2) && stderr.contains("--adopt"), "{stderr}");
    assert!(replica.join("precious").exists());
    assert_eq!(site.once(&["--adopt"]).0, Some(0));
    site.assert_same();
    assert_eq!(site.kept("precious"), ["of somebody"]);

    // The source is not mounted, or is another one.
    fs::rename(&source, site.from.path().join("elsewhere")).unwrap();
    fs::create_dir(&source).unwrap();
    let (code, stderr) = site.once(&[]);
    assert!(code == Some(2) && stderr.contains("mounted"), "{stderr}");
    assert!(replica.join("file").exists());
    fs::remove_dir(&source).unwrap();
    fs::rename(site.from.path().join("elsewhere"), &source).unwrap();
    assert_eq!(site.once(&[]).0, Some(0));

    // The replica's own name is nobody else's, and a replica of a replica is none.
    fs::create_dir(source.join(".sifaka-replica")).unwrap();
    fs::set_permissions(source.join(".sifaka-replica"), fs::Permissions::from_mode(0o700)).unwrap();
    let (code, stderr) = site.once(&[]);
    assert!(code == Some(2) && stderr.contains("rename it first"), "{stderr}");
    fs::remove_dir(source.join(".sifaka-replica")).unwrap();
    let (code, stderr) = ran(&mut site.command(&["--once"], &[&replica, &site.from.path().join("third")]));
    assert!(code == Some(2) && stderr.contains("promote"), "{stderr}");

    // Two at once.
    let first = site.follow(&[]);
    let status = || ran(&mut site.command(&["--status", "--alarm-after", "1d"], &[&replica])).0;
    wait_until(PATIENCE, "the first one writes", || self::status(&site)["status"]["pid"] == first.0.id());
    assert_eq!((site.once(&[]).0, status()), (Some(5), Some(0)));
    assert_eq!(first.signal(Signal::TERM), Some(0));
    // What is in the control directory may be anything.
    fs::write(replica.join(".sifaka-replica/replica.json"), vec![b'['; 100_000]).unwrap();
    assert_eq!((site.once(&[]).0, status()), (Some(2), Some(2)));
    fs::set_permissions(replica.join(".sifaka-replica"), fs::Permissions::from_mode(0o755)).unwrap();
    let (code, stderr) = site.once(&["--adopt"]);
    assert!(code == Some(2) && stderr.contains("not believed"), "{stderr}");
}

/// As docs/bulk.md has it: the source is lost, the replica is taken into use, and later all comes back.
#[test]
fn fail_over_and_fail_back() {
    let site = Site::new("replica-failover", FsKind::Xfs, FsKind::Ext4);
    let (source, replica) = (site.source(), site.replica());
    TreeSpec::new(5, 30).build(&source);
    fs::write(source.join("both"), "at first").unwrap();
    let mut replicator = site.follow(&["--no-events", "--every", "1s"]);
    wait_until(PATIENCE, "the replica is there", || replica.join("both").exists());
    site.wait_until_same();

    let alone = |args: &[&str], path: &Path| ran(&mut site.command(args, &[path]));
    assert_eq!(alone(&["--promote"], &replica), (Some(0), String::new()));
    assert_eq!(replicator.0.wait().unwrap().code(), Some(5), "it was told to end");
    fs::write(source.join("lost"), "written to the old one too late").unwrap();
    fs::write(replica.join("both"), "written to the replica").unwrap();
    fs::write(replica.join("new"), "there").unwrap();
    let (code, stderr) = site.once(&[]);
    assert!(code == Some(2) && stderr.contains("promoted"), "{stderr}");
    assert_eq!(fs::read_to_string(replica.join("both")).unwrap(), "written to the replica");

    // Back: first the old source becomes a replica.
    let back = |args: &[&str]| ran(&mut site.command(&[&["--once", "-q"], args].concat(), &[&replica, &source]));
    let (code, stderr) = back(&[]);
    assert!(code == Some(2) && stderr.contains("--adopt"), "{stderr}");
    assert_eq!(back(&["--adopt"]), (Some(0), String::new()));
    assert_eq!(fs::read_to_string(source.join("both")).unwrap(), "written to the replica");
    let slots = fs::read_dir(source.join(".sifaka-replica/removed")).unwrap();
    let lost: Vec<_> = slots.map(|slot| slot.unwrap().path().join("lost")).filter(|path| path.exists()).collect();
    assert_eq!(lost.len(), 1, "what was written too late is kept");
    assert!(!source.join(".sifaka-replica/.sifaka-replica").exists());

    // Then it is taken into use, and the replica is one again.
    assert_eq!(alone(&["--promote"], &source).0, Some(0));
    fs::write(source.join("after"), "all of it").unwrap();
    assert_eq!(site.once(&[]).0, Some(2));
    assert_eq!(site.once(&["--adopt"]), (Some(0), String::new()));
    site.assert_same();
    assert!(replica.join(".sifaka-replica/replica.json").exists());
}

#[test]
fn who_waits_for_the_replica_is_told_how_it_goes() {
    let site = Site::new("replica-status", FsKind::Ext4, FsKind::Ext4);
    let (source, replica) = (site.source(), site.replica());
    fs::write(source.join("file"), "12345").unwrap();
    let told = site.scratch.join("told");
    let look = |args: &[&str]| {
        let output = site.command(&[&["--status", "--json"], args].concat(), &[&replica]).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), status)
    };
    assert_eq!(look(&[]).0, Some(1), "there is none yet");
    assert_eq!(site.once(&["--report", site.scratch.join("report").to_str().unwrap()]).0, Some(0));
    let (code, status) = look(&["--alarm-after", "1h"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        (&status["status"]["copied"], &status["status"]["last_pass"]["failed"]),
        (&2.into(), &0.into()),
        "{status}"
    );
    assert!(status["lag_seconds"].as_u64().unwrap() < 60 && status["status"]["pid"].is_null(), "{status}");
    assert!(fs::read_to_string(site.scratch.join("report")).unwrap().contains("\"copied\""));

    // A replica that lags: nothing more comes to it.
    let alarm = format!("echo $SIFAKA_REPLICA >> {}", told.display());
    let metrics = site.scratch.join("replica.prom");
    let always = ["--no-events", "--every", "1d", "--alarm-after", "1s", "--alarm-command", &alarm];
    let late = site.follow(&[&always[..], &["--metrics-file", metrics.to_str().unwrap()]].concat());
    wait_until(PATIENCE, "the alarm is told", || told.exists() && fs::metadata(&told).unwrap().len() > 0);
    assert_eq!(fs::read_to_string(&told).unwrap().lines().next(), replica.to_str());
    let metric = |name: &str| {
        let line = format!("sifaka_replica_{name}{{replica=\"{}\"}} ", replica.display());
        let text = fs::read_to_string(&metrics).unwrap_or_default();
        text.lines().find_map(|found| found.strip_prefix(&line)?.parse::<u64>().ok())
    };
    wait_until(PATIENCE, "the metrics are written", || metric("synced_to_timestamp_seconds").is_some());
    assert!(metric("lag_seconds").is_some() && metric("up") == Some(1), "{}", fs::read_to_string(&metrics).unwrap());
    late.signal(Signal::KILL);
    wait_until(PATIENCE, "it is late for who asks", || look(&["--alarm-after", "1s"]).0 == Some(6));
}

/// Changes a tree as users do: writes, renames, removals, links, modes.
pub(crate) fn change(root: &Path, random: &mut Random, links: bool) {
    let mut directories = vec![root.to_owned()];
    let mut files = Vec::new();
    let mut at = 0;
    while let Some(directory) = directories.get(at).cloned() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
        at += 1;
    }
    let mut any = |of: &[PathBuf]| of.get(random.within(0..of.len().max(1) as u64) as usize).cloned();
    let (Some(directory), Some(other)) = (any(&directories), any(&directories)) else { return };
    let file = any(&files);
    let name = format!("n{}", random.within(0..1000));
    // What cannot be done (a directory into itself, say) is not done.
    match (random.within(0..9), file) {
        (0 | 1, _) => drop(fs::write(directory.join(name), vec![7; random.within(0..200_000) as usize])),
        (2, _) => drop(fs::create_dir(directory.join(name))),
        (3, Some(file)) => drop(fs::rename(file, directory.join(name))),
        (4, _) if other != root => drop(fs::rename(other, directory.join(name))),
        (5, Some(file)) => drop(fs::remove_file(file)),
        (6, Some(file)) if links => drop(fs::hard_link(file, directory.join(name))),
        (7, Some(file)) => drop(fs::write(file, format!("content {}", random.within(0..1000)))),
        (_, Some(file)) => {
            drop(fs::set_permissions(file, fs::Permissions::from_mode(0o600 + random.within(0..64) as u32)))
        }
        _ => {}
    }
}

/// Killed at any moment while the source changes, it ends with what is at the source, and leaves nothing behind.
fn killed_while_the_source_changes(site: &Site, args: &[&str]) {
    let source = site.source();
    let mut random = Random::from_env();
    for number in 0..6 {
        let directory = source.join(format!("d{number}"));
        fs::create_dir(&directory).unwrap();
        TreeSpec { max_file_bytes: 1 << 20, ..TreeSpec::new(number, 25) }.build(&directory);
    }
    for _ in 0..8 {
        let replicator = site.follow(args);
        for _ in 0..random.within(1..120) {
            change(&source, &mut random, true);
        }
        replicator.signal(Signal::KILL);
    }
    let mut replicator = site.follow(args);
    for _ in 0..200 {
        change(&source, &mut random, true);
    }
    site.wait_until_same();
    assert!(replicator.0.try_wait().unwrap().is_none(), "it goes on");
    replicator.signal(Signal::KILL);
    let mut find = Command::new("find");
    find.arg(site.replica()).args(["-path", "*/.sifaka-replica", "-prune", "-o", "-name", ".sifaka-*", "-print"]);
    let found = find.output().unwrap();
    assert_eq!(String::from_utf8(found.stdout).unwrap(), "");
    let control = fs::metadata(site.replica().join(".sifaka-replica")).unwrap();
    assert_eq!((control.mode() & 0o777, control.uid()), (0o700, 0));
}

#[test]
fn p7_killed_while_the_source_changes_it_ends_with_what_is_there() {
    let site = Site::new("replica-killed", FsKind::Ext4, FsKind::Xfs);
    killed_while_the_source_changes(&site, &["--no-events", "--every", "1s"]);
}

#[test]
fn p7_killed_while_events_come_it_ends_with_what_is_there() {
    for (from, to) in [(FsKind::Ext4, FsKind::Xfs), (FsKind::Xfs, FsKind::Btrfs)] {
        let site = Site::new("replica-events-killed", from, to);
        killed_while_the_source_changes(&site, &[]);
    }
}

pub(crate) fn status(site: &Site) -> Value {
    let output = site.command(&["--status", "--json"], &[&site.replica()]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Renames stay renames: what is renamed keeps its inode in the replica, and nothing below it is touched.
#[test]
fn what_is_renamed_is_renamed_in_the_replica() {
    for kind in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs] {
        let site = Site::new("replica-renames", kind, FsKind::Ext4);
        let (source, replica) = (site.source(), site.replica());
        for name in ["a/b/c", "one", "two", "left/x", "outer/inner"] {
            fs::create_dir_all(source.join(name)).unwrap();
            fs::write(source.join(name).join("file"), name).unwrap();
        }
        fs::write(source.join("big"), vec![3; 3 << 20]).unwrap();
        let replicator = site.follow(&[]);
        wait_until(PATIENCE, "the first pass is over", || {
            status(&site)["status"]["last_pass"].is_object() && status(&site)["status"]["mode"] == "events"
        });
        site.assert_same();
        let inode = |path: &str| fs::symlink_metadata(replica.join(path)).unwrap().ino();
        let before =
            ["a/b", "a/b/c/file", "one", "one/file", "two", "two/file", "big", "left/x", "outer", "outer/inner/file"]
                .map(inode);

        // Exchanged; into something new; to another name in what is renamed itself; out of it; twice.
        fs::rename(source.join("one"), source.join("tmp")).unwrap();
        fs::rename(source.join("two"), source.join("one")).unwrap();
        fs::rename(source.join("tmp"), source.join("two")).unwrap();
        fs::create_dir_all(source.join("new/er")).unwrap();
        fs::rename(source.join("a/b"), source.join("new/er/b")).unwrap();
        fs::write(source.join("new/er/b/c/more"), "more").unwrap();
        fs::rename(source.join("left/x"), source.join("right")).unwrap();
        fs::rename(source.join("right"), source.join("left/y")).unwrap();
        fs::rename(source.join("outer/inner"), source.join("inner")).unwrap();
        fs::rename(source.join("outer"), source.join("inner/outer")).unwrap();
        fs::rename(source.join("big"), source.join("inner/outer/large")).unwrap();
        fs::remove_file(source.join("one/file")).unwrap();
        site.wait_until_same();
        let after = ["new/er/b", "new/er/b/c/file", "two", "two/file", "one", "left/y", "inner/outer/large"].map(inode);
        assert_eq!(after[..5], [before[0], before[1], before[2], before[3], before[4]]);
        assert_eq!((after[5], after[6]), (before[7], before[6]));
        assert_eq!((inode("inner/outer"), inode("inner/file")), (before[8], before[9]));
        assert_eq!(site.kept("one/file"), ["two"], "the only thing that was removed");
        replicator.signal(Signal::TERM);
        let status = status(&site);
        assert_eq!(status["status"]["failed"], 0, "{status}");
        assert!(status["status"]["renamed"].as_u64().unwrap() >= 7, "{status}");
    }
}

#[test]
fn changes_come_over_without_a_pass() {
    let site = Site::new("replica-events", FsKind::Ext4, FsKind::Xfs);
    let source = site.source();
    fs::create_dir_all(source.join("d/e")).unwrap();
    fs::create_dir(site.from.path().join("beside")).unwrap();
    for name in ["d/one", "d/two", "three", "beside-the-point"] {
        fs::write(source.join(name), name).unwrap();
    }
    let replicator = site.follow(&["--every", "7d"]);
    wait_until(PATIENCE, "the first pass is over", || status(&site)["status"]["last_pass"].is_object());
    let pass = status(&site)["status"]["last_pass"].clone();
    fs::write(source.join("d/one"), "changed").unwrap();
    fs::remove_file(source.join("d/two")).unwrap();
    symlink("nowhere", source.join("d/two")).unwrap();
    fs::set_permissions(source.join("d/e"), fs::Permissions::from_mode(0o2711)).unwrap();
    fs::remove_file(source.join("three")).unwrap();
    fs::create_dir_all(source.join("three/x/y/z")).unwrap();
    TreeSpec::new(3, 20).build(&source.join("three/x/y"));
    for number in 0..400 {
        fs::write(source.join(format!("d/e/{number}")), vec![1; 10]).unwrap();
    }
    // In and out of the tree.
    fs::create_dir(site.from.path().join("beside/in")).unwrap();
    fs::write(site.from.path().join("beside/in/file"), "from outside").unwrap();
    fs::rename(site.from.path().join("beside/in"), source.join("in")).unwrap();
    fs::rename(source.join("beside-the-point"), site.from.path().join("beside/out")).unwrap();
    site.wait_until_same();
    assert_eq!(status(&site)["status"]["last_pass"], pass, "none was needed");
    // A second name of a file, and a change of both: for that one is.
    fs::hard_link(source.join("d/one"), source.join("d/e/uno")).unwrap();
    fs::write(source.join("d/one"), "changed again").unwrap();
    site.wait_until_same();
    replicator.signal(Signal::TERM);
    assert_eq!(status(&site)["status"]["failed"], 0);
    assert_eq!(site.kept("three"), ["three"]);
    assert_eq!(site.kept("beside-the-point"), ["beside-the-point"]);
}

/// Without a pass, and so by what the kernel tells alone: whatever is renamed, replaced and removed while earlier changes come over.
#[test]
fn p10_what_the_kernel_tells_is_enough() {
    let site = Site::new("replica-churn", FsKind::Xfs, FsKind::Ext4);
    let source = site.source();
    let mut random = Random::from_env();
    for number in 0..4 {
        fs::create_dir(source.join(format!("d{number}"))).unwrap();
        TreeSpec::new(number, 20).build(&source.join(format!("d{number}")));
    }
    let _replicator = site.follow(&[]);
    wait_until(PATIENCE, "the first pass is over", || status(&site)["status"]["last_pass"].is_object());
    let pass = status(&site)["status"]["last_pass"].clone();
    for _ in 0..3 {
        for _ in 0..200 {
            change(&source, &mut random, false);
        }
        site.wait_until_same();
    }
    let status = status(&site);
    assert_eq!((&status["status"]["last_pass"], &status["status"]["failed"]), (&pass, &0.into()), "{status}");
}
