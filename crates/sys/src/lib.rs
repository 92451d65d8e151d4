//! The only unsafe code: Linux system calls and Lustre's client library behind safe types.
//!
//! What is here: the calls Sifaka needs and the standard library does not have, one module per idea, each acquired
//! thing a value that releases itself when dropped. Errors are [`std::io::Error`] with the kernel's error number
//! preserved, because callers decide by it (`ESTALE`, `EAGAIN`, `EXDEV`).
//!
//! What is not here: policy, retries, logging, knowledge of any other crate of this workspace but `model`'s values.
//! Waiting for several descriptors needs no wrapper: everything waitable is [`AsFd`](std::os::fd::AsFd), for `poll` or
//! a runtime.

pub mod btrfs;
pub mod caller;
pub mod children;
pub mod directory;
pub mod fanotify;
pub mod file;
mod fsid;
pub mod handle;
pub mod lease;
pub mod lustre;
pub mod mapping;
pub mod mounts;
pub mod process;
pub mod project;
pub mod seqpacket;
pub mod signals;
pub mod xattr;

pub use rustix::fs::{Mode, OFlags};

use std::io;

/// Turns the `-1` convention of libc into a `Result`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
