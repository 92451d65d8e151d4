//! The content of an object and of a file, or of two objects, read on both sides.

use super::steps::Reading;
use super::{Run, Trouble};
use crate::content::fill;
use crate::failure::Failure;
use objects::plain::{Found, Plain};
use std::fs::File;

/// Where they differ first, to within a step; `None`: nowhere. What the page cache has of the file and need not keep is dropped first.
pub(super) fn compare(
    run: &Run<'_>,
    plain: &Plain,
    (key, found): (&str, &Found),
    file: &File,
) -> Result<Option<u64>, Trouble> {
    // Advice: a filesystem that does not take it is read as it is.
    let _ = sys::file::advise_dontneed(file, 0, 0);
    let there = Reading::begin(run, plain, key, found)?;
    let here = |step: &mut [u8], at| Ok(fill(file, step, at).map_err(Failure::source("read"))?);
    if let Some(at) = run.difference(found.size, here, |step, at| there.read(step, at))? {
        return Ok(Some(at));
    }
    let is_longer = here(&mut [0], found.size)? > 0;
    Ok(is_longer.then_some(found.size))
}

/// The same of two objects, which have the same size.
pub(super) fn compare_objects(
    run: &Run<'_>,
    (from, key, found): (&Plain, &str, &Found),
    (to, other_key, there): (&Plain, &str, &Found),
) -> Result<Option<u64>, Trouble> {
    let (one, other) = (Reading::begin(run, from, key, found)?, Reading::begin(run, to, other_key, there)?);
    run.difference(found.size, |step, at| one.read(step, at), |step, at| other.read(step, at))
}
