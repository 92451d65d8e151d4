//! The stream of works, and its consumers, as the agent makes and fills them.

use super::NatsError;
use super::names::Names;
use crate::{Lane, Pool};
use async_nats::Client;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, stream::Stream};
use config::agent::Nats;
use model::Class;
use std::time::Duration;

/// Requests of hosts that may wait at a consumer: each of some thousand hosts has one.
const MAX_WAITING: i64 = 16_384;
/// Works that hosts may have asked about and not acknowledged.
const MAX_UNACKNOWLEDGED: i64 = 262_144;
/// Publications that wait for the servers' word.
const MAX_PUBLISHING: usize = 65_536;
/// The least time for which the servers know a message's id.
const DUPLICATES: Duration = Duration::from_secs(120);

/// Makes the stream, fills and empties it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct WorkStream {
    context: Context,
    names: Names,
    replicas: usize,
    lease: Duration,
}

impl WorkStream {
    pub(crate) fn new(client: &Client, nats: &Nats) -> Self {
        let context = ContextBuilder::new()
            .timeout(nats.lease / 3)
            .ack_timeout(nats.lease / 3)
            .max_ack_inflight(MAX_PUBLISHING)
            .build(client.clone());
        Self { context, names: Names::new(&nats.filesystem), replicas: nats.replicas, lease: nats.lease }
    }

    fn config(&self) -> Config {
        Config {
            name: self.names.works(),
            description: Some("sifaka: actions on their way to the hosts of movers".into()),
            subjects: vec![self.names.all_lanes()],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            num_replicas: self.replicas,
            duplicate_window: DUPLICATES.max(self.lease * 4),
            ..Config::default()
        }
    }

    /// Makes the stream, if there is none, as it should be, and removes what is in it: for whoever has just taken the lead.
    pub(crate) async fn clear(&self) -> Result<(), NatsError> {
        let refused = |error: String| NatsError::Stream { name: self.names.works(), error };
        let mut stream = self.context.get_or_create_stream(self.config()).await.map_err(|e| refused(e.to_string()))?;
        let config = &stream.cached_info().config;
        if config.num_replicas != self.replicas || config.retention != RetentionPolicy::WorkQueue {
            self.context.update_stream(self.config()).await.map_err(|e| refused(e.to_string()))?;
            stream = self.stream().await?;
        }
        stream.purge().await.map(drop).map_err(|e| refused(e.to_string()))
    }

    async fn stream(&self) -> Result<Stream, NatsError> {
        let name = self.names.works();
        self.context.get_stream(&name).await.map_err(|error| NatsError::Stream { name, error: error.to_string() })
    }

    /// Makes the consumers of a pool, if they are not there.
    pub(crate) async fn open(&self, pool: &Pool) -> Result<(), NatsError> {
        for class in [Class::Reader, Class::Restore, Class::Remove, Class::Archive] {
            let lane = Lane { pool: pool.clone(), class };
            let config = pull::Config {
                durable_name: Some(Names::consumer(&lane)),
                filter_subject: self.names.lane(&lane),
                ack_policy: AckPolicy::Explicit,
                ack_wait: self.lease,
                max_ack_pending: MAX_UNACKNOWLEDGED,
                max_waiting: MAX_WAITING,
                ..pull::Config::default()
            };
            let made = self.context.create_consumer_on_stream(config, self.names.works()).await;
            let refused = |error: String| NatsError::Stream { name: self.names.works(), error };
            made.map_err(|error| refused(error.to_string()))?;
        }
        Ok(())
    }

    /// Publishes a work. Its place in the stream, if the servers say so.
    pub(crate) async fn publish(&self, lane: &Lane, msg_id: &str, payload: Vec<u8>) -> Option<u64> {
        let message = PublishMessage::build().payload(payload.into()).message_id(msg_id);
        let sent = self.context.send_publish(self.names.lane(lane), message).await;
        let done = match sent {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        match done {
            Ok(ack) => Some(ack.sequence),
            Err(error) => {
                tracing::debug!(%error, msg_id, "publishing a work");
                None
            }
        }
    }

    /// Removes a message that nobody has to have, if it is there.
    pub(crate) async fn delete(&self, at: u64) {
        let subject = format!("STREAM.MSG.DELETE.{}", self.names.works());
        let request = serde_json::json!({ "seq": at, "no_erase": true });
        let done: Result<serde_json::Value, _> = self.context.request(subject, &request).await;
        if let Err(error) = done {
            tracing::debug!(%error, at, "deleting a work's message");
        }
    }
}
