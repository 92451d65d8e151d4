//! SDK for authors of movers: everything between a mover's own code and the agent.
//!
//! A mover is a process that the agent starts. It serves one or more archives; for each it gives an [`Archive`] with a
//! [`Handler`], and calls [`Plugin::run`], which connects to the agent, registers, hands out actions, reports results,
//! and drains when the process is asked to end. `examples/sleeper.rs` is a whole mover.
//!
//! - Every action that a handler accepts comes with a [`Reply`]. A `Reply` reports exactly one end, whatever the
//!   handler does with it: dropping one, or panicking with one in hand, reports a failure.
//! - A handler that blocks (file I/O) implements [`Mover`] and runs on the threads of [`Workers`].
//! - Control is asynchronous and runs on the thread that calls [`Plugin::run`]; a handler's `accept` is called there
//!   and must not block.
//!
//! Needs nothing of the agent beyond Lemur's protocol: every extension is optional.
//!
//! # Draining
//!
//! A mover that is asked to end (SIGTERM, SIGINT) keeps `GetActions` open, because an agent takes its end for the end of
//! the mover, and because cancels come by it. Of what comes it obeys only cancels. Actions that it has not begun it
//! neither begins nor reports, unless they are cancelled. Running ones end, or are stopped when the drain takes too long.
//! After the last report it half-closes `StatusStream`, waits a few seconds at most for the agent's answer, which says
//! that all was read, and closes `GetActions`. What it had and did not report by then is for another mover.
//!
//! Not for: moving bytes, reading a mover's configuration, reconnecting (a mover whose agent is gone ends, and the next
//! agent starts its own).

mod connection;
mod environment;
mod error;
mod intake;
mod lane;
mod outbox;
mod reply;
mod serve;
mod workers;

pub use environment::{AgentAddress, Environment, EnvironmentError};
pub use error::PluginError;
pub use proto::{Capabilities, Task};
pub use reply::Reply;
pub use serve::{Archive, Handler, Plugin};
pub use workers::{Mover, Workers};
