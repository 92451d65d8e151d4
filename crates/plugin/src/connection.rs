//! One gRPC connection over the agent's socket.
//!
//! The channel is given one connected socket and can make no other: a call after the agent went away fails, instead
//! of reaching the next agent with handles of the last.

use crate::{AgentAddress, PluginError};
use hyper_util::rt::TokioIo;
use std::io;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// An agent listens before it starts its movers; this is for one that is slow, or started by hand at the same time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_millis(500);

/// Windows that many thousand small messages fit into, so that neither side ever waits for the other's update.
const WINDOW_BYTES: u32 = 8 << 20;
/// A frame holds what one read of the socket brings.
const FRAME_BYTES: u32 = 256 << 10;

/// Connects, trying again for [`CONNECT_TIMEOUT`].
pub(crate) async fn connect(address: &AgentAddress) -> Result<Channel, PluginError> {
    let socket =
        connect_socket(address).await.map_err(|source| PluginError::Connect { address: address.clone(), source })?;
    let mut socket = Some(TokioIo::new(socket));
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { socket }
    });
    // The socket's path is no valid authority (h2 refuses a `/` in it); any host does.
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_adaptive_window(false)
        .max_frame_size(FRAME_BYTES)
        .connect_with_connector(connector)
        .await
        .map_err(|source| PluginError::Handshake { address: address.clone(), source })
}

async fn connect_socket(address: &AgentAddress) -> io::Result<UnixStream> {
    let path = address.socket_path();
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let mut delay = FIRST_RETRY;
    loop {
        match UnixStream::connect(&path).await {
            Ok(socket) => return Ok(socket),
            Err(error) if Instant::now() + delay > deadline || !may_pass(&error) => return Err(error),
            Err(_) => tokio::time::sleep(delay).await,
        }
        delay = (delay * 2).min(LAST_RETRY);
    }
}

/// Not there yet, not listening yet, or its backlog is full.
fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, Interrupted, NotFound, WouldBlock};
    matches!(error.kind(), NotFound | ConnectionRefused | WouldBlock | Interrupted)
}
