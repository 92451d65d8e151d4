//! The tree of hashes over a content's chunks: BLAKE3's own, cut at one mebibyte.
//!
//! BLAKE3 hashes 1 KiB leaves and joins them two by two, always with as many leaves on the left as the largest power of
//! two allows. So the subtree over each aligned mebibyte has a value of its own (its chaining value), from which the values
//! of groups and the hash of the whole follow; that hash is the ordinary one of the content (`b3sum` gives it too). See section 2.1 of
//! the BLAKE3 paper. Pure computation; nothing here reads a file.

use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use model::Extent;
use model::limits::CHUNK_SIZE_BYTES;
use std::ops::Range;

/// The hash of a subtree, or of everything.
pub type Value = [u8; 32];

/// Chunks whose values are joined to a group's: 1 GiB of content.
pub const CHUNKS_PER_GROUP: u64 = 1024;

const _: () = assert!(CHUNKS_PER_GROUP.is_power_of_two(), "a group has to be a subtree");

/// How content of one size is cut.
///
/// Content that fits into one chunk has one chunk whose value is the hash of everything, also when it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    size: u64,
    chunk_bytes: u64,
    group_chunks: u64,
}

impl Shape {
    /// Of content of `size` bytes in a manifest of version 1.
    #[must_use]
    pub fn of(size: u64) -> Self {
        Self { size, chunk_bytes: CHUNK_SIZE_BYTES as u64, group_chunks: CHUNKS_PER_GROUP }
    }

    /// With other steps, both powers of two and chunks of at least 1024 bytes: so tests need no gibibytes.
    #[cfg(test)]
    pub(super) fn with(size: u64, chunk_bytes: u64, group_chunks: u64) -> Self {
        Self { size, chunk_bytes, group_chunks }
    }

    /// Size of the content.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many chunks there are, at least 1.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.size.div_ceil(self.chunk_bytes).max(1)
    }

    /// How many groups there are, at least 1.
    #[must_use]
    pub fn groups(&self) -> u64 {
        self.chunks().div_ceil(self.group_chunks)
    }

    /// Where a chunk lies; empty past the end.
    #[must_use]
    pub fn chunk(&self, index: u64) -> Extent {
        let offset = index.saturating_mul(self.chunk_bytes);
        let (offset, length) = Extent { offset, length: self.chunk_bytes }.within(self.size);
        Extent { offset, length }
    }

    /// The chunks that touch an extent of the content; none for an empty one.
    #[must_use]
    pub fn touched(&self, extent: Extent) -> Range<u64> {
        let (offset, length) = extent.within(self.size);
        if length == 0 {
            return 0..0;
        }
        offset / self.chunk_bytes..(offset + length).div_ceil(self.chunk_bytes)
    }

    /// The group that a chunk is in.
    #[must_use]
    pub fn group_of(&self, chunk: u64) -> u64 {
        chunk / self.group_chunks
    }

    /// The chunks of a group.
    #[must_use]
    pub fn group(&self, index: u64) -> Range<u64> {
        let first = index.saturating_mul(self.group_chunks).min(self.chunks());
        first..first.saturating_add(self.group_chunks).min(self.chunks())
    }

    /// The value of a chunk that holds `bytes`.
    #[must_use]
    pub fn value(&self, chunk: u64, bytes: &[u8]) -> Value {
        let mut hasher = self.hasher(chunk);
        hasher.update(bytes);
        self.finish(&hasher)
    }

    /// The value of a chunk that holds nothing but zeros.
    #[must_use]
    pub fn value_of_zeros(&self, chunk: u64) -> Value {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut hasher = self.hasher(chunk);
        let mut left = self.chunk(chunk).length;
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            hasher.update(ZEROS.get(..step).unwrap_or_default());
            left -= step as u64;
        }
        self.finish(&hasher)
    }

    fn hasher(&self, chunk: u64) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(self.chunk(chunk).offset);
        hasher
    }

    fn finish(&self, hasher: &blake3::Hasher) -> Value {
        if self.chunks() == 1 { hasher.finalize().into() } else { hasher.finalize_non_root() }
    }

    /// The value of a group from those of all its chunks. Where there is only one group, it is the hash of everything.
    #[must_use]
    pub fn value_of_group(&self, chunks: &[Value]) -> Value {
        if self.groups() == 1 { root(chunks) } else { subtree(chunks) }
    }

    /// The hash of everything from the values of all groups.
    #[must_use]
    pub fn hash(&self, groups: &[Value]) -> Value {
        root(groups)
    }
}

/// The largest power of two that leaves something for the right side.
fn left_of(count: usize) -> usize {
    count.next_power_of_two() / 2
}

fn subtree(values: &[Value]) -> Value {
    match values {
        // Nobody asks for that; it must match nothing.
        [] => [0; 32],
        [one] => *one,
        many => {
            let (left, right) = many.split_at(left_of(many.len()));
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

/// A single value is taken for the root's own.
fn root(values: &[Value]) -> Value {
    match values {
        [] | [_] => subtree(values),
        many => {
            let (left, right) = many.split_at(left_of(many.len()));
            merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash_by_parts(shape: Shape, content: &[u8]) -> Value {
        let value = |chunk| {
            let extent = shape.chunk(chunk);
            let at = usize::try_from(extent.offset).unwrap();
            shape.value(chunk, &content[at..at + usize::try_from(extent.length).unwrap()])
        };
        let groups: Vec<Value> = (0..shape.groups())
            .map(|group| shape.value_of_group(&shape.group(group).map(value).collect::<Vec<_>>()))
            .collect();
        shape.hash(&groups)
    }

    fn content(size: usize, seed: u8) -> Vec<u8> {
        (0..size).map(|n| (n % 251) as u8 ^ seed).collect()
    }

    proptest! {
        #[test]
        fn the_parts_give_the_hash_of_the_whole(
            chunk in 0u32..3, group in 0u32..4, whole in 0usize..40, more in 0usize..4096, seed: u8,
        ) {
            let (chunk, group) = (1024 << chunk, 1 << group);
            let content = content(whole * chunk + more % (chunk + 1), seed);
            let shape = Shape::with(content.len() as u64, chunk as u64, group);
            prop_assert_eq!(hash_by_parts(shape, &content), *blake3::hash(&content).as_bytes());
        }

        #[test]
        fn every_byte_is_in_one_chunk_and_every_chunk_in_one_group(size in 0..1u64 << 50, at: u64) {
            let shape = Shape::of(size);
            let touched = shape.touched(Extent { offset: at % size.max(1), length: 1 });
            prop_assert_eq!(touched.end - touched.start, u64::from(size > 0));
            if size > 0 {
                let extent = shape.chunk(touched.start);
                let at = at % size;
                prop_assert!(extent.offset <= at && at < extent.offset + extent.length);
                prop_assert!(shape.group(shape.group_of(touched.start)).contains(&touched.start));
            }
            prop_assert_eq!(shape.chunk(shape.chunks()).length, 0);
        }
    }

    #[test]
    fn sizes_around_the_borders_of_chunks_and_groups() {
        for groups in 0..4usize {
            for chunks in 0..3usize {
                for more in [-1i64, 0, 1] {
                    let size = i64::try_from(groups * 4 * 1024 + chunks * 1024).unwrap() + more;
                    let Ok(size) = usize::try_from(size) else { continue };
                    let content = content(size, 7);
                    let shape = Shape::with(size as u64, 1024, 4);
                    assert_eq!(hash_by_parts(shape, &content), *blake3::hash(&content).as_bytes(), "{size}");
                }
            }
        }
    }

    #[test]
    fn the_real_steps_give_the_hash_and_zeros_are_zeros() {
        let content = content((3 << 20) + 17, 0);
        let shape = Shape::of(content.len() as u64);
        assert_eq!(hash_by_parts(shape, &content), *blake3::hash(&content).as_bytes());
        for size in [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
            let shape = Shape::of(size);
            let last = shape.chunks() - 1;
            let zeros = vec![0; usize::try_from(shape.chunk(last).length).unwrap()];
            assert_eq!(shape.value_of_zeros(last), shape.value(last, &zeros));
        }
    }

    #[test]
    fn an_extent_touches_whole_chunks_inside_the_content() {
        let shape = Shape::of((2 << 20) + 1);
        assert_eq!(shape.touched(Extent::WHOLE), 0..3);
        assert_eq!(shape.touched(Extent { offset: (1 << 20) - 1, length: 2 }), 0..2);
        assert_eq!(shape.touched(Extent { offset: 2 << 20, length: 100 }), 2..3);
        assert_eq!(shape.touched(Extent { offset: (2 << 20) + 1, length: 5 }), 0..0);
        assert_eq!(shape.touched(Extent { offset: 7, length: 0 }), 0..0);
    }
}
