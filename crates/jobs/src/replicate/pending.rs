//! What has changed at the source and is not at the destination yet, as the kernel tells it: in bounded memory, each thing once.

use crate::migrate::Part;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use sys::fanotify::{ATTRIB, CLOSE_WRITE, CREATE, MODIFY, NameEvent, ONDIR, Place, RENAME};
use sys::handle::RawHandle;

/// Names and handles that are kept. Beyond it all is looked at.
const MAX: usize = 200_000;
/// Names in one directory that are kept. Beyond it the directory is listed.
const MAX_NAMES: usize = 256;

/// Something that was renamed: from where it was at first to where it went at last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Move {
    pub(crate) handle: RawHandle,
    pub(crate) is_directory: bool,
    pub(crate) from: Place,
    pub(crate) to: Place,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Changed, or changed in, by handle.
    pub(crate) directories: HashMap<RawHandle, Part>,
    /// In the order in which they began.
    pub(crate) moves: Vec<Move>,
    moved: HashMap<RawHandle, usize>,
    /// Directories that were made meanwhile: the destination has nothing of them, whatever their names.
    born: HashSet<RawHandle>,
    kept: usize,
    /// Something was missed: all has to be looked at.
    pub(crate) whole: bool,
    /// A pass is under way: where the destination has something is not certain.
    pub(crate) in_pass: bool,
    /// Since the start.
    pub(crate) events: u64,
}

impl Pending {
    /// What there is; it is forgotten here.
    pub(crate) fn take(&mut self) -> Self {
        let rest = Self { events: self.events, in_pass: self.in_pass, ..Self::default() };
        std::mem::replace(self, rest)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.moves.is_empty() && !self.whole
    }

    /// To be looked at once more.
    pub(crate) fn put_back(&mut self, directories: HashMap<RawHandle, Part>) {
        for (handle, part) in directories {
            self.kept += 1 + if let Part::Names(names) = &part { names.len() } else { 0 };
            match self.directories.entry(handle) {
                Entry::Occupied(mut known) => known.get_mut().join(part),
                Entry::Vacant(free) => drop(free.insert(part)),
            }
        }
    }

    /// All has to be looked at, so nothing else need be known.
    pub(crate) fn miss(&mut self) {
        *self = Self { whole: true, events: self.events, in_pass: self.in_pass, ..Self::default() };
    }

    pub(crate) fn note(&mut self, event: NameEvent) {
        self.events += 1;
        if event.overflow {
            return self.miss();
        }
        let is_directory = event.mask & ONDIR != 0;
        match (event.mask & RENAME != 0, event.place, event.old_place) {
            (true, Some(to), Some(from)) => self.renamed(event.handle, is_directory, from, to),
            (_, Some(place), _) => {
                if event.mask & CREATE != 0
                    && is_directory
                    && let Some(handle) = event.handle
                    && self.born.insert(handle)
                {
                    self.kept += 1;
                }
                self.changed(place);
            }
            // The number of names of a file changed, which is told with those names, too.
            (false, None, _) if event.mask & (MODIFY | CLOSE_WRITE | ONDIR) == 0 && event.mask & ATTRIB != 0 => {}
            _ => self.miss(),
        }
        if self.kept > MAX {
            self.miss();
        }
    }

    fn changed(&mut self, Place { directory, name }: Place) {
        let part = self.directories.entry(directory).or_insert_with(|| {
            self.kept += 1;
            Part::Names(BTreeSet::new())
        });
        if let Part::Names(names) = part
            && !name.is_empty()
        {
            if names.len() >= MAX_NAMES {
                *part = Part::Listed;
            } else if names.insert(name.into()) {
                self.kept += 1;
            }
        }
    }

    fn renamed(&mut self, handle: Option<RawHandle>, is_directory: bool, from: Place, to: Place) {
        self.changed(from.clone());
        self.changed(to.clone());
        let Some(handle) = handle else {
            return if is_directory {
                self.miss()
            };
        };
        if self.in_pass {
            // The pass may have met it at both places, or at none.
            if is_directory {
                self.directories.insert(handle, Part::Whole);
                self.kept += 1;
            }
        } else if let Some(known) = self.moved.get(&handle).and_then(|at| self.moves.get_mut(*at)) {
            known.to = to;
        } else if !self.born.contains(&handle) {
            self.moved.insert(handle.clone(), self.moves.len());
            self.moves.push(Move { handle, is_directory, from, to });
            self.kept += 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(number: u8) -> RawHandle {
        RawHandle { kind: 1, bytes: vec![number] }
    }

    fn place(directory: u8, name: &str) -> Place {
        Place { directory: handle(directory), name: name.as_bytes().to_vec() }
    }

    fn event(mask: u64, of: u8, at: Place, from: Option<Place>) -> NameEvent {
        NameEvent { mask, place: Some(at), old_place: from, handle: Some(handle(of)), overflow: false }
    }

    #[test]
    fn a_thing_that_moves_on_is_where_it_was_at_first() {
        let mut pending = Pending::default();
        pending.note(event(RENAME | ONDIR, 9, place(2, "b"), Some(place(1, "a"))));
        pending.note(event(RENAME | ONDIR, 9, place(3, "c"), Some(place(2, "b"))));
        assert_eq!(
            pending.moves,
            [Move { handle: handle(9), is_directory: true, from: place(1, "a"), to: place(3, "c") }]
        );
        assert_eq!(pending.directories.len(), 3);
        let taken = pending.take();
        assert!(pending.is_empty() && !taken.is_empty());
        // What was made meanwhile was nowhere.
        pending.note(event(CREATE | ONDIR, 9, place(1, "a"), None));
        pending.note(event(RENAME | ONDIR, 9, place(2, "b"), Some(place(1, "a"))));
        assert_eq!(pending.moves, []);
    }

    #[test]
    fn what_is_too_much_is_all() {
        let mut pending = Pending::default();
        for number in 0..MAX_NAMES as u32 * 2 {
            pending.note(event(MODIFY, 9, place(1, &number.to_string()), None));
        }
        assert_eq!(pending.directories.values().collect::<Vec<_>>(), [&Part::Listed]);
        assert!(!pending.whole);
        for number in 0..MAX as u32 {
            let directory = RawHandle { kind: 1, bytes: number.to_ne_bytes().to_vec() };
            pending.note(event(CREATE, 9, Place { directory, name: b"x".to_vec() }, None));
        }
        assert!(pending.whole && pending.directories.len() <= MAX);
        pending.take();
        pending.note(NameEvent { mask: 0, place: None, old_place: None, handle: None, overflow: true });
        assert!(pending.take().whole);
        // The last name of an open file is gone; then it is written to.
        pending.note(NameEvent { mask: ATTRIB, place: None, old_place: None, handle: None, overflow: false });
        assert!(pending.is_empty());
        pending.note(NameEvent { mask: MODIFY, place: None, old_place: None, handle: None, overflow: false });
        assert!(pending.whole);
    }
}
