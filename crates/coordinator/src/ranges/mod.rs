//! Restoring ranges: the pure part, and what is remembered on the file.
//!
//! A released file whose object has a manifest can be restored in chunks, each verified by itself. Which chunks are there
//! is kept as [`Runs`]; [`Streams`] guesses what will be read next; `plan` says what to fetch; `residency` keeps on
//! the file what survives a crash. The engine (`engine/ranges.rs`) does the rest.

mod plan;
mod readahead;
pub(crate) mod residency;
mod runs;

pub(crate) use plan::{Flight, Limits, plan};
pub(crate) use readahead::Streams;
pub(crate) use runs::{Run, Runs};

/// Bytes of a chunk: what a manifest has one hash for, and the least that is fetched.
pub(crate) const CHUNK: u64 = 1 << 20;

/// Chunks of a file of so many bytes.
pub(crate) fn chunks_of(size: u64) -> u64 {
    size.div_ceil(CHUNK)
}

/// The chunks that bytes `offset..offset + count` of a file of `size` bytes touch; empty when they begin past its end.
pub(crate) fn chunks_touched(offset: u64, count: u64, size: u64) -> Run {
    let end = offset.saturating_add(count).min(size);
    if count == 0 || offset >= end { 0..0 } else { offset / CHUNK..end.div_ceil(CHUNK) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn touched_chunks_hold_every_byte_of_the_range(offset in 0u64..5 << 20, count in 0u64..5 << 20, size in 0u64..5 << 20) {
            let run = chunks_touched(offset, count, size);
            prop_assert!(run.end <= chunks_of(size));
            let end = (offset + count).min(size);
            if count > 0 && offset < end {
                prop_assert!(run.start * CHUNK <= offset && offset < (run.start + 1) * CHUNK);
                prop_assert!(run.end * CHUNK >= end && (run.end - 1) * CHUNK < end);
            } else {
                prop_assert!(run.is_empty());
            }
        }

        #[test]
        fn no_range_overflows(offset: u64, count: u64, size: u64) {
            prop_assert!(chunks_touched(offset, count, size).end <= chunks_of(size));
        }
    }
}
