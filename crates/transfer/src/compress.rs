//! How an object's bytes stand in the archive: as they are, gzip (Lemur's), or zstd.
//!
//! The suffix of an object's id says which, as it does in Lemur (`<uuid>.gz`). Memory is bounded by the codecs'
//! windows. A stream that ends early, or is followed by anything, is an error: an object is exactly one stream.

use crate::{OpenFile, TransferError};
use flate2::bufread::GzDecoder;
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
    /// One gzip member.
    Gzip,
    /// One zstd frame, with its checksum.
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
        let read = source.read_full_at(&mut buffer, offset)?;
        let sample = buffer.get(..read).unwrap_or_default();
        let mut counter = Encoder::new(Counter(0), encoding, None).map_err(source.failed("compress"))?;
        counter.write_all(sample).map_err(source.failed("compress"))?;
        after += counter.finish().map_err(source.failed("compress"))?.0;
        before += read as u64;
    }
    Ok(after * 100 < before * (100 - AUTO_SHRINK_PERCENT))
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

/// Decompresses one stream and makes sure that nothing follows it.
pub(crate) enum Decoder<R: Read> {
    Gzip(Box<GzDecoder<BufReader<R>>>),
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
            Encoding::Gzip => Some(Self::Gzip(Box::new(GzDecoder::new(reader)))),
            Encoding::Zstd => Some(Self::Zstd(zstd::stream::read::Decoder::with_buffer(reader)?.single_frame())),
        })
    }

    /// Fills as much of `buffer` as there is; 0 means that the stream ended properly and that nothing follows.
    pub(crate) fn read_full(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = match self {
                Self::Gzip(decoder) => decoder.read(rest),
                Self::Zstd(decoder) => decoder.read(rest),
            };
            match read {
                Ok(0) => {
                    self.expect_nothing_more()?;
                    break;
                }
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    fn expect_nothing_more(&mut self) -> io::Result<()> {
        let rest = match self {
            Self::Gzip(decoder) => decoder.get_mut().fill_buf()?,
            Self::Zstd(decoder) => decoder.get_mut().fill_buf()?,
        };
        if rest.is_empty() { Ok(()) } else { Err(io::Error::other("something follows the compressed stream")) }
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
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn streams_round_trip_and_nothing_shorter_or_longer_does(
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
                prop_assert!(decode(encoding, &[stored.clone(), stored].concat()).is_err());
            }
        }
    }
}
