//! What says whether two trees are the same: rsync, and a migration run with whatever a test needs of it.

use sifaka_jobs::migrate::{Options, migrate};
use sifaka_jobs::report::{Event, Tally, Totals, Watcher};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Keeps all that it is told.
#[derive(Default)]
pub(crate) struct Heard(Mutex<Vec<Event>>);

impl Watcher for Heard {
    fn wants_all(&self) -> bool {
        true
    }

    fn tell(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

/// How a run came out.
pub(crate) struct Ran {
    pub(crate) totals: Totals,
    pub(crate) events: Vec<Event>,
}

impl Ran {
    /// What somebody would have to look at.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.events.iter().filter(|event| event.did.is_problem() || event.why.is_some());
        problems.map(|event| format!("{} {:?}: {:?}", event.path.display(), event.did, event.why)).collect()
    }
}

/// Stops the job when it hears of the right thing.
struct Stopper<'a> {
    stop: &'a AtomicBool,
    when: &'a (dyn Fn(&Event) -> bool + Sync),
}

impl Watcher for Stopper<'_> {
    fn wants_all(&self) -> bool {
        true
    }

    fn tell(&self, event: &Event) {
        if (self.when)(event) {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// A run by one thread that is interrupted when it tells of something. Whether it was.
pub(crate) fn interrupt(
    source: &Path,
    target: &Path,
    options: &Options,
    when: &(dyn Fn(&Event) -> bool + Sync),
) -> bool {
    let stop = AtomicBool::new(false);
    let stopper = Stopper { stop: &stop, when };
    let options = Options { threads: Some(1), ..options.clone() };
    migrate(source, target, &options, &Tally::default(), &stopper, &stop).unwrap().interrupted
}

pub(crate) fn run(source: &Path, target: &Path, options: &Options) -> Ran {
    let (tally, heard, stop) = (Tally::default(), Heard::default(), AtomicBool::new(false));
    migrate(source, target, options, &tally, &heard, &stop).unwrap();
    Ran { totals: tally.totals(), events: heard.0.into_inner().unwrap() }
}

/// As [`run`]; nothing may go wrong, and both trees must be the same then.
pub(crate) fn run_well(source: &Path, target: &Path, options: &Options) -> Totals {
    let ran = run(source, target, options);
    assert_eq!(ran.problems(), Vec::<String>::new());
    assert_same(source, target);
    ran.totals
}

/// By content, names, links, owners, modes, times, attributes and ACLs, in both directions.
pub(crate) fn assert_same(source: &Path, target: &Path) {
    let differing = differences(source, target);
    assert!(differing.is_empty(), "{differing}");
}

pub(crate) fn differences(source: &Path, target: &Path) -> String {
    let (mut from, mut to) = (source.as_os_str().to_owned(), target.as_os_str().to_owned());
    from.push("/");
    to.push("/");
    let mut rsync = Command::new("rsync");
    // It would read every zero of it, for hours.
    rsync.args(["-n", "-aciHAXS", "--delete", "--devices", "--specials", "--exclude=/contents/terabyte"]);
    // ACLs once more, as XFS shows them.
    rsync.args(["--filter=-x trusted.SGI_ACL_*", "--filter=-x system.*"]);
    let compared = rsync.arg(from).arg(to).output().unwrap();
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stderr));
    String::from_utf8_lossy(&compared.stdout).into_owned()
}
