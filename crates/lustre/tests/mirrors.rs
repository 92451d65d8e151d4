//! Mirrors, against a library that behaves as Lustre's, in one process.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the lints do not see that functions beside tests belong to them"
)]

mod site;

use lustre_standin::control;
use sifaka_lustre::mirrors::{Target, Which, extend, resync, split, verify};
use sifaka_lustre::{Difference, Outcome, Trouble, Work};
use site::{Site, noise};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, chown};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

const MIB: usize = 1 << 20;

fn on(osts: &[u32]) -> Target {
    Target { osts: osts.to_vec(), ..Target::default() }
}

fn done(bytes: usize) -> Outcome {
    Outcome::Done { bytes: bytes as u64 }
}

/// A file with a second mirror.
fn mirrored(site: &Site, name: &str, content: &[u8]) -> std::path::PathBuf {
    let path = site.file_on(name, 0, content);
    assert_eq!(extend(&site.work(), &path, &on(&[2])).unwrap(), done(content.len()));
    path
}

#[test]
fn a_mirror_is_added_and_the_file_s_owner_and_times_are_kept() {
    let site = Site::new();
    let content = noise(1, 9 * MIB + 17);
    let path = site.file_on("f", 0, &content);
    chown(&path, Some(1000), Some(100)).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    File::open(&path).unwrap().set_times(fs::FileTimes::new().set_accessed(long_ago).set_modified(long_ago)).unwrap();
    let before = fs::metadata(&path).unwrap();
    let work = site.work();
    assert_eq!(extend(&work, &path, &on(&[2, 1])).unwrap(), done(content.len()));
    assert_eq!(site.mirrors(&path), [(1, vec![0], true), (2, vec![2, 1], true)]);
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.uid(), after.gid(), after.mode()), (1000, 100, before.mode()));
    assert_eq!(
        (after.mtime(), after.mtime_nsec(), after.atime()),
        (before.mtime(), before.mtime_nsec(), before.atime())
    );
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(verify(&work, &path).unwrap(), done(content.len()));
    // Again: there is nothing to do, unless another one is wanted.
    assert_eq!(extend(&work, &path, &on(&[1, 2])).unwrap(), Outcome::Already("has a mirror there"));
    let another = Target { another: true, ..on(&[1, 2]) };
    assert_eq!(extend(&work, &path, &another).unwrap(), done(content.len()));
    assert_eq!(site.mirrors(&path).len(), 3);
    site.nothing_else_than(&["f"]);
}

#[test]
fn a_mirror_is_made_in_a_pool_with_stripes_as_asked() {
    let site = Site::new();
    let path = site.file_on("f", 0, &noise(2, MIB));
    let target = Target {
        pool: Some("fast".into()),
        osts: sifaka_lustre::pool_osts(&site.library, &site.top, "fast").unwrap(),
        stripe_count: Some(2),
        stripe_size: Some(256 << 10),
        another: false,
    };
    assert_eq!(target.osts, [1, 2]);
    assert_eq!(extend(&site.work(), &path, &target).unwrap(), done(MIB));
    let (_, mut osts, _) = site.mirrors(&path).remove(1);
    osts.sort_unstable();
    assert_eq!(osts, [1, 2]);
    assert!(matches!(extend(&site.work(), &path, &target).unwrap(), Outcome::Already(_)));
    let missing = sifaka_lustre::pool_osts(&site.library, &site.top, "none").unwrap_err();
    assert!(missing.to_string().contains("has no pool none"), "{missing}");
}

#[test]
fn stale_mirrors_are_brought_up_to_date_whatever_length_the_file_has_now() {
    let site = Site::new();
    for (number, len) in [0, 5, 4096, 16 * MIB, 16 * MIB + 1, 33 * MIB + 4095].into_iter().enumerate() {
        let path = mirrored(&site, &format!("f{number}"), &noise(3, 20 * MIB));
        let content = noise(4, len);
        fs::write(&path, &content).unwrap();
        let before = fs::metadata(&path).unwrap();
        assert_eq!(site.mirrors(&path)[1], (2, vec![2], false), "{len}");
        assert_eq!(resync(&site.work(), &path).unwrap(), done(len));
        assert_eq!(site.mirrors(&path)[1], (2, vec![2], true), "{len}");
        let after = fs::metadata(&path).unwrap();
        assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
        assert_eq!(site.shadow_of(&path, 2), content, "{len}");
        assert_eq!(verify(&site.work(), &path).unwrap(), done(len));
        assert_eq!(resync(&site.work(), &path).unwrap(), Outcome::Already("is in sync"));
    }
}

#[test]
fn a_resync_leaves_holes_alone_and_writes_over_what_was_there() {
    let site = Site::new();
    let path = mirrored(&site, "f", &noise(12, 3 * MIB));
    // Data, a hole where the mirror has data, a long hole, and the end.
    let file = File::create(&path).unwrap();
    let len = 6_u64 << 30;
    file.write_all_at(b"start", 0).unwrap();
    file.write_all_at(b"end", len - 3).unwrap();
    drop(file);
    assert_eq!(resync(&site.work(), &path).unwrap(), Outcome::Done { bytes: len });
    assert_eq!(verify(&site.work(), &path).unwrap(), Outcome::Done { bytes: len });
    let shadow = fs::metadata(site.shadow_path(&path, 2)).unwrap();
    assert_eq!(shadow.len(), len);
    assert!(shadow.blocks() < 5 * 2048, "{}", shadow.blocks());
    // Nothing but a hole.
    File::create(&path).unwrap().set_len(5 * MIB as u64 + 1).unwrap();
    assert_eq!(resync(&site.work(), &path).unwrap(), done(5 * MIB + 1));
    assert_eq!(verify(&site.work(), &path).unwrap(), done(5 * MIB + 1));
    assert!(site.shadow_of(&path, 2) == vec![0; 5 * MIB + 1]);
}

#[test]
fn a_mirror_in_sync_that_cannot_be_read_is_passed_over_for_another() {
    let site = Site::new();
    let path = mirrored(&site, "f", b"old");
    assert_eq!(extend(&site.work(), &path, &on(&[1])).unwrap(), done(3));
    let content = noise(13, 17 * MIB);
    fs::write(&path, &content).unwrap();
    control::set_nosync(&path, 3, true).unwrap();
    assert_eq!(resync(&site.work(), &path).unwrap(), done(content.len()));
    assert_eq!(site.mirrors(&path).iter().map(|mirror| mirror.2).collect::<Vec<_>>(), [true, true, false]);
    // What is never to be resynced costs nobody a lease.
    control::fail(&site.root, "llapi_lease_set", libc_enospc(), None).unwrap();
    assert!(matches!(resync(&site.work(), &path).unwrap(), Outcome::Already(why) if why.contains("never")));
    control::heal(&site.root, "llapi_lease_set").unwrap();
    control::set_nosync(&path, 3, false).unwrap();
    control::fail(&site.root, "llapi_mirror_read_1", 5, None).unwrap();
    assert_eq!(resync(&site.work(), &path).unwrap(), done(content.len()));
    assert!(site.shadow_of(&path, 3) == content);
    assert!(site.mirrors(&path)[2].2);
}

#[test]
fn verify_tells_the_first_byte_that_differs() {
    let site = Site::new();
    let content = noise(5, 70 * MIB);
    let path = mirrored(&site, "f", &content);
    let shadow = OpenOptions::new().write(true).open(site.shadow_path(&path, 2)).unwrap();
    for at in [69 * MIB + 3, 13 * MIB + 1] {
        shadow.write_all_at(&[!content[at]], at as u64).unwrap();
    }
    let found = Difference { offset: 13 * MIB as u64 + 1, mirror: 1, other: 2 };
    assert_eq!(verify(&site.work(), &path).unwrap(), Outcome::Differs(found));
    shadow.write_all_at(&content[13 * MIB + 1..][..1], 13 * MIB as u64 + 1).unwrap();
    shadow.write_all_at(&content[69 * MIB + 3..][..1], 69 * MIB as u64 + 3).unwrap();
    assert_eq!(verify(&site.work(), &path).unwrap(), done(content.len()));
    // Shorter than the file.
    shadow.set_len(70 * MIB as u64 - 1).unwrap();
    let found = Difference { offset: 70 * MIB as u64 - 1, mirror: 1, other: 2 };
    assert_eq!(verify(&site.work(), &path).unwrap(), Outcome::Differs(found));
    // What is stale is not compared.
    fs::write(&path, b"new").unwrap();
    assert_eq!(verify(&site.work(), &path).unwrap(), done(3));
}

#[test]
fn holes_stay_holes_and_are_not_read() {
    let site = Site::new();
    let path = site.file_on("f", 0, b"start");
    let len = 20_u64 << 30;
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"end", len - 3).unwrap();
    let work = site.work();
    assert_eq!(extend(&work, &path, &on(&[1])).unwrap(), Outcome::Done { bytes: len });
    assert_eq!(verify(&work, &path).unwrap(), Outcome::Done { bytes: len });
    assert!(fs::metadata(site.shadow_path(&path, 2)).unwrap().blocks() < 1000);
}

#[test]
fn a_mirror_goes_only_while_another_has_all_the_content() {
    let site = Site::new();
    let content = noise(6, MIB);
    let path = mirrored(&site, "f", &content);
    let work = site.work();
    assert_eq!(split(&work, &path, &Which::Id(7)).unwrap(), Outcome::Already("has no such mirror"));
    let slow = Which::Pool { name: "slow".into(), osts: vec![0] };
    fs::write(&path, &content).unwrap();
    assert!(matches!(split(&work, &path, &slow).unwrap(), Outcome::Unsuited(why) if why.contains("resync")));
    assert_eq!(resync(&work, &path).unwrap(), done(MIB));
    assert_eq!(split(&work, &path, &slow).unwrap(), done(0));
    assert_eq!(site.mirrors(&path), [(2, vec![2], true)]);
    assert_eq!(fs::read(&path).unwrap(), content);
    assert!(
        matches!(split(&work, &path, &Which::Id(2)).unwrap(), Outcome::Unsuited(why) if why.contains("one mirror only"))
    );
    let several = mirrored(&site, "g", &content);
    assert_eq!(extend(&work, &several, &on(&[1])).unwrap(), done(MIB));
    let fast = Which::Pool { name: "fast".into(), osts: vec![1, 2] };
    assert!(matches!(split(&work, &several, &fast).unwrap(), Outcome::Unsuited(why) if why.contains("by its id")));
    assert_eq!(site.mirrors(&several).len(), 3);
    site.nothing_else_than(&["f", "g"]);
}

#[test]
fn a_dry_run_changes_nothing() {
    let site = Site::new();
    let path = mirrored(&site, "f", &noise(7, MIB));
    fs::write(&path, b"stale").unwrap();
    let before = site.mirrors(&path);
    let work = Work::new(&site.library).dry(true);
    assert_eq!(extend(&work, &path, &on(&[1])).unwrap(), Outcome::Would { bytes: 5 });
    assert_eq!(resync(&work, &path).unwrap(), Outcome::Would { bytes: 5 });
    assert_eq!(verify(&work, &path).unwrap(), Outcome::Would { bytes: 5 });
    assert_eq!(split(&work, &path, &Which::Id(2)).unwrap(), Outcome::Would { bytes: 0 });
    assert_eq!(site.mirrors(&path), before);
}

/// Writes to the file in the middle of the first `times` tries.
fn disturbed(site: &Site, path: &Path, times: u32) -> Work {
    let (path, count) = (path.to_owned(), AtomicU32::new(0));
    Work::new(&site.library).telling(move |bytes| {
        if bytes > 0 && count.fetch_add(1, Ordering::Relaxed) < times {
            let file = OpenOptions::new().append(true).open(&path).unwrap();
            io::Write::write_all(&mut &file, b"more").unwrap();
        }
    })
}

#[test]
fn a_file_that_is_written_meanwhile_is_tried_again_and_else_left_as_it_was() {
    let site = Site::new();
    let path = site.file_on("f", 0, &noise(8, MIB));
    let work = disturbed(&site, &path, 1);
    assert_eq!(extend(&work, &path, &on(&[1])).unwrap(), done(MIB + 4), "the second try");
    assert_eq!(verify(&site.work(), &path).unwrap(), done(MIB + 4));
    let work = disturbed(&site, &path, u32::MAX).trying(2);
    let before = site.mirrors(&path);
    assert_eq!(extend(&work, &path, &on(&[2])).unwrap(), Outcome::Busy { tries: 2 });
    let stale: Vec<_> = before.iter().map(|(id, osts, _)| (*id, osts.clone(), *id == 1)).collect();
    assert_eq!(site.mirrors(&path), stale, "the write made it stale, nothing else has changed");
    assert_eq!(resync(&disturbed(&site, &path, u32::MAX).trying(2), &path).unwrap(), Outcome::Busy { tries: 2 });
    assert_eq!(site.mirrors(&path), stale);
    let outcome = resync(&disturbed(&site, &path, 1), &path).unwrap();
    assert_eq!(outcome, Outcome::Done { bytes: fs::metadata(&path).unwrap().len() });
    assert_eq!(verify(&disturbed(&site, &path, u32::MAX).trying(2), &path).unwrap(), Outcome::Busy { tries: 2 });
    site.nothing_else_than(&["f"]);
}

#[test]
fn a_file_that_others_have_open_is_not_resynced() {
    let site = Site::new();
    let path = mirrored(&site, "f", &noise(9, MIB));
    fs::write(&path, b"new").unwrap();
    let reader = File::open(&path).unwrap();
    assert_eq!(resync(&site.work().trying(1), &path).unwrap(), Outcome::Busy { tries: 1 });
    assert_eq!(split(&site.work().trying(1), &path, &Which::Id(2)).unwrap(), Outcome::Busy { tries: 1 });
    drop(reader);
    assert_eq!(resync(&site.work(), &path).unwrap(), done(3));
}

#[test]
fn each_call_that_fails_leaves_the_file_as_it_was() {
    let site = Site::new();
    let work = site.work().trying(2);
    let always = [
        "llapi_hsm_state_get",
        "llapi_layout_get_by_fd",
        "llapi_lease_acquire",
        "llapi_get_data_version",
        "llapi_get_mdt_index_by_fid",
        "llapi_layout_file_open",
        "llapi_file_flush",
        "llapi_lease_check",
        "llapi_lease_set",
        "llapi_path2fid",
    ];
    let path = site.file_on("f", 0, &noise(10, MIB));
    let before = site.mirrors(&path);
    for call in always {
        control::fail(&site.root, call, libc_enospc(), None).unwrap();
        let trouble = extend(&work, &path, &on(&[1])).unwrap_err();
        assert!(
            matches!(&trouble, Trouble::Io { source, .. } if source.raw_os_error() == Some(libc_enospc())),
            "{call}: {trouble}"
        );
        control::heal(&site.root, call).unwrap();
        assert_eq!(site.mirrors(&path), before, "{call}");
    }
    assert_eq!(extend(&work, &path, &on(&[1])).unwrap(), done(MIB));
    fs::write(&path, b"new").unwrap();
    let before = site.mirrors(&path);
    for call in ["llapi_lease_set", "llapi_mirror_read", "llapi_mirror_write", "llapi_lease_check", "llapi_mirror_set"]
    {
        control::fail(&site.root, call, libc_enospc(), None).unwrap();
        assert!(resync(&work, &path).is_err(), "{call}");
        control::heal(&site.root, call).unwrap();
        assert_eq!(site.mirrors(&path), before, "{call}");
    }
    assert_eq!(resync(&work, &path).unwrap(), done(3));
    for call in ["llapi_lease_acquire", "llapi_mirror_set", "llapi_lease_release"] {
        control::fail(&site.root, call, libc_enospc(), None).unwrap();
        assert!(verify(&work, &path).is_err(), "{call}");
        control::heal(&site.root, call).unwrap();
    }
    for call in ["llapi_lease_acquire", "llapi_lease_set", "llapi_create_volatile_idx"] {
        control::fail(&site.root, call, libc_enospc(), None).unwrap();
        assert!(split(&work, &path, &Which::Id(2)).is_err(), "{call}");
        control::heal(&site.root, call).unwrap();
        assert_eq!(site.mirrors(&path).len(), 2, "{call}");
    }
    // A lease that is refused once is asked for again.
    control::fail(&site.root, "llapi_lease_acquire", 16, Some(1)).unwrap();
    assert_eq!(split(&work, &path, &Which::Id(2)).unwrap(), done(0));
    site.nothing_else_than(&["f"]);
}

fn libc_enospc() -> i32 {
    28
}

#[test]
fn what_has_no_content_here_is_told_and_left() {
    let site = Site::new();
    let directory = site.top.join("d");
    fs::create_dir(&directory).unwrap();
    assert_eq!(extend(&site.work(), &directory, &on(&[1])).unwrap(), Outcome::Unsuited("is no regular file"));
    assert!(matches!(extend(&site.work(), &site.top.join("gone"), &on(&[1])), Err(Trouble::Io { doing: "find", .. })));
    let path = site.file_on("f", 0, b"content");
    let link = site.top.join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(extend(&site.work(), &link, &on(&[1])).unwrap(), Outcome::Unsuited("is no regular file"));
    control::fail(&site.root, "llapi_layout_get_by_fd", 61, None).unwrap();
    assert_eq!(resync(&site.work(), &path).unwrap(), Outcome::Unsuited("has no objects on OSTs"));
    control::heal(&site.root, "llapi_layout_get_by_fd").unwrap();
    site.make_released(&path);
    assert_eq!(extend(&site.work(), &path, &on(&[1])).unwrap(), Outcome::Unsuited("is released: restore it first"));
    assert!(extend(&site.work(), &site.file_on("g", 0, b"x"), &on(&[77])).is_err(), "there is no such OST");
}

#[test]
fn the_limit_is_kept_and_a_stop_is_heard() {
    let site = Site::new();
    let path = site.file_on("f", 0, &noise(11, 6 * MIB));
    let begun = std::time::Instant::now();
    let work = Work::new(&site.library).limited_to(NonZeroU64::new(4 << 20));
    assert_eq!(extend(&work, &path, &on(&[1])).unwrap(), done(6 * MIB));
    assert!(begun.elapsed().as_millis() > 900, "{:?}", begun.elapsed());
    let work = std::sync::Arc::new(Work::new(&site.library).limited_to(NonZeroU64::new(64 << 10)));
    let stopper = std::sync::Arc::clone(&work);
    let thread = std::thread::spawn(move || stopper.stop());
    assert!(matches!(extend(&work, &path, &on(&[2])), Err(Trouble::Stopped { .. })));
    thread.join().unwrap();
    assert_eq!(site.mirrors(&path).len(), 2);
}
