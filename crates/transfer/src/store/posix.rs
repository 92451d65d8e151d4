//! Objects in a directory tree, laid out as Lemur does: `<root>/objects/<id[0:2]>/<id[2:4]>/<id>`.

use super::group::{GroupSync, Item};
use super::root::{OBJECTS, Root};
use super::session::{Sessions, Swept, TempFile, sweep};
use super::{Compression, Done, Expected, Head, PutOptions, Restored, Store, Stored};
use crate::copy::sink::{Discard, Encoded, Overwrite, Sink};
use crate::copy::source::{DecodedSource, FileSource, Source};
use crate::copy::{Copied, copy_file, run};
use crate::{DigestKind, Durability, Encoding, Monitor, OpenFile, TransferError, shrinks};
use model::ObjectId;
use rustix::fs::Dir;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// From this size on, the worker that wrote a file syncs its data: several can do so at once, and a group is not held up.
const SYNC_ALONE_FROM_BYTES: u64 = 8 << 20;

/// An archive on a mounted filesystem. Several processes may have the same one open.
pub struct PosixStore {
    root: Arc<Root>,
    sessions: Sessions,
    durability: Arc<dyn Durability>,
    group: GroupSync,
}

impl PosixStore {
    /// Opens the archive in an existing directory, and removes what crashed processes left in it.
    pub fn open(root: &Path, durability: Arc<dyn Durability>) -> Result<Self, TransferError> {
        let root = Arc::new(Root::open(root)?);
        sweep(&root)?;
        let sessions = Sessions::open(root.clone())?;
        let group = GroupSync::start(root.clone(), durability.clone())
            .map_err(TransferError::io("start the syncing thread of", root.path()))?;
        Ok(Self { root, sessions, durability, group })
    }

    /// The root's path.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Removes temporary files of processes that are gone. Cheap; to be called every few minutes.
    pub fn sweep(&self) -> Result<Swept, TransferError> {
        sweep(&self.root)
    }

    fn open_object(&self, id: &ObjectId) -> Result<OpenFile, TransferError> {
        let path = self.root.object_path(id);
        let Some(file) = self.root.open_object(id).map_err(TransferError::io("open", &path))? else {
            self.root.check_objects()?;
            return Err(TransferError::Missing { path });
        };
        let object = OpenFile::new(file, path);
        if object.stamp()?.is_regular {
            Ok(object)
        } else {
            Err(TransferError::NotRegular { path: object.path().to_owned() })
        }
    }

    /// Reads an object into a sink and compares.
    fn read(
        &self,
        id: &ObjectId,
        sink: &mut dyn Sink,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        let object = self.open_object(id)?;
        let damaged = |why: String| TransferError::Damaged { path: object.path().to_owned(), why };
        let wrong_size = |found: u64, size: u64| damaged(format!("it holds {found} bytes, {size} were archived"));
        let (_, encoding) = Encoding::split(id.as_str());
        let (mut raw, mut decoded);
        let source: &mut dyn Source = match DecodedSource::new(&object, encoding, expected.size)? {
            Some(source) => {
                decoded = source;
                &mut decoded
            }
            None => {
                raw = FileSource::new(&object)?;
                if let Some(size) = expected.size
                    && size != raw.size()
                {
                    return Err(wrong_size(raw.size(), size));
                }
                &mut raw
            }
        };
        let copied = run(source, sink, expected.digest.as_ref().map(DigestKind::of), monitor)?;
        if let Some(size) = expected.size
            && size != copied.bytes
        {
            return Err(wrong_size(copied.bytes, size));
        }
        match (expected.digest, copied.digest) {
            (Some(expected), Some(found)) if expected != found => {
                Err(TransferError::Mismatch { path: object.path().to_owned(), expected, found })
            }
            _ => Ok(Restored { bytes: copied.bytes, digest: copied.digest }),
        }
    }

    fn list_dir(
        &self,
        path: &Path,
        depth: usize,
        visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, TransferError> {
        let full = self.root.path().join(path);
        let dir = match self.root.open_dir(path) {
            Ok(dir) => dir,
            // Removed meanwhile, or nothing that we made.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(ControlFlow::Continue(()));
            }
            Err(e) => return Err(TransferError::io("list", full)(e)),
        };
        for entry in entries(&dir).map_err(TransferError::io("list", &full))? {
            let name = entry.map_err(TransferError::io("list", &full))?;
            let flow = if depth > 0 {
                if name.len() != 2 || name.starts_with('.') {
                    continue;
                }
                self.list_dir(&path.join(&name), depth - 1, visit)?
            } else {
                match ObjectId::parse(&name) {
                    Ok(id) if Root::fan_out(&id) == path => visit(id),
                    _ => continue,
                }
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Content in a temporary file.
pub struct StagedFile {
    id: ObjectId,
    temp: TempFile,
    copied: Copied,
    synced: bool,
}

impl Store for PosixStore {
    type Staged = StagedFile;

    fn stage(
        &self,
        id: &ObjectId,
        source: &OpenFile,
        options: PutOptions,
        monitor: &dyn Monitor,
    ) -> Result<StagedFile, TransferError> {
        self.root.check()?;
        self.root.begin()?;
        let encoding = match options.compression {
            Compression::Off => Encoding::Raw,
            Compression::On(encoding) => encoding,
            Compression::Auto(encoding) if shrinks(source, encoding)? => encoding,
            Compression::Auto(_) => Encoding::Raw,
        };
        let id = with_encoding(id, encoding)?;
        let temp = self.sessions.create(&id)?;
        let copied = if encoding == Encoding::Raw {
            copy_file(source, temp.file(), options.digest, monitor)?
        } else {
            let mut content = FileSource::new(source)?;
            let mut sink = Encoded::new(temp.file(), encoding, content.size())?;
            let copied = run(&mut content, &mut sink, options.digest, monitor)?;
            sink.finish()?;
            copied
        };
        let synced = copied.bytes >= SYNC_ALONE_FROM_BYTES;
        if synced {
            self.durability.sync_all(temp.file().file()).map_err(temp.file().failed("sync"))?;
        }
        if monitor.cancelled() {
            return Err(TransferError::Cancelled);
        }
        Ok(StagedFile { id, temp, copied, synced })
    }

    fn commit(&self, staged: StagedFile, done: Done) {
        let StagedFile { id, temp, copied, synced } = staged;
        let root = self.root.clone();
        let stored = Stored { id: id.clone(), bytes: copied.bytes, digest: copied.digest };
        let acknowledge = move |result: Result<(), TransferError>| {
            done(result.map(|()| {
                remove_other_encodings(&root, &stored.id);
                stored
            }));
        };
        self.group.submit(Item::Publish { temp, id, synced, done: Box::new(acknowledge) });
    }

    fn get(
        &self,
        id: &ObjectId,
        target: &OpenFile,
        expected: Expected,
        monitor: &dyn Monitor,
    ) -> Result<Restored, TransferError> {
        let mut sink = Overwrite::new(target)?;
        let restored = self.read(id, &mut sink, expected, monitor)?;
        sink.finish()?;
        if restored.bytes >= SYNC_ALONE_FROM_BYTES {
            // Several workers can do so at once. Whoever asked syncs before the content counts: small files many at a time.
            self.durability.sync_data(target.file()).map_err(target.failed("sync"))?;
        }
        Ok(restored)
    }

    fn verify(&self, id: &ObjectId, expected: Expected, monitor: &dyn Monitor) -> Result<Restored, TransferError> {
        self.read(id, &mut Discard, expected, monitor)
    }

    fn remove(&self, id: &ObjectId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        let mut names = vec![id.clone()];
        if Encoding::split(id.as_str()).1 == Encoding::Raw {
            names.extend(other_encodings(id));
        }
        let removed = self.root.check_objects().and_then(|()| {
            self.root.unlink_beside(id, &names).map_err(TransferError::io("remove", self.root.object_path(id)))
        });
        match removed {
            // Also when there was none: an earlier removal may have been cut short before its sync.
            Ok(()) => self.group.submit(Item::Settle { id: id.clone(), done }),
            Err(e) => done(Err(e)),
        }
    }

    fn head(&self, id: &ObjectId) -> Result<Option<Head>, TransferError> {
        match self.open_object(id) {
            Ok(object) => {
                let (_, encoding) = Encoding::split(id.as_str());
                Ok(Some(Head { encoding, stored_bytes: object.stamp()?.size }))
            }
            Err(TransferError::Missing { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn list(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), TransferError> {
        self.root.check()?;
        self.list_dir(Path::new(OBJECTS), 2, visit).map(drop)
    }
}

/// The object's name: the id's own suffix counts for nothing, because what is read back is decided by it.
fn with_encoding(id: &ObjectId, encoding: Encoding) -> Result<ObjectId, TransferError> {
    let (base, _) = Encoding::split(id.as_str());
    Ok(ObjectId::parse(&format!("{base}{}", encoding.suffix()))?)
}

/// An earlier attempt of the same archive may have chosen another encoding.
fn remove_other_encodings(root: &Root, id: &ObjectId) {
    let others: Vec<ObjectId> = other_encodings(id).collect();
    if let Err(e) = root.unlink_beside(id, &others) {
        let object = root.object_path(id);
        tracing::warn!(object = %object.display(), error = %e, "cannot remove older forms of an object");
    }
}

/// What the same content would be called if stored otherwise.
fn other_encodings(id: &ObjectId) -> impl Iterator<Item = ObjectId> {
    let all = Encoding::ALL.into_iter().filter_map(|encoding| with_encoding(id, encoding).ok());
    all.filter(move |other| other != id)
}

/// The names in a directory that are text, without `.` and `..`.
fn entries(dir: &File) -> io::Result<impl Iterator<Item = io::Result<String>>> {
    Ok(Dir::read_from(dir)?.filter_map(|entry| match entry {
        Ok(entry) => {
            let name = entry.file_name().to_str().ok()?;
            (name != "." && name != "..").then(|| Ok(name.to_owned()))
        }
        Err(e) => Some(Err(e.into())),
    }))
}
