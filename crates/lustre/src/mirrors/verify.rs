//! Mirrors compared, byte by byte.

use crate::aligned::Aligned;
use crate::guarded::{Access, lease, look, mirrors};
use crate::outcome::{Difference, Outcome, Stop, Trouble};
use crate::shape::Mirror;
use crate::work::Work;
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use sys::OFlags;
use sys::file::{reopen, stamp};
use sys::lustre::{LeaseMode, MirrorFile};

/// What is read and compared at a time.
const CHUNK_BYTES: u64 = 4 << 20;
/// Below this size, more threads cost more than they save.
const THREADS_FROM_BYTES: u64 = 64 << 20;
const MAX_THREADS: usize = 4;

/// Compares all mirrors that count as being in sync. Stale ones are left out.
pub fn verify(work: &Work, path: &Path) -> Result<Outcome, Trouble> {
    let seen = match look(work, path)? {
        Ok(seen) => seen,
        Err(outcome) => return Ok(outcome),
    };
    if !seen.is_mirrored() {
        return Ok(Outcome::Already("has one mirror only"));
    }
    if work.is_dry() {
        return Ok(Outcome::Would { bytes: seen.stamp.size });
    }
    work.try_until_free(path, || once(work, path))
}

fn once(work: &Work, path: &Path) -> Result<Outcome, Stop> {
    let lease = lease(work, path, Access::ReadDirect, LeaseMode::Read)?;
    let size = stamp(lease.as_fd()).map_err(Trouble::io("read attributes of", path))?.size;
    let mirrors = mirrors(work, lease.as_fd(), path)?;
    let run = Run {
        work,
        path,
        mirrors: &mirrors,
        size,
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        found: Mutex::new(Found::default()),
    };
    let threads = if size < THREADS_FROM_BYTES { 1 } else { available() };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || run.compare(lease.as_fd()));
            if let Err(error) = thread {
                tracing::debug!(%error, "no further thread for a file: it takes longer");
                break;
            }
        }
        run.compare(lease.as_fd());
    });
    let Found { bytes, difference, trouble } = run.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    // What was found in a file that was written meanwhile means nothing.
    lease.release().map_err(Stop::unless_busy("look after the lease on", path))?;
    match (trouble, difference) {
        (Some(trouble), _) => Err(trouble.into()),
        (None, Some(difference)) => Ok(Outcome::Differs(difference)),
        (None, None) => Ok(Outcome::Done { bytes }),
    }
}

fn available() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS)
}

#[derive(Default)]
struct Found {
    bytes: u64,
    /// The first in the file.
    difference: Option<Difference>,
    trouble: Option<Trouble>,
}

struct Run<'a> {
    work: &'a Work,
    path: &'a Path,
    mirrors: &'a [Mirror],
    size: u64,
    /// Where the next chunk begins.
    next: AtomicU64,
    stop: AtomicBool,
    found: Mutex<Found>,
}

/// What a thread reads with.
struct Reader {
    file: MirrorFile<OwnedFd>,
    one: Aligned,
    other: Aligned,
}

impl Run<'_> {
    fn compare(&self, file: impl AsFd) {
        if let Err(trouble) = self.chunks(file) {
            self.stop.store(true, Ordering::Relaxed);
            self.found().trouble.get_or_insert(trouble);
        }
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunks(&self, file: impl AsFd) -> Result<(), Trouble> {
        // Which mirror is read is the open file's: each thread has its own. A read lease allows that.
        let own = reopen(file, OFlags::RDONLY | OFlags::DIRECT).map_err(Trouble::io("open", self.path))?;
        let file =
            MirrorFile::new(self.work.library(), own).map_err(Trouble::io("read single mirrors of", self.path))?;
        let room = usize::try_from(CHUNK_BYTES.min(self.size.next_multiple_of(64 << 10))).unwrap_or(0);
        let mut reader = Reader { file, one: Aligned::new(room), other: Aligned::new(room) };
        while !self.stop.load(Ordering::Relaxed) {
            let start = self.next.fetch_add(CHUNK_BYTES, Ordering::Relaxed);
            if start >= self.size {
                break;
            }
            if !self.work.may_go_on() {
                return Err(Trouble::Stopped { path: self.path.to_owned() });
            }
            let end = self.size.min(start + CHUNK_BYTES);
            let found = self.chunk(&mut reader, start, end)?;
            let mut all = self.found();
            all.bytes += end - start;
            if let Some(difference) = found {
                all.difference = Some(all.difference.map_or(difference, |known| known.min(difference)));
                // Chunks before this one are with other threads, which end them.
                self.stop.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn chunk(&self, reader: &mut Reader, start: u64, end: u64) -> Result<Option<Difference>, Trouble> {
        let mut in_sync =
            self.mirrors.iter().filter(|mirror| mirror.in_sync_within(start, end)).map(|mirror| mirror.id);
        let Some(first) = in_sync.next() else { return Ok(None) };
        let others: Vec<u32> = in_sync.collect();
        let ids = || others.iter().chain([&first]).copied();
        if others.is_empty() || ids().all(|id| reader.file.next_data(id, start).is_ok_and(|(at, _)| at >= end)) {
            self.work.spent(0, end - start);
            return Ok(None);
        }
        let failed = || Trouble::io("read a mirror of", self.path);
        let len = reader.file.read(first, reader.one.get_mut(), start).map_err(failed())?;
        let mut found = None;
        for other in &others {
            let other_len = reader.file.read(*other, reader.other.get_mut(), start).map_err(failed())?;
            let (one, two) = (reader.one.get(len), reader.other.get(other_len));
            if one != two {
                let same = one.iter().zip(two).take_while(|(one, two)| one == two).count();
                let difference = Difference { offset: start + same as u64, mirror: first, other: *other };
                found = Some(found.map_or(difference, |known: Difference| known.min(difference)));
            }
        }
        self.work.spent((end - start).saturating_mul(others.len() as u64 + 1), end - start);
        Ok(found)
    }
}
