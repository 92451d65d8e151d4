//! How movers reach the agent.
//!
//! A [`Transport`] brings movers and [`Endpoints`] together; which ones there are is decided by whoever starts the agent.

mod grpc;
mod service;
mod socket;

pub use grpc::GrpcTransport;

use crate::Endpoints;
use config::AgentConfig;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why movers cannot reach the agent. All are permanent: somebody has to change something.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The directory of the sockets cannot be made or is not ours alone.
    #[error("cannot use the socket directory {}: {what}", path.display())]
    Directory {
        /// `transport.socket_dir`.
        path: PathBuf,
        /// What was done.
        what: &'static str,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// A socket cannot be made.
    #[error("cannot listen on {address}")]
    Listen {
        /// A path, or `@` and a name.
        address: String,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// A transport that this crate does not have cannot start.
    #[error("transport {0:?}")]
    Other(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The configuration names a transport that this program does not have.
    #[error("there is no transport {0:?}")]
    Unknown(String),
}

/// A way for movers to get actions and report about them.
pub trait Transport: Send {
    /// Starts taking movers for `endpoints`, and gives the text for a plugin's `LHSMD_AGENT_CONNECTION`.
    fn init(&mut self, endpoints: Arc<Endpoints>) -> BoxFuture<'_, Result<String, TransportError>>;

    /// Takes no more movers, and ends what connections are left. Idempotent.
    fn shutdown(&mut self) -> BoxFuture<'_, ()>;
}

type Factory = Box<dyn Fn(&AgentConfig) -> Box<dyn Transport> + Send + Sync>;

/// The transports a program has, by the name that `transport.type` uses.
#[derive(Default)]
pub struct TransportRegistry {
    factories: BTreeMap<String, Factory>,
}

impl TransportRegistry {
    /// The registry with `grpc`.
    #[must_use]
    pub fn with_grpc() -> Self {
        let mut registry = Self::default();
        registry.register("grpc", |config| Box::new(GrpcTransport::new(config.transport.socket_dir.clone())));
        registry
    }

    /// Adds one, or replaces the one of this name.
    pub fn register(&mut self, name: &str, make: impl Fn(&AgentConfig) -> Box<dyn Transport> + Send + Sync + 'static) {
        self.factories.insert(name.to_owned(), Box::new(make));
    }

    /// Makes the transport of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn make(&self, name: &str, config: &AgentConfig) -> Result<Box<dyn Transport>, TransportError> {
        let factory = self.factories.get(name).ok_or_else(|| TransportError::Unknown(name.to_owned()))?;
        Ok(factory(config))
    }
}
