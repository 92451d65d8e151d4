//! The machines connected to NATS: thin, and without rules of their own.
//!
//! [`NatsTransport`] is the agent's side: it leads or stands by, and is towards [`agent::Endpoints`] one mover for each archive that hosts serve.
//! [`HostSource`] is a host's side: an [`agent::ActionSource`] of an agent that has no queue, only movers. [`Hosts`] lets people see and drain hosts.
//!
//! What is received is checked by `proto::cluster`; here only that subjects to answer on are what they should be.

mod bucket;
mod connection;
mod host;
mod inbox;
mod lead;
mod names;
mod outbox;
mod pools;
mod serving;
mod transport;
mod watchdog;
mod works;

pub use host::{HostLoop, HostSource};
pub use transport::{Hosts, NatsTransport};
pub use watchdog::{WATCHDOG_COMMAND, Watchdog, run_watchdog};

use crate::Time;
use std::io;
use std::path::PathBuf;

/// Why something could not be asked of NATS.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// A file that the configuration names cannot be used.
    #[error("{}: {what}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What was done, or is wrong.
        what: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// An address cannot be used.
    #[error("the NATS server {address}")]
    Address {
        /// As configured.
        address: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// No connection can be made.
    #[error("cannot connect to NATS: {0}")]
    Refused(String),
    /// The servers did not do something with a stream.
    #[error("stream {name}: {error}")]
    Stream {
        /// Its name.
        name: String,
        /// What they said.
        error: String,
    },
}

/// The present.
pub(crate) fn now() -> Time {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000);
    Time(u64::try_from(ms).unwrap_or(0))
}

/// Sleeps until `at`. Slept time of the machine counts from when it is awake.
pub(crate) async fn sleep_until(at: Time) {
    tokio::time::sleep(at.since(now())).await;
}
