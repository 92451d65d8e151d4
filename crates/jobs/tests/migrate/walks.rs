//! Walks by themselves.

use sifaka_jobs::walk::{Directory, Entry, Found, Pace, Visitor, Walker};
use std::fs::{self, File};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;
use testkit::Scratch;

/// Panics at the so-manieth batch.
struct Broken {
    seen: AtomicU64,
    at: u64,
}

impl Visitor for Broken {
    type Kept = ();

    fn enter(&self, _: Found<'_, ()>) -> Option<()> {
        Some(())
    }

    fn entries(&self, _: &Walker<'_, Self>, _: &Arc<Directory<()>>, _: &[Entry]) {
        assert!(self.seen.fetch_add(1, Ordering::Relaxed) != self.at, "as the test wants it");
    }

    fn leave(&self, _: &Directory<()>) {}

    fn trouble(&self, _: &Directory<()>, _: &[u8], _: &'static str, _: &io::Error) {}
}

#[test]
fn a_panic_in_one_thread_ends_the_walk_of_all() {
    let scratch = Scratch::new("walk-panic");
    for number in 0..40 {
        fs::create_dir(scratch.join(format!("{number}"))).unwrap();
        fs::write(scratch.join(format!("{number}/file")), "").unwrap();
    }
    for (threads, limit) in [(1, 1), (4, 4), (4, 1)] {
        for at in [0, 7, 30] {
            let root = File::open(scratch.path()).unwrap();
            let (ended, end) = channel();
            std::thread::spawn(move || {
                let pace = Pace::new(limit, threads);
                let stop = AtomicBool::new(false);
                let visitor = Broken { seen: AtomicU64::new(0), at };
                let walked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    Walker::new(&visitor, &pace, &stop, false).run(root.into())
                }));
                ended.send(walked.is_err()).unwrap();
            });
            assert_eq!(end.recv_timeout(Duration::from_secs(20)), Ok(true), "{threads} threads, {limit} at work");
        }
    }
}
