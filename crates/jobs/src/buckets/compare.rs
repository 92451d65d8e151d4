//! The content of an object and of a file, or of two objects, read on both sides.

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

/// The same of two objects.
pub(super) fn compare_objects(
    run: &Run<'_>,
    (from, key, found): (&Plain, &str, &Found),
    (to, other_key, there): (&Plain, &str, &Found),
) -> Result<Option<u64>, Trouble> {
    let (one, other) = (from.read(key, found, run)?, to.read(other_key, there, run)?);
    let (mut here, mut far) = (vec![0; STEP], vec![0; STEP]);
    let mut at = 0;
    while at < found.size {
        if run.cancelled() {
            return Err(Trouble::Stopped);
        }
        let read = one.read(&mut here, at).map_err(TransferError::io("read", from.shown(key)))?;
        let came = other.read(&mut far, at).map_err(TransferError::io("read", to.shown(other_key)))?;
        if read == 0 || here.get(..read) != far.get(..came) {
            return Ok(Some(at));
        }
        run.limiter.spend(read as u64);
        at += read as u64;
    }
    Ok(None)
}
