//! HTTP requests to calls of [`Control`]. Async; nothing here blocks.

use super::api::{
    ActionsQuery, CancelRequest, DEFAULT_LIMIT, FilesRequest, FinishedQuery, MAX_BODY_BYTES, MAX_LIMIT, MAX_WAIT_MS,
    SetRequest, SubmitRequest, WaitQuery,
};
use super::control::{Control, ControlError, ErrorCode, Reply};
use super::hosts::DrainRequest;
use super::objects::{CloneRequest, RetiredRequest, UndeleteRequest};
use super::reply::{Asked, Body};
use super::socket::AdminSocket;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::{IncomingStream, Listener};
use axum::{Json, Router};
use model::ActionId;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixStream, unix};
use tokio::sync::watch;

/// Serves the API on `socket` until `shutdown` ends; then lets calls that run finish, except long polls, which end at once.
/// The socket's file is gone when this returns.
pub async fn serve(socket: AdminSocket, control: Arc<dyn Control>, shutdown: impl Future<Output = ()> + Send) {
    let (stop, stopping) = watch::channel(false);
    let routes = routes(Server { control, stopping: stopping.clone() }, socket.shared);
    let service = routes.into_make_service_with_connect_info::<Peer>();
    let mut stopped = stopping;
    let serving = axum::serve(PeerListener(socket), service).with_graceful_shutdown(async move {
        // An error means that the sender is gone, which is the end as well.
        let _ = stopped.wait_for(|stop| *stop).await;
    });
    let signal = async {
        shutdown.await;
        let _ = stop.send(true);
        // Held until serving ends.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // Errors of single connections are handled inside; there are no others.
        _ = serving => {}
        () = signal => {}
    }
}

#[derive(Clone)]
struct Server {
    control: Arc<dyn Control>,
    stopping: watch::Receiver<bool>,
}

fn routes(server: Server, shared: bool) -> Router {
    Router::new()
        .route("/v1/requests", post(submit))
        .route("/v1/requests/{id}", get(request))
        .route("/v1/requests/{id}/failures", get(failures))
        .route("/v1/release", post(release))
        .route("/v1/cancel", post(cancel))
        .route("/v1/clone", post(clone_files))
        .route("/v1/undelete", post(undelete))
        .route("/v1/retired", post(retired))
        .route("/v1/files/status", post(files_status))
        .route("/v1/files/set", post(files_set))
        .route("/v1/actions", get(actions))
        .route("/v1/actions/finished", get(finished))
        .route("/v1/actions/{id}", get(action))
        .route("/v1/reload", post(reload))
        .route("/v1/hosts", get(hosts))
        .route("/v1/hosts/drain", post(drain_host))
        .route("/v1/status", get(status))
        .fallback(async || ControlError::new(ErrorCode::NotFound, "there is nothing at this address"))
        .method_not_allowed_fallback(async || {
            ControlError::new(ErrorCode::MethodNotAllowed, "this address does not take that method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(shared, check_peer))
        .with_state(server)
}

type Answer<T> = Result<Json<T>, ControlError>;

async fn answer<T>(reply: Reply<'_, T>) -> Answer<T> {
    reply.await.map(Json)
}

async fn submit(State(server): State<Server>, Body(body): Body<SubmitRequest>) -> Answer<impl serde::Serialize> {
    answer(server.control.submit(body)).await
}

async fn request(
    State(mut server): State<Server>,
    id: Id,
    Asked(query): Asked<WaitQuery>,
) -> Answer<impl serde::Serialize> {
    let wait_ms = query.wait_ms.unwrap_or(0);
    if wait_ms > MAX_WAIT_MS {
        return Err(invalid(format!("wait_ms: at most {MAX_WAIT_MS}")));
    }
    tokio::select! {
        biased;
        status = server.control.request(number(id)?, Duration::from_millis(wait_ms)) => status.map(Json),
        _ = server.stopping.wait_for(|stop| *stop) => Err(ControlError::new(ErrorCode::Unavailable, "the agent is stopping; the request goes on when it is back")),
    }
}

async fn failures(
    State(server): State<Server>,
    id: Id,
    Asked(query): Asked<FinishedQuery>,
) -> Answer<impl serde::Serialize> {
    let query = FinishedQuery { limit: Some(limit(query.limit)?), ..query };
    answer(server.control.failures(number(id)?, query)).await
}

async fn release(State(server): State<Server>, Body(body): Body<FilesRequest>) -> Answer<impl serde::Serialize> {
    answer(server.control.release(body)).await
}

/// On Lustre, others are asked, who may not answer: the agent's end does not wait for that.
async fn cancel(State(mut server): State<Server>, Body(body): Body<CancelRequest>) -> Answer<impl serde::Serialize> {
    tokio::select! {
        biased;
        done = server.control.cancel(body) => done.map(Json),
        _ = server.stopping.wait_for(|stop| *stop) => Err(ControlError::new(ErrorCode::Unavailable, "the agent is stopping: some may not be canceled")),
    }
}

async fn clone_files(State(server): State<Server>, Body(body): Body<CloneRequest>) -> Answer<impl serde::Serialize> {
    answer(server.control.clone_files(body)).await
}

async fn undelete(State(server): State<Server>, Body(body): Body<UndeleteRequest>) -> Answer<impl serde::Serialize> {
    answer(server.control.undelete(body)).await
}

async fn retired(State(server): State<Server>, Body(body): Body<RetiredRequest>) -> Answer<impl serde::Serialize> {
    answer(server.control.retired(body)).await
}

async fn files_status(State(server): State<Server>, Body(body): Body<FilesRequest>) -> Answer<impl serde::Serialize> {
    answer(server.control.files_status(body)).await
}

async fn files_set(State(server): State<Server>, Body(body): Body<SetRequest>) -> Answer<impl serde::Serialize> {
    answer(server.control.files_set(body)).await
}

async fn actions(State(server): State<Server>, Asked(query): Asked<ActionsQuery>) -> Answer<impl serde::Serialize> {
    let query = ActionsQuery { limit: Some(limit(query.limit)?), ..query };
    answer(server.control.actions(query)).await
}

async fn finished(State(server): State<Server>, Asked(query): Asked<FinishedQuery>) -> Answer<impl serde::Serialize> {
    let query = FinishedQuery { limit: Some(limit(query.limit)?), ..query };
    answer(server.control.finished(query)).await
}

async fn action(State(server): State<Server>, id: Id) -> Answer<impl serde::Serialize> {
    answer(server.control.action(ActionId(number(id)?))).await
}

async fn reload(State(server): State<Server>) -> Answer<impl serde::Serialize> {
    answer(server.control.reload()).await
}

async fn hosts(State(server): State<Server>) -> Answer<impl serde::Serialize> {
    answer(server.control.hosts()).await
}

async fn drain_host(State(server): State<Server>, Body(body): Body<DrainRequest>) -> Answer<impl serde::Serialize> {
    answer(server.control.drain_host(body)).await
}

async fn status(State(server): State<Server>) -> Answer<impl serde::Serialize> {
    answer(server.control.status()).await
}

type Id = Path<String>;

fn number(Path(text): Id) -> Result<u64, ControlError> {
    text.parse().map_err(|_| invalid(format!("{text:?} is no number of a request or action")))
}

fn limit(asked: Option<usize>) -> Result<usize, ControlError> {
    match asked.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(invalid(format!("limit: 1 to {MAX_LIMIT}"))),
    }
}

fn invalid(message: String) -> ControlError {
    ControlError::new(ErrorCode::Invalid, message)
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug)]
struct Peer {
    /// `None` when the kernel did not say.
    uid: Option<u32>,
    own_uid: u32,
}

/// The listener, as axum takes it: errors of accept are waited out, not given up on.
struct PeerListener(AdminSocket);

impl Listener for PeerListener {
    type Io = UnixStream;
    type Addr = unix::SocketAddr;

    async fn accept(&mut self) -> (UnixStream, unix::SocketAddr) {
        loop {
            match self.0.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the admin socket");
                    // Out of descriptors, as a rule: there is no event for their coming back.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<unix::SocketAddr> {
        self.0.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, PeerListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, PeerListener>) -> Self {
        let uid = stream.io().peer_cred().ok().map(|peer| peer.uid());
        Self { uid, own_uid: nix::unistd::geteuid().as_raw() }
    }
}

/// The mode of the socket's file already keeps others out; this holds when the mode was changed by hand.
async fn check_peer(
    State(shared): State<bool>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    use axum::response::IntoResponse;
    let allowed = peer.uid.is_some_and(|uid| shared || uid == 0 || uid == peer.own_uid);
    if allowed {
        return next.run(request).await;
    }
    let who = peer.uid.map_or_else(|| "an unknown user".to_owned(), |uid| format!("user {uid}"));
    let message =
        format!("{who} may not use the admin socket: run as root, or set admin.group in the agent's configuration");
    ControlError::new(ErrorCode::Forbidden, message).into_response()
}
