//! Whether the kernel asks before a file's content is used, and says the right range.
//!
//! One thread touches the probe file, this one answers. Here nothing else may be touched while the group exists: an access to
//! the same filesystem from this thread would wait for itself.

use super::Check;
use super::file::ProbeFile;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};
use sys::fanotify::{EventBuffer, OPEN_PERM, PRE_ACCESS, PreContentGroup, Verdict};

/// Where the probe reads, and where it maps: different, and neither is 0.
const READ_AT: u64 = 128 << 10;
const MAP_AT: u64 = 256 << 10;
const MAP_BYTES: usize = 64 << 10;
/// A probe takes milliseconds. If it does not end, the group is closed, and everybody goes on.
const PATIENCE: Duration = Duration::from_secs(5);

const NAME: &str = "pre-content events";
const NO_RELEASE: &str = "nobody would be stopped from reading a released file's holes: files cannot be released here";

/// What was asked of us about the probe file.
#[derive(Default)]
struct Seen {
    opened: bool,
    ranges: Vec<(u64, u64)>,
}

impl Seen {
    fn covers(&self, offset: u64) -> bool {
        self.ranges.iter().any(|(start, count)| *start <= offset && offset < start.saturating_add(*count))
    }

    fn begins_at(&self, offset: u64) -> bool {
        self.ranges.iter().any(|(start, _)| *start == offset)
    }
}

pub(super) fn checks(probe: &ProbeFile) -> Vec<Check> {
    match observe(&probe.path) {
        Ok(seen) => judge(&seen),
        Err(error) => vec![match Errno::from_io_error(&error) {
            Some(Errno::INVAL) => Check::fail(NAME, "the kernel does not know them", NO_RELEASE),
            Some(Errno::OPNOTSUPP) => Check::fail(NAME, "this filesystem does not have them", NO_RELEASE),
            _ => Check::error(NAME, &error, NO_RELEASE),
        }],
    }
}

fn judge(seen: &Seen) -> Vec<Check> {
    let pre_content = if seen.covers(READ_AT) {
        Check::ok(NAME, "a read is announced, with its range")
    } else {
        Check::fail(
            "pre-content events",
            format!("a read at {READ_AT} was not announced ({:?})", seen.ranges),
            NO_RELEASE,
        )
    };
    let open = if seen.opened {
        Check::ok("open events", "an open is announced")
    } else {
        let consequence =
            "programs that look for holes first would copy released files as zeros: files cannot be released here";
        Check::fail("open events", "an open was not announced", consequence)
    };
    let mmap = if seen.begins_at(MAP_AT) {
        Check::ok("mmap offset", "the range of a mapping is announced as it is")
    } else {
        Check::warn(
            "mmap offset",
            format!(
                "a mapping at {MAP_AT} was announced as {:?}: the kernel lacks the fix of October 2025",
                seen.ranges
            ),
            "a mapped file is restored whole, whatever part is mapped",
        )
    };
    vec![pre_content, open, mmap]
}

fn observe(path: &Path) -> io::Result<Seen> {
    let on = File::open(path)?;
    let group = PreContentGroup::new()?;
    group.mark_filesystem(&on)?;
    let path = path.to_owned();
    let toucher = std::thread::Builder::new().name("probe".to_owned()).spawn(move || touch(&path))?;
    let mut seen = Seen::default();
    let answered = answer_until(&group, &mut seen, || toucher.is_finished());
    // Closing the group lets everybody through, the toucher as well.
    drop(group);
    let touched = toucher.join().unwrap_or_else(|_| Err(io::Error::other("the probe's thread panicked")));
    answered.and(touched).map(|()| seen)
}

/// A new open: what is announced is decided when a file is opened.
fn touch(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.read_exact_at(&mut [0; 16], READ_AT)?;
    sys::mapping::map_and_unmap(&file, MAP_AT, MAP_BYTES)
}

fn answer_until(group: &PreContentGroup, seen: &mut Seen, done: impl Fn() -> bool) -> io::Result<()> {
    let own = std::process::id().cast_signed();
    let deadline = Instant::now() + PATIENCE;
    let tick = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    let mut buffer = EventBuffer::default();
    while !done() {
        if Instant::now() > deadline {
            return Err(Errno::TIMEDOUT.into());
        }
        poll(&mut [PollFd::new(group, PollFlags::IN)], Some(&tick))?;
        for event in group.read(&mut buffer)? {
            if event.fd.is_ok() {
                // ENOENT: who waited was killed.
                let _ = group.answer(event.number, Verdict::Allow);
            }
            if event.pid == own {
                seen.opened |= event.mask & OPEN_PERM != 0;
                seen.ranges.extend(event.range.filter(|_| event.mask & PRE_ACCESS != 0));
            }
        }
    }
    Ok(())
}
