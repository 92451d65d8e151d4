//! Content hashes as they are kept on a file: Lemur's SHA-1, ours BLAKE3, told apart by their length.

use std::fmt;

/// A hash of a file's whole content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Digest {
    /// 20 bytes: what Lemur's movers kept.
    Sha1([u8; 20]),
    /// 32 bytes: what ours keep.
    Blake3([u8; 32]),
}

/// Bytes or text that are no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Neither 20 nor 32 bytes.
    #[error("a content hash has 20 bytes (SHA-1) or 32 (BLAKE3), this one has {0}")]
    Length(usize),
    /// A character that is not hexadecimal, or an odd number of them.
    #[error("a content hash is written in hexadecimal; this is not: {0:?}")]
    NotHex(String),
}

impl Digest {
    /// From raw bytes, by their number.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DigestError> {
        if let Ok(b) = <[u8; 20]>::try_from(bytes) {
            return Ok(Self::Sha1(b));
        }
        <[u8; 32]>::try_from(bytes).map(Self::Blake3).map_err(|_| DigestError::Length(bytes.len()))
    }

    /// From hexadecimal text of either case.
    pub fn from_hex(text: &str) -> Result<Self, DigestError> {
        let not_hex = || DigestError::NotHex(text.chars().take(80).collect());
        let nibble = |c: u8| (c as char).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or_else(not_hex);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Err(not_hex());
        }
        let bytes = pairs.iter().map(|[a, b]| Ok(nibble(*a)? << 4 | nibble(*b)?)).collect::<Result<Vec<u8>, _>>()?;
        Self::from_bytes(&bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha1(b) => b,
            Self::Blake3(b) => b,
        }
    }
}

/// Lower-case hexadecimal, as in the `trusted.lhsm_hash` attribute.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Sha1(_) => "sha1",
            Self::Blake3(_) => "blake3",
        };
        write!(f, "{kind}:{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hex_round_trips(bytes: [u8; 32], short: [u8; 20]) {
            for d in [Digest::Blake3(bytes), Digest::Sha1(short)] {
                prop_assert_eq!(Digest::from_hex(&d.to_string()), Ok(d));
                prop_assert_eq!(Digest::from_bytes(d.as_bytes()), Ok(d));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = Digest::from_hex(&text);
        }
    }

    #[test]
    fn other_lengths_are_refused() {
        assert_eq!(Digest::from_hex("abcd"), Err(DigestError::Length(2)));
        assert!(matches!(Digest::from_hex("abc"), Err(DigestError::NotHex(_))));
        assert!(matches!(Digest::from_hex("zz"), Err(DigestError::NotHex(_))));
    }
}
