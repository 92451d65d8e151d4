//! Where a file has holes, in bounded memory.

use super::MAX_HOLES;
use crate::{OpenFile, TransferError};
use model::Extent;
use std::io;

/// Below this size a file is only searched for holes when it has fewer blocks than bytes.
const SEARCH_FROM_BYTES: u64 = 64 << 10;

/// The holes of a file, sorted, apart from each other, not empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HoleMap(Vec<Extent>);

impl HoleMap {
    /// Asks the filesystem. A file that is changed meanwhile may be given holes that it has no more: what was read is then
    /// neither its old nor its new content, and whoever archives a file looks for changes.
    pub(crate) fn of(file: &OpenFile, size: u64, blocks: u64) -> Result<Self, TransferError> {
        let mut map = Self::default();
        if blocks.saturating_mul(512) >= size && size <= SEARCH_FROM_BYTES {
            return Ok(map);
        }
        let mut position = 0;
        while position < size {
            let data = match sys::file::next_data(file.file(), position) {
                Ok(data) => data.unwrap_or(size).min(size),
                // A filesystem that cannot tell: everything is data.
                Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => break,
                Err(e) => return Err(file.failed("find holes in")(e)),
            };
            if data > position {
                map.push(Extent { offset: position, length: data - position });
            }
            if data >= size {
                break;
            }
            let hole = sys::file::next_hole(file.file(), data).map_err(file.failed("find holes in"))?;
            // It may have been changed in between: always on.
            position = hole.unwrap_or(size).max(data + 1);
        }
        map.keep(MAX_HOLES);
        Ok(map)
    }

    /// Of a manifest, which was checked.
    pub(crate) fn from_sorted(holes: Vec<Extent>) -> Self {
        Self(holes)
    }

    pub(crate) fn into_extents(self) -> Vec<Extent> {
        self.0
    }

    fn push(&mut self, hole: Extent) {
        if self.0.len() >= 2 * MAX_HOLES {
            self.keep(MAX_HOLES);
        }
        self.0.push(hole);
    }

    /// Drops the smallest.
    fn keep(&mut self, count: usize) {
        let Some(drop) = self.0.len().checked_sub(count).filter(|drop| *drop > 0) else { return };
        let mut lengths: Vec<u64> = self.0.iter().map(|hole| hole.length).collect();
        let (_, limit, _) = lengths.select_nth_unstable(drop - 1);
        let limit = *limit;
        // Of those that are just as long as the limit, the first ones go.
        let shorter = self.0.iter().filter(|hole| hole.length < limit).count();
        let mut equal = drop - shorter;
        self.0.retain(|hole| {
            let goes = hole.length < limit || (hole.length == limit && equal > 0);
            equal -= usize::from(goes && hole.length == limit);
            !goes
        });
    }

    /// The holes inside an extent, cut to it.
    pub(crate) fn inside(&self, extent: Extent) -> impl Iterator<Item = Extent> + '_ {
        let end = extent.offset.saturating_add(extent.length);
        let first = self.0.partition_point(|hole| hole.offset + hole.length <= extent.offset);
        let holes = self.0.get(first..).unwrap_or_default().iter();
        holes.take_while(move |hole| hole.offset < end).map(move |hole| {
            let offset = hole.offset.max(extent.offset);
            Extent { offset, length: (hole.offset + hole.length).min(end) - offset }
        })
    }

    /// Whether there is nothing but a hole in an extent.
    pub(crate) fn covers(&self, extent: Extent) -> bool {
        self.inside(extent).next() == Some(extent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(gaps: &[(u64, u64)]) -> HoleMap {
        let mut at = 0;
        let extents = gaps.iter().map(|(gap, length)| {
            let hole = Extent { offset: at + gap, length: *length };
            at += gap + length;
            hole
        });
        HoleMap::from_sorted(extents.collect())
    }

    proptest! {
        #[test]
        fn inside_is_what_each_byte_says(
            gaps in prop::collection::vec((1u64..20, 1u64..20), 0..10), offset in 0u64..300, length in 0u64..100,
        ) {
            let map = map(&gaps);
            let is_hole = |at: u64| map.0.iter().any(|hole| hole.offset <= at && at < hole.offset + hole.length);
            let found: Vec<u64> =
                map.inside(Extent { offset, length }).flat_map(|hole| hole.offset..hole.offset + hole.length).collect();
            prop_assert_eq!(found, (offset..offset + length).filter(|at| is_hole(*at)).collect::<Vec<_>>());
        }

        #[test]
        fn the_longest_are_kept_in_order(gaps in prop::collection::vec((1u64..20, 1u64..8), 0..60), count in 0usize..60) {
            let all = map(&gaps);
            let mut kept = all.clone();
            kept.keep(count);
            prop_assert_eq!(kept.0.len(), count.min(all.0.len()));
            prop_assert!(kept.0.windows(2).all(|pair| pair[0].offset < pair[1].offset));
            let shortest = kept.0.iter().map(|hole| hole.length).min().unwrap_or(0);
            let dropped = all.0.iter().filter(|hole| !kept.0.contains(hole));
            prop_assert!(count == 0 || dropped.into_iter().all(|hole| hole.length <= shortest));
        }
    }
}
