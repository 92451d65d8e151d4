//! The agent: takes actions from a source, gives them to movers, hands back exactly one result for each; starts and watches
//! the movers, and tells how it is doing.
//!
//! File bytes never pass through here; what a file's state is and when it changes is the source's business.

mod action;
pub mod admin;
mod agent;
mod dispatch;
mod endpoint;
mod endpoints;
pub mod local;
pub mod monitor;
pub mod mounts;
mod results;
mod slots;
pub mod source;
pub mod stats;
pub mod transport;
mod within;

pub use action::{Action, ActionIds, Finished, Stop, Update};
pub use agent::{AgentError, AgentStatus, HsmAgent, ReloadedMover, Services};
pub use endpoint::{ActionStream, Endpoint, EndpointStatus, OpenError, Registration};
pub use endpoints::{Endpoints, MoverProcesses};
pub use monitor::{Patience, PluginConfig, PluginMonitor, PluginState, PluginStatus, RestartDelays, SpawnHooks};
pub use mounts::{ClientMounts, MountError, UNMOUNT_TIMEOUT, cleanup_mounts, configure_mounts};
pub use results::Results;
pub use slots::{Slot, Slots};
pub use source::{ActionSource, MemorySource, SourceError, Work};
pub use stats::{ActionStats, ArchiveStatus, Latency};
pub use transport::{GrpcTransport, Transport, TransportError, TransportRegistry};
pub use within::within;
