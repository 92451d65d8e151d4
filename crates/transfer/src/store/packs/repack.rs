//! Taking removed members out of packs.
//!
//! A pack is written anew under its own id, without the dead, and put in the place of the old one; then, when that is durable,
//! their tombstones go. A crash anywhere leaves either pack whole, and at most tombstones of members that are gone already.
//! A lock on the file `<pack id>.lock` keeps two movers off one pack, on NFS also those of two hosts (see `store/session.rs`); the tombstones' directory
//! is locked too, for older programs. Readers that have the old file open go on with it.

use super::Packs;
use super::building::Buffered;
use super::place;
use crate::TransferError;
use crate::pack::{Entry, Index, MemberName, PackError, PackId, PackReader, PackWriter};
use crate::store::root::unlink;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;

/// What [`PosixStore::repack`](crate::PosixStore::repack) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repacked {
    /// Packs written anew.
    pub rewritten: u64,
    /// Packs removed, because all their members were.
    pub removed: u64,
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Packs that would have been rewritten, but are damaged or could not be read or written. They stay as they are.
    pub failed: u64,
}

impl Packs {
    /// Looks at all packs with removed members once. After each that was rewritten `pause` is called with the bytes moved.
    pub(in crate::store) fn repack(&self, pause: &mut dyn FnMut(u64)) -> Result<Repacked, TransferError> {
        let mut all = Repacked::default();
        let _ = self.each_name(None, &mut |name| {
            let Some(pack) = place::pack_of_tombstones(name) else { return Ok(ControlFlow::Continue(())) };
            self.root.check()?;
            match self.repack_one(pack, Seen::is_due) {
                Ok(Done::Nothing) => {}
                Ok(Done::Removed { freed }) => {
                    all.removed += 1;
                    all.freed_bytes += freed;
                }
                Ok(Done::Rewritten { moved, freed }) => {
                    all.rewritten += 1;
                    all.freed_bytes += freed;
                    pause(moved);
                }
                Err(error) => {
                    let error = self.failed(error, pack);
                    tracing::warn!(%error, "a pack with removed members cannot be rewritten; it stays as it is");
                    all.failed += 1;
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(all)
    }

    /// Removes or rewrites a pack if it `is_due`, and clears away tombstones that nothing needs.
    pub(super) fn repack_one(&self, pack: PackId, is_due: fn(&Seen) -> bool) -> Result<Done, PackError> {
        let Some(tombstones) = place::open_tombstones(&self.root, pack)? else { return Ok(Done::Nothing) };
        if !sys::file::try_lock_exclusive(&tombstones)? || !place::is_still(&self.root, pack, &tombstones) {
            return Ok(Done::Nothing);
        }
        let mut seen = self.look(pack, &tombstones)?;
        let mut lock = None;
        // Of a pack that is gone too: a crash may have left the lock's file.
        if is_due(&seen) || seen.reader.is_none() {
            lock = place::lock(&self.root, pack)?;
            if lock.is_none() {
                return Ok(Done::Nothing);
            }
            // Whoever had the lock before may have done it.
            seen = self.look(pack, &tombstones)?;
        }
        let done = if is_due(&seen) { self.without(pack, &tombstones, &seen)? } else { Done::Nothing };
        // Nothing was applied: then only those go that have no member.
        let has_no_member = |name: &MemberName| seen.index.find(*name).is_none();
        let applied = |name: &MemberName| match done {
            Done::Nothing => has_no_member(name),
            Done::Removed { .. } | Done::Rewritten { .. } => seen.dead.contains(name) || has_no_member(name),
        };
        for name in place::removed(&tombstones)? {
            let name = name?;
            if applied(&name) {
                unlink(&tombstones, &name.to_string())?;
            }
        }
        // Its file first: where the directory stays, this is done again.
        drop(lock);
        place::remove_tombstones(&self.root, pack);
        Ok(done)
    }

    fn look(&self, pack: PackId, tombstones: &File) -> Result<Seen, PackError> {
        let opened = place::open(&self.root, pack).map_err(|e| PackError::Io(io::Error::other(e.to_string())))?;
        let (index, reader) = match opened {
            Some(reader) => (reader.index()?, Some(reader)),
            None => (Index::default(), None),
        };
        let names = place::removed(tombstones)?;
        let dead = names.filter(|name| name.as_ref().map_or(true, |name| index.find(*name).is_some()));
        let dead = dead.collect::<io::Result<HashSet<MemberName>>>()?;
        Ok(Seen { reader, index, dead })
    }

    /// Whether the pack and what is marked as removed in it are still what was seen. Locks may be lost (a server that was started
    /// anew), and somebody else have written the pack anew: what he took out must not come back.
    fn is_as_seen(&self, pack: PackId, tombstones: &File, seen: &Seen) -> io::Result<bool> {
        let Some(reader) = &seen.reader else { return Ok(false) };
        let marked = place::removed(tombstones)?.collect::<io::Result<HashSet<MemberName>>>()?;
        Ok(seen.dead.is_subset(&marked) && place::is_current(&self.root, pack, reader.source())?)
    }

    fn without(&self, pack: PackId, tombstones: &File, seen: &Seen) -> Result<Done, PackError> {
        let Seen { reader: Some(reader), index, dead } = seen else { return Ok(Done::Nothing) };
        let (all_bytes, dead_bytes) = seen.bytes();
        if seen.is_dead() {
            if !self.is_as_seen(pack, tombstones, seen)? {
                return Ok(Done::Nothing);
            }
            place::unlink_pack(&self.root, pack)?;
            self.sync_directory(pack)?;
            return Ok(Done::Removed { freed: all_bytes });
        }
        let mut live: Vec<Entry> = index.entries().iter().filter(|e| !dead.contains(&e.name)).copied().collect();
        live.sort_unstable_by_key(Entry::place);
        let temp = self.sessions.create(&pack).map_err(|e| PackError::Io(io::Error::other(e.to_string())))?;
        let mut writer = PackWriter::begin(pack, Buffered::new(temp))?;
        for entry in &live {
            // A damaged member ends it here: the old pack stays, for whoever can still make something of it.
            writer.add(&reader.read(entry)?.into())?;
        }
        let temp = writer.finish()?.into_file()?;
        self.durability.sync_all(temp.file().file())?;
        // It is about to replace the only copy.
        let size = temp.file().file().metadata()?.len();
        let mut first_damage = None;
        PackReader::new(temp.file().file(), size, pack).check(&mut |_, why| first_damage = Some(why))?;
        if let Some(why) = first_damage {
            return Err(PackError::Damaged(format!("what was just written reads differently: {why}")));
        }
        if !self.is_as_seen(pack, tombstones, seen)? {
            return Ok(Done::Nothing);
        }
        temp.place(&self.root.open_dir(&place::directory(pack))?, &pack.to_string())?;
        self.sync_directory(pack)?;
        Ok(Done::Rewritten { moved: size, freed: dead_bytes })
    }

    /// It exists since the pack was made, and was synced into its parents then.
    fn sync_directory(&self, pack: PackId) -> io::Result<()> {
        self.durability.sync_all(&self.root.open_dir(&place::directory(pack))?)
    }
}

/// A pack, and what is marked as removed in it.
pub(super) struct Seen {
    /// `None`: there is no pack any more.
    reader: Option<PackReader<File>>,
    index: Index,
    dead: HashSet<MemberName>,
}

impl Seen {
    /// Of all members, and of the dead ones.
    fn bytes(&self) -> (u64, u64) {
        let bytes = |entries: &mut dyn Iterator<Item = &Entry>| entries.map(Entry::total_bytes).sum::<u64>();
        let mut dead = self.index.entries().iter().filter(|entry| self.dead.contains(&entry.name));
        (bytes(&mut self.index.entries().iter()), bytes(&mut dead))
    }

    /// Whether none of its members is left.
    pub(super) fn is_dead(&self) -> bool {
        self.reader.is_some() && self.dead.len() == self.index.entries().len()
    }

    /// Whether enough of it is dead to be worth the work.
    fn is_due(&self) -> bool {
        let (all, dead) = self.bytes();
        self.reader.is_some() && !self.dead.is_empty() && dead * 2 >= all
    }
}

/// What became of one pack.
pub(super) enum Done {
    Nothing,
    Removed { freed: u64 },
    Rewritten { moved: u64, freed: u64 },
}
