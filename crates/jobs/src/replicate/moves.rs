//! Renames at the source, done at the destination, too, instead of a removal and a copy.
//!
//! All that was renamed is taken away from where the destination has it, and then put where the source has it now: so names that were exchanged are no
//! matter. What cannot be done so is left to the refreshing of the directories that follows, which copies it. What a crash leaves in between is kept
//! with the removed things.

use super::pending::Move;
use crate::migrate::{Attic, open_directory};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::handle::{RawHandle, name_to_handle, name_to_handle_at, open_by_handle};
use sys::{Mode, OFlags};

/// Moved directories in moved directories.
const MAX_DEPTH: u32 = 64;

/// Where a directory of the source is.
pub(crate) enum Whereabouts {
    /// The way from the root.
    At(Vec<u8>),
    /// It is no more, or not below the root.
    Nowhere,
    /// It is on its way, perhaps.
    Unclear,
}

/// Finds directories of the source by their handles.
pub(crate) struct Finder {
    root: OwnedFd,
    path: Vec<u8>,
}

impl Finder {
    pub(crate) fn new(source: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(source, flags, Mode::empty())?;
        let path = path_of(root.as_fd())?;
        Ok(Self { root, path })
    }

    pub(crate) fn find(&self, directory: &RawHandle) -> Whereabouts {
        let opened = match open_by_handle(&self.root, directory, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(opened) => opened,
            Err(error) => {
                let gone = [Errno::STALE, Errno::NOENT, Errno::NOTDIR].map(Errno::raw_os_error);
                let is_gone = error.raw_os_error().is_some_and(|errno| gone.contains(&errno));
                return if is_gone { Whereabouts::Nowhere } else { Whereabouts::Unclear };
            }
        };
        let Ok(found) = sys::file::stamp(&opened) else { return Whereabouts::Unclear };
        if found.nlink == 0 {
            return Whereabouts::Nowhere;
        }
        // Its path may be longer than the kernel tells.
        let Ok(path) = path_of(opened.as_fd()) else { return Whereabouts::Unclear };
        let below = match path.strip_prefix(self.path.as_slice()) {
            Some(rest) if rest.is_empty() => rest,
            Some(rest) if self.path == b"/" => rest,
            Some(rest) => match rest.strip_prefix(b"/") {
                Some(rest) => rest,
                None => return Whereabouts::Nowhere,
            },
            None => return Whereabouts::Nowhere,
        };
        let there = open_directory(self.root.as_fd(), below).and_then(sys::file::stamp);
        match there {
            Ok(there) if (there.dev, there.ino) == (found.dev, found.ino) => Whereabouts::At(below.to_vec()),
            _ => Whereabouts::Unclear,
        }
    }

    fn at(&self, directory: &RawHandle) -> Option<Vec<u8>> {
        match self.find(directory) {
            Whereabouts::At(path) => Some(path),
            Whereabouts::Nowhere | Whereabouts::Unclear => None,
        }
    }
}

fn path_of(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::readlink(link, Vec::new())?.into_bytes())
}

/// One batch of them.
pub(crate) struct Moving<'a> {
    finder: &'a Finder,
    target: OwnedFd,
    /// On the destination's filesystem, and empty.
    staging: OwnedFd,
    /// Its way from the root of the destination.
    staging_path: &'a str,
    attic: Option<&'a Attic>,
    /// So many names may a file of the destination have outside of it.
    names_outside: u64,
    /// Directories that are not where the source has them.
    away: HashMap<RawHandle, Away>,
    /// By their ways: made here, so that the destination has something to put things into. All in them has to be looked at.
    pub(crate) made: HashSet<Vec<u8>>,
}

#[derive(Clone)]
enum Away {
    /// Where the source had it before.
    Before(Move),
    /// By this number.
    Staged(usize),
}

impl<'a> Moving<'a> {
    pub(crate) fn new(
        finder: &'a Finder,
        target: OwnedFd,
        staging: OwnedFd,
        staging_path: &'a str,
        attic: Option<&'a Attic>,
        names_outside: u64,
    ) -> Self {
        Self { finder, target, staging, staging_path, attic, names_outside, away: HashMap::new(), made: HashSet::new() }
    }

    /// Does them. How many were done; the rest is for whoever refreshes the directories.
    pub(crate) fn run(&mut self, moves: &[Move]) -> io::Result<u64> {
        self.clear()?;
        let directories = moves.iter().filter(|one| one.is_directory);
        self.away = directories.map(|one| (one.handle.clone(), Away::Before(one.clone()))).collect();
        let mut staged = Vec::new();
        for (number, one) in moves.iter().enumerate() {
            // What left the tree is removed with the rest, and what is on its way comes later.
            if self.home(one).is_none() {
                continue;
            }
            match self.stage(number, one) {
                Ok(true) => {
                    if one.is_directory {
                        self.away.insert(one.handle.clone(), Away::Staged(number));
                    }
                    staged.push((number, one));
                }
                // The destination never had it there: it comes with its new directory.
                Ok(false) => drop(self.away.remove(&one.handle)),
                Err(error) => {
                    tracing::debug!(%error, "a rename is not repeated at the destination");
                    self.away.remove(&one.handle);
                }
            }
        }
        // From the top, so that what things are put into is there before them.
        let mut homes: Vec<_> = staged.into_iter().map(|(number, one)| (self.home(one), number, one)).collect();
        homes.sort_by_key(|(home, ..)| home.as_ref().map(|home| home.iter().filter(|byte| **byte == b'/').count()));
        let mut done = 0;
        for (home, number, one) in homes {
            if let Some(home) = home {
                match self.settle(number, &home) {
                    Ok(()) => done += 1,
                    Err(error) => tracing::debug!(%error, "a rename is not repeated at the destination"),
                }
            }
            self.away.remove(&one.handle);
        }
        self.clear()?;
        Ok(done)
    }

    /// Whether the destination had it.
    fn stage(&self, number: usize, one: &Move) -> io::Result<bool> {
        let Some(parent) = self.located(&one.from.directory, 0) else { return Ok(false) };
        let name = crate::walk::as_path(&one.from.name);
        let staged = open_directory(self.target.as_fd(), &parent).and_then(|parent| {
            let found = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_directory = rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Directory;
            // What has several names may have been renamed by another one.
            if is_directory != one.is_directory
                || !is_directory && found.st_nlink > self.names_outside.saturating_add(1)
            {
                return Ok(false);
            }
            sys::file::rename_noreplace(&parent, name, &self.staging, number.to_string())?;
            Ok(true)
        });
        match staged {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other,
        }
    }

    /// Where the destination has a directory of the source now.
    fn located(&self, directory: &RawHandle, depth: u32) -> Option<Vec<u8>> {
        let path = self.finder.at(directory)?;
        if self.away.is_empty() || depth > MAX_DEPTH {
            return self.away.is_empty().then_some(path);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = rustix::fs::openat(&self.finder.root, c".", flags, Mode::empty()).ok()?;
        // Below the last one on the way that is elsewhere: those above it need not be looked for.
        let (mut last, mut below) = (None, Vec::new());
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            at = rustix::fs::openat(&at, crate::walk::as_path(name), flags, Mode::empty()).ok()?;
            below = join(&below, name);
            if let Some(away) = self.away.get(&name_to_handle(&at).ok()?) {
                (last, below) = (Some(away), Vec::new());
            }
        }
        let found = match last {
            None => return Some(below),
            Some(Away::Staged(number)) => join(self.staging_path.as_bytes(), number.to_string().as_bytes()),
            Some(Away::Before(before)) => join(&self.located(&before.from.directory, depth + 1)?, &before.from.name),
        };
        Some(if below.is_empty() { found } else { join(&found, &below) })
    }

    /// Where the source has it; `None` if that is not certain, or nowhere.
    fn home(&self, one: &Move) -> Option<Vec<u8>> {
        let parent = self.finder.at(&one.to.directory)?;
        let there = open_directory(self.finder.root.as_fd(), &parent).ok()?;
        let handle = name_to_handle_at(&there, crate::walk::as_path(&one.to.name), false).ok()?;
        (handle == one.handle).then(|| join(&parent, &one.to.name))
    }

    fn settle(&mut self, number: usize, home: &[u8]) -> io::Result<()> {
        let (parent, name) = match home.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (home.get(..at).unwrap_or_default(), home.get(at + 1..).unwrap_or_default()),
            None => (&[][..], home),
        };
        let parent = self.open_or_make(parent)?;
        let (staged, name) = (PathBuf::from(number.to_string()), crate::walk::as_path(name));
        match sys::file::rename_noreplace(&self.staging, &staged, &parent, name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.discard(parent.as_fd(), name, home)?;
                sys::file::rename_noreplace(&self.staging, &staged, &parent, name)
            }
            other => other,
        }
    }

    fn open_or_make(&mut self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut at = open_directory(self.target.as_fd(), b"")?;
        let mut way = Vec::new();
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            way = join(&way, name);
            match rustix::fs::mkdirat(&at, crate::walk::as_path(name), Mode::RWXU) {
                Ok(()) => drop(self.made.insert(way.clone())),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            at = open_directory(at.as_fd(), name)?;
        }
        Ok(at)
    }

    fn discard(&self, parent: BorrowedFd<'_>, name: &Path, path: &[u8]) -> io::Result<()> {
        if let Some(attic) = self.attic {
            return attic.take(parent, name, path);
        }
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                crate::migrate::remove_tree(parent, std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str()), &|| false)
            }
            other => Ok(other?),
        }
    }

    /// Nothing stays in between.
    fn clear(&self) -> io::Result<()> {
        for name in crate::migrate::names_in(self.staging.as_fd())? {
            let path = [b"renamed/", &*name].concat();
            self.discard(self.staging.as_fd(), crate::walk::as_path(&name), &path)?;
        }
        Ok(())
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}
