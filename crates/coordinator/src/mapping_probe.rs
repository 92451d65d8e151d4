//! Whether the kernel announces the right range of a mapping: kernels without the fix of October 2025 say a wrong offset.
//!
//! Asked of the kernel itself, with a file that has no name and a group of its own: its version says nothing, since
//! distributions take fixes over.

use crate::filesystem::Filesystem;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use sys::fanotify::{EventBuffer, PreContentGroup, Verdict};
use sys::{Mode, OFlags};

const SIZE: u64 = 512 << 10;
/// Neither 0 nor the length.
const AT: u64 = 256 << 10;
const LENGTH: usize = 64 << 10;
/// It takes a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);

/// Maps a part of a file and looks at what is announced.
pub(crate) fn mappings_are_announced(fs: &Filesystem) -> io::Result<bool> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let probe = File::from(rustix::fs::openat(fs.root(), ".", flags, Mode::RUSR | Mode::WUSR)?);
    probe.set_len(SIZE)?;
    let group = PreContentGroup::new()?;
    group.mark_inode(&probe)?;
    let path = format!("/proc/self/fd/{}", probe.as_raw_fd());
    let map = move || File::open(path).and_then(|file| sys::mapping::map_and_unmap(&file, AT, LENGTH));
    let mapper = std::thread::Builder::new().name("mapping-probe".into()).spawn(map)?;
    let deadline = Instant::now() + PATIENCE;
    let mut seen = false;
    let mut buffer = EventBuffer::default();
    while !mapper.is_finished() && Instant::now() < deadline {
        let tick = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        poll(&mut [PollFd::new(&group, PollFlags::IN)], Some(&tick))?;
        for event in group.read(&mut buffer)? {
            seen |= event.range.is_some_and(|(offset, count)| offset == AT && count >= LENGTH as u64);
            // Who waited may have been killed.
            let _ = group.answer(event.number, Verdict::Allow);
        }
    }
    // Closing the group lets everybody through.
    drop(group);
    mapper.join().map_err(|_| io::Error::other("the probe's thread panicked"))??;
    Ok(seen)
}
