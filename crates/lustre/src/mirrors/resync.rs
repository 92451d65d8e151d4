//! Stale mirrors brought up to date.
//!
//! The lease that Lustre wants for this excludes everybody, ourselves through another open too: so the ranges of one file are
//! copied one after the other, and several files at a time.
//!
//! Ranges are read from and written to single mirrors here. The library has a call that does all of it, which is not used: what it wants to
//! be told and how it ends differ between versions, and since 2.17 it fails when it is asked for less than all of the file.

use crate::aligned::{ALIGNMENT, ALIGNMENT_BYTES, Aligned};
use crate::guarded::{Access, look, mirrors, open};
use crate::outcome::{Outcome, Stop, Trouble};
use crate::shape::Mirror;
use crate::work::Work;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use sys::file::{set_times, stamp};
use sys::lustre::{Layout, LayoutLease, MirrorFile, StaleComponent, find_stale};

/// What is copied before the lease and the limit are looked at again. A multiple of all page sizes.
const PIECE_BYTES: u64 = 16 << 20;
/// Another client was faster.
const EALREADY: i32 = 114;

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
    // The lease would make it a resync, which ends with nothing done, and is in the changelog.
    if stale_of(work, &open(path, Access::Read)?, path)?.is_empty() {
        return Ok(Outcome::Already("has stale mirrors that are never to be resynced, and no others"));
    }
    if work.is_dry() {
        return Ok(Outcome::Would { bytes: seen.stamp.size.saturating_mul(stale as u64) });
    }
    work.try_until_free(path, || once(work, path))
}

/// The components that are to be brought up to date.
fn stale_of(work: &Work, file: impl AsFd, path: &Path) -> Result<Vec<StaleComponent>, Trouble> {
    let stale = Layout::of(work.library(), file).and_then(|mut layout| find_stale(work.library(), &mut layout, &[]));
    stale.map_err(Trouble::io("find the stale mirrors of", path))
}

fn once(work: &Work, path: &Path) -> Result<Outcome, Stop> {
    let file = open(path, Access::WriteDirect)?;
    let lease = match LayoutLease::acquire_for_resync(work.library(), file) {
        Err(why) if why.raw_os_error() == Some(EALREADY) => return Ok(Outcome::Already("is in sync")),
        result => result.map_err(Stop::unless_busy("begin to resync", path))?,
    };
    let was = stamp(lease.as_fd()).map_err(Trouble::io("read attributes of", path))?;
    let stale = stale_of(work, lease.as_fd(), path)?;
    if stale.is_empty() {
        lease.finish_resync(&[]).map_err(Stop::unless_busy("end the resync of", path))?;
        return Ok(Outcome::Already("is in sync"));
    }
    let mut run = Run::new(work, path, &lease, &stale, was.size)?;
    let bytes = run.all()?;
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
    mirrors: Vec<Mirror>,
    stale: &'a [StaleComponent],
    size: u64,
    file: MirrorFile<OwnedFd>,
    buffer: Aligned,
    /// The ids of components that could not be written.
    failed: Vec<u32>,
    /// What was said of the first.
    why: Option<io::Error>,
}

impl<'a> Run<'a> {
    fn new(
        work: &'a Work,
        path: &'a Path,
        lease: &'a LayoutLease<File>,
        stale: &'a [StaleComponent],
        size: u64,
    ) -> Result<Self, Stop> {
        let mirrors = mirrors(work, lease.as_fd(), path)?;
        // Another name of the same open file: the lease is the open file's.
        let same = lease.as_fd().try_clone_to_owned().map_err(Trouble::io("open", path))?;
        let file = MirrorFile::new(work.library(), same).map_err(Trouble::io("resync", path))?;
        let room = size.min(PIECE_BYTES).next_multiple_of(ALIGNMENT_BYTES);
        let buffer = Aligned::new(usize::try_from(room).unwrap_or(0));
        Ok(Self { work, path, lease, mirrors, stale, size, file, buffer, failed: Vec::new(), why: None })
    }

    /// Copies everything, and gives how many bytes that were, for all mirrors.
    fn all(&mut self) -> Result<u64, Stop> {
        let (mut at, mut bytes) = (0, 0_u64);
        while at < self.size && self.failed.len() < self.stale.len() {
            self.may_go_on()?;
            // Up to there each mirror is stale, or is not.
            let border = self.border(at);
            let targets = self.targets(at);
            let end = match if targets.is_empty() { Part::Hole(border) } else { self.part(at, border) } {
                Part::Hole(end) => {
                    self.clear(&targets, at, end)?;
                    end
                }
                Part::Data(end) => {
                    let end = end.min(at + PIECE_BYTES);
                    self.copy(&targets, at, end)?;
                    end
                }
            };
            bytes = bytes.saturating_add((end - at).saturating_mul(targets.len() as u64));
            at = end;
        }
        self.cut();
        Ok(bytes)
    }

    fn may_go_on(&self) -> Result<(), Stop> {
        if !self.work.may_go_on() {
            return Err(Trouble::Stopped { path: self.path.to_owned() }.into());
        }
        match self.lease.still_held().map_err(Stop::unless_busy("look after the lease on", self.path))? {
            true => Ok(()),
            false => Err(Stop::Busy),
        }
    }

    /// Where, behind `at`, the first component of any mirror begins or ends, or the file does.
    fn border(&self, at: u64) -> u64 {
        let components = self.mirrors.iter().flat_map(|mirror| &mirror.components);
        let borders = components.flat_map(|component| [component.start, component.end]);
        borders.filter(|border| *border > at).min().unwrap_or(self.size).min(self.size)
    }

    /// What is to be written at `at`.
    fn targets(&self, at: u64) -> Vec<StaleComponent> {
        let is_there = |component: &&StaleComponent| (component.start..component.end).contains(&at);
        let wanted = self.stale.iter().filter(is_there).filter(|component| !self.failed.contains(&component.id));
        wanted.copied().collect()
    }

    /// The mirrors that have what the file has there.
    fn sources(&self, at: u64, end: u64) -> Vec<u32> {
        self.mirrors.iter().filter(|mirror| mirror.in_sync_within(at, end)).map(|mirror| mirror.id).collect()
    }

    /// What begins at `at`. Where nobody can tell, it is data.
    fn part(&mut self, at: u64, border: u64) -> Part {
        let Some(source) = self.sources(at, border).first().copied() else { return Part::Data(border) };
        match self.file.next_data(source, at) {
            Ok((_, 0)) => Part::Hole(border),
            Ok((data, _)) if data >= border => Part::Hole(border),
            Ok((data, len)) => match whole_pages(data, len) {
                (start, _) if start > at => Part::Hole(start),
                (_, end) => Part::Data(end.min(border)),
            },
            Err(_) => Part::Data(border),
        }
    }

    fn copy(&mut self, targets: &[StaleComponent], at: u64, end: u64) -> Result<(), Stop> {
        let len = usize::try_from(end - at).unwrap_or(usize::MAX);
        let mut refused = io::Error::other("no mirror is in sync there");
        let mut read = None;
        // One whose OST is away: another one may have the same.
        for source in self.sources(at, end) {
            let room = self.buffer.get_mut().get_mut(..len.next_multiple_of(ALIGNMENT)).unwrap_or_default();
            match self.file.read(source, room, at) {
                Ok(count) => {
                    read = Some(count.min(len));
                    break;
                }
                Err(why) => refused = why,
            }
        }
        let Some(read) = read else { return Err(Trouble::io("read a mirror in sync of", self.path)(refused).into()) };
        // What is behind the end is cut off again.
        self.buffer.get_mut().iter_mut().skip(read).for_each(|byte| *byte = 0);
        self.write(targets, at, end);
        self.work.spent((end - at).saturating_mul(targets.len() as u64), end - at);
        Ok(())
    }

    /// Writes what the buffer has to all, and notes those that fail.
    fn write(&mut self, targets: &[StaleComponent], at: u64, end: u64) {
        for target in targets {
            // Direct access wants whole pages.
            let len = (end - at).next_multiple_of(ALIGNMENT_BYTES).min(target.end - at);
            let data = self.buffer.get(usize::try_from(len).unwrap_or(usize::MAX));
            match self.file.write(target.mirror, data, at) {
                Ok(count) if count == data.len() => {}
                Ok(_) => self.note(target.id, io::ErrorKind::WriteZero.into()),
                Err(why) => self.note(target.id, why),
            }
        }
    }

    fn note(&mut self, id: u32, why: io::Error) {
        if !self.failed.contains(&id) {
            self.failed.push(id);
        }
        self.why.get_or_insert(why);
    }

    /// Where the file has a hole, what a mirror has of before is written over.
    fn clear(&mut self, targets: &[StaleComponent], at: u64, end: u64) -> Result<(), Stop> {
        for target in targets {
            let mut here = at;
            while here < end && !self.failed.contains(&target.id) {
                let (data, data_end) = match self.file.next_data(target.mirror, here) {
                    Ok((_, 0)) => break,
                    Ok((data, len)) => whole_pages(data, len),
                    Err(_) => (here, end),
                };
                let data = data.max(here);
                if data >= end {
                    break;
                }
                self.may_go_on()?;
                let next = end.min(data_end).min(data + PIECE_BYTES);
                self.buffer.get_mut().fill(0);
                self.write(&[*target], data, next);
                self.work.spent(next - data, 0);
                here = next;
            }
        }
        self.work.spent(0, end - at);
        Ok(())
    }

    /// A mirror that is longer than the file must not be.
    fn cut(&mut self) {
        let mut mirrors: Vec<u32> = self.stale.iter().map(|component| component.mirror).collect();
        mirrors.sort_unstable();
        mirrors.dedup();
        for mirror in mirrors {
            let cut = self.file.turn_to(Some(mirror)).and_then(|()| {
                let cut = set_len(self.file.as_fd(), self.size);
                self.file.turn_to(None).and(cut)
            });
            if let Err(why) = cut {
                let components = self.stale.iter().filter(|component| component.mirror == mirror);
                self.failed.extend(components.map(|component| component.id));
                self.why.get_or_insert(why);
            }
        }
        self.failed.sort_unstable();
        self.failed.dedup();
    }
}

/// A range of the file, by its end.
enum Part {
    Hole(u64),
    Data(u64),
}

/// The start and the end of all pages that have some of these data.
fn whole_pages(data: u64, len: usize) -> (u64, u64) {
    let end = data.saturating_add(len as u64);
    (data - data % ALIGNMENT_BYTES, end.checked_next_multiple_of(ALIGNMENT_BYTES).unwrap_or(end))
}

fn set_len(file: impl AsFd, size: u64) -> io::Result<()> {
    File::from(file.as_fd().try_clone_to_owned()?).set_len(size)
}
