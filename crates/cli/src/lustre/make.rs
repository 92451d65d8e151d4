//! New released files: for objects that the archive holds, and for those that another file names.

use super::identity::Attributes;
use super::{Filesystem, failed, refused};
use ::lustre::Place;
use agent::admin::api::Refused;
use model::{HsmFlags, HsmState, Identity, Timestamp};
use nix::libc::{EBUSY, EEXIST, EINVAL, EPERM, EXDEV};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use sys::lustre::{LayoutLease, LeaseMode, UserState, state};

/// A file that is to be made.
#[derive(Debug)]
pub(crate) struct Import<'a> {
    /// Size, owner, mode, times, archive, and how it is striped once it is restored.
    pub(crate) file: sys::lustre::Import<'a>,
    /// Its object.
    pub(crate) identity: &'a Identity,
}

/// Makes the file, which must not exist. When this fails there is none, unless it is the directory that could not be made durable.
pub(crate) fn import(filesystem: &Filesystem, path: &Path, wanted: &Import<'_>) -> io::Result<()> {
    make(filesystem, path, &wanted.file, &Attributes::naming(wanted.identity))
}

/// It gets its name when it is whole: a released file that names no object would never come back.
fn make(
    filesystem: &Filesystem,
    path: &Path,
    file: &sys::lustre::Import<'_>,
    attributes: &Attributes,
) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory =
        File::options().read(true).custom_flags(sys::OFlags::DIRECTORY.bits().cast_signed()).open(parent)?;
    let name = Path::new(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    if sys::file::stamp_at(&directory, name).is_ok() {
        return Err(io::Error::from_raw_os_error(EEXIST));
    }
    let place = Place::make(&directory)?;
    let (_, made) = place.import(&filesystem.library, file)?;
    attributes.set_on(&made)?;
    sys::file::link_fd(&made, &directory, name)?;
    // The other name goes before this is durable.
    drop(place);
    directory.sync_all()
}

/// Makes a released file at `target` that names the same object as `source`, with its owner, mode and times, and the layout it was archived with.
pub(crate) fn clone(filesystem: &Arc<Filesystem>, source: &Path, target: &Path) -> Result<(), Refused> {
    let at_source = |why: io::Error| failed(source, &why);
    match Filesystem::of_parent(target) {
        Ok(Some(there)) if there.top == filesystem.top => {}
        _ => return Err(refused(target, EXDEV, "it would be on another filesystem than its source")),
    }
    // A writer's changes make a file dirty when it closes it: so nobody may write to a file that has its content here.
    let opened = File::options().read(true).custom_flags(sys::OFlags::NOFOLLOW.bits().cast_signed()).open(source);
    let lease = LayoutLease::acquire(&filesystem.library, opened.map_err(at_source)?, LeaseMode::Read);
    let before = look(filesystem, source).map_err(at_source)?;
    let (state, metadata) = &before;
    let lease = match lease {
        Ok(lease) => Some(lease),
        // Nobody has written to a file whose content is not here.
        Err(_) if state.flags.contains(HsmFlags::RELEASED) => None,
        Err(why) if why.raw_os_error() == Some(EBUSY) => return Err(refused(source, EBUSY, "it is being written to")),
        Err(why) => return Err(at_source(why)),
    };
    let hsm = HsmState { flags: state.flags, ..HsmState::default() };
    if !hsm.is_clean_copy() {
        let why = if state.flags.contains(HsmFlags::LOST) {
            "its archive copy is marked lost"
        } else {
            "it is not archived as it is: `sifaka archive --wait` first"
        };
        return Err(refused(source, EPERM, why));
    }
    let attributes = Attributes::of(source).map_err(at_source)?;
    if attributes.uuid().is_empty() {
        return Err(refused(
            source,
            EINVAL,
            "it names no object: it was archived by another copytool, or you may not see it (root may)",
        ));
    }
    // Before anybody can remove what two files name.
    let attributes = attributes.share(source).map_err(at_source)?;
    let after = look(filesystem, source).map_err(at_source)?;
    let named = Attributes::of(source).map_err(at_source)?;
    // Archived again, it names another object, and what it shares is the old one.
    if after.0 != *state || stamp(&after.1) != stamp(metadata) || !named.same_object(&attributes) {
        return Err(refused(source, EBUSY, "it changed meanwhile"));
    }
    let time = |seconds, nanos: i64| Timestamp { seconds, nanos: u32::try_from(nanos).unwrap_or(0) };
    let file = sys::lustre::Import {
        archive_id: state.archive_id,
        size: metadata.size(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        permissions: metadata.mode() & 0o7777,
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ..sys::lustre::Import::default()
    };
    let is_kept = lease.is_none_or(|lease| lease.still_held().unwrap_or(false));
    if !is_kept {
        return Err(refused(source, EBUSY, "it is being written to"));
    }
    make(filesystem, target, &file, &attributes).map_err(|why| failed(target, &why))
}

fn look(filesystem: &Filesystem, path: &Path) -> io::Result<(UserState, Metadata)> {
    Ok((state(&filesystem.library, path)?, path.symlink_metadata()?))
}

fn stamp(metadata: &Metadata) -> (u64, u64, i64, i64) {
    (metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec())
}
