//! Some directories of two trees brought up to date, where it is known that nothing else has changed.

use super::spot::{Place, Scope, Spot};
use super::visit::Written;
use super::{End, Migration, Options, open_root, open_target};
use crate::failure::{Failure, JobError};
use crate::report::{Kind, Tally, Watcher};
use crate::walk::{self, Directory, Entry, Walker, as_path, kind_of};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use sys::file::stamp;

/// Directories that are open at a time.
const AT_A_TIME: usize = 128;

/// What is to be looked at in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// All in and below it.
    Whole,
    /// All in it, and in what the destination does not have of the directories in it.
    Listed,
    /// As that, and only these names.
    Names(BTreeSet<Box<[u8]>>),
}

impl Part {
    /// What is to be looked at if both are.
    pub(crate) fn join(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Whole, _) | (Self::Listed, Self::Names(_) | Self::Listed) => {}
            (Self::Names(names), Self::Names(more)) => names.extend(more),
            (_, other) => *self = other,
        }
    }
}

/// Brings these directories, by their ways from the root, up to date. Of a directory that is not there any more nothing is said: whoever removed it changed the one above.
///
/// # Errors
/// As [`super::migrate`].
pub(crate) fn refresh(
    source: &Path,
    target: &Path,
    parts: BTreeMap<Vec<u8>, Part>,
    options: &Options,
    (tally, watcher): (&Tally, &dyn Watcher),
    stop: &AtomicBool,
) -> Result<End, JobError> {
    let (root, made) = (open_root(source)?, open_target(target, false)?);
    let target_fd = open_root(target)?;
    let mut migration = Migration::new(options, tally, watcher, stop, target_fd, &made)?;
    migration.partial = true;
    migration.remember(source, &root, target)?;
    let again = root.try_clone().map_err(JobError::io("open", source))?;
    let above = Above::new(&root, &migration.target).map_err(JobError::io("open", source))?;
    migration.run_by(again, target, |walker| above.walk(walker, parts))
}

/// The two roots.
struct Above {
    source: OwnedFd,
    target: OwnedFd,
    root: Arc<Directory<Place>>,
}

impl Above {
    fn new(source: &OwnedFd, target: &OwnedFd) -> io::Result<Self> {
        let place = Place::new(Some(target.try_clone()?), false);
        let root = Directory::new(None, Box::default(), source.try_clone()?, stamp(source)?, place);
        Ok(Self { source: source.try_clone()?, target: target.try_clone()?, root: Arc::new(root) })
    }

    fn walk(&self, walker: &Walker<'_, Migration<'_>>, mut parts: BTreeMap<Vec<u8>, Part>) -> io::Result<()> {
        let wholes: Vec<Vec<u8>> =
            parts.iter().filter(|(_, part)| **part == Part::Whole).map(|(path, _)| path.clone()).collect();
        for whole in &wholes {
            parts.retain(|path, _| path == whole || !lies_below(path, whole));
        }
        let mut late: BTreeMap<Vec<u8>, Part> = BTreeMap::new();
        for group in chunks(parts) {
            let opened = group.into_iter().filter_map(|(path, part)| self.open(path, part, &mut late)).collect();
            walker.run_these(self.source.as_fd(), opened)?;
        }
        // What the destination did not have comes with what is above it.
        for group in chunks(late) {
            let nowhere = &mut BTreeMap::new();
            let opened = group.into_iter().filter_map(|(path, part)| self.open(path, part, nowhere)).collect();
            walker.run_these(self.source.as_fd(), opened)?;
        }
        Ok(())
    }

    /// `None`: it is not there any more, or not yet; then the directory above it that is goes to `late`.
    fn open<'a>(
        &self,
        path: Vec<u8>,
        part: Part,
        late: &mut BTreeMap<Vec<u8>, Part>,
    ) -> Option<walk::Part<Migration<'a>>> {
        let source = super::open_directory(self.source.as_fd(), &path).ok()?;
        let Ok(target) = super::open_directory(self.target.as_fd(), &path) else {
            let (above, missing) = self.nearest(&path)?;
            let names = Part::Names(BTreeSet::from([missing.into()]));
            late.entry(above).and_modify(|part| part.join(names.clone())).or_insert(names);
            return None;
        };
        let seen = stamp(&source).ok()?;
        let mut place = Place::new(Some(target), false);
        let entries = match part {
            Part::Whole => None,
            Part::Listed => {
                place.scope = Scope::Listed;
                None
            }
            Part::Names(names) => {
                place.scope = Scope::Named;
                let entry = |name| Entry { name, kind: FileType::Unknown };
                Some(names.into_iter().map(entry).collect())
            }
        };
        let parent = (!path.is_empty()).then(|| self.root.hold());
        Some((Arc::new(Directory::new(parent, path.into(), source, seen, place)), entries))
    }

    /// The nearest directory above `path` that the destination has, and what it does not have in it.
    fn nearest(&self, path: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut at = path;
        while !at.is_empty() {
            let (above, name) = super::links::split(at);
            if super::open_directory(self.target.as_fd(), above).is_ok() {
                return Some((above.to_vec(), name.to_vec()));
            }
            at = above;
        }
        None
    }
}

fn chunks(parts: BTreeMap<Vec<u8>, Part>) -> impl Iterator<Item = Vec<(Vec<u8>, Part)>> {
    let mut rest = parts.into_iter();
    std::iter::from_fn(move || {
        let group: Vec<_> = rest.by_ref().take(AT_A_TIME).collect();
        (!group.is_empty()).then_some(group)
    })
}

fn lies_below(path: &[u8], above: &[u8]) -> bool {
    above.is_empty() || path.strip_prefix(above).is_some_and(|rest| rest.starts_with(b"/"))
}

impl Migration<'_> {
    /// Does what is to be done about a name, whatever has it now.
    pub(super) fn named(
        &self,
        walk: &Walker<'_, Self>,
        directory: &Arc<Directory<Place>>,
        name: &[u8],
        written: &mut Vec<Written>,
    ) {
        if self.is_temporary(name) {
            return match kind_of(directory.fd(), name) {
                Ok(kind) if kind != FileType::Directory => {
                    self.entry(Some(walk), Spot::new(directory, name), kind, written);
                }
                _ => {}
            };
        }
        let done = match kind_of(directory.fd(), name) {
            Ok(FileType::Directory) => {
                if walk::Visitor::wants(self, directory, name) {
                    walk.also(directory, name);
                }
                return;
            }
            Ok(kind) => return self.entry(Some(walk), Spot::new(directory, name), kind, written),
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => self.gone(directory, name),
            Err(error) => Err(Failure::source("find")(error)),
        };
        if let Err(failure) = done {
            directory.mark_flawed();
            self.trouble_at(Kind::File, directory.shown(name), &failure);
        }
    }

    pub(super) fn is_directory_there(&self, parent: &Directory<Place>, name: &[u8]) -> bool {
        let Some(target) = parent.kept.fd() else { return false };
        sys::file::stamp_at(target, as_path(name)).is_ok_and(|found| super::file::is_directory(&found))
    }
}
