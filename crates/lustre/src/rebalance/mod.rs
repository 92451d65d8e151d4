//! Fill levels of OSTs made equal, by moving files.
//!
//! [`Plan`] decides, file by file as they are found, what goes where: so nothing has to be remembered of a file that was passed by, and an interrupted
//! run is repeated by looking anew. [`survey`] reads the levels, [`candidate`] says whether a file can be moved, [`migrate`] moves it.

mod migrate;
mod plan;
mod survey;

pub use migrate::{Candidate, candidate, migrate};
pub use plan::{Level, Move, Plan, Stripe};
pub use survey::{Survey, look_again, survey};
