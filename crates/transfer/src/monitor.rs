//! How a caller watches a transfer and stops it.

use model::Extent;

/// Asked and told once a chunk, from whichever thread does the work.
pub trait Monitor: Sync {
    /// Whether to stop; asked before each chunk. May wait, and so limit the rate. The transfer then ends with [`TransferError::Cancelled`](crate::TransferError::Cancelled) and
    /// leaves nothing behind in the archive.
    fn cancelled(&self) -> bool;
    /// These bytes were just moved. Has to be quick.
    fn advanced(&self, extent: Extent);
    /// These bytes are done without having been moved: a hole. Has to be quick.
    fn skipped(&self, extent: Extent) {
        self.advanced(extent);
    }
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
