//! Taking removed members out of packs.
//!
//! A pack is written anew under its own id, without the dead, and put in the place of the old one; then, when that is durable,
//! their tombstones go. A crash anywhere leaves either pack whole, and at most tombstones of members that are gone already.
//! A lock on the tombstones' directory keeps two movers off one pack. Readers that have the old file open go on with it.

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
            match self.repack_one(pack) {
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

    fn repack_one(&self, pack: PackId) -> Result<Done, PackError> {
        let Some(tombstones) = place::open_tombstones(&self.root, pack)? else { return Ok(Done::Nothing) };
        if !sys::file::try_lock_exclusive(&tombstones)? || !place::is_still(&self.root, pack, &tombstones) {
            return Ok(Done::Nothing);
        }
        let opened = place::open(&self.root, pack).map_err(|e| PackError::Io(io::Error::other(e.to_string())))?;
        let (index, reader) = match opened {
            Some(reader) => (reader.index()?, Some(reader)),
            None => (Index::default(), None),
        };
        let names = place::removed(&tombstones)?;
        let dead = names.filter(|name| name.as_ref().map_or(true, |name| index.find(*name).is_some()));
        let dead = dead.collect::<io::Result<HashSet<MemberName>>>()?;
        let done = match reader {
            Some(reader) if !dead.is_empty() => self.without(pack, &reader, &index, &dead)?,
            _ => Done::Nothing,
        };
        // Nothing was applied: then only those go that have no member.
        let applied = |name: &MemberName| match done {
            Done::Nothing => index.find(*name).is_none(),
            Done::Removed { .. } | Done::Rewritten { .. } => dead.contains(name) || index.find(*name).is_none(),
        };
        for name in place::removed(&tombstones)? {
            let name = name?;
            if applied(&name) {
                unlink(&tombstones, &name.to_string())?;
            }
        }
        place::remove_tombstones(&self.root, pack);
        Ok(done)
    }

    fn without(
        &self,
        pack: PackId,
        reader: &PackReader<File>,
        index: &Index,
        dead: &HashSet<MemberName>,
    ) -> Result<Done, PackError> {
        let bytes = |entries: &mut dyn Iterator<Item = &Entry>| entries.map(Entry::total_bytes).sum::<u64>();
        let all_bytes = bytes(&mut index.entries().iter());
        let dead_bytes = bytes(&mut index.entries().iter().filter(|entry| dead.contains(&entry.name)));
        if dead.len() == index.entries().len() {
            place::unlink_pack(&self.root, pack)?;
            self.sync_directory(pack)?;
            return Ok(Done::Removed { freed: all_bytes });
        }
        if dead_bytes * 2 < all_bytes {
            return Ok(Done::Nothing);
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
        temp.place(&self.root.open_dir(&place::directory(pack))?, &pack.to_string())?;
        self.sync_directory(pack)?;
        Ok(Done::Rewritten { moved: size, freed: dead_bytes })
    }

    /// It exists since the pack was made, and was synced into its parents then.
    fn sync_directory(&self, pack: PackId) -> io::Result<()> {
        self.durability.sync_all(&self.root.open_dir(&place::directory(pack))?)
    }
}

/// What became of one pack.
enum Done {
    Nothing,
    Removed { freed: u64 },
    Rewritten { moved: u64, freed: u64 },
}
