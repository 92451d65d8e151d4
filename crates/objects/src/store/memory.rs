//! How much memory content on its way into the bucket takes.

use crate::Bucket;
use crate::fault::Fault;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use transfer::{Monitor, TransferError};

const UNIT_BYTES: u64 = 64 << 10;

/// The memory that there is. Whoever takes some gives it back by dropping what he got.
#[derive(Debug)]
pub(super) struct Memory {
    free: Arc<Semaphore>,
    units: u32,
}

/// Some of it.
pub(super) type Taken = OwnedSemaphorePermit;

impl Memory {
    pub(super) fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        let units = units.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Waits until there is so much, or all of it for what needs more.
    pub(super) fn take(&self, bytes: u64, bucket: &Bucket, monitor: &dyn Monitor) -> Result<Taken, TransferError> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.units);
        if let Ok(taken) = self.free.clone().try_acquire_many_owned(units) {
            return Ok(taken);
        }
        let free = self.free.clone();
        // It is never closed.
        let waited =
            async move { free.acquire_many_owned(units).await.map_err(|_| Fault::strange("the store is closed")) };
        let failed = |fault: Fault| fault.into_error("take content for", bucket.path(""));
        bucket.engine().wait_watched(waited, monitor)?.map_err(failed)
    }
}
