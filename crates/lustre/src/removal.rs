//! The begin of a removal.
//!
//! The library tells the coordinator nothing of it (there is no call to the MDT in `llapi_hsm_action_begin` for `HSMA_REMOVE`), so that it begins also when
//! it was cancelled or given up long ago. And Lustre lets a file be released while its removal waits. A mover is asked only after the coordinator has
//! confirmed the removal and the file was found not released: the object may be its only content.

use crate::begin::{Begun, failure_of, gone, unseen};
use crate::entry::Entry;
use crate::file::{LustreFile, path_of};
use crate::object;
use crate::source::Shared;
use crate::state::Prepared;
use model::{ErrorKind, Extent, Failure, HsmFlags};
use std::io;
use sys::lustre::{Begin, CopyAction, Handle, Item, ProgressFlags, state};

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ECANCELED: i32 = 125;

impl Shared {
    /// Begins a removal, or goes on with one that the coordinator could not confirm before (`kept`).
    pub(crate) fn begin_remove(
        &self,
        entry: &Entry,
        item: &Item,
        handle: &Handle,
        file: Option<&LustreFile>,
        prepared: Prepared,
        kept: &mut Option<CopyAction>,
    ) -> Begun {
        let (identity, is_shared) = match object::to_remove(item, file) {
            Ok(found) => found,
            Err(failure) => return unseen(prepared, failure),
        };
        let prepared = Prepared { identity, ..prepared };
        let begun = match kept.take() {
            Some(action) => Begun::Ready(prepared, Some(action)),
            None => self.start(entry, item, handle, Begin::default(), prepared),
        };
        let Begun::Ready(prepared, Some(mut action)) = begun else { return begun };
        let nothing = Extent { offset: 0, length: 0 };
        if let Err(error) = action.progress(nothing, prepared.size, ProgressFlags::default()) {
            return self.not_confirmed(entry, item, action, prepared, &error);
        }
        match self.is_released(item) {
            Ok(false) => {}
            Ok(true) => {
                let message = format!("{} is released: the object is its only content, and stays", item.fid());
                return self.answered(entry, action, prepared, Failure::permanent(EPERM, message));
            }
            Err(failure) => return self.later(entry, action, prepared, failure),
        }
        if is_shared {
            tracing::info!(action = %entry, object = prepared.identity.uuid, "other files may name the object: it stays");
            return Begun::Done(prepared, action);
        }
        Begun::Ready(prepared, Some(action))
    }

    fn not_confirmed(
        &self,
        entry: &Entry,
        item: &Item,
        action: CopyAction,
        prepared: Prepared,
        error: &io::Error,
    ) -> Begun {
        match error.raw_os_error() {
            Some(ECANCELED) => self.answered(entry, action, prepared, Failure::cancelled()),
            Some(ENOENT) => {
                if !entry.orphan {
                    self.suspect(error);
                }
                // For what the library has of it: nobody waits for the answer.
                let _ = action.end(Extent { offset: 0, length: 0 }, ProgressFlags::default(), ENOENT);
                match gone(prepared, item.fid()) {
                    Begun::Refused(prepared, failure) => Begun::Answered(prepared, failure),
                    begun => begun,
                }
            }
            _ => self.later(entry, action, prepared, failure_of("ask whether it is still wanted", error)),
        }
    }

    fn later(&self, entry: &Entry, action: CopyAction, prepared: Prepared, failure: Failure) -> Begun {
        if failure.kind == ErrorKind::Temporary {
            Begun::Later(failure, Some(action))
        } else {
            self.answered(entry, action, prepared, failure)
        }
    }

    /// Whether the file is there, and released.
    fn is_released(&self, item: &Item) -> Result<bool, Failure> {
        let error = match state(&self.library, &self.config.mount.join(path_of(item.fid()))) {
            Ok(state) => return Ok(state.flags.contains(HsmFlags::RELEASED)),
            Err(error) => error,
        };
        // The path goes through the mount point, which may be gone while the filesystem is not.
        if error.raw_os_error() == Some(ENOENT) && LustreFile::open(&self.root, item.fid())?.is_none() {
            return Ok(false);
        }
        Err(Failure { kind: ErrorKind::Temporary, ..failure_of("look at its state", &error) })
    }
}
