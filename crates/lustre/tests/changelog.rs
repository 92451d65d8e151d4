//! The feed of a changelog, against a library that behaves as Lustre's, in one process.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the lints do not see that functions beside tests belong to them"
)]

mod site;

use lustre_standin::control;
use sifaka_lustre::changelog::{Event, Feed, FeedError, written};
use site::Site;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use sys::lustre::{Changelog, path2fid};

const CLOSE: u32 = 11;
const UNLINK: u32 = 6;
const MIGRATE: u32 = 20;
const PERIOD: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(20);

struct Log {
    site: Site,
    user: String,
    file: PathBuf,
}

impl Log {
    fn new() -> Self {
        let site = Site::new();
        let user = control::register_changelog_user(&site.root).unwrap();
        let file = site.file_on("f", 0, b"content");
        Self { site, user, file }
    }

    fn mdt(&self) -> String {
        format!("{}-MDT0000", self.site.root.fsname().unwrap())
    }

    fn position(&self) -> PathBuf {
        self.site.top.join("position")
    }

    fn open(&self) -> Result<Feed, FeedError> {
        self.open_every(PERIOD)
    }

    fn open_every(&self, period: Duration) -> Result<Feed, FeedError> {
        Feed::open(&self.site.library, &self.mdt(), &self.user, &self.position(), period)
    }

    fn write(&self, count: usize) {
        for _ in 0..count {
            control::log(&self.file, CLOSE, 0).unwrap();
        }
    }

    /// The oldest record that the log still has, for whoever reads it.
    fn oldest(&self) -> Option<u64> {
        let mut log = Changelog::start(&self.site.library, &self.mdt(), 0, false).unwrap();
        log.recv().unwrap().map(|record| record.index)
    }
}

/// Their numbers, until there is nothing more.
fn numbers(feed: &mut Feed) -> Vec<u64> {
    let mut found = Vec::new();
    loop {
        match feed.next(PATIENCE).unwrap() {
            Event::Records(records) => found.extend(records.iter().map(|record| record.index)),
            Event::End => return found,
            other => panic!("{other:?}"),
        }
    }
}

fn until(feed: &mut Feed, mut wanted: impl FnMut(&Event) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !feed.next(PATIENCE).is_some_and(|event| wanted(&event)) {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn records_come_in_order_and_again_until_they_are_committed() {
    let log = Log::new();
    log.write(1300);
    let mut feed = log.open().unwrap();
    assert_eq!(numbers(&mut feed), (1..=1300).collect::<Vec<_>>());
    feed.commit(700).unwrap();
    feed.commit(3).unwrap();
    assert_eq!((feed.committed(), log.oldest()), (700, Some(701)));
    drop(feed);
    let mut feed = log.open().unwrap();
    assert_eq!(numbers(&mut feed), (701..=1300).collect::<Vec<_>>());
    log.write(1);
    until(&mut feed, |event| matches!(event, Event::Records(records) if records[0].index == 1301));
    feed.commit(1301).unwrap();
    assert_eq!(log.oldest(), None);
}

#[test]
fn another_reader_s_records_are_not_read_again() {
    let log = Log::new();
    let _slow = control::register_changelog_user(&log.site.root).unwrap();
    log.write(5);
    let mut feed = log.open().unwrap();
    assert_eq!(numbers(&mut feed).len(), 5);
    feed.commit(4).unwrap();
    drop(feed);
    assert_eq!(log.oldest(), Some(1), "the other one has not cleared");
    assert_eq!(numbers(&mut log.open().unwrap()), [5]);
}

#[test]
fn gaps_are_told_and_errors_are_gone_through() {
    let log = Log::new();
    log.write(3);
    let mut feed = log.open().unwrap();
    assert_eq!(numbers(&mut feed), [1, 2, 3]);
    feed.commit(1).unwrap();
    drop(feed);
    log.write(3);
    Changelog::clear(&log.site.library, &log.mdt(), &log.user, 4).unwrap();
    // Somebody has cleared in this reader's name: the position is behind, and what there is comes.
    let mut feed = log.open().unwrap();
    assert_eq!(numbers(&mut feed), [5, 6]);
    feed.commit(6).unwrap();
    for call in ["llapi_changelog_start", "llapi_changelog_recv"] {
        control::fail(&log.site.root, call, 5, Some(2)).unwrap();
        until(&mut feed, |event| matches!(event, Event::Trouble(error) if error.raw_os_error() == Some(5)));
        log.write(1);
        until(&mut feed, |event| matches!(event, Event::Records(_)));
    }
    control::fail(&log.site.root, "llapi_changelog_clear", 5, Some(1)).unwrap();
    assert!(matches!(feed.commit(7), Err(FeedError::Clear { index: 7, .. })));
    feed.commit(8).unwrap();
    assert_eq!(log.oldest(), None);
}

#[test]
fn at_the_end_the_log_stays_open() {
    let log = Log::new();
    log.write(2);
    let mut feed = log.open_every(Duration::from_millis(500)).unwrap();
    assert_eq!(numbers(&mut feed), [1, 2]);
    // Read without opening it anew for each look; the first may have been about to.
    until(&mut feed, |event| matches!(event, Event::End));
    control::fail(&log.site.root, "llapi_changelog_start", 5, None).unwrap();
    for number in 3..6 {
        log.write(1);
        let told = std::iter::from_fn(|| feed.next(PATIENCE)).find(|event| !matches!(event, Event::End)).unwrap();
        assert!(matches!(&told, Event::Records(records) if records[0].index == number), "{told:?}");
    }
    // What is wrong with it is found all the same.
    control::fail(&log.site.root, "llapi_changelog_recv", 5, Some(1)).unwrap();
    log.write(1);
    until(&mut feed, |event| matches!(event, Event::Trouble(_)));
    control::heal(&log.site.root, "llapi_changelog_start").unwrap();
    assert!(matches!(next(&mut feed), Event::Records(records) if records[0].index == 6));
}

#[test]
fn a_gap_between_records_is_an_event() {
    let log = Log::new();
    log.write(2);
    let mut feed = log.open().unwrap();
    assert_eq!(numbers(&mut feed), [1, 2]);
    // What is read next is read after the pause: these go before it, or some of them were seen.
    control::fail(&log.site.root, "llapi_changelog_start", 5, None).unwrap();
    until(&mut feed, |event| matches!(event, Event::Trouble(_)));
    log.write(3);
    Changelog::clear(&log.site.library, &log.mdt(), &log.user, 4).unwrap();
    control::heal(&log.site.root, "llapi_changelog_start").unwrap();
    assert!(matches!(next(&mut feed), Event::Records(records) if records[0].index == 5));
    // What is missing may come; the MDT has forgotten even more.
    assert!(matches!(feed.commit(5), Err(FeedError::Clear { index: 2, .. })));
    assert_eq!(feed.committed(), 2);
    assert!(matches!(next(&mut feed), Event::Gap { after: 2, next: 5 }));
    feed.commit(5).unwrap();
    assert_eq!(feed.committed(), 5);
}

/// What comes next, of records and gaps.
fn next(feed: &mut Feed) -> Event {
    loop {
        let event = feed.next(PATIENCE).unwrap();
        if matches!(event, Event::Records(_) | Event::Gap { .. }) {
            return event;
        }
    }
}

#[test]
fn p9_a_record_that_comes_after_later_ones_is_not_lost() {
    let log = Log::new();
    log.write(2);
    let late = control::take_record_number(&log.site.root).unwrap();
    log.write(2);
    let mut feed = log.open_every(Duration::from_secs(1)).unwrap();
    assert!(matches!(next(&mut feed), Event::Records(records) if records.len() == 4));
    feed.commit(5).unwrap();
    assert_eq!((late, feed.committed(), log.oldest()), (3, 2, Some(4)));
    // Killed here, it begins at the hole.
    drop(feed);
    let mut feed = log.open_every(Duration::from_secs(1)).unwrap();
    assert!(matches!(next(&mut feed), Event::Records(records) if records.len() == 2));
    control::log_late(&log.file, CLOSE, late).unwrap();
    assert!(matches!(next(&mut feed), Event::Records(records) if records.len() == 1 && records[0].index == late));
    assert!(matches!(feed.next(PATIENCE), Some(Event::End)));
    feed.commit(5).unwrap();
    assert_eq!((feed.committed(), log.oldest()), (5, None));
}

#[test]
fn a_position_that_is_not_ours_is_refused_and_one_that_is_ahead_misses_nothing() {
    let log = Log::new();
    log.write(2);
    for text in ["", "garbage", "changelog other-MDT0000 cl1 7\n", "\u{0}\u{1}"] {
        fs::write(log.position(), text).unwrap();
        assert!(matches!(log.open(), Err(FeedError::NotOurs { .. })), "{text:?}");
    }
    fs::write(log.position(), [0xff; 5000]).unwrap();
    assert!(log.open().is_err());
    // The log was begun anew, with lower numbers.
    fs::write(log.position(), format!("changelog {} {} 5000\n", log.mdt(), log.user)).unwrap();
    assert_eq!(numbers(&mut log.open().unwrap()), [1, 2]);
    fs::remove_file(log.position()).unwrap();
    let nobody = Feed::open(&log.site.library, &log.mdt(), "cl99", &log.position(), PERIOD);
    let mut feed = nobody.unwrap();
    assert_eq!(numbers(&mut feed), [1, 2]);
    assert!(matches!(feed.commit(1), Err(FeedError::NoUser { .. })));
    // Since 2.16 a reader that somebody else has cleared for looks the same at first: it is read, and told when it is so.
    drop(feed);
    let mut feed = Feed::open(&log.site.library, &log.mdt(), "cl99", &log.position(), PERIOD).unwrap();
    assert_eq!(numbers(&mut feed), [1, 2]);
    assert!(matches!(feed.commit(2), Err(FeedError::NoUser { .. })));
}

#[test]
fn writes_are_told_from_the_rest() {
    let log = Log::new();
    log.write(1);
    control::log(&log.file, UNLINK, 0).unwrap();
    control::log(&log.file, MIGRATE, 0).unwrap();
    let mut feed = log.open().unwrap();
    let Some(Event::Records(records)) = feed.next(PATIENCE) else { panic!("there are records") };
    let fid = path2fid(&log.site.library, &log.file).unwrap();
    assert_eq!(records.iter().map(written).collect::<Vec<_>>(), [Some(fid), None, Some(fid)]);
    // A feed that nobody reads ends all the same.
    log.write(3000);
    drop(feed);
}
