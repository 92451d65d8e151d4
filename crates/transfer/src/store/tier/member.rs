//! One root of an archive of several: there or not, with room or without.

use super::super::hold::{MOVES, is_drained};
use super::super::posix::PosixStore;
use super::level::{Level, wish};
use super::marker::{MARKER, Marker, name_of};
use super::moving::RunLock;
use crate::{Durability, TransferError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A root that is not there is looked for again after so long.
const OPEN_AGAIN: Duration = Duration::from_secs(2);
/// So old may be what is known of a filesystem's room.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A root that could not be written to gets nothing new for so long.
const SHUNNED: Duration = Duration::from_secs(30);

/// What is known of an archive by the markers in its roots.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) archive: Option<Uuid>,
    /// All roots that any marker names, or that have one, with their paths as they were last.
    pub(super) listed: BTreeMap<Uuid, String>,
    /// Those that were open once.
    pub(super) seen: BTreeSet<Uuid>,
    /// Whether markers are written into new roots.
    pub(super) writes: bool,
}

impl Known {
    /// Takes in what a root says of itself.
    ///
    /// # Errors
    /// It is not a root of this archive, or not the one that it should be.
    pub(super) fn admit(&mut self, path: &Path, marker: Option<&Marker>) -> Result<(), TransferError> {
        let unavailable = |why: String| TransferError::Unavailable { path: path.to_owned(), why };
        match marker {
            Some(marker) if self.archive.is_some_and(|archive| archive != marker.archive) => {
                Err(unavailable(format!("by its file {MARKER} it belongs to another archive than the other roots")))
            }
            Some(marker) => {
                self.archive = Some(marker.archive);
                for (id, path) in &marker.roots {
                    self.listed.entry(*id).or_insert_with(|| path.clone());
                }
                self.listed.insert(marker.this, name_of(path));
                self.seen.insert(marker.this);
                Ok(())
            }
            None if self.listed.values().any(|listed| *listed == name_of(path)) => Err(unavailable(format!(
                "there is no file {MARKER} in it, though the other roots name it as one of the archive's"
            ))),
            None => Ok(()),
        }
    }

    /// A root that belongs to the archive, and that is at none of these paths.
    pub(super) fn stranger<'a>(&self, mut paths: impl Iterator<Item = &'a Path>) -> Option<&str> {
        let mut unseen = self.listed.iter().filter(|(id, _)| !self.seen.contains(id)).map(|(_, path)| path.as_str());
        let ours: Vec<_> = paths.by_ref().map(name_of).collect();
        unseen.find(|path| ours.iter().all(|ours| ours != path))
    }
}

/// One root.
pub(super) struct Member {
    path: PathBuf,
    durability: Arc<dyn Durability>,
    state: Mutex<State>,
    level: Mutex<Seen>,
    /// Bytes on their way there.
    coming: AtomicU64,
}

struct State {
    store: Option<Arc<PosixStore>>,
    tried: Instant,
    why: String,
}

/// What was seen of the filesystem.
#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    level: Level,
    takes: bool,
    /// Put there since.
    placed: u64,
    shunned: Option<Instant>,
    told_full: bool,
}

impl Member {
    /// Opens it, if it is there. Whether it belongs to the archive has to be asked then: see [`Known::admit`].
    pub(super) fn new(path: &Path, durability: Arc<dyn Durability>) -> (Self, Option<TransferError>) {
        let opened = PosixStore::open(path, durability.clone());
        let (store, error) = match opened {
            Ok(store) => (Some(Arc::new(store)), None),
            Err(error) => (None, Some(error)),
        };
        let why = error.as_ref().map(why_of).unwrap_or_default();
        let state = Mutex::new(State { store, tried: Instant::now(), why });
        let path = path.to_owned();
        (Self { path, durability, state, level: Mutex::default(), coming: AtomicU64::new(0) }, error)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The store in it, if it is open.
    pub(super) fn opened(&self) -> Option<Arc<PosixStore>> {
        self.state.lock().store.clone()
    }

    /// The store in it; opens it if it came back.
    pub(super) fn store(&self, known: &Mutex<Known>) -> Result<Arc<PosixStore>, TransferError> {
        let mut state = self.state.lock();
        if let Some(store) = &state.store {
            return Ok(store.clone());
        }
        if state.tried.elapsed() >= OPEN_AGAIN {
            state.tried = Instant::now();
            match self.reopen(known) {
                Ok(store) => {
                    tracing::info!(root = %self.path.display(), "a root of the archive is there again");
                    self.level.lock().at = None;
                    return Ok(state.store.insert(store).clone());
                }
                Err(error) => state.why = why_of(&error),
            }
        }
        Err(TransferError::Unavailable { path: self.path.clone(), why: state.why.clone() })
    }

    fn reopen(&self, known: &Mutex<Known>) -> Result<Arc<PosixStore>, TransferError> {
        let store = PosixStore::open(&self.path, self.durability.clone())?;
        let marker = Marker::read(store.root_dir())?;
        let mut known = known.lock();
        known.admit(&self.path, marker.as_ref())?;
        if known.writes {
            enrol(&store, &mut known, marker)?;
        }
        Ok(Arc::new(store))
    }

    /// It is not there: said by whoever opened it, or found when something was missed.
    pub(super) fn lose(&self, error: &TransferError) {
        let mut state = self.state.lock();
        if state.store.take().is_some() {
            tracing::warn!(root = %self.path.display(), %error, "a root of the archive is not there: what is in others can be had, and new objects go there");
        }
        (state.tried, state.why) = (Instant::now(), why_of(error));
        drop(state);
        self.level.lock().at = None;
    }

    /// After an error: whether the root is still there.
    pub(super) fn look_after(&self, store: &PosixStore) {
        if let Err(error) = store.root_dir().check() {
            self.lose(&error);
        }
    }

    /// The next one who asks for its room is told what it is then.
    pub(super) fn look_again(&self) {
        self.level.lock().at = None;
    }

    /// How many bytes may still be put there: 0 when it takes nothing.
    pub(super) fn room(&self, known: &Mutex<Known>) -> u64 {
        let coming = self.coming.load(Ordering::Relaxed);
        let mut seen = self.level.lock();
        if seen.at.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) {
            drop(seen);
            let store = self.store(known);
            let level = store.as_ref().ok().and_then(|store| Level::of(store.root_dir()).ok());
            let takes = store.is_ok_and(|store| !is_drained(store.root_dir()));
            seen = self.level.lock();
            seen.at = Some(Instant::now());
            seen.placed = 0;
            seen.takes = takes && level.is_some();
            seen.level = level.unwrap_or_default();
            self.tell_if_full(&mut seen);
        }
        let is_shunned = seen.shunned.is_some_and(|since| since.elapsed() < SHUNNED);
        if !seen.takes || is_shunned {
            return 0;
        }
        seen.level.room().saturating_sub(seen.placed.saturating_add(coming))
    }

    fn tell_if_full(&self, seen: &mut Seen) {
        let is_full = seen.takes && seen.level.room() == 0;
        if is_full && !seen.told_full {
            tracing::warn!(
                root = %self.path.display(), free_bytes = seen.level.free, kept_free_bytes = seen.level.reserve(),
                "a root of the archive is full: new objects go to the others"
            );
        } else if !is_full && seen.told_full && seen.takes {
            tracing::info!(root = %self.path.display(), "a root of the archive has room again");
        }
        seen.told_full = is_full;
    }

    /// How much this root wants the object of this key.
    pub(super) fn wish(&self, key: &str, room: u64) -> f64 {
        wish(&self.path, key, room)
    }

    /// Nothing new goes there for a while: it could not be written to.
    pub(super) fn shun(&self, error: &TransferError) {
        let mut seen = self.level.lock();
        let was_shunned = seen.shunned.is_some_and(|since| since.elapsed() < SHUNNED);
        seen.shunned = Some(Instant::now());
        seen.at = None;
        drop(seen);
        if !was_shunned {
            tracing::warn!(root = %self.path.display(), %error, "a root of the archive cannot be written to: new objects go to the others");
        }
    }

    /// These bytes are on their way, as long as what is given back lives.
    pub(super) fn expect(self: &Arc<Self>, bytes: u64) -> Coming {
        self.coming.fetch_add(bytes, Ordering::Relaxed);
        Coming { member: self.clone(), bytes }
    }
}

/// Bytes on their way to a root.
pub(super) struct Coming {
    member: Arc<Member>,
    bytes: u64,
}

impl Drop for Coming {
    fn drop(&mut self) {
        // Until the filesystem is looked at again it does not show them.
        let mut seen = self.member.level.lock();
        seen.placed = seen.placed.saturating_add(self.bytes);
        self.member.coming.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn why_of(error: &TransferError) -> String {
    match error {
        TransferError::Unavailable { why, .. } => why.clone(),
        other => other.to_string(),
    }
}

/// Makes an open root one of the archive, durably, unless it is. Gives the marker that it has then.
pub(super) fn enrol(store: &PosixStore, known: &mut Known, marker: Option<Marker>) -> Result<Marker, TransferError> {
    let root = store.root_dir();
    root.check()?;
    root.begin()?;
    super::super::hold::open(root).map_err(TransferError::io("make", root.path().join(MOVES)))?;
    RunLock::make(root)?;
    let archive = *known.archive.get_or_insert_with(Uuid::new_v4);
    let marker = match marker {
        Some(marker) => marker,
        None => {
            let this = Uuid::new_v4();
            let mut roots = known.listed.clone();
            roots.insert(this, name_of(root.path()));
            let marker = Marker { archive, this, roots };
            marker.write(root)?;
            marker
        }
    };
    known.admit(root.path(), Some(&marker))?;
    root.share();
    Ok(marker)
}
