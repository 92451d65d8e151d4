//! The whole system: agent, guard and movers as real processes over real filesystems on loop devices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod access;
mod bad_input;
mod buckets;
mod commands;
mod copies;
mod cycle;
mod fsck;
mod import;
mod import_objects;
mod import_troubles;
mod kill;
mod lemur;
mod lemur_buckets;
mod limits;
mod lost_results;
mod lustre_commands;
mod lustre_crash;
mod lustre_cycle;
mod lustre_errors;
mod lustre_kit;
mod lustre_mirrors;
mod lustre_rebalance;
mod lustre_site;
mod lustre_snapshots;
mod movers;
mod objects;
mod races;
mod ranges;
mod ranges_killed;
mod read_only;
mod readable_buckets;
mod rebuild;
mod release;
mod scrub;
mod support;
mod thaw;
mod tiers;
mod verify;
mod versions;
