//! The words of Sifaka and the rules that hold between them, as plain values.
//!
//! For: every other crate. Not for: anything that does I/O, reads a clock, or needs a runtime; that is why the
//! state machine and the scheduler here can be run by property tests over thousands of histories.

mod action;
mod copies;
mod data;
mod digest;
mod error;
mod file;
mod hsm;
mod identity;
pub mod limits;
pub mod moment;
mod object_url;
mod outcome;
mod record;
mod scheduler;
mod snapshot;

pub use action::{ActionId, Class, Command, Extent, TO_EOF};
pub use copies::{Copies, CopiesError, Copy};
pub use data::ActionData;
pub use digest::{Digest, DigestError};
pub use error::{ErrorKind, errno_kind};
pub use file::{Fid, FidError, FileHandle, FileHandleError, Stamp, Timestamp};
pub use hsm::{HsmFlags, HsmState, HsmStateError};
pub use identity::{Identity, ObjectId, ObjectIdError};
pub use object_url::{ObjectUrl, ObjectUrlError, Scheme};
pub use outcome::{Failure, Outcome, Thaw};
pub use record::{ArchiveRecord, RecordError};
pub use scheduler::{Backoff, ClassTurns, FairQueue};
pub use snapshot::{SNAPSHOT_DIRECTORY, snapshot_name};

/// Extended attribute names under which a file carries its HSM state. All are in `trusted.`, which only a process
/// with `CAP_SYS_ADMIN` can read or set.
pub mod xattr {
    /// 24 bytes, the layout Lustre's MDT keeps; see [`crate::HsmState`].
    pub const HSM: &str = "trusted.hsm";
    /// The object's id in its archive, as text (Lemur's name).
    pub const UUID: &str = "trusted.lhsm_uuid";
    /// The content's hash in lower-case hexadecimal (Lemur's name).
    pub const HASH: &str = "trusted.lhsm_hash";
    /// The object's URL, when the mover gave one (Lemur's name).
    pub const URL: &str = "trusted.lhsm_url";
    /// What was archived, and of which inode; see [`crate::ArchiveRecord`].
    pub const RECORD: &str = "trusted.sifaka";
    /// Copies in other archives; see [`crate::Copies`].
    pub const COPIES: &str = "trusted.sifaka_copies";
    /// The id of an object that other files may name too, as text. Of no account when the file names another object.
    pub const SHARED: &str = "trusted.sifaka_shared";
    /// On Lustre: the layout that the file had when it was archived, which it gets at restore (`lustre.lov`, as it was).
    pub const LAYOUT: &str = "trusted.sifaka_lov";
    /// On the filesystem's root: which queue database knows all files that share objects, and how far.
    pub const SHARING: &str = "trusted.sifaka_sharing";
}
