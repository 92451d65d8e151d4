//! pdm over gRPC on Unix sockets: one with a path, and one in the abstract namespace, which is what Lemur's plugins can use.

use super::service::Movers;
use super::socket::{Connections, Listeners, PeerStream, accept};
use super::{Transport, TransportError};
use crate::Endpoints;
use futures_util::future::BoxFuture;
use proto::pdm::data_mover_server::DataMoverServer;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Messages are small and local: the windows are what lets whole batches pass without waiting for the other side.
const WINDOW_BYTES: u32 = 8 << 20;
const FRAME_BYTES: u32 = 1 << 20;
/// The largest status message: every field at its limit, with room for what is to come.
const MESSAGE_LIMIT_BYTES: usize = 1 << 20;
/// How long open connections may take to end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// pdm over gRPC.
pub struct GrpcTransport {
    socket_dir: PathBuf,
    running: Option<Running>,
}

struct Running {
    listeners: Listeners,
    accepting: JoinSet<()>,
    connections: Arc<Connections>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl GrpcTransport {
    /// With its sockets in this directory.
    #[must_use]
    pub fn new(socket_dir: PathBuf) -> Self {
        Self { socket_dir, running: None }
    }

    fn start(&mut self, endpoints: Arc<Endpoints>) -> Result<String, TransportError> {
        let (mut listeners, sockets) = Listeners::bind(&self.socket_dir)?;
        let (accepted, incoming) = mpsc::channel::<PeerStream>(16);
        let mut accepting = JoinSet::new();
        let connections = Arc::new(Connections::default());
        for socket in sockets {
            let (endpoints, accepted, connections) = (endpoints.clone(), accepted.clone(), connections.clone());
            accepting.spawn(accept(socket, endpoints, accepted, connections));
        }
        let (stop, stopped) = oneshot::channel();
        let service = DataMoverServer::new(Movers::new(endpoints)).max_decoding_message_size(MESSAGE_LIMIT_BYTES);
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_adaptive_window(Some(false))
            .max_frame_size(FRAME_BYTES);
        let incoming = ReceiverStream::new(incoming).map(Ok::<PeerStream, Infallible>);
        let server = tokio::spawn(async move {
            let stopped = async move {
                let _ = stopped.await;
            };
            if let Err(error) = server.serve_with_incoming_shutdown(service, incoming, stopped).await {
                tracing::error!(%error, "the gRPC server ended");
            }
        });
        let address = listeners.take_address();
        tracing::info!(%address, path = %listeners.path().display(), "movers can connect");
        self.running = Some(Running { listeners, accepting, connections, stop, server });
        Ok(address)
    }
}

impl Transport for GrpcTransport {
    fn init(&mut self, endpoints: Arc<Endpoints>) -> BoxFuture<'_, Result<String, TransportError>> {
        Box::pin(async move { self.start(endpoints) })
    }

    fn shutdown(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Some(Running { listeners, mut accepting, connections, stop, mut server }) = self.running.take() else {
                return;
            };
            accepting.shutdown().await;
            drop(listeners);
            let _ = stop.send(());
            if tokio::time::timeout(GRACE, &mut server).await.is_err() {
                connections.shutdown();
                server.abort();
                let _ = server.await;
            }
        })
    }
}
