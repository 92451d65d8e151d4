//! Files: their FIDs, and what they are to HSM.
//!
//! A FID is an attribute of the inode and a hard link in `.lustre/fid`; it is given when somebody first asks. A file whose only name
//! is that link was unlinked. Whether a file is dirty is found out by comparing its time of modification and size with
//! those it was archived with: a plain filesystem tells nobody when it is written. A `touch` counts as a change, therefore.

use std::fs::{self, File, Metadata};
use std::os::fd::RawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Timespec, Timestamps, XattrFlags};

use crate::abi::{Fid, state};
use crate::boundary::{Errno, Result};
use crate::root::{Root, by_fd};
use crate::state::Session;

const FID: &str = "trusted.standin.fid";
const HSM: &str = "trusted.standin.hsm";
/// On archived files whose layout was swapped.
const MOVED: &str = "trusted.standin.moved";
const VOLATILE: &str = "trusted.standin.volatile";
/// The path a file had when it got its FID: where it is looked for first.
const HINT: &str = "trusted.standin.path";
/// What Lustre gives to the root directory.
const ROOT_FID: Fid = Fid { seq: 0x2_0000_0007, oid: 1, ver: 0 };
/// The sequence of everything else.
const SEQUENCE: u64 = 0x2_0000_0401;

impl std::fmt::Display for Fid {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "[{:#x}:{:#x}:{:#x}]", self.seq, self.oid, self.ver)
    }
}

impl Fid {
    /// `[0x…:0x…:0x…]`, the brackets optional.
    pub fn parse(text: &str) -> Option<Fid> {
        let text = text.trim();
        let text = text.strip_prefix('[').map_or(Some(text), |text| text.strip_suffix(']'))?;
        let mut parts = text.split(':').map(|part| u64::from_str_radix(part.strip_prefix("0x").unwrap_or(part), 16));
        let mut next = || parts.next()?.ok();
        let fid = Fid { seq: next()?, oid: next()?.try_into().ok()?, ver: next()?.try_into().ok()? };
        parts.next().is_none().then_some(fid)
    }

    /// Where it is opened by.
    pub fn path(&self, root: &Root) -> PathBuf {
        root.fids().join(self.to_string())
    }
}

pub(crate) fn attribute(path: &Path, name: &str) -> Result<Option<String>> {
    let mut value = vec![0; 4096];
    match rustix::fs::getxattr(path, name, &mut value) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(String::from_utf8_lossy(&value).into_owned()))
        }
        Err(rustix::io::Errno::NODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn set_attribute(path: &Path, name: &str, value: &str) -> Result<()> {
    Ok(rustix::fs::setxattr(path, name, value.as_bytes(), XattrFlags::empty())?)
}

/// The FID an inode has, if any.
pub(crate) fn known_fid(path: &Path) -> Result<Option<Fid>> {
    Ok(attribute(path, FID)?.as_deref().and_then(Fid::parse))
}

/// The FID of `path`, given now if it has none. `Session` is what guards the count.
pub(crate) fn fid_of(session: &mut Session, path: &Path) -> Result<Fid> {
    let path = path.canonicalize()?;
    if path == session.root.top() {
        return Ok(ROOT_FID);
    }
    if let Some(fid) = known_fid(&path)? {
        return Ok(fid);
    }
    session.state.last_object += 1;
    let fid = Fid { seq: SEQUENCE, oid: session.state.last_object, ver: 0 };
    session.save()?;
    set_attribute(&path, FID, &fid.to_string())?;
    let relative = path.strip_prefix(session.root.top()).map_err(|_| Errno(libc::EXDEV))?;
    if let Some(relative) = relative.to_str() {
        set_attribute(&path, HINT, relative)?;
    }
    let link = fid.path(&session.root);
    if path.is_dir() {
        symlink(Path::new("../..").join(relative), link)?
    } else {
        fs::hard_link(&path, link)?
    }
    Ok(fid)
}

/// As [`fid_of`], without anything held.
pub(crate) fn path_to_fid(root: &Root, path: &Path) -> Result<Fid> {
    match known_fid(path)? {
        Some(fid) => Ok(fid),
        None => fid_of(&mut Session::begin(root)?, path),
    }
}

/// A file without a name, as a restore writes into: its FID is its only one. Can be made to fail alone (`make_volatile`), as it does when OSTs are full.
pub(crate) fn make_volatile(session: &mut Session) -> Result<(Fid, File)> {
    session.root.fault("make_volatile")?;
    session.state.last_object += 1;
    let fid = Fid { seq: SEQUENCE, oid: session.state.last_object, ver: 0 };
    session.save()?;
    let path = fid.path(&session.root);
    let fd = rustix::fs::open(
        &path,
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CREATE | rustix::fs::OFlags::EXCL,
        rustix::fs::Mode::from_raw_mode(0o600),
    )?;
    set_attribute(&path, FID, &fid.to_string())?;
    set_attribute(&path, VOLATILE, "1")?;
    Ok((fid, File::from(fd)))
}

/// Opens a file of the library's as the real one does: it is inherited by programs the process starts.
pub(crate) fn open_inheritable(path: &Path, flags: rustix::fs::OFlags) -> Result<File> {
    Ok(File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?))
}

/// Where the file of a FID is; `ENOENT` when it was unlinked, and then the link goes, too.
pub(crate) fn find(root: &Root, fid: Fid) -> Result<PathBuf> {
    if fid == ROOT_FID {
        return Ok(root.top().to_owned());
    }
    let path = fid.path(root);
    let metadata = fs::metadata(&path)?;
    if metadata.is_file() && metadata.nlink() == 1 && attribute(&path, VOLATILE)?.is_none() {
        fs::remove_file(&path)?;
        return Err(Errno(libc::ENOENT));
    }
    Ok(path)
}

/// The `number`th path of a file, below the root; `ENOENT` behind the last.
pub(crate) fn fid_to_path(root: &Root, fid: Fid, number: usize) -> Result<PathBuf> {
    if fid == ROOT_FID {
        return Ok(PathBuf::from("/"));
    }
    let wanted = fs::metadata(find(root, fid)?)?;
    let same = |path: &Path| {
        fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
    };
    // The first name is the one that was known first; the others follow.
    let hint = attribute(&fid.path(root), HINT)?.filter(|hint| same(&root.top().join(hint)));
    let first = hint.as_ref().map(|hint| root.top().join(hint));
    let mut left = match (hint, number.checked_sub(1)) {
        (Some(hint), None) => return Ok(PathBuf::from(hint)),
        (Some(_), Some(further)) => further,
        (None, _) => number,
    };
    let mut directories = vec![root.top().to_owned()];
    while let Some(directory) = directories.pop() {
        // What goes meanwhile is no name of it.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path == root.top().join(".lustre") || first.as_ref() == Some(&path) {
                continue;
            }
            if same(&path) {
                if left == 0 {
                    return Ok(path.strip_prefix(root.top()).unwrap_or(&path).to_owned());
                }
                left -= 1;
            }
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                directories.push(path);
            }
        }
    }
    Err(Errno(libc::ENOENT))
}

/// What a file is to HSM, as kept in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Hsm {
    pub(crate) flags: u32,
    pub(crate) archive: u32,
    /// The data version it was archived with.
    pub(crate) version: u64,
}

impl Hsm {
    pub(crate) fn read(path: &Path) -> Result<Hsm> {
        let Some(text) = attribute(path, HSM)? else { return Ok(Hsm::default()) };
        let numbers: Vec<u64> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [flags, archive, version] = numbers[..] else { return Err(Errno(libc::EIO)) };
        let narrow = |number: u64| u32::try_from(number).map_err(|_| Errno(libc::EIO));
        let mut hsm = Hsm { flags: narrow(flags)?, archive: narrow(archive)?, version };
        let changed = hsm.flags & (state::ARCHIVED | state::RELEASED) == state::ARCHIVED
            && version != modification(&fs::metadata(path)?);
        if changed {
            hsm.flags |= state::DIRTY;
        }
        Ok(hsm)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        set_attribute(path, HSM, &format!("{} {} {}", self.flags, self.archive, self.version))
    }

    /// Its data lie in other objects: it is not dirty, but its data version is another one than that which was archived.
    pub(crate) fn moved(&self, path: &Path) -> Result<()> {
        if self.has(state::ARCHIVED) { set_attribute(path, MOVED, "1") } else { Ok(()) }
    }

    /// The archived version is the present one again.
    pub(crate) fn settled(path: &Path) -> Result<()> {
        match rustix::fs::removexattr(path, MOVED) {
            Ok(()) | Err(rustix::io::Errno::NODATA) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it was moved since it was archived.
    pub(crate) fn was_moved(path: &Path) -> Result<bool> {
        Ok(attribute(path, MOVED)?.is_some())
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// A number that changes with the file's data; see the module.
pub(crate) fn modification(metadata: &Metadata) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for number in [metadata.mtime().cast_unsigned(), metadata.mtime_nsec().cast_unsigned(), metadata.size()] {
        for byte in number.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    hash | 1
}

/// What `llapi_get_data_version` says: 0 for a file without data.
pub(crate) fn data_version(path: &Path) -> Result<u64> {
    let released = Hsm::read(path)?.has(state::RELEASED);
    Ok(if released { 0 } else { modification(&fs::metadata(path)?) })
}

/// As [`data_version`], of an open file.
pub(crate) fn data_version_of_fd(fd: RawFd) -> Result<u64> {
    data_version(&by_fd(fd))
}

/// Sets the times a file had.
pub(crate) fn set_times(file: &File, was: &Metadata) -> Result<()> {
    let time = |seconds: i64, nanoseconds: i64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(was.atime(), was.atime_nsec()),
        last_modification: time(was.mtime(), was.mtime_nsec()),
    };
    Ok(rustix::fs::futimens(file, &times)?)
}
