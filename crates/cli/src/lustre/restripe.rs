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
    // By its FID from here on: another file may take its name.
    let file = filesystem.named(path.to_owned(), filesystem.fid(path).map_err(at_file)?);
    let found = state(library, &file.path).map_err(at_file)?;
    if let Some(why) = obstacle(found.flags) {
        return Err(refused(path, EPERM, why));
    }
    if current_action(library, &file.path).map_err(at_file)?.action.is_some() {
        return Err(refused(path, EBUSY, "it is being archived, restored or removed; wait for the end"));
    }
    match ::lustre::restripe(work, &file.path, striping) {
        Ok(Outcome::Busy { .. }) => return Err(refused(path, EBUSY, "it is being written to; try again later")),
        Ok(Outcome::Unsuited(why)) => return Err(refused(path, EINVAL, format!("it {why}"))),
        Ok(_) => {}
        Err(Trouble::Io { source, .. }) => return Err(failed(path, &source)),
        Err(Trouble::Stopped { .. }) => return Err(refused(path, EINTR, "interrupted; it is as it was")),
        Err(why) => return Err(refused(path, EIO, why.of(path).to_string())),
    }
    archive_again(filesystem, &file).map_or(Ok(()), |why| Err(refused(path, EPERM, why)))
}

/// Has a file that was given other objects archived again, if it is archived: also when it was not before, since an archive may have ended
/// meanwhile. Why that cannot be, if so.
pub(crate) fn archive_again(filesystem: &Filesystem, file: &LustreFile) -> Option<String> {
    match state(&filesystem.library, &file.path) {
        Ok(found) if !found.flags.contains(HsmFlags::ARCHIVED) => return None,
        // Nobody can release what is gone.
        Err(why) if why.kind() == io::ErrorKind::NotFound => return None,
        Ok(_) | Err(_) => {}
    }
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
