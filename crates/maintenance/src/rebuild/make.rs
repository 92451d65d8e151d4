//! From names in the catalog to what they stand for, in the tree.

use super::catalog::{Link, Name};
use super::scan::problem_of;
use super::tree::{Directory, Making, OpenDirectories, Tree, split};
use super::{Counts, Options};
use crate::released::{Place, Released, Unnamed, publish};
use crate::report::{Finding, Problem, Watcher};
use crate::{Holdings, MaintenanceError};
use coordinator::{FileState, handle_of};
use model::{Digest, Identity, ObjectId};
use rustix::fs::{AtFlags, FileType};
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use sys::{Mode, OFlags};
use transfer::manifest::{Content, Kind, Manifest, apply};
use transfer::{Encoding, Head};

/// Makes names; one for each thread.
pub(crate) struct Maker<'a> {
    pub(crate) holdings: &'a dyn Holdings,
    pub(crate) tree: &'a Tree,
    pub(crate) options: &'a Options,
    pub(crate) watcher: &'a dyn Watcher,
    pub(crate) open: OpenDirectories,
    pub(crate) counts: Counts,
    /// Directories in which something was made.
    pub(crate) changed: HashSet<Vec<u8>>,
}

/// A released file that has no name yet.
struct Made {
    name: Name,
    file: Unnamed,
    size: u64,
}

impl Maker<'_> {
    fn found(&mut self, problem: Problem, name: &Name, what: impl Into<String>) {
        self.counts.count(problem);
        self.watcher.found(Finding::new(problem, what.into()).at(&name.path).of(&name.id));
    }

    /// Makes all of these. Released files share a sync.
    pub(crate) fn names(&mut self, names: Vec<Name>) -> Result<(), MaintenanceError> {
        let count = names.len() as u64;
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            match self.name(&name) {
                Ok(None) => {}
                Ok(Some((file, size))) => files.push(Made { name, file, size }),
                Err(error @ MaintenanceError::Unreachable(_)) => return Err(error),
                Err(error) => self.found(Problem::Failed, &name, error.to_string()),
            }
        }
        let (rest, unnamed): (Vec<_>, Vec<_>) =
            files.into_iter().map(|made| ((made.name, made.size), made.file)).unzip();
        for ((name, size), result) in rest.into_iter().zip(publish(unnamed)?) {
            match result {
                Ok(()) => {
                    self.counts.files += 1;
                    self.counts.bytes += size;
                    self.changed.insert(split(&name.path).0.to_vec());
                }
                Err(MaintenanceError::Exists { .. }) => {
                    self.found(Problem::Conflict, &name, "something was made at its place meanwhile");
                }
                Err(error) => self.found(Problem::Failed, &name, error.to_string()),
            }
        }
        self.watcher.advanced(count);
        Ok(())
    }

    fn name(&mut self, name: &Name) -> Result<Option<(Unnamed, u64)>, MaintenanceError> {
        let manifest = match self.manifest(&name.id) {
            Ok(manifest) => manifest,
            Err(error @ MaintenanceError::Unreachable(_)) => return Err(error),
            Err(error) => {
                self.found(problem_of(&error), name, error.to_string());
                return Ok(None);
            }
        };
        let shown = self.tree.shown(&name.path);
        let failed = MaintenanceError::io("look at", self.tree.shown(&name.path));
        let there = match self.tree.look(&name.path) {
            Ok(there) => there,
            Err(error) if is_in_the_way(&error) => {
                self.found(Problem::Conflict, name, "its directory is something else by now");
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        if let Some(there) = there {
            let same = is_same(&there, &manifest, &name.id, self.options.archive_id).map_err(failed)?;
            if !same {
                self.found(Problem::Conflict, name, "something else is at its place; it was left as it is");
                return Ok(None);
            }
            if manifest.content().is_none() && !self.options.dry_run {
                // Perhaps a run was killed between making and describing it.
                self.describe(&manifest, &there, name)?;
            }
            self.counts.already += 1;
            return Ok(None);
        }
        let (directory, last) = split(&name.path);
        let making = if self.options.dry_run { Making::No } else { Making::Yes };
        let dir = match self.open.get(self.tree, directory, making) {
            Ok(Directory::Open(dir)) if !self.options.dry_run => dir,
            Ok(_) => {
                self.would_make(&manifest);
                return Ok(None);
            }
            Err(error) if is_in_the_way(&error) => {
                self.found(Problem::Conflict, name, "its directory is something else by now");
                return Ok(None);
            }
            Err(error) => return Err(MaintenanceError::io("make the directory of", &shown)(error)),
        };
        if let Some(content) = manifest.content() {
            let place = Place { dir, name: last.to_owned(), shown };
            return self.released(place, &manifest, content, name).map(Some);
        }
        self.special(&dir, last, &manifest, name)?;
        self.counts.others += 1;
        self.changed.insert(directory.to_vec());
        Ok(None)
    }

    fn would_make(&mut self, manifest: &Manifest) {
        match manifest.content() {
            Some(content) => {
                self.counts.files += 1;
                self.counts.bytes += content.size;
            }
            None => self.counts.others += 1,
        }
    }

    pub(crate) fn manifest(&self, id: &str) -> Result<Manifest, MaintenanceError> {
        let gone = || MaintenanceError::ManifestGone { id: id.to_owned() };
        self.holdings.manifest(&ObjectId::parse(id)?)?.ok_or_else(gone)
    }

    /// The manifests of these, where there is an id, in their order: by several threads.
    pub(crate) fn manifests<'i>(
        &self,
        ids: impl Iterator<Item = Option<&'i str>>,
    ) -> Vec<Option<Result<Manifest, MaintenanceError>>> {
        let ids: Vec<_> = ids.collect();
        let share = ids.len().div_ceil(self.options.threads.max(1)).max(1);
        let read = |ids: &[Option<&str>]| ids.iter().map(|id| id.map(|id| self.manifest(id))).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let threads: Vec<_> = ids.chunks(share).map(|ids| scope.spawn(move || read(ids))).collect();
            let ended = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            ended.flat_map(|read| read.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    fn released(
        &mut self,
        place: Place,
        manifest: &Manifest,
        content: &Content,
        name: &Name,
    ) -> Result<(Unnamed, u64), MaintenanceError> {
        let hash = Some(Digest::Blake3(content.hash));
        let identity = Identity { uuid: name.id.clone(), hash, url: String::new() };
        let released =
            Released { size: content.size, archive_id: self.options.archive_id, identity, shared: self.options.shared };
        let shown = place.shown.clone();
        let mut unset = Vec::new();
        let file = Unnamed::make(place, &released, |fd| {
            unset = apply(manifest, fd, &shown)?;
            Ok(())
        })?;
        self.tell_unset(unset, manifest, name);
        Ok((file, content.size))
    }

    /// Links and special files: made under their names at once, since nothing of them can be misread meanwhile.
    fn special(
        &mut self,
        dir: &OwnedFd,
        last: &std::ffi::OsStr,
        manifest: &Manifest,
        name: &Name,
    ) -> Result<(), MaintenanceError> {
        let shown = self.tree.shown(&name.path);
        let node =
            |kind, major, minor| rustix::fs::mknodat(dir, last, kind, Mode::empty(), rustix::fs::makedev(major, minor));
        let made = match &manifest.kind {
            Kind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), dir, last),
            Kind::Fifo => node(FileType::Fifo, 0, 0),
            Kind::Socket => node(FileType::Socket, 0, 0),
            Kind::CharDevice(major, minor) => node(FileType::CharacterDevice, *major, *minor),
            Kind::BlockDevice(major, minor) => node(FileType::BlockDevice, *major, *minor),
            Kind::File(_) | Kind::Directory | Kind::HardLink => Ok(()),
        };
        made.map_err(|e| MaintenanceError::io("make", &shown)(e.into()))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let fd = sys::file::open_beneath(dir, last, flags, Mode::empty())
            .map_err(MaintenanceError::io("look at", &shown))?;
        self.describe(manifest, &fd, name)
    }

    /// Gives something its owner, mode, attributes and times.
    pub(crate) fn describe(&mut self, manifest: &Manifest, fd: impl AsFd, name: &Name) -> Result<(), MaintenanceError> {
        let unset = apply(manifest, fd, &self.tree.shown(&name.path))?;
        self.tell_unset(unset, manifest, name);
        Ok(())
    }

    fn tell_unset(&mut self, unset: Vec<transfer::manifest::Unset>, manifest: &Manifest, name: &Name) {
        for transfer::manifest::Unset { name: attribute, error } in unset {
            let attribute = String::from_utf8_lossy(&attribute).into_owned();
            self.found(Problem::Attribute, name, format!("attribute {attribute} cannot be set: {error}"));
        }
        if manifest.attributes_incomplete {
            self.found(Problem::Attribute, name, "some attributes were too large to be archived");
        }
    }

    /// Gives files their further names.
    pub(crate) fn links(&mut self, links: Vec<Link>) {
        let count = links.len() as u64;
        for link in links {
            let name = Name { path: link.path.clone(), id: link.id.clone() };
            if let Err(error) = self.link(&link, &name) {
                self.found(Problem::Failed, &name, error.to_string());
            }
        }
        self.watcher.advanced(count);
    }

    fn link(&mut self, link: &Link, name: &Name) -> Result<(), MaintenanceError> {
        let shown = self.tree.shown(&link.path);
        let failed = |error| MaintenanceError::io("make the link", &shown)(error);
        let looked = self.tree.look(&link.path).and_then(|there| Ok((there, self.tree.look(&link.of)?)));
        let (there, file) = match looked {
            Ok(looked) => looked,
            Err(error) if is_in_the_way(&error) => {
                self.found(Problem::Conflict, name, "its directory is something else by now");
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        };
        if self.options.dry_run {
            if there.is_some() {
                self.counts.already += 1;
            } else {
                self.counts.links += 1;
            }
            return Ok(());
        }
        let file = file.filter(|file| is_for(file, &link.id, self.options.archive_id));
        let Some(file) = file else {
            self.found(Problem::NoInode, name, "the file that it is another name of was not made");
            return Ok(());
        };
        if let Some(there) = there {
            let same = handle_of(&there).and_then(|there| Ok(there == handle_of(&file)?)).map_err(failed)?;
            if same {
                self.counts.already += 1;
            } else {
                self.found(Problem::Conflict, name, "something else is at its place; it was left as it is");
            }
            return Ok(());
        }
        let (directory, last) = split(&link.path);
        let Directory::Open(dir) = self.open.get(self.tree, directory, Making::Yes).map_err(failed)? else {
            return Ok(());
        };
        sys::file::link_fd(&file, &dir, last).map_err(failed)?;
        self.counts.links += 1;
        self.changed.insert(directory.to_vec());
        Ok(())
    }

    /// A released file of this name in a directory, for an object that nobody knows more of than its size, or whose manifest
    /// names no path.
    pub(crate) fn orphan(&mut self, dir: &Arc<OwnedFd>, name: &Name) -> Result<Option<Unnamed>, MaintenanceError> {
        let shown = self.tree.shown(&name.path);
        let exists = rustix::fs::statat(dir, name.id.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if exists {
            self.counts.already += 1;
            return Ok(None);
        }
        let place = Place { dir: Arc::clone(dir), name: name.id.as_str().into(), shown };
        let id = ObjectId::parse(&name.id)?;
        if let Ok(Some(manifest)) = self.holdings.manifest(&id)
            && let Some(content) = manifest.content()
        {
            return self.released(place, &manifest, content, name).map(|(file, _)| Some(file));
        }
        // Encoded objects do not say how long their content is.
        let head = self.holdings.head(&id)?.filter(|head| head.encoding == Encoding::Raw);
        let Some(Head { stored_bytes: size, .. }) = head else { return Ok(None) };
        let identity = Identity { uuid: name.id.clone(), ..Identity::default() };
        let released = Released { size, archive_id: self.options.archive_id, identity, shared: self.options.shared };
        Unnamed::make(place, &released, |_| Ok(())).map(Some)
    }
}

/// A part of the path is no directory.
pub(crate) fn is_in_the_way(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(errno, Some(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP))
}

/// Whether a file names this object.
fn is_for(fd: impl AsFd, id: &str, archive_id: u32) -> bool {
    FileState::read(fd).is_ok_and(|state| state.identity.uuid == id && state.archive_id() == Some(archive_id))
}

/// Whether what is there is what the manifest describes, as far as a rebuild makes it.
fn is_same(fd: &OwnedFd, manifest: &Manifest, id: &str, archive_id: u32) -> io::Result<bool> {
    let kind = FileType::from_raw_mode(sys::file::stamp(fd)?.mode);
    let device = |expected: FileType, major, minor| -> io::Result<bool> {
        let stat = rustix::fs::fstat(fd)?;
        Ok(kind == expected && stat.st_rdev == rustix::fs::makedev(major, minor))
    };
    match &manifest.kind {
        Kind::File(_) => Ok(kind == FileType::RegularFile && is_for(fd, id, archive_id)),
        Kind::Symlink(target) => {
            Ok(kind == FileType::Symlink && rustix::fs::readlinkat(fd, "", Vec::new())?.as_bytes() == target)
        }
        Kind::Fifo => Ok(kind == FileType::Fifo),
        Kind::Socket => Ok(kind == FileType::Socket),
        Kind::CharDevice(major, minor) => device(FileType::CharacterDevice, *major, *minor),
        Kind::BlockDevice(major, minor) => device(FileType::BlockDevice, *major, *minor),
        Kind::Directory | Kind::HardLink => Ok(false),
    }
}
