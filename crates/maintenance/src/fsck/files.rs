//! Files: what they name, and whether what they say of themselves can be.

use super::comparison::{Comparison, NamedBy};
use crate::Holdings;
use crate::walk::{Seen, Visitor, is_gone};
use coordinator::{FileState, Filesystem, handle_of};
use model::{Copies, FileHandle, HsmFlags, ObjectUrl, xattr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use sys::OFlags;
use sys::fanotify::{ChangeGroup, EventBuffer, MOVE_SELF};

/// Which parts of a released file are there: see the coordinator.
pub(crate) const RESIDENT: &str = "trusted.sifaka_resident";

/// Something that a file's own attributes say, and that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wrong {
    /// Released, and it names no object: its content is nowhere.
    ReleasedWithoutObject,
    /// It says that there is a copy, and names none.
    CopyWithoutObject,
    /// It has all its content, and a list of parts that are there.
    LeftoverResidency,
    /// It is marked lost; whether it is, the archive says.
    MarkedLost,
    /// An attribute is damaged.
    Damaged,
}

/// What a look at a file gives.
pub(crate) struct Look {
    pub(crate) state: Option<FileState>,
    pub(crate) wrong: Vec<Wrong>,
}

/// Looks at a file's attributes.
pub(crate) fn look(fd: impl AsFd) -> io::Result<Look> {
    let fd = fd.as_fd();
    let state = match FileState::read(fd) {
        Ok(state) => state,
        Err(coordinator::StateError::Io { source, .. }) => return Err(source),
        Err(coordinator::StateError::Damaged { .. }) => return Ok(Look { state: None, wrong: vec![Wrong::Damaged] }),
    };
    let mut wrong = Vec::new();
    let named = !(state.identity.uuid.is_empty() && state.identity.url.is_empty());
    let flags = state.hsm.flags;
    if state.hsm.is_released() && !named {
        wrong.push(Wrong::ReleasedWithoutObject);
    } else if !named && (flags.contains(HsmFlags::EXISTS) || flags.contains(HsmFlags::ARCHIVED)) {
        wrong.push(Wrong::CopyWithoutObject);
    }
    if named && flags.contains(HsmFlags::LOST) {
        wrong.push(Wrong::MarkedLost);
    }
    if !state.hsm.is_released() && sys::xattr::get(fd, RESIDENT)?.is_some() {
        wrong.push(Wrong::LeftoverResidency);
    }
    Ok(Look { state: Some(state), wrong })
}

/// Every object that a file names by any attribute, whatever archive it says: what somebody names is not removed. Of further
/// copies those in this archive; of what is named by its URL, as imported files do, what is where objects of this archive are.
pub(crate) fn named_by(fd: impl AsFd, archive_id: u32, holdings: &dyn Holdings) -> io::Result<Vec<String>> {
    let fd = fd.as_fd();
    let mut names = Vec::new();
    for attribute in [xattr::UUID, xattr::SHARED] {
        names.extend(sys::xattr::get(fd, attribute)?.and_then(|bytes| String::from_utf8(bytes).ok()));
    }
    let copies = sys::xattr::get(fd, xattr::COPIES)?.and_then(|bytes| Copies::decode(&bytes).ok()).unwrap_or_default();
    let here = copies.list.into_iter().filter(|copy| copy.archive_id == archive_id);
    names.extend(here.map(|copy| copy.identity.uuid));
    names.retain(|name| !name.is_empty());
    let by_id = |name: String| {
        let Ok(url) = ObjectUrl::parse(&name) else { return (!ObjectUrl::is_meant(&name)).then_some(name) };
        holdings.id_of(&url).map(|id| id.to_string())
    };
    Ok(names.into_iter().filter_map(by_id).collect())
}

/// The file's further copy in this archive.
pub(crate) fn copy_here(fd: impl AsFd, state: &FileState, archive_id: u32) -> Option<String> {
    let copies = coordinator::further_copies(fd, state);
    copies.into_iter().find(|copy| copy.archive_id == archive_id).map(|copy| copy.identity.uuid)
}

/// Opens a file by its handle, as a name. `None` when it is gone.
pub(crate) fn open(fs: &Filesystem, file: &FileHandle) -> io::Result<Option<OwnedFd>> {
    let raw = sys::handle::RawHandle { kind: file.kind, bytes: file.bytes.to_vec() };
    match sys::handle::open_by_handle(fs.root(), &raw, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a file is called that was found by its handle, having got another name meanwhile.
pub(crate) const MOVED: &[u8] = b"(moved meanwhile)";

/// Who looks at what a walk finds, besides. From any thread.
pub(crate) trait Onlooker: Sync {
    /// A file with HSM state; a file that names an object of the archive comes once, however many names it has.
    fn file(&self, file: &Seen, handle: &FileHandle);
    /// A regular file without.
    fn unmanaged(&self, path: &[u8], fd: &OwnedFd);
    /// Whether nothing more is to be looked at.
    fn is_stopped(&self) -> bool;
}

/// Collects what a walk finds.
pub(crate) struct Collector<'a> {
    pub(crate) archive_id: u32,
    pub(crate) holdings: &'a dyn Holdings,
    pub(crate) comparison: Mutex<Comparison>,
    pub(crate) names: Option<Names>,
    pub(crate) managed: AtomicU64,
    /// Files that name somebody else's object in this archive's bucket.
    pub(crate) imported: AtomicU64,
    pub(crate) troubles: Mutex<Troubles>,
    /// Files whose attributes are wrong.
    pub(crate) wrong: Mutex<Vec<(NamedBy, Vec<Wrong>)>>,
    pub(crate) watcher: &'a dyn crate::report::Watcher,
    pub(crate) onlooker: Option<&'a dyn Onlooker>,
}

/// Why the walk is not complete.
#[derive(Default)]
pub(crate) struct Troubles {
    pub(crate) count: u64,
    /// The first ones: path and error.
    pub(crate) first: Vec<(Vec<u8>, String)>,
    pub(crate) database: Option<rusqlite::Error>,
}

/// Kept of what a damaged filesystem could give by the million.
const MAX_KEPT: usize = 10_000;

impl Collector<'_> {
    pub(crate) fn comparison(&self) -> MutexGuard<'_, Comparison> {
        self.comparison.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, work: impl FnOnce(&Comparison) -> Result<(), rusqlite::Error>) {
        let done = work(&self.comparison());
        if let Err(error) = done {
            self.troubles.lock().unwrap_or_else(PoisonError::into_inner).database.get_or_insert(error);
        }
    }

    /// Looks at it, and notes every object that it names by any attribute.
    fn note(&self, seen: &Seen) -> io::Result<()> {
        let own = handle_of(&seen.fd)?;
        let Look { state, wrong } = look(&seen.fd)?;
        let names = named_by(&seen.fd, self.archive_id, self.holdings)?;
        let uuid = state.as_ref().map(|state| state.identity.uuid.clone()).unwrap_or_default();
        let file = NamedBy { handle: own, path: seen.path.clone(), uuid };
        // The file's own object, and not one that its attributes were copied with. Released, it is believed: see `judge`.
        let owns = state.as_ref().is_some_and(|state| {
            let here = state.archive_id() == Some(self.archive_id);
            here && (state.belongs_to(&file.handle) || state.hsm.is_released())
        });
        let is_imported = ObjectUrl::is_meant(&file.uuid);
        if owns && is_imported {
            self.imported.fetch_add(1, Ordering::Relaxed);
        }
        let bound = |state: &&FileState| state.belongs_to(&file.handle);
        let further = state.as_ref().filter(bound).and_then(|state| copy_here(&seen.fd, state, self.archive_id));
        let mut is_known = false;
        self.store(|comparison| {
            names.iter().try_for_each(|name| comparison.add_name(name))?;
            is_known = self.onlooker.is_some() && comparison.has_file(&file.handle)?;
            if owns && !file.uuid.is_empty() && !is_imported {
                comparison.add_file(&file)
            } else if let Some(uuid) = further {
                comparison.add_file(&NamedBy { uuid, ..file.clone() })
            } else {
                Ok(())
            }
        });
        if let Some(onlooker) = self.onlooker.filter(|_| !is_known) {
            onlooker.file(seen, &file.handle);
        }
        if !wrong.is_empty() {
            let mut all = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() < MAX_KEPT {
                all.push((file, wrong));
            }
        }
        Ok(())
    }
}

impl Visitor for Collector<'_> {
    fn file(&self, file: Seen) {
        self.managed.fetch_add(1, Ordering::Relaxed);
        match self.note(&file) {
            Err(error) if !is_gone(&error) => self.trouble(&file.path, &error),
            _ => {}
        }
    }

    fn unmanaged(&self, path: &[u8], fd: &OwnedFd) {
        if let Some(onlooker) = self.onlooker {
            onlooker.unmanaged(path, fd);
        }
    }

    fn is_stopped(&self) -> bool {
        self.onlooker.is_some_and(Onlooker::is_stopped)
    }

    fn trouble(&self, path: &[u8], error: &io::Error) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.count += 1;
        if troubles.first.len() < MAX_KEPT {
            troubles.first.push((path.to_vec(), error.to_string()));
        }
    }

    fn passed(&self, entries: u64) {
        self.watcher.advanced(entries);
        if let Some(names) = &self.names {
            self.store(|comparison| names.drain(comparison));
        }
    }
}

/// Watches for what gets another name while a walk goes on.
pub(crate) struct Names {
    group: ChangeGroup,
    state: Mutex<NamesState>,
}

struct NamesState {
    buffer: EventBuffer,
    lost: bool,
}

impl Names {
    pub(crate) fn watch(fs: &Filesystem) -> io::Result<Self> {
        let group = ChangeGroup::new()?;
        group.mark_names(fs.root())?;
        let state = Mutex::new(NamesState { buffer: EventBuffer::with_capacity(64 << 10), lost: false });
        Ok(Self { group, state })
    }

    /// Takes what has come together.
    pub(crate) fn drain(&self, comparison: &Comparison) -> Result<(), rusqlite::Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let events = match self.group.read(&mut state.buffer) {
                Ok(events) if events.len() > 0 => events,
                Ok(_) => return Ok(()),
                Err(_) => {
                    state.lost = true;
                    return Ok(());
                }
            };
            for event in events {
                state.lost |= event.overflow;
                if let Some(raw) = event.handle {
                    let handle = FileHandle { kind: raw.kind, bytes: raw.bytes.into_iter().collect() };
                    comparison.add_moved(&handle, event.mask & MOVE_SELF != 0)?;
                }
            }
        }
    }

    /// Whether something was missed.
    pub(crate) fn lost(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).lost
    }
}
