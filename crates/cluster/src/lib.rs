//! Movers on many hosts for one agent.
//!
//! All decisions are made by state machines that have no clock, do no I/O and draw no random numbers: [`board`] (the agent's side:
//! which host may run what), [`desk`] (a host's side: what to take, and when it may not go on) and [`lease`] (who leads, of several agents).
//! Time comes in, and what is to be done comes out. So a simulation (`tests/simulation`) can drive them through
//! thousands of histories of faults, and whoever connects them to NATS holds no rules.
//!
//! The rules that keep an action from running on two hosts at once:
//!
//! 1. *Nobody starts what he was not granted.* The stream only spreads works; each is claimed at the board, which knows who has it, and
//!    grants it to one host at a time. So it does not matter how often, how late or to how many a message is delivered. A message is
//!    acknowledged when its claim is answered: from then on the board answers for the work, and publishes it again if its host dies.
//! 2. *Nobody goes on without a lease.* A host's lease counts from when it SENT the last [`proto::cluster::Ask`] that was answered. At two thirds of it works are cancelled,
//!    at five sixths movers are killed, at its end the session is over: the next one begins when nothing runs any more. So it is when another agent leads.
//! 3. *The board gives a host up later than that*: when it is unheard for a lease and a margin; and it answers and grants
//!    only while it leads, by its own clock.
//! 4. *A new agent begins when the old one's works have ended*: each host in the registry has begun another session, or a lease and a margin are over. Whoever asks for a lease is in the registry with that session,
//!    and asks no more under it when it could have been taken out.
//!
//! Not here: what an action does, retries, priorities: those are the agent's, whose own queue remains the truth. At most what the hosts'
//! credits allow is in the stream.

pub mod board;
pub mod desk;
pub mod lease;
pub mod nats;
mod terms;

pub use proto::cluster::{Group, HostId, Lane, Pool, Served};
pub use terms::{Terms, Time};
