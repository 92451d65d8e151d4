//! Records: what a rebuild needs beside the files themselves. A directory, a symbolic link, a special file or a further
//! name of a file has no content, and no attribute of ours; the archive gets a manifest of it and nothing else.
//!
//! A record's id is derived from the inode (and, for a further name, from the path), so recording again replaces, and
//! nothing has to be remembered. What is remembered all the same, in the queue's database, is the inode's stamp when it was
//! recorded: while it is the same there is nothing to do; and when the inode goes, its record is removed like an object.

use crate::filesystem::{Filesystem, handle_of, stamp_of};
use crate::prepare::{Prepared, system};
use model::{Class, Command, Failure, FileHandle, Identity, Stamp};
use queue::{Change, NewAction, ObjectRef, RequestId, SyncedStamp};
use rustix::fs::FileType;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use sys::OFlags;
use uuid::Uuid;

/// How the ids of records end: their form says that there is no content behind them.
const SUFFIX: &str = ".rec";
/// Names that stand for no inode (a further name of a file is one) have this type, which no filesystem uses.
const NAME_KIND: i32 = i32::MIN;
/// What ids are derived in.
const NAMESPACE: Uuid = Uuid::from_u128(0x5f1a_4b0c_9d3e_4c57_8a21_6e60_1f7d_92b3);

/// Something to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The inode.
    pub handle: FileHandle,
    /// How the user called it, for messages.
    pub path: String,
    /// The directory it is in and its name there. A directory has one place only, and needs none.
    pub place: Option<(FileHandle, Vec<u8>)>,
}

/// Whether an action's proposed id is a record's.
pub(crate) fn is_record(action: &NewAction) -> bool {
    action.command == Command::Archive && action.identity.uuid.ends_with(SUFFIX)
}

/// What was found out about an entry when it was asked for.
pub(crate) struct Found {
    pub(crate) action: NewAction,
    /// What its stamp is remembered under.
    pub(crate) key: FileHandle,
    pub(crate) stamp: Stamp,
}

/// Looks at an entry. `None`: there is nothing to record (an ordinary file with one name; something outside the root).
pub(crate) fn look(
    fs: &Filesystem,
    entry: &Entry,
    archive_id: u32,
    request: u64,
    now_ms: u64,
) -> Result<Option<Found>, Failure> {
    let fd = fs.open_any(&entry.handle).map_err(|e| system("opening it by its handle", &e))?;
    let stat = sys::file::stamp(&fd).map_err(|e| system("looking at it", &e))?;
    if stat.is_regular && stat.nlink < 2 {
        return Ok(None);
    }
    let Some(tree_path) = place(fs, &fd, entry).map_err(|e| system("finding its place", &e))? else { return Ok(None) };
    let mut name = fs.fsid.to_vec();
    name.extend(entry.handle.to_bytes());
    if stat.is_regular {
        name.extend(&tree_path);
    }
    let id = Uuid::new_v5(&NAMESPACE, &name);
    let key = if stat.is_regular {
        FileHandle { kind: NAME_KIND, bytes: id.as_bytes().as_slice().into() }
    } else {
        entry.handle.clone()
    };
    let action = NewAction {
        request: RequestId(request),
        class: Class::Archive,
        command: Command::Archive,
        archive_id,
        owner: stat.uid,
        file: Some(entry.handle.clone()),
        path: entry.path.clone(),
        identity: Identity { uuid: format!("{}{SUFFIX}", id.simple()), ..Identity::default() },
        // The only thing that cannot be found again by the handle.
        data: tree_path,
        not_before_ms: now_ms,
        created_ms: now_ms,
    };
    Ok(Some(Found { action, key, stamp: remembered(&stat) }))
}

/// A file's further names do not change when it is written to.
fn remembered(stat: &sys::file::FileStamp) -> Stamp {
    if stat.is_regular { Stamp::default() } else { stamp_of(stat) }
}

/// The path below the root. The empty one is the root itself.
fn place(fs: &Filesystem, fd: &OwnedFd, entry: &Entry) -> io::Result<Option<Vec<u8>>> {
    let Some((parent, name)) = &entry.place else { return fs.directory_path(fd) };
    if name.is_empty() || name.contains(&b'/') || name == b"." || name == b".." {
        return Err(io::Error::from_raw_os_error(22));
    }
    let parent = fs.open_any(parent)?;
    let Some(mut path) = fs.directory_path(&parent)? else { return Ok(None) };
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend(name);
    Ok(fs.is_at(fd, &path).then_some(path))
}

/// Looks again, right before a mover is asked.
pub(crate) fn prepare(fs: &Filesystem, handle: &FileHandle, action: &NewAction) -> Result<Prepared, Failure> {
    let fd = match fs.open_any(handle) {
        Ok(fd) => fd,
        // It went meanwhile, and what was recorded of it goes with it.
        Err(e) if e.raw_os_error() == Some(116) => return Ok(Prepared::Done(action.identity.uuid.clone())),
        Err(e) => return Err(system("opening it by its handle", &e)),
    };
    let stat = sys::file::stamp(&fd).map_err(|e| system("looking at it", &e))?;
    if fs.is_at(&fd, &action.data) {
        Ok(Prepared::Record(remembered(&stat), action.data.clone()))
    } else {
        // Renamed since: the directories that changed with that are recorded when they are asked for again.
        match fs.directory_path(&fd) {
            Ok(Some(path)) => Ok(Prepared::Record(stamp_of(&stat), path)),
            _ => Ok(Prepared::Done(action.identity.uuid.clone())),
        }
    }
}

/// What the queue has to remember of a record that was stored under `identity`.
pub(crate) fn recorded(action: &NewAction, stamp: Stamp, identity: &Identity) -> Option<Change> {
    let file = if stamp == Stamp::default() {
        let id = Uuid::try_parse(action.identity.uuid.strip_suffix(SUFFIX)?).ok()?;
        FileHandle { kind: NAME_KIND, bytes: id.as_bytes().as_slice().into() }
    } else {
        action.file.clone()?
    };
    let object = ObjectRef { archive_id: action.archive_id, uuid: identity.uuid.clone(), url: identity.url.clone() };
    Some(Change::SetStamp { file, stamp: SyncedStamp { stamp, object: Some(object) } })
}

impl Filesystem {
    /// Opens any inode by its handle, as a name only.
    fn open_any(&self, handle: &FileHandle) -> io::Result<OwnedFd> {
        let raw = sys::handle::RawHandle { kind: handle.kind, bytes: handle.bytes.to_vec() };
        sys::handle::open_by_handle(self.root(), &raw, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)
    }

    /// A directory's path below the root; empty for the root itself; `None` for what is no directory, or not below the root.
    pub(crate) fn directory_path(&self, fd: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
        let (own, root) = (sys::file::stamp(fd)?, sys::file::stamp(self.root())?);
        if (own.dev, own.ino) == (root.dev, root.ino) {
            return Ok(Some(Vec::new()));
        }
        if FileType::from_raw_mode(own.mode) != FileType::Directory {
            return Ok(None);
        }
        Ok(self.tree_path(fd))
    }

    /// Whether that is what the path leads to.
    fn is_at(&self, fd: &OwnedFd, path: &[u8]) -> bool {
        if path.is_empty() {
            return handle_of(self.root()).is_ok_and(|root| handle_of(fd).is_ok_and(|own| own == root));
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let there = sys::file::open_beneath(self.root(), Path::new(OsStr::from_bytes(path)), flags, sys::Mode::empty());
        there.is_ok_and(|there| handle_of(&there).is_ok_and(|there| handle_of(fd).is_ok_and(|own| own == there)))
    }
}
