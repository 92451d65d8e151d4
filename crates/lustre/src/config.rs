//! What an agent on Lustre has to know.

use model::Backoff;
use std::path::PathBuf;
use std::time::Duration;

/// How an agent works on one Lustre filesystem.
#[derive(Clone, Debug)]
pub struct LustreConfig {
    /// The agent's own mount of it.
    pub mount: PathBuf,
    /// Where people have it; for messages alone.
    pub shown: PathBuf,
    /// Its name; `None` takes that of the first action list.
    pub fsname: Option<String>,
    /// The journal's file.
    pub journal: PathBuf,
    /// How what failed for now is tried again.
    pub backoff: Backoff,
    /// After so long a restore fails that a reader waits for; `None` for never.
    pub reader_timeout: Option<Duration>,
    /// Whether each archived version gets a released file in [`model::SNAPSHOT_DIRECTORY`].
    pub snapshots: bool,
    /// How patient it is.
    pub patience: Patience,
}

/// Times that only tests change.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The archives with movers have to be the same for so long before the agent registers for them; and at the start, all movers have to have come, or failed.
    pub settled: Duration,
    /// After so long without anything from the coordinator an idle agent registers anew: nothing tells it that it was dropped.
    pub idle: Duration,
    /// After so long it registers anew as soon as nothing is under way: one of several coordinators may have dropped it while others send.
    pub renew: Duration,
    /// The coordinator is told of a running action at least this often.
    pub heartbeat: Duration,
    /// Before this time it is not told of a restore's progress: one that was told of cannot be taken over by another process.
    pub quiet_restore: Duration,
    /// Between two reports of an action's progress.
    pub report: Duration,
    /// How long an action that failed for now may keep its place at the coordinator.
    pub hold: Duration,
    /// After so long without its turn an action begins and waits then, so that the coordinator hears of it: what it hears nothing of, it gives up.
    pub keep: Duration,
    /// What an earlier agent left for archives without movers fails after so long.
    pub orphans: Duration,
    /// How long a stop waits for ends.
    pub stop: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            settled: Duration::from_secs(1),
            idle: Duration::from_secs(60),
            renew: Duration::from_secs(600),
            heartbeat: Duration::from_secs(60),
            quiet_restore: Duration::from_secs(5),
            report: Duration::from_secs(1),
            // Half of the coordinator's own patience (`active_request_timeout`).
            hold: Duration::from_secs(1800),
            keep: Duration::from_secs(1800),
            orphans: Duration::from_secs(60),
            stop: Duration::from_secs(20),
        }
    }
}
