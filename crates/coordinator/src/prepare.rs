//! The first step of an action: open the file, see whether there is anything to do, and say what a mover needs.
//!
//! Blocking; runs on the engine's pool, with the inode locked by the engine.

use crate::copies::{self, Wishes};
use crate::filesystem::{Filesystem, stamp_of};
use crate::state::{FileState, StateError, read_hsm, write_hsm};
use model::{Command, Failure, FileHandle, HsmFlags, HsmState, Identity, Stamp, Timestamp};
use queue::NewAction;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use sys::OFlags;
use sys::fanotify::PreContentGroup;

pub(crate) const ENOENT: i32 = 2;
pub(crate) const EIO: i32 = 5;
pub(crate) const EPERM: i32 = 1;
const E2BIG: i32 = 7;
pub(crate) const ESTALE: i32 = 116;

/// A file that is open for one action.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) handle: FileHandle,
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) state: FileState,
    /// Of the content the mover is about to see.
    pub(crate) before: Stamp,
    /// The mtime that its user gave it: what it has again after a restore.
    pub(crate) mtime: Timestamp,
    /// Where it is, relative to the root; looked up for archiving only, and empty when nobody knows.
    pub(crate) tree_path: Vec<u8>,
    /// The further copies of what `state` names.
    pub(crate) copies: Vec<model::Copy>,
    /// How many syncs of the whole filesystem had failed before anything was written to the file; 0 where that is not known.
    pub(crate) failed_syncs: u64,
}

impl Opened {
    /// The name by which any process of ours and any plugin can open the same inode, whatever is renamed.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }
}

/// What comes of looking.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// A mover has to do it: with the file (if there is one) and the object's identity.
    Run(Option<Opened>, Identity),
    /// The identity has to be taken off the file first, then a mover removes the object.
    Detach(Opened),
    /// A mover has to record it: its stamp now, and its path.
    Record(Stamp, Vec<u8>),
    /// Parts of it are there, and may be in use: only what is missing may be fetched.
    Parts,
    /// It is as it was asked for already; the file names this object.
    Done(String),
    /// An earlier attempt did it, and a crash came before the queue knew.
    DoneBefore(Opened),
    /// It cannot be done.
    Failed(Failure),
}

/// Looks at an action's file. Resident files that a mover is going to read are marked in the guard's `group`, so that neither
/// our opens nor the mover's ask anybody.
pub(crate) fn prepare(fs: &Filesystem, group: Option<&PreContentGroup>, action: &NewAction) -> Prepared {
    let Some(handle) = &action.file else {
        return if action.identity.uuid.is_empty() && action.identity.url.is_empty() {
            Prepared::Failed(Failure::permanent(22, format!("{} names neither a file nor an object", action.command)))
        } else {
            Prepared::Run(None, action.identity.clone())
        };
    };
    let looked = match action.command {
        Command::Archive if crate::record::is_record(action) => crate::record::prepare(fs, handle, action),
        Command::Archive => archive(fs, group, handle, action),
        Command::Restore => restore(fs, handle, action),
        Command::Remove => remove(fs, handle, action),
        Command::Verify => silence(fs, group, handle).and_then(|()| open(fs, handle, OFlags::RDONLY)).map(|file| {
            let identity = file.state.identity.clone();
            Prepared::Run(Some(file), identity)
        }),
    };
    looked.unwrap_or_else(|failure| Prepared::Failed(describe(failure, action)))
}

fn describe(failure: Failure, action: &NewAction) -> Failure {
    Failure { message: format!("cannot {} {}: {}", action.command, action.path, failure.message), ..failure }
}

pub(crate) fn system(what: &str, error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(ESTALE | ENOENT) => Failure::permanent(ENOENT, "the file does not exist any more"),
        Some(errno) => {
            Failure { kind: model::errno_kind(errno), ..Failure::temporary(errno, format!("{what} failed: {error}")) }
        }
        None => Failure::temporary(EIO, format!("{what} failed: {error}")),
    }
}

pub(crate) fn attribute(error: &StateError) -> Failure {
    let errno = error.errno();
    let kind = match error {
        StateError::Io { .. } => model::errno_kind(errno),
        StateError::Damaged { .. } => model::ErrorKind::Permanent,
    };
    Failure { kind, ..Failure::temporary(errno, error.to_string()) }
}

/// Opens the file and reads its state; content that a mapping still holds dirty is written out first, so that a change
/// after the stamp shows in the stamp.
fn open(fs: &Filesystem, handle: &FileHandle, flags: OFlags) -> Result<Opened, Failure> {
    let failed_syncs = fs.failed_syncs();
    let opened = fs.open_and_look(handle, flags);
    let (fd, mut stamp) = opened.map_err(|e| system("opening it by its handle", &e))?;
    let state = FileState::read(&fd).map_err(|e| attribute(&e))?;
    if !flags.contains(OFlags::RDWR) && sys::lease::has_writers(&fd).unwrap_or(true) {
        sys::file::sync_data(&fd).map_err(|e| system("writing out its data", &e))?;
        stamp = sys::file::stamp(&fd).map_err(|e| system("looking at it", &e))?;
    }
    let before = stamp_of(&stamp);
    let (mtime, copies) = (before.mtime, copies::known(&fd, &state));
    let (handle, fd, tree_path) = (handle.clone(), Arc::new(fd), Vec::new());
    Ok(Opened { handle, fd, state, before, mtime, tree_path, copies, failed_syncs })
}

/// Nobody releases the file meanwhile: the engine has locked its inode for the action.
fn silence(fs: &Filesystem, group: Option<&PreContentGroup>, handle: &FileHandle) -> Result<(), Failure> {
    let Some(group) = group else { return Ok(()) };
    let name = fs.open(handle, OFlags::PATH).map_err(|e| system("opening it by its handle", &e))?;
    if read_hsm(&name).is_ok_and(|hsm| !hsm.is_released()) {
        // Without the mark it only takes longer.
        let _ = group.ignore_inode(&name, true);
    }
    Ok(())
}

fn archive(
    fs: &Filesystem,
    group: Option<&PreContentGroup>,
    handle: &FileHandle,
    action: &NewAction,
) -> Result<Prepared, Failure> {
    silence(fs, group, handle)?;
    if let Some(version) = Wishes::of(action).anew {
        archived_no_more(fs, handle, version)?;
    }
    let mut file = open(fs, handle, OFlags::RDONLY | OFlags::NOATIME)?;
    if !file.state.belongs_to(handle) {
        // Attributes copied from another file: that file's object is not ours to replace.
        file.state = FileState::default();
        file.copies = Vec::new();
    }
    let made = |copy: &&model::Copy| {
        let (own, proposed) = (&copy.identity.uuid, &action.identity.uuid);
        copy.archive_id == action.archive_id && !proposed.is_empty() && own.starts_with(proposed)
    };
    if file.copies.iter().any(|copy| made(&copy)) {
        // This action did it once, and its result was lost with a crash.
        return Ok(done_before(fs, file));
    }
    let hsm = &file.state.hsm;
    if hsm.is_released() {
        let has = |id: u32| file.state.archive_id() == Some(id) || file.copies.iter().any(|copy| copy.archive_id == id);
        if copies::is_ensured(action) && !has(action.archive_id) {
            let why = format!("it was released before archive {} had a copy: restore it first", action.archive_id);
            return Err(Failure::permanent(EPERM, why));
        }
        return Ok(Prepared::Done(file.state.identity.uuid));
    }
    let (named, proposed) = (&file.state.identity.uuid, &action.identity.uuid);
    if !proposed.is_empty() && named.starts_with(proposed) && crate::shared::is_marked(&*file.fd, named) {
        // This action did it once, and its result was lost with a crash. Others may name that object by now: what the file holds
        // since then must not be written over it.
        return Ok(done_before(fs, file));
    }
    if hsm.flags.contains(HsmFlags::NOARCHIVE) {
        if !proposed.is_empty() && named.starts_with(proposed) {
            // This action did it once, and the mark came later: a failure now would have the object removed.
            return Ok(done_before(fs, file));
        }
        return Err(Failure::permanent(
            EPERM,
            "it is marked noarchive; clear the mark with `sifaka set --clear noarchive`",
        ));
    }
    if is_archived_as_it_is(&file.state, &file.before) && hsm.archive_id == u64::from(action.archive_id) {
        if !proposed.is_empty() && named.starts_with(proposed) {
            return Ok(done_before(fs, file));
        }
        return Ok(Prepared::Done(file.state.identity.uuid));
    }
    if copies::is_ensured(action) && is_archived_as_it_is(&file.state, &file.before) {
        if let Some(copy) = file.copies.iter().find(|copy| copy.archive_id == action.archive_id) {
            return Ok(Prepared::Done(copy.identity.uuid.clone()));
        }
        if file.copies.len() >= model::Copies::MAX {
            let most = model::Copies::MAX;
            return Err(Failure::permanent(E2BIG, format!("it has {most} further copies, and cannot have more")));
        }
    }
    file.tree_path = fs.tree_path(&*file.fd).unwrap_or_default();
    Ok(Prepared::Run(Some(file), copies::proposed(action)))
}

fn done_before(fs: &Filesystem, mut file: Opened) -> Prepared {
    file.tree_path = fs.tree_path(&*file.fd).unwrap_or_default();
    Prepared::DoneBefore(file)
}

/// Makes a file dirty that is to be archived anew, if it is still this version that the archive has. Said on the file: it counts for further
/// copies, too, and after a crash. Before the file is looked at, since it moves ctime.
fn archived_no_more(fs: &Filesystem, handle: &FileHandle, version: u64) -> Result<(), Failure> {
    let name = fs.open(handle, OFlags::PATH).map_err(|e| system("opening it by its handle", &e))?;
    let state = FileState::read(&name).map_err(|e| attribute(&e))?;
    let hsm = state.hsm;
    let other = hsm.is_released() || hsm.flags.contains(HsmFlags::NOARCHIVE) || !state.belongs_to(handle);
    if other || !hsm.is_clean_copy() || hsm.archive_version != version {
        return Ok(());
    }
    let dirty = HsmState { flags: hsm.flags.with(HsmFlags::DIRTY), ..hsm };
    write_hsm(&name, &dirty).map_err(|e| attribute(&e))
}

/// Whether the archive holds this content, as far as size and mtime can tell.
pub(crate) fn is_archived_as_it_is(state: &FileState, stamp: &Stamp) -> bool {
    let same = |r: &model::ArchiveRecord| r.size == stamp.size && r.mtime == stamp.mtime;
    state.hsm.is_clean_copy() && state.record.as_ref().is_some_and(same)
}

fn restore(fs: &Filesystem, handle: &FileHandle, action: &NewAction) -> Result<Prepared, Failure> {
    let mut file = open(fs, handle, OFlags::RDWR)?;
    if !file.state.hsm.is_released() {
        return Ok(Prepared::Done(file.state.identity.uuid));
    }
    if let Some(record) = &file.state.record
        && sys::file::next_data(&*file.fd, 0).ok().flatten().is_some()
    {
        // Left by a restore that a crash cut short, and its writes moved mtime. Else it may be that the user touched it.
        file.mtime = record.mtime;
    }
    match why_not_restorable(&file.state, &file.before) {
        Some(NotRestorable::Emptied) => {
            emptied(&file).map_err(|e| attribute(&e))?;
            Ok(Prepared::Done(file.state.identity.uuid))
        }
        Some(NotRestorable::Because(why)) => Err(Failure::permanent(EIO, why)),
        None if is_in_parts(&file)? => Ok(Prepared::Parts),
        None => {
            let own = &file.state.identity;
            let named = &action.identity;
            // A policy engine may name the object; what the file's hash says of another object is nothing.
            let identity = if named.uuid.is_empty() || named.uuid == own.uuid { own.clone() } else { named.clone() };
            Ok(Prepared::Run(Some(file), identity))
        }
    }
}

fn is_in_parts(file: &Opened) -> Result<bool, Failure> {
    let same_size = file.state.record.as_ref().is_some_and(|record| record.size == file.before.size);
    Ok(same_size && crate::ranges::residency::is_marked(&*file.fd).map_err(|e| attribute(&e))?)
}

/// Why a released file is not simply restored.
pub(crate) enum NotRestorable {
    /// It was truncated to nothing by an open with `O_TRUNC`: nothing has to come back.
    Emptied,
    /// Something is wrong.
    Because(String),
}

pub(crate) fn why_not_restorable(state: &FileState, stamp: &Stamp) -> Option<NotRestorable> {
    if let Some(record) = &state.record {
        if stamp.size == 0 && record.size > 0 {
            return Some(NotRestorable::Emptied);
        }
        if stamp.size != record.size {
            let (now, then) = (stamp.size, record.size);
            return Some(NotRestorable::Because(format!(
                "it is released and {now} bytes long, but {then} were archived: its size was changed while no guard watched"
            )));
        }
    }
    if state.identity.uuid.is_empty() && state.identity.url.is_empty() {
        return Some(NotRestorable::Because("it is released but names no archived object".into()));
    }
    if state.archive_id().is_none() {
        let id = state.hsm.archive_id;
        return Some(NotRestorable::Because(format!(
            "it is released, but trusted.hsm names archive {id}, which cannot be"
        )));
    }
    None
}

/// A released file whose content was thrown away by its user is an ordinary, changed file.
pub(crate) fn emptied(file: &Opened) -> Result<(), StateError> {
    let mut hsm = file.state.hsm;
    hsm.flags = hsm.flags.without(HsmFlags::RELEASED).with(HsmFlags::DIRTY);
    write_hsm(&*file.fd, &hsm)?;
    crate::ranges::residency::forget_if_marked(&*file.fd);
    Ok(())
}

fn remove(fs: &Filesystem, handle: &FileHandle, action: &NewAction) -> Result<Prepared, Failure> {
    let mut file = open(fs, handle, OFlags::RDONLY)?;
    if file.state.hsm.is_released() {
        return Err(Failure::permanent(EPERM, "it is released: its archive copy is the only one. Restore it first"));
    }
    if !file.state.belongs_to(handle) {
        // Attributes copied from another file: the object is that one's.
        file.state = FileState::default();
        file.copies = Vec::new();
    }
    if file.state.identity.uuid.is_empty() && file.state.identity.url.is_empty() {
        // Taken off by an attempt before this one, which owes a check that will remove the object.
        return Ok(Prepared::Done(file.state.identity.uuid));
    }
    if !action.identity.uuid.is_empty() && action.identity.uuid != file.state.identity.uuid {
        return Ok(Prepared::Run(None, action.identity.clone()));
    }
    Ok(Prepared::Detach(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::handle_of;
    use model::{ArchiveRecord, Digest};
    use std::fs;
    use testkit::{FsKind, LoopFs};

    fn clean() -> HsmFlags {
        HsmFlags::EXISTS.with(HsmFlags::ARCHIVED)
    }

    struct Archived {
        path: std::path::PathBuf,
        fs: Filesystem,
        handle: FileHandle,
        _loop_fs: LoopFs,
    }

    impl Archived {
        fn new() -> Self {
            let loop_fs = LoopFs::new(FsKind::Ext4, 0);
            let path = loop_fs.path().join("f");
            fs::write(&path, "content").unwrap();
            let handle = handle_of(fs::File::open(&path).unwrap()).unwrap();
            Self { path, fs: Filesystem::at(&loop_fs.path()).unwrap(), handle, _loop_fs: loop_fs }
        }

        /// As it is now, this version of it is archived under this id.
        fn says(&self, flags: HsmFlags, archive_version: u64, uuid: &str) {
            let file = fs::File::open(&self.path).unwrap();
            let now = stamp_of(&sys::file::stamp(&file).unwrap());
            let hash = Some(Digest::Blake3([1; 32]));
            let state = FileState {
                hsm: HsmState { compat: 0, flags, archive_id: 1, archive_version },
                identity: Identity { uuid: uuid.into(), hash, url: String::new() },
                record: Some(ArchiveRecord { size: now.size, mtime: now.mtime, inode: self.handle.clone() }),
            };
            state.write(&file).unwrap();
        }

        fn flags(&self) -> HsmFlags {
            read_hsm(fs::File::open(&self.path).unwrap()).unwrap().flags
        }

        fn prepared(&self, wishes: Wishes, proposed: &str) -> Prepared {
            let mut identity = Identity { uuid: proposed.into(), ..Identity::default() };
            wishes.write(&mut identity);
            let action = crate::engine::removal_action(1, identity, String::new(), 0);
            let action = NewAction { command: Command::Archive, file: Some(self.handle.clone()), ..action };
            prepare(&self.fs, None, &action)
        }
    }

    #[test]
    fn what_is_archived_by_force_is_archived_once() {
        let file = Archived::new();
        for ensure in [false, true] {
            let forced = Wishes { ensure, anew: Some(4) };
            file.says(clean(), 4, "old");
            assert!(matches!(file.prepared(Wishes { anew: None, ..forced }, "new"), Prepared::Done(_)));
            assert_eq!(file.flags(), clean());
            // Also when a life of the agent ends in between.
            for _ in 0..2 {
                let Prepared::Run(Some(opened), identity) = file.prepared(forced, "new") else {
                    panic!("it is not archived")
                };
                assert_eq!((identity.uuid.as_str(), identity.url.as_str()), ("new", ""));
                assert!(opened.state.hsm.flags.contains(HsmFlags::DIRTY));
            }
            // By this action, or another that came after it was asked for.
            for uuid in ["new", "other"] {
                file.says(clean(), 5, uuid);
                assert!(!matches!(file.prepared(forced, "new"), Prepared::Run(..)), "{uuid}");
                assert_eq!(file.flags(), clean(), "{uuid}");
            }
        }
    }

    #[test]
    fn p2_force_keeps_its_hands_off_files_that_were_released_meanwhile() {
        let file = Archived::new();
        let forced = Wishes { ensure: false, anew: Some(4) };
        for flags in [clean().with(HsmFlags::RELEASED), clean().with(HsmFlags::NOARCHIVE)] {
            file.says(flags, 4, "old");
            assert!(!matches!(file.prepared(forced, "new"), Prepared::Run(..)));
            assert_eq!(file.flags(), flags);
        }
    }
}
