//! The sockets: where they are, who may connect, and noticing that a connection ended.

use super::TransportError;
use crate::Endpoints;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tonic::transport::server::Connected;

/// More agents than this do not fit into one process and directory.
const MAX_NAMES: u32 = 64;
/// After a failed accept (out of descriptors, say), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The names of the listening sockets; dropping removes the one in the filesystem.
pub(super) struct Listeners {
    path: PathBuf,
    address: String,
}

impl Listeners {
    /// Makes `<directory>/lhsmd-<pid>` and `@lhsmd-<pid>`. A second agent of one process gets `lhsmd-<pid>-1`, and so on.
    pub(super) fn bind(directory: &Path) -> Result<(Self, [UnixListener; 2]), TransportError> {
        prepare_directory(directory)?;
        remove_stale(directory);
        let pid = std::process::id();
        let mut name = format!("lhsmd-{pid}");
        for number in 1..=MAX_NAMES {
            let path = directory.join(&name);
            match bind_both(&path, &name) {
                Ok(sockets) => return Ok((Self { path, address: format!("@{name}") }, sockets)),
                Err((_, cause)) if cause.kind() == io::ErrorKind::AddrInUse && number < MAX_NAMES => {
                    name = format!("lhsmd-{pid}-{number}");
                }
                Err((address, cause)) => return Err(TransportError::Listen { address, cause }),
            }
        }
        let cause = io::ErrorKind::AddrInUse.into();
        Err(TransportError::Listen { address: format!("{}/lhsmd-{pid}-*", directory.display()), cause })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn take_address(&mut self) -> String {
        std::mem::take(&mut self.address)
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "removing the socket");
        }
    }
}

fn prepare_directory(directory: &Path) -> Result<(), TransportError> {
    let failed = |what| move |cause| TransportError::Directory { path: directory.into(), what, cause };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory).map_err(failed("creating it"))?;
    let metadata = std::fs::metadata(directory).map_err(failed("looking at it"))?;
    // Who can write there can put another socket in the place of ours.
    if metadata.mode() & 0o022 != 0 && metadata.mode() & 0o1000 == 0 {
        let cause = io::Error::from(io::ErrorKind::PermissionDenied);
        return Err(failed("its mode lets others write into it: chmod go-w")(cause));
    }
    Ok(())
}

/// Removes sockets of agents that died.
fn remove_stale(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("lhsmd-"));
        if pid.is_none_or(|rest| {
            !rest.split('-').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
        }) {
            continue;
        }
        // Not the process but the socket is asked: process numbers come again.
        let path = entry.path();
        let refused = StdStream::connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if refused && std::fs::remove_file(&path).is_ok() {
            tracing::info!(path = %path.display(), "removed the socket of an agent that died");
        }
    }
}

fn bind_both(path: &Path, name: &str) -> Result<[UnixListener; 2], (String, io::Error)> {
    let abstract_name =
        || -> io::Result<UnixListener> { listen(StdListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?) };
    // The abstract one first: it leaves nothing behind when the other fails.
    let by_name = abstract_name().map_err(|cause| (format!("@{name}"), cause))?;
    let with_path = || -> io::Result<UnixListener> {
        let listener = StdListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listen(listener)
    };
    let by_path = with_path().map_err(|cause| (path.display().to_string(), cause))?;
    Ok([by_name, by_path])
}

fn listen(listener: StdListener) -> io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Takes connections of root and of the agent's own user, and closes all others.
pub(super) async fn accept(
    listener: UnixListener,
    endpoints: Arc<Endpoints>,
    accepted: mpsc::Sender<PeerStream>,
    connections: Arc<Connections>,
) {
    let own_uid = own_uid();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting a mover's connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // An abstract socket has no file mode: this check is all there is, on both.
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || Some(peer.uid()) == own_uid => {
                let id = connections.add(&stream);
                let peer = Peer { id, pid: peer.pid().filter(|pid| *pid > 0) };
                let stream =
                    PeerStream { stream, peer, endpoints: endpoints.clone(), connections: connections.clone() };
                if accepted.send(stream).await.is_err() {
                    return;
                }
            }
            Ok(peer) => {
                tracing::warn!(
                    uid = peer.uid(),
                    pid = peer.pid(),
                    "refused a connection: only root and the agent's user may connect"
                );
            }
            Err(error) => tracing::warn!(%error, "refused a connection: the kernel does not say whose it is"),
        }
    }
}

/// The user whose rights this process has: whom its own files in `/proc` belong to.
fn own_uid() -> Option<u32> {
    std::fs::metadata("/proc/self/stat").ok().map(|metadata| metadata.uid())
}

/// The open connections, so that they can be ended from here: the server lets them live until the mover ends them.
#[derive(Default)]
pub(super) struct Connections {
    open: Mutex<BTreeMap<u64, Option<StdStream>>>,
    last: Mutex<u64>,
}

impl Connections {
    fn add(&self, stream: &UnixStream) -> u64 {
        let id = {
            let mut last = self.last.lock();
            *last += 1;
            *last
        };
        let duplicate = stream.as_fd().try_clone_to_owned().map(StdStream::from).ok();
        self.open.lock().insert(id, duplicate);
        id
    }

    /// Ends all of them, for both sides.
    pub(super) fn shutdown(&self) {
        for stream in self.open.lock().values().flatten() {
            // Fails when the other side was faster.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Names the connection.
    pub(super) id: u64,
    /// The process that connected.
    pub(super) pid: Option<i32>,
}

/// A connection. When it ends, the movers that registered by it leave, whether they had asked for actions or not.
pub(super) struct PeerStream {
    stream: UnixStream,
    peer: Peer,
    endpoints: Arc<Endpoints>,
    connections: Arc<Connections>,
}

impl Drop for PeerStream {
    fn drop(&mut self) {
        self.connections.open.lock().remove(&self.peer.id);
        self.endpoints.leave_connection(self.peer.id);
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
