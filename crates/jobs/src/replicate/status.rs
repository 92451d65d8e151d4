//! How a replica goes, for whoever looks at it: `status.json` in its control directory.

use super::points::Method;
use crate::report::Totals;
use serde::{Deserialize, Serialize};

/// Of the file.
pub(crate) const NAME: &str = "status.json";

/// How changes are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By passes over the whole tree.
    #[default]
    Passes,
    /// By what the kernel tells, and by passes now and then.
    Events,
}

/// One pass over the whole tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pass {
    /// Seconds since 1970.
    pub began: u64,
    /// Seconds since 1970.
    pub ended: u64,
    /// Things that it could not do.
    pub failed: u64,
}

/// See the module. Times are seconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Status {
    /// When this was written.
    pub written: u64,
    /// By which process; `None` when it has ended.
    pub pid: Option<u32>,
    /// On which machine.
    pub host: String,
    /// How changes are found.
    pub mode: Mode,
    /// All that was changed at the source before this is at the destination. `None`: no pass was complete yet.
    pub synced_to: Option<u64>,
    /// As of when it was written; `None` as above.
    pub lag_seconds: Option<u64>,
    /// Directories that are known to have changed, and are not at the destination yet.
    pub pending: u64,
    /// Events that were worked on since the start.
    pub events: u64,
    /// A pass over the whole tree is under way.
    pub in_pass: bool,
    /// The last one that ended.
    pub last_pass: Option<Pass>,
    /// What was done since the start.
    pub copied: u64,
    /// Since the start.
    pub bytes: u64,
    /// Since the start; what could not be done is tried again.
    pub failed: u64,
    /// What was renamed in one, since the start.
    pub renamed: u64,
    /// What went wrong with the replication as a whole, at last.
    pub trouble: Option<String>,
    /// Where points in time are kept: how that goes.
    pub points: Option<PointsStatus>,
}

/// Of points in time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct PointsStatus {
    /// How the next one is made.
    pub method: Option<Method>,
    /// How many there are.
    pub count: u64,
    /// The moment that the oldest one stands for.
    pub oldest: Option<u64>,
    /// And the newest one.
    pub newest: Option<u64>,
    /// Why the last one could not be made.
    pub trouble: Option<String>,
}

impl Status {
    /// How far the replica is behind at this time.
    pub fn lag(&self, now: u64) -> Option<u64> {
        self.synced_to.map(|synced| now.saturating_sub(synced))
    }

    pub(crate) fn count(&mut self, totals: &Totals) {
        let Totals { files, directories, symlinks, specials, linked, updated, .. } = *totals;
        self.copied = files + directories + symlinks + specials + linked + updated;
        self.bytes = totals.bytes;
        self.failed = totals.failed + totals.refused;
    }
}
