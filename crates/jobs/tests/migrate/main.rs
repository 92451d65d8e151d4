//! Trees migrated between real filesystems, and compared by another tool.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

mod nasty;
mod oracle;
mod passes;
mod resumed;
mod whole;
