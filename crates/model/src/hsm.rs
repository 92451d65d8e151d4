//! A file's HSM state: the 24 bytes of `trusted.hsm`.

use std::fmt;

/// The flags of [`HsmState`]. The numbers are Lustre's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HsmFlags(u32);

impl HsmFlags {
    /// An archive copy exists, maybe an old one.
    pub const EXISTS: Self = Self(0x1);
    /// The content changed since it was archived.
    pub const DIRTY: Self = Self(0x2);
    /// The content is not in the file: it has to be restored before anybody reads it.
    pub const RELEASED: Self = Self(0x4);
    /// A whole copy was archived.
    pub const ARCHIVED: Self = Self(0x8);
    /// Never release.
    pub const NORELEASE: Self = Self(0x10);
    /// Never archive.
    pub const NOARCHIVE: Self = Self(0x20);
    /// The archive copy was lost.
    pub const LOST: Self = Self(0x40);
    /// Those an administrator may set and clear.
    pub const SETTABLE: Self = Self(0x7b);

    const NAMES: [(Self, &'static str); 7] = [
        (Self::EXISTS, "exists"),
        (Self::DIRTY, "dirty"),
        (Self::RELEASED, "released"),
        (Self::ARCHIVED, "archived"),
        (Self::NORELEASE, "norelease"),
        (Self::NOARCHIVE, "noarchive"),
        (Self::LOST, "lost"),
    ];

    /// No flag.
    #[must_use]
    pub fn empty() -> Self {
        Self(0)
    }

    /// The raw bits, unknown ones included: they are kept.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// From raw bits.
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Whether all flags of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the flags of `other` set.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// With the flags of `other` cleared.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The flag of this lower-case name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, n)| *n == name).map(|(f, _)| *f)
    }

    /// The names of the flags that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(f, _)| self.contains(*f)).map(|(_, n)| n)
    }
}

impl fmt::Debug for HsmFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:#x})", self.names().collect::<Vec<_>>().join("|"), self.0)
    }
}

/// What `trusted.hsm` holds: little-endian compat u32, flags u32, archive id u64, archive version u64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HsmState {
    /// Format marker, 0 in all known versions; kept as found.
    pub compat: u32,
    /// The flags.
    pub flags: HsmFlags,
    /// In which archive the copy is; 0 when there is none.
    pub archive_id: u64,
    /// Version of the archived content; on Lustre its data version, here the archive's generation on this file.
    pub archive_version: u64,
}

/// An attribute that is not 24 bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "trusted.hsm holds {0} bytes, not 24: the attribute is damaged; look at it with `getfattr -e hex -n trusted.hsm`"
)]
pub struct HsmStateError(pub usize);

impl HsmState {
    /// Size of the stored form in bytes.
    pub const SIZE: usize = 24;

    /// From the attribute's value.
    pub fn decode(bytes: &[u8]) -> Result<Self, HsmStateError> {
        let raw: &[u8; Self::SIZE] = bytes.try_into().map_err(|_| HsmStateError(bytes.len()))?;
        let (compat, rest) = raw.split_first_chunk::<4>().ok_or(HsmStateError(0))?;
        let (flags, rest) = rest.split_first_chunk::<4>().ok_or(HsmStateError(0))?;
        let (archive, rest) = rest.split_first_chunk::<8>().ok_or(HsmStateError(0))?;
        let (version, _) = rest.split_first_chunk::<8>().ok_or(HsmStateError(0))?;
        Ok(Self {
            compat: u32::from_le_bytes(*compat),
            flags: HsmFlags(u32::from_le_bytes(*flags)),
            archive_id: u64::from_le_bytes(*archive),
            archive_version: u64::from_le_bytes(*version),
        })
    }

    /// The attribute's value.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        let fields = self.compat.to_le_bytes().into_iter().chain(self.flags.0.to_le_bytes());
        let fields = fields.chain(self.archive_id.to_le_bytes()).chain(self.archive_version.to_le_bytes());
        out.iter_mut().zip(fields).for_each(|(o, b)| *o = b);
        out
    }

    /// Whether the content is away.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.flags.contains(HsmFlags::RELEASED)
    }

    /// Whether the archive holds a copy of what the file held when it was last looked at.
    #[must_use]
    pub fn is_clean_copy(&self) -> bool {
        let f = self.flags;
        f.contains(HsmFlags::EXISTS.with(HsmFlags::ARCHIVED))
            && !f.contains(HsmFlags::DIRTY)
            && !f.contains(HsmFlags::LOST)
    }

    /// Why an administrator's or policy's request to release is refused, if it is.
    #[must_use]
    pub fn release_refusal(&self) -> Option<&'static str> {
        let f = self.flags;
        if f.contains(HsmFlags::NORELEASE) {
            Some("it is marked norelease")
        } else if !f.contains(HsmFlags::EXISTS.with(HsmFlags::ARCHIVED)) {
            Some("it is not archived")
        } else if f.contains(HsmFlags::LOST) {
            Some("its archive copy is marked lost")
        } else if f.contains(HsmFlags::DIRTY) {
            Some("it changed since it was archived; archive it again first")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Read off a real Lustre MDT: archived and released in archive 1.
    #[test]
    fn the_layout_is_lustre_s() {
        let state = HsmState {
            compat: 0,
            flags: HsmFlags::EXISTS.with(HsmFlags::ARCHIVED).with(HsmFlags::RELEASED),
            archive_id: 1,
            archive_version: 2,
        };
        let mut expected = [0u8; 24];
        expected[4] = 0x0d;
        expected[8] = 1;
        expected[16] = 2;
        assert_eq!(state.encode(), expected);
    }

    proptest! {
        #[test]
        fn every_24_bytes_round_trip(bytes: [u8; 24]) {
            prop_assert_eq!(HsmState::decode(&bytes).map(|s| s.encode()), Ok(bytes));
        }

        #[test]
        fn other_lengths_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(HsmState::decode(&bytes).is_ok(), bytes.len() == 24);
        }
    }

    #[test]
    fn only_a_clean_copy_may_be_released() {
        let copy = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED);
        let refusal = |flags| HsmState { flags, ..HsmState::default() }.release_refusal();
        assert_eq!(refusal(copy), None);
        for bad in [
            HsmFlags::empty(),
            HsmFlags::EXISTS,
            copy.with(HsmFlags::DIRTY),
            copy.with(HsmFlags::LOST),
            copy.with(HsmFlags::NORELEASE),
        ] {
            assert!(refusal(bad).is_some(), "{bad:?}");
        }
    }
}
