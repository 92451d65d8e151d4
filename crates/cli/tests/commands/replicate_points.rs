//! Points in time of a replica: each is what the source was at its moment, whatever comes later, and whoever is killed meanwhile.

use crate::replicate::{PATIENCE, Replicator, Site, change, differences, ran, status};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use testkit::tree::TreeSpec;
use testkit::{FsKind, LoopFs, Random, Scratch, wait_until};

/// Takes one each time.
const EACH: [&str; 4] = ["--points", "7d", "--point-every", "0s"];

fn run(program: &str, args: &[&str], paths: &[&Path]) {
    let output = Command::new(program).args(args).args(paths).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Two points are never of one second.
fn next_second() {
    let began = now();
    wait_until(PATIENCE, "the clock goes on", || now() > began);
}

/// A replica of this kind; on btrfs a subvolume.
fn site(name: &str, to: FsKind) -> Site {
    let site = Site::new(name, FsKind::Ext4, to);
    if to == FsKind::Btrfs {
        run("btrfs", &["-q", "subvolume", "create"], &[&site.replica()]);
    }
    site
}

fn points(site: &Site) -> Vec<Value> {
    let output = site.command(&["--list-points", "--json"], &[&site.replica()]).output().unwrap();
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    listed["points"].as_array().unwrap().clone()
}

fn path(site: &Site, point: &Value) -> PathBuf {
    site.replica().join(point["path"].as_str().unwrap())
}

fn in_points(site: &Site) -> Vec<String> {
    let Ok(listing) = fs::read_dir(site.replica().join(".sifaka-replica/points")) else { return Vec::new() };
    let mut names: Vec<_> = listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What the source is now, apart from all that comes.
fn freeze(site: &Site, number: usize) -> PathBuf {
    let frozen = site.from.path().join(format!("frozen-{number}"));
    run("rsync", &["-aHAXS"], &[&site.source().join(""), &frozen]);
    frozen
}

fn assert_equal(frozen: &Path, point: &Path) {
    let differing = differences(frozen, point);
    assert!(differing.is_empty(), "{} {}: {differing}", frozen.display(), point.display());
}

fn build(source: &Path) {
    TreeSpec::new(11, 60).build(source);
    fs::create_dir_all(source.join("d/e")).unwrap();
    for name in ["content", "mode", "owner", "attribute", "renamed", "removed", "d/linked", "d/e/deep", "taken-apart"] {
        fs::write(source.join(name), name).unwrap();
    }
    fs::hard_link(source.join("d/linked"), source.join("another-name")).unwrap();
    fs::hard_link(source.join("taken-apart"), source.join("apart")).unwrap();
    symlink("content", source.join("link")).unwrap();
    run("mkfifo", &[], &[&source.join("fifo")]);
    fs::write(source.join("large"), vec![9; 40 << 20]).unwrap();
}

/// Of content, of attributes alone, of names.
fn alter(source: &Path, round: u32) {
    // In place, of the same size.
    fs::write(source.join("content"), format!("{round}").repeat(7)).unwrap();
    fs::set_permissions(source.join("mode"), fs::Permissions::from_mode(0o600 + round)).unwrap();
    std::os::unix::fs::chown(source.join("owner"), Some(1000 + round), Some(round)).unwrap();
    run("setfattr", &["-n", "user.round", "-v", &round.to_string()], &[&source.join("attribute")]);
    run("setfacl", &["-m", &format!("u:{}:r", 2000 + round)], &[&source.join("d/linked")]);
    let before = if round == 1 { "renamed".to_owned() } else { format!("renamed-{}", round - 1) };
    fs::rename(source.join(before), source.join(format!("renamed-{round}"))).unwrap();
    run("touch", &["-h"], &[&source.join("link")]);
    fs::set_permissions(source.join("d/e"), fs::Permissions::from_mode(0o700 + round)).unwrap();
    match round {
        1 => fs::remove_file(source.join("removed")).unwrap(),
        2 => {
            fs::rename(source.join("d/e"), source.join("moved")).unwrap();
            fs::create_dir(source.join("d/e")).unwrap();
            run("cp", &["-p"], &[&source.join("apart"), &source.join("copy")]);
            fs::rename(source.join("copy"), source.join("apart")).unwrap();
            fs::write(source.join("apart"), "something else").unwrap();
        }
        _ => {
            fs::remove_file(source.join("link")).unwrap();
            fs::create_dir(source.join("link")).unwrap();
            fs::hard_link(source.join("mode"), source.join("d/mode")).unwrap();
        }
    }
}

fn each_point_is_what_the_source_was(to: FsKind, method: &str) {
    let site = site("points", to);
    let (source, replica) = (site.source(), site.replica());
    build(&source);
    let mut frozen = Vec::new();
    for round in 0..4 {
        if round > 0 {
            alter(&source, round);
        }
        frozen.push(freeze(&site, round as usize));
        next_second();
        assert_eq!(site.once(&EACH), (Some(0), String::new()));
        site.assert_same();
    }
    // Without points: those that there are stay as they are all the same.
    fs::set_permissions(source.join("large"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(source.join("content"), "later").unwrap();
    fs::remove_dir_all(source.join("d")).unwrap();
    assert_eq!(site.once(&[]), (Some(0), String::new()));
    site.assert_same();

    let points = points(&site);
    assert_eq!(points.len(), 4, "{points:?}");
    for (point, frozen) in points.iter().zip(&frozen) {
        assert_eq!(point["method"], method);
        assert_equal(frozen, &path(&site, point));
        assert!(!path(&site, point).join(".sifaka-replica").exists());
    }
    let used = site.to.used_bytes();
    assert!(used < 200 << 20, "{used}: four points and a copy of 40 MiB, which is one file in all of them");
    let output = site.command(&["--status"], &[&replica]).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("4 points in time"));

    // Back from one.
    let target = site.from.path().join("restored");
    let mut sifaka = Command::new(env!("CARGO_BIN_EXE_sifaka"));
    sifaka.args(["migrate", "-q", "--state"]).arg(site.scratch.join("restored.db"));
    let restored = ran(sifaka.arg(path(&site, &points[1])).arg(&target));
    assert_eq!(restored, (Some(0), String::new()));
    assert_equal(&frozen[1], &target);

    // Somebody migrates out of the replica, and into it: what is its own stays where it is, and points stay what they are.
    let migrate = |args: &[&str], from: &Path, to: &Path| {
        let mut sifaka = Command::new(env!("CARGO_BIN_EXE_sifaka"));
        sifaka.arg("migrate").args(args).args(["-q", "--state"]).arg(site.scratch.join("migrated.db")).args([from, to]);
        assert_eq!(ran(&mut sifaka), (Some(0), String::new()));
    };
    migrate(&[], &replica, &site.from.path().join("out"));
    assert!(!site.from.path().join("out/.sifaka-replica").exists());
    migrate(&["--update", "--delete"], &frozen[0], &replica);
    for (point, frozen) in points.iter().zip(&frozen) {
        assert_equal(frozen, &path(&site, point));
    }
    assert!(differences(&frozen[0], &replica).is_empty());

    // Older than they are kept for, but for the newest.
    for (number, point) in points.iter().enumerate().take(3) {
        let path = path(&site, point);
        let old = path.with_file_name(format!("2020010{}T000000Z", number + 1));
        fs::rename(&path, &old).unwrap();
        fs::rename(path.with_extension("json"), old.with_extension("json")).unwrap();
    }
    fs::create_dir(replica.join(".sifaka-replica/points/somebody's")).unwrap();
    assert_eq!(site.once(&["--points", "1h", "--point-every", "1d"]), (Some(0), String::new()));
    let name = path(&site, &points[3]).file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(in_points(&site), [name.clone(), format!("{name}.json"), "somebody's".to_owned()]);
    assert_eq!(site.once(&["--points", "0s", "--point-every", "1d"]).0, Some(0));
    next_second();
    assert_eq!((site.once(&["--points", "0s", "--point-every", "1d"]).0, in_points(&site).len()), (Some(0), 3));
    assert_equal(&frozen[3], &replica.join(".sifaka-replica/points").join(name));
}

#[test]
fn p10_a_point_by_snapshot_is_what_the_source_was() {
    each_point_is_what_the_source_was(FsKind::Btrfs, "snapshot");
}

#[test]
fn p10_a_point_by_reflinks_is_what_the_source_was() {
    each_point_is_what_the_source_was(FsKind::Xfs, "reflinks");
}

#[test]
fn p10_a_point_by_hard_links_is_what_the_source_was() {
    each_point_is_what_the_source_was(FsKind::Ext4, "links");
}

/// A subvolume in the replica is not in a snapshot of it.
#[test]
fn a_subvolume_in_the_replica_is_in_its_points() {
    let site = site("points-subvolume", FsKind::Btrfs);
    fs::create_dir(site.source().join("inner")).unwrap();
    fs::write(site.source().join("inner/file"), "in a subvolume").unwrap();
    run("btrfs", &["-q", "subvolume", "create"], &[&site.replica().join("inner")]);
    assert_eq!(site.once(&[&EACH[..], &["--adopt"]].concat()), (Some(0), String::new()));
    let points = points(&site);
    assert_eq!((points.len(), &points[0]["method"]), (1, &"reflinks".into()));
    assert_equal(&site.source(), &path(&site, &points[0]));
}

/// While the kernel tells what changes: a point is exact, and what is renamed is renamed, also where each file has names in points.
#[test]
fn p10_points_of_a_source_in_use_are_exact() {
    for (to, method) in [(FsKind::Ext4, "links"), (FsKind::Btrfs, "snapshot")] {
        let site = site("points-events", to);
        let source = site.source();
        build(&source);
        let replicator = site.follow(&["--points", "7d", "--point-every", "1s"]);
        let mut pairs = Vec::new();
        for round in 0..4 {
            if round > 0 {
                alter(&source, round);
            }
            let since = now();
            next_second();
            let found = || {
                let fits = |point: &Value| point["synced_to"].as_u64().unwrap() > since && point["exact"] == true;
                points(&site).into_iter().find(fits)
            };
            wait_until(PATIENCE, "an exact point", || found().is_some());
            pairs.push((freeze(&site, round as usize), path(&site, &found().unwrap())));
        }
        let inode = |name: &str| fs::metadata(site.replica().join(name)).unwrap().ino();
        let before = inode("large");
        fs::rename(source.join("large"), source.join("moved/larger")).unwrap();
        site.wait_until_same();
        assert_eq!(inode("moved/larger"), before, "it was renamed");
        replicator.signal(Signal::TERM);
        assert_eq!(status(&site)["status"]["points"]["method"], method);
        for (frozen, point) in pairs {
            assert_equal(&frozen, &point);
        }
    }
}

/// Nobody knows when the next point begins: killed when its first trace is seen, and a while later.
fn killed_while_a_point_is_made(to: FsKind) {
    let site = site("points-killed", to);
    let source = site.source();
    let mut random = Random::from_env();
    for number in 0..400 {
        let directory = source.join(format!("d{}/e{}", number % 20, number % 40));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("f{number}")), vec![7; number]).unwrap();
        fs::hard_link(directory.join(format!("f{number}")), source.join(format!("link-{number}"))).unwrap();
    }
    let (mut frozen, mut seen) = (Vec::<(u64, PathBuf)>::new(), Vec::<String>::new());
    for round in 0..10 {
        for _ in 0..20 {
            change(&source, &mut random, true);
        }
        let since = now();
        next_second();
        frozen.push((since, freeze(&site, round)));
        let before = in_points(&site);
        let replicator = Replicator(
            site.command(&[&["--once", "-q"], &EACH[..]].concat(), &[&source, &site.replica()]).spawn().unwrap(),
        );
        let began = Instant::now();
        // Whichever name comes, or goes.
        while in_points(&site).iter().all(|name| before.contains(name)) && began.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(random.within(0..120_000)));
        replicator.signal(Signal::KILL);
        for point in points(&site) {
            let path = point["path"].as_str().unwrap().to_owned();
            if !seen.contains(&path) {
                seen.push(path);
            }
        }
    }
    next_second();
    frozen.push((now(), freeze(&site, 10)));
    next_second();
    assert_eq!(site.once(&EACH), (Some(0), String::new()));
    site.assert_same();
    let (points, names) = (points(&site), in_points(&site));
    assert_eq!(names.len(), points.len() * 2, "a directory and a record each, and nothing else: {names:?}");
    for path in seen {
        assert!(points.iter().any(|point| point["path"] == *path), "{path} is lost");
    }
    for point in points {
        let of = point["synced_to"].as_u64().unwrap();
        let (_, frozen) = frozen.iter().rfind(|(since, _)| *since < of).unwrap();
        assert_equal(frozen, &path(&site, &point));
    }
}

#[test]
fn p10_killed_while_points_are_made_by_snapshot() {
    killed_while_a_point_is_made(FsKind::Btrfs);
}

#[test]
fn p10_killed_while_points_are_made_by_reflinks() {
    killed_while_a_point_is_made(FsKind::Xfs);
}

#[test]
fn p10_killed_while_points_are_made_by_hard_links() {
    killed_while_a_point_is_made(FsKind::Ext4);
}

/// Directories need inodes, of which there are enough for one tree, and not for two.
#[test]
fn without_room_there_is_no_point_and_replication_goes_on() {
    let site = Site {
        scratch: Scratch::new("points-full"),
        from: LoopFs::new(FsKind::Ext4, 100),
        to: LoopFs::with_inodes(100, 1024),
    };
    let source = site.source();
    let told = site.scratch.join("told");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "first").unwrap();
    assert_eq!(site.once(&EACH), (Some(0), String::new()));
    for number in 0..site.to.inodes() * 2 / 3 {
        fs::create_dir(source.join(format!("d{number}"))).unwrap();
    }
    fs::write(source.join("file"), "second").unwrap();
    next_second();
    let alarm = format!("echo $SIFAKA_TROUBLE >> {}", told.display());
    let (code, stderr) = site.once(&[&EACH[..], &["--alarm-after", "1d", "--alarm-command", &alarm]].concat());
    assert!(code == Some(1) && stderr.contains("no point in time") && stderr.contains("No space left"), "{stderr}");
    wait_until(PATIENCE, "the alarm is told", || fs::read_to_string(&told).is_ok_and(|told| told.contains("No space")));
    site.assert_same();
    assert!(status(&site)["status"]["points"]["trouble"].as_str().unwrap().contains("No space left"));
    let first = points(&site);
    assert_eq!((first.len(), in_points(&site).len()), (1, 2), "nothing is left of it: {:?}", in_points(&site));
    assert_eq!(fs::read_to_string(path(&site, &first[0]).join("file")).unwrap(), "first");

    // With room there is one again.
    for number in 0..site.to.inodes() * 2 / 3 {
        fs::remove_dir(source.join(format!("d{number}"))).unwrap();
    }
    assert_eq!(site.once(&[&EACH[..], &["--grace", "0s"]].concat()), (Some(0), String::new()));
    assert_eq!(points(&site).len(), 2);
    assert!(status(&site)["status"]["points"]["trouble"].is_null());
}
