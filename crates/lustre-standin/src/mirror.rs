//! Mirrors and swaps: what is done to files' data by way of their layouts.

use std::fs::{self, File, OpenOptions};
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::abi::Fid;
use crate::boundary::{Errno, Result};
use crate::completion::copy_sparse;
use crate::file::{Hsm, data_version, fid_of, modification, set_times};
use crate::layout::{Layout, shadow};
use crate::root::{Root, by_fd};
use crate::state::Session;

/// Which checks and what of the times a swap is to make: `SWAP_LAYOUTS_…`.
const CHECK_FIRST: u64 = 1;
const CHECK_SECOND: u64 = 2;
const KEEP_MTIME: u64 = 4;
/// With the end of a lease, which says that nothing was written; the files keep their times.
pub(crate) const CLOSE: u64 = 0x10;

fn read_again(fd: RawFd) -> Result<File> {
    Ok(File::open(by_fd(fd))?)
}

fn look(root: &Root, fd: RawFd) -> Result<(Session, Fid, Layout)> {
    let mut session = Session::begin(root)?;
    let fid = fid_of(&mut session, &by_fd(fd))?;
    let layout = Layout::of(&mut session, &by_fd(fd))?;
    Ok((session, fid, layout))
}

/// The data of `copy` become a further mirror of `fd`, in sync: whether they are the same is the caller's to know.
pub(crate) fn merge(root: &Root, fd: RawFd, copy: RawFd) -> Result<()> {
    let (mut session, fid, mut layout) = look(root, fd)?;
    let theirs = Layout::of(&mut session, &by_fd(copy))?;
    if theirs.is_mirrored() || !theirs.composite {
        return Err(Errno(libc::EINVAL));
    }
    for (index, mirror) in layout.mirrors.iter_mut().enumerate().filter(|(_, mirror)| mirror.id == 0) {
        mirror.id = u16::try_from(index + 1).map_err(|_| Errno(libc::EINVAL))?;
    }
    let id = layout.mirrors.iter().map(|mirror| mirror.id).max().unwrap_or(0) + 1;
    copy_sparse(&read_again(copy)?, &File::create(shadow(root, fid, id))?)?;
    let synced = modification(&fs::metadata(by_fd(fd))?);
    layout.composite = true;
    layout.mirrors.extend(theirs.mirrors.into_iter().map(|mirror| crate::layout::Mirror { id, synced, ..mirror }));
    layout.write(&by_fd(fd))?;
    forget_volatile(root, copy)
}

/// What is left of a file without a name once its data are elsewhere.
fn forget_volatile(root: &Root, fd: RawFd) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    if let Some(fid) = crate::file::known_fid(&by_fd(fd))? {
        let path = fid.path(root);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.nlink() == 1) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// `rest` becomes what mirror `id` was; with `fd` itself as the rest, the mirror is destroyed.
pub(crate) fn split(root: &Root, fd: RawFd, rest: RawFd, id: u32) -> Result<()> {
    let (_session, fid, mut layout) = look(root, fd)?;
    let index = layout.position(u16::try_from(id).map_err(|_| Errno(libc::EINVAL))?)?;
    let path = by_fd(fd);
    if rest != fd && Layout::known(&by_fd(rest))?.is_some() {
        return Err(Errno(libc::EEXIST));
    }
    let is_synced = |index: &usize| layout.is_stale(*index, &path).is_ok_and(|stale| !stale);
    let Some(other) = (0..layout.mirrors.len()).filter(|other| *other != index).find(is_synced) else {
        // It would be the last that has the data.
        return Err(Errno(libc::EUCLEAN));
    };
    if rest != fd {
        let source = if index == 0 { path.clone() } else { shadow(root, fid, layout.mirrors[index].id) };
        copy_sparse(&File::open(source)?, &OpenOptions::new().write(true).open(by_fd(rest))?)?;
        let mirror = crate::layout::Mirror { id: 0, synced: 0, ..layout.mirrors[index].clone() };
        Layout { mirrors: vec![mirror], syncing: false, composite: true }.write(&by_fd(rest))?;
    }
    if index == 0 {
        // Another one's data become the file's.
        let to = OpenOptions::new().write(true).open(&path)?;
        let was = to.metadata()?;
        copy_sparse(&File::open(shadow(root, fid, layout.mirrors[other].id))?, &to)?;
        set_times(&to, &was)?;
        layout.mirrors.swap(0, other);
    }
    let index = layout.position(u16::try_from(id).map_err(|_| Errno(libc::EINVAL))?)?;
    let gone = layout.mirrors.remove(index);
    // Of the one that is the primary now, or of the one that is gone: neither is needed.
    for id in [gone.id, layout.mirrors[0].id] {
        let _ = fs::remove_file(shadow(root, fid, id));
    }
    layout.write(&path)
}

pub(crate) fn begin_resync(root: &Root, fd: RawFd) -> Result<()> {
    let (_session, _, mut layout) = look(root, fd)?;
    if !layout.is_mirrored() {
        return Err(Errno(libc::EINVAL));
    }
    let is_stale = |index| layout.is_stale(index, &by_fd(fd));
    if !(0..layout.mirrors.len()).map(is_stale).collect::<Result<Vec<_>>>()?.contains(&true) {
        return Err(Errno(libc::EALREADY));
    }
    layout.syncing = true;
    layout.write(&by_fd(fd))
}

/// The components in `synced` have the file's data now; that is the caller's to know.
pub(crate) fn end_resync(root: &Root, fd: RawFd, synced: &[u32]) -> Result<()> {
    let (_session, _, mut layout) = look(root, fd)?;
    if synced.iter().any(|id| layout.mirrors.iter().all(|mirror| mirror.component() != *id)) {
        return Err(Errno(libc::EINVAL));
    }
    let now = modification(&fs::metadata(by_fd(fd))?);
    for mirror in layout.mirrors.iter_mut().filter(|mirror| synced.contains(&mirror.component())) {
        mirror.synced = now;
    }
    layout.syncing = false;
    layout.write(&by_fd(fd))
}

/// The file with the data of a mirror.
pub(crate) fn data_of(root: &Root, fd: RawFd, id: u32) -> Result<Option<PathBuf>> {
    let (_session, fid, layout) = look(root, fd)?;
    let id = u16::try_from(id).map_err(|_| Errno(libc::EINVAL))?;
    Ok((layout.position(id)? > 0).then(|| shadow(root, fid, id)))
}

/// Swaps the data and layouts of two files. `EAGAIN` when one has not the data version it should.
pub(crate) fn swap(root: &Root, fds: (RawFd, RawFd), versions: (u64, u64), flags: u64) -> Result<()> {
    let (first, second) = (by_fd(fds.0), by_fd(fds.1));
    let mut session = Session::begin(root)?;
    let layouts = (Layout::of(&mut session, &first)?, Layout::of(&mut session, &second)?);
    let checks = [(CHECK_FIRST, &first, versions.0), (CHECK_SECOND, &second, versions.1)];
    for (check, path, version) in checks {
        if flags & check != 0 && data_version(path)? != version {
            return Err(Errno(libc::EAGAIN));
        }
    }
    if layouts.0.is_mirrored() || layouts.1.is_mirrored() {
        return Err(Errno(libc::EINVAL));
    }
    let open = |path| OpenOptions::new().read(true).write(true).open(path);
    let files = (open(&first)?, open(&second)?);
    let were = (files.0.metadata()?, files.1.metadata()?);
    if (were.0.uid(), were.0.gid()) != (were.1.uid(), were.1.gid()) {
        return Err(Errno(libc::EPERM));
    }
    let between = root.inside("mirrors/swap");
    let middle = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&between)?;
    copy_sparse(&files.0, &middle)?;
    copy_sparse(&files.1, &files.0)?;
    copy_sparse(&middle, &files.1)?;
    if flags & (KEEP_MTIME | CLOSE) != 0 {
        set_times(&files.0, &were.0)?;
        set_times(&files.1, &were.1)?;
    }
    for path in [&first, &second] {
        Hsm::read(path)?.moved(path)?;
    }
    layouts.1.write(&first)?;
    layouts.0.write(&second)?;
    Ok(fs::remove_file(between)?)
}
