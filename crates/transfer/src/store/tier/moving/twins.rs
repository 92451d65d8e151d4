//! The same object in two roots: one goes, if they are equal.
//!
//! That is what a run that was killed leaves, or an archive that was tried again while a root was away. Two that differ stay: who reads takes the one whose hash
//! is right, and who removes removes both. But of two records, which are written anew under their ids, the older one goes.

use super::super::super::directories::Directories;
use super::super::super::hold::{Alone, Hold};
use super::super::super::packs::place;
use super::super::super::posix::PosixStore;
use super::super::super::root::Root;
use super::batch::{is_same, open, take_away};
use super::item::Item;
use crate::copy::{hash_file, unusable};
use crate::manifest::Manifest;
use crate::pack::{MemberName, PackError, PackId};
use crate::{DigestKind, Monitor, OpenFile, TransferError};
use model::Timestamp;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use sys::file::FileStamp;

type Opened = Vec<Option<(OpenFile, FileStamp)>>;

/// What became of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// The first root has it no more.
    Gone,
    /// The other one has it no more: it was older.
    Newer,
    /// They differ, or one of them just changed or went.
    Both,
}

/// Removes an item from `from`, if `keep` has an equal one or a newer record, which is made durable first; or an older record from `keep`.
pub(super) fn settle(
    from: &PosixStore,
    keep: &PosixStore,
    item: &Item,
    monitor: &dyn Monitor,
) -> Result<Settled, TransferError> {
    if let Item::Record(_) = item {
        let [ours, theirs] = [from, keep].map(|store| made(store.root_dir(), item));
        if let (Some(ours), Some(theirs)) = (ours?, theirs?)
            && ours > theirs
        {
            let gone = settled(keep, from, item, monitor)?;
            return Ok(if gone { Settled::Newer } else { Settled::Both });
        }
    }
    Ok(if settled(from, keep, item, monitor)? { Settled::Gone } else { Settled::Both })
}

/// When a record was written; `None` when there is none.
///
/// # Errors
/// It cannot be read.
fn made(root: &Root, item: &Item) -> Result<Option<Timestamp>, TransferError> {
    let Some(name) = item.files().pop() else { return Ok(None) };
    let Some((file, _)) = open(root, item, &name)? else { return Ok(None) };
    let (record, _) = Manifest::read(&file).map_err(unusable(file.path()))?;
    Ok(Some(record.made))
}

/// Whether `from` has it no more.
fn settled(from: &PosixStore, keep: &PosixStore, item: &Item, monitor: &dyn Monitor) -> Result<bool, TransferError> {
    let (one, other) = (from.root_dir(), keep.root_dir());
    let files = item.files();
    let open_all = |root: &Root| files.iter().map(|name| open(root, item, name)).collect::<Result<Opened, _>>();
    let (ours, theirs) = (open_all(one)?, open_all(other)?);
    let has_main = |opened: &Opened| opened.last().is_some_and(Option::is_some);
    if !has_main(&ours) || !has_main(&theirs) {
        return Ok(false);
    }
    let is_equal = match item {
        Item::Pack(pack) => are_members_equal(one, other, *pack)?,
        Item::Object(_) => are_equal(&ours, &theirs, monitor)?,
        Item::Record(_) => made(one, item)? < made(other, item)? || are_equal(&ours, &theirs, monitor)?,
    };
    if !is_equal {
        return Ok(false);
    }
    let (to, _, durability) = keep.workshop();
    for (file, _) in theirs.iter().flatten() {
        durability.sync_all(file.file()).map_err(file.failed("sync"))?;
    }
    let mut directories = Directories::new(Arc::clone(to), Arc::clone(durability));
    let failed = || TransferError::io("sync", other.path().join(item.directory()));
    directories.sync(&item.directory()).map_err(failed())?;
    if let Item::Pack(pack) = item
        && let Some(marks) = place::open_tombstones(other, *pack).map_err(failed())?
    {
        durability.sync_all(&marks).map_err(failed())?;
    }
    let _alone = Alone::of(one)?;
    let _held = Hold::shared(other)?;
    let look = |root: &Root, opened: &Opened| is_still(root, item, &files, opened);
    let failed = |root: &Path| TransferError::io("look at what is twice in", root.join(item.directory()));
    if !look(one, &ours).map_err(failed(one.path()))? || !look(other, &theirs).map_err(failed(other.path()))? {
        return Ok(false);
    }
    if let Item::Pack(pack) = item {
        let living = |root: &Root| living(root, *pack);
        if !living(one)?.is_subset(&living(other)?) {
            return Ok(false);
        }
    }
    take_away(one, item).map_err(TransferError::io("remove what is twice from", one.path().join(item.directory())))?;
    Ok(true)
}

fn are_equal(ours: &Opened, theirs: &Opened, monitor: &dyn Monitor) -> Result<bool, TransferError> {
    for pair in ours.iter().zip(theirs) {
        match pair {
            (None, None) => {}
            (Some((a, a_stamp)), Some((b, b_stamp))) if a_stamp.size == b_stamp.size => {
                let hash = |file| hash_file(file, DigestKind::Blake3, monitor);
                if hash(a)? != hash(b)? {
                    return Ok(false);
                }
            }
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn is_still(root: &Root, item: &Item, files: &[String], opened: &Opened) -> io::Result<bool> {
    for (name, opened) in files.iter().zip(opened) {
        let now = match sys::file::stamp_at(root.dir(), item.directory().join(name)) {
            Ok(stamp) => Some(stamp),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        match (now, opened) {
            (None, None) => {}
            (Some(now), Some((_, then))) if is_same(&now, then) => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Whether each member of the one is in the other, or was removed. One of them may have been written anew without members that were removed.
fn are_members_equal(one: &Root, other: &Root, pack: PackId) -> Result<bool, TransferError> {
    let failed = |root: &Root, e: PackError| match e {
        PackError::Io(source) => TransferError::Io { doing: "read the pack", path: place::path(root, pack), source },
        e => TransferError::Damaged { path: place::path(root, pack), why: e.to_string() },
    };
    let (Some(a), Some(b)) = (place::open(one, pack)?, place::open(other, pack)?) else { return Ok(false) };
    let (ours, theirs) = (a.index().map_err(|e| failed(one, e))?, b.index().map_err(|e| failed(other, e))?);
    let living = living(one, pack)?;
    for entry in ours.entries().iter().filter(|entry| living.contains(&entry.name)) {
        let Some(same) = theirs.find(entry.name) else { return Ok(false) };
        let (member, copy) = (a.read(entry).map_err(|e| failed(one, e))?, b.read(&same).map_err(|e| failed(other, e))?);
        if (member.manifest, member.content) != (copy.manifest, copy.content) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn living(root: &Root, pack: PackId) -> Result<HashSet<MemberName>, TransferError> {
    let path = || place::path(root, pack);
    let Some(reader) = place::open(root, pack)? else { return Ok(HashSet::new()) };
    let index = reader.index().map_err(|e| TransferError::Damaged { path: path(), why: e.to_string() })?;
    let marks = place::open_tombstones(root, pack).map_err(TransferError::io("open", path()))?;
    let mut living: HashSet<_> = index.entries().iter().map(|entry| entry.name).collect();
    if let Some(marks) = marks {
        for name in place::removed(&marks).map_err(TransferError::io("list", path()))? {
            living.remove(&name.map_err(TransferError::io("list", path()))?);
        }
    }
    Ok(living)
}
