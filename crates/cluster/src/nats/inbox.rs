//! Where replies come to a host: answers by one subscription, with what they answer in the subject; works by one for each request.

use super::NatsError;
use crate::desk::PullId;
use async_nats::{Client, Message, StatusCode, Subscriber};

/// What came.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The agent's answer to a question.
    Answer { seq: u64, payload: Vec<u8> },
    /// Nobody is there to answer it.
    Nobody { seq: u64 },
    /// A work.
    Delivery { pull: PullId, ack_to: String, payload: Vec<u8> },
    /// There will be no more for this request.
    PullEnded { pull: PullId },
    /// The servers could not do it now: it makes no sense to ask again at once.
    PullRefused { pull: PullId },
}

/// The subject, and how its ends are made.
pub(crate) struct Inbox {
    prefix: String,
}

impl Inbox {
    /// Subscribes.
    pub(crate) async fn open(client: &Client) -> Result<(Self, Subscriber), NatsError> {
        let prefix = client.new_inbox();
        let subscriber = client.subscribe(format!("{prefix}.*.*")).await;
        Ok((Self { prefix }, subscriber.map_err(|error| NatsError::Refused(error.to_string()))?))
    }

    pub(crate) fn for_answer(&self, seq: u64) -> String {
        format!("{}.a.{seq}", self.prefix)
    }

    /// No part of what the subscription takes: works come with the stream's subjects, and are known by where they are heard.
    pub(crate) fn for_pull(&self, pull: PullId) -> String {
        format!("{}.p.{pull}.works", self.prefix)
    }

    /// What a message is; `None` if it is nothing that was asked for.
    pub(crate) fn read(&self, message: Message) -> Option<Reply> {
        let mut parts = message.subject.strip_prefix(&self.prefix)?.split('.').skip(1);
        let (kind, number) = (parts.next()?, parts.next()?.parse().ok()?);
        match (kind, message.status) {
            ("a", None) => Some(Reply::Answer { seq: number, payload: message.payload.to_vec() }),
            ("a", Some(StatusCode::NO_RESPONDERS)) => Some(Reply::Nobody { seq: number }),
            _ => None,
        }
    }
}

/// What a message is that came for a request for works; `None` if it is nothing that was asked for.
pub(crate) fn read_pulled(pull: PullId, message: Message) -> Option<Reply> {
    match message.status {
        None => {
            // Acknowledgements go where a message says: to the servers' own subjects and nowhere else.
            let ack_to = message.reply.filter(|reply| reply.starts_with("$JS.ACK."))?.to_string();
            Some(Reply::Delivery { pull, ack_to, payload: message.payload.to_vec() })
        }
        Some(StatusCode::IDLE_HEARTBEAT) => None,
        Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => Some(Reply::PullEnded { pull }),
        Some(_) => Some(Reply::PullRefused { pull }),
    }
}
