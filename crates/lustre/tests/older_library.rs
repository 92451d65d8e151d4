//! With the library of an older Lustre, which has not all functions: what can be done without is done without, and what cannot says so.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the lints do not see that functions beside tests belong to them"
)]

mod site;

use lustre_standin::{control, shared_object_without};
use sifaka_lustre::Outcome;
use sifaka_lustre::changelog::{Event, Feed};
use sifaka_lustre::mirrors::{Target, extend, resync, verify};
use site::{Site, noise};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use sys::lustre::{Library, LoadError};

const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

fn older(functions: &[&str]) -> Site {
    let mut site = Site::new();
    let directory = tempfile::tempdir().unwrap();
    // It may go: the library is loaded, and stays.
    site.library = Library::load_from(&shared_object_without(functions, directory.path())).unwrap();
    site
}

/// 2.12.0: nobody tells whether the library has read more than it has given.
#[test]
fn a_changelog_is_followed_without_looking_into_its_buffer() {
    let site = older(&["llapi_changelog_in_buf"]);
    let user = control::register_changelog_user(&site.root).unwrap();
    let file = site.file_on("f", 0, b"content");
    let mdt = format!("{}-MDT0000", site.root.fsname().unwrap());
    let write = |count| (0..count).for_each(|_| control::log(&file, 11, 0).unwrap());
    write(1300);
    let mut feed =
        Feed::open(&site.library, &mdt, &user, &site.top.join("position"), Duration::from_millis(20)).unwrap();
    let mut last = 0;
    let deadline = Instant::now() + PATIENCE;
    let mut read_to = |feed: &mut Feed, wanted: u64| {
        while last < wanted {
            assert!(Instant::now() < deadline, "{last} of {wanted}");
            if let Some(Event::Records(records)) = feed.next(PATIENCE) {
                for record in records {
                    assert_eq!(record.index, last + 1);
                    last = record.index;
                }
            }
        }
    };
    read_to(&mut feed, 1300);
    write(10);
    read_to(&mut feed, 1310);
    feed.commit(1310).unwrap();
}

/// 2.12: what is a hole in a mirror is read as zeros.
#[test]
fn mirrors_are_brought_up_to_date_without_knowing_of_holes() {
    let site = older(&["llapi_mirror_data_seek"]);
    let path = site.file_on("f", 0, &noise(1, 9 * MIB));
    let other = Target { osts: vec![2], ..Target::default() };
    assert_eq!(extend(&site.work(), &path, &other).unwrap(), Outcome::Done { bytes: 9 * MIB as u64 });
    // Data, a hole where the mirror has data, more data, a hole.
    let file = File::create(&path).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    file.write_all_at(b"more", 5 * MIB as u64).unwrap();
    file.set_len(20 * MIB as u64).unwrap();
    drop(file);
    assert_eq!(resync(&site.work(), &path).unwrap(), Outcome::Done { bytes: 20 * MIB as u64 });
    assert_eq!(verify(&site.work(), &path).unwrap(), Outcome::Done { bytes: 20 * MIB as u64 });
    assert!(site.shadow_of(&path, 2) == fs::read(&path).unwrap());
}

#[test]
fn a_library_without_what_cannot_be_done_without_is_named_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let library = shared_object_without(&["llapi_hsm_action_end"], directory.path());
    match Library::load_from(&library).unwrap_err() {
        LoadError::TooOld { symbol, path, .. } => assert_eq!((symbol, path), ("llapi_hsm_action_end", library)),
        error @ LoadError::Absent { .. } => panic!("{error}"),
    }
}
