//! Trees migrated between real filesystems, and compared by another tool.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

mod deleting;
mod hostile;
mod inherited;
mod nasty;
mod odd;
mod oracle;
mod passes;
mod random;
mod resumed;
mod unsynced;
mod walks;
mod whole;
