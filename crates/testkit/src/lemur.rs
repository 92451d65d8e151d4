//! A mover as Lemur built them, seen from the wire: for proving that an agent serves one that knows no extension.
//!
//! The messages are frozen here by hand, with Lemur's fields and no others, and share no code with the `proto` crate:
//! a change there that breaks an old mover cannot change this one along with it. Unlike the rest of this crate it is
//! asynchronous and returns errors, because tests want to see refusals.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// `Endpoint`: what a mover registers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LemurEndpoint {
    /// The archive's id.
    #[prost(uint32, tag = "1")]
    pub archive: u32,
    /// The filesystem's name.
    #[prost(string, tag = "2")]
    pub fs_url: String,
}

/// `Handle`: names a registration.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LemurHandle {
    /// The number the agent chose.
    #[prost(uint64, tag = "1")]
    pub id: u64,
}

/// `Command`: all that Lemur knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
pub enum LemurCommand {
    /// Nothing.
    None = 0,
    /// Copy into the archive.
    Archive = 1,
    /// Copy back.
    Restore = 2,
    /// Remove from the archive.
    Remove = 3,
    /// In the protocol, and answered by every Lemur mover with an error: must not be sent.
    Cancel = 4,
}

/// `ActionItem`: one action.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LemurItem {
    /// Names the action in reports.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// A [`LemurCommand`], or a number that Lemur does not know.
    #[prost(enumeration = "LemurCommand", tag = "2")]
    pub op: i32,
    /// The file to read.
    #[prost(string, tag = "3")]
    pub primary_path: String,
    /// The file to write.
    #[prost(string, tag = "4")]
    pub write_path: String,
    /// First byte.
    #[prost(int64, tag = "5")]
    pub offset: i64,
    /// Number of bytes; -1 for all.
    #[prost(int64, tag = "6")]
    pub length: i64,
    /// Unused.
    #[prost(bytes = "vec", tag = "7")]
    pub deprecated: Vec<u8>,
    /// The request's data.
    #[prost(bytes = "vec", tag = "8")]
    pub data: Vec<u8>,
    /// The object's id.
    #[prost(string, tag = "9")]
    pub uuid: String,
    /// The content's hash.
    #[prost(bytes = "vec", tag = "10")]
    pub hash: Vec<u8>,
    /// The object's URL. There is no field 11.
    #[prost(string, tag = "12")]
    pub url: String,
}

/// `ActionStatus`: progress or the end.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LemurStatus {
    /// The action.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// False for progress.
    #[prost(bool, tag = "2")]
    pub completed: bool,
    /// 0, an errno, or Lemur's -1 for everything.
    #[prost(int32, tag = "3")]
    pub error: i32,
    /// First byte just moved.
    #[prost(int64, tag = "4")]
    pub offset: i64,
    /// Bytes just moved.
    #[prost(int64, tag = "5")]
    pub length: i64,
    /// The registration.
    #[prost(message, optional, tag = "6")]
    pub handle: Option<LemurHandle>,
    /// Unused.
    #[prost(bytes = "vec", tag = "7")]
    pub deprecated: Vec<u8>,
    /// Unused.
    #[prost(int32, tag = "8")]
    pub flags: i32,
    /// The object's id.
    #[prost(string, tag = "9")]
    pub uuid: String,
    /// The content's hash.
    #[prost(bytes = "vec", tag = "10")]
    pub hash: Vec<u8>,
    /// The object's URL.
    #[prost(string, tag = "11")]
    pub url: String,
}

/// `Empty`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LemurEmpty {}

/// One connection to an agent.
#[derive(Clone, Debug)]
pub struct LemurMover {
    channel: Channel,
}

impl LemurMover {
    /// Connects to a socket's path, or to `@name` in the abstract namespace. `authority` is sent as `:authority`;
    /// Go sends the address itself, which for an abstract socket is a valid one.
    ///
    /// # Errors
    /// Nobody listens there, or the authority cannot be written in a URI.
    pub async fn connect(address: &str, authority: &str) -> Result<Self, tonic::transport::Error> {
        let path = socket_path(address);
        let connector = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))?;
        Ok(Self { channel: endpoint.connect_with_connector(connector).await? })
    }

    /// `Register`.
    ///
    /// # Errors
    /// The agent refused.
    pub async fn register(&self, archive: u32, fs_url: &str) -> Result<LemurHandle, Status> {
        let mut grpc = self.ready().await?;
        let request = Request::new(LemurEndpoint { archive, fs_url: fs_url.to_owned() });
        let codec = ProstCodec::<LemurEndpoint, LemurHandle>::default();
        Ok(grpc.unary(request, method("/pdm.DataMover/Register"), codec).await?.into_inner())
    }

    /// `GetActions`.
    ///
    /// # Errors
    /// The agent refused.
    pub async fn actions(&self, handle: LemurHandle) -> Result<Streaming<LemurItem>, Status> {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<LemurHandle, LemurItem>::default();
        let method = method("/pdm.DataMover/GetActions");
        Ok(grpc.server_streaming(Request::new(handle), method, codec).await?.into_inner())
    }

    /// `StatusStream`, on a task of its own. Dropping the sender closes the stream; the handle then has the agent's
    /// answer.
    #[must_use]
    pub fn statuses(&self) -> (mpsc::Sender<LemurStatus>, JoinHandle<Result<(), Status>>) {
        let (sender, receiver) = mpsc::channel(64);
        let this = self.clone();
        let stream = tokio::spawn(async move {
            let mut grpc = this.ready().await?;
            let codec = ProstCodec::<LemurStatus, LemurEmpty>::default();
            let request = Request::new(ReceiverStream::new(receiver));
            grpc.client_streaming(request, method("/pdm.DataMover/StatusStream"), codec).await?;
            Ok(())
        });
        (sender, stream)
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }
}

fn method(path: &'static str) -> http::uri::PathAndQuery {
    http::uri::PathAndQuery::from_static(path)
}

/// Linux takes an abstract name behind a NUL; people write it behind an `@`.
fn socket_path(address: &str) -> PathBuf {
    match address.strip_prefix('@') {
        Some(name) => std::ffi::OsString::from_vec([b"\0", name.as_bytes()].concat()).into(),
        None => address.into(),
    }
}
