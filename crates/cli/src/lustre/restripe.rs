//! `sifaka restripe`: whether a file may be given other stripes, and that it is archived again then.

use super::ask::{Ask, mark_dirty, send};
use super::{Filesystem, LustreFile, failed, refused};
use ::lustre::{Outcome, Striping, Trouble, Work};
use agent::admin::api::Refused;
use model::{HsmFlags, HsmState};
use nix::libc::{EBUSY, EINTR, EINVAL, EIO, EPERM};
use std::io;
use std::path::Path;
use sys::lustre::{UserAction, current_action, state};

/// Restripes the file. When it is archived, the coordinator is asked to archive it again: by other objects it has another
/// version to Lustre, which refuses to release it then.
pub(crate) fn restripe(filesystem: &Filesystem, path: &Path, striping: &Striping, work: &Work) -> Result<(), Refused> {
    let library = &filesystem.library;
    let at_file = |why: io::Error| failed(path, &why);
    let fid = filesystem.fid(path).map_err(at_file)?;
    let found = state(library, path).map_err(at_file)?;
    if let Some(why) = obstacle(found.flags) {
        return Err(refused(path, EPERM, why));
    }
    if current_action(library, path).map_err(at_file)?.action.is_some() {
        return Err(refused(path, EBUSY, "it is being archived, restored or removed; wait for the end"));
    }
    match ::lustre::restripe(work, path, striping) {
        Ok(Outcome::Busy { .. }) => return Err(refused(path, EBUSY, "it is being written to; try again later")),
        Ok(Outcome::Unsuited(why)) => return Err(refused(path, EINVAL, format!("it {why}"))),
        Ok(_) => {}
        Err(Trouble::Io { source, .. }) => return Err(failed(path, &source)),
        Err(Trouble::Stopped { .. }) => return Err(refused(path, EINTR, "interrupted; it is as it was")),
        Err(why) => return Err(refused(path, EIO, why.to_string())),
    }
    if !found.flags.contains(HsmFlags::ARCHIVED) {
        return Ok(());
    }
    let file = filesystem.named(path.to_owned(), fid);
    archive_again(filesystem, &file).map_or(Ok(()), |why| Err(refused(path, EPERM, why)))
}

/// Has an archived file that was given other objects archived again. Why that cannot be, if so.
pub(crate) fn archive_again(filesystem: &Filesystem, file: &LustreFile) -> Option<String> {
    let ask = Ask { action: UserAction::Archive, archive_id: None, force: false, data: Vec::new() };
    let why = match mark_dirty(filesystem, file).map(|()| send(filesystem, &ask, std::slice::from_ref(file))) {
        Ok(Ok(refused)) => refused.into_iter().next().map(|(_, why)| why.to_string()),
        Ok(Err(why)) => Some(why.message().to_owned()),
        Err(why) => Some(why.to_string()),
    };
    why.map(|why| format!("it has other objects, and has to be archived again before it can be released: {why}"))
}

/// Why a file in this state is left as it is.
fn obstacle(flags: HsmFlags) -> Option<&'static str> {
    if flags.contains(HsmFlags::RELEASED) {
        Some("it is released; restore it first")
    } else if flags.contains(HsmFlags::EXISTS) && !(HsmState { flags, ..HsmState::default() }).is_clean_copy() {
        Some("it is not archived as it is; archive it first")
    } else {
        None
    }
}
