//! The program, as a process, in front of the real admin server. Behind the server stands a `Control` that accepts everything
//! and notes it: what the agent does with actions is not the matter here.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod agent_double;
mod buckets_removal;
mod credentials;
mod doctor;
mod files;
mod migrate;
mod migrate_buckets;
mod migrate_limits;
mod names;
mod replicate;
mod replicate_points;
mod tiers;
mod unreachable;
mod verify;
mod verify_buckets;
mod walk;
