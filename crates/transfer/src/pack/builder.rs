//! A pack that takes members until it is full, and who waits for each of them.

use super::{MAX_MEMBERS, MemberName, NewMember, PackError, PackId, PackWriter};
use std::collections::HashSet;
use std::io::Write;
use std::time::{Duration, Instant};

/// A pack takes members only for so long. Whoever looks for what an attempt may have left looks at packs from a minute before it
/// on; so they are certain to be among those.
const MAX_AGE: Duration = Duration::from_secs(30);

/// A pack under construction in `W`. For each member somebody may wait, who is told by whoever finishes it.
#[derive(Debug)]
pub struct PackBuilder<W, T> {
    writer: PackWriter<W>,
    names: HashSet<MemberName>,
    waiting: Vec<T>,
    max_bytes: u64,
    began: Instant,
}

impl<W: Write, T> PackBuilder<W, T> {
    /// Begins a pack that does not grow beyond so many bytes, by more than a member.
    ///
    /// # Errors
    /// What writing gave.
    pub fn begin(id: PackId, out: W, max_bytes: u64) -> Result<Self, PackError> {
        let writer = PackWriter::begin(id, out)?;
        Ok(Self { writer, names: HashSet::new(), waiting: Vec::new(), max_bytes, began: Instant::now() })
    }

    /// Whether this pack can take the member.
    #[must_use]
    pub fn has_room_for(&self, member: &NewMember) -> bool {
        self.writer.members() < MAX_MEMBERS
            && self.writer.bytes() + member.total_bytes() <= self.max_bytes
            && self.began.elapsed() < MAX_AGE
            // An earlier attempt of the same archive: each has to have an id of its own.
            && !self.names.contains(&member.name())
    }

    /// Adds a member.
    ///
    /// # Errors
    /// What writing gave. Then the pack is worth nothing; `waiter` waits with the others.
    pub fn add(&mut self, member: &NewMember, waiter: T) -> Result<(), PackError> {
        self.waiting.push(waiter);
        self.names.insert(member.name());
        self.writer.add(member)
    }

    /// The pack's id.
    #[must_use]
    pub fn id(&self) -> PackId {
        self.writer.id()
    }

    /// Writes index and footer. Gives back what was written to, and who waits for it.
    pub fn seal(self) -> (Result<W, PackError>, Vec<T>) {
        (self.writer.finish(), self.waiting)
    }

    /// Gives up: who is to be told.
    #[must_use]
    pub fn into_waiting(self) -> Vec<T> {
        self.waiting
    }
}
