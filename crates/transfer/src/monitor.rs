//! How a caller watches a transfer and stops it.

use model::Extent;

/// Asked and told once a chunk, from whichever thread does the work: both have to be quick.
pub trait Monitor: Sync {
    /// Whether to stop. The transfer then ends with [`TransferError::Cancelled`](crate::TransferError::Cancelled) and
    /// leaves nothing behind in the archive.
    fn cancelled(&self) -> bool;
    /// These bytes were just moved (or skipped, as a hole).
    fn advanced(&self, extent: Extent);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Monitor for Unwatched {
    fn cancelled(&self) -> bool {
        false
    }

    fn advanced(&self, _: Extent) {}
}
