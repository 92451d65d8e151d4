//! Jobs that were interrupted, and what happened before they went on.

use crate::oracle::{interrupt, run, run_well};
use sifaka_jobs::filter::Filter;
use sifaka_jobs::migrate::{Existing, Options};
use sifaka_jobs::report::{Did, Event, Kind};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use testkit::{FsKind, LoopFs};

struct Site {
    disk: LoopFs,
    source: PathBuf,
    target: PathBuf,
}

impl Site {
    /// Directories of some files each.
    fn new(directories: u32) -> Self {
        let disk = LoopFs::new(FsKind::Ext4, 64);
        let (source, target) = (disk.path().join("src"), disk.path().join("dst"));
        for number in 0..directories {
            let directory = source.join(format!("d{number}"));
            fs::create_dir_all(&directory).unwrap();
            for name in ["a", "b", "c.bak"] {
                fs::write(directory.join(name), format!("{name} of {number}")).unwrap();
            }
        }
        Self { disk, source, target }
    }

    fn options(&self) -> Options {
        Options { state: Some(self.disk.path().join("job.db")), ..Options::default() }
    }

    fn interrupt(&self, options: &Options, when: &(dyn Fn(&Event) -> bool + Sync)) {
        assert!(interrupt(&self.source, &self.target, options, when));
    }
}

fn is_finished(event: &Event) -> bool {
    event.kind == Kind::Directory && event.did == Did::Copied
}

/// The one directory that an interrupted run has finished.
fn finished(site: &Site) -> String {
    let of = |path: PathBuf| fs::metadata(path).map(|found| (found.mode(), found.mtime(), found.mtime_nsec())).ok();
    let names = (0..).map(|number| format!("d{number}")).take_while(|name| site.source.join(name).exists());
    let mut same = names.filter(|name| of(site.source.join(name)) == of(site.target.join(name)));
    let found = same.next().unwrap();
    assert_eq!(same.next(), None);
    found
}

#[test]
fn a_run_with_other_options_or_other_directories_finishes_what_the_interrupted_one_left_out() {
    // A filter less.
    let site = Site::new(8);
    let filtered = Options { filter: Filter::by_names(&["*.bak".into()], &[]).unwrap(), ..site.options() };
    site.interrupt(&filtered, &is_finished);
    let totals = run_well(&site.source, &site.target, &site.options());
    assert_eq!(totals.resumed, 0);
    // The same once more goes on, a pass that is to find changes finds them.
    let site = Site::new(8);
    site.interrupt(&site.options(), &is_finished);
    let done = finished(&site);
    fs::write(site.source.join(&done).join("a"), "changed since then").unwrap();
    site.interrupt(&Options { existing: Existing::Update, ..site.options() }, &|event| event.did == Did::Same);
    let update = Options { existing: Existing::Update, delete: true, ..site.options() };
    run_well(&site.source, &site.target, &update);
    // Another tree has come to the same place.
    let site = Site::new(8);
    site.interrupt(&site.options(), &is_finished);
    fs::rename(&site.target, site.target.with_extension("old")).unwrap();
    fs::create_dir(&site.target).unwrap();
    assert_eq!(run(&site.source, &site.target, &site.options()).totals.resumed, 0);
    for number in 0..8 {
        assert!(site.target.join(format!("d{number}/a")).exists());
    }
    // And with the same ones, nothing is done twice.
    let site = Site::new(8);
    site.interrupt(&site.options(), &is_finished);
    assert_eq!(run_well(&site.source, &site.target, &site.options()).resumed, 1);
}

#[test]
fn work_of_others_at_the_destination_stays_and_what_is_half_written_does_not() {
    for existing in [Existing::Keep, Existing::Newer] {
        let site = Site::new(4);
        let options = Options { existing, ..site.options() };
        let copied = |event: &Event| event.kind == Kind::File && event.did == Did::Copied;
        site.interrupt(&options, &copied);
        let in_work = (0..4).map(|number| format!("d{number}")).find(|name| site.target.join(name).exists()).unwrap();
        let (source, target) = (site.source.join(&in_work), site.target.join(&in_work));
        // As a killed run leaves it: its beginning, and the present time.
        let whole = fs::read(source.join("b")).unwrap();
        let _ = fs::remove_file(target.join("b"));
        fs::write(target.join("b"), &whole[..3]).unwrap();
        let _ = fs::remove_file(target.join("a"));
        fs::write(target.join("a"), "worked on meanwhile").unwrap();
        let ran = run(&site.source, &site.target, &options);
        assert_eq!(fs::read(target.join("b")).unwrap(), whole, "{existing:?}");
        assert_eq!(fs::read(target.join("a")).unwrap(), b"worked on meanwhile", "{existing:?}");
        assert_eq!(ran.totals.refused, u64::from(existing == Existing::Keep), "{:?}", ran.problems());
    }
}

#[test]
fn directories_that_were_there_stay_as_they_are_and_those_of_an_interrupted_run_do_not() {
    let site = Site::new(2);
    fs::create_dir_all(site.target.join("d0")).unwrap();
    for (path, mode) in [("dst", 0o711), ("dst/d0", 0o750), ("src", 0o2775), ("src/d0", 0o700), ("src/d1", 0o555)] {
        fs::set_permissions(site.disk.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mode = |path: &str| fs::metadata(site.disk.path().join(path)).unwrap().mode() & 0o7777;
    let in_the_new_one = |event: &Event| event.did == Did::Copied && event.path.starts_with("d1");
    site.interrupt(&site.options(), &in_the_new_one);
    assert_eq!(mode("dst/d1"), 0o700);
    let ran = run(&site.source, &site.target, &site.options());
    assert_eq!(ran.problems(), Vec::<String>::new());
    assert_eq!([mode("dst"), mode("dst/d0"), mode("dst/d1")], [0o711, 0o750, 0o555]);
    run_well(&site.source, &site.target, &Options { existing: Existing::Update, ..site.options() });
    // The root is one that the interrupted run made.
    let site = Site::new(2);
    fs::set_permissions(&site.source, fs::Permissions::from_mode(0o2775)).unwrap();
    site.interrupt(&site.options(), &is_finished);
    run_well(&site.source, &site.target, &site.options());
}

#[test]
fn a_link_that_an_interrupted_run_just_made_gets_its_owner_and_times() {
    let site = Site::new(1);
    symlink("d0/a", site.source.join("link")).unwrap();
    std::os::unix::fs::lchown(site.source.join("link"), Some(77), Some(78)).unwrap();
    site.interrupt(&site.options(), &|_| true);
    let _ = fs::remove_file(site.target.join("link"));
    symlink("d0/a", site.target.join("link")).unwrap();
    run_well(&site.source, &site.target, &site.options());
}

#[test]
fn what_was_copied_before_an_interruption_is_verified_after_it() {
    for existing in [Existing::Keep, Existing::Update] {
        let site = Site::new(6);
        let options = Options { existing, ..site.options() };
        site.interrupt(&options, &is_finished);
        let done = finished(&site);
        testkit::faults::corrupt(&site.target.join(&done).join("b"));
        let ran = run(&site.source, &site.target, &Options { verify: true, ..options });
        assert_eq!((ran.totals.failed, ran.totals.verified), (1, 6 * 3 - 1), "{:?}", ran.problems());
    }
}

#[test]
fn names_noted_for_a_file_that_is_gone_are_not_given_to_another_one() {
    let site = Site::new(1);
    let group = |first: &Path, second: &Path, content: &str| {
        fs::create_dir_all(second.parent().unwrap()).unwrap();
        fs::write(first, content).unwrap();
        let file = fs::File::options().write(true).open(first).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000)).unwrap();
        fs::hard_link(first, second).unwrap();
        fs::metadata(first).unwrap().ino()
    };
    let (one, two) = (site.source.join("one"), site.source.join("names/two"));
    let before = group(&one, &two, "of one");
    // Whichever name comes first, the other one is still to come.
    site.interrupt(&site.options(), &|event| event.path == Path::new("one") || event.path == Path::new("names/two"));
    for path in [&one, &two] {
        fs::remove_file(path).unwrap();
    }
    let after = group(&site.source.join("uno"), &site.source.join("names/due"), "OF TWO");
    assert_eq!(before, after, "ext4 gives the number out again");
    let update = Options { delete: true, ..site.options() };
    // The same terms, or nothing would be remembered.
    let ran = run(&site.source, &site.target, &site.options());
    assert_eq!(ran.problems(), Vec::<String>::new());
    assert_eq!(fs::read(site.target.join("uno")).unwrap(), b"OF TWO");
    run_well(&site.source, &site.target, &update);
}
