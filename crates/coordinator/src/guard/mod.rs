//! The guard: the small process that stands between readers and released files.
//!
//! It owns the fanotify group, lets everybody through to resident files, and hands accesses to released ones to the
//! agent. It is single-threaded, runs no async runtime, moves no data, and outlives the agent: as long as it (or
//! anybody else who holds the group's descriptor) lives, the kernel lets no reader through to a hole.
//!
//! * `server`: the guard's own loop; `resident`: what it knows of files that are there in parts. * `link`: the agent's end. * `message`: what they say to one another.
//! * [`socket_path`]: where they meet.

mod link;
mod message;
mod pending;
mod resident;
mod server;
mod supervise;

pub use link::{GuardInfo, GuardLink, GuardSetup, Hold, LinkError, PendingEvent, stop_guard};
pub(crate) use message::Inode;
pub use server::{GuardOptions, run};

use std::path::{Path, PathBuf};

/// Event descriptors of one guard process lie in one region of this many numbers; the next guard process uses the
/// other one. So a number never means two events.
pub(crate) const REGION: u32 = 16_384;

/// Events a guard holds unanswered. When there are so many, further accesses to released files fail at once with EBUSY: left with
/// the kernel they would keep those behind them waiting that need nothing, and the agent's own.
pub(crate) const MAX_PENDING: usize = REGION as usize - 512;

/// The guard's socket for a filesystem, by its [`sys::mounts::FsInfo::kernel_fsid`]: a guard lasts no longer than the mount does.
#[must_use]
pub fn socket_path(socket_dir: &Path, fsid: [u8; 8]) -> PathBuf {
    let hex: String = fsid.iter().map(|b| format!("{b:02x}")).collect();
    socket_dir.join(format!("guard-{hex}.sock"))
}
