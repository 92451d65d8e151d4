//! What is in the middle of being moved into a root: written down before it gets its names, so that who was killed then leaves two copies that the next one finds.
//!
//! The file in which it stands is that whose lock keeps objects where they are ([`hold`](super::super::super::hold)). Losing it costs room, and no object.

use super::super::super::hold;
use super::super::super::root::Root;
use super::item::Item;
use crate::TransferError;
use std::io::{Read as _, Write as _};

/// Of more than is moved at one time.
const MAX_BYTES: u64 = 1 << 20;

/// Durably.
pub(super) fn write<'a>(root: &Root, items: impl Iterator<Item = &'a Item>) -> Result<(), TransferError> {
    let text: String = items.map(|item| item.line() + "\n").collect();
    let write = || {
        let mut file = hold::open(root)?;
        file.set_len(0)?;
        file.write_all(text.as_bytes())?;
        sys::file::sync_data(&file)
    };
    write().map_err(TransferError::io("write", hold::path(root)))
}

/// What was being moved is settled. What is left of a journal is looked at once more, and found in one place.
pub(super) fn clear(root: &Root) -> Result<(), TransferError> {
    let cleared = hold::open(root).and_then(|file| file.set_len(0));
    cleared.map_err(TransferError::io("write", hold::path(root)))
}

/// What a run that was cut short was about to move here. A line that is no item was cut short itself, before anything was moved.
pub(super) fn read(root: &Root) -> Result<Vec<Item>, TransferError> {
    let mut text = Vec::new();
    let read = hold::open(root).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text));
    read.map_err(TransferError::io("read", hold::path(root)))?;
    Ok(String::from_utf8_lossy(&text).lines().filter_map(Item::parse).collect())
}
