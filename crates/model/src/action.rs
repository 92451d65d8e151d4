//! Actions: what is asked of a mover, for which bytes, and how urgent it is.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Names one action within one agent's queue. Monotonic and never reused while the queue's database lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct ActionId(pub u64);

impl fmt::Display for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a mover is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Copy the file's content into the archive and report the object's identity.
    Archive,
    /// Write the archived content into the given path.
    Restore,
    /// Remove the object from the archive. Removing what is not there succeeds.
    Remove,
    /// Hash the file's present content and report the digest; nothing is stored. Only movers that announced
    /// the capability are asked: it is unknown to Lemur's.
    Verify,
}

impl Command {
    /// Every command, in the order of their wire numbers.
    pub const ALL: [Self; 4] = [Self::Archive, Self::Restore, Self::Remove, Self::Verify];

    /// Lower-case name, as printed and as stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Restore => "restore",
            Self::Remove => "remove",
            Self::Verify => "verify",
        }
    }

    /// The command of this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The length on the wire that means "to the end of the file" (Lustre sends all ones).
pub const TO_EOF: i64 = -1;

/// A range of a file in bytes. `length == u64::MAX` means to the end of the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes, or `u64::MAX` for all that follow.
    pub length: u64,
}

impl Extent {
    /// The whole file, whatever its size.
    pub const WHOLE: Self = Self { offset: 0, length: u64::MAX };

    /// From the wire's signed numbers. Negative offsets are refused; a negative length, and any that reaches past
    /// the largest offset a file can have, means to the end of the file.
    #[must_use]
    pub fn from_wire(offset: i64, length: i64) -> Option<Self> {
        let offset = u64::try_from(offset).ok()?;
        let length = match u64::try_from(length) {
            Ok(l) if offset.checked_add(l).is_some_and(|end| end <= i64::MAX as u64) => l,
            _ => u64::MAX,
        };
        Some(Self { offset, length })
    }

    /// The wire's signed numbers, [`TO_EOF`] for an open end.
    #[must_use]
    pub fn to_wire(self) -> (i64, i64) {
        let offset = i64::try_from(self.offset).unwrap_or(i64::MAX);
        let length = i64::try_from(self.length).unwrap_or(TO_EOF);
        (offset, length)
    }

    /// The part of the extent inside a file of `size` bytes, as `(offset, length)`.
    #[must_use]
    pub fn within(self, size: u64) -> (u64, u64) {
        let offset = self.offset.min(size);
        (offset, self.length.min(size - offset))
    }
}

/// How urgent an action is: a smaller class is served first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Somebody is blocked in a system call until this is done.
    Reader = 0,
    /// A restore that was asked for.
    Restore = 1,
    /// Removal from the archive.
    Remove = 2,
    /// Archiving, and hashing for release.
    Archive = 3,
}

impl Class {
    /// Every class, most urgent first.
    pub const ALL: [Self; 4] = [Self::Reader, Self::Restore, Self::Remove, Self::Archive];

    /// The class a command has when nobody is blocked on it.
    #[must_use]
    pub fn of(command: Command) -> Self {
        match command {
            Command::Restore => Self::Restore,
            Command::Remove => Self::Remove,
            Command::Archive | Command::Verify => Self::Archive,
        }
    }

    /// From its number, as stored.
    #[must_use]
    pub fn from_number(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_s_open_end_is_understood() {
        assert_eq!(Extent::from_wire(0, -1), Some(Extent::WHOLE));
        assert_eq!(Extent::from_wire(5, i64::MAX), Some(Extent { offset: 5, length: u64::MAX }));
        assert_eq!(Extent::from_wire(-1, 4), None);
        assert_eq!(Extent::WHOLE.to_wire(), (0, -1));
        assert_eq!(Extent { offset: 7, length: 9 }.to_wire(), (7, 9));
    }

    #[test]
    fn an_extent_is_cut_to_the_file() {
        assert_eq!(Extent::WHOLE.within(10), (0, 10));
        assert_eq!(Extent { offset: 4, length: 100 }.within(10), (4, 6));
        assert_eq!(Extent { offset: 40, length: 100 }.within(10), (10, 0));
    }
}
