//! Data moved in bulk: whole trees walked, copied, kept equal and compared.
//!
//! For: `sifaka walk`, `migrate`, `replicate` and `verify`. Not for: what one file's action needs (that is `transfer`), nor for HSM state.
//!
//! **Everything here blocks**: threads, no async runtime. Memory is bounded whatever the number of files and the depth of the tree (P6).
//!
//! - [`walk`]: trees walked by several threads.
//! - [`census`]: what is in trees.
//! - [`migrate`]: a tree copied, or an earlier copy of it brought up to date.
//! - [`buckets`]: a tree copied into a bucket.
//! - [`replicate`]: a copy of a tree kept up to date.
//! - [`verify`]: two trees compared.
//! - [`content`]: two files compared.
//! - [`filter`]: what a job is for.
//! - [`report`]: what became of each thing, and the totals.

pub mod buckets;
pub mod census;
mod climber;
pub mod content;
mod failure;
pub mod filter;
pub mod migrate;
mod moment;
mod pacing;
pub mod replicate;
pub mod report;
mod state;
pub mod verify;
pub mod walk;

pub use failure::{Failure, JobError, Side};
