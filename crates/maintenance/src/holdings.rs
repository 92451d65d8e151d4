//! What has to be known of an archive to look at it as a whole.

use crate::MaintenanceError;
use model::{Digest, ErrorKind, ObjectId, ObjectUrl};
use objects::ObjectStore;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use transfer::copy::{ChunkBuffer, ChunkReader};
use transfer::manifest::{Manifest, ReadAt};
use transfer::{Expected, Head, Monitor, OpenFile, Store, TierStore, TransferError};

/// An archive that can be looked through: a directory or a bucket. Everything blocks, and may be called by several threads at a time.
///
/// An error for now is looked into: when nothing else of the archive can be had either, it is [`MaintenanceError::Unreachable`], and there is no
/// point in going on. Any other is of what was asked for alone.
pub trait Holdings: Sync {
    /// Visits the id of every object, in no order.
    fn objects(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), MaintenanceError>;
    /// The same; also tells which of them lie where nothing leads to: the name, and the id.
    fn objects_and_strays(
        &self,
        visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>,
        stray: &mut dyn FnMut(PathBuf, ObjectId),
    ) -> Result<(), MaintenanceError>;
    /// Visits the id of every manifest, in no order.
    fn manifests(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), MaintenanceError>;
    /// The manifest of an object; `None` when there is none.
    fn manifest(&self, id: &ObjectId) -> Result<Option<Manifest>, MaintenanceError>;
    /// What is known of an object without reading it; `None` when there is none.
    fn head(&self, id: &ObjectId) -> Result<Option<Head>, MaintenanceError>;
    /// Whether an object without a manifest is the archive's all the same: in a bucket others may have objects of such names.
    fn is_ours(&self, id: &ObjectId) -> Result<bool, MaintenanceError>;
    /// The id that what is at this URL has in this archive, if it is in it.
    fn id_of(&self, url: &ObjectUrl) -> Option<ObjectId>;
    /// Removes an object and its manifest, durably; nothing that has the same id in another encoding.
    fn remove(&self, id: &ObjectId) -> Result<(), MaintenanceError>;
    /// Reads an object through and tells each part that is not what its manifest says.
    ///
    /// # Errors
    /// It could not be read to its end.
    fn check(
        &self,
        id: &ObjectId,
        manifest: &Manifest,
        monitor: &dyn Monitor,
        damaged: &mut dyn FnMut(Damage),
    ) -> Result<(), MaintenanceError>;
    /// Reads through what holds several objects, and tells what of it is damaged and concerns none of them alone.
    fn check_packs(&self, damaged: &mut dyn FnMut(PathBuf, String)) -> Result<(), MaintenanceError>;
    /// Reads an object through without its manifest, and compares what is known of its content; for the rest, as far as its encoding lets it be
    /// checked. Gives the content's size.
    fn check_content(&self, id: &ObjectId, expected: Expected, monitor: &dyn Monitor) -> Result<u64, MaintenanceError>;
    /// Compares a file's chunks with the hashes of an object's manifest, and gives where the first one begins that is another; `None` in it when all are
    /// the same. Nothing of the object is read. `None` when there is nothing to compare with.
    fn compare_chunks(
        &self,
        id: &ObjectId,
        expected: Expected,
        file: &OpenFile,
        monitor: &dyn Monitor,
    ) -> Result<Option<Option<u64>>, MaintenanceError>;
}

/// A part of an object that is not what was archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// In the content, not in the object.
    pub offset: u64,
    /// In bytes; 0 when it is not known which part.
    pub length: u64,
    /// What is wrong.
    pub why: String,
}

/// A store, and what archives as a whole need of it besides.
trait Whole: Store {
    /// As [`Holdings::is_ours`]. In a directory everything is.
    fn is_ours(&self, _id: &ObjectId) -> Result<bool, TransferError> {
        Ok(true)
    }

    /// As [`Holdings::id_of`]. What is in a directory has no URL.
    fn id_of(&self, _url: &ObjectUrl) -> Option<ObjectId> {
        None
    }

    /// As [`Holdings::objects_and_strays`]. In a directory each lies where its id says.
    fn list_with_strays(
        &self,
        visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>,
        _stray: &mut dyn FnMut(PathBuf, ObjectId),
    ) -> Result<(), TransferError> {
        self.list(visit)
    }

    /// As [`Holdings::remove`]; `done` as for [`Store::remove`].
    fn remove_exactly(&self, id: &ObjectId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>);

    /// Reads the chunks of an object, if there is a manifest to compare them with: see [`check_chunks`]. Whether there was.
    fn check_chunks(
        &self,
        id: &ObjectId,
        expected: Expected,
        monitor: &dyn Monitor,
        damaged: &mut dyn FnMut(Damage),
    ) -> Result<bool, TransferError>;

    /// As [`Holdings::check_packs`].
    fn check_packs(&self, damaged: &mut dyn FnMut(PathBuf, String)) -> Result<(), TransferError>;

    /// As [`Holdings::compare_chunks`].
    fn compare_chunks(
        &self,
        id: &ObjectId,
        expected: Expected,
        file: &OpenFile,
        monitor: &dyn Monitor,
    ) -> Result<Option<Option<u64>>, TransferError>;
}

impl Whole for TierStore {
    fn remove_exactly(&self, id: &ObjectId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        Self::remove_exactly(self, id, done);
    }

    fn check_chunks(
        &self,
        id: &ObjectId,
        expected: Expected,
        monitor: &dyn Monitor,
        damaged: &mut dyn FnMut(Damage),
    ) -> Result<bool, TransferError> {
        check_chunks(self.chunks(id, expected)?, monitor, damaged)
    }

    fn check_packs(&self, damaged: &mut dyn FnMut(PathBuf, String)) -> Result<(), TransferError> {
        Self::check_packs(self, damaged)
    }

    fn compare_chunks(
        &self,
        id: &ObjectId,
        expected: Expected,
        file: &OpenFile,
        monitor: &dyn Monitor,
    ) -> Result<Option<Option<u64>>, TransferError> {
        compare_chunks(self.chunks(id, expected)?, file, monitor)
    }
}

impl Whole for ObjectStore {
    fn is_ours(&self, id: &ObjectId) -> Result<bool, TransferError> {
        Self::is_ours(self, id)
    }

    fn id_of(&self, url: &ObjectUrl) -> Option<ObjectId> {
        Self::id_of(self, url)
    }

    fn list_with_strays(
        &self,
        visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>,
        stray: &mut dyn FnMut(PathBuf, ObjectId),
    ) -> Result<(), TransferError> {
        Self::list_with_strays(self, visit, stray)
    }

    fn remove_exactly(&self, id: &ObjectId, done: Box<dyn FnOnce(Result<(), TransferError>) + Send>) {
        Self::remove_exactly(self, id, done);
    }

    fn check_chunks(
        &self,
        id: &ObjectId,
        expected: Expected,
        monitor: &dyn Monitor,
        damaged: &mut dyn FnMut(Damage),
    ) -> Result<bool, TransferError> {
        check_chunks(self.chunks(id, expected, monitor)?, monitor, damaged)
    }

    fn check_packs(&self, damaged: &mut dyn FnMut(PathBuf, String)) -> Result<(), TransferError> {
        Self::check_packs(self, damaged)
    }

    fn compare_chunks(
        &self,
        id: &ObjectId,
        expected: Expected,
        file: &OpenFile,
        monitor: &dyn Monitor,
    ) -> Result<Option<Option<u64>>, TransferError> {
        compare_chunks(self.chunks(id, expected, monitor)?, file, monitor)
    }
}

/// Reads all chunks, and tells those that are damaged. `false` when there is no reader.
fn check_chunks<O: ReadAt, M: ReadAt>(
    reader: Option<ChunkReader<O, M>>,
    monitor: &dyn Monitor,
    damaged: &mut dyn FnMut(Damage),
) -> Result<bool, TransferError> {
    let Some(reader) = reader else { return Ok(false) };
    let mut buffer = ChunkBuffer::default();
    let shape = reader.shape();
    for index in 0..shape.chunks() {
        if monitor.cancelled() {
            return Err(TransferError::Cancelled);
        }
        match reader.read(index, &mut buffer) {
            Ok(_) => {}
            Err(TransferError::DamagedChunk { offset, length, why, .. }) => damaged(Damage { offset, length, why }),
            Err(error) => return Err(error),
        }
        monitor.advanced(shape.chunk(index));
    }
    Ok(true)
}

/// See [`Holdings::compare_chunks`].
fn compare_chunks<O: ReadAt, M: ReadAt>(
    reader: Option<ChunkReader<O, M>>,
    file: &OpenFile,
    monitor: &dyn Monitor,
) -> Result<Option<Option<u64>>, TransferError> {
    let Some(reader) = reader else { return Ok(None) };
    let shape = reader.shape();
    // Where there is data again.
    let (mut buffer, mut data) = (Vec::new(), 0);
    for index in 0..shape.chunks() {
        if monitor.cancelled() {
            return Err(TransferError::Cancelled);
        }
        let extent = shape.chunk(index);
        let end = extent.offset.saturating_add(extent.length);
        if data <= extent.offset {
            // A filesystem that cannot tell has data everywhere.
            data = sys::file::next_data(file.file(), extent.offset).unwrap_or(Some(extent.offset)).unwrap_or(u64::MAX);
        }
        if data >= end && extent.length > 0 && file.stamp()?.size >= end {
            if shape.value_of_zeros(index) != reader.value(index)? {
                return Ok(Some(Some(extent.offset)));
            }
            monitor.skipped(extent);
            continue;
        }
        buffer.resize(usize::try_from(extent.length).unwrap_or(0), 0);
        let read = file.read_full_at(&mut buffer, extent.offset).map_err(TransferError::io("read", file.path()))?;
        if read < buffer.len() || shape.value(index, &buffer) != reader.value(index)? {
            return Ok(Some(Some(extent.offset)));
        }
        monitor.advanced(extent);
    }
    Ok(Some(None))
}

/// Whether an error is of the whole archive: asks for something else of it.
fn explained<S: Whole>(store: &S, error: TransferError) -> MaintenanceError {
    // Who says that an object is cold has answered.
    let passes =
        |error: &TransferError| error.kind() == ErrorKind::Temporary && !matches!(error, TransferError::Cold { .. });
    if passes(&error) && store.list(&mut |_| ControlFlow::Break(())).is_err_and(|error| passes(&error)) {
        return MaintenanceError::Unreachable(error);
    }
    error.into()
}

impl<S: Whole> Holdings for S {
    fn objects(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), MaintenanceError> {
        Ok(self.list(visit)?)
    }

    fn objects_and_strays(
        &self,
        visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>,
        stray: &mut dyn FnMut(PathBuf, ObjectId),
    ) -> Result<(), MaintenanceError> {
        Ok(self.list_with_strays(visit, stray)?)
    }

    fn manifests(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), MaintenanceError> {
        Ok(self.list_manifests(visit)?)
    }

    fn manifest(&self, id: &ObjectId) -> Result<Option<Manifest>, MaintenanceError> {
        Store::manifest(self, id).map_err(|error| explained(self, error))
    }

    fn head(&self, id: &ObjectId) -> Result<Option<Head>, MaintenanceError> {
        Store::head(self, id).map_err(|error| explained(self, error))
    }

    fn is_ours(&self, id: &ObjectId) -> Result<bool, MaintenanceError> {
        Whole::is_ours(self, id).map_err(|error| explained(self, error))
    }

    fn id_of(&self, url: &ObjectUrl) -> Option<ObjectId> {
        Whole::id_of(self, url)
    }

    fn remove(&self, id: &ObjectId) -> Result<(), MaintenanceError> {
        let (done, result) = channel();
        // The sender is dropped with the callback, whatever becomes of it.
        self.remove_exactly(id, Box::new(move |result| drop(done.send(result))));
        let removed = result.recv().unwrap_or(Err(TransferError::Cancelled));
        removed.map_err(|error| explained(self, error))
    }

    fn check(
        &self,
        id: &ObjectId,
        manifest: &Manifest,
        monitor: &dyn Monitor,
        damaged: &mut dyn FnMut(Damage),
    ) -> Result<(), MaintenanceError> {
        let Some(content) = manifest.content() else { return Ok(()) };
        let expected = Expected { size: Some(content.size), digest: Some(Digest::Blake3(content.hash)) };
        if self.check_chunks(id, expected, monitor, damaged).map_err(|error| explained(self, error))? {
            return Ok(());
        }
        match self.verify(id, expected, monitor) {
            Ok(_) => Ok(()),
            Err(TransferError::DamagedChunk { offset, length, why, .. }) => {
                damaged(Damage { offset, length, why });
                Ok(())
            }
            Err(error @ (TransferError::Damaged { .. } | TransferError::Mismatch { .. })) => {
                damaged(Damage { offset: 0, length: content.size, why: error.to_string() });
                Ok(())
            }
            Err(error) => Err(explained(self, error)),
        }
    }

    fn check_packs(&self, damaged: &mut dyn FnMut(PathBuf, String)) -> Result<(), MaintenanceError> {
        Ok(Whole::check_packs(self, damaged)?)
    }

    fn check_content(&self, id: &ObjectId, expected: Expected, monitor: &dyn Monitor) -> Result<u64, MaintenanceError> {
        let verified = self.verify(id, expected, monitor);
        Ok(verified.map_err(|error| explained(self, error))?.bytes)
    }

    fn compare_chunks(
        &self,
        id: &ObjectId,
        expected: Expected,
        file: &OpenFile,
        monitor: &dyn Monitor,
    ) -> Result<Option<Option<u64>>, MaintenanceError> {
        Whole::compare_chunks(self, id, expected, file, monitor).map_err(|error| explained(self, error))
    }
}
