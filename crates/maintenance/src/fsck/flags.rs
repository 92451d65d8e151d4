//! Setting flags of files.

use super::files::open;
use coordinator::{FileState, Filesystem};
use model::{FileHandle, HsmFlags, HsmState, xattr};

/// Changes files' flags: by way of the agent where one runs, since that holds their locks.
pub trait SetFlags {
    /// Sets and clears flags of a file; `path` is for messages.
    ///
    /// # Errors
    /// Why not, for people.
    fn set(&self, file: &FileHandle, path: &[u8], set: HsmFlags, clear: HsmFlags) -> Result<(), String>;
}

/// By the attributes themselves. Only while no agent runs on the filesystem, and none can start.
#[derive(Debug)]
pub struct Directly<'a>(pub &'a Filesystem);

impl SetFlags for Directly<'_> {
    fn set(&self, file: &FileHandle, _: &[u8], set: HsmFlags, clear: HsmFlags) -> Result<(), String> {
        let fd = open(self.0, file).map_err(|error| error.to_string())?;
        let fd = fd.ok_or("it is gone")?;
        let state = FileState::read(&fd).map_err(|error| error.to_string())?;
        let hsm = HsmState { flags: state.hsm.flags.with(set).without(clear), ..state.hsm };
        sys::xattr::set(&fd, xattr::HSM, &hsm.encode()).map_err(|error| error.to_string())
    }
}
