//! What there is to tell of a file.

use super::identity::Attributes;
use super::{Filesystem, LustreFile, absolute};
use crate::render::file_status::{Doing, View};
use model::{Command, HsmFlags};
use serde::Serialize;
use std::io;
use std::os::unix::fs::MetadataExt;
use sys::lustre::{UserAction, current_action, state};

/// The JSON of a file, with the names that files of local filesystems have.
#[derive(Debug, Serialize)]
pub(crate) struct FileOnLustre {
    path: String,
    fid: String,
    managed: bool,
    flags: Vec<&'static str>,
    archive_id: u32,
    uuid: String,
    hash: String,
    url: String,
    size: u64,
    dirty: bool,
    action: Option<Action>,
    pub(crate) error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Action {
    command: Command,
    state: &'static str,
    bytes_done: u64,
}

/// Asks Lustre; for what is under way, which is dear, only `with_action`.
pub(crate) fn of(filesystem: &Filesystem, file: &LustreFile, with_action: bool) -> FileOnLustre {
    let mut found = FileOnLustre {
        path: absolute(&file.shown),
        fid: file.fid.to_string(),
        managed: false,
        flags: Vec::new(),
        archive_id: 0,
        uuid: String::new(),
        hash: String::new(),
        url: String::new(),
        size: 0,
        dirty: false,
        action: None,
        error: None,
    };
    if let Err(why) = fill(filesystem, file, with_action, &mut found) {
        found.error = Some(why.to_string());
    }
    found
}

fn fill(filesystem: &Filesystem, file: &LustreFile, with_action: bool, found: &mut FileOnLustre) -> io::Result<()> {
    let library = &filesystem.library;
    let state = state(library, &file.path)?;
    let current = with_action.then(|| current_action(library, &file.path)).transpose()?;
    found.size = file.path.symlink_metadata()?.size();
    found.managed = state.flags != HsmFlags::empty();
    found.flags = state.flags.names().collect();
    found.archive_id = state.archive_id;
    found.dirty = state.flags.contains(HsmFlags::DIRTY);
    found.action = current.and_then(|current| {
        Some(Action {
            command: command(current.action?)?,
            state: if current.is_running() { "running" } else { "waiting" },
            bytes_done: current.bytes_done().min(found.size),
        })
    });
    if found.managed {
        let attributes = Attributes::of(&file.path)?;
        (found.uuid, found.hash, found.url) = (attributes.uuid(), attributes.hash(), attributes.url());
    }
    Ok(())
}

fn command(action: UserAction) -> Option<Command> {
    match action {
        UserAction::Archive => Some(Command::Archive),
        UserAction::Restore => Some(Command::Restore),
        UserAction::Remove => Some(Command::Remove),
        UserAction::Release | UserAction::Cancel => None,
    }
}

impl FileOnLustre {
    /// For a line.
    pub(crate) fn view(&self) -> View<'_> {
        let doing = self.action.as_ref().map(|action| Doing {
            command: action.command,
            state: action.state,
            bytes_done: action.bytes_done,
            size: self.size,
        });
        View { flags: self.flags.clone(), archives: self.archive_id.to_string(), doing }
    }
}
