//! Messages on their way out, which may be lost: nobody waits for the network here.

use async_nats::Client;
use async_nats::connection::State;
use futures_util::FutureExt;

/// Sends what there is room for.
#[derive(Clone)]
pub(crate) struct Outbox(Client);

impl Outbox {
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }

    /// Sends a message, or does not: when there is no connection, or it does not take more. What was to be sent then would be late anyway.
    pub(crate) fn send(&self, subject: String, payload: Vec<u8>) -> bool {
        let sent = async { self.0.publish(subject, payload.into()).await.is_ok() };
        self.connected() && tokio::task::unconstrained(sent).now_or_never() == Some(true)
    }

    /// As [`Self::send`], with a subject for the reply.
    pub(crate) fn ask(&self, subject: String, reply: String, payload: Vec<u8>) -> bool {
        let sent = async { self.0.publish_with_reply(subject, reply, payload.into()).await.is_ok() };
        self.connected() && tokio::task::unconstrained(sent).now_or_never() == Some(true)
    }

    pub(crate) fn connected(&self) -> bool {
        self.0.connection_state() == State::Connected
    }
}
