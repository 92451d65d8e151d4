//! What guard and agent say to one another: one datagram a message, little-endian, a tag byte first.
//!
//! Both ends are this program, but not always of one build: an agent may be upgraded under a running guard. Tags and
//! fields only ever get added; the version in `Hello` and `Welcome` tells.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Version of this protocol.
pub(crate) const VERSION: u32 = 2;
/// The first version of a guard that knows `Resident` and `Forget`.
pub(crate) const WITH_RANGES: u32 = 2;
/// Longest message.
pub(crate) const MAX_BYTES: usize = 64 << 10;

/// From the agent to the guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToGuard {
    /// First message: how to start the agent again.
    Hello { version: u32, command_line: Vec<OsString> },
    /// The answer to an event: 0 allows, anything else is the errno the reader gets.
    Answer { seq: u64, errno: i32 },
    /// Accesses of this process are let through.
    Trust { pid: i32 },
    /// They are not any more.
    Distrust { pid: i32 },
    /// With descriptors: hand every access to these inodes to the agent from now on; answered by `Held`.
    Hold { token: u64 },
    /// Ends a hold.
    Unhold { token: u64 },
    /// The agent leaves in order: do not start it again.
    Goodbye,
    /// End: nothing is released on the filesystem, or the administrator insists.
    Stop,
    /// These bytes of a released file are there: reads of them need not be asked about, as long as the file is of this size. Since
    /// version 2.
    Resident { inode: Inode, size: u64, start: u64, end: u64 },
    /// Nothing of this file is known to be there any more. Since version 2.
    Forget { inode: Inode },
}

/// An inode as `stat` tells it: number and device (on btrfs each subvolume has its own device and numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Inode {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

/// From the guard to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToAgent {
    /// With the group's descriptor: you are the agent now.
    Welcome { version: u32, pid: u32, floor: u32, agent_restarts: u64 },
    /// Another agent is connected.
    Busy { pid: u32 },
    /// With the file's descriptor: somebody waits.
    Event { seq: u64, number: i32, pid: i32, mask: u64, range: Option<(u64, u64)> },
    /// The hold is in force.
    Held { token: u64 },
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*first))
    }

    fn i32(&mut self) -> Option<i32> {
        self.u32().map(u32::cast_signed)
    }

    fn u64(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*first))
    }
}

impl ToGuard {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello { version, command_line } => {
                let mut out = [&[1u8][..], &version.to_le_bytes()].concat();
                for word in command_line {
                    out.extend_from_slice(word.as_bytes());
                    out.push(0);
                }
                out
            }
            Self::Answer { seq, errno } => [&[2u8][..], &seq.to_le_bytes(), &errno.to_le_bytes()].concat(),
            Self::Trust { pid } => [&[3u8][..], &pid.to_le_bytes()].concat(),
            Self::Distrust { pid } => [&[4u8][..], &pid.to_le_bytes()].concat(),
            Self::Hold { token } => [&[5u8][..], &token.to_le_bytes()].concat(),
            Self::Unhold { token } => [&[6u8][..], &token.to_le_bytes()].concat(),
            Self::Goodbye => vec![7],
            Self::Stop => vec![8],
            Self::Resident { inode, size, start, end } => {
                let words = [inode.dev, inode.ino, *size, *start, *end].map(u64::to_le_bytes);
                [&[9u8][..], words.as_flattened()].concat()
            }
            Self::Forget { inode } => [&[10u8][..], &inode.dev.to_le_bytes(), &inode.ino.to_le_bytes()].concat(),
        }
    }

    /// `None` for what this version does not understand.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        Some(match r.u8()? {
            1 => {
                let version = r.u32()?;
                let words = r.0.split(|b| *b == 0).filter(|w| !w.is_empty());
                Self::Hello { version, command_line: words.map(|w| OsString::from_vec(w.to_vec())).collect() }
            }
            2 => Self::Answer { seq: r.u64()?, errno: r.i32()? },
            3 => Self::Trust { pid: r.i32()? },
            4 => Self::Distrust { pid: r.i32()? },
            5 => Self::Hold { token: r.u64()? },
            6 => Self::Unhold { token: r.u64()? },
            7 => Self::Goodbye,
            8 => Self::Stop,
            9 => {
                let inode = Inode { dev: r.u64()?, ino: r.u64()? };
                Self::Resident { inode, size: r.u64()?, start: r.u64()?, end: r.u64()? }
            }
            10 => Self::Forget { inode: Inode { dev: r.u64()?, ino: r.u64()? } },
            _ => return None,
        })
    }
}

impl ToAgent {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Welcome { version, pid, floor, agent_restarts } => [
                &[1u8][..],
                &version.to_le_bytes(),
                &pid.to_le_bytes(),
                &floor.to_le_bytes(),
                &agent_restarts.to_le_bytes(),
            ]
            .concat(),
            Self::Busy { pid } => [&[2u8][..], &pid.to_le_bytes()].concat(),
            Self::Event { seq, number, pid, mask, range } => {
                let (offset, count) = range.unwrap_or_default();
                [
                    &[3u8, u8::from(range.is_some())][..],
                    &seq.to_le_bytes(),
                    &number.to_le_bytes(),
                    &pid.to_le_bytes(),
                    &mask.to_le_bytes(),
                    &offset.to_le_bytes(),
                    &count.to_le_bytes(),
                ]
                .concat()
            }
            Self::Held { token } => [&[4u8][..], &token.to_le_bytes()].concat(),
        }
    }

    /// `None` for what this version does not understand.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        Some(match r.u8()? {
            1 => Self::Welcome { version: r.u32()?, pid: r.u32()?, floor: r.u32()?, agent_restarts: r.u64()? },
            2 => Self::Busy { pid: r.u32()? },
            3 => {
                let has_range = r.u8()? != 0;
                let (seq, number, pid, mask) = (r.u64()?, r.i32()?, r.i32()?, r.u64()?);
                let range = (r.u64()?, r.u64()?);
                Self::Event { seq, number, pid, mask, range: has_range.then_some(range) }
            }
            4 => Self::Held { token: r.u64()? },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_round_trip(a: u64, b: i32, c: u32, range: Option<(u64, u64)>, words in prop::collection::vec("[a-z/=-]{1,20}", 0..9)) {
            let command_line = words.into_iter().map(OsString::from).collect();
            for m in [
                ToGuard::Hello { version: c, command_line }, ToGuard::Answer { seq: a, errno: b }, ToGuard::Trust { pid: b },
                ToGuard::Distrust { pid: b }, ToGuard::Hold { token: a }, ToGuard::Unhold { token: a }, ToGuard::Goodbye, ToGuard::Stop,
                ToGuard::Resident { inode: Inode { dev: a, ino: !a }, size: a, start: 1, end: a }, ToGuard::Forget { inode: Inode { dev: a, ino: !a } },
            ] {
                prop_assert_eq!(ToGuard::decode(&m.encode()), Some(m));
            }
            for m in [
                ToAgent::Welcome { version: c, pid: c, floor: c, agent_restarts: a }, ToAgent::Busy { pid: c },
                ToAgent::Event { seq: a, number: b, pid: b, mask: a, range }, ToAgent::Held { token: a },
            ] {
                prop_assert_eq!(ToAgent::decode(&m.encode()), Some(m));
            }
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = ToGuard::decode(&bytes);
            let _ = ToAgent::decode(&bytes);
        }
    }
}
