//! Where packs and tombstones are in an archive.
//!
//! ```text
//! packs/<pack id[0:4]>/<pack id>              the pack
//! packs/<pack id[0:4]>/<pack id>.d/<uuid>     an empty file: this member was removed. A link to another one's, where there are links
//! packs/<pack id[0:4]>/<pack id>.lock         an empty file: whoever rewrites the pack has its lock
//! ```

use crate::TransferError;
use crate::pack::{MemberId, MemberName, PackId, PackReader};
use crate::store::root::{Root, entries, none_if_missing, unlink};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use sys::{Mode, OFlags};

/// Where packs are.
pub(in crate::store) const PACKS: &str = "packs";
/// What a directory of tombstones is called, behind its pack's id.
const TOMBSTONES: &str = ".d";
/// What the lock of a pack is called, behind its pack's id.
const LOCK: &str = ".lock";
/// Characters of the id that name the directory; 65,536 seconds share one.
const PREFIX: usize = 4;

/// The directory that a pack is in, relative to the root.
pub(in crate::store) fn directory(pack: PackId) -> PathBuf {
    let id = pack.to_string();
    [PACKS, id.get(..PREFIX).unwrap_or(&id)].iter().collect()
}

fn tombstones(pack: PackId) -> PathBuf {
    directory(pack).join(format!("{pack}{TOMBSTONES}"))
}

/// The pack whose tombstones are in a directory of this name.
pub(in crate::store) fn pack_of_tombstones(name: &str) -> Option<PackId> {
    PackId::parse(name.strip_suffix(TOMBSTONES)?)
}

/// For messages.
pub(in crate::store) fn path(root: &Root, pack: PackId) -> PathBuf {
    root.path().join(directory(pack)).join(pack.to_string())
}

/// For messages: the member as if it were a file in its pack.
pub(in crate::store) fn member_path(root: &Root, member: &MemberId) -> PathBuf {
    path(root, member.pack).join(member.name.to_string())
}

/// Opens a pack for reading; `None` when there is none.
pub(in crate::store) fn open(root: &Root, pack: PackId) -> Result<Option<PackReader<File>>, TransferError> {
    let shown = || path(root, pack);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let relative = directory(pack).join(pack.to_string());
    let opened = sys::file::open_beneath(root.dir(), relative, flags, Mode::empty()).map(File::from);
    let Some(file) = none_if_missing(opened).map_err(TransferError::io("open", shown()))? else { return Ok(None) };
    let stamp = sys::file::stamp(&file).map_err(TransferError::io("read attributes of", shown()))?;
    if stamp.is_regular {
        Ok(Some(PackReader::new(file, stamp.size, pack)))
    } else {
        Err(TransferError::NotRegular { path: shown() })
    }
}

/// Whether the open file is still the pack, and none that was written anew has taken its place.
pub(in crate::store) fn is_current(root: &Root, pack: PackId, file: &File) -> io::Result<bool> {
    let relative = directory(pack).join(pack.to_string());
    let named = none_if_missing(sys::file::stamp_at(root.dir(), relative))?;
    let open = sys::file::stamp(file)?;
    Ok(named.is_some_and(|named| (named.dev, named.ino) == (open.dev, open.ino)))
}

/// Unlinks a pack.
pub(in crate::store) fn unlink_pack(root: &Root, pack: PackId) -> io::Result<()> {
    match none_if_missing(root.open_dir(&directory(pack)))? {
        Some(dir) => unlink(&dir, &pack.to_string()).map(drop),
        None => Ok(()),
    }
}

/// Whether a member was removed. To be asked *before* its pack is opened: a tombstone goes only after a pack without the member
/// has taken the place of the one with it.
pub(in crate::store) fn is_removed(root: &Root, member: &MemberId) -> io::Result<bool> {
    let path = tombstones(member.pack).join(member.name.to_string());
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    Ok(none_if_missing(sys::file::open_beneath(root.dir(), path, flags, Mode::empty()))?.is_some())
}

/// Marks a member as removed; not durable yet. Says whether it was not marked before.
///
/// A filesystem has only so many inodes, and making one takes most of the time: so the mark is made as a link to that of the member `like`,
/// where that can be done.
pub(in crate::store) fn mark_removed(root: &Root, member: &MemberId, like: Option<MemberName>) -> io::Result<bool> {
    let (path, name) = (tombstones(member.pack), member.name.to_string());
    let mut tries = 0;
    loop {
        match root.ensure_dir(&path).and_then(|dir| make_mark(&dir, &name, like)) {
            // Somebody who rewrote the pack has just removed the directory.
            Err(e) if e.kind() == ErrorKind::NotFound && tries < 100 => tries += 1,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(false),
            made => return made.map(|()| true),
        }
    }
}

fn make_mark(dir: &File, name: &str, like: Option<MemberName>) -> io::Result<()> {
    if let Some(like) = like {
        match rustix::fs::linkat(dir, like.to_string(), dir, name, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(e @ Errno::EXIST) => return Err(e.into()),
            // It is gone with a pack that was rewritten, or has as many links as can be; or the filesystem has no links.
            Err(_) => {}
        }
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    sys::file::open_beneath(dir, name, flags, Mode::RUSR | Mode::WUSR).map(drop)
}

/// The tombstones' directory of a pack, if it has one.
pub(in crate::store) fn open_tombstones(root: &Root, pack: PackId) -> io::Result<Option<File>> {
    none_if_missing(root.open_dir(&tombstones(pack)))
}

/// The right to rewrite a pack: the lock of a file beside it, that goes when this does.
#[derive(Debug)]
pub(in crate::store) struct Lock {
    dir: File,
    name: String,
    /// The lock goes with this descriptor.
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked: nobody else can have it as his.
        let _ = unlink(&self.dir, &self.name);
    }
}

/// Locks a pack; `None` when somebody else has it.
pub(in crate::store) fn lock(root: &Root, pack: PackId) -> io::Result<Option<Lock>> {
    let (dir, name) = (root.open_dir(&directory(pack))?, format!("{pack}{LOCK}"));
    // For writing, or it would be no exclusive lock on NFS.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(sys::file::open_beneath(&dir, &name, flags, Mode::RUSR | Mode::WUSR)?);
    let mine = sys::file::try_lock_exclusive(&file)? && is_named(&dir, &name, &file);
    Ok(mine.then(|| Lock { dir, name, _file: file }))
}

/// Removes the directory, if nothing is in it.
pub(in crate::store) fn remove_tombstones(root: &Root, pack: PackId) {
    if let Ok(dir) = root.open_dir(&directory(pack)) {
        let name = format!("{pack}{TOMBSTONES}");
        let _ = rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR);
    }
}

/// Whether the directory is still the one that its name stands for.
pub(in crate::store) fn is_still(root: &Root, pack: PackId, dir: &File) -> bool {
    is_named(root.dir(), tombstones(pack), dir)
}

fn is_named(parent: &File, name: impl AsRef<Path>, open: &File) -> bool {
    match (sys::file::stamp_at(parent, name), sys::file::stamp(open)) {
        (Ok(named), Ok(open)) => (named.dev, named.ino) == (open.dev, open.ino),
        _ => false,
    }
}

/// Names of members that are marked as removed; other names in the directory are somebody else's.
pub(in crate::store) fn removed(dir: &File) -> io::Result<impl Iterator<Item = io::Result<MemberName>>> {
    let names = entries(dir)?;
    Ok(names.filter_map(|name| match name {
        Ok(name) => MemberName::parse(&name).map(Ok),
        Err(e) => Some(Err(e)),
    }))
}

/// Visits the directories that packs are in, by name, those before `from` left out.
pub(in crate::store) fn directories(root: &Root, from: Option<PackId>) -> io::Result<Vec<PathBuf>> {
    let Some(dir) = none_if_missing(root.open_dir(Path::new(PACKS)))? else { return Ok(Vec::new()) };
    let from = from.map(|pack| pack.to_string());
    let from = from.as_deref().and_then(|id| id.get(..PREFIX)).unwrap_or_default();
    // At most 65,536 of four digits.
    let is_ours = |name: &str| name.len() == PREFIX && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let mut names = Vec::new();
    for name in entries(&dir)? {
        let name = name?;
        if is_ours(&name) && *name >= *from {
            names.push(Path::new(PACKS).join(name));
        }
    }
    names.sort_unstable();
    Ok(names)
}
