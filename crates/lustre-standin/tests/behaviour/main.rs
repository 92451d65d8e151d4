//! The stand-in does what a real Lustre was seen to do. Its C functions are called as a program would.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the lints do not see that functions beside tests belong to them"
)]

mod actions;
mod agents;
mod changelog;
mod kit;
mod mirrors;
mod requests;
