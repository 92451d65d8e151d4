//! An archive in one directory, or in several on filesystems of their own (its roots).
//!
//! With one root this is a [`PosixStore`] and nothing else. With several, each of them is one, whole by itself: what it holds can be read without the
//! others. There is no table that says which object is where: a new one goes to a root by its id and by the rooms that the roots have (`level`), and who looks for one looks
//! in each, the likeliest first. The same object may be in two roots for a while, when it is moved (`moving`) or when an archive was tried again while a
//! root was away: reading takes the one that is right, and removing removes both.
//!
//! *Invariant*: "there is no such object" is said only when every root was looked into while nothing moved. As long as one is away it is
//! [`TransferError::Unavailable`], which is temporary.

mod find;
mod level;
mod marker;
mod member;
mod moving;
mod remove;

pub(super) use marker::MARKER;
pub use moving::{MovesWatcher, Rebalance, Rebalanced, RootFill};

use super::hold::{Hold, is_drained};
use super::packs::Repacked;
use super::posix::{PosixStore, StagedFile};
use super::session::Swept;
use super::{Done, Expected, Head, Part, PutOptions, Restored, Store};
use crate::copy::ChunkReader;
use crate::manifest::Manifest;
use crate::pack::MemberId;
use crate::{Durability, Encoding, Monitor, OpenFile, TransferError};
use marker::Marker;
use member::{Coming, Known, Member, enrol};
use model::{Extent, ObjectId};
use parking_lot::Mutex;
use remove::Removed;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// From this size on, each file finds a root of its own: below, those of one request share one, and its directories.
const BY_ITSELF_FROM_BYTES: u64 = 8 << 20;
const ENOSPC: i32 = 28;

/// An archive on mounted filesystems. Several processes may have the same one open.
pub struct TierStore {
    roots: Arc<Roots>,
}

/// The roots.
struct Roots {
    members: Vec<Arc<Member>>,
    known: Mutex<Known>,
}

impl TierStore {
    /// Opens the archive in existing directories, and removes what crashed processes left in it. Writes nothing: see [`TierStore::enrol`].
    ///
    /// # Errors
    /// None of the roots is there; one belongs to another archive, or is there twice. If some are there, it is opened, with a warning about the others.
    pub fn open<P: AsRef<Path>>(roots: &[P], durability: &Arc<dyn Durability>) -> Result<Self, TransferError> {
        let mut members = Vec::with_capacity(roots.len());
        let mut first_error = None;
        let mut is_any_there = false;
        for path in roots {
            let (member, error) = Member::new(path.as_ref(), durability.clone());
            is_any_there |= error.is_none();
            if let Some(error) = error {
                if roots.len() > 1 {
                    tracing::warn!(root = %path.as_ref().display(), %error, "a root of the archive is not there: what is in others can be had, and new objects go there");
                }
                first_error.get_or_insert(error);
            }
            members.push(Arc::new(member));
        }
        let nothing = || TransferError::Unavailable { path: PathBuf::new(), why: "it has no roots".to_owned() };
        if !is_any_there {
            return Err(first_error.unwrap_or_else(nothing));
        }
        let store = Self { roots: Arc::new(Roots { members, known: Mutex::default() }) };
        store.roots.identify()?;
        Ok(store)
    }

    /// The roots' paths, in the configuration's order; at least one.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.roots.members.iter().map(|member| member.path())
    }

    /// Makes each root that is there one of the archive, durably, and those that come later. To be called before anything is written: until then, a new root counts as
    /// one that is not mounted.
    ///
    /// # Errors
    /// A root that is there cannot be written to. The others are the archive's all the same.
    pub fn enrol(&self) -> Result<(), TransferError> {
        if self.roots.are_several() { self.roots.enrol() } else { Ok(()) }
    }

    /// Removes temporary files of processes that are gone, and frees memory that is not needed any more. Cheap; to be called every few minutes.
    /// Gives what was found in each root that is there.
    pub fn sweep(&self) -> Vec<(PathBuf, Result<Swept, TransferError>)> {
        self.roots.there().map(|store| (store.root().to_owned(), store.sweep())).collect()
    }

    /// Takes removed members out of packs, as [`PosixStore::repack`] does, in each root that is there.
    pub fn repack(&self, pause: &mut dyn FnMut(u64)) -> Vec<(PathBuf, Result<Repacked, TransferError>)> {
        self.roots.there().map(|store| (store.root().to_owned(), store.repack(pause))).collect()
    }

    /// As [`PosixStore::remove_exactly`].
    pub fn remove_exactly(&self, id: &ObjectId, done: Removed) {
        self.roots.remove(id, PosixStore::remove_exactly, done);
    }

    /// As [`PosixStore::check_packs`].
    pub fn check_packs(&self, told: &mut dyn FnMut(PathBuf, String)) -> Result<(), TransferError> {
        self.roots.all()?.iter().try_for_each(|store| store.check_packs(told))
    }

    /// As [`PosixStore::chunks`].
    pub fn chunks(&self, id: &ObjectId, expected: Expected) -> Result<Option<ChunkReader<Part, Part>>, TransferError> {
        // Without a manifest there is none, and the object is there all the same.
        self.roots.read(id, |store| store.chunks(id, expected))
    }
}

impl Roots {
    /// Also when the configuration knows of one only.
    fn are_several(&self) -> bool {
        self.members.len() > 1 || self.known.lock().archive.is_some()
    }

    /// # Errors
    /// There is a root that the configuration does not know.
    fn know_all(&self) -> Result<(), TransferError> {
        let known = self.known.lock();
        let Some(stranger) = known.stranger(self.members.iter().map(|member| member.path())) else { return Ok(()) };
        let why = format!(
            "it belongs to the archive, and is not in the configuration; if it is lost, take its line out of {MARKER} in the other roots"
        );
        Err(TransferError::Unavailable { path: stranger.into(), why })
    }

    /// Those that are there.
    fn there(&self) -> impl Iterator<Item = Arc<PosixStore>> {
        self.members.iter().filter_map(|member| member.store(&self.known).ok())
    }

    /// All of them.
    ///
    /// # Errors
    /// One is not there.
    fn all(&self) -> Result<Vec<Arc<PosixStore>>, TransferError> {
        let all: Vec<_> = self.members.iter().map(|member| member.store(&self.known)).collect::<Result<_, _>>()?;
        if self.are_several() {
            self.know_all()?;
            for (member, store) in self.members.iter().zip(&all) {
                store.root_dir().check_objects().inspect_err(|_| member.look_after(store))?;
            }
        }
        Ok(all)
    }

    /// The only one.
    fn only(&self) -> Result<Arc<PosixStore>, TransferError> {
        self.all()?.pop().ok_or_else(|| self.no_place())
    }

    /// Looks at what the roots say of themselves.
    fn identify(&self) -> Result<(), TransferError> {
        let mut known = self.known.lock();
        let mut without = Vec::new();
        let mut directories = Vec::new();
        for member in &self.members {
            // Just opened, or not there: nothing is opened here.
            let Some(store) = member.opened() else { continue };
            let directory = store.root_dir().identity();
            if let Some((_, other)) = directories.iter().find(|(found, _)| *found == directory) {
                let other: &PathBuf = other;
                let why = format!("it is the same directory as {}", other.display());
                return Err(TransferError::Unavailable { path: member.path().to_owned(), why });
            }
            directories.push((directory, member.path().to_owned()));
            match Marker::read(store.root_dir())? {
                Some(marker) => known.admit(member.path(), Some(&marker))?,
                None => without.push(member),
            }
        }
        for member in without {
            if let Err(error) = known.admit(member.path(), None) {
                member.lose(&error);
            }
        }
        drop(known);
        if let Err(error) = self.know_all() {
            tracing::warn!(%error, "what is not found in the other roots may be in this one: nothing is said to be missing");
        }
        Ok(())
    }

    fn enrol(&self) -> Result<(), TransferError> {
        let stores: Vec<_> = self.there().collect();
        let mut known = self.known.lock();
        known.writes = true;
        let mut failed = None;
        let mut enrolled = Vec::new();
        for store in &stores {
            match Marker::read(store.root_dir()).and_then(|marker| enrol(store, &mut known, marker)) {
                Ok(marker) => enrolled.push((store, marker)),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        // Named by others only after it has its own: otherwise it would be taken for one that is not mounted.
        for (store, marker) in enrolled {
            let all = Marker { roots: known.listed.clone(), ..marker.clone() };
            if all != marker
                && let Err(error) = all.write(store.root_dir())
            {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Keeps everything where it is.
    fn hold(stores: &[Arc<PosixStore>]) -> Result<Vec<Hold>, TransferError> {
        stores.iter().map(|store| Hold::shared(store.root_dir())).collect()
    }

    /// The roots, those first in which an object of this key would be put now; each with its room.
    fn by_wish(&self, key: &str) -> Vec<(&Arc<Member>, u64)> {
        let mut members: Vec<_> = self.members.iter().map(|member| (member, member.room(&self.known))).collect();
        members.sort_by(|(a, a_room), (b, b_room)| b.wish(key, *b_room).total_cmp(&a.wish(key, *a_room)));
        members
    }

    /// Where a new object of so many bytes is put: the first one first. `anywhere`: also where there may be too little room, since it may shrink.
    fn places(&self, id: &ObjectId, bytes: u64, anywhere: bool) -> Vec<Arc<Member>> {
        let key = if bytes < BY_ITSELF_FROM_BYTES { group_of(id) } else { id.as_str() };
        let mut wished = self.by_wish(key);
        if wished.iter().all(|(_, room)| *room < bytes.max(1)) {
            // Before it is said that there is none: what is known of them may be a second old.
            self.members.iter().for_each(|member| member.look_again());
            wished = self.by_wish(key);
        }
        let fits = |room: u64| room > 0 && room >= bytes;
        let mut places: Vec<_> =
            wished.iter().filter(|(_, room)| fits(*room)).map(|(member, _)| (*member).clone()).collect();
        if places.is_empty() && anywhere {
            let largest = wished.iter().filter(|(_, room)| *room > 0).max_by_key(|(_, room)| *room);
            places.extend(largest.map(|(member, _)| (*member).clone()));
        }
        places
    }

    /// Why a new object was put nowhere.
    fn no_place(&self) -> TransferError {
        let mut away = self.members.iter().map(|member| member.store(&self.known));
        match away.find_map(Result::err) {
            Some(error) if self.there().count() == 0 => error,
            _ => {
                let path = self.members.first().map(|member| member.path().to_owned()).unwrap_or_default();
                let source = io::Error::from_raw_os_error(ENOSPC);
                TransferError::Io {
                    doing: "find a root with room among those of the archive, the first of which is",
                    path,
                    source,
                }
            }
        }
    }
}

/// What small files' objects of one request have in common.
fn group_of(id: &ObjectId) -> &str {
    id.as_str().get(..4).unwrap_or(id.as_str())
}

/// What a file takes at most, as far as can be told before it is read.
fn stored_bytes(source: &OpenFile) -> Result<u64, TransferError> {
    let stamp = source.stamp()?;
    Ok(stamp.size.min(stamp.blocks.saturating_mul(512)))
}

/// Content on its way into one of the roots.
pub struct TierStaged {
    staged: StagedFile,
    store: Arc<PosixStore>,
    /// Whether there may be something of the same id elsewhere.
    repeated: bool,
    coming: Option<Coming>,
}

impl Store for TierStore {
    type Staged = TierStaged;

    fn stage(
        &self,
        id: &ObjectId,
        source: &OpenFile,
        options: PutOptions<'_>,
        monitor: &dyn Monitor,
    ) -> Result<TierStaged, TransferError> {
        let roots = &*self.roots;
        if !roots.are_several() {
            let store = roots.only()?;
            let staged = store.stage(id, source, options, monitor)?;
            return Ok(TierStaged { staged, store, repeated: false, coming: None });
        }
        let bytes = stored_bytes(source)?;
        let mut places = roots.places(id, bytes, options.compression != super::Compression::Off);
        if options.repeated
            && let Some(at) = places.iter().position(|member| roots.has_a_form(member, id))
            && let Some(places) = places.get_mut(..=at)
        {
            // It is replaced then, at one stroke.
            places.rotate_right(1);
        }
        let mut failed = None;
        for member in places {
            // Closed since its room was looked at.
            let Some(store) = member.store(&roots.known).ok().filter(|store| !is_drained(store.root_dir())) else {
                continue;
            };
            let coming = Some(member.expect(bytes));
            match store.stage(id, source, options, monitor) {
                Ok(staged) => return Ok(TierStaged { staged, store, repeated: options.repeated, coming }),
                Err(error) if find::is_of(&error, member.path()) => {
                    member.shun(&error);
                    member.look_after(&store);
                    failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| roots.no_place()))
    }

    fn commit(&self, staged: TierStaged, done: Done) {
        let TierStaged { staged, store, repeated, coming } = staged;
        if coming.is_none() {
            return store.commit(staged, done);
        }
        let roots = self.roots.clone();
        let here = store.root().to_owned();
        let done: Done = Box::new(move |result| {
            drop(coming);
            if repeated && let Ok(stored) = &result {
                roots.forget_elsewhere(&stored.id, &here);
            }
            done(result);
        });
        store.commit(staged, done);
    }

    fn get(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        self.roots.read(id, |store| store.get(id, target, expected, monitor))
    }

    fn get_range(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        extent: Extent,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        self.roots.read(id, |store| store.get_range(id, target, extent, expected, monitor))
    }

    fn verify(&self, id: &ObjectId, expected: Expected, monitor: &dyn Monitor) -> Result<Restored, TransferError> {
        self.roots.read(id, |store| store.verify(id, expected, monitor))
    }

    fn put_record(&self, record: &Manifest, done: Done) {
        let roots = &*self.roots;
        let id = &record.object;
        let placed = if roots.are_several() {
            let places = roots.places(id, 0, false);
            // One that it replaces is where it was put.
            let at = roots
                .members
                .iter()
                .find(|member| roots.has_a_form(member, id))
                .filter(|member| places.iter().any(|place| Arc::ptr_eq(place, member)));
            at.or(places.first()).ok_or_else(|| roots.no_place()).and_then(|member| member.store(&roots.known))
        } else {
            roots.only()
        };
        let store = match placed {
            Ok(store) => store,
            Err(error) => return done(Err(error)),
        };
        // One that may not be replaced where it is, since its root is full or being emptied, must not outlive this one.
        let is_elsewhere = roots.are_several()
            && roots.members.iter().any(|member| member.path() != store.root() && roots.has_a_form(member, id));
        let done: Done = if is_elsewhere {
            let (roots, here) = (self.roots.clone(), store.root().to_owned());
            Box::new(move |result| {
                if let Ok(stored) = &result {
                    roots.forget_elsewhere(&stored.id, &here);
                }
                done(result);
            })
        } else {
            done
        };
        store.put_record(record, done);
    }

    fn manifest(&self, id: &ObjectId) -> Result<Option<Manifest>, TransferError> {
        self.roots.look(id, |store| store.manifest(id))
    }

    fn remove(&self, id: &ObjectId, done: Removed) {
        self.roots.remove(id, PosixStore::remove, done);
    }

    fn attempts(&self, proposed: &ObjectId, since_ms: u64) -> Result<Vec<ObjectId>, TransferError> {
        if !self.roots.are_several() {
            return self.roots.only()?.attempts(proposed, since_ms);
        }
        let mut found: Vec<ObjectId> = Vec::new();
        for store in self.roots.there() {
            for id in store.attempts(proposed, since_ms)? {
                if !found.contains(&id) {
                    found.push(id);
                }
            }
        }
        Ok(found)
    }

    fn head(&self, id: &ObjectId) -> Result<Option<Head>, TransferError> {
        self.roots.look(id, |store| store.head(id))
    }

    fn list(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), TransferError> {
        self.roots.list(PosixStore::list, visit)
    }

    fn list_manifests(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), TransferError> {
        self.roots.list(PosixStore::list_manifests, visit)
    }
}

/// The ids under which an object proposed as this one may be kept by itself.
fn forms(id: &ObjectId) -> Vec<ObjectId> {
    if MemberId::parse(id).is_some() {
        return vec![id.clone()];
    }
    Encoding::ALL.into_iter().filter_map(|encoding| super::forms::with_encoding(id, encoding).ok()).collect()
}
