//! `sifaka fsck`, on systems where something went wrong, and beside an agent that works.

use crate::support::{Hsm, LONG, StopWhenDropped, hsm_state, is_released, noise, uuid_of};
use model::HsmFlags;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use testkit::{FsKind, LoopFs};

fn fsck(hsm: &Hsm, words: &[&str]) -> Output {
    let config = hsm.site.agent_config();
    hsm.site.command().arg("--config").arg(config).args(["fsck", "--min-age", "0"]).args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn totals(hsm: &Hsm, words: &[&str], code: i32) -> Value {
    let out = fsck(hsm, &[&["--json"], words].concat());
    assert_eq!(out.status.code(), Some(code), "{}", said(&out));
    let text = String::from_utf8(out.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn object_of(hsm: &Hsm, path: &Path) -> PathBuf {
    let uuid = uuid_of(path);
    hsm.site.archive_root().join("objects").join(&uuid[0..2]).join(&uuid[2..4]).join(&uuid)
}

#[test]
fn a_system_that_works_is_clean_with_its_agent_and_without() {
    for kind in FsKind::ALL {
        let mut hsm = Hsm::start(kind);
        let tree = hsm.path("tree");
        fs::create_dir(&tree).unwrap();
        testkit::tree::TreeSpec::new(3, 40).build(&tree);
        fs::hard_link(hsm.file("one", b"several names"), tree.join("two")).unwrap();
        std::os::unix::fs::symlink("nowhere", tree.join("link")).unwrap();
        hsm.archive(&[&tree]);
        hsm.release(&[&tree]);
        let clean = |report: &Value| {
            assert_eq!(report["complete"], Value::Bool(true), "{report}");
            for nothing in ["orphans", "missing", "wrong", "failed", "foreign", "unreadable", "young"] {
                assert_eq!(report[nothing], Value::from(0), "{kind:?} {nothing}: {report}");
            }
            assert!(report["objects"].as_u64() >= Some(40) && report["named"] == report["objects"], "{report}");
        };
        clean(&totals(&hsm, &[], 0));
        clean(&totals(&hsm, &["--repair"], 0));
        hsm.stop_agent();
        clean(&totals(&hsm, &["--repair"], 0));
    }
}

#[test]
fn what_nobody_names_is_removed_when_asked() {
    let mut hsm = Hsm::start(FsKind::Ext4);
    // Some in packs, some not.
    let files = hsm.files(12);
    let paths: Vec<&Path> = files.iter().map(|(p, _)| p.as_path()).collect();
    hsm.archive(&paths);
    hsm.release(&paths);
    hsm.stop_agent();
    for (path, _) in files.iter().take(5) {
        fs::remove_file(path).unwrap();
    }
    let report = totals(&hsm, &[], 6);
    assert_eq!((report["orphans"].as_u64(), report["removed"].as_u64()), (Some(5), Some(0)), "{report}");
    // As young as they are, they may still be on their way.
    let out = hsm.site.command().arg("--config").arg(hsm.site.agent_config()).args(["fsck", "--repair"]).output();
    let out = out.unwrap();
    assert!(out.status.success() && said(&out).contains("5 are too young"), "{}", said(&out));
    let report = totals(&hsm, &["--repair"], 0);
    assert_eq!((report["orphans"].as_u64(), report["removed"].as_u64()), (Some(5), Some(5)), "{report}");
    let report = totals(&hsm, &[], 0);
    assert_eq!((report["objects"].as_u64(), report["orphans"].as_u64()), (Some(7), Some(0)), "{report}");
    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
    for (path, content) in files.iter().skip(5) {
        assert!(fs::read(path).unwrap() == *content, "{}", path.display());
    }
}

/// An attempt whose result was lost chose another encoding than the one that counts, and a crash kept it from being cleared away.
#[test]
fn p7_what_an_attempt_left_costs_nothing_of_what_a_file_names() {
    let mut hsm = Hsm::start_with(FsKind::Ext4, 300, |site| site.add_archive_setting("compression = \"zstd\""));
    let content = [vec![b'x'; 300_000], noise(3, 1000)].concat();
    let files = ["whole", "described", "another"].map(|name| hsm.file(name, &content));
    let paths = files.each_ref().map(PathBuf::as_path);
    hsm.archive(&paths);
    hsm.release(&paths);
    hsm.stop_agent();
    let objects = paths.map(|path| object_of(&hsm, path));
    let leftovers = [objects[0].with_extension(""), objects[1].with_extension("manifest")];
    assert!(objects.iter().all(|object| object.extension().is_some_and(|suffix| suffix == "zst")), "{objects:?}");
    fs::write(&leftovers[0], &content).unwrap();
    fs::copy(objects[1].with_extension("zst.manifest"), &leftovers[1]).unwrap();
    for words in [["--repair"].as_slice(), &["--repair", "--force"]] {
        let report = totals(&hsm, words, 0);
        assert_eq!(report["removed"], Value::from(0), "{report}");
        assert!(objects.iter().all(|object| object.exists()), "the only copies");
    }
    // When the file goes, both go, each by itself.
    fs::remove_file(paths[0]).unwrap();
    let report = totals(&hsm, &["--repair"], 0);
    assert_eq!(report["removed"], Value::from(2), "{report}");
    assert!(!leftovers[0].exists() && !objects[0].exists());
    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
    for path in &paths[1..] {
        assert!(fs::read(path).unwrap() == content, "{}", path.display());
    }
}

#[test]
fn files_whose_object_is_gone_are_marked() {
    for agent_runs in [true, false] {
        // Too large for packs.
        let mut hsm = Hsm::start(FsKind::Xfs);
        let content = noise(1, 200_000);
        let [released, resident, fine] = ["released", "resident", "fine"].map(|name| hsm.file(name, &content));
        hsm.archive(&[&released, &resident, &fine]);
        hsm.release(&[&released, &fine]);
        let objects = [&released, &resident].map(|path| object_of(&hsm, path));
        let aside = ["one", "two"].map(|name| hsm.site.plugin_dir().join(name));
        objects.iter().zip(&aside).for_each(|(object, aside)| fs::rename(object, aside).unwrap());
        if !agent_runs {
            hsm.stop_agent();
        }
        let report = totals(&hsm, &[], 6);
        assert_eq!(report["missing"], Value::from(2), "{report}");
        assert!(!hsm_state(&released).flags.contains(HsmFlags::LOST), "nothing is changed");
        let report = totals(&hsm, &["--repair"], 0);
        assert_eq!(report["repaired"], Value::from(2), "{report}");
        let (lost, dirty) = (hsm_state(&released).flags, hsm_state(&resident).flags);
        assert!(lost.contains(HsmFlags::LOST) && is_released(&released), "{lost:?}");
        assert!(dirty.contains(HsmFlags::DIRTY) && !dirty.contains(HsmFlags::LOST), "{dirty:?}");
        assert!(!hsm_state(&fine).flags.contains(HsmFlags::LOST));
        // The disk with the objects is back.
        objects.iter().zip(&aside).for_each(|(object, aside)| fs::rename(aside, object).unwrap());
        let report = totals(&hsm, &["--repair"], 0);
        assert_eq!(report["found_again"], Value::from(1), "{report}");
        assert!(!hsm_state(&released).flags.contains(HsmFlags::LOST));
        if agent_runs {
            assert!(fs::read(&released).unwrap() == content);
        }
    }
}

#[test]
fn flags_that_cannot_be_are_put_right_and_no_reader_gets_zeros_by_that() {
    let mut hsm = Hsm::start(FsKind::Ext4);
    let [unnamed, claims] = ["unnamed", "claims"].map(|name| hsm.file(name, &noise(1, 100_000)));
    hsm.archive(&[&unnamed, &claims]);
    hsm.release(&[&unnamed]);
    hsm.stop_agent();
    for path in [&unnamed, &claims] {
        let fd = rustix::fs::open(path, sys::OFlags::PATH, sys::Mode::empty()).unwrap();
        assert!(sys::xattr::remove(&fd, model::xattr::UUID).unwrap());
    }
    let report = totals(&hsm, &[], 6);
    assert_eq!((report["wrong"].as_u64(), report["orphans"].as_u64()), (Some(2), Some(2)), "{report}");
    let out = fsck(&hsm, &["--repair"]);
    assert!(said(&out).contains("nothing was removed"), "{}", said(&out));
    assert!(is_released(&unnamed) && hsm_state(&unnamed).flags.contains(HsmFlags::LOST));
    assert_eq!(hsm_state(&claims).flags, HsmFlags::empty());
    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
    assert_eq!(fs::read(&unnamed).unwrap_err().raw_os_error(), Some(5));
    assert!(fs::read(&claims).is_ok());
}

#[test]
fn the_wrong_filesystem_costs_nothing() {
    let mut hsm = Hsm::start(FsKind::Ext4);
    let files = hsm.files(6);
    hsm.archive(&files.iter().map(|(p, _)| p.as_path()).collect::<Vec<_>>());
    hsm.stop_agent();
    let before = hsm.site.archive_files().len();
    // Another one is mounted in its place.
    let other = LoopFs::new(FsKind::Ext4, 64);
    rustix::mount::mount_bind(other.path(), hsm.fs.path()).unwrap();
    let outs = [fsck(&hsm, &["--repair"]), fsck(&hsm, &["--repair", "--foreign"])];
    sys::mounts::unmount(hsm.fs.path(), false).unwrap();
    assert!(outs.iter().all(|out| out.status.code() == Some(6) || out.status.success()), "{outs:?}");
    assert!(said(&outs[0]).contains("were archived from another filesystem"), "{}", said(&outs[0]));
    assert!(said(&outs[1]).contains("nothing was removed: no file names anything"), "{}", said(&outs[1]));
    assert_eq!(hsm.site.archive_files().len(), before);
    let report = totals(&hsm, &["--repair"], 0);
    assert_eq!(report["orphans"], Value::from(0), "{report}");
}

/// The kernel's own number of an XFS is the device's, which is the same after `mkfs`.
#[test]
fn p7_a_filesystem_made_anew_on_the_same_device_does_not_take_the_old_one_s_objects_for_its_own() {
    let mut hsm = Hsm::start(FsKind::Xfs);
    let old = hsm.file("old", &noise(1, 100_000));
    hsm.archive(&[&old]);
    let object = object_of(&hsm, &old);
    hsm.stop_agent();
    let config = hsm.site.agent_config();
    hsm.ok(&["--config", config.to_str().unwrap(), "guard", "stop", "--force"], &[]);
    let device = hsm.fs.device();
    let run = |command: &mut std::process::Command| assert!(command.status().unwrap().success(), "{command:?}");
    run(std::process::Command::new("umount").arg(hsm.fs.path()));
    let backing = Path::new("/sys/block").join(device.file_name().unwrap()).join("loop/backing_file");
    let still = || fs::read_to_string(&backing).is_ok_and(|file| Path::new(file.trim()) == hsm.fs.image());
    testkit::wait_until(LONG, "nobody to use the old filesystem", || !still());
    run(std::process::Command::new("mkfs.xfs").arg("-qf").arg(hsm.fs.image()));
    let mount = |options: &str| {
        let mut command = std::process::Command::new("mount");
        command.args(["-o", options]).arg(hsm.fs.image()).arg(hsm.fs.path()).status().unwrap().success()
    };
    // Another test may have taken the device by now.
    assert!(mount(&format!("loop={}", device.display())) || mount("loop"));
    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
    let new = ["one", "two"].map(|name| hsm.file(name, &noise(2, 100_000)));
    hsm.archive(&new.each_ref().map(PathBuf::as_path));
    let report = totals(&hsm, &["--repair"], 0);
    assert_eq!((report["foreign"].as_u64(), report["removed"].as_u64()), (Some(1), Some(0)), "{report}");
    assert!(object.exists());
    let report = totals(&hsm, &["--repair", "--foreign"], 0);
    assert_eq!((report["named"].as_u64(), report["removed"].as_u64()), (Some(2), Some(1)), "{report}");
}

/// Files are archived, changed, moved about, and removed all the time; whatever fsck removes meanwhile, nothing of it is needed.
#[test]
fn p7_repairs_beside_a_working_agent_take_nothing_that_is_named() {
    let hsm = Hsm::start_with(FsKind::Ext4, 512, |site| site.add_agent_setting("remove_grace_s = 0"));
    let dirs: Vec<PathBuf> = (0..6).map(|i| hsm.path(&format!("dir{i}"))).collect();
    dirs.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let content =
        |i: usize, round: usize| noise((i * 1000 + round) as u64, if i.is_multiple_of(3) { 90_000 } else { 3000 });
    let mut places: Vec<(PathBuf, usize)> = (0..30)
        .map(|i| {
            let path = dirs[i % dirs.len()].join(format!("f{i}"));
            fs::write(&path, content(i, 0)).unwrap();
            (path, 0)
        })
        .collect();
    let stop = AtomicBool::new(false);
    let checks = std::thread::scope(|scope| {
        let checker = scope.spawn(|| {
            let mut checks = 0;
            while !stop.load(Ordering::Relaxed) {
                let out = fsck(&hsm, &["--repair", "--threads", "2"]);
                assert!(matches!(out.status.code(), Some(0 | 6)), "{}", said(&out));
                checks += 1;
            }
            checks
        });
        let stop = StopWhenDropped(&stop);
        let until = Instant::now() + Duration::from_secs(8);
        let mut round = 0;
        while Instant::now() < until {
            round += 1;
            for (i, (path, version)) in places.iter_mut().enumerate() {
                let to = dirs[(i + round) % dirs.len()].join(format!("f{i}"));
                fs::rename(&*path, &to).unwrap();
                *path = to;
                if (i + round).is_multiple_of(4) {
                    fs::write(&*path, content(i, round)).unwrap();
                    *version = round;
                }
            }
            let paths: Vec<&Path> = places.iter().map(|(path, _)| path.as_path()).collect();
            // What is written while it is archived is archived the next time.
            let _ = hsm.run(&["archive", "--wait", "--quiet"], &paths);
            let _ = hsm.run(&["release", "--quiet"], &paths);
        }
        drop(stop);
        checker.join().unwrap()
    });
    assert!(checks > 0);
    hsm.settle();
    for (i, (path, version)) in places.iter().enumerate() {
        assert!(fs::read(path).unwrap() == content(i, *version), "{}", path.display());
    }
    testkit::wait_until(LONG, "nothing is nobody's", || totals(&hsm, &["--repair"], 0)["orphans"] == 0);
}
