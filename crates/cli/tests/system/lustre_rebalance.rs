//! `sifaka rebalance`: the program loads a liblustreapi that behaves as Lustre's.

use crate::lustre_mirrors::{file_on, lines, mirrors, wait_for_copying};
use crate::lustre_site::Lustre;
use crate::support::noise;
use lustre_standin::control;
use model::HsmFlags;
use nix::libc;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use sys::lustre::{osts, state_set};

const MIB: u64 = 1 << 20;

/// Three OSTs of 40 MiB, and twelve files of 1 MiB on the first.
fn uneven() -> (Lustre, Vec<PathBuf>) {
    let lustre = Lustre::new();
    for index in 0..3 {
        control::set_ost(&lustre.root, index, 40 * MIB, 0).unwrap();
    }
    control::set_pool(&lustre.root, "old", &[0, 1]).unwrap();
    let files = (0..12).map(|i| file_on(&lustre, &format!("t/f{i}"), 0, &noise(i, 1 << 20))).collect();
    (lustre, files)
}

/// What is used of each OST, in MiB.
fn levels(lustre: &Lustre) -> Vec<u64> {
    let osts = osts(&lustre.library, &lustre.path("")).unwrap();
    osts.iter().map(|ost| (ost.total - ost.free) / MIB).collect()
}

fn whole(files: &[PathBuf]) {
    for (i, path) in files.iter().enumerate() {
        assert!(fs::read(path).unwrap() == noise(i as u64, 1 << 20), "{}", path.display());
    }
}

#[test]
fn p9_files_go_to_emptier_osts_until_all_are_within_the_distance() {
    let (lustre, files) = uneven();
    let top = lustre.path("");
    let fs = ["--fs", top.to_str().unwrap()];
    let run = |words: &[&str]| lustre.run(&[&["rebalance"], &fs[..], words].concat(), &[]);
    let dry = run(&["--within", "3%", "-n"]);
    assert!(dry.code == 0 && dry.out.contains("would move") && dry.out.contains("files would be moved"), "{dry:?}");
    assert_eq!(levels(&lustre), [12, 0, 0]);
    let said = run(&["--within", "3%", "-j", "2"]);
    assert!(said.code == 0 && said.out.ends_with("all are within the distance\n"), "{said:?}");
    let now = levels(&lustre);
    assert!(now.iter().all(|used| (3..=5).contains(used)) && now.iter().sum::<u64>() == 12, "{now:?}");
    whole(&files);
    let again = run(&["--within", "3%", "--json"]);
    let (each, totals) = lines(&again);
    assert_eq!((again.code, each.len(), &totals["done"], &totals["balanced"]), (0, 0, &0.into(), &true.into()));
    assert_eq!(totals["osts"].as_array().unwrap().len(), 3);
}

#[test]
fn only_the_pool_s_osts_are_looked_at() {
    let (lustre, files) = uneven();
    let said = lustre.ok(&["rebalance", "--pool", "old", "--within", "1%"], &[&lustre.path("t")]);
    assert!(said.contains("6 files moved"), "{said}");
    assert_eq!(levels(&lustre), [6, 6, 0]);
    whole(&files);
}

#[test]
fn p9_what_is_killed_is_repeated() {
    let (lustre, files) = uneven();
    let mut command = lustre.command();
    command.args(["rebalance", "--within", "2%", "-b", "1MB/s", "-j", "2"]).arg(lustre.path("t"));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_copying(&child);
    child.kill().unwrap();
    child.wait().unwrap();
    whole(&files);
    lustre.ok(&["rebalance", "--within", "2%"], &[&lustre.path("t")]);
    assert_eq!(levels(&lustre), [4, 4, 4]);
    whole(&files);
}

#[test]
fn what_is_left_is_counted_and_told() {
    let (lustre, files) = uneven();
    let archived = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED);
    for path in &files[1..] {
        state_set(&lustre.library, path, archived, HsmFlags::empty(), 1).unwrap();
    }
    let run = |words: &[&str]| lustre.run(&[&["rebalance", "--within", "2%"], words].concat(), &[&lustre.path("t")]);
    let said = run(&[]);
    assert!(said.code == 1 && said.out.contains("1 files moved") && said.out.contains("11: is archived"), "{said:?}");
    assert!(said.out.contains("not all are within the distance"), "{said:?}");
    // They are asked for again.
    control::fail(&lustre.root, "llapi_fswap_layouts", libc::EBUSY, None).unwrap();
    let said = run(&["--archived", "--tries", "1"]).refused(1, &["was in use"]);
    assert!(said.out.contains("0 files moved"), "{said:?}");
    control::heal(&lustre.root, "llapi_fswap_layouts").unwrap();
    let said = run(&["--archived"]);
    assert_eq!(said.code, 0, "{said:?}");
    let moved = files[1..].iter().filter(|path| mirrors(&lustre, path)[0].1 != 0).count();
    assert_eq!(lustre.requests().len(), moved);
    assert_eq!(levels(&lustre), [4, 4, 4]);
    whole(&files);
}

#[test]
fn a_full_ost_is_emptied_though_it_takes_nothing() {
    const FULL: u32 = 0x20;
    let (lustre, files) = uneven();
    control::set_ost_state(&lustre.root, 0, 12 * MIB, 0, FULL).unwrap();
    let said = lustre.run(&["rebalance", "--within", "5%"], &[&lustre.path("t")]);
    assert!(said.code == 0 && said.err.contains("files are moved away from it"), "{said:?}");
    let now = levels(&lustre);
    assert!(now[0] <= 3 && now.iter().sum::<u64>() == 12, "{now:?}");
    whole(&files);
}

#[test]
fn what_others_fill_gets_no_more_files() {
    let (lustre, files) = uneven();
    let mut command = lustre.command();
    command.args(["rebalance", "--within", "2%", "-b", "4MB/s", "-j", "1"]).arg(lustre.path("t"));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_copying(&child);
    control::set_ost(&lustre.root, 1, 40 * MIB, 30 * MIB).unwrap();
    child.wait().unwrap();
    // The one that was on its way.
    let now = levels(&lustre);
    assert!(now[1] <= 31 && now[2] >= 3, "{now:?}");
    whole(&files);
}

#[test]
fn an_archive_is_not_spoilt_and_not_forgotten() {
    let (lustre, files) = uneven();
    // Nobody takes it up.
    lustre.ok(&["archive"], &[&files[0]]);
    let said = lustre.run(&["rebalance", "--within", "2%"], &[&files[0]]);
    assert!(said.out.contains("1: is being archived"), "{said:?}");
    assert_eq!(mirrors(&lustre, &files[0])[0].1, 0);
    // An archive that ends while the file is copied.
    let mut command = lustre.command();
    let big = file_on(&lustre, "t/big", 0, &noise(99, 4 << 20));
    command.args(["rebalance", "--within", "2%", "-b", "1MB/s"]).arg(&big);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_copying(&child);
    let archived = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED);
    state_set(&lustre.library, &big, archived, HsmFlags::empty(), 1).unwrap();
    child.wait().unwrap();
    assert_ne!(mirrors(&lustre, &big)[0].1, 0);
    let fid = lustre.fid(&big).to_string();
    assert!(lustre.requests().iter().any(|request| request.fid.to_string() == fid), "it is asked for again");
    assert!(fs::read(&big).unwrap() == noise(99, 4 << 20));
}

/// Files are opened by their FIDs, and told by their names.
#[test]
fn what_fails_is_told_by_its_name() {
    let (lustre, files) = uneven();
    control::fail(&lustre.root, "llapi_lease_acquire", libc::EIO, None).unwrap();
    let said = lustre.run(&["rebalance", "--within", "2%"], &[&files[0]]).refused(1, &["t/f0: Input/output error"]);
    assert!(!said.err.contains(".lustre"), "{said:?}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (lustre, files) = uneven();
    lustre.run(&["rebalance"], &[]).refused(2, &["say which filesystem"]);
    lustre.run(&["rebalance", "--within", "0"], &[&files[0]]).refused(2, &["from 0.1% to 50%"]);
    lustre.run(&["rebalance", "--pool", "none"], &[&files[0]]).refused(5, &["has no pool none"]);
    lustre.run(&["rebalance"], &[Path::new("/proc")]).refused(5, &["is not on Lustre"]);
    control::set_pool(&lustre.root, "one", &[0]).unwrap();
    lustre.run(&["rebalance", "--pool", "one"], &[&files[0]]).refused(5, &["not two OSTs"]);
    control::fail(&lustre.root, "llapi_obd_statfs", libc::EIO, None).unwrap();
    lustre.run(&["rebalance"], &[&files[0]]).refused(5, &["Input/output error"]);
}
