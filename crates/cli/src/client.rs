//! The agent's admin API from the client's side: one connection, kept alive, one call at a time.

use crate::exit::{CliError, Exit};
use crate::output::escaped;
use agent::admin::{ControlError, ErrorCode};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// A connection to the agent; made at the first call and again when the agent closed it in between.
pub(crate) struct Client {
    socket: PathBuf,
    connection: Option<SendRequest<Full<Bytes>>>,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ControlError,
}

impl Client {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), connection: None }
    }

    /// `GET address?query`; pairs without a value are left out.
    pub(crate) async fn get<T: DeserializeOwned>(
        &mut self,
        address: &str,
        query: &[(&str, Option<String>)],
    ) -> Result<T, CliError> {
        // Values are numbers and names of commands: nothing in them needs escaping.
        let pairs: Vec<_> = query.iter().filter_map(|(k, v)| v.as_ref().map(|v| format!("{k}={v}"))).collect();
        let address = if pairs.is_empty() { address.to_owned() } else { format!("{address}?{}", pairs.join("&")) };
        self.call(Method::GET, &address, Bytes::new()).await
    }

    /// `POST address` with a JSON body.
    pub(crate) async fn post<T: DeserializeOwned>(
        &mut self,
        address: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let body = serde_json::to_vec(body)
            .map_err(|why| CliError::new(Exit::SomeFailed, format!("cannot write the request as JSON: {why}")))?;
        self.call(Method::POST, address, body.into()).await
    }

    async fn call<T: DeserializeOwned>(&mut self, method: Method, address: &str, body: Bytes) -> Result<T, CliError> {
        let request = Request::builder()
            .method(method)
            .uri(address)
            .header(http::header::HOST, "sifaka")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|why| CliError::new(Exit::Usage, format!("no such request can be made: {why}")))?;
        let mut connection = self.connected().await?;
        let reply = connection.send_request(request).await.map_err(|why| self.lost(address, &why))?;
        let status = reply.status();
        let body = reply.into_body().collect().await.map_err(|why| self.lost(address, &why))?.to_bytes();
        self.connection = Some(connection);
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|why| self.strange(address, &why));
        }
        let refused: ErrorBody = serde_json::from_slice(&body).map_err(|why| self.strange(address, &why))?;
        let message = match refused.error.code {
            // A problem a line, as `sifaka config check` has them.
            ErrorCode::Configuration => {
                let lines: Vec<_> = refused.error.message.lines().map(escaped).collect();
                format!("nothing was changed: the configuration is wrong\n{}", lines.join("\n"))
            }
            _ => escaped(&refused.error.message).into_owned(),
        };
        Err(CliError::new(exit_for(refused.error.code), message))
    }

    async fn connected(&mut self) -> Result<SendRequest<Full<Bytes>>, CliError> {
        if let Some(mut connection) = self.connection.take()
            && connection.ready().await.is_ok()
        {
            return Ok(connection);
        }
        let stream = UnixStream::connect(&self.socket).await.map_err(|why| unreachable(&self.socket, &why))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|why| self.lost("connect", &why))?;
        // Ends with the connection; its error is the pending call's error too.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn lost(&self, address: &str, why: &hyper::Error) -> CliError {
        let socket = self.socket.display();
        CliError::new(
            Exit::Unreachable,
            format!(
                "lost the agent at {socket} during {address} ({why}): it may or may not have done that. See `sifaka status` and \
                 the agent's log, then repeat the command; what is done already is not done twice"
            ),
        )
    }

    fn strange(&self, address: &str, why: &serde_json::Error) -> CliError {
        let socket = self.socket.display();
        CliError::new(
            Exit::Unreachable,
            format!(
                "what answers at {socket} does not speak as an agent does ({address}: {why}): is it of another version?"
            ),
        )
    }
}

fn exit_for(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::Invalid | ErrorCode::TooLarge | ErrorCode::MethodNotAllowed => Exit::Usage,
        ErrorCode::Forbidden | ErrorCode::Unsupported => Exit::NotHere,
        ErrorCode::Unavailable => Exit::Unreachable,
        ErrorCode::Configuration => Exit::Config,
        ErrorCode::NotFound | ErrorCode::Internal => Exit::SomeFailed,
    }
}

fn unreachable(socket: &Path, why: &io::Error) -> CliError {
    let at = socket.display();
    let (exit, what) = match why.kind() {
        io::ErrorKind::NotFound => (
            Exit::Unreachable,
            "there is no such socket: start `sifaka agent`, or name the socket of yours with --socket".into(),
        ),
        io::ErrorKind::ConnectionRefused => (
            Exit::Unreachable,
            "nobody listens there any more: start `sifaka agent`, and see its log for why it ended".into(),
        ),
        io::ErrorKind::PermissionDenied => {
            (Exit::NotHere, "permission denied: run as root, or as a member of the group that admin.group names".into())
        }
        _ => (Exit::Unreachable, why.to_string()),
    };
    CliError::new(exit, format!("cannot reach the agent at {at}: {what}"))
}
