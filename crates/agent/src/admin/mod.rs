//! The admin API: HTTP/1.1 and JSON on a unix socket, the only way the command line and the dashboard talk to the agent.
//!
//! Layers: [`api`] is what goes over the socket, as values; [`control`] is what the agent must be able to do; `server` turns
//! requests of the one into calls of the other. Not here: anything that knows how an action is run.

pub mod api;
pub mod control;
pub mod hosts;
pub mod objects;
mod reply;
mod server;
mod socket;

pub use control::{Control, ControlError, ErrorCode, Reply};
pub use server::serve;
pub use socket::{AdminSocket, SocketError};

#[cfg(test)]
mod tests;
