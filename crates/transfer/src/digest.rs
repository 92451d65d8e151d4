//! Incremental hashing of a file's content.

use model::Digest;
use sha1::Digest as _;

/// Which hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DigestKind {
    /// What we compute for new objects.
    #[default]
    Blake3,
    /// What Lemur computed.
    Sha1,
}

impl DigestKind {
    /// The kind of a hash that is already there.
    #[must_use]
    pub fn of(digest: &Digest) -> Self {
        match digest {
            Digest::Sha1(_) => Self::Sha1,
            Digest::Blake3(_) => Self::Blake3,
        }
    }
}

/// A hash being computed. Holes are hashed as the zeros that a reader sees.
#[derive(Clone)]
pub struct Digester(State);

#[derive(Clone)]
enum State {
    // Boxed: its state is 2 KiB.
    Blake3(Box<blake3::Hasher>),
    Sha1(sha1::Sha1),
}

/// Large enough for BLAKE3 to use its widest vectors, small enough to stay in the second-level cache.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Digester {
    /// Of nothing yet.
    #[must_use]
    pub fn new(kind: DigestKind) -> Self {
        Self(match kind {
            DigestKind::Blake3 => State::Blake3(Box::new(blake3::Hasher::new())),
            DigestKind::Sha1 => State::Sha1(sha1::Sha1::new()),
        })
    }

    /// The hash of these bytes.
    #[must_use]
    pub fn of(kind: DigestKind, bytes: &[u8]) -> Digest {
        let mut digester = Self::new(kind);
        digester.update(bytes);
        digester.finish()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Blake3(hasher) => {
                hasher.update(bytes);
            }
            State::Sha1(hasher) => hasher.update(bytes),
        }
    }

    /// Takes the next `count` bytes, all zero.
    pub fn update_zeros(&mut self, mut count: u64) {
        while count > 0 {
            let step = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
            self.update(ZEROS.get(..step).unwrap_or_default());
            count -= step as u64;
        }
    }

    /// The hash of everything taken.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Blake3(hasher) => Digest::Blake3(hasher.finalize().into()),
            State::Sha1(hasher) => Digest::Sha1(hasher.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hashes_are_the_published_ones() {
        // FIPS 180-2, example 1; the BLAKE3 test vector for an empty input.
        let mut sha1 = Digester::new(DigestKind::Sha1);
        sha1.update(b"abc");
        assert_eq!(sha1.finish().to_string(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(
            Digester::new(DigestKind::Blake3).finish().to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    proptest! {
        #[test]
        fn zeros_count_as_bytes(before in prop::collection::vec(any::<u8>(), 0..100), zeros in 0u64..300_000) {
            for kind in [DigestKind::Blake3, DigestKind::Sha1] {
                let (mut a, mut b) = (Digester::new(kind), Digester::new(kind));
                a.update(&before);
                a.update_zeros(zeros);
                b.update(&before);
                b.update(&vec![0; usize::try_from(zeros).unwrap()]);
                prop_assert_eq!(a.finish(), b.finish());
            }
        }
    }
}
