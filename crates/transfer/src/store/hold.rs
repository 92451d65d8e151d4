//! Keeping objects where they are for a moment, in an archive of several roots.
//!
//! Whoever moves objects from one root to another (`tier/moving`) gives them their names there and takes them away here. Meanwhile nobody else may
//! give or take the same names: an object that was just written would go with the old one, and one that is being removed would come back from its copy. So
//! each root has a file with a `flock(2)`: shared for those who name and remove, for as long as that takes, and exclusive for who moves. It is taken anew each
//! time, by an open file of its own: of two threads with the same one, the first to end would end it for both.
//!
//! An archive of one root has no such file; that is all that is looked at there.

use super::root::Root;
use crate::TransferError;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use sys::{Mode, OFlags};

/// The file, in a root. Holds the names of what is being moved away from it, one a line.
pub(super) const MOVES: &str = ".sifaka-moves";
/// There is such a file: the root is to be emptied, and nothing new comes into it.
pub(super) const DRAINED: &str = ".sifaka-drained";

/// Nothing is moved away from a root while there is one.
#[derive(Debug)]
pub(super) struct Hold {
    /// The lock goes with it. `None`: nothing is ever moved here.
    _file: Option<File>,
}

impl Hold {
    /// Before something is removed.
    pub(super) fn shared(root: &Root) -> Result<Self, TransferError> {
        if !root.is_shared() {
            return Ok(Self { _file: None });
        }
        let failed = |e| TransferError::io("open or lock", root.path().join(MOVES))(e);
        let file = open(root).map_err(failed)?;
        match sys::file::lock_shared(&file) {
            Ok(()) => Ok(Self { _file: Some(file) }),
            // Nobody can have it exclusively there.
            Err(e) if e.kind() == io::ErrorKind::Unsupported || e.raw_os_error() == Some(ENOLCK) => {
                Ok(Self { _file: None })
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// Before something gets a name.
    ///
    /// # Errors
    /// [`TransferError::Busy`] when the root is being emptied: another one has to be found for it.
    pub(super) fn to_name(root: &Root) -> Result<Self, TransferError> {
        let held = Self::shared(root)?;
        if is_drained(root) {
            let why = "it is to be emptied, and takes nothing new".to_owned();
            return Err(TransferError::Busy { path: root.path().to_owned(), why });
        }
        Ok(held)
    }
}

/// Whether nothing new is to come into the root.
pub(super) fn is_drained(root: &Root) -> bool {
    root.is_shared() && sys::file::stamp_at(root.dir(), DRAINED).is_ok()
}

/// The right to move objects away from a root; others' names and removals wait.
#[derive(Debug)]
pub(super) struct Alone {
    _file: File,
}

impl Alone {
    pub(super) fn of(root: &Root) -> Result<Self, TransferError> {
        let failed = |e| TransferError::io("lock", path(root))(e);
        let file = open(root).map_err(failed)?;
        sys::file::lock_exclusive(&file).map_err(|e| TransferError::io("lock", path(root))(e))?;
        Ok(Self { _file: file })
    }
}

/// For messages.
pub(super) fn path(root: &Root) -> PathBuf {
    root.path().join(MOVES)
}

/// Open for writing: NFS makes of `flock(2)` a lock that is an exclusive one only then.
pub(super) fn open(root: &Root) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    sys::file::open_beneath(root.dir(), MOVES, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

const ENOLCK: i32 = 37;
