//! Packs in an archive: putting members in, finding and removing them, and getting rid of what is dead.
//!
//! A pack is never changed; a removed member is marked by an empty file beside the pack (a tombstone) and counts as gone from
//! then on. A pack goes with its last member; otherwise [`repack`] takes the dead ones out by writing it anew under the same id. Nothing here keeps a table: ids
//! say where members are. The same rules work for a store that can only put, get ranges, list and remove whole objects.

mod building;
mod known;
mod living;
pub(super) mod place;
mod removal;
mod repack;
mod sealer;

pub(super) use building::Arrival;
pub use repack::Repacked;

use super::root::{Root, entries};
use super::session::Sessions;
use crate::manifest::Window;
use crate::pack::{Entry, Index, MemberId, MemberName, PackId, PackReader};
use crate::{Durability, TransferError};
use building::into_transfer;
use known::Known;
use living::Living;
use model::ObjectId;
use sealer::Sealer;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// A pack may be older than its members, and clocks are set: so much earlier an attempt's pack may have begun.
const BEFORE_ATTEMPT: Duration = Duration::from_secs(60);

/// A member that is there.
pub(super) struct Found {
    /// For messages.
    pub(super) path: PathBuf,
    pub(super) manifest: Vec<u8>,
    /// As it is stored.
    pub(super) content: Window<File>,
    pub(super) length: u64,
}

/// The packs of one archive.
pub(super) struct Packs {
    root: Arc<Root>,
    sessions: Arc<Sessions>,
    durability: Arc<dyn Durability>,
    known: Arc<Known>,
    living: Living,
    sealer: Sealer,
}

impl Packs {
    /// `alone` makes an ordinary object of a file that no other came with.
    pub(super) fn start(
        root: Arc<Root>,
        sessions: Arc<Sessions>,
        durability: Arc<dyn Durability>,
        alone: impl Fn(Arrival) + Send + 'static,
    ) -> io::Result<Self> {
        let known = Arc::new(Known::default());
        let sealer = Sealer::start(root.clone(), sessions.clone(), durability.clone(), known.clone(), Box::new(alone))?;
        Ok(Self { root, sessions, durability, known, living: Living::default(), sealer })
    }

    /// Puts a file into the pack that is being built.
    pub(super) fn add(&self, arrival: Arrival) {
        self.sealer.add(arrival);
    }

    /// A member's manifest, and its content as something that can be read; `None` for one that is not there, or removed.
    pub(super) fn find(&self, id: &MemberId) -> Result<Option<Found>, TransferError> {
        let Some(pack) = self.open_unless_removed(id)? else {
            self.root.check_objects()?;
            return Ok(None);
        };
        let described = pack.describe(id.name).map_err(|e| self.failed(e, id.pack))?;
        Ok(described.map(|(entry, manifest)| {
            let length = u64::from(entry.content_bytes());
            let content = Window::new(pack.into_source(), entry.content_at(), length);
            Found { path: place::member_path(&self.root, id), manifest, content, length }
        }))
    }

    /// Whether there is such a pack.
    pub(super) fn has(&self, pack: PackId) -> Result<bool, TransferError> {
        match place::open(&self.root, pack)? {
            Some(_) => Ok(true),
            None => self.root.check_objects().map(|()| false),
        }
    }

    /// For messages.
    pub(super) fn missing(&self, id: &MemberId) -> TransferError {
        TransferError::Missing { path: place::member_path(&self.root, id) }
    }

    /// Visits all members that are not removed. A pack that cannot be read holds up nothing: the first such error is given back when all
    /// others were visited.
    pub(super) fn list(
        &self,
        visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, TransferError> {
        let mut unreadable = None;
        let flow = self.each_pack(None, &mut |pack| {
            let live = self.live(pack).unwrap_or_else(|error| {
                unreadable.get_or_insert(error);
                None
            });
            let Some(live) = live else { return Ok(ControlFlow::Continue(())) };
            if let Some(Err(error)) = place::open(&self.root, pack)?.map(|reader| reader.index()) {
                // What was found without the index may not be all.
                unreadable.get_or_insert(self.failed(error, pack));
            }
            for entry in live {
                if visit(MemberId { pack, name: entry.name }.object_id()?).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        match unreadable {
            Some(error) if flow.is_continue() => Err(error),
            _ => Ok(flow),
        }
    }

    /// Reads every pack through and tells what is damaged, with the pack's path: its members that are not removed, or what holds them together.
    pub(super) fn check(&self, told: &mut dyn FnMut(PathBuf, String)) -> Result<(), TransferError> {
        let checked = self.each_pack(None, &mut |pack| {
            let path = place::path(&self.root, pack);
            let mut damaged = Vec::new();
            let read = place::open(&self.root, pack).map(|reader| {
                reader.map_or(Ok(()), |reader| {
                    let member = &mut |name, why| {
                        // Of one that is removed nobody needs anything any more.
                        if !place::is_removed(&self.root, &MemberId { pack, name }).unwrap_or(false) {
                            damaged.push(format!("member {name}: {why}"));
                        }
                    };
                    reader.check(member).map(drop)
                })
            });
            match read {
                Ok(Ok(())) => {}
                Ok(Err(error)) => damaged.push(error.to_string()),
                Err(error) => damaged.push(error.to_string()),
            }
            damaged.into_iter().for_each(|why| told(path.clone(), why));
            Ok(ControlFlow::Continue(()))
        });
        checked.map(drop)
    }

    /// Members of this name in packs that an attempt since then may have written: at most one a pack. Packs that cannot be read are
    /// passed over, with a warning: one bad block must not stop everything that is tried again.
    pub(super) fn attempts(&self, name: MemberName, since_ms: u64) -> Result<Vec<ObjectId>, TransferError> {
        let since = UNIX_EPOCH + Duration::from_millis(since_ms).saturating_sub(BEFORE_ATTEMPT);
        let mut found = Vec::new();
        if !self.known.may_have(&self.root, name, since)? {
            return Ok(found);
        }
        let _ = self.each_pack(Some(PackId::first_of(since)), &mut |pack| {
            let id = MemberId { pack, name };
            match self.find(&id) {
                Ok(Some(_)) => found.push(id.object_id()?),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, %name, "cannot look into a pack for what an earlier attempt left"),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// Frees what is not needed any more.
    pub(super) fn forget_unused(&self) {
        self.known.forget_unused();
    }

    /// Visits the packs, from an id on, in about the order of their ages.
    fn each_pack(
        &self,
        from: Option<PackId>,
        visit: &mut dyn FnMut(PackId) -> Result<ControlFlow<()>, TransferError>,
    ) -> Result<ControlFlow<()>, TransferError> {
        self.each_name(from, &mut |name| match PackId::parse(name) {
            Some(pack) if from.is_none_or(|from| pack >= from) => visit(pack),
            _ => Ok(ControlFlow::Continue(())),
        })
    }

    /// Visits what lies in the directories of packs.
    fn each_name(
        &self,
        from: Option<PackId>,
        visit: &mut dyn FnMut(&str) -> Result<ControlFlow<()>, TransferError>,
    ) -> Result<ControlFlow<()>, TransferError> {
        let failed = |path: &Path| TransferError::io("list", self.root.path().join(path));
        let directories = place::directories(&self.root, from).map_err(failed(Path::new(place::PACKS)))?;
        for path in &directories {
            let dir = self.root.open_dir(path).map_err(failed(path))?;
            for name in entries(&dir).map_err(failed(path))? {
                if visit(&name.map_err(failed(path))?)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The members of a pack that are not removed; `None` when the pack is gone.
    fn live(&self, pack: PackId) -> Result<Option<Vec<Entry>>, TransferError> {
        loop {
            let Some(reader) = place::open(&self.root, pack)? else { return Ok(None) };
            let index = reader.index_or_salvage().map_err(|e| self.failed(e, pack))?;
            let removed = self.removed(pack, &index)?;
            // If it was rewritten meanwhile, its tombstones may have gone, with members that are still in what we have read.
            if place::is_current(&self.root, pack, reader.source()).map_err(|e| self.failed(e.into(), pack))? {
                let live = index.entries().iter().filter(|entry| !removed.contains(&entry.name)).copied();
                return Ok(Some(live.collect()));
            }
        }
    }

    /// Those of the members that are marked as removed.
    fn removed(&self, pack: PackId, index: &Index) -> Result<HashSet<MemberName>, TransferError> {
        let read = || {
            let Some(dir) = place::open_tombstones(&self.root, pack)? else { return Ok(HashSet::new()) };
            let names = place::removed(&dir)?;
            names.filter(|name| name.as_ref().map_or(true, |name| index.find(*name).is_some())).collect()
        };
        read().map_err(|e: io::Error| self.failed(e.into(), pack))
    }

    fn open_unless_removed(&self, id: &MemberId) -> Result<Option<PackReader<File>>, TransferError> {
        let failed = TransferError::io("find", place::member_path(&self.root, id));
        if place::is_removed(&self.root, id).map_err(failed)? {
            return Ok(None);
        }
        place::open(&self.root, id.pack)
    }

    fn failed(&self, error: crate::pack::PackError, pack: PackId) -> TransferError {
        into_transfer(error, pack, Some(&self.root))
    }
}
