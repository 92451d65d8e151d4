//! A pack that is being built.

use super::place;
use crate::TransferError;
use crate::pack::{MemberId, MemberName, NewMember, PackBuilder, PackError, PackId};
use crate::store::root::Root;
use crate::store::session::{Sessions, TempFile};
use crate::store::{Done, Stored};
use model::Digest;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

/// A pack does not grow beyond this, by more than a member.
pub(super) const MAX_PACK_BYTES: u64 = 64 << 20;
/// Written to the file at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A member, with what its caller is told in the end.
pub(in crate::store) struct Arrival {
    pub(in crate::store) member: NewMember,
    /// Size of the content, before any encoding.
    pub(in crate::store) bytes: u64,
    pub(in crate::store) digest: Option<Digest>,
    pub(in crate::store) done: Done,
}

/// Somebody who waits for the pack.
pub(super) struct Waiter {
    pub(super) name: MemberName,
    bytes: u64,
    digest: Option<Digest>,
    done: Done,
}

impl Waiter {
    /// Tells that the member is durable.
    pub(super) fn stored(self, pack: PackId) {
        let Self { name, bytes, digest, done } = self;
        let id = MemberId { pack, name }.object_id().map_err(TransferError::from);
        done(id.map(|id| Stored { id, bytes, digest, at: None }));
    }

    /// Tells that there is no member.
    pub(super) fn failed(self, error: TransferError) {
        (self.done)(Err(error));
    }
}

/// What has come since the last sync began.
pub(super) enum Building {
    /// One file: if no other comes, it becomes an ordinary object.
    One(Box<Arrival>),
    /// Several.
    Pack(Box<PackBuilding>),
}

/// A temporary file that a pack is written into.
pub(super) struct PackBuilding(PackBuilder<Buffered, Waiter>);

impl PackBuilding {
    pub(super) fn begin(sessions: &Sessions) -> Result<Self, TransferError> {
        let id = PackId::new(SystemTime::now());
        let temp = sessions.create(&id)?;
        let begun = PackBuilder::begin(id, Buffered::new(temp), MAX_PACK_BYTES);
        Ok(Self(begun.map_err(|e| into_transfer(e, id, None))?))
    }

    /// Whether this pack can take the member.
    pub(super) fn has_room_for(&self, member: &NewMember) -> bool {
        self.0.has_room_for(member)
    }

    /// Adds a member. After an error the pack is lost: [`PackBuilding::fail`] it.
    pub(super) fn add(&mut self, arrival: Arrival) -> Result<(), PackError> {
        let Arrival { member, bytes, digest, done } = arrival;
        self.0.add(&member, Waiter { name: member.name(), bytes, digest, done })
    }

    pub(super) fn id(&self) -> PackId {
        self.0.id()
    }

    /// Writes index and footer. Gives the complete file, and who waits for it.
    pub(super) fn seal(self) -> (Result<TempFile, PackError>, Vec<Waiter>) {
        let (sealed, waiters) = self.0.seal();
        (sealed.and_then(|out| Ok(out.into_file()?)), waiters)
    }

    /// Gives up: everybody is told why, the file goes.
    pub(super) fn fail(self, root: &Root, error: &PackError) {
        let id = self.id();
        fail_all(root, id, self.0.into_waiting(), error);
    }
}

/// Tells everybody that there is no pack.
pub(super) fn fail_all(root: &Root, pack: PackId, waiters: Vec<Waiter>, error: &PackError) {
    for waiter in waiters {
        let errno = match error {
            PackError::Io(e) => e.raw_os_error().unwrap_or(5),
            PackError::Damaged(_) | PackError::TooLarge(_) => 5,
        };
        let path = place::path(root, pack);
        waiter.failed(TransferError::NotDurable { path, why: error.to_string(), errno });
    }
}

/// What is wrong with a pack, with its name.
pub(super) fn into_transfer(error: PackError, pack: PackId, root: Option<&Root>) -> TransferError {
    let path = root.map_or_else(|| pack.to_string().into(), |root| place::path(root, pack));
    match error {
        PackError::Io(source) => TransferError::Io { doing: "read or write the pack", path, source },
        PackError::Damaged(why) => TransferError::Damaged { path, why },
        PackError::TooLarge(why) => TransferError::Damaged { path, why: why.to_owned() },
    }
}

/// Appends to a temporary file, in larger pieces.
pub(super) struct Buffered {
    temp: TempFile,
    buffer: Vec<u8>,
    position: u64,
}

impl Buffered {
    pub(super) fn new(temp: TempFile) -> Self {
        Self { temp, buffer: Vec::with_capacity(BUFFER_BYTES), position: 0 }
    }

    /// Writes what is left and gives the file.
    pub(super) fn into_file(mut self) -> io::Result<TempFile> {
        self.flush()?;
        Ok(self.temp)
    }
}

impl Write for Buffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            self.temp.file().file().write_all_at(bytes, self.position)?;
            self.position += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temp.file().file().write_all_at(&self.buffer, self.position)?;
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
