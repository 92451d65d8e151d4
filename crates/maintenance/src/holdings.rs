//! What has to be known of an archive to look at it as a whole.

use crate::MaintenanceError;
use model::{Digest, ObjectId};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use transfer::copy::ChunkBuffer;
use transfer::manifest::Manifest;
use transfer::{Expected, Head, Monitor, PosixStore, Store, TransferError};

/// An archive that can be looked through.
pub trait Holdings: Sync {
    /// Visits the id of every object, in no order.
    fn objects(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), MaintenanceError>;
    /// Visits the id of every manifest, in no order.
    fn manifests(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), MaintenanceError>;
    /// The manifest of an object; `None` when there is none.
    fn manifest(&self, id: &ObjectId) -> Result<Option<Manifest>, MaintenanceError>;
    /// What is known of an object without reading it; `None` when there is none.
    fn head(&self, id: &ObjectId) -> Result<Option<Head>, MaintenanceError>;
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
    /// Reads an object without a manifest through, as far as its encoding lets it be checked. Gives the content's size.
    fn check_encoding(&self, id: &ObjectId, monitor: &dyn Monitor) -> Result<u64, MaintenanceError>;
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

impl Holdings for PosixStore {
    fn objects(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), MaintenanceError> {
        Ok(self.list(visit)?)
    }

    fn manifests(&self, visit: &mut dyn FnMut(ObjectId) -> ControlFlow<()>) -> Result<(), MaintenanceError> {
        Ok(self.list_manifests(visit)?)
    }

    fn manifest(&self, id: &ObjectId) -> Result<Option<Manifest>, MaintenanceError> {
        Ok(Store::manifest(self, id)?)
    }

    fn head(&self, id: &ObjectId) -> Result<Option<Head>, MaintenanceError> {
        Ok(Store::head(self, id)?)
    }

    fn remove(&self, id: &ObjectId) -> Result<(), MaintenanceError> {
        let (done, result) = channel();
        // The sender is dropped with the callback, whatever becomes of it.
        self.remove_exactly(id, Box::new(move |result| drop(done.send(result))));
        Ok(result.recv().unwrap_or(Err(TransferError::Cancelled))?)
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
        match self.chunks(id, expected)? {
            Some(reader) => {
                let mut buffer = ChunkBuffer::default();
                let shape = reader.shape();
                for index in 0..shape.chunks() {
                    match reader.read(index, &mut buffer) {
                        Ok(_) => {}
                        Err(TransferError::DamagedChunk { offset, length, why, .. }) => {
                            damaged(Damage { offset, length, why });
                        }
                        Err(error) => return Err(error.into()),
                    }
                    monitor.advanced(shape.chunk(index));
                }
                Ok(())
            }
            None => match self.verify(id, expected, monitor) {
                Ok(_) => Ok(()),
                Err(TransferError::DamagedChunk { offset, length, why, .. }) => {
                    damaged(Damage { offset, length, why });
                    Ok(())
                }
                Err(error @ (TransferError::Damaged { .. } | TransferError::Mismatch { .. })) => {
                    damaged(Damage { offset: 0, length: content.size, why: error.to_string() });
                    Ok(())
                }
                Err(error) => Err(error.into()),
            },
        }
    }

    fn check_packs(&self, damaged: &mut dyn FnMut(PathBuf, String)) -> Result<(), MaintenanceError> {
        Ok(PosixStore::check_packs(self, damaged)?)
    }

    fn check_encoding(&self, id: &ObjectId, monitor: &dyn Monitor) -> Result<u64, MaintenanceError> {
        Ok(self.verify(id, Expected::default(), monitor)?.bytes)
    }
}
