//! The content of an object and of a file, read on both sides.

use super::{Run, Trouble};
use crate::content::fill;
use crate::failure::Failure;
use objects::plain::{Found, Plain};
use std::fs::File;
use transfer::{Monitor as _, TransferError};

/// Compared at a time.
const STEP: usize = 1 << 20;

/// Where they differ first, to within a step; `None`: nowhere. What the page cache has of the file and need not keep is dropped first.
pub(super) fn compare(
    run: &Run<'_>,
    plain: &Plain,
    (key, found): (&str, &Found),
    file: &File,
) -> Result<Option<u64>, Trouble> {
    // Advice: a filesystem that does not take it is read as it is.
    let _ = sys::file::advise_dontneed(file, 0, 0);
    let content = plain.read(key, found, run)?;
    let (mut one, mut other) = (vec![0; STEP], vec![0; STEP]);
    let mut at = 0;
    loop {
        if run.cancelled() {
            return Err(Trouble::Stopped);
        }
        let here = fill(file, &mut one, at).map_err(Failure::source("read"))?;
        let there = content.read(&mut other, at).map_err(TransferError::io("read", plain.shown(key)))?;
        if one.get(..here) != other.get(..there) {
            return Ok(Some(at));
        }
        if here < STEP {
            return Ok(None);
        }
        run.limiter.spend(here as u64);
        at += here as u64;
    }
}
