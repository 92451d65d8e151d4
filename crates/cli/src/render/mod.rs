//! What is printed, as pure functions of what the agent said: for people here, for programs as JSON of the same values.

pub(crate) mod actions;
pub(crate) mod agent_status;
pub(crate) mod census;
pub(crate) mod checked;
pub(crate) mod checks;
pub(crate) mod crewed;
pub(crate) mod demo;
pub(crate) mod file_status;
pub(crate) mod hosts;
pub(crate) mod imported;
pub(crate) mod migrated;
pub(crate) mod rebalanced;
pub(crate) mod rebuilt;
pub(crate) mod released;
pub(crate) mod reloaded;
pub(crate) mod replicated;
pub(crate) mod scrubbed;
pub(crate) mod submitted;
mod table;
pub(crate) mod units;
pub(crate) mod verified;
pub(crate) mod verified_archive;
pub(crate) mod versions;
