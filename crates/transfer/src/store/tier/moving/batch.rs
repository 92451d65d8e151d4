//! Some items on their way from one root to another.
//!
//! Each is copied into temporary files; these are made durable and read back. Then, while nobody else gives or takes names: the originals must be what was
//! copied, the copies get their names, those are made durable, and the originals go. Killed before, there are temporary files, which the next sweep
//! removes; killed then, there are two equal copies, which the journal tells of.

use super::super::super::directories::Directories;
use super::super::super::hold::Alone;
use super::super::super::packs::place;
use super::super::super::posix::PosixStore;
use super::super::super::root::{Root, none_if_missing, unlink};
use super::super::super::session::TempFile;
use super::item::Item;
use super::journal;
use crate::copy::{copy_file, hash_file};
use crate::pack::{MemberId, PackId};
use crate::{DigestKind, Monitor, OpenFile, TransferError};
use model::Digest;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use sys::file::FileStamp;
use sys::{Mode, OFlags};

/// So many items, or bytes, are named at one time.
const MAX_ITEMS: usize = 128;
const MAX_BYTES: u64 = 256 << 20;
/// From so many files on one sync of the filesystem costs less than one of each.
const MANY: usize = 8;

/// A file that was copied.
struct Copy {
    name: String,
    source: OpenFile,
    stamp: FileStamp,
    temp: TempFile,
    digest: Option<Digest>,
}

/// An item that was copied.
struct Moving {
    item: Item,
    bytes: u64,
    copies: Vec<Copy>,
    /// For a pack: nobody writes it anew.
    _lock: Option<PackLock>,
}

/// What became of an item that was to be moved.
pub(super) enum Outcome {
    Moved(u64),
    /// It was removed or replaced meanwhile, or somebody else has to do with it: these bytes are not where they were to go.
    Changed(u64),
    /// The other root has something of this id.
    Twin(u64),
    Failed(u64, TransferError),
}

/// Items on their way.
pub(super) struct Batch<'a> {
    from: &'a PosixStore,
    to: &'a PosixStore,
    /// For `syncfs`: open since before anything was written, so that it tells of each failure.
    filesystem: File,
    moving: Vec<Moving>,
    bytes: u64,
}

impl<'a> Batch<'a> {
    pub(super) fn new(from: &'a PosixStore, to: &'a PosixStore) -> Result<Self, TransferError> {
        let filesystem = to.root_dir().open_for_syncs().map_err(TransferError::io("open", to.root()))?;
        Ok(Self { from, to, filesystem, moving: Vec::new(), bytes: 0 })
    }

    pub(super) fn is_full(&self) -> bool {
        self.moving.len() >= MAX_ITEMS || self.bytes >= MAX_BYTES
    }

    /// Copies an item. `None`: it is on its way.
    pub(super) fn add(&mut self, item: &Item, bytes: u64, monitor: &dyn Monitor) -> Option<Outcome> {
        match self.copy(item, bytes, monitor) {
            Ok(Ok(moving)) => {
                self.bytes = self.bytes.saturating_add(bytes);
                self.moving.push(moving);
                None
            }
            Ok(Err(outcome)) => Some(outcome),
            Err(error) => Some(Outcome::Failed(bytes, error)),
        }
    }

    fn copy(&self, item: &Item, bytes: u64, monitor: &dyn Monitor) -> Result<Result<Moving, Outcome>, TransferError> {
        let (from, to) = (self.from.root_dir(), self.to.root_dir());
        let path = from.path().join(item.directory());
        if item.bytes_in(to).map_err(TransferError::io("look for", to.path().join(item.directory())))?.is_some() {
            return Ok(Err(Outcome::Twin(bytes)));
        }
        let lock = match item {
            Item::Pack(pack) => match PackLock::of(from, *pack).map_err(TransferError::io("lock a pack in", &path))? {
                Some(lock) => Some(lock),
                None => return Ok(Err(Outcome::Changed(bytes))),
            },
            Item::Object(_) | Item::Record(_) => None,
        };
        let mut copies = Vec::new();
        for name in item.files() {
            let Some((source, stamp)) = open(from, item, &name)? else {
                if item.is_optional(&name) {
                    continue;
                }
                return Ok(Err(Outcome::Changed(bytes)));
            };
            let temp = self.to.workshop().1.create(&name)?;
            let copied = copy_file(&source, temp.file(), Some(DigestKind::Blake3), monitor)?;
            sys::file::set_times(temp.file().file(), None, stamp.mtime)
                .map_err(TransferError::io("set times of", temp.file().path()))?;
            copies.push(Copy { name, source, stamp, temp, digest: copied.digest });
        }
        Ok(Ok(Moving { item: item.clone(), bytes, copies, _lock: lock }))
    }

    /// Ends it: tells what became of each item.
    pub(super) fn finish(mut self, monitor: &dyn Monitor, told: &mut dyn FnMut(&Item, Outcome)) {
        if let Err(error) = self.sync() {
            return fail(std::mem::take(&mut self.moving), &error, told);
        }
        let mut sound = Vec::with_capacity(self.moving.len());
        for moving in std::mem::take(&mut self.moving) {
            match moving.copies.iter().try_for_each(|copy| verify(copy, monitor)) {
                Ok(()) => sound.push(moving),
                Err(error) => told(&moving.item, Outcome::Failed(moving.bytes, error)),
            }
        }
        if sound.is_empty() {
            return;
        }
        let (from, to) = (self.from.root_dir(), self.to.root_dir());
        let begun = journal::write(to, sound.iter().map(|moving| &moving.item)).and_then(|()| Alone::of(from));
        match begun {
            Ok(alone) => {
                self.switch(sound, told);
                drop(alone);
            }
            Err(error) => fail(sound, &error, told),
        }
    }

    fn sync(&self) -> Result<(), TransferError> {
        let durability = self.to.workshop().2;
        let files: Vec<_> = self.moving.iter().flat_map(|moving| &moving.copies).map(|copy| copy.temp.file()).collect();
        if files.len() >= MANY {
            return durability.sync_filesystem(&self.filesystem).map_err(TransferError::io("sync", self.to.root()));
        }
        files.into_iter().try_for_each(|file| durability.sync_all(file.file()).map_err(file.failed("sync")))
    }

    /// While nobody else names or removes anything in the old root.
    fn switch(&self, moving: Vec<Moving>, told: &mut dyn FnMut(&Item, Outcome)) {
        let (to, _, durability) = self.to.workshop();
        let mut named: Vec<(Item, u64)> = Vec::with_capacity(moving.len());
        let mut locks = Vec::new();
        let mut is_settled = true;
        for one in moving {
            let Moving { item, bytes, copies, _lock: lock } = one;
            match self.name(&item, copies) {
                Ok(Named::Here) => {
                    locks.push(lock);
                    named.push((item, bytes));
                }
                Ok(Named::Changed) => told(&item, Outcome::Changed(bytes)),
                Ok(Named::Twin) => told(&item, Outcome::Twin(bytes)),
                Err(error) => {
                    is_settled = false;
                    told(&item, Outcome::Failed(bytes, error));
                }
            }
        }
        let mut directories = Directories::new(Arc::clone(to), Arc::clone(durability));
        let distinct: BTreeSet<_> = named.iter().map(|(item, _)| item.directory()).collect();
        let synced = if distinct.len() >= MANY {
            durability.sync_filesystem(&self.filesystem)
        } else {
            distinct.iter().try_for_each(|directory| directories.sync(directory))
        };
        for (item, bytes) in named {
            let gone = match &synced {
                Ok(()) => take_away(self.from.root_dir(), &item),
                Err(e) => Err(io::Error::new(e.kind(), format!("its copy is not durable: {e}"))),
            };
            match gone {
                Ok(()) => told(&item, Outcome::Moved(bytes)),
                Err(e) => {
                    is_settled = false;
                    let path = self.from.root().join(item.directory());
                    told(&item, Outcome::Failed(bytes, TransferError::io("remove what was moved from", path)(e)));
                }
            }
        }
        drop(locks);
        // Otherwise it tells the next run of what may be there twice.
        if is_settled && let Err(error) = journal::clear(to) {
            tracing::warn!(%error, "the note of what was moved stays");
        }
    }

    fn name(&self, item: &Item, copies: Vec<Copy>) -> Result<Named, TransferError> {
        let (from, to) = (self.from.root_dir(), self.to.root_dir());
        let failed = || TransferError::io("name a copy in", to.path().join(item.directory()));
        if !is_unchanged(from, item, &copies).map_err(TransferError::io("look at what was copied from", from.path()))? {
            return Ok(Named::Changed);
        }
        let directory = to.ensure_dir(&item.directory()).map_err(failed())?;
        if let Item::Pack(pack) = item {
            // Before the pack is there: what was removed is never seen again.
            copy_marks(from, to, *pack, self.to.workshop().2.as_ref()).map_err(failed())?;
        }
        let mut placed: Vec<String> = Vec::with_capacity(copies.len());
        for copy in copies {
            let done = copy.temp.place_new(&directory, &copy.name);
            if let Ok(true) = done {
                placed.push(copy.name);
                continue;
            }
            // Half an object is none.
            placed.iter().try_for_each(|name| unlink(&directory, name).map(drop)).map_err(failed())?;
            return done.map(|_| Named::Twin).map_err(failed());
        }
        Ok(Named::Here)
    }
}

enum Named {
    Here,
    Changed,
    Twin,
}

fn fail(moving: Vec<Moving>, error: &TransferError, told: &mut dyn FnMut(&Item, Outcome)) {
    for one in moving {
        let path = one.copies.first().map(|copy| copy.temp.file().path().to_owned()).unwrap_or_default();
        let again = TransferError::NotDurable { path, why: error.to_string(), errno: error.errno() };
        told(&one.item, Outcome::Failed(one.bytes, again));
    }
}

/// Opens a file of an item; `None` when there is none.
pub(super) fn open(root: &Root, item: &Item, name: &str) -> Result<Option<(OpenFile, FileStamp)>, TransferError> {
    let relative = item.directory().join(name);
    let path = root.path().join(&relative);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let opened = sys::file::open_beneath(root.dir(), relative, flags, Mode::empty()).map(File::from);
    let Some(file) = none_if_missing(opened).map_err(TransferError::io("open", &path))? else { return Ok(None) };
    let file = OpenFile::new(file, path);
    let stamp = file.stamp()?;
    if !stamp.is_regular {
        return Err(TransferError::NotRegular { path: file.path().to_owned() });
    }
    Ok(Some((file, stamp)))
}

/// What the disk has, not what is in memory.
fn verify(copy: &Copy, monitor: &dyn Monitor) -> Result<(), TransferError> {
    let file = copy.temp.file();
    sys::file::advise_dontneed(file.file(), 0, 0).map_err(file.failed("read again"))?;
    let (_, found) = hash_file(file, DigestKind::Blake3, &Again(monitor))?;
    match copy.digest {
        Some(expected) if expected != found => {
            Err(TransferError::Mismatch { path: file.path().to_owned(), expected, found })
        }
        _ => Ok(()),
    }
}

/// Reading again is not moving.
struct Again<'a>(&'a dyn Monitor);

impl Monitor for Again<'_> {
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }

    fn advanced(&self, _: model::Extent) {}
}

/// Whether the names still are those of the files that were copied, and nothing was written to these.
fn is_unchanged(root: &Root, item: &Item, copies: &[Copy]) -> io::Result<bool> {
    for name in item.files() {
        let now = none_if_missing(sys::file::stamp_at(root.dir(), item.directory().join(&name)))?;
        let copy = copies.iter().find(|copy| copy.name == name);
        match (now, copy) {
            (None, None) => {}
            (Some(now), Some(copy)) if is_same(&now, &copy.stamp) => {
                let open = sys::file::stamp(copy.source.file())?;
                if (open.dev, open.ino) != (now.dev, now.ino) {
                    return Ok(false);
                }
            }
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Whether it is the same file, with the same content.
pub(super) fn is_same(a: &FileStamp, b: &FileStamp) -> bool {
    (a.dev, a.ino, a.size, a.mtime) == (b.dev, b.ino, b.size, b.mtime)
}

/// Removes an item's files, the object before its manifest, and a pack's marks after the pack. Not durable yet: at worst it comes back as a second copy.
pub(super) fn take_away(root: &Root, item: &Item) -> io::Result<()> {
    let Some(dir) = none_if_missing(root.open_dir(&item.directory()))? else { return Ok(()) };
    item.files().iter().rev().try_for_each(|name| unlink(&dir, name).map(drop))?;
    if let Item::Pack(pack) = item
        && let Some(marks) = place::open_tombstones(root, *pack)?
    {
        for name in place::removed(&marks)? {
            unlink(&marks, &name?.to_string())?;
        }
        drop(marks);
        place::remove_tombstones(root, *pack);
    }
    Ok(())
}

/// Marks the members as removed that are so in the old root, durably.
fn copy_marks(from: &Root, to: &Root, pack: PackId, durability: &dyn crate::Durability) -> io::Result<()> {
    let Some(marks) = place::open_tombstones(from, pack)? else { return Ok(()) };
    let mut like = None;
    for name in place::removed(&marks)? {
        let name = name?;
        place::mark_removed(to, &MemberId { pack, name }, like)?;
        like = Some(name);
    }
    match place::open_tombstones(to, pack)? {
        Some(dir) if like.is_some() => durability.sync_all(&dir),
        _ => Ok(()),
    }
}

/// Nobody writes a pack anew while there is one.
struct PackLock {
    _lock: place::Lock,
    _tombstones: Option<File>,
}

impl PackLock {
    /// `None` when somebody else does.
    fn of(root: &Root, pack: PackId) -> io::Result<Option<Self>> {
        let tombstones = place::open_tombstones(root, pack)?;
        if let Some(dir) = &tombstones
            && !sys::file::try_lock_exclusive(dir)?
        {
            return Ok(None);
        }
        Ok(place::lock(root, pack)?.map(|lock| Self { _lock: lock, _tombstones: tombstones }))
    }
}
