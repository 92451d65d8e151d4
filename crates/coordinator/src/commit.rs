//! The last step of an action: what the mover achieved becomes the file's state, durably and in the right order.
//!
//! A committer is a thread that takes whatever has come together and pays one sync for all of it. There are two: one for
//! restores, whose readers wait, and one for everything else.

use crate::copies;
use crate::engine::{Shared, removal, removal_action};
use crate::filesystem::{Filesystem, stamp_of};
use crate::prepare::{EIO, ENOENT, Opened, attribute, system};
use crate::ranges::residency;
use crate::shared::{mark, remember};
use crate::state::{FileState, write_hsm};
use model::{ArchiveRecord, Copy, Digest, Failure, HsmFlags, HsmState, Identity, Stamp};
use queue::{About, Change, ObjectRef, OrphanCheck, Queue, Retired, SyncedStamp};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use sys::file::FileStamp;
use sys::lease::ReadLease;

const EAGAIN: i32 = 11;
/// Files committed together at most.
const BATCH: usize = 1024;
/// Below this many files, each is synced by itself: `syncfs` waits for everybody's writes.
const SYNC_EACH: usize = 4;

/// What is to be committed.
#[derive(Debug)]
pub(crate) enum Step {
    /// The mover stored the content under this identity, in this archive.
    Archived(Identity, u32),
    /// The mover stored one more copy of content that the file names already, under this identity, in this archive.
    Copied(Identity, u32),
    /// The mover wrote the object of this identity into the file and saw this digest.
    Restored(Identity, Option<Digest>),
    /// The object is about to be removed: the file has to forget it first.
    Detach,
    /// The file's content has this digest.
    Verified(Digest),
}

/// What becomes of versions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// How long the object of an older one stays.
    pub(crate) keep_versions: Duration,
    /// Whether a snapshot will name the object of each new one.
    pub(crate) snapshots: bool,
}

/// One file's commit.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) key: u64,
    pub(crate) file: Opened,
    pub(crate) archive_id: u32,
    /// The id that the agent proposed, if the action stores something.
    pub(crate) proposed: String,
    pub(crate) step: Step,
}

/// How it went, and what the queue has to know in the same transaction as the action's end.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) key: u64,
    pub(crate) result: Result<(), Failure>,
    pub(crate) changes: Vec<Change>,
    /// Of the file's content.
    pub(crate) bytes: u64,
}

/// Runs until the engine is gone.
pub(crate) fn run(shared: &Shared, items: &Receiver<Item>, report: impl Fn(Vec<Done>)) {
    while let Ok(first) = items.recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(item) = items.try_recv()
        {
            batch.push(item);
        }
        let policy = *shared.policy.lock();
        report(commit(shared, &policy, batch));
    }
}

/// A file between its two halves.
struct Half {
    item: Item,
    outcome: Result<Vec<Change>, Failure>,
    /// Nobody can open the file for writing while it lives.
    lease: Lease,
}

fn commit(shared: &Shared, policy: &Policy, batch: Vec<Item>) -> Vec<Done> {
    let fs = &shared.fs;
    let owed = owe_checks(shared.queue.as_ref(), &batch);
    let mut halves: Vec<Half> =
        batch.into_iter().map(|item| Half { item, outcome: Ok(Vec::new()), lease: None }).collect();
    if let Err(failure) = owed {
        return halves.into_iter().map(|half| fail(half.item, failure.clone())).collect();
    }
    // Restored data has to be on disk before the file stops saying that it is not.
    sync(fs, &mut halves, |step| matches!(step, Step::Restored(..)));
    for half in &mut halves {
        if half.outcome.is_ok() {
            half.outcome = first_half(shared, &half.item, &mut half.lease, policy);
        }
    }
    sync(fs, &mut halves, |step| matches!(step, Step::Archived(..) | Step::Copied(..) | Step::Detach));
    halves.into_iter().map(|half| second_half(half, policy)).collect()
}

fn fail(item: Item, failure: Failure) -> Done {
    Done { key: item.key, result: Err(failure), changes: Vec::new(), bytes: 0 }
}

/// An object that a file is about to stop naming would be forgotten by a crash right after: it is written down first.
fn owe_checks(queue: &dyn Queue, batch: &[Item]) -> Result<(), Failure> {
    let mut checks = Vec::new();
    for (item, check) in batch.iter().flat_map(|item| replaced(item).into_iter().map(move |check| (item, check))) {
        // What the file says of others that may name the object is lost with its identity.
        checks.extend(remember(&*item.file.fd, object_of(&check)));
        checks.push(Change::OweOrphanCheck(check));
    }
    if checks.is_empty() {
        return Ok(());
    }
    queue.apply(&checks).map_err(|e| Failure::temporary(EIO, e.to_string()))
}

/// The objects that the file names now and will not name after the commit: the first copy, if it is among them, then further ones.
fn replaced(item: &Item) -> Vec<OrphanCheck> {
    let Item { file, .. } = item;
    let first = first_replaced(item);
    let forgets = matches!(item.step, Step::Archived(..) | Step::Detach) && file.state.belongs_to(&file.handle);
    // Also when the first copy was written anew under the id it had: the others hold what was before.
    let further = file.copies.iter().filter(|_| forgets).map(|copy| copies::check(copy, &file.handle));
    first.into_iter().chain(further).collect()
}

fn first_replaced(item: &Item) -> Option<OrphanCheck> {
    let old = &item.file.state.identity;
    let was_in = u32::try_from(item.file.state.hsm.archive_id).unwrap_or(item.archive_id);
    let gone = match &item.step {
        Step::Archived(new, archive_id) => {
            let replaced = was_in == *archive_id && old.uuid == item.proposed && is_replaced(&old.uuid, &new.uuid);
            !old.uuid.is_empty() && old.uuid != new.uuid && !replaced
        }
        Step::Detach => true,
        Step::Copied(..) | Step::Restored(..) | Step::Verified(_) => false,
    };
    // An object that another file's attributes brought here is that file's.
    let own = item.file.state.belongs_to(&item.file.handle);
    (gone && own).then(|| OrphanCheck {
        archive_id: was_in,
        uuid: old.uuid.clone(),
        url: old.url.clone(),
        file: item.file.handle.clone(),
    })
}

/// Whether the old object's id, which is the proposed one itself, is the beginning of the new one's: then an earlier attempt of the same archive stored it.
/// The mover has replaced it; and a removal by a proposed id is one of all that attempts stored, in whatever encoding, the new one too. Of ids that were
/// not proposed this says nothing: where they are paths, `log` is not replaced by `log.1`.
fn is_replaced(old: &str, new: &str) -> bool {
    new.strip_prefix(old).is_some_and(|suffix| suffix.starts_with('.'))
}

fn object_of(check: &OrphanCheck) -> ObjectRef {
    ObjectRef { archive_id: check.archive_id, uuid: check.uuid.clone(), url: check.url.clone() }
}

fn sync(fs: &Filesystem, halves: &mut [Half], which: impl Fn(&Step) -> bool) {
    let chosen = |half: &Half| half.outcome.is_ok() && which(&half.item.step);
    let together = halves.iter().filter(|half| chosen(half)).count() > SYNC_EACH;
    if together && let Err(error) = fs.sync() {
        let failure = system("syncing the filesystem", &error);
        halves.iter_mut().filter(|half| chosen(half)).for_each(|half| half.outcome = Err(failure.clone()));
    }
    // An earlier one may have failed for data of a file that was being written then: only the file's own descriptor still tells.
    let failed_syncs = fs.failed_syncs();
    let alone = |half: &Half| chosen(half) && !(together && half.item.file.failed_syncs == failed_syncs);
    for half in halves.iter_mut().filter(|half| alone(half)) {
        if let Err(error) = sys::file::sync_all(&*half.item.file.fd) {
            half.outcome = Err(system("syncing it", &error));
        }
    }
}

fn look(file: &Opened) -> Result<(Stamp, u64), Failure> {
    let stamp = sys::file::stamp(&*file.fd).map_err(|e| system("looking at it", &e))?;
    Ok((stamp_of(&stamp), stamp.nlink))
}

type Lease = Option<ReadLease<Arc<std::os::fd::OwnedFd>>>;

/// The file as it was when the mover began to read it, and nobody can open it for writing while the lease lives.
fn unchanged(file: &Opened, lease: &mut Lease) -> Result<Stamp, Failure> {
    *lease = ReadLease::take(Arc::clone(&file.fd)).ok().flatten();
    let (now, links) = look(file)?;
    if links == 0 {
        return Err(Failure::permanent(ENOENT, "the file was removed while it was archived"));
    }
    if now != file.before {
        return Err(Failure::temporary(EAGAIN, "the file changed while it was archived"));
    }
    Ok(now)
}

fn first_half(shared: &Shared, item: &Item, lease: &mut Lease, policy: &Policy) -> Result<Vec<Change>, Failure> {
    let file = &item.file;
    let now_ms = shared.now_ms();
    match &item.step {
        Step::Archived(identity, archive_id) => {
            // With the lease, nobody can have written between this look and the last one of the second half.
            let now = unchanged(file, lease)?;
            let old = file.state.hsm;
            if old.is_clean_copy() {
                // Killed between two of the attributes below, the file would have one version's hash and another's object,
                // and the hash alone might let it be released. Dirty, it is not until it was archived again.
                let torn = HsmState { flags: old.flags.with(HsmFlags::DIRTY), ..old };
                write_hsm(&*file.fd, &torn).map_err(|e| attribute(&e))?;
            }
            let kept = old.flags.without(HsmFlags::DIRTY).without(HsmFlags::LOST).without(HsmFlags::RELEASED);
            let hsm = HsmState {
                compat: old.compat,
                flags: kept.with(HsmFlags::EXISTS).with(HsmFlags::ARCHIVED),
                archive_id: u64::from(*archive_id),
                archive_version: old.archive_version.wrapping_add(1),
            };
            let record = ArchiveRecord { size: now.size, mtime: now.mtime, inode: file.handle.clone() };
            let state = FileState { hsm, identity: identity.clone(), record: Some(record) };
            // First: under an id that the file names already, the list would count for what is another version now.
            copies::forget(&*file.fd).map_err(|e| attribute(&e))?;
            state.write(&*file.fd).map_err(|e| attribute(&e))?;
            if policy.snapshots {
                // Not before: a mark says that the file was whole once. And not later: it moves ctime, and with it the proof
                // for a release.
                mark(&*file.fd, &identity.uuid).map_err(|e| system("marking it", &e))?;
            }
            let mut changes = settle(item, replaced(item), policy, now_ms);
            if !file.copies.is_empty() {
                changes.push(copies::remember(&file.handle, &[]));
            }
            Ok(changes)
        }
        Step::Copied(identity, archive_id) => {
            let copy = Copy { archive_id: *archive_id, identity: identity.clone() };
            further_copy(shared.queue.as_ref(), file, copy, lease)
        }
        Step::Restored(identity, digest) => restored(file, identity, *digest).map(|()| Vec::new()),
        Step::Detach => {
            let flags =
                HsmFlags::from_bits(file.state.hsm.flags.bits() & HsmFlags::NORELEASE.with(HsmFlags::NOARCHIVE).bits());
            let keep = if flags == HsmFlags::empty() {
                HsmState::default()
            } else {
                HsmState { flags, ..HsmState::default() }
            };
            FileState::detach(&*file.fd, keep).map_err(|e| attribute(&e))?;
            // The first copy's object is removed by the action itself.
            let further: Vec<_> =
                replaced(item).into_iter().filter(|check| check.uuid != file.state.identity.uuid).collect();
            let at_once = Policy { keep_versions: Duration::ZERO, ..*policy };
            let mut changes = settle(item, further, &at_once, now_ms);
            changes.push(Change::ForgetStamp { file: file.handle.clone() });
            Ok(changes)
        }
        Step::Verified(digest) => verified(file, *digest, lease).map(|()| Vec::new()),
    }
}

/// Adds a copy to the file's list. What the mover stored must be what the first copy holds.
fn further_copy(queue: &dyn Queue, file: &Opened, copy: Copy, lease: &mut Lease) -> Result<Vec<Change>, Failure> {
    let now = unchanged(file, lease)?;
    let own = &file.state.identity;
    let same = match (own.hash, copy.identity.hash) {
        (Some(first), Some(new)) if std::mem::discriminant(&first) == std::mem::discriminant(&new) => first == new,
        // No hash can tell: then nothing must have touched the file since it was archived.
        _ => {
            let known = queue.stamp(&file.handle).map_err(|e| Failure::temporary(EIO, e.to_string()))?;
            known.is_some_and(|known| known.stamp == now && known.object.is_none_or(|o| o.uuid == own.uuid))
        }
    };
    if !same {
        // Whatever its size and mtime say: the next attempt archives what it holds now.
        let dirty = HsmState { flags: file.state.hsm.flags.with(HsmFlags::DIRTY), ..file.state.hsm };
        write_hsm(&*file.fd, &dirty).map_err(|e| attribute(&e))?;
        return Err(Failure::temporary(EAGAIN, "it may have changed since it was archived: it is archived anew"));
    }
    let list: Vec<Copy> = file.copies.iter().cloned().chain([copy]).collect();
    let changes = vec![copies::remember(&file.handle, &list)];
    copies::write(&*file.fd, &own.uuid, list).map_err(|e| attribute(&e))?;
    Ok(changes)
}

/// Owed checks are settled in the transaction that also queues the old objects' removals.
fn settle(item: &Item, replaced: Vec<OrphanCheck>, policy: &Policy, now_ms: u64) -> Vec<Change> {
    let changes = replaced.into_iter().flat_map(|check| {
        let settled = Change::SettleOrphanCheck { archive_id: check.archive_id, uuid: check.uuid.clone() };
        [settled, retire(&check, item, policy, now_ms)]
    });
    changes.collect()
}

fn retire(check: &OrphanCheck, item: &Item, policy: &Policy, now_ms: u64) -> Change {
    let identity = Identity { uuid: check.uuid.clone(), hash: None, url: check.url.clone() };
    let name = format!("object of an older version of {}", item.file.handle);
    if policy.keep_versions.is_zero() {
        return removal(check.archive_id, identity, name, 0);
    }
    let until_ms = now_ms.saturating_add(u64::try_from(policy.keep_versions.as_millis()).unwrap_or(u64::MAX / 4));
    if check.uuid != item.file.state.identity.uuid {
        // One line in a list of versions is enough.
        let removal = removal_action(check.archive_id, identity, name, until_ms);
        return Change::Submit(queue::NewAction { created_ms: now_ms, ..removal });
    }
    let removal = queue::NewAction { created_ms: now_ms, ..removal_action(check.archive_id, identity, name, until_ms) };
    let old = &item.file.state;
    let (size, mtime) = old.record.as_ref().map_or_else(Default::default, |record| (record.size, record.mtime));
    let now = sys::file::stamp(&*item.file.fd).ok().map(|stat| about(&item.file, &stat, None));
    let about = About { size, mtime, hash: old.identity.hash, ..now.unwrap_or_default() };
    let retired = Retired { replaced: true, file: item.file.handle.clone(), about, retired_ms: now_ms };
    Change::Retire { removal, retired }
}

/// What the file is now, with the hash of what it holds.
fn about(file: &Opened, stat: &FileStamp, hash: Option<Digest>) -> About {
    let stamp = stamp_of(stat);
    About {
        path: file.tree_path.clone(),
        size: stamp.size,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stamp.mtime,
        hash,
    }
}

/// What the queue is to know of a file whose attributes say what was archived, when it missed that.
pub(crate) fn known_of(file: &Opened) -> Vec<Change> {
    let Identity { uuid, hash, url } = file.state.identity.clone();
    let object = ObjectRef { archive_id: file.state.archive_id().unwrap_or(0), uuid, url };
    let described = sys::file::stamp(&*file.fd).ok().map(|stat| about(file, &stat, hash));
    let handle = || file.handle.clone();
    let mut changes: Vec<Change> = remember(&*file.fd, object.clone()).into_iter().collect();
    changes.extend(described.map(|about| Change::Describe { file: handle(), about }));
    changes.push(copies::remember(&file.handle, &file.copies));
    // Nobody watched it since: the stamp proves nothing.
    let stamp = SyncedStamp { stamp: Stamp::default(), object: Some(object) };
    changes.push(Change::SetStamp { file: handle(), stamp });
    changes
}

fn restored(file: &Opened, identity: &Identity, digest: Option<Digest>) -> Result<(), Failure> {
    let (now, _) = look(file)?;
    if now.size != file.before.size {
        let (got, want) = (now.size, file.before.size);
        return Err(Failure::permanent(EIO, format!("the mover left {got} bytes in the file, which has {want}")));
    }
    if let (Some(want), Some(got)) = (identity.hash, digest)
        && std::mem::discriminant(&want) == std::mem::discriminant(&got)
        && want != got
    {
        return Err(Failure::permanent(
            EIO,
            format!("the archived object is damaged: its hash is {got:?}, it should be {want:?}"),
        ));
    }
    let mtime = (file.mtime.seconds, file.mtime.nanos);
    sys::file::set_times(&*file.fd, None, mtime).map_err(|e| system("setting its times back", &e))?;
    let own = &file.state.identity;
    // Nobody knew one before: of an object that was imported. From now on it is compared.
    let hash = own.hash.or(digest.filter(|_| own.uuid == identity.uuid));
    let touched = file.state.record.as_ref().is_some_and(|record| record.mtime != file.mtime);
    if touched || hash != own.hash {
        // Touched while it was released: the same content under a new time is no change of content.
        let record = file.state.record.clone().map(|record| ArchiveRecord { mtime: file.mtime, ..record });
        let identity = Identity { hash, ..own.clone() };
        FileState { record, identity, ..file.state.clone() }.write(&*file.fd).map_err(|e| attribute(&e))?;
    }
    let mut hsm = file.state.hsm;
    hsm.flags = hsm.flags.without(HsmFlags::RELEASED).without(HsmFlags::LOST);
    write_hsm(&*file.fd, &hsm).map_err(|e| attribute(&e))?;
    // Last: while it says that it is released, whoever has parts of it mapped is protected by the mark.
    residency::forget_if_marked(&*file.fd);
    Ok(())
}

/// Equal content is a clean copy, whatever its times say now; different content is dirty, whatever they say.
fn verified(file: &Opened, digest: Digest, lease: &mut Lease) -> Result<(), Failure> {
    *lease = ReadLease::take(Arc::clone(&file.fd)).ok().flatten();
    let (now, _) = look(file)?;
    if lease.is_none() || now != file.before {
        return Err(Failure::temporary(16, "it is being written"));
    }
    let mut state = file.state.clone();
    let Some(archived) = state.identity.hash else {
        return Err(Failure::permanent(
            1,
            "no hash was kept when it was archived, so nothing proves that it is unchanged; archive it again first",
        ));
    };
    let same = archived == digest;
    let flags = state.hsm.flags;
    state.hsm.flags = if same { flags.without(HsmFlags::DIRTY) } else { flags.with(HsmFlags::DIRTY) };
    if same {
        state.record = Some(ArchiveRecord { size: now.size, mtime: now.mtime, inode: file.handle.clone() });
        state.write(&*file.fd).map_err(|e| attribute(&e))
    } else {
        write_hsm(&*file.fd, &state.hsm).map_err(|e| attribute(&e))?;
        Err(Failure::permanent(16, "it changed since it was archived; archive it again first"))
    }
}

fn second_half(half: Half, policy: &Policy) -> Done {
    let Half { item, outcome, lease } = half;
    let mut changes = match outcome {
        Ok(changes) => changes,
        Err(failure) => return fail(item, failure),
    };
    let file = &item.file;
    let bytes = file.before.size;
    if !matches!(item.step, Step::Detach) {
        let stat = sys::file::stamp(&*file.fd).ok();
        let stamp = stat.as_ref().map(stamp_of);
        let unwritten = lease.as_ref().is_some_and(ReadLease::still_held) || matches!(item.step, Step::Restored(..));
        let (archive_id, identity) = match &item.step {
            Step::Archived(identity, archive_id) => (*archive_id, identity),
            // A restore may have come from another copy.
            _ => (file.state.archive_id().unwrap_or(item.archive_id), &file.state.identity),
        };
        let object = ObjectRef { archive_id, uuid: identity.uuid.clone(), url: identity.url.clone() };
        match &item.step {
            Step::Archived(identity, _) => {
                if policy.snapshots {
                    // Nobody but this file can name it yet.
                    let files = vec![file.handle.clone()];
                    changes.push(Change::Share { object: object.clone(), complete: true, files });
                }
                let described = stat.map(|stat| about(file, &stat, identity.hash));
                changes.extend(described.map(|about| Change::Describe { file: file.handle.clone(), about }));
            }
            _ => {
                changes.extend(remember(&*file.fd, object.clone()));
                if !matches!(item.step, Step::Copied(..)) && !file.copies.is_empty() {
                    // Known already, unless the queue's database was lost.
                    changes.push(copies::remember(&file.handle, &file.copies));
                }
            }
        }
        // A stamp that proves nothing is one that no file has.
        let stamp = stamp.filter(|_| unwritten).unwrap_or_default();
        changes
            .push(Change::SetStamp { file: file.handle.clone(), stamp: SyncedStamp { stamp, object: Some(object) } });
    }
    Done { key: item.key, result: Ok(()), changes, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{FileHandle, Timestamp};
    use std::fs::File;
    use std::io::Write as _;
    use std::path::Path;
    use testkit::{FsKind, LoopFs, faults};

    const CONTENT: [u8; 8192] = [7; 8192];
    const FILES: usize = 100;

    /// A file that was opened for its restore, and then written by a mover.
    fn restored(fs: &Filesystem, path: &Path) -> Half {
        File::create_new(path).unwrap();
        let file = Opened {
            handle: FileHandle { kind: 1, bytes: Default::default() },
            fd: Arc::new(File::options().read(true).write(true).open(path).unwrap().into()),
            state: FileState::default(),
            before: Stamp::default(),
            mtime: Timestamp::default(),
            tree_path: Vec::new(),
            copies: Vec::new(),
            failed_syncs: fs.failed_syncs(),
        };
        // Not truncated by that: ext4 would write it back at once.
        File::options().write(true).open(path).unwrap().write_all(&CONTENT).unwrap();
        let step = Step::Restored(Identity::default(), None);
        let item = Item { key: 0, file, archive_id: 1, proposed: String::new(), step };
        Half { item, outcome: Ok(Vec::new()), lease: None }
    }

    /// A sync of the whole filesystem that comes back well says nothing of what the kernel lost before.
    #[test]
    fn p1_what_was_being_restored_while_a_sync_failed_is_synced_by_itself() {
        let backing = LoopFs::new(FsKind::Ext4, 64);
        let thin = LoopFs::thin_on(&backing);
        let fs = Filesystem::at(&thin.path()).unwrap();
        let path = |what: &str, n: usize| thin.path().join(format!("{what}-{n}"));
        let many = |what| (0..FILES).map(|n| restored(&fs, &path(what, n))).collect::<Vec<_>>();
        let synced = |mut halves: Vec<Half>| -> Vec<usize> {
            sync(&fs, &mut halves, |step| matches!(step, Step::Restored(..)));
            (0..).zip(&halves).filter(|(_, half)| half.outcome.is_ok()).map(|(n, _)| n).collect()
        };
        // So that the directory is large enough: only data will have no place on the device.
        (0..4 * FILES).for_each(|n| std::fs::write(path("empty", n), b"").unwrap());
        assert_eq!(synced(many("first")).len(), FILES);
        (0..4 * FILES).for_each(|n| std::fs::remove_file(path("empty", n)).unwrap());
        // Written before the failure, and committed after it.
        let older = many("older");
        let ballast = faults::fill(&backing, 0);
        assert_eq!(synced(many("failed")), [0; 0], "the device does not fail");
        drop(ballast);
        let older = synced(older);
        assert_eq!(synced(many("newer")).len(), FILES);
        drop(fs);
        thin.remount();
        for &n in &older {
            assert!(std::fs::read(path("older", n)).unwrap() == CONTENT, "{n} is lost, and counts as restored");
        }
        assert!(older.len() < FILES, "the device has lost nothing");
    }
}
