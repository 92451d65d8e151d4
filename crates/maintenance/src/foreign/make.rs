//! From objects in a listing to released files.

use super::directories::OpenDirectories;
use super::name::path_of;
use super::{Counts, Import};
use crate::MaintenanceError;
use crate::import::{Attributes, dress};
use crate::released::{Place, Released, Unnamed, publish};
use crate::report::{Finding, Problem};
use coordinator::{FileState, handle_of, stamp_of};
use model::{ErrorKind, Identity, ObjectUrl};
use objects::foreign::Listed;
use rustix::fs::{AtFlags, FileType, RenameFlags};
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use transfer::TransferError;

/// Makes files; one for each thread.
pub(super) struct Maker<'a> {
    import: &'a Import<'a>,
    open: OpenDirectories,
    pub(super) counts: Counts,
}

/// An object that gets a file.
struct Wanted {
    path: String,
    identity: Identity,
    size: u64,
}

/// A released file that has no name yet.
struct Made {
    wanted: Wanted,
    file: Unnamed,
    dir: Arc<OwnedFd>,
    /// What it is to replace, under another name until then.
    old: Option<(OwnedFd, String)>,
}

/// What is at the place of an object's file.
enum There {
    /// The file that an import makes of this version.
    Same,
    /// The one of another version, as an import made it.
    Outdated,
    /// The one of another version, of which somebody has made something else since.
    Changed(&'static str),
    /// Something that is not this object's.
    Strange,
}

impl<'a> Maker<'a> {
    pub(super) fn new(import: &'a Import<'a>) -> Self {
        Self { import, open: OpenDirectories::default(), counts: Counts::default() }
    }

    /// Makes all of these. They share a sync.
    pub(super) fn group(&mut self, group: Vec<Listed>) -> Result<(), MaintenanceError> {
        let count = group.len() as u64;
        self.counts.objects += count;
        let mut made = Vec::with_capacity(group.len());
        for listed in group {
            let key = listed.key.clone();
            match self.prepare(listed) {
                Ok(file) => made.extend(file),
                Err(error @ (MaintenanceError::Unreachable(_) | MaintenanceError::Guard { .. })) => return Err(error),
                Err(error) => self.told(Problem::Failed, &key, error.to_string()),
            }
        }
        self.publish(made)?;
        self.import.watcher.advanced(count);
        Ok(())
    }

    fn publish(&mut self, made: Vec<Made>) -> Result<(), MaintenanceError> {
        let (rest, files): (Vec<_>, Vec<_>) =
            made.into_iter().map(|made| ((made.wanted, made.dir, made.old), made.file)).unzip();
        for ((wanted, dir, old), result) in rest.into_iter().zip(publish(files)?) {
            let is_new = old.is_none();
            let result = match (result, old) {
                (Ok(()), Some((old, aside))) => self.exchange(&wanted, &dir, &old, &aside),
                (result, _) => result.map(|()| true),
            };
            match result {
                Ok(true) if is_new => {
                    self.counts.files += 1;
                    self.counts.bytes += wanted.size;
                }
                Ok(true) => self.counts.replaced += 1,
                Ok(false) => self.found(Problem::Changed, &wanted, CHANGED_MEANWHILE),
                Err(MaintenanceError::Exists { .. }) => {
                    self.found(Problem::Conflict, &wanted, "something was made at its place meanwhile");
                }
                Err(error) => self.found(Problem::Failed, &wanted, error.to_string()),
            }
        }
        Ok(())
    }

    fn found(&mut self, problem: Problem, wanted: &Wanted, what: impl Into<String>) {
        self.counts.count(problem);
        let finding = Finding::new(problem, what.into()).at(wanted.path.as_bytes()).of(&wanted.identity.uuid);
        self.import.watcher.found(finding);
    }

    /// Of an object that has no path.
    fn told(&mut self, problem: Problem, key: &str, what: impl Into<String>) {
        self.counts.count(problem);
        let (scheme, bucket) = self.import.place;
        let url = format!("{}://{bucket}/{key}", scheme.name());
        self.import.watcher.found(Finding::new(problem, what.into()).of(url));
    }

    fn prepare(&mut self, listed: Listed) -> Result<Option<Made>, MaintenanceError> {
        let Import { options, target, place: (scheme, bucket), .. } = self.import;
        if options.ours.iter().any(|prefix| listed.key.starts_with(prefix)) {
            self.counts.ours += 1;
            return Ok(None);
        }
        if listed.key.ends_with('/') && listed.size == 0 {
            self.counts.markers += 1;
            return Ok(None);
        }
        let url = ObjectUrl::new(*scheme, bucket, &listed.key);
        let named = path_of(&listed.key, &options.prefix).map_err(str::to_owned).and_then(|path| {
            let url = url.map_err(|error| error.to_string())?;
            let version = listed.version.as_ref().map(|version| url.with_version(version)).transpose();
            Ok((path, url, version.map_err(|error| error.to_string())?.unwrap_or_default()))
        });
        let (path, url, version) = match named {
            Ok(named) => named,
            Err(why) => {
                self.told(Problem::BadName, &listed.key, why);
                return Ok(None);
            }
        };
        let identity = Identity { uuid: url.to_string(), hash: None, url: version };
        let wanted = Wanted { path: path.to_owned(), identity, size: listed.size };
        let there = match target.look(path) {
            Ok(there) => there,
            Err(error) => return self.in_the_way(&wanted, error),
        };
        let Some(there) = there else { return self.make(wanted, listed, None) };
        let failed = MaintenanceError::io("look at", target.shown(path));
        match judge(&there, &wanted, options.archive_id).map_err(failed)? {
            There::Same => self.counts.already += 1,
            There::Outdated => return self.make(wanted, listed, Some(there)),
            There::Changed(why) => self.found(Problem::Changed, &wanted, why),
            There::Strange => {
                self.found(Problem::Conflict, &wanted, "something else is at its place; it was left as it is");
            }
        }
        Ok(None)
    }

    /// A part of the path is no directory, or a symbolic link; anything else is an error.
    fn in_the_way(&mut self, wanted: &Wanted, error: io::Error) -> Result<Option<Made>, MaintenanceError> {
        if crate::rebuild::is_in_the_way(&error) {
            let what = "part of its path is no directory: perhaps there is an object of that name, too";
            self.found(Problem::Conflict, wanted, what);
            return Ok(None);
        }
        Err(MaintenanceError::io("make", self.import.target.shown(&wanted.path))(error))
    }

    /// A released file of it, without a name.
    fn make(
        &mut self,
        mut wanted: Wanted,
        listed: Listed,
        old: Option<OwnedFd>,
    ) -> Result<Option<Made>, MaintenanceError> {
        let Import { options, target, .. } = self.import;
        let Some(attributes) = self.attributes(&mut wanted, &listed)? else { return Ok(None) };
        if options.dry_run {
            match old {
                Some(_) => self.counts.replaced += 1,
                None => {
                    self.counts.files += 1;
                    self.counts.bytes += wanted.size;
                }
            }
            return Ok(None);
        }
        let (directory, name) = wanted.path.rsplit_once('/').unwrap_or(("", &wanted.path));
        let dir = match self.open.get(target, directory) {
            Ok(dir) => dir,
            Err(error) => return self.in_the_way(&wanted, error),
        };
        let shown = target.shown(&wanted.path);
        let aside = old.as_ref().map(|_| aside(name));
        if let Some(aside) = &aside {
            remove_leftover(&dir, aside).map_err(MaintenanceError::io("remove what was left beside", &shown))?;
        }
        let under = aside.as_deref().unwrap_or(name);
        let place = Place { dir: Arc::clone(&dir), name: under.into(), shown: shown.clone() };
        let released = Released {
            size: wanted.size,
            archive_id: options.archive_id,
            identity: wanted.identity.clone(),
            // Its object is never removed, whoever names it.
            shared: false,
        };
        let attributes = match &old {
            // Whoever has changed owner and mode meant it.
            Some(old) => kept(old, &attributes).map_err(MaintenanceError::io("look at", &shown))?,
            None => attributes,
        };
        let file = Unnamed::make(place, &released, |fd| dress(fd, &attributes, &shown))?;
        Ok(Some(Made { wanted, file, dir, old: old.zip(aside) }))
    }

    /// What the file is to be like; `None` when none is to be made of the object.
    fn attributes(&mut self, wanted: &mut Wanted, listed: &Listed) -> Result<Option<Attributes>, MaintenanceError> {
        let Import { options, defaults, foreign, .. } = self.import;
        if !options.attributes {
            return Ok(Some(defaults.with(&HashMap::new(), listed.modified)));
        }
        let described = foreign.describe(&listed.key).map_err(|error| self.explained(error))?;
        let Some(described) = described else {
            self.found(Problem::Failed, wanted, "it was removed from the bucket meanwhile");
            return Ok(None);
        };
        if described.is_ours() {
            self.counts.ours += 1;
            return Ok(None);
        }
        if described.version != listed.version || described.size != listed.size {
            self.found(Problem::Failed, wanted, "it was replaced in the bucket meanwhile: import it again");
            return Ok(None);
        }
        Ok(Some(defaults.with(&described.texts, listed.modified)))
    }

    /// Whether an error is of the whole bucket: then there is no point in going on.
    fn explained(&self, error: TransferError) -> MaintenanceError {
        let passes = |error: &TransferError| error.kind() == ErrorKind::Temporary;
        if passes(&error) && self.import.foreign.answers().is_err_and(|error| passes(&error)) {
            return MaintenanceError::Unreachable(error);
        }
        error.into()
    }

    /// Puts the new file, which is there under the name `aside`, in the place of the old one. `false`: the old one is not what it was any more, and stays.
    fn exchange(&self, wanted: &Wanted, dir: &OwnedFd, old: &OwnedFd, aside: &str) -> Result<bool, MaintenanceError> {
        let name = wanted.path.rsplit_once('/').map_or(wanted.path.as_str(), |(_, name)| name);
        let shown = self.import.target.shown(&wanted.path);
        let failed = |e: io::Error| MaintenanceError::io("replace", &shown)(e);
        let swap = || rustix::fs::renameat_with(dir, aside, dir, name, RenameFlags::EXCHANGE);
        swap().map_err(|e| failed(e.into()))?;
        // Who writes to it writes to the file, whatever its name: so it shows now, and nobody can begin any more.
        let flags = sys::OFlags::PATH | sys::OFlags::NOFOLLOW;
        let taken = sys::file::open_beneath(dir, aside, flags, sys::Mode::empty()).map_err(failed)?;
        let is_it = handle_of(&taken).and_then(|taken| Ok(taken == handle_of(old)?)).map_err(failed)?;
        let is_as_it_was = is_it && is_unmodified(old).map_err(failed)?;
        if !is_as_it_was {
            swap().map_err(|e| failed(e.into()))?;
        }
        rustix::fs::unlinkat(dir, aside, AtFlags::empty()).map_err(|e| failed(e.into()))?;
        Ok(is_as_it_was)
    }
}

const CHANGED_MEANWHILE: &str =
    "the object is another version now, and its file was changed meanwhile; the file was left as it is";

/// The name of what replaces, or was replaced by, a file: the same in each run, so that what a crash leaves is found.
fn aside(name: &str) -> String {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    format!(".sifaka-import-{:016x}", hasher.finish())
}

/// Removes what an import that was killed left under such a name; nothing else.
fn remove_leftover(dir: &OwnedFd, name: &str) -> io::Result<()> {
    let flags = sys::OFlags::PATH | sys::OFlags::NOFOLLOW;
    let there = match sys::file::open_beneath(dir, name, flags, sys::Mode::empty()) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let state = FileState::read(&there).map_err(io::Error::other)?;
    if state.hsm.is_released() && ObjectUrl::is_meant(&state.identity.uuid) && is_unmodified(&there)? {
        rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
    }
    Ok(())
}

fn judge(there: &OwnedFd, wanted: &Wanted, archive_id: u32) -> io::Result<There> {
    let stamp = sys::file::stamp(there)?;
    if FileType::from_raw_mode(stamp.mode) != FileType::RegularFile {
        return Ok(There::Strange);
    }
    let Ok(state) = FileState::read(there) else { return Ok(There::Strange) };
    if state.identity.uuid != wanted.identity.uuid || state.archive_id() != Some(archive_id) {
        return Ok(There::Strange);
    }
    let size = state.record.as_ref().map(|record| record.size);
    if state.identity.url == wanted.identity.url && size == Some(wanted.size) {
        return Ok(There::Same);
    }
    if !state.hsm.is_released() {
        return Ok(There::Changed(
            "the object is another version now, and the file has the content of the earlier one, or a changed one; it was left as it is",
        ));
    }
    if is_unmodified(there)? {
        Ok(There::Outdated)
    } else {
        Ok(There::Changed(
            "the object is another version now, and the file was touched since it was imported; it was left as it is",
        ))
    }
}

/// Whether a released file is as it was made, as far as its content is concerned.
fn is_unmodified(fd: impl AsFd) -> io::Result<bool> {
    let fd = fd.as_fd();
    let (handle, stamp) = (handle_of(fd)?, stamp_of(&sys::file::stamp(fd)?));
    let Ok(state) = FileState::read(fd) else { return Ok(false) };
    let as_recorded = state.record.as_ref().is_some_and(|r| r.size == stamp.size && r.mtime == stamp.mtime);
    Ok(state.hsm.is_released() && state.belongs_to(&handle) && as_recorded)
}

fn kept(old: &OwnedFd, new: &Attributes) -> io::Result<Attributes> {
    let stamp = sys::file::stamp(old)?;
    Ok(Attributes { uid: stamp.uid, gid: stamp.gid, mode: stamp.mode & 0o7777, ..new.clone() })
}
