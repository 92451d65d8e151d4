//! The posix store from outside: real files on real filesystems.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

extern crate sifaka_transfer as transfer;

#[macro_use]
#[path = "../suite/mod.rs"]
mod suite;

mod attempts;
mod bed;
mod corruption;
mod damage;
mod durable;
mod harness;
mod hostile;
mod lemur;
mod packs;
mod range;
mod repack;
mod round_trip;
mod sweep;
mod tier;
mod tier_moving;
mod watched;
