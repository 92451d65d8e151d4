//! Files moved between OSTs, against a library that behaves as Lustre's, in one process.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the lints do not see that functions beside tests belong to them"
)]

mod site;

use lustre_standin::control;
use sifaka_lustre::mirrors::{Target, extend};
use sifaka_lustre::rebalance::{Move, Plan, Survey, candidate, look_again, migrate, survey};
use sifaka_lustre::{Outcome, Striping, Work, restripe};
use site::{Site, noise};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, chown};
use std::path::Path;
use sys::lustre::Layout;
use testkit::LoopFs;

const MIB: u64 = 1 << 20;

fn to(path: &Path, work: &Work, stripe: usize, to: u32) -> Outcome {
    let file = candidate(work, path).unwrap().unwrap();
    let planned = Move { stripe, from: file.stripes()[stripe].ost, to, bytes: file.bytes };
    migrate(work, path, &file, planned).unwrap()
}

#[test]
fn a_file_is_moved_and_is_what_it_was() {
    let site = Site::new();
    let content = noise(1, 9_000_001);
    let path = site.file_on("f", 0, &content);
    chown(&path, Some(7), Some(8)).unwrap();
    let before = fs::metadata(&path).unwrap();
    assert_eq!(to(&path, &site.work(), 0, 2), Outcome::Done { bytes: 9_000_001 });
    assert_eq!(site.mirrors(&path), [(0, vec![2], true)]);
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.uid(), after.gid(), after.ino(), after.mode()), (7, 8, before.ino(), before.mode()));
    assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    assert!(fs::read(&path).unwrap() == content);
    site.nothing_else_than(&["f"]);
}

#[test]
fn one_stripe_of_several_is_moved() {
    let site = Site::new();
    control::set_ost(&site.root, 3, 1 << 30, 0).unwrap();
    let path = site.top.join("f");
    let mut layout = Layout::new(&site.library).unwrap();
    layout.set_stripe_count(2).unwrap();
    layout.set_stripe_size(256 << 10).unwrap();
    for (stripe, ost) in [(0, 2), (1, 0)] {
        layout.set_ost(stripe, ost).unwrap();
    }
    layout.create(&path, 0o600).unwrap().write_all(&noise(2, 3 << 20)).unwrap();
    assert_eq!(to(&path, &site.work(), 1, 3), Outcome::Done { bytes: 3 * MIB });
    assert_eq!(site.mirrors(&path), [(0, vec![2, 3], true)]);
    let size = Layout::of(&site.library, fs::File::open(&path).unwrap()).unwrap().components().unwrap()[0].stripe_size;
    assert_eq!(size, 256 << 10);
    assert!(fs::read(&path).unwrap() == noise(2, 3 << 20));
}

#[test]
fn what_cannot_be_moved_is_told() {
    let site = Site::new();
    let work = site.work();
    let mirrored = site.file_on("m", 0, b"content");
    extend(&work, &mirrored, &Target { osts: vec![1], ..Target::default() }).unwrap();
    assert_eq!(candidate(&work, &mirrored).unwrap(), Err(Outcome::Unsuited("has mirrors")));
    let released = site.file_on("r", 0, b"content");
    site.make_released(&released);
    assert!(matches!(candidate(&work, &released).unwrap(), Err(Outcome::Unsuited(why)) if why.contains("released")));
    let busy = site.file_on("b", 0, b"content");
    control::fail(&site.root, "llapi_lease_acquire", 16, None).unwrap();
    assert_eq!(to(&busy, &site.work().trying(1), 0, 1), Outcome::Busy { tries: 1 });
    assert_eq!(site.mirrors(&busy), [(0, vec![0], true)]);
}

#[test]
fn a_file_that_is_written_in_the_middle_stays_where_it_is() {
    let site = Site::new();
    let path = site.file_on("f", 0, &noise(3, 1 << 20));
    let other = path.clone();
    let work = Work::new(&site.library).trying(1).telling(move |_| {
        OpenOptions::new().write(true).open(&other).unwrap().write_all_at(b"new", 5).unwrap();
    });
    assert_eq!(to(&path, &work, 0, 1), Outcome::Busy { tries: 1 });
    assert_eq!(site.mirrors(&path), [(0, vec![0], true)]);
    assert_eq!(&fs::read(&path).unwrap()[5..8], b"new");
}

#[test]
fn each_call_that_fails_leaves_the_file_where_it_is() {
    let site = Site::new();
    let content = noise(4, 1 << 20);
    let path = site.file_on("f", 0, &content);
    let work = site.work().trying(1);
    let file = candidate(&work, &path).unwrap().unwrap();
    let planned = Move { stripe: 0, from: 0, to: 1, bytes: file.bytes };
    for call in [
        "llapi_fswap_layouts",
        "llapi_layout_file_open",
        "llapi_lease_acquire",
        "llapi_lease_check",
        "llapi_get_data_version",
        "llapi_file_flush",
        "llapi_get_mdt_index_by_fid",
        "llapi_layout_get_by_fd",
    ] {
        control::fail(&site.root, call, 28, None).unwrap();
        assert!(migrate(&work, &path, &file, planned).is_err(), "{call}");
        control::heal(&site.root, call).unwrap();
        assert_eq!(site.mirrors(&path), [(0, vec![0], true)], "{call}");
        assert!(fs::read(&path).unwrap() == content, "{call}");
    }
    assert_eq!(migrate(&work, &path, &file, planned).unwrap(), Outcome::Done { bytes: MIB });
    let outcome = migrate(&work, &path, &file, planned).unwrap();
    assert!(matches!(outcome, Outcome::Unsuited(why) if why.contains("meanwhile")), "{outcome:?}");
}

#[test]
fn levels_are_those_of_a_pool_or_of_all() {
    let site = Site::new();
    control::set_ost(&site.root, 1, 200 * MIB, 50 * MIB).unwrap();
    let Survey { levels, left_out } = survey(&site.library, &site.top, Some("fast")).unwrap();
    assert_eq!(
        levels.iter().map(|level| (level.ost, level.used / MIB, level.capacity / MIB)).collect::<Vec<_>>(),
        [(1, 50, 200), (2, 0, 1024)]
    );
    assert!(left_out.is_empty());
    assert!(!Plan::new(&levels, 0.05).is_balanced());
    assert_eq!(survey(&site.library, &site.top, None).unwrap().levels.len(), 3);
    assert!(survey(&site.library, &site.top, Some("none")).is_err());
}

#[test]
fn what_takes_no_objects_is_emptied_if_it_is_fuller_than_the_others() {
    const DEGRADED: u32 = 0x1;
    const READ_ONLY: u32 = 0x2;
    const NO_CREATE: u32 = 0x4;
    const FULL: u32 = 0x20;
    let site = Site::new();
    let look = || {
        let Survey { levels, left_out } = survey(&site.library, &site.top, None).unwrap();
        (levels.iter().map(|level| (level.ost, level.is_open)).collect::<Vec<_>>(), left_out)
    };
    for state in [FULL, NO_CREATE, DEGRADED] {
        control::set_ost_state(&site.root, 0, 100 * MIB, 99 * MIB, state).unwrap();
        assert_eq!(look(), (vec![(0, false), (1, true), (2, true)], vec![]), "{state}");
        assert!(!look_again(&site.library, &site.top, 0).unwrap().is_open);
        // There is nothing to be had from it, and nothing to be brought.
        control::set_ost_state(&site.root, 0, 100 * MIB, 0, state).unwrap();
        assert_eq!(look(), (vec![(1, true), (2, true)], vec![0]), "{state}");
    }
    control::set_ost_state(&site.root, 0, 100 * MIB, 99 * MIB, READ_ONLY | FULL).unwrap();
    assert_eq!(look(), (vec![(1, true), (2, true)], vec![0]));
}

#[test]
fn a_file_that_is_released_after_it_was_looked_at_is_not_restored() {
    let site = Site::new();
    let path = site.file_on("f", 0, b"content");
    let file = candidate(&site.work(), &path).unwrap().unwrap();
    site.make_released(&path);
    let planned = Move { stripe: 0, from: 0, to: 1, bytes: file.bytes };
    let outcome = migrate(&site.work(), &path, &file, planned).unwrap();
    assert!(matches!(outcome, Outcome::Unsuited(why) if why.contains("released")), "{outcome:?}");
    assert!(control::requests(&site.root).unwrap().is_empty());
}

#[test]
fn a_file_with_two_stripes_on_an_ost_is_left() {
    let site = Site::new();
    let path = site.top.join("f");
    let mut layout = Layout::new(&site.library).unwrap();
    layout.set_stripe_count(2).unwrap();
    layout.set_ost(0, 1).unwrap();
    layout.set_ost(1, 1).unwrap();
    layout.create(&path, 0o600).unwrap().write_all(b"content").unwrap();
    assert_eq!(candidate(&site.work(), &path).unwrap(), Err(Outcome::Unsuited("has several stripes on an OST")));
}

/// In other objects it would be what another key makes of it.
#[test]
fn p1_an_encrypted_file_keeps_its_objects() {
    let fs = LoopFs::with_encryption(64);
    fs.encrypted_directory(&fs.path().join("d"));
    let site = Site::at(fs.path(), fs);
    let path = site.file_on("d/f", 0, b"content");
    let encrypted = |outcome: &Outcome| matches!(outcome, Outcome::Unsuited(why) if why.contains("encrypted"));
    assert!(candidate(&site.work(), &path).unwrap().is_err_and(|outcome| encrypted(&outcome)));
    let wide = Striping { count: Some(2), ..Striping::default() };
    assert!(encrypted(&restripe(&site.work(), &path, &wide).unwrap()));
    assert!(encrypted(&extend(&site.work(), &path, &Target { osts: vec![1], ..Target::default() }).unwrap()));
    assert_eq!(site.mirrors(&path), [(0, vec![0], true)]);
    let plain = site.file_on("f", 0, b"content");
    assert_eq!(restripe(&site.work(), &plain, &wide).unwrap(), Outcome::Done { bytes: 7 });
}

#[test]
fn a_file_that_changes_hands_meanwhile_stays_where_it_is() {
    let site = Site::new();
    let path = site.file_on("f", 0, &noise(3, 1 << 20));
    let file = candidate(&site.work(), &path).unwrap().unwrap();
    let other = path.clone();
    let work = Work::new(&site.library).trying(1).telling(move |_| chown(&other, Some(7), Some(8)).unwrap());
    assert!(migrate(&work, &path, &file, Move { stripe: 0, from: 0, to: 1, bytes: file.bytes }).is_err());
    assert_eq!(site.mirrors(&path), [(0, vec![0], true)]);
}
