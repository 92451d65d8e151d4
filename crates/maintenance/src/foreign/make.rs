//! From objects in a listing to released files.

use super::directories::OpenDirectories;
use super::name::path_of;
use super::replace::{Old, aside, bequeath, is_there, is_untouched, kept, remove_leftover, replace};
use super::{Counts, Import};
use crate::MaintenanceError;
use crate::import::{Attributes, dress};
use crate::observers::Guards;
use crate::released::{Place, Released, Unnamed, publish};
use crate::report::{Finding, Problem};
use coordinator::{FileState, handle_of};
use model::{ErrorKind, Identity, ObjectUrl, Scheme};
use objects::foreign::{Described, Listed};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
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
    old: Option<Old>,
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
        // Directories are looked up again for each group: somebody may have moved them out of the target meanwhile.
        self.open = OpenDirectories::default();
        let count = group.len() as u64;
        self.counts.objects += count;
        let mut made = Vec::with_capacity(group.len());
        for listed in group {
            let key = listed.key.clone();
            match self.prepare(listed) {
                Ok(file) => made.extend(file),
                Err(error @ (MaintenanceError::Unreachable(_) | MaintenanceError::Guard { .. })) => return Err(error),
                Err(error) if self.ends_all(&error) => return Err(error),
                Err(MaintenanceError::State { source, .. }) if source.errno() == Errno::NOSPC.raw_os_error() => {
                    self.told(Problem::Failed, &key, TOO_LONG);
                }
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
        let published = publish(files)?;
        // For as short as can be: a guard's events do not end with it while others hold them.
        let guards = if rest.iter().any(|(.., old)| old.is_some()) { Guards::find()? } else { Guards::default() };
        // What has its name already is finished in any case.
        let mut over = Ok(());
        for ((wanted, dir, old), result) in rest.into_iter().zip(published) {
            let is_new = old.is_none();
            let result = match (result, old) {
                (Ok(()), Some(old)) => {
                    let shown = self.import.target.shown(&wanted.path);
                    replace(&guards, &dir, name_of(&wanted.path), &old).map_err(MaintenanceError::io("replace", shown))
                }
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
                    let what = if is_new {
                        "something was made at its place meanwhile".to_owned()
                    } else {
                        format!("something was made as {} beside it meanwhile", aside(name_of(&wanted.path)))
                    };
                    self.found(Problem::Conflict, &wanted, what);
                }
                Err(error) if self.ends_all(&error) => over = Err(error),
                Err(error) => self.found(Problem::Failed, &wanted, error.to_string()),
            }
        }
        over
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

    fn prepare(&mut self, mut listed: Listed) -> Result<Option<Made>, MaintenanceError> {
        let Import { options, target, place: (scheme, bucket), .. } = self.import;
        if options.ours.iter().any(|prefix| listed.key.starts_with(prefix)) {
            self.counts.ours += 1;
            return Ok(None);
        }
        if listed.size == 0 && (listed.key.ends_with('/') || self.is_directory_of_azure(&listed.key)?) {
            self.counts.markers += 1;
            return Ok(None);
        }
        if listed.version.is_none() && path_of(&listed.key, &options.prefix).is_ok() {
            // Some services' listings do not tell it. A file of no version would be one of any.
            let Some(described) = self.describe(&listed.key)?.filter(|described| described.version.is_some()) else {
                let why = "the service does not tell which version it is, or it was removed meanwhile";
                self.told(Problem::Failed, &listed.key, why);
                return Ok(None);
            };
            (listed.version, listed.size) = (described.version, described.size);
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
        self.clear_beside(&wanted)?;
        Ok(None)
    }

    /// Removes what an import that was killed left beside a file that stays.
    fn clear_beside(&mut self, wanted: &Wanted) -> Result<(), MaintenanceError> {
        let Import { options, target, .. } = self.import;
        let (directory, name) = split(&wanted.path);
        let aside = aside(name);
        let shown = target.shown(&wanted.path);
        let beside = if directory.is_empty() { aside.clone() } else { format!("{directory}/{aside}") };
        let failed = |error: io::Error| MaintenanceError::io("remove what was left beside", &shown)(error);
        if options.dry_run || target.look(&beside).map_err(failed)?.is_none() {
            return Ok(());
        }
        let dir = self.open.get(target, directory).map_err(failed)?;
        if !remove_leftover(&Guards::find()?, &dir, &aside).map_err(failed)? {
            self.found(Problem::Conflict, wanted, left_beside(&aside));
        }
        Ok(())
    }

    /// A part of the path is no directory, or a symbolic link; anything else is an error.
    fn in_the_way(&mut self, wanted: &Wanted, error: io::Error) -> Result<Option<Made>, MaintenanceError> {
        if crate::rebuild::is_in_the_way(&error) {
            let what = "part of its path is no directory: perhaps there is an object of that name, too";
            self.found(Problem::Conflict, wanted, what);
            return Ok(None);
        }
        if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) {
            let what = "something else is mounted on part of its path: import into that by itself";
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
        let (directory, name) = split(&wanted.path);
        let dir = match self.open.get(target, directory) {
            Ok(dir) => dir,
            Err(error) => return self.in_the_way(&wanted, error),
        };
        let shown = target.shown(&wanted.path);
        let aside = old.as_ref().map(|_| aside(name));
        let failed = MaintenanceError::io("remove what was left beside", &shown);
        if let Some(aside) = aside.as_ref().filter(|aside| is_there(&dir, aside))
            && !remove_leftover(&Guards::find()?, &dir, aside).map_err(failed)?
        {
            self.found(Problem::Conflict, &wanted, left_beside(aside));
            return Ok(None);
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
            Some(old) => kept(old, &attributes).map_err(MaintenanceError::io("look at", &shown))?,
            None => attributes,
        };
        let file = Unnamed::make(place, &released, |fd| {
            dress(fd, &attributes, &shown)?;
            let keep = |old| bequeath(old, fd).map_err(MaintenanceError::io("make anew", &shown));
            old.as_ref().map_or(Ok(()), keep)
        })?;
        let new = handle_of(&file).map_err(MaintenanceError::io("look at", &shown))?;
        let old = old.zip(aside).map(|(fd, aside)| Old { fd, aside, new });
        Ok(Some(Made { wanted, file, dir, old }))
    }

    /// What the file is to be like; `None` when none is to be made of the object.
    fn attributes(&mut self, wanted: &mut Wanted, listed: &Listed) -> Result<Option<Attributes>, MaintenanceError> {
        let Import { options, defaults, .. } = self.import;
        if !options.attributes {
            return Ok(Some(defaults.with(&HashMap::new(), listed.modified)));
        }
        let Some(described) = self.describe(&listed.key)? else {
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

    fn describe(&self, key: &str) -> Result<Option<Described>, MaintenanceError> {
        self.import.foreign.describe(key).map_err(|error| self.explained(error))
    }

    /// Accounts with a hierarchical namespace list directories as empty blobs. `key` is of an empty one.
    fn is_directory_of_azure(&self, key: &str) -> Result<bool, MaintenanceError> {
        if self.import.place.0 != Scheme::Azure || path_of(key, &self.import.options.prefix).is_err() {
            return Ok(false);
        }
        let says_so = |texts: &HashMap<String, String>| {
            texts.get("hdi_isfolder").is_some_and(|text| text.eq_ignore_ascii_case("true"))
        };
        Ok(self.describe(key)?.is_some_and(|described| described.size == 0 && says_so(&described.texts)))
    }

    /// Whether nothing else can be made either.
    fn ends_all(&self, error: &MaintenanceError) -> bool {
        match error {
            MaintenanceError::Io { source, .. } => source.raw_os_error().is_some_and(is_everybodys),
            MaintenanceError::State { source, .. } => {
                // A name that is too long for ext4's attributes is called the same as a full disk.
                let is_full = || self.import.target.is_full();
                is_everybodys(source.errno()) && (source.errno() != Errno::NOSPC.raw_os_error() || is_full())
            }
            _ => false,
        }
    }

    /// Whether an error is of the whole bucket: then there is no point in going on.
    fn explained(&self, error: TransferError) -> MaintenanceError {
        let passes = |error: &TransferError| error.kind() == ErrorKind::Temporary;
        if passes(&error) && self.import.foreign.answers().is_err_and(|error| passes(&error)) {
            return MaintenanceError::Unreachable(error);
        }
        error.into()
    }
}

const CHANGED_MEANWHILE: &str = "the object is another version now, and its file was changed meanwhile, or somebody has it open; the file was left as it is: import again";

const TOO_LONG: &str = "its key is too long for this filesystem: a file's attributes have the object's URL twice, and there is no room for that";

fn left_beside(aside: &str) -> String {
    format!(
        "{aside} beside it was left by an import that was killed, or is somebody's, and was used since: look at it, and remove it"
    )
}

/// The directory, and the name in it.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn name_of(path: &str) -> &str {
    split(path).1
}

/// Whether an error is none of one file alone.
fn is_everybodys(errno: i32) -> bool {
    const ENDS: [Errno; 5] = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::MFILE, Errno::NFILE];
    ENDS.contains(&Errno::from_raw_os_error(errno))
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
    if !coordinator::further_copies(there, &state).is_empty() {
        return Ok(There::Changed(
            "the object is another version now, and other archives have copies of the earlier one; the file was left as it is",
        ));
    }
    if stamp.nlink > 1 {
        return Ok(There::Changed(
            "the object is another version now, and the file has further names; it was left as it is",
        ));
    }
    if is_untouched(there)? {
        Ok(There::Outdated)
    } else {
        Ok(There::Changed(
            "the object is another version now, and the file was touched since it was imported; it was left as it is",
        ))
    }
}
