//! Who leads, and which hosts there may be, as the servers keep it: a key-value bucket.
//!
//! Everything is asked of the one server that leads the bucket's stream, never of a copy that may be behind.

use super::NatsError;
use super::names::Names;
use crate::HostId;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind, StorageType, Stream};
use async_nats::{Client, HeaderMap};
use config::agent::Nats;
use futures_util::StreamExt;
use proto::cluster::Member;
use std::time::Duration;

/// What tells that a key was deleted, by NATS's tools.
const OPERATION: &str = "KV-Operation";

/// A value, and which change of the bucket made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    pub(crate) revision: u64,
    pub(crate) value: Vec<u8>,
}

/// The bucket. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Bucket {
    context: Context,
    names: Names,
    replicas: usize,
}

impl Bucket {
    pub(crate) fn new(client: &Client, nats: &Nats) -> Self {
        let timeout = (nats.lease / 6).max(Duration::from_millis(500));
        let context = ContextBuilder::new().timeout(timeout).ack_timeout(timeout).build(client.clone());
        Self { context, names: Names::new(&nats.filesystem), replicas: nats.replicas }
    }

    fn refused(&self, error: impl ToString) -> NatsError {
        NatsError::Stream { name: self.names.bucket(), error: error.to_string() }
    }

    /// Makes it, if there is none.
    async fn stream(&self) -> Result<Stream, NatsError> {
        let config = Config {
            name: self.names.bucket(),
            description: Some("sifaka: which agent leads, and which hosts of movers there are".into()),
            subjects: vec![self.names.keys()],
            max_messages_per_subject: 1,
            storage: StorageType::File,
            num_replicas: self.replicas,
            allow_rollup: true,
            deny_delete: true,
            ..Config::default()
        };
        self.context.get_or_create_stream(config).await.map_err(|error| self.refused(error))
    }

    /// Who leads, if anybody does or did.
    pub(crate) async fn leader(&self) -> Result<Option<Kept>, NatsError> {
        let stream = self.stream().await?;
        match stream.get_last_raw_message_by_subject(&self.names.leader()).await {
            Ok(message) if is_deleted(&message.headers) => {
                Ok(Some(Kept { revision: message.sequence, value: Vec::new() }))
            }
            Ok(message) => Ok(Some(Kept { revision: message.sequence, value: message.payload.to_vec() })),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(self.refused(error)),
        }
    }

    /// Writes who leads, unless it was changed since `expected` (0: if there is nothing). The new revision; `None` if it was changed. After an error
    /// it may have been written.
    pub(crate) async fn lead(&self, expected: u64, value: Vec<u8>) -> Result<Option<u64>, NatsError> {
        let message = PublishMessage::build().payload(value.into()).expected_last_subject_sequence(expected);
        let done = match self.context.send_publish(self.names.leader(), message).await {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        match done {
            Ok(ack) => Ok(Some(ack.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(error) => Err(self.refused(error)),
        }
    }

    /// Enters a host.
    pub(crate) async fn register(&self, member: Member) -> Result<(), NatsError> {
        self.stream().await?;
        let message = PublishMessage::build().payload(member.clone().encode().into());
        let done = match self.context.send_publish(self.names.member(member.id), message).await {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        done.map(drop).map_err(|error| self.refused(error))
    }

    /// Strikes a host out.
    pub(crate) async fn unregister(&self, id: HostId) -> Result<(), NatsError> {
        let stream = self.stream().await?;
        let purged = stream.purge().filter(self.names.member(id)).await;
        purged.map(drop).map_err(|error| self.refused(error))
    }

    /// The hosts that were entered before the change `since`, and perhaps others. An error also when the server that answers does not know of that change.
    pub(crate) async fn members(&self, since: u64) -> Result<Vec<Member>, NatsError> {
        let stream = self.stream().await?;
        let mut info = stream.info_with_subjects(self.names.members()).await.map_err(|error| self.refused(error))?;
        if info.info.state.last_sequence < since {
            return Err(self.refused("the server that answers was left behind"));
        }
        let mut members = Vec::new();
        while let Some(found) = info.next().await {
            let (subject, _) = found.map_err(|error| self.refused(error))?;
            match stream.get_last_raw_message_by_subject(&subject).await {
                Ok(message) if is_deleted(&message.headers) => {}
                Ok(message) => match Member::decode(&message.payload) {
                    Ok(member) => members.push(member),
                    Err(error) => tracing::warn!(%subject, %error, "ignored what the registry of hosts holds"),
                },
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {}
                Err(error) => return Err(self.refused(error)),
            }
        }
        Ok(members)
    }
}

fn is_deleted(headers: &HeaderMap) -> bool {
    headers.get(OPERATION).is_some()
}
