//! Snapshots: after each archive a released file beside the original that names the same object, so that the version stays readable
//! when the original has moved on.
//!
//! They are made after the archive is recorded, on a thread of their own: an archive neither waits for its snapshot nor fails with it. A
//! crash between the two leaves out that one. Removing them is the administrator's: an object goes with the last file that names it.

use crate::engine::{Msg, Shared, Target};
use crate::filesystem::handle_of;
use crate::named::{Make, NewName, Source, make_all};
use crate::newfile::EEXIST;
use crate::prepare::system;
use crate::state::FileState;
use model::{Failure, FileHandle, SNAPSHOT_DIRECTORY, Timestamp, snapshot_name};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use sys::{Mode, OFlags};

/// Made together at most.
const BATCH: usize = 256;

/// A version that was archived.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) file: FileHandle,
    /// Where it was when it was archived; empty when nobody knew.
    pub(crate) tree_path: Vec<u8>,
}

/// The thread that makes them; ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Snapshots {
    wanted: Sender<Snapshot>,
}

impl Snapshots {
    pub(crate) fn start(shared: Arc<Shared>, messages: Sender<Msg>) -> io::Result<Self> {
        let (wanted, incoming) = channel();
        std::thread::Builder::new().name("snapshots".into()).spawn(move || run(&shared, &messages, &incoming))?;
        Ok(Self { wanted })
    }

    pub(crate) fn make(&self, snapshot: Snapshot) {
        let _ = self.wanted.send(snapshot);
    }
}

fn run(shared: &Arc<Shared>, messages: &Sender<Msg>, incoming: &Receiver<Snapshot>) {
    while let Ok(first) = incoming.recv() {
        let batch: Vec<_> = std::iter::once(first).chain(incoming.try_iter().take(BATCH - 1)).collect();
        let mut makes = Vec::new();
        for snapshot in batch {
            let path = String::from_utf8_lossy(&snapshot.tree_path).into_owned();
            match plan(shared, snapshot) {
                Ok(Some(make)) => makes.push(make),
                Ok(None) => {}
                Err(failure) => report(&path, &failure),
            }
        }
        make(shared, messages, makes, true);
    }
}

fn report(path: &str, failure: &Failure) {
    tracing::warn!(path, %failure, "no snapshot of the archived version was made; the archive itself is done");
}

fn make(shared: &Arc<Shared>, messages: &Sender<Msg>, makes: Vec<Make>, may_rename: bool) {
    let results = make_all(shared, messages, &makes);
    let mut again = Vec::new();
    for (make, result) in makes.into_iter().zip(results) {
        match result {
            Ok(()) => {}
            // Another version of the same second, or the same one, archived by force.
            Err(failure) if failure.errno == EEXIST && may_rename => again.extend(with_fraction(shared, make)),
            Err(failure) => report(&make.at.path, &failure),
        }
    }
    if !again.is_empty() {
        self::make(shared, messages, again, false);
    }
}

/// Where the version's snapshot belongs. `None`: it is one itself.
fn plan(shared: &Shared, snapshot: Snapshot) -> Result<Option<Make>, Failure> {
    let gone = || Failure::permanent(2, "it has no name that is known");
    let file = shared.fs.open(&snapshot.file, OFlags::PATH).map_err(|e| system("opening it by its handle", &e))?;
    // It may have been renamed meanwhile.
    let path = shared.fs.tree_path(&file).unwrap_or(snapshot.tree_path);
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (&b"."[..], path.as_slice()),
    };
    if name.is_empty() {
        return Err(gone());
    }
    if Path::new(OsStr::from_bytes(parent)).file_name() == Some(OsStr::new(SNAPSHOT_DIRECTORY)) {
        return Ok(None);
    }
    let directory = directory(shared, parent).map_err(|e| system("making its .hsmsnapshot", &e))?;
    let directory = handle_of(&directory).map_err(|e| system("naming its .hsmsnapshot", &e))?;
    let stamp = sys::file::stamp(&file).map_err(|e| system("looking at it", &e))?;
    let mtime = Timestamp { seconds: stamp.mtime.0, nanos: stamp.mtime.1 };
    let name = snapshot_name(name, mtime, false);
    let path = String::from_utf8_lossy(&path).into_owned();
    let source = Source::File(Target { handle: snapshot.file, path: path.clone() });
    Ok(Some(Make { source, at: NewName { directory, name, path } }))
}

/// `parent/.hsmsnapshot`, made if it is not there. Symbolic links lead nowhere.
fn directory(shared: &Shared, parent: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let parent = sys::file::open_beneath(shared.fs.root(), Path::new(OsStr::from_bytes(parent)), flags, Mode::empty())?;
    sys::directory::open_or_make(&parent, Path::new(SNAPSHOT_DIRECTORY))
}

/// The same with the time to the nanosecond; `None` when the snapshot that is there has this object.
fn with_fraction(shared: &Shared, make: Make) -> Option<Make> {
    let Source::File(source) = &make.source else { return None };
    let file = shared.fs.open(&source.handle, OFlags::PATH).ok()?;
    let directory = shared.fs.open_directory(&make.at.directory).ok()?;
    let own = FileState::read(&file).ok()?.identity.uuid;
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let there = sys::file::open_beneath(&directory, Path::new(OsStr::from_bytes(&make.at.name)), flags, Mode::empty());
    if there.is_ok_and(|there| FileState::read(&there).is_ok_and(|state| state.identity.uuid == own)) {
        return None;
    }
    let stamp = sys::file::stamp(&file).ok()?;
    let mtime = Timestamp { seconds: stamp.mtime.0, nanos: stamp.mtime.1 };
    let at = make.at.name.iter().rposition(|byte| *byte == b'^')?;
    let name = snapshot_name(make.at.name.get(..at)?, mtime, true);
    Some(Make { at: NewName { name, ..make.at }, ..make })
}
