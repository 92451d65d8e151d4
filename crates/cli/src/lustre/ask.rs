//! Asking the coordinator: many files in a request, and for each that is refused the reason.
//!
//! What the coordinator would pass over silently, or refuse for a whole request, is found out before by the state of each file.
//! Between the look and the request a file may change; then the request is made again file by file, so that one does not
//! spoil the others, and the one is known.

use super::{Batch, Filesystem, LustreFile, wait};
use crate::exit::{CliError, Exit};
use agent::admin::api::{Cancelled, Refused};
use model::{Extent, HsmFlags};
use nix::libc::{E2BIG, EAGAIN, EINVAL, EPERM};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use sys::lustre::{MAX_REQUEST_ITEMS, Request, UserAction, UserState, current_action, request, state};

/// `HSM_FORCE_ACTION`: also when the file's state does not call for it.
const FORCE: u64 = 1;

/// What is asked for each file.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) action: UserAction,
    /// `None`: the file's own archive, or the default.
    pub(crate) archive_id: Option<u32>,
    pub(crate) force: bool,
    /// For the mover.
    pub(crate) data: Vec<u8>,
}

/// An action that was accepted.
#[derive(Debug)]
pub(crate) struct Outstanding {
    pub(crate) filesystem: Arc<Filesystem>,
    pub(crate) file: LustreFile,
    /// Of the file, in bytes.
    pub(crate) size: u64,
    /// Bytes moved, as far as known.
    pub(crate) done: u64,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) accepted: Vec<Outstanding>,
    /// Files that are as they are to be.
    pub(crate) already: u64,
    pub(crate) refused: Vec<Refused>,
}

/// What a file's state calls for.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Ask,
    /// Lustre archives only what differs from its copy, whatever is forced: it is marked as such first.
    Mark,
    Already,
    Refuse(String),
}

/// Asks for an archive, restore or remove of each file that needs it.
pub(crate) fn ask(batch: Batch, ask: &Ask) -> Result<Asked, CliError> {
    let Batch { filesystem, files } = batch;
    let mut asked = Asked::default();
    let mut wanted = Vec::new();
    for file in files {
        match state(&filesystem.library, &file.path) {
            Ok(state) => match judge(ask, state) {
                Judged::Ask => wanted.push(file),
                Judged::Mark => match mark_dirty(&filesystem, &file) {
                    Ok(()) => wanted.push(file),
                    Err(why) => asked.refused.push(file.failed(&why)),
                },
                Judged::Already => asked.already += 1,
                Judged::Refuse(why) => asked.refused.push(file.refused(EPERM, why)),
            },
            // The archive may hold the object of a file that is gone.
            Err(why) if why.kind() == io::ErrorKind::NotFound && ask.action == UserAction::Remove => {
                if ask.archive_id.is_some() {
                    wanted.push(file);
                } else {
                    asked.refused.push(file.refused(EINVAL, GONE_FROM_WHERE));
                }
            }
            Err(why) => asked.refused.push(file.failed(&why)),
        }
    }
    let refused = send(&filesystem, ask, &wanted)?;
    let mut reasons = refused.into_iter().peekable();
    for (index, file) in wanted.into_iter().enumerate() {
        if let Some((_, why)) = reasons.next_if(|(refused, _)| *refused == index) {
            asked.refused.push(file.failed(&why));
        } else {
            let size = file.path.symlink_metadata().map_or(0, |found| found.size());
            asked.accepted.push(Outstanding { filesystem: Arc::clone(&filesystem), file, size, done: 0 });
        }
    }
    Ok(asked)
}

/// Said of a file that is gone: Lustre would take a request without an archive to all of them.
const GONE_FROM_WHERE: &str = "the file is gone: say with --id from which archive its object is to be removed";

/// Has Lustre take a file for changed, so that it archives it. It cannot be released before that is done.
pub(super) fn mark_dirty(filesystem: &Filesystem, file: &LustreFile) -> io::Result<()> {
    filesystem.set(file, HsmFlags::DIRTY, HsmFlags::empty(), None)
}

fn judge(ask: &Ask, state: UserState) -> Judged {
    let has = |flag| state.flags.contains(flag);
    let elsewhere = ask.archive_id.filter(|id| has(HsmFlags::EXISTS) && *id != state.archive_id);
    match ask.action {
        UserAction::Archive => {
            if has(HsmFlags::NOARCHIVE) {
                Judged::Refuse("it is marked noarchive".to_owned())
            } else if let Some(id) = elsewhere {
                let at = state.archive_id;
                Judged::Refuse(format!(
                    "it is in archive {at}, and on Lustre a file is in one: remove it there before it goes to archive {id}"
                ))
            } else if !wait::is_reached(ask.action, state.flags) {
                Judged::Ask
            } else if !ask.force {
                Judged::Already
            } else if has(HsmFlags::RELEASED) {
                Judged::Refuse("it is released: its only content is in the archive; restore it first".to_owned())
            } else {
                Judged::Mark
            }
        }
        // Lustre would ask that archive for it all the same, and then forget the one that it is in.
        UserAction::Restore | UserAction::Remove if let Some(id) = elsewhere => {
            Judged::Refuse(format!("it is in archive {}, not in {id}", state.archive_id))
        }
        UserAction::Restore if has(HsmFlags::RELEASED.with(HsmFlags::LOST)) => {
            Judged::Refuse("its archive copy is marked lost".to_owned())
        }
        UserAction::Remove if has(HsmFlags::RELEASED) => {
            Judged::Refuse("it is released: its only content is in the archive; restore it first".to_owned())
        }
        _ if wait::is_reached(ask.action, state.flags) => Judged::Already,
        _ => Judged::Ask,
    }
}

/// Files of a batch up to which each is asked whether there is anything to cancel. The MDT answers for one file at a time, and looks through
/// all that it remembers for each; with a request for a cancel it does so once for all of the request's files.
const ASKED_EACH: usize = 100;

/// Asks for the end of what is being done to each file.
pub(crate) fn cancel(batch: &Batch) -> Result<(Cancelled, Vec<Refused>), CliError> {
    let library = &batch.filesystem.library;
    let each = batch.files.len() <= ASKED_EACH;
    let mut total = Cancelled::default();
    let mut refused = Vec::new();
    // With a request for several files, Lustre asks the agent of the first one's archive.
    let mut wanted: BTreeMap<u32, Vec<LustreFile>> = BTreeMap::new();
    for file in &batch.files {
        let archive = || state(library, &file.path).map_or(0, |state| state.archive_id);
        if !each {
            wanted.entry(archive()).or_default().push(file.clone());
            continue;
        }
        match current_action(library, &file.path) {
            Ok(current) if current.action.is_none() => total.not_found += 1,
            Ok(_) => wanted.entry(archive()).or_default().push(file.clone()),
            // Its removal from the archive may go on.
            Err(why) if why.kind() == io::ErrorKind::NotFound => wanted.entry(0).or_default().push(file.clone()),
            Err(why) => refused.push(file.failed(&why)),
        }
    }
    let ask = Ask { action: UserAction::Cancel, archive_id: None, force: false, data: Vec::new() };
    let mut taken = 0;
    for (archive, files) in wanted {
        let at_once = if archive == 0 { 1 } else { files.len() };
        for files in files.chunks(at_once.max(1)) {
            let failed = send(&batch.filesystem, &ask, files)?;
            taken += files.len().saturating_sub(failed.len()) as u64;
            for (index, why) in failed {
                match files.get(index) {
                    // It ended meanwhile.
                    Some(_) if why.kind() == io::ErrorKind::NotFound => total.not_found += 1,
                    Some(file) => refused.push(file.failed(&why)),
                    None => {}
                }
            }
        }
    }
    if each {
        total.cancelled = taken;
    } else {
        total.asked = taken;
    }
    Ok((total, refused))
}

/// Sends requests for all files. Gives those that were refused, by index in order, with the reason.
pub(super) fn send(
    filesystem: &Filesystem,
    ask: &Ask,
    files: &[LustreFile],
) -> Result<Vec<(usize, io::Error)>, CliError> {
    let items: Vec<_> = files.iter().map(|file| (file.fid, Extent::WHOLE)).collect();
    let mut refused = Vec::new();
    let mut at = 0;
    while let Some(rest) = items.get(at..).filter(|rest| !rest.is_empty()) {
        let call = |items| {
            let archive_id = ask.archive_id.unwrap_or(0);
            let flags = if ask.force { FORCE } else { 0 };
            let asked = Request { action: ask.action, archive_id, flags, items, data: &ask.data };
            request(&filesystem.library, &filesystem.top, &asked)
        };
        let Err(failed) = call(rest) else { break };
        stop_if_hopeless(filesystem, ask, &failed.source)?;
        // One of the next part is the culprit. Those before it were taken, and would be done twice if they were asked for again.
        at += failed.accepted;
        for (index, item) in items.iter().enumerate().skip(at).take(MAX_REQUEST_ITEMS) {
            if files.get(index).is_some_and(|file| is_under_way(filesystem, ask.action, file)) {
                continue;
            }
            if let Err(failed) = call(std::slice::from_ref(item)) {
                stop_if_hopeless(filesystem, ask, &failed.source)?;
                refused.push((index, failed.source));
            }
        }
        at += MAX_REQUEST_ITEMS;
    }
    Ok(refused)
}

fn is_under_way(filesystem: &Filesystem, action: UserAction, file: &LustreFile) -> bool {
    let current = || current_action(&filesystem.library, &file.path);
    !matches!(action, UserAction::Release | UserAction::Cancel) && current().is_ok_and(|now| now.action == Some(action))
}

/// What no file is to blame for ends the command.
fn stop_if_hopeless(filesystem: &Filesystem, ask: &Ask, why: &io::Error) -> Result<(), CliError> {
    let top = crate::output::escaped_path(&filesystem.top);
    match why.raw_os_error() {
        // A release does not go by the coordinator.
        Some(EAGAIN) if ask.action != UserAction::Release => Err(CliError::new(
            Exit::Unreachable,
            format!(
                "the coordinator of {top} does not take requests: on its MDS, `lctl set_param mdt.*.hsm_control=enabled` starts it"
            ),
        )),
        Some(E2BIG) => Err(CliError::new(
            Exit::Usage,
            format!("--data is too long for Lustre: {} bytes do not fit into a request", ask.data.len()),
        )),
        _ => Ok(()),
    }
}

impl Outstanding {
    /// By which its file is opened.
    pub(super) fn path(&self) -> &PathBuf {
        &self.file.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(action: UserAction, archive_id: Option<u32>, force: bool, flags: &[HsmFlags]) -> Judged {
        let flags = flags.iter().fold(HsmFlags::empty(), |all, flag| all.with(*flag));
        judge(&Ask { action, archive_id, force, data: Vec::new() }, UserState { flags, archive_id: 1 })
    }

    #[test]
    fn a_file_s_state_says_what_is_asked() {
        use HsmFlags as F;
        let clean = [F::EXISTS, F::ARCHIVED];
        let dirty = [F::EXISTS, F::ARCHIVED, F::DIRTY];
        let released = [F::EXISTS, F::ARCHIVED, F::RELEASED];
        for (action, flags, expected) in [
            (UserAction::Archive, &[][..], Judged::Ask),
            (UserAction::Archive, &clean, Judged::Already),
            (UserAction::Archive, &released, Judged::Already),
            (UserAction::Archive, &dirty, Judged::Ask),
            (UserAction::Restore, &clean, Judged::Already),
            (UserAction::Restore, &released, Judged::Ask),
            (UserAction::Remove, &[], Judged::Already),
            (UserAction::Remove, &dirty, Judged::Ask),
        ] {
            assert_eq!(judged(action, None, false, flags), expected, "{action:?} {flags:?}");
        }
        assert_eq!(judged(UserAction::Archive, None, true, &clean), Judged::Mark);
        assert_eq!(judged(UserAction::Archive, None, true, &dirty), Judged::Ask);
        assert_eq!(judged(UserAction::Restore, Some(1), false, &released), Judged::Ask);
        assert_eq!(judged(UserAction::Remove, Some(1), false, &clean), Judged::Ask);
        assert_eq!(judged(UserAction::Archive, Some(1), false, &clean), Judged::Already);
        for (action, id, flags) in [
            (UserAction::Archive, Some(2), &clean[..]),
            (UserAction::Archive, None, &released),
            (UserAction::Restore, Some(2), &released),
            (UserAction::Remove, Some(2), &clean),
            (UserAction::Archive, None, &[F::NOARCHIVE]),
            (UserAction::Remove, None, &released),
            (UserAction::Restore, None, &[F::EXISTS, F::ARCHIVED, F::RELEASED, F::LOST]),
        ] {
            let judged = judged(action, id, true, flags);
            assert!(matches!(judged, Judged::Refuse(_)), "{action:?} {flags:?}: {judged:?}");
        }
    }
}
