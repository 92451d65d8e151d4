//! Other stripes for a file: its content is copied into a file without a name that has the layout wanted, and the two swap their
//! layouts, if nobody has written to the file meanwhile. Nobody is kept waiting, and until the swap nothing of the file is changed.

use super::ask::{Ask, mark_dirty, send};
use super::{Filesystem, LustreFile, failed, refused};
use agent::admin::api::Refused;
use model::{HsmFlags, HsmState};
use nix::libc::{EAGAIN, EBUSY, EINTR, EINVAL, ENOLCK, EPERM, ESTALE};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use sys::lustre::{
    Flush, Layout, LayoutLease, LeaseMode, UserAction, current_action, data_version, flush, mdt_index_by_fid, state,
};

/// Copied at a time.
const CHUNK: u64 = 4 << 20;

/// The layout wanted. What is not said stays as it is, in a file with a plain layout.
#[derive(Debug, Clone, Default)]
pub(crate) struct Striping {
    pub(crate) count: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) pool: Option<String>,
}

/// Restripes the file. When it is archived, the coordinator is asked to archive it again: by other objects it has another
/// version to Lustre, which refuses to release it then. `stop` ends it early.
pub(crate) fn restripe(
    filesystem: &Filesystem,
    path: &Path,
    striping: &Striping,
    stop: &AtomicBool,
) -> Result<(), Refused> {
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
    move_content(filesystem, path, striping, stop).map_err(|why| match why.raw_os_error() {
        Some(EBUSY | EAGAIN | ENOLCK | ESTALE) => refused(path, EBUSY, "it is being written to; try again later"),
        Some(EINTR) => refused(path, EINTR, "interrupted; it is as it was"),
        _ => failed(path, &why),
    })?;
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

fn move_content(filesystem: &Filesystem, path: &Path, striping: &Striping, stop: &AtomicBool) -> io::Result<()> {
    let library = &filesystem.library;
    // The swap needs a descriptor that may write.
    let flags = sys::OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    let layout = layout(filesystem, &file, striping)?;
    let mdt = mdt_index_by_fid(library, &file, filesystem.fid(path)?)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let copy = layout.create_volatile(directory, Some(mdt))?;
    // Their objects have owners, which have to be the same.
    std::os::unix::fs::fchown(&copy, Some(metadata.uid()), Some(metadata.gid()))?;
    let lease = LayoutLease::acquire(library, file, LeaseMode::Read)?;
    // As it is from now on: who writes breaks the lease, and an owner that is new makes the swap fail.
    let metadata = File::from(lease.as_fd().try_clone_to_owned()?).metadata()?;
    let version = data_version(library, &lease, Flush::Dirty)?;
    copy_content(&File::from(lease.as_fd().try_clone_to_owned()?), &copy, stop)?;
    set_times(&copy, &metadata)?;
    copy.sync_all()?;
    flush(library, &copy)?;
    let copied = data_version(library, &copy, Flush::Dirty)?;
    if !lease.still_held()? || data_version(library, &lease, Flush::Dirty)? != version {
        return Err(io::Error::from_raw_os_error(EBUSY));
    }
    lease.swap(&copy, version, copied)
}

fn layout(filesystem: &Filesystem, file: &File, striping: &Striping) -> io::Result<Layout> {
    let present = Layout::of(&filesystem.library, file)?.components()?;
    if present.iter().any(|component| component.mirror != 0 && Some(component.mirror) != first_mirror(&present)) {
        return Err(io::Error::other("it has mirrors, which are not restriped"));
    }
    let plain = match present.as_slice() {
        [one] => Some(one),
        _ => None,
    };
    let mut wanted = Layout::new(&filesystem.library)?;
    let stripes = plain.and_then(|plain| u32::try_from(plain.osts.len()).ok()).filter(|count| *count > 0);
    if let Some(count) = striping.count.or(stripes) {
        wanted.set_stripe_count(count)?;
    }
    if let Some(size) = striping.size.or(plain.map(|plain| plain.stripe_size)) {
        wanted.set_stripe_size(size)?;
    }
    let pool = striping.pool.as_deref().or(plain.map(|plain| plain.pool.as_str()));
    if let Some(pool) = pool.filter(|pool| !pool.is_empty()) {
        wanted.set_pool(pool)?;
    }
    Ok(wanted)
}

fn first_mirror(components: &[sys::lustre::Component]) -> Option<u32> {
    components.first().map(|component| component.mirror)
}

/// Holes stay holes.
fn copy_content(from: &File, to: &File, stop: &AtomicBool) -> io::Result<()> {
    let size = from.metadata()?.size();
    to.set_len(size)?;
    let mut buffer = vec![0; usize::try_from(CHUNK).unwrap_or(1 << 20)];
    let mut at = 0;
    while let Some(begin) = sys::file::next_data(from, at)?.filter(|begin| *begin < size) {
        let end = sys::file::next_hole(from, begin)?.unwrap_or(size).min(size);
        at = begin;
        while at < end {
            if stop.load(Ordering::Relaxed) {
                return Err(io::Error::from_raw_os_error(EINTR));
            }
            let wanted = usize::try_from((end - at).min(CHUNK)).unwrap_or(0);
            let part = buffer.get_mut(..wanted).ok_or_else(|| io::Error::from_raw_os_error(EINVAL))?;
            from.read_exact_at(part, at)?;
            to.write_all_at(part, at)?;
            at += wanted as u64;
        }
    }
    Ok(())
}

fn set_times(file: &File, like: &Metadata) -> io::Result<()> {
    let nanos = |nanos: i64| u32::try_from(nanos).unwrap_or(0);
    let atime = (like.atime(), nanos(like.atime_nsec()));
    sys::file::set_times(file, Some(atime), (like.mtime(), nanos(like.mtime_nsec())))
}
