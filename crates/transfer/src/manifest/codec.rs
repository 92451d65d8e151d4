//! The descriptive part as bytes, version 1. `docs/formats.md` is the other description of the same thing.

use super::{
    Attribute, CHUNKS_PER_GROUP, Content, Inode, Kind, MAX_ATTRIBUTE_BYTES, MAX_CONTENT_BYTES, MAX_HOLES,
    MAX_PATH_BYTES, Manifest, ManifestError, ReadAt,
};
use crate::Encoding;
use model::limits::CHUNK_SIZE_BYTES;
use model::{Extent, FileHandle, ObjectId, Timestamp};

const MAGIC: [u8; 8] = *b"sifaka\0m";
const VERSION: u16 = 1;
/// Magic, version, kind, encoding, length: what says how much there is to be read.
const PREFIX_BYTES: usize = 16;
/// With the prefix; the parts of varying length follow.
const FIXED_BYTES: usize = 196;
const CHECKSUM_BYTES: usize = 32;
const HOLE_BYTES: usize = 16;
/// The longest that a descriptive part can be: what garbage names is not allocated.
const MAX_BYTES: usize = FIXED_BYTES + (8 << 20);
/// More than nearly all have: one read.
const USUAL_BYTES: usize = 1024;
const MAX_NAME_BYTES: usize = 255;
const MAX_VALUE_BYTES: usize = 64 << 10;
const MAX_LINK_BYTES: usize = 64 << 10;

const _: () = assert!(
    FIXED_BYTES + MAX_HOLES * HOLE_BYTES + 2 * MAX_ATTRIBUTE_BYTES.div_ceil(2) + MAX_PATH_BYTES + MAX_LINK_BYTES
        < MAX_BYTES - (2 << 20),
    "everything that is allowed has to fit, with the lengths of a million attributes"
);

const HAS_BTIME: u32 = 1;
const HAS_HANDLE: u32 = 1 << 1;
const ATTRIBUTES_INCOMPLETE: u32 = 1 << 2;
const KNOWN_FLAGS: u32 = HAS_BTIME | HAS_HANDLE | ATTRIBUTES_INCOMPLETE;

impl Manifest {
    /// The descriptive part, with its checksum. The table of chunks comes right behind it.
    ///
    /// # Errors
    /// [`ManifestError::Unfit`] when it holds something that [`Manifest::decode`] would refuse.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        self.check().map_err(ManifestError::Unfit)?;
        let mut out = Vec::with_capacity(USUAL_BYTES);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.push(self.kind_number());
        let content = self.content();
        out.push(content.map_or(0, |content| encoding_number(content.encoding)));
        out.extend([0; 4]); // Length of it all, known at the end.
        self.put_fixed(content, &mut out);
        out.extend(self.inode.handle.iter().flat_map(|handle| handle.bytes.iter().copied()));
        out.extend(self.object.as_str().as_bytes());
        out.extend(&self.path);
        out.extend(self.link_target());
        for attribute in &self.attributes {
            out.extend(low32(attribute.name.len()).to_le_bytes());
            out.extend(low32(attribute.value.len()).to_le_bytes());
            out.extend(&attribute.name);
            out.extend(&attribute.value);
        }
        for hole in content.map(|content| content.holes.as_slice()).unwrap_or_default() {
            out.extend(hole.offset.to_le_bytes());
            out.extend(hole.length.to_le_bytes());
        }
        if out.len() + CHECKSUM_BYTES > MAX_BYTES {
            return Err(ManifestError::Unfit("it is too long"));
        }
        let length = low32(out.len() + CHECKSUM_BYTES).to_le_bytes();
        if let Some(place) = out.get_mut(PREFIX_BYTES - 4..PREFIX_BYTES) {
            place.copy_from_slice(&length);
        }
        let checksum = blake3::hash(&out);
        out.extend(checksum.as_bytes());
        Ok(out)
    }

    fn put_fixed(&self, content: Option<&Content>, out: &mut Vec<u8>) {
        let inode = &self.inode;
        let (major, minor) = match self.kind {
            Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => (major, minor),
            _ => (0, 0),
        };
        let mut flags = 0;
        flags |= if inode.btime.is_some() { HAS_BTIME } else { 0 };
        flags |= if inode.handle.is_some() { HAS_HANDLE } else { 0 };
        flags |= if self.attributes_incomplete { ATTRIBUTES_INCOMPLETE } else { 0 };
        out.extend(content.map_or(0, |content| content.size).to_le_bytes());
        out.extend(content.map_or(0, |content| content.stored_bytes).to_le_bytes());
        out.extend(low32(CHUNK_SIZE_BYTES).to_le_bytes());
        out.extend((CHUNKS_PER_GROUP as u32).to_le_bytes());
        out.extend(content.map_or([0; 32], |content| content.hash));
        for number in [inode.mode, inode.uid, inode.gid, flags] {
            out.extend(number.to_le_bytes());
        }
        out.extend(inode.links.to_le_bytes());
        out.extend(major.to_le_bytes());
        out.extend(minor.to_le_bytes());
        for time in [inode.atime, inode.mtime, inode.ctime, inode.btime.unwrap_or_default(), self.made] {
            out.extend(time.seconds.to_le_bytes());
            out.extend(time.nanos.to_le_bytes());
        }
        out.extend(inode.fsid);
        out.extend(inode.handle.as_ref().map_or(0, |handle| handle.kind).to_le_bytes());
        let holes = content.map_or(0, |content| content.holes.len());
        let handle = inode.handle.as_ref().map_or(0, |handle| handle.bytes.len());
        out.extend((handle as u16).to_le_bytes());
        out.extend((self.object.as_str().len() as u16).to_le_bytes());
        for count in [self.path.len(), self.link_target().len(), self.attributes.len(), holes] {
            out.extend(low32(count).to_le_bytes());
        }
    }

    /// Reads the descriptive part from the start of `source`, and says how long it is: the table of chunks begins there.
    ///
    /// # Errors
    /// [`ManifestError`]; for no bytes a panic, or memory beyond what they need (at most 8 MiB).
    pub fn read(source: &impl ReadAt) -> Result<(Self, u64), ManifestError> {
        let mut bytes = vec![0; USUAL_BYTES];
        let read = source.read_full_at(&mut bytes, 0)?;
        bytes.truncate(read);
        let length = length_of(&bytes)?;
        if length > bytes.len() {
            if read < USUAL_BYTES {
                return Err(ManifestError::Damaged("it ends too early"));
            }
            bytes.resize(length, 0);
            let rest = bytes.get_mut(read..).unwrap_or_default();
            if source.read_full_at(rest, read as u64)? < length - read {
                return Err(ManifestError::Damaged("it ends too early"));
            }
        }
        Ok((Self::decode(&bytes)?, length as u64))
    }

    /// From bytes that begin with the descriptive part; what follows it is not looked at.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let length = length_of(bytes)?;
        let (bytes, checksum) = length
            .checked_sub(CHECKSUM_BYTES)
            .and_then(|body| bytes.get(..length)?.split_at_checked(body))
            .ok_or(ManifestError::Damaged("it ends too early"))?;
        if blake3::hash(bytes).as_bytes() != checksum {
            return Err(ManifestError::Damaged("its checksum does not match"));
        }
        let manifest = parse(bytes).ok_or(ManifestError::Damaged("its parts do not fit together"))?;
        manifest.check().map_err(ManifestError::Damaged)?;
        Ok(manifest)
    }

    fn link_target(&self) -> &[u8] {
        match &self.kind {
            Kind::Symlink(target) => target,
            _ => &[],
        }
    }

    fn kind_number(&self) -> u8 {
        match self.kind {
            Kind::File(_) => 1,
            Kind::Directory => 2,
            Kind::Symlink(_) => 3,
            Kind::Fifo => 4,
            Kind::Socket => 5,
            Kind::CharDevice(..) => 6,
            Kind::BlockDevice(..) => 7,
            Kind::HardLink => 8,
        }
    }

    /// What every manifest keeps to, whether it comes or goes.
    fn check(&self) -> Result<(), &'static str> {
        let rule = |holds: bool, why| if holds { Ok(()) } else { Err(why) };
        let inode = &self.inode;
        let times = [inode.atime, inode.mtime, inode.ctime, inode.btime.unwrap_or_default(), self.made];
        rule(times.iter().all(|time| time.nanos < 1_000_000_000), "a time is none")?;
        rule(is_path(&self.path), "the path is none")?;
        let handle = inode.handle.as_ref().map(|handle| handle.bytes.len());
        rule(handle.is_none_or(|length| (1..=FileHandle::MAX_BYTES).contains(&length)), "the handle is none")?;
        rule(!matches!(self.kind, Kind::HardLink) || handle.is_some(), "a hard link names no inode")?;
        if let Kind::Symlink(target) = &self.kind {
            let fits = (1..=MAX_LINK_BYTES).contains(&target.len()) && !target.contains(&0);
            rule(fits, "the link's target is none")?;
        }
        let named = |attribute: &Attribute| {
            (1..=MAX_NAME_BYTES).contains(&attribute.name.len()) && !attribute.name.contains(&0)
        };
        rule(self.attributes.iter().all(named), "an attribute's name is none")?;
        rule(self.attributes.iter().all(|a| a.value.len() <= MAX_VALUE_BYTES), "an attribute is too long")?;
        let bytes: usize = self.attributes.iter().map(Attribute::bytes).sum();
        rule(bytes <= MAX_ATTRIBUTE_BYTES, "there are too many attributes")?;
        self.content().map_or(Ok(()), Content::check)
    }
}

impl Attribute {
    /// What counts against [`MAX_ATTRIBUTE_BYTES`]: every attribute at least 8, for its lengths.
    pub(super) fn bytes(&self) -> usize {
        8 + self.name.len() + self.value.len()
    }
}

impl Content {
    fn check(&self) -> Result<(), &'static str> {
        let rule = |holds: bool, why| if holds { Ok(()) } else { Err(why) };
        rule(self.size <= MAX_CONTENT_BYTES, "the content is too large")?;
        rule(self.encoding != Encoding::Raw || self.stored_bytes == self.size, "a raw object has another size")?;
        rule(self.holes.len() <= MAX_HOLES, "there are too many holes")?;
        let mut end = 0;
        let fits = self.holes.iter().enumerate().all(|(n, hole)| {
            let apart = hole.offset > end || (n == 0 && hole.offset == 0);
            let next = hole.offset.checked_add(hole.length).filter(|next| *next <= self.size);
            end = next.unwrap_or(end);
            apart && hole.length > 0 && next.is_some()
        });
        rule(fits, "the holes are not in order")
    }
}

/// Whether a manifest can hold it as its path.
pub(super) fn is_path(path: &[u8]) -> bool {
    path.len() <= MAX_PATH_BYTES && (path.is_empty() || path.split(|byte| *byte == b'/').all(is_name))
}

/// Whether it can be one step of a path: nothing that leads elsewhere.
fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&0)
}

fn length_of(bytes: &[u8]) -> Result<usize, ManifestError> {
    let mut reader = Reader(bytes);
    let magic = reader.array::<8>();
    if magic.is_none_or(|magic| magic != MAGIC) {
        return Err(ManifestError::Magic);
    }
    let short = ManifestError::Damaged("it ends too early");
    let Some(version) = reader.array().map(u16::from_le_bytes) else { return Err(short) };
    if version != VERSION {
        return Err(ManifestError::Version(version));
    }
    let length = reader.take(2).and_then(|_| reader.size());
    match length {
        Some(length) if (FIXED_BYTES + CHECKSUM_BYTES..=MAX_BYTES).contains(&length) => Ok(length),
        Some(_) => Err(ManifestError::Damaged("its length is impossible")),
        None => Err(short),
    }
}

/// `None` where something does not fit. The checksum held, so that is somebody's mistake and not an accident.
fn parse(bytes: &[u8]) -> Option<Manifest> {
    let mut reader = Reader(bytes);
    let [.., kind, encoding, _, _, _, _] = reader.array::<PREFIX_BYTES>()?;
    let (size, stored_bytes) = (reader.u64()?, reader.u64()?);
    let steps = (reader.u32()?, reader.u32()?);
    if steps != (low32(CHUNK_SIZE_BYTES), CHUNKS_PER_GROUP as u32) {
        return None;
    }
    let hash = reader.array()?;
    let (mode, uid, gid, flags) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    if flags & !KNOWN_FLAGS != 0 {
        return None;
    }
    let (links, major, minor) = (reader.u64()?, reader.u32()?, reader.u32()?);
    let (atime, mtime, ctime) = (reader.time()?, reader.time()?, reader.time()?);
    let (btime, made) = (reader.time()?, reader.time()?);
    let fsid = reader.array()?;
    let handle_kind = i32::from_le_bytes(reader.array()?);
    let (handle_bytes, id_bytes) = (reader.u16()?, reader.u16()?);
    let (path_bytes, target_bytes) = (reader.size()?, reader.size()?);
    let (attributes, holes) = (reader.size()?, reader.size()?);

    let handle_bytes = reader.take(handle_bytes.into())?;
    let handle = (flags & HAS_HANDLE != 0)
        .then(|| FileHandle { kind: handle_kind, bytes: handle_bytes.iter().copied().collect() });
    let object = ObjectId::parse(std::str::from_utf8(reader.take(id_bytes.into())?).ok()?).ok()?;
    let path = reader.take(path_bytes)?.to_vec();
    let target = reader.take(target_bytes)?.to_vec();
    // Counts are only believed as far as there are bytes for them: nothing is reserved.
    let attributes = (0..attributes).map(|_| reader.attribute()).collect::<Option<Vec<_>>>()?;
    let holes = (0..holes).map(|_| reader.hole()).collect::<Option<Vec<_>>>()?;
    if !reader.0.is_empty() {
        return None;
    }
    let kind = match kind {
        1 => Kind::File(Content { size, stored_bytes, encoding: encoding_of(encoding)?, hash, holes }),
        2 => Kind::Directory,
        3 => Kind::Symlink(target),
        4 => Kind::Fifo,
        5 => Kind::Socket,
        6 => Kind::CharDevice(major, minor),
        7 => Kind::BlockDevice(major, minor),
        8 => Kind::HardLink,
        _ => return None,
    };
    let btime = (flags & HAS_BTIME != 0).then_some(btime);
    let inode = Inode { mode, uid, gid, links, atime, mtime, ctime, btime, fsid, handle };
    let attributes_incomplete = flags & ATTRIBUTES_INCOMPLETE != 0;
    Some(Manifest { object, kind, inode, path, attributes, attributes_incomplete, made })
}

fn encoding_number(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::Raw => 0,
        Encoding::Gzip => 1,
        Encoding::Zstd => 2,
    }
}

fn encoding_of(number: u8) -> Option<Encoding> {
    Encoding::ALL.into_iter().find(|encoding| encoding_number(*encoding) == number)
}

/// Lengths that [`Manifest::check`] has limited.
fn low32(length: usize) -> u32 {
    length as u32
}

/// Takes from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(self.u32()?).ok()
    }

    fn time(&mut self) -> Option<Timestamp> {
        Some(Timestamp { seconds: i64::from_le_bytes(self.array()?), nanos: self.u32()? })
    }

    fn attribute(&mut self) -> Option<Attribute> {
        let (name, value) = (self.size()?, self.size()?);
        Some(Attribute { name: self.take(name)?.to_vec(), value: self.take(value)?.to_vec() })
    }

    fn hole(&mut self) -> Option<Extent> {
        Some(Extent { offset: self.u64()?, length: self.u64()? })
    }
}

#[cfg(test)]
mod tests;
