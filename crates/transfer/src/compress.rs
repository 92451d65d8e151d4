//! How an object's bytes stand in the archive: as they are, gzip (Lemur's), or zstd.
//!
//! The suffix of an object's id says which, as it does in Lemur (`<uuid>.gz`). Memory is bounded by the codecs'
//! windows. With a manifest an object is a row of frames (gzip calls them members), one for each chunk; else it is one stream. Both
//! are read alike from front to back. A frame that ends early, or is followed by anything but another one, is an error.

use crate::manifest::ReadAt as _;
use crate::{OpenFile, TransferError};
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use model::limits::CHUNK_SIZE_BYTES;
use std::io::{self, BufRead, BufReader, Read, Write};

/// Balanced: several hundred MB/s a core, and most of what higher levels save.
const ZSTD_LEVEL: i32 = 3;
/// How much a sample has to shrink, in percent, before `auto` compresses (Lemur's number).
const AUTO_SHRINK_PERCENT: u64 = 30;
/// How many places of a file are sampled, one chunk each.
const SAMPLES: u64 = 3; // As many as there are offsets in `shrinks`.

/// One way to store an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// The content itself, holes kept.
    Raw,
    /// gzip members.
    Gzip,
    /// zstd frames, with their checksums.
    Zstd,
}

impl Encoding {
    /// Every encoding.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Gzip, Self::Zstd];

    /// What an object's id ends in.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Raw => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }

    /// Splits a name into what comes before the suffix, and the encoding that the suffix says.
    #[must_use]
    pub fn split(name: &str) -> (&str, Self) {
        [Self::Gzip, Self::Zstd]
            .into_iter()
            .find_map(|encoding| Some((name.strip_suffix(encoding.suffix())?, encoding)))
            .unwrap_or((name, Self::Raw))
    }
}

/// Whether a sample of the file (three chunks) shrinks enough to be worth compressing. `Raw` never does.
pub fn shrinks(source: &OpenFile, encoding: Encoding) -> Result<bool, TransferError> {
    let size = source.stamp()?.size;
    let chunk = CHUNK_SIZE_BYTES as u64;
    let last = size.saturating_sub(chunk);
    let offsets = if size > SAMPLES * chunk { [0, last / 2, last] } else { [0, chunk, 2 * chunk] };
    let mut buffer = vec![0; CHUNK_SIZE_BYTES.min(usize::try_from(size).unwrap_or(usize::MAX))];
    let (mut before, mut after) = (0u64, 0u64);
    for offset in offsets.into_iter().filter(|offset| *offset < size) {
        let read = source.read_full_at(&mut buffer, offset).map_err(source.failed("read"))?;
        let sample = buffer.get(..read).unwrap_or_default();
        let mut counter = Encoder::new(Counter(0), encoding, None).map_err(source.failed("compress"))?;
        counter.write_all(sample).map_err(source.failed("compress"))?;
        after += counter.finish().map_err(source.failed("compress"))?.0;
        before += read as u64;
    }
    Ok(shrinks_enough(before, after))
}

/// Whether so many bytes instead of those are worth compressing.
pub(crate) fn shrinks_enough(before: u64, after: u64) -> bool {
    after * 100 < before * (100 - AUTO_SHRINK_PERCENT)
}

/// Counts what is written to it.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses what is written to it. Not finished, not valid.
pub(crate) enum Encoder<W: Write> {
    Raw(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// `size` is stored in the zstd frame when it is known; it must then be what comes.
    pub(crate) fn new(writer: W, encoding: Encoding, size: Option<u64>) -> io::Result<Self> {
        Ok(match encoding {
            Encoding::Raw => Self::Raw(writer),
            Encoding::Gzip => Self::Gzip(GzEncoder::new(writer, flate2::Compression::default())),
            Encoding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(writer, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                encoder.set_pledged_src_size(size)?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Writes the end of the stream and gives the writer back.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Self::Raw(writer) => Ok(writer),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Raw(writer) => writer.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Raw(writer) => writer.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// Compresses chunks, each into a frame of its own.
pub(crate) struct FrameEncoder {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    encoded: Vec<u8>,
}

impl FrameEncoder {
    pub(crate) fn new(encoding: Encoding) -> io::Result<Self> {
        let zstd = match encoding {
            Encoding::Zstd => {
                let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
                compressor.include_checksum(true)?;
                Some(compressor)
            }
            Encoding::Raw | Encoding::Gzip => None,
        };
        Ok(Self { zstd, encoded: Vec::new() })
    }

    pub(crate) fn encode(&mut self, chunk: &[u8]) -> io::Result<&[u8]> {
        self.encoded.clear();
        if let Some(zstd) = &mut self.zstd {
            self.encoded.reserve(zstd::zstd_safe::compress_bound(chunk.len()));
            zstd.compress_to_buffer(chunk, &mut self.encoded)?;
        } else {
            let mut encoder = GzEncoder::new(&mut self.encoded, flate2::Compression::default());
            encoder.write_all(chunk)?;
            encoder.finish()?;
        }
        Ok(&self.encoded)
    }
}

/// Decompresses chunks.
pub(crate) struct FrameDecoder {
    encoding: Encoding,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl FrameDecoder {
    pub(crate) fn new(encoding: Encoding) -> io::Result<Self> {
        let zstd = (encoding == Encoding::Zstd).then(zstd::bulk::Decompressor::new).transpose()?;
        Ok(Self { encoding, zstd })
    }

    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Fills `chunk` exactly, and takes the frame exactly, or it is an error.
    pub(crate) fn decode(&mut self, frame: &[u8], chunk: &mut [u8]) -> io::Result<()> {
        let count = match &mut self.zstd {
            Some(zstd) => zstd.decompress_to_buffer(frame, chunk)?,
            None => {
                let mut decoder = MultiGzDecoder::new(frame);
                decoder.read_exact(chunk)?;
                chunk.len() + decoder.read(&mut [0])?
            }
        };
        if count == chunk.len() { Ok(()) } else { Err(io::Error::other("its length is not the one that was archived")) }
    }
}

/// Decompresses frames one behind the other, and makes sure that nothing else follows.
pub(crate) enum Decoder<R: Read> {
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<R>>),
}

/// What the encoded side is read in.
const ENCODED_BUFFER_BYTES: usize = 256 << 10;

impl<R: Read> Decoder<R> {
    /// `None` for raw, which needs none.
    pub(crate) fn new(reader: R, encoding: Encoding) -> io::Result<Option<Self>> {
        let mut reader = BufReader::with_capacity(ENCODED_BUFFER_BYTES, reader);
        if encoding != Encoding::Raw && reader.fill_buf()?.is_empty() {
            // Both libraries take an empty input for an empty content.
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is empty"));
        }
        Ok(match encoding {
            Encoding::Raw => None,
            Encoding::Gzip => Some(Self::Gzip(Box::new(MultiGzDecoder::new(reader)))),
            Encoding::Zstd => Some(Self::Zstd(zstd::stream::read::Decoder::with_buffer(reader)?)),
        })
    }

    /// Fills as much of `buffer` as there is; 0 means that the last frame ended properly and that nothing follows.
    pub(crate) fn read_full(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = match self {
                Self::Gzip(decoder) => decoder.read(rest),
                Self::Zstd(decoder) => decoder.read(rest),
            };
            match read {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(encoding: Encoding, content: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), encoding, Some(content.len() as u64)).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(encoding: Encoding, stored: &[u8]) -> io::Result<Vec<u8>> {
        let mut decoder = Decoder::new(stored, encoding)?.unwrap();
        let (mut content, mut buffer) = (Vec::new(), vec![0; 1000]);
        loop {
            match decoder.read_full(&mut buffer)? {
                0 => return Ok(content),
                n => content.extend_from_slice(&buffer[..n]),
            }
        }
    }

    #[test]
    fn the_suffix_says_the_encoding() {
        assert_eq!(Encoding::split("abcde.gz"), ("abcde", Encoding::Gzip));
        assert_eq!(Encoding::split("abcde.zst"), ("abcde", Encoding::Zstd));
        assert_eq!(Encoding::split("abcde.gzip"), ("abcde.gzip", Encoding::Raw));
    }

    proptest! {
        #[test]
        fn frames_round_trip_and_garbage_is_an_error(content: Vec<u8>, length in 0usize..4000, flip: usize) {
            for encoding in [Encoding::Gzip, Encoding::Zstd] {
                let mut encoder = FrameEncoder::new(encoding).unwrap();
                let mut decoder = FrameDecoder::new(encoding).unwrap();
                for _ in 0..2 {
                    let mut frame = encoder.encode(&content).unwrap().to_vec();
                    let mut found = vec![1; content.len()];
                    decoder.decode(&frame, &mut found).unwrap();
                    prop_assert_eq!(&found, &content);
                    if length != content.len() {
                        prop_assert!(decoder.decode(&frame, &mut vec![0; length]).is_err());
                    }
                    let at = flip % frame.len();
                    frame[at] ^= 0x10;
                    let _ = decoder.decode(&frame, &mut found);
                    prop_assert!(decoder.decode(&frame[..at], &mut vec![1; content.len() + 1]).is_err());
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn streams_round_trip_and_nothing_cut_short_or_followed_by_garbage_does(
            content in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..3000),
                (any::<u8>(), 0usize..5000).prop_map(|(byte, count)| vec![byte; count]),
            ],
            garbage in prop::collection::vec(any::<u8>(), 1..20),
        ) {
            for encoding in [Encoding::Gzip, Encoding::Zstd] {
                let stored = encode(encoding, &content);
                prop_assert_eq!(&decode(encoding, &stored).unwrap(), &content);
                for end in 0..stored.len() {
                    prop_assert!(decode(encoding, &stored[..end]).is_err(), "{encoding:?} cut at {end} of {}", stored.len());
                }
                let mut longer = stored.clone();
                longer.extend_from_slice(&garbage);
                prop_assert!(decode(encoding, &longer).is_err());
                prop_assert_eq!(decode(encoding, &[stored.clone(), stored].concat()).unwrap(), [content.clone(), content.clone()].concat());
            }
        }
    }
}
