//! Watches the filesystem for changes of content, and for files whose last link went.
//!
//! The events come late and can be lost. Nothing relies on them for safety: a release proves by itself that the content is
//! unchanged. They make the DIRTY flag appear without anybody asking, and start the grace period of removed files.

use crate::engine::Msg;
use crate::filesystem::Filesystem;
use crate::guard::GuardLink;
use model::FileHandle;
use rustix::event::{PollFd, PollFlags};
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;
use sys::fanotify::{ChangeGroup, DELETE_SELF, EventBuffer};

/// Events are gathered for so long: a file that is being written is looked at once, not at each write.
const GATHER: Duration = Duration::from_millis(50);

/// The watch; ends when dropped.
pub(crate) struct Watch {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(fs: &Filesystem, guard: Option<Arc<GuardLink>>, messages: Sender<Msg>) -> io::Result<Self> {
        let group = ChangeGroup::new()?;
        group.mark_filesystem(fs.root())?;
        let (stop, stopped) = sys::seqpacket::pair()?;
        let run = move || watch(&group, &stopped, guard.as_deref(), &messages);
        let thread = std::thread::Builder::new().name("changes".into()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = sys::seqpacket::send(&self.stop, b"x", &[]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(group: &ChangeGroup, stopped: &OwnedFd, guard: Option<&GuardLink>, messages: &Sender<Msg>) {
    let mut buffer = EventBuffer::with_capacity(256 << 10);
    let mut overflowed = false;
    loop {
        let mut poll = [PollFd::new(group, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        let _ = rustix::event::poll(&mut poll, None);
        if poll.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            return;
        }
        std::thread::sleep(GATHER);
        let (mut changed, mut deleted) = (HashSet::new(), HashSet::new());
        loop {
            let events = match group.read(&mut buffer) {
                Ok(events) if events.len() > 0 => events,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "cannot read change events");
                    break;
                }
            };
            for event in events {
                if event.overflow && !std::mem::replace(&mut overflowed, true) {
                    tracing::warn!(
                        "change events were lost: some changed files show as dirty only when they are looked at"
                    );
                }
                let Some(raw) = event.handle else { continue };
                let handle = FileHandle { kind: raw.kind, bytes: raw.bytes.into_iter().collect() };
                if event.mask & DELETE_SELF != 0 {
                    deleted.insert(handle);
                } else if !guard.is_some_and(|g| g.is_trusted(event.pid)) {
                    changed.insert(handle);
                }
            }
        }
        changed.retain(|handle| !deleted.contains(handle));
        if !changed.is_empty() {
            let _ = messages.send(Msg::Changed(changed.into_iter().collect()));
        }
        if !deleted.is_empty() {
            let _ = messages.send(Msg::Deleted(deleted.into_iter().collect()));
        }
    }
}
