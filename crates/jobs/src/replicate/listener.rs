//! The kernel's notifications of what changes at the source, taken from its queue as they come.

use super::pending::Pending;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::path::Path;
use sys::fanotify::{EventBuffer, NameGroup};

/// Filesystems on which nobody but this machine changes anything.
const LOCAL: [&str; 7] = ["ext4", "ext3", "ext2", "xfs", "btrfs", "tmpfs", "f2fs"];
const BUFFER_BYTES: usize = 256 << 10;
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// See the module.
pub(crate) struct Listener {
    group: NameGroup,
    /// Read and noted in one, so that nothing is in between.
    noted: Mutex<(Pending, EventBuffer)>,
}

impl Listener {
    /// `None`, with the reason in the log: changes have to be looked for.
    pub(crate) fn new(source: &Path) -> Option<Self> {
        let made = (|| -> io::Result<NameGroup> {
            let kind = sys::mounts::filesystem_of(source)?.kind;
            if !LOCAL.contains(&kind.as_str()) {
                return Err(io::Error::other(format!("{kind} may be changed from elsewhere")));
            }
            let root = std::fs::File::open(source)?;
            // Without handles nobody could say where something is.
            let handle = sys::handle::name_to_handle(&root)?;
            sys::handle::open_by_handle(&root, &handle, sys::OFlags::PATH)?;
            let group = NameGroup::new()?;
            group.mark_filesystem(&root)?;
            Ok(group)
        })();
        match made {
            Ok(group) => {
                let noted = Mutex::new((Pending::default(), EventBuffer::with_capacity(BUFFER_BYTES)));
                Some(Self { group, noted })
            }
            Err(why) => {
                tracing::info!(%why, "the kernel does not tell what changes at the source: it is looked for in passes");
                None
            }
        }
    }

    /// Until `over` says so.
    pub(crate) fn listen(&self, over: &dyn Fn() -> bool) {
        while !over() {
            let mut waiting = [PollFd::new(&self.group, PollFlags::IN)];
            // Interrupted is as good as nothing there.
            if poll(&mut waiting, Some(&PATIENCE)).is_ok_and(|ready| ready > 0) {
                self.with(|_| ());
            }
        }
    }

    /// What is pending, with all that the kernel has told until now.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Pending) -> T) -> T {
        let mut noted = self.noted.lock();
        let (pending, buffer) = &mut *noted;
        loop {
            match self.group.read(buffer) {
                Ok(events) if events.len() == 0 => break,
                Ok(events) => events.for_each(|event| pending.note(event)),
                Err(error) => {
                    tracing::warn!(%error, "cannot read what changes at the source");
                    pending.miss();
                    break;
                }
            }
        }
        look(pending)
    }
}
