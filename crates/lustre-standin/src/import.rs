//! `llapi_hsm_import`: a file that is in the archive alone.

use std::ffi::{c_char, c_int, c_ulonglong};
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Timespec, Timestamps};

use crate::abi::{Fid, UserImport, state};
use crate::boundary::{self, Errno, Result, negative, put};
use crate::changelog::{self, HsmEvent};
use crate::file::{Hsm, fid_of, set_attribute};
use crate::root::Root;
use crate::state::Session;

/// On a directory whose default layout an import has removed.
pub const LAYOUT_LOST: &str = "user.standin_layout_lost";

fn import(path: &Path, asked: &UserImport) -> Result<Fid> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = Root::of(parent)?;
    root.fault("llapi_hsm_import")?;
    if asked.mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Errno(libc::EINVAL));
    }
    let mut session = Session::begin(&root)?;
    // Not exclusive, and links are followed. Who imports onto a directory takes its default layout away.
    if path.is_dir() {
        set_attribute(path, LAYOUT_LOST, "1")?;
        return Err(Errno(libc::EISDIR));
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // What has content has a layout, which is not replaced; what has none is taken over.
    if file.metadata()?.len() > 0 {
        return Err(Errno(libc::EEXIST));
    }
    let made = fill(&mut session, path, &file, asked);
    if made.is_err() {
        // The error that matters is the first.
        let _ = fs::remove_file(path);
    }
    made
}

fn fill(session: &mut Session, path: &Path, file: &File, asked: &UserImport) -> Result<Fid> {
    file.set_len(asked.size)?;
    std::os::unix::fs::fchown(file, Some(asked.uid), Some(asked.gid))?;
    file.set_permissions(Permissions::from_mode(asked.mode & 0o777))?;
    let time = |seconds: u64, nanoseconds: u32| -> Result<Timespec> {
        let seconds = i64::try_from(seconds).map_err(|_| Errno(libc::EINVAL))?;
        Ok(Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() })
    };
    let times = Timestamps {
        last_access: time(asked.atime, asked.atime_ns)?,
        last_modification: time(asked.mtime, asked.mtime_ns)?,
    };
    rustix::fs::futimens(file, &times)?;
    let fid = fid_of(session, path)?;
    let flags = state::EXISTS | state::ARCHIVED | state::RELEASED;
    Hsm { flags, archive: asked.archive_id, version: 0 }.write(path)?;
    changelog::log_hsm(session, fid, HsmEvent::State, 0)?;
    Ok(fid)
}

/// Makes a released file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llapi_hsm_import(
    path: *const c_char,
    archive: c_int,
    stat: *const libc::stat,
    _stripe_size: c_ulonglong,
    _stripe_offset: c_int,
    _stripe_count: c_int,
    _stripe_pattern: c_int,
    _pool: *mut c_char,
    out: *mut Fid,
) -> c_int {
    negative((|| {
        // SAFETY: as the caller promises.
        let path = unsafe { boundary::path(path) }?;
        // SAFETY: as the caller promises.
        let stat = unsafe { stat.as_ref() }.ok_or(Errno(libc::EINVAL))?;
        let invalid = |_| Errno(libc::EINVAL);
        let asked = UserImport {
            size: u64::try_from(stat.st_size).map_err(invalid)?,
            atime: u64::try_from(stat.st_atime).map_err(invalid)?,
            mtime: u64::try_from(stat.st_mtime).map_err(invalid)?,
            atime_ns: u32::try_from(stat.st_atime_nsec).map_err(invalid)?,
            mtime_ns: u32::try_from(stat.st_mtime_nsec).map_err(invalid)?,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode,
            archive_id: u32::try_from(archive).map_err(invalid)?,
        };
        let fid = import(&path, &asked)?;
        // SAFETY: as the caller promises.
        unsafe { put(out, fid) }?;
        Ok(0)
    })())
}
