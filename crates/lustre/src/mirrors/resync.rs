//! Stale mirrors brought up to date.
//!
//! The lease that Lustre wants for this excludes everybody, ourselves through another open too: so the ranges of one file are
//! copied one after the other, and several files at a time.

use crate::guarded::{Access, look, open};
use crate::outcome::{Outcome, Stop, Trouble};
use crate::work::Work;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use sys::file::{set_times, stamp};
use sys::lustre::{Layout, LayoutLease, MirrorFile, StaleComponent, find_stale};

/// What is copied before the lease and the limit are looked at again. A multiple of all page sizes.
const PIECE_BYTES: u64 = 16 << 20;
/// Another client was faster.
const EALREADY: i32 = 114;
/// Lustre's for the end of a file.
const TO_THE_END: u64 = u64::MAX;

/// Copies what the file has now to its stale mirrors: to all but those that were marked never to be resynced.
pub fn resync(work: &Work, path: &Path) -> Result<Outcome, Trouble> {
    let seen = match look(work, path)? {
        Ok(seen) => seen,
        Err(outcome) => return Ok(outcome),
    };
    if !seen.is_mirrored() {
        return Ok(Outcome::Already("has one mirror only"));
    }
    let stale = seen.mirrors.iter().filter(|mirror| !mirror.in_sync()).count();
    if stale == 0 {
        return Ok(Outcome::Already("is in sync"));
    }
    if work.is_dry() {
        return Ok(Outcome::Would { bytes: seen.stamp.size.saturating_mul(stale as u64) });
    }
    work.try_until_free(path, || once(work, path))
}

fn once(work: &Work, path: &Path) -> Result<Outcome, Stop> {
    let file = open(path, Access::WriteDirect)?;
    let lease = match LayoutLease::acquire_for_resync(work.library(), file) {
        Err(why) if why.raw_os_error() == Some(EALREADY) => return Ok(Outcome::Already("is in sync")),
        result => result.map_err(Stop::unless_busy("begin to resync", path))?,
    };
    let was = stamp(lease.as_fd()).map_err(Trouble::io("read attributes of", path))?;
    let mut layout = Layout::of(work.library(), lease.as_fd()).map_err(Trouble::io("read the layout of", path))?;
    let stale = find_stale(work.library(), &mut layout, &[]).map_err(Trouble::io("find the stale mirrors of", path))?;
    if stale.is_empty() {
        lease.finish_resync(&[]).map_err(Stop::unless_busy("end the resync of", path))?;
        return Ok(Outcome::Already("is in sync"));
    }
    let mut run = Run { work, path, lease: &lease, layout, failed: Vec::new(), why: None };
    let bytes = run.all(&stale, was.size)?;
    let Run { failed, why, .. } = run;
    // The mirrors' objects were just written. While the lease is held, nobody else has.
    if !lease.still_held().map_err(Stop::unless_busy("look after the lease on", path))? {
        return Err(Stop::Busy);
    }
    set_times(lease.as_fd(), Some(was.atime), was.mtime).map_err(Trouble::io("set the times of", path))?;
    let synced: Vec<u32> = stale.iter().map(|component| component.id).filter(|id| !failed.contains(id)).collect();
    lease.finish_resync(&synced).map_err(Stop::unless_busy("end the resync of", path))?;
    match why {
        Some(source) => {
            Err(Trouble::Partly { path: path.to_owned(), failed: failed.len(), all: stale.len(), source }.into())
        }
        None => Ok(Outcome::Done { bytes }),
    }
}

struct Run<'a> {
    work: &'a Work,
    path: &'a Path,
    lease: &'a LayoutLease<File>,
    layout: Layout,
    /// The ids of components that could not be written.
    failed: Vec<u32>,
    /// What was said of the first.
    why: Option<io::Error>,
}

impl Run<'_> {
    /// Copies everything, and gives how many bytes that were, for all mirrors.
    fn all(&mut self, stale: &[StaleComponent], size: u64) -> Result<u64, Stop> {
        // Another name of the same open file: the lease is the open file's.
        let same = self.lease.as_fd().try_clone_to_owned().map_err(Trouble::io("open", self.path))?;
        let mut file = MirrorFile::new(self.work.library(), same).map_err(Trouble::io("resync", self.path))?;
        let (mut start, mut bytes) = (0, 0_u64);
        loop {
            let is_last = size.saturating_sub(start) <= PIECE_BYTES;
            let end = if is_last { TO_THE_END } else { start + PIECE_BYTES };
            if !self.work.may_go_on() {
                return Err(Trouble::Stopped { path: self.path.to_owned() }.into());
            }
            if !self.lease.still_held().map_err(Stop::unless_busy("look after the lease on", self.path))? {
                return Err(Stop::Busy);
            }
            self.piece(&mut file, stale, start, end)?;
            let done = size.min(end).saturating_sub(start);
            let mirrors = stale.len().saturating_sub(self.failed.len()) as u64;
            self.work.spent(done.saturating_mul(mirrors), done);
            bytes = bytes.saturating_add(done.saturating_mul(mirrors));
            if is_last {
                break;
            }
            start = end;
        }
        self.cut(&mut file, stale, size);
        Ok(bytes)
    }

    fn piece(
        &mut self,
        file: &mut MirrorFile<impl AsFd>,
        stale: &[StaleComponent],
        start: u64,
        end: u64,
    ) -> Result<(), Stop> {
        let mut wanted: Vec<_> =
            stale.iter().filter(|component| !self.failed.contains(&component.id)).copied().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let result = file.resync(&mut self.layout, &mut wanted, start, end);
        let failed = wanted.iter().filter(|component| !component.synced).map(|component| component.id);
        self.failed.extend(failed);
        match result {
            // Some were written.
            Err(why) if wanted.iter().any(|component| component.synced) => {
                self.why.get_or_insert(why);
                Ok(())
            }
            Err(why) => Err(Trouble::io("resync", self.path)(why).into()),
            Ok(()) if self.failed.is_empty() => Ok(()),
            Ok(()) => {
                self.why.get_or_insert_with(|| io::Error::other("Lustre's library does not say why"));
                Ok(())
            }
        }
    }

    /// A mirror that was longer than the file must not be: the library cuts it only where the file ends within a page.
    fn cut(&mut self, file: &mut MirrorFile<impl AsFd>, stale: &[StaleComponent], size: u64) {
        let mut mirrors: Vec<u32> = stale.iter().map(|component| component.mirror).collect();
        mirrors.sort_unstable();
        mirrors.dedup();
        for mirror in mirrors {
            let cut = file.turn_to(Some(mirror)).and_then(|()| {
                let cut = set_len(file.as_fd(), size);
                file.turn_to(None).and(cut)
            });
            if let Err(why) = cut {
                let components = stale.iter().filter(|component| component.mirror == mirror);
                self.failed.extend(components.map(|component| component.id));
                self.why.get_or_insert(why);
            }
        }
        self.failed.sort_unstable();
        self.failed.dedup();
    }
}

fn set_len(file: impl AsFd, size: u64) -> io::Result<()> {
    File::from(file.as_fd().try_clone_to_owned()?).set_len(size)
}
