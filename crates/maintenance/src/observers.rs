//! Guards that run beside us, found by what the kernel tells of their fanotify groups in `/proc`.
//!
//! A guard lets the first access to a resident file through and puts an ignore mark on its inode, so that the file costs nothing
//! from then on. A file that is being made here is resident at first; its first accesses are our own. Made released with that
//! mark still on it, its readers would be asked for by nobody and find zeros. So the marks are taken off again, by way of
//! duplicates of the groups, after the file says that it is released and before it has a name.
//!
//! No configuration is asked where a guard may be: it may have been started with another one.

use crate::MaintenanceError;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use sys::fanotify::{PRE_ACCESS, PreContentGroup};
use sys::mounts::FsInfo;
use sys::process::PidFd;

/// The bits of `fanotify_init`'s flags that hold the group's class, and the class of groups that are asked before content is used.
const CLASS_MASK: u32 = 0x0c;
const CLASS_PRE_CONTENT: u32 = 0x08;
const LINK: &str = "anon_inode:[fanotify]";

/// Takes the ignore marks of every such group off these files.
///
/// To be called when they say that they are released: a guard that looks at them later puts no mark on them.
pub(crate) fn unmark<F: AsFd>(files: &[F]) -> Result<(), MaintenanceError> {
    for (pid, number) in groups()? {
        let failed = |source| MaintenanceError::Guard { pid, source };
        let Some(group) = duplicate(pid, number).map_err(failed)? else { continue };
        for file in files {
            group.unignore_inode(file).map_err(failed)?;
        }
    }
    Ok(())
}

/// All such groups, for opening files that nobody is to restore because of that.
#[derive(Default)]
pub(crate) struct Guards(pub(crate) Vec<PreContentGroup>);

impl Guards {
    pub(crate) fn find() -> Result<Self, MaintenanceError> {
        let mut found = Vec::new();
        for (pid, number) in groups()? {
            found.extend(duplicate(pid, number).map_err(|source| MaintenanceError::Guard { pid, source })?);
        }
        Ok(Self(found))
    }

    /// Opens what `file` is of once more, without a guard's being asked. Its content cannot be used unasked, by whoever opens it at the same time either.
    pub(crate) fn open_unasked(&self, file: impl AsFd, flags: sys::OFlags) -> io::Result<OwnedFd> {
        let file = file.as_fd();
        let ignored: io::Result<()> = self.0.iter().try_for_each(|group| group.ignore_opens(file));
        let opened = ignored.and_then(|()| sys::file::reopen(file, flags));
        let heard: io::Result<()> = self.0.iter().try_for_each(|group| group.unignore_opens(file));
        heard.and(opened)
    }
}

/// Whether anybody is asked before content on this filesystem is used. In doubt (another's processes cannot be looked at), no.
#[must_use]
pub fn is_guarded(filesystem: &FsInfo) -> bool {
    let Some(device) = kernel_device(&filesystem.device) else { return false };
    groups().unwrap_or_default().into_iter().any(|(pid, number)| marks_filesystem(pid, number, device).unwrap_or(false))
}

/// `major:minor` as the kernel keeps it, and fdinfo shows it: twenty bits for the minor number.
fn kernel_device(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(major.parse::<u64>().ok()? << 20 | minor.parse::<u64>().ok()?)
}

/// A line `fanotify sdev:700003 mflags:0 mask:110000 ignored_mask:0`, all in hexadecimal.
fn marks_filesystem(pid: i32, number: RawFd, device: u64) -> io::Result<bool> {
    for line in BufReader::new(File::open(fdinfo(pid, number))?).lines() {
        let line = line?;
        let Some(fields) = line.strip_prefix("fanotify sdev:") else { continue };
        let hex = |text: Option<&str>| text.and_then(|text| u64::from_str_radix(text, 16).ok());
        let mut words = fields.split(' ');
        let sdev = hex(words.next());
        let mask = hex(words.find_map(|word| word.strip_prefix("mask:")));
        if sdev == Some(device) && mask.is_some_and(|mask| mask & PRE_ACCESS != 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Who holds such a group, under which descriptor number. A group appears as often as it is held.
fn groups() -> Result<Vec<(i32, RawFd)>, MaintenanceError> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").map_err(MaintenanceError::io("list", "/proc"))? {
        let entry = entry.map_err(MaintenanceError::io("list", "/proc"))?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let numbers = fanotify_descriptors(&entry.path().join("fd"));
        let numbers = numbers.map_err(|source| MaintenanceError::Guard { pid, source })?;
        found.extend(numbers.into_iter().filter(|number| is_pre_content(pid, *number)).map(|number| (pid, number)));
    }
    Ok(found)
}

fn fanotify_descriptors(dir: &Path) -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if has_ended(&error) => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if has_ended(&error) => break,
            Err(error) => return Err(error),
        };
        if fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(LINK))
            && let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok())
        {
            found.push(number);
        }
    }
    Ok(found)
}

/// The process, or its descriptor, is not there any more.
fn has_ended(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn fdinfo(pid: i32, number: RawFd) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/fdinfo/{number}"))
}

/// By the line `fanotify flags:8 event-flags:…`, which comes before those of the marks.
fn is_pre_content(pid: i32, number: RawFd) -> bool {
    let Ok(file) = File::open(fdinfo(pid, number)) else { return false };
    let flags = BufReader::new(file).lines().map_while(Result::ok).find_map(|line| {
        let flags = line.strip_prefix("fanotify flags:")?.split(' ').next()?.to_owned();
        u32::from_str_radix(&flags, 16).ok()
    });
    flags.is_some_and(|flags| flags & CLASS_MASK == CLASS_PRE_CONTENT)
}

/// `None` when the process has ended, or the number is another file's by now: whoever else holds the group is in the list too.
fn duplicate(pid: i32, number: RawFd) -> io::Result<Option<PreContentGroup>> {
    let fd = match PidFd::open(pid).and_then(|process| process.get_fd(number)) {
        Ok(fd) => fd,
        Err(error) if has_ended(&error) || error.raw_os_error() == Some(rustix::io::Errno::BADF.raw_os_error()) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let target = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok((target == Path::new(LINK)).then(|| PreContentGroup::from_fd(fd)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use testkit::{FsKind, LoopFs};

    #[test]
    fn a_guarded_filesystem_is_told_from_others() {
        let (guarded, other) = (LoopFs::new(FsKind::Ext4, 16), LoopFs::new(FsKind::Ext4, 16));
        let info = |fs: &LoopFs| sys::mounts::filesystem_of(fs.path()).unwrap();
        assert!(!is_guarded(&info(&guarded)));
        let group = PreContentGroup::new().unwrap();
        group.mark_filesystem(File::open(guarded.path()).unwrap()).unwrap();
        assert!(is_guarded(&info(&guarded)));
        assert!(!is_guarded(&info(&other)));
    }
}
