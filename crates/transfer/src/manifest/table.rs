//! The table of chunks: read one group at a time, every group verified before one of its values is believed.
//!
//! It comes behind the descriptive part. Content of one chunk has none: that chunk's value is the hash of the content. Otherwise:
//! the values of all groups, if there is more than one, then a block for each group: the values of its chunks; and for encoded
//! content where each chunk's frame lies, and a checksum of that. So to verify a chunk takes the values of the groups and one
//! block, whatever the size of the content.

use super::{CHUNKS_PER_GROUP, Content, ManifestError, ReadAt, Shape, Value};
use crate::Encoding;
use std::collections::BTreeMap;

const VALUE_BYTES: u64 = 32;
/// Offset u64, length u32.
const FRAME_BYTES: u64 = 12;
/// A chunk that does not shrink grows a little, by its frame's own bytes. No frame is longer.
const MAX_FRAME_BYTES: u32 = 2 << 20;

/// Where an encoded chunk lies in its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frame {
    /// First byte.
    pub offset: u64,
    /// Number of bytes; at most 2 MiB.
    pub length: u32,
}

/// What is known of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its number.
    pub index: u64,
    /// The hash of its content; compare it with [`Shape::value`].
    pub value: Value,
    /// Where it lies in the object, when the object is encoded; raw content lies where it lay in the file.
    pub frame: Option<Frame>,
}

/// The positions of everything in the table.
#[derive(Debug, Clone, Copy)]
struct Layout {
    shape: Shape,
    framed: bool,
    start: u64,
}

impl Layout {
    fn has_table(&self) -> bool {
        self.shape.chunks() > 1
    }

    /// Where the blocks of the groups begin.
    fn blocks(&self) -> u64 {
        let groups = self.shape.groups();
        self.start + if groups > 1 { groups * VALUE_BYTES } else { 0 }
    }

    fn block_bytes(&self, chunks: u64) -> u64 {
        let frames = if self.framed { chunks * FRAME_BYTES + VALUE_BYTES } else { 0 };
        chunks * VALUE_BYTES + frames
    }

    fn block(&self, group: u64) -> u64 {
        // Every group before this one is full.
        self.blocks() + group * self.block_bytes(CHUNKS_PER_GROUP)
    }
}

/// One group's part of the table, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    index: u64,
    first: u64,
    values: Vec<Value>,
    frames: Vec<Frame>,
}

impl Group {
    /// Its number.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// A chunk, if it is in this group.
    #[must_use]
    pub fn chunk(&self, index: u64) -> Option<Chunk> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        let value = *self.values.get(at)?;
        Some(Chunk { index, value, frame: self.frames.get(at).copied() })
    }

    /// All of its chunks, in order.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + '_ {
        (self.first..).map_while(|index| self.chunk(index))
    }
}

/// Reads a table of chunks.
#[derive(Debug)]
pub struct ChunkTable<R> {
    source: R,
    layout: Layout,
    stored_bytes: u64,
    hash: Value,
    /// Of all groups, verified; empty when there is only one.
    groups: Vec<Value>,
}

impl<R: ReadAt> ChunkTable<R> {
    /// `start` is the length of the descriptive part, as [`Manifest::read`](super::Manifest::read) gave it together with `content`.
    ///
    /// Reads and verifies the values of the groups: 32 bytes for each GiB of content.
    pub fn open(source: R, content: &Content, start: u64) -> Result<Self, ManifestError> {
        let shape = Shape::of(content.size);
        let framed = content.encoding != Encoding::Raw;
        let layout = Layout { shape, framed, start };
        let mut table = Self { source, layout, stored_bytes: content.stored_bytes, hash: content.hash, groups: vec![] };
        if shape.groups() > 1 {
            // Read in pieces: what is not there is not allocated for.
            let mut left = shape.groups();
            while left > 0 {
                let count = left.min(CHUNKS_PER_GROUP);
                let bytes = table.bytes(start + (shape.groups() - left) * VALUE_BYTES, count * VALUE_BYTES)?;
                table.groups.extend_from_slice(bytes.as_chunks().0);
                left -= count;
            }
            if shape.hash(&table.groups) != content.hash {
                return Err(ManifestError::Damaged("the hashes of its groups do not give the content's"));
            }
        }
        Ok(table)
    }

    /// How the content is cut.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// Reads and verifies one group: up to 45 KiB.
    pub fn group(&self, index: u64) -> Result<Group, ManifestError> {
        let chunks = self.layout.shape.group(index);
        let (first, count) = (chunks.start, chunks.end - chunks.start);
        if !self.layout.has_table() {
            let frame = Frame { offset: 0, length: u32::try_from(self.stored_bytes).unwrap_or(u32::MAX) };
            let frames = if self.layout.framed { vec![checked(frame, self.stored_bytes)?] } else { vec![] };
            return Ok(Group { index, first, values: vec![self.hash], frames });
        }
        let bytes = self.bytes(self.layout.block(index), self.layout.block_bytes(count))?;
        let ends_early = ManifestError::Damaged("it ends too early");
        let split = usize::try_from(count * VALUE_BYTES).unwrap_or(usize::MAX);
        let Some((values, rest)) = bytes.split_at_checked(split) else { return Err(ends_early) };
        let values = values.as_chunks().0.to_vec();
        let expected = if self.groups.is_empty() {
            Some(&self.hash)
        } else {
            usize::try_from(index).ok().and_then(|index| self.groups.get(index))
        };
        if expected != Some(&self.layout.shape.value_of_group(&values)) {
            return Err(ManifestError::Damaged("the hashes of its chunks do not give their group's"));
        }
        let frames = if self.layout.framed { self.frames(rest)? } else { Vec::new() };
        Ok(Group { index, first, values, frames })
    }

    fn frames(&self, bytes: &[u8]) -> Result<Vec<Frame>, ManifestError> {
        let (frames, checksum) =
            bytes.split_last_chunk::<{ VALUE_BYTES as usize }>().ok_or(ManifestError::Damaged("it ends too early"))?;
        if blake3::hash(frames).as_bytes() != checksum {
            return Err(ManifestError::Damaged("the checksum of its frames does not match"));
        }
        let (frames, _) = frames.as_chunks::<{ FRAME_BYTES as usize }>();
        let frame = |[a, b, c, d, e, f, g, h, i, j, k, l]: &[u8; 12]| {
            let offset = u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
            checked(Frame { offset, length: u32::from_le_bytes([*i, *j, *k, *l]) }, self.stored_bytes)
        };
        frames.iter().map(frame).collect()
    }

    fn bytes(&self, offset: u64, count: u64) -> Result<Vec<u8>, ManifestError> {
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0)];
        let read = self.source.read_full_at(&mut bytes, offset)?;
        if read as u64 == count { Ok(bytes) } else { Err(ManifestError::Damaged("it ends too early")) }
    }
}

fn checked(frame: Frame, stored_bytes: u64) -> Result<Frame, ManifestError> {
    let end = frame.offset.checked_add(frame.length.into());
    if frame.length > MAX_FRAME_BYTES || end.is_none_or(|end| end > stored_bytes) {
        return Err(ManifestError::Damaged("a frame lies outside of the object"));
    }
    Ok(frame)
}

/// Bytes of the table, and where in the manifest they belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// From the manifest's start.
    pub offset: u64,
    /// At most 45 KiB, or the values of all groups.
    pub bytes: Vec<u8>,
}

/// Makes a table from the values of its chunks, which may come in any order. What is unfinished of a group is held in memory.
#[derive(Debug)]
pub struct TableBuilder {
    layout: Layout,
    /// What has come of each group that has not come whole.
    open: BTreeMap<u64, OpenGroup>,
    /// Of the groups that are complete.
    groups: BTreeMap<u64, Value>,
}

#[derive(Debug)]
struct OpenGroup {
    values: Vec<Value>,
    frames: Vec<Frame>,
    missing: u64,
}

impl TableBuilder {
    /// For content of `size` bytes; `start` is the length of the descriptive part.
    #[must_use]
    pub fn new(size: u64, encoding: Encoding, start: u64) -> Self {
        let layout = Layout { shape: Shape::of(size), framed: encoding != Encoding::Raw, start };
        Self { layout, open: BTreeMap::new(), groups: BTreeMap::new() }
    }

    /// How the content is cut.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// Takes a chunk, once. Gives back its group's block when that is complete. Chunks past the end are ignored.
    pub fn set(&mut self, index: u64, value: Value, frame: Frame) -> Option<Block> {
        let shape = self.layout.shape;
        let group = shape.group_of(index);
        let chunks = shape.group(group);
        let (first, count) = (chunks.start, chunks.end - chunks.start);
        let room = usize::try_from(count).unwrap_or(0);
        let open = self.open.entry(group).or_insert_with(|| OpenGroup {
            values: vec![[0; 32]; room],
            frames: vec![Frame::default(); room],
            missing: count,
        });
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        *open.values.get_mut(at)? = value;
        *open.frames.get_mut(at)? = frame;
        open.missing = open.missing.saturating_sub(1);
        if open.missing > 0 {
            return None;
        }
        let done = self.open.remove(&group)?;
        self.groups.insert(group, shape.value_of_group(&done.values));
        if !self.layout.has_table() {
            return None;
        }
        let mut bytes = done.values.concat();
        if self.layout.framed {
            let frames: Vec<u8> = done
                .frames
                .iter()
                .flat_map(|frame| frame.offset.to_le_bytes().into_iter().chain(frame.length.to_le_bytes()))
                .collect();
            bytes.extend(&frames);
            bytes.extend(blake3::hash(&frames).as_bytes());
        }
        Some(Block { offset: self.layout.block(group), bytes })
    }

    /// The hash of the content, and the values of the groups if they have a place in the table. `None` while a chunk is missing.
    #[must_use]
    pub fn finish(self) -> Option<(Value, Option<Block>)> {
        let shape = self.layout.shape;
        if self.groups.len() as u64 != shape.groups() {
            return None;
        }
        let groups: Vec<Value> = self.groups.into_values().collect();
        let block = (groups.len() > 1).then(|| Block { offset: self.layout.start, bytes: groups.concat() });
        Some((shape.hash(&groups), block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A manifest's bytes whose descriptive part is only so many bytes, and the content that goes with it. The values of the
    /// chunks are made up: a table does not look at content.
    fn built(size: u64, encoding: Encoding, start: u64, backwards: bool) -> (Vec<u8>, Content, Vec<(Value, Frame)>) {
        let mut builder = TableBuilder::new(size, encoding, start);
        let chunks: Vec<(Value, Frame)> = (0..builder.shape().chunks())
            .map(|n| (*blake3::hash(&n.to_le_bytes()).as_bytes(), Frame { offset: n * 10, length: 10 }))
            .collect();
        let mut bytes = vec![0xee; usize::try_from(start).unwrap()];
        let mut put = |block: Option<Block>| {
            if let Some(Block { offset, bytes: block }) = block {
                let end = usize::try_from(offset).unwrap() + block.len();
                bytes.resize(end.max(bytes.len()), 0);
                bytes[end - block.len()..end].copy_from_slice(&block);
            }
        };
        let mut order: Vec<usize> = (0..chunks.len()).collect();
        if backwards {
            order.reverse();
        }
        for n in order {
            put(builder.set(n as u64, chunks[n].0, chunks[n].1));
        }
        let (hash, block) = builder.finish().unwrap();
        put(block);
        let stored_bytes = if encoding == Encoding::Raw { size } else { chunks.len() as u64 * 10 };
        (bytes, Content { size, stored_bytes, encoding, hash, holes: vec![] }, chunks)
    }

    const MIB: u64 = 1 << 20;

    fn sizes() -> impl Strategy<Value = u64> {
        prop_oneof![0..3 * MIB, Just(1024 * MIB), 1023 * MIB..1026 * MIB, 3000 * MIB..3100 * MIB]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_was_set_is_read_back(size in sizes(), start in 0u64..500, backwards: bool, encoded: bool) {
            let encoding = if encoded { Encoding::Zstd } else { Encoding::Raw };
            let (bytes, content, chunks) = built(size, encoding, start, backwards);
            let table = ChunkTable::open(bytes, &content, start).unwrap();
            let read: Vec<Chunk> = (0..table.shape().groups())
                .flat_map(|group| table.group(group).unwrap().chunks().collect::<Vec<_>>())
                .collect();
            prop_assert_eq!(read.len(), chunks.len());
            for (n, (read, (value, frame))) in read.iter().zip(&chunks).enumerate() {
                prop_assert_eq!((read.index, read.value), (n as u64, *value));
                prop_assert_eq!(read.frame, encoded.then_some(*frame));
            }
        }

        #[test]
        fn every_flipped_bit_is_found(size in sizes(), encoded: bool, at: u64, bit in 0u8..8, cut: u64) {
            let encoding = if encoded { Encoding::Zstd } else { Encoding::Raw };
            let (bytes, content, _) = built(size, encoding, 0, false);
            prop_assume!(!bytes.is_empty());
            let all = |bytes: Vec<u8>| {
                let table = ChunkTable::open(bytes, &content, 0)?;
                (0..table.shape().groups()).try_for_each(|group| table.group(group).map(drop))
            };
            let mut flipped = bytes.clone();
            let length = flipped.len() as u64;
            flipped[usize::try_from(at % length).unwrap()] ^= 1 << bit;
            prop_assert!(matches!(all(flipped), Err(ManifestError::Damaged(_))));
            let mut shorter = bytes;
            shorter.truncate(usize::try_from(cut % length).unwrap());
            prop_assert!(matches!(all(shorter), Err(ManifestError::Damaged(_))));
        }
    }

    #[test]
    fn content_of_one_chunk_has_no_table() {
        for size in [0, 1, MIB] {
            let (bytes, content, chunks) = built(size, Encoding::Raw, 0, false);
            assert!(bytes.is_empty());
            assert_eq!(content.hash, chunks[0].0);
        }
    }

    #[test]
    fn a_table_that_lacks_a_chunk_is_not_finished() {
        let mut builder = TableBuilder::new(2 * MIB, Encoding::Raw, 0);
        assert_eq!(builder.set(1, [1; 32], Frame::default()), None);
        assert_eq!(builder.set(2, [1; 32], Frame::default()), None);
        assert!(builder.finish().is_none());
    }
}
