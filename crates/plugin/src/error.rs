//! Why a mover's service ended.

use crate::AgentAddress;
use std::io;

/// All of these end the process: a mover does not reconnect, the agent starts it again.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// Nothing to serve.
    #[error("the mover serves no archive: name at least one in its configuration")]
    NoArchives,
    /// The agent's socket could not be connected to, within the time allowed.
    #[error("cannot connect to the agent at {address}: {source}")]
    Connect {
        /// Where it was looked for.
        address: AgentAddress,
        /// The last try's error.
        source: io::Error,
    },
    /// There is a socket, and what listens there does not speak the protocol.
    #[error("no conversation with the agent at {address}: {source}")]
    Handshake {
        /// Where it is.
        address: AgentAddress,
        /// What went wrong.
        source: tonic::transport::Error,
    },
    /// The agent refused an archive.
    #[error("the agent refused archive {archive}: {reason}")]
    Register {
        /// The archive's id.
        archive: u32,
        /// What the agent said.
        reason: String,
    },
    /// The connection ended while the mover was in service. Every action was cancelled.
    #[error("agent gone: {0}")]
    AgentGone(String),
    /// The operating system refused something that the service needs.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// The error.
        source: io::Error,
    },
}
