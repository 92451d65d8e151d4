//! Which names members have in the packs of a time, in bounded memory.
//!
//! For: whoever looks for what an earlier attempt left. After a restart of the agent any queued file may have been stored by such an attempt,
//! in any pack made since it was asked for, and nearly none was: so the index of each of those packs is read once, instead of each pack being
//! opened for each file. Not for: where a member is, or whether it is still there. A name that is not known is in no pack; for one that
//! is, packs are looked into.
//!
//! A pack only ever loses members, which need not be noticed here. Packs of this process are entered before they have their
//! names. Those of others are noticed by the times of the directory that they appear in, which the kernel keeps finely enough on local filesystems
//! (multigrain timestamps); where it does not, at the latest after [`LIST_AGAIN`]. A pack that is overlooked for so long costs a second
//! copy in the archive, which nobody names.

use super::place;
use crate::TransferError;
use crate::pack::{MemberName, NameFilter, PackError, PackId};
use crate::store::root::{Root, entries};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use sys::file::FileStamp;

/// A directory is listed again after so long, whatever its times say.
const LIST_AGAIN: Duration = Duration::from_secs(10);
/// What nobody has asked for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(300);
/// Beginnings of windows are rounded down to this: each one that is earlier than those before costs a listing.
const ROUND_S: u64 = 3600;
/// 16 MiB: of so many bits, four for each name, are a third in use when [`MAX_NAMES`] are known, and one name in a hundred is taken for one of them.
const FILTER_BITS: u64 = 1 << 27;
const MAX_NAMES: u64 = 12_000_000;
/// Packs known at once, 10 bytes each.
const MAX_PACKS: usize = 1 << 18;
const EIO: i32 = 5;

/// The names, as far as somebody has asked.
#[derive(Default)]
pub(super) struct Known {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    window: Option<Window>,
    /// Since this pack there are more than are kept track of.
    too_many_since: Option<PackId>,
}

/// All packs from one on.
struct Window {
    from: PackId,
    names: NameFilter,
    packs: HashSet<PackId>,
    /// As they were before they were listed last. What is not here has to be listed.
    directories: HashMap<PathBuf, (FileStamp, Instant)>,
    asked: Instant,
}

/// What a window became too large for.
struct TooMany;

impl Known {
    /// Whether a pack that was begun since `from` may have a member of this name. `false` is certain.
    ///
    /// # Errors
    /// The packs cannot be listed. One that cannot be read is passed over, with a warning, as if it had no members.
    pub(super) fn may_have(&self, root: &Root, name: MemberName, from: SystemTime) -> Result<bool, TransferError> {
        let from = PackId::first_of(round_down(from));
        let mut state = self.state.lock();
        if state.too_many_since.is_some_and(|since| from <= since) {
            return Ok(true);
        }
        let window = state.window.get_or_insert_with(|| Window::new(from));
        window.reach_back_to(from);
        window.asked = Instant::now();
        match window.refresh(root)? {
            Ok(()) => Ok(window.names.may_have(name)),
            Err(TooMany) => {
                tracing::info!(root = %root.path().display(), "too many packs to keep their members' names in mind");
                state.give_up();
                Ok(true)
            }
        }
    }

    /// Gives a pack of this process its name, by `place`, with these members.
    pub(super) fn placing<T>(
        &self,
        root: &Root,
        pack: PackId,
        names: impl Iterator<Item = MemberName>,
        place: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        // Until it is placed, and its directory looked at again, nobody lists that.
        let mut state = self.state.lock();
        let Some(window) = state.window.as_mut().filter(|window| pack >= window.from) else { return place() };
        names.for_each(|name| window.names.insert(name));
        window.packs.insert(pack);
        let directory = place::directory(pack);
        let was_listed = window.is_listed(root, &directory).unwrap_or(false);
        let placed = place();
        if was_listed && let (Some(listed), Ok(now)) = (window.directories.get_mut(&directory), stamp(root, &directory))
        {
            listed.0 = now;
        }
        if window.is_full() {
            state.give_up();
        }
        placed
    }

    /// Frees the memory when nobody has asked for a while.
    pub(super) fn forget_unused(&self) {
        let mut state = self.state.lock();
        if state.window.as_ref().is_some_and(|window| window.asked.elapsed() > FORGET_AFTER) {
            state.window = None;
        }
    }
}

impl State {
    fn give_up(&mut self) {
        self.too_many_since = self.window.take().map(|window| window.from).max(self.too_many_since);
    }
}

impl Window {
    fn new(from: PackId) -> Self {
        let (packs, directories) = (HashSet::new(), HashMap::new());
        Self { from, names: NameFilter::new(FILTER_BITS), packs, directories, asked: Instant::now() }
    }

    fn reach_back_to(&mut self, from: PackId) {
        if from < self.from {
            self.from = from;
            self.directories.clear();
        }
    }

    fn is_full(&self) -> bool {
        self.packs.len() > MAX_PACKS || self.names.inserted() > MAX_NAMES
    }

    /// Reads the packs that are new since the last time.
    fn refresh(&mut self, root: &Root) -> Result<Result<(), TooMany>, TransferError> {
        let failed = |path: &Path| TransferError::io("list", root.path().join(path));
        let directories = place::directories(root, Some(self.from)).map_err(failed(Path::new(place::PACKS)))?;
        for path in directories {
            if self.is_listed(root, &path).map_err(failed(&path))? {
                continue;
            }
            let before = stamp(root, &path).map_err(failed(&path))?;
            let dir = root.open_dir(&path).map_err(failed(&path))?;
            let mut all_read = true;
            for name in entries(&dir).map_err(failed(&path))? {
                let Some(pack) = PackId::parse(&name.map_err(failed(&path))?) else { continue };
                if pack >= self.from && !self.packs.contains(&pack) {
                    all_read &= self.read(root, pack);
                    if self.is_full() {
                        return Ok(Err(TooMany));
                    }
                }
            }
            if all_read {
                self.directories.insert(path, (before, Instant::now()));
            } else {
                self.directories.remove(&path);
            }
        }
        Ok(Ok(()))
    }

    /// Whether nothing can have come into the directory since it was listed.
    fn is_listed(&self, root: &Root, path: &Path) -> io::Result<bool> {
        let Some((then, listed)) = self.directories.get(path) else { return Ok(false) };
        Ok(listed.elapsed() < LIST_AGAIN && stamp(root, path)? == *then)
    }

    /// Enters the members of a pack. `false` when it has to be tried again.
    fn read(&mut self, root: &Root, pack: PackId) -> bool {
        let failed = match self.enter_members(root, pack) {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(%error, "cannot look into a pack for what earlier attempts left");
                Some(error)
            }
        };
        // What a bad disk keeps from us today it keeps from us tomorrow; a lack of memory or descriptors ends.
        let lasting = |error: &TransferError| !matches!(error, TransferError::Io { .. }) || error.errno() == EIO;
        let done = failed.as_ref().is_none_or(lasting);
        if done {
            self.packs.insert(pack);
        }
        done
    }

    fn enter_members(&mut self, root: &Root, pack: PackId) -> Result<(), TransferError> {
        let Some(reader) = place::open(root, pack)? else { return Ok(()) };
        let names = &mut self.names;
        let read = match reader.index() {
            Ok(index) => {
                index.entries().iter().for_each(|entry| names.insert(entry.name));
                Ok(())
            }
            Err(PackError::Damaged(_)) => reader.salvage(&mut |entry| {
                names.insert(entry.name);
                std::ops::ControlFlow::Continue(())
            }),
            Err(error) => Err(error),
        };
        read.map_err(|error| super::into_transfer(error, pack, Some(root)))
    }
}

/// Which directory it is, and when something came into it or left it. Reading it changes its atime only.
fn stamp(root: &Root, directory: &Path) -> io::Result<FileStamp> {
    sys::file::stamp_at(root.dir(), directory).map(|stamp| FileStamp { atime: (0, 0), ..stamp })
}

fn round_down(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds - seconds % ROUND_S)
}
