//! The pre-content group: permission events for accesses to content.
//!
//! It fails open: when the last descriptor of the group closes, every waiting event is allowed and every mark goes.
//! Keep a duplicate in another process. An answer is matched by the event's descriptor number alone, so the process
//! that reads events must be the one that keeps the numbers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use super::record::{Record, Records};
use super::{EventBuffer, OPEN_PERM, PRE_ACCESS, QUEUE_OVERFLOW, duplicate, init, mark, read_queued};

/// `FAN_REPORT_FD_ERROR` (Linux 6.13): an event whose descriptor could not be made carries the reason instead.
const FAN_REPORT_FD_ERROR: libc::c_uint = 0x2000;
/// `FAN_ERRNO_SHIFT`: where a denial carries its error number.
const ERRNO_SHIFT: u32 = 24;

/// What the marks of this group ask for.
const MASK: u64 = PRE_ACCESS | OPEN_PERM;

/// A group of class `FAN_CLASS_PRE_CONTENT`, non-blocking, of unlimited queue (an event lost could never be answered).
#[derive(Debug)]
pub struct PreContentGroup {
    fd: OwnedFd,
}

/// Somebody's access, waiting for [`PreContentGroup::answer`].
#[derive(Debug)]
pub struct PermissionEvent {
    /// [`PRE_ACCESS`] or [`OPEN_PERM`]; or [`QUEUE_OVERFLOW`], which nobody waits for.
    pub mask: u64,
    /// The file, open for reading; I/O through it raises no events. Close it only after the answer: until then its
    /// number must not be given to another event. On failure the error number: the kernel has then denied the access
    /// itself and wants no answer.
    pub fd: Result<OwnedFd, i32>,
    /// The number to answer with; negative when there is no descriptor.
    pub number: i32,
    /// The process (not thread) that waits; 0 when it is outside our process namespace.
    pub pid: i32,
    /// Offset and count in bytes, of a pre-access event. (0, 0) when the kernel does not say.
    pub range: Option<(u64, u64)>,
}

impl PermissionEvent {
    /// Whether this only says that events were lost.
    pub fn is_overflow(&self) -> bool {
        self.mask & QUEUE_OVERFLOW != 0
    }
}

/// The answer to a permission event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The access goes on.
    Allow,
    /// The access fails with this error number. The kernel takes `EIO`, `EPERM`, `EBUSY`, `ETXTBSY`, `EAGAIN`,
    /// `ENOSPC` and `EDQUOT`; any other becomes `EIO`.
    Deny(i32),
}

impl Verdict {
    fn response(self) -> u32 {
        match self {
            Self::Allow => libc::FAN_ALLOW,
            Self::Deny(errno) => {
                let errno = match errno {
                    libc::EPERM | libc::EBUSY | libc::ETXTBSY | libc::EAGAIN | libc::ENOSPC | libc::EDQUOT => errno,
                    _ => libc::EIO,
                };
                libc::FAN_DENY | ((errno as u32) << ERRNO_SHIFT)
            }
        }
    }
}

impl PreContentGroup {
    /// Makes a group. `EPERM` without `CAP_SYS_ADMIN`; `EINVAL` where the kernel lacks permission events.
    ///
    /// Event descriptors are read-only on purpose: writable ones could not be made on read-only mounts, for immutable files
    /// and for running programs.
    pub fn new() -> io::Result<Self> {
        let flags = libc::FAN_CLASS_PRE_CONTENT
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_UNLIMITED_QUEUE
            | libc::FAN_UNLIMITED_MARKS;
        let event_flags = libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC | libc::O_NOATIME;
        let fd = match init(flags | FAN_REPORT_FD_ERROR, event_flags) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => init(flags, event_flags)?,
            other => other?,
        };
        Ok(Self { fd })
    }

    /// Takes over a group made by [`PreContentGroup::new`], perhaps in another process.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// One more descriptor of the same group, close-on-exec.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: duplicate(&self.fd)? })
    }

    /// Asks for both events of every file on the filesystem that `on` (any descriptor) is on, whatever mount it is reached by.
    ///
    /// `EOPNOTSUPP` where the filesystem has no pre-content events (tmpfs, NFS); `EXDEV` on a btrfs subvolume other than the
    /// mounted root's.
    pub fn mark_filesystem(&self, on: impl AsFd) -> io::Result<()> {
        mark(self.as_fd(), libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM, MASK, on.as_fd())
    }

    /// Undoes [`Self::mark_filesystem`]; `ENOENT` when there is no mark. Waiting events stay and want answers.
    pub fn unmark_filesystem(&self, on: impl AsFd) -> io::Result<()> {
        mark(self.as_fd(), libc::FAN_MARK_REMOVE | libc::FAN_MARK_FILESYSTEM, MASK, on.as_fd())
    }

    /// Asks for both events of one file. Who has it open already raises none: what is announced is decided at the open.
    pub fn mark_inode(&self, fd: impl AsFd) -> io::Result<()> {
        mark(self.as_fd(), libc::FAN_MARK_ADD, MASK, fd.as_fd())
    }

    /// Silences the inode, across modifications, until [`Self::unignore_inode`].
    ///
    /// An evictable mark pins nothing and goes with the inode when the kernel drops that from memory. `EEXIST` when evictable is
    /// asked for and a mark that is not is there.
    pub fn ignore_inode(&self, fd: impl AsFd, evictable: bool) -> io::Result<()> {
        let evictable = if evictable { libc::FAN_MARK_EVICTABLE } else { 0 };
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_IGNORED_MASK | libc::FAN_MARK_IGNORED_SURV_MODIFY | evictable;
        mark(self.as_fd(), flags, MASK, fd.as_fd())
    }

    /// Undoes [`Self::ignore_inode`], also when there is nothing to undo.
    pub fn unignore_inode(&self, fd: impl AsFd) -> io::Result<()> {
        let flags = libc::FAN_MARK_REMOVE | libc::FAN_MARK_IGNORED_MASK;
        match mark(self.as_fd(), flags, MASK, fd.as_fd()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Silences only [`OPEN_PERM`] for the inode, until [`Self::unignore_opens`]: its content is asked for still. Pins nothing.
    pub fn ignore_opens(&self, fd: impl AsFd) -> io::Result<()> {
        let flags = libc::FAN_MARK_ADD
            | libc::FAN_MARK_IGNORED_MASK
            | libc::FAN_MARK_IGNORED_SURV_MODIFY
            | libc::FAN_MARK_EVICTABLE;
        mark(self.as_fd(), flags, OPEN_PERM, fd.as_fd())
    }

    /// Undoes [`Self::ignore_opens`], also when there is nothing to undo.
    pub fn unignore_opens(&self, fd: impl AsFd) -> io::Result<()> {
        let flags = libc::FAN_MARK_REMOVE | libc::FAN_MARK_IGNORED_MASK;
        match mark(self.as_fd(), flags, OPEN_PERM, fd.as_fd()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Takes queued events, as many as fit `buffer`; none when none is queued.
    ///
    /// Each must be answered: one that is dropped closes its descriptor and leaves its process waiting until the group goes.
    /// `EMFILE` and `ENFILE` come inside the events. `EPROTO`: the kernel speaks another version of this interface.
    pub fn read(&self, buffer: &mut EventBuffer) -> io::Result<std::vec::IntoIter<PermissionEvent>> {
        let length = read_queued(self.as_fd(), buffer)?;
        let mut records = Records::new(buffer.bytes.get(..length).unwrap_or_default());
        let events: Vec<_> = records.by_ref().map(PermissionEvent::from).collect();
        if events.is_empty() && records.is_stuck() {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        Ok(events.into_iter())
    }

    /// Answers the event of that number. `ENOENT` when no event of that number waits (its process was killed).
    pub fn answer(&self, number: i32, verdict: Verdict) -> io::Result<()> {
        let mut response = [0; 8];
        let (fd, word) = response.split_at_mut(4);
        fd.copy_from_slice(&number.to_ne_bytes());
        word.copy_from_slice(&verdict.response().to_ne_bytes());
        rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, &response))?;
        Ok(())
    }
}

impl AsFd for PreContentGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<PreContentGroup> for OwnedFd {
    fn from(group: PreContentGroup) -> Self {
        group.fd
    }
}

impl From<Record> for PermissionEvent {
    fn from(record: Record) -> Self {
        let fd = if record.fd >= 0 {
            // SAFETY: the kernel made this descriptor for the event just read, and each record is converted once.
            Ok(unsafe { OwnedFd::from_raw_fd(record.fd) })
        } else {
            Err(record.fd.saturating_neg())
        };
        Self { mask: record.mask, fd, number: record.fd, pid: record.pid, range: record.range }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_carries_only_error_numbers_the_kernel_takes() {
        assert_eq!(Verdict::Allow.response(), 1);
        assert_eq!(Verdict::Deny(libc::ENOSPC).response(), 2 | (28 << 24));
        assert_eq!(Verdict::Deny(libc::EIO).response(), 2 | (5 << 24));
        for refused in [libc::ENOENT, 0, -1, i32::MAX] {
            assert_eq!(Verdict::Deny(refused).response(), 2 | (5 << 24));
        }
    }
}
