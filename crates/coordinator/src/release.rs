//! Giving a file's blocks back, once it is proven that the archive holds exactly its present content.
//!
//! The order is the point; SEMANTICS.md (P2, P5) says why, and the kill tests kill between any two steps:
//! 1. hold: every open and access of the file by others comes to the agent and waits there;
//! 2. nobody has it open (a write lease is granted, and dropped at once: kept, it would block the guard's own opens);
//! 3. the content is the archived one (its stamp is the one recorded after the archive), and if the object is somebody else's, a mover has just found it as it was;
//! 4. RELEASED is set and synced; if the guard was replaced meanwhile, it is taken back;
//! 5. the blocks are punched out, mtime is set back, the hold ends.
//!
//! A file that is released and there in parts goes the same way, without step 3: what is punched was proven when it was released
//! first. In step 4 its mark goes, so that no crash leaves a claim for what is punched then.

use crate::copies;
use crate::filesystem::{Filesystem, handle_of, stamp_of};
use crate::guard::GuardLink;
use crate::prepare::{EPERM, attribute, is_archived_as_it_is, system};
use crate::ranges::residency;
use crate::state::{FileState, read_hsm, write_hsm};
use model::{Failure, FileHandle, HsmFlags, HsmState, ObjectUrl, Timestamp};
use queue::{Queue, SyncedStamp};
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use sys::OFlags;
use sys::lease::WriteLease;

/// A mover had the file open a moment ago, and the guard its events' descriptors, which they close right after they have answered.
const LOOKS_AFTER_PROOF: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(4);
const EBUSY: i32 = 16;
/// Files released under one sync.
pub(crate) const BATCH: usize = 256;

/// What became of one file.
#[derive(Debug)]
pub(crate) enum Released {
    /// So many bytes of disk were freed.
    Freed(u64),
    /// It was released before.
    Already,
    /// Times or attributes changed since the archive, or its object is somebody else's: a mover has to hash the content, and look for the object.
    NeedsProof,
    /// No.
    Refused(Failure),
}

/// A file on its way.
struct Candidate {
    at: usize,
    fd: OwnedFd,
    state: FileState,
    /// It is released, and parts of it are there.
    in_parts: bool,
    /// A mover looked at it, and at its object.
    proven: bool,
}

/// Releases a batch of files whose inodes the engine has locked. One result a file, in their order. Those that have no copy in one of
/// the archives `copies` are refused. What a mover has proven for this release says `proven`.
pub(crate) fn release(
    fs: &Filesystem,
    queue: &dyn Queue,
    guard: &Arc<GuardLink>,
    copies: &[u32],
    (files, proven): (&[FileHandle], &HashSet<FileHandle>),
) -> Vec<Released> {
    let mut results: Vec<Option<Released>> = files.iter().map(|_| None).collect();
    let mut candidates = Vec::new();
    let settle = |results: &mut Vec<Option<Released>>, at: usize, result: Released| {
        if let Some(slot) = results.get_mut(at) {
            *slot = Some(result);
        }
    };
    for (at, handle) in files.iter().enumerate() {
        match open(fs, copies, handle) {
            Ok(Ok((fd, state))) => {
                let in_parts = state.hsm.is_released();
                candidates.push(Candidate { at, fd, state, in_parts, proven: proven.contains(handle) });
            }
            Ok(Err(result)) => settle(&mut results, at, result),
            Err(failure) => settle(&mut results, at, Released::Refused(failure)),
        }
    }
    let descriptors: Vec<_> = candidates.iter().map(|c| c.fd.as_fd()).collect();
    let hold = match guard.hold(&descriptors) {
        Ok(hold) => hold,
        Err(error) => {
            let failure = Failure::temporary(11, error.to_string());
            return results.into_iter().map(|r| r.unwrap_or_else(|| Released::Refused(failure.clone()))).collect();
        }
    };
    drop(descriptors);
    let mut flagged = Vec::new();
    for candidate in candidates {
        let at = candidate.at;
        match flag(queue, &candidate, files.get(at)) {
            Ok(None) => flagged.push(candidate),
            Ok(Some(result)) => settle(&mut results, at, result),
            Err(failure) => settle(&mut results, at, Released::Refused(failure)),
        }
    }
    let synced = if flagged.is_empty() { Ok(()) } else { fs.sync() };
    let failure = match synced {
        Err(error) => Some(system("syncing the filesystem", &error)),
        // A new guard knew of no hold: between its start and the flag it may have let somebody in.
        Ok(()) if !hold.is_in_force() => Some(Failure::temporary(11, "the guard was replaced meanwhile; try again")),
        Ok(()) => None,
    };
    for candidate in flagged {
        let result = match &failure {
            Some(failure) => {
                unflag(&candidate);
                Released::Refused(failure.clone())
            }
            None => punch(&candidate).map_or_else(Released::Refused, Released::Freed),
        };
        settle(&mut results, candidate.at, result);
    }
    drop(hold);
    let lost = || Released::Refused(Failure::temporary(5, "no result"));
    results.into_iter().map(|r| r.unwrap_or_else(lost)).collect()
}

type Look = Result<(OwnedFd, FileState), Released>;

fn open(fs: &Filesystem, wanted: &[u32], handle: &FileHandle) -> Result<Look, Failure> {
    let fd = fs.open(handle, OFlags::RDWR | OFlags::NONBLOCK).map_err(|e| match e.raw_os_error() {
        Some(26) => Failure::temporary(EBUSY, "it is a program that runs"),
        _ => system("opening it for writing", &e),
    })?;
    let state = FileState::read(&fd).map_err(|e| attribute(&e))?;
    if state.hsm.is_released() {
        let in_parts = residency::is_marked(&fd).map_err(|e| attribute(&e))?;
        return Ok(if in_parts { Ok((fd, state)) } else { Err(Released::Already) });
    }
    if let Some(why) = state.hsm.release_refusal() {
        return Err(Failure::permanent(EPERM, why));
    }
    if !state.belongs_to(handle) || state.record.is_none() {
        return Err(Failure::permanent(
            EPERM,
            "its attributes were copied from another file or come from another system; archive it again first",
        ));
    }
    if state.identity.uuid.is_empty() {
        return Err(Failure::permanent(EPERM, "it names no archived object"));
    }
    let copies = if wanted.is_empty() { Vec::new() } else { copies::read(&fd, &state).map_err(|e| attribute(&e))? };
    let has = |id: u32| state.archive_id() == Some(id) || copies.iter().any(|copy| copy.archive_id == id);
    if let Some(missing) = wanted.iter().find(|id| !has(**id)) {
        let why = format!("its copy in archive {missing} is not there yet; archive it first");
        return Err(Failure::permanent(EPERM, why));
    }
    Ok(Ok((fd, state)))
}

/// Steps 2 to 4, up to the sync. `None`: the flag is set.
fn flag(queue: &dyn Queue, candidate: &Candidate, handle: Option<&FileHandle>) -> Result<Option<Released>, Failure> {
    let fd = &candidate.fd;
    // By this file's own handle, in case the caller's list and the descriptors ever disagree.
    let handle = match (handle_of(fd), handle) {
        (Ok(own), Some(asked)) if own == *asked => own,
        _ => return Err(Failure::permanent(116, "the file does not exist any more")),
    };
    let is_free = || WriteLease::take(fd.as_fd()).map(|lease| lease.is_some());
    let mut looks_left = if candidate.proven { LOOKS_AFTER_PROOF } else { 1 };
    while !is_free().map_err(|e| system("taking a lease", &e))? {
        looks_left -= 1;
        if looks_left == 0 {
            return Err(Failure::temporary(EBUSY, "somebody has it open"));
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    residency::forget(fd).map_err(|e| attribute(&e))?;
    if candidate.in_parts {
        return Ok(None);
    }
    let stamp = sys::file::stamp(fd).map_err(|e| system("looking at it", &e))?;
    let proven = queue.stamp(&handle).map_err(|e| Failure::temporary(5, e.to_string()))?;
    let own = &candidate.state.identity.uuid;
    if ObjectUrl::is_meant(own) && !candidate.proven {
        // Its owner may have changed or removed it: then the content is only here.
        return Ok(Some(Released::NeedsProof));
    }
    let same = |p: &SyncedStamp| p.stamp == stamp_of(&stamp) && p.object.as_ref().is_none_or(|o| o.uuid == *own);
    if !proven.is_some_and(|p| same(&p)) || !is_archived_as_it_is(&candidate.state, &stamp_of(&stamp)) {
        return Ok(Some(Released::NeedsProof));
    }
    let hsm = &candidate.state.hsm;
    write_hsm(fd, &HsmState { flags: hsm.flags.with(HsmFlags::RELEASED), ..*hsm }).map_err(|e| attribute(&e))?;
    Ok(None)
}

/// The data is still there; if this fails too, the next reader restores what is there already.
fn unflag(candidate: &Candidate) {
    if candidate.in_parts {
        return;
    }
    if let Err(error) = write_hsm(&candidate.fd, &candidate.state.hsm) {
        tracing::warn!(%error, "a file that could not be released stays marked released; its next reader restores it");
    }
}

fn punch(candidate: &Candidate) -> Result<u64, Failure> {
    let fd = &candidate.fd;
    let before = sys::file::stamp(fd).map_err(|e| system("looking at it", &e))?;
    // From here on the file is released whatever happens: a failure leaves blocks allocated, and no wrong byte readable.
    sys::file::punch_all(fd, before.size).map_err(|e| system("freeing its blocks", &e))?;
    sys::file::set_times(fd, None, before.mtime).map_err(|e| system("setting its times back", &e))?;
    let after = sys::file::stamp(fd).map_err(|e| system("looking at it", &e))?;
    Ok(before.blocks.saturating_sub(after.blocks) * 512)
}

/// After a restore that failed: what was written is not the file's content, and takes space. Does nothing unless the file says that it is
/// released: a commit may fail after the file has become an ordinary one, and what is in that is all that its users have.
pub(crate) fn punch_again(fd: &OwnedFd, size: u64, mtime: Timestamp) {
    match read_hsm(fd) {
        Ok(hsm) if hsm.is_released() => {}
        Ok(_) => return,
        Err(error) => {
            return tracing::warn!(%error, "cannot tell whether the file of a restore that failed is released: its blocks stay");
        }
    }
    let punched = sys::file::punch_all(fd, size);
    let punched = punched.and_then(|()| sys::file::set_times(fd, None, (mtime.seconds, mtime.nanos)));
    if let Err(error) = punched {
        tracing::warn!(%error, "cannot free the blocks of a restore that failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use testkit::{FsKind, LoopFs};

    #[test]
    fn p5_only_what_says_that_it_is_released_is_punched() {
        for kind in FsKind::ALL {
            let fs = LoopFs::new(kind, 0);
            let path = fs.path().join("f");
            let content = [7; 8192];
            fs::write(&path, content).unwrap();
            let fd = OwnedFd::from(fs::OpenOptions::new().read(true).write(true).open(&path).unwrap());
            let mtime = Timestamp { seconds: 1, nanos: 2 };
            let archived = HsmState { flags: HsmFlags::EXISTS.with(HsmFlags::ARCHIVED), ..HsmState::default() };

            punch_again(&fd, 8192, mtime);
            write_hsm(&fd, &archived).unwrap();
            punch_again(&fd, 8192, mtime);
            sys::xattr::set(&fd, model::xattr::HSM, b"nonsense").unwrap();
            punch_again(&fd, 8192, mtime);
            assert_eq!(fs::read(&path).unwrap(), content, "{kind:?}");

            write_hsm(&fd, &HsmState { flags: archived.flags.with(HsmFlags::RELEASED), ..archived }).unwrap();
            punch_again(&fd, 8192, mtime);
            assert_eq!(fs::read(&path).unwrap(), [0; 8192], "{kind:?}");
            assert_eq!(stamp_of(&sys::file::stamp(&fd).unwrap()).mtime, mtime, "{kind:?}");
        }
    }
}
